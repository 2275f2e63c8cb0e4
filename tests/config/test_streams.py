"""Section [stream]: what it becomes, what is refused, and what is never shown."""

import pytest

from tailorbird.config.settings import load_settings
from tailorbird.config.streams import kafka_cluster
from tailorbird.errors import ConfigError


def _cluster(folder, text, environ=None):
    file = folder / "tailorbird.toml"
    file.write_text(f"[stream]\n{text}")
    return kafka_cluster(load_settings(file, environ or {})[0])


def test_without_an_address_the_logs_are_files(tmp_path):
    assert _cluster(tmp_path, "") is None


def test_an_address_names_servers_and_prefix(tmp_path):
    cluster = _cluster(tmp_path, 'url = "kafka://a,b:9093/shop"\ntimeout = "3s"\nreplication = 3')
    assert (cluster.servers, cluster.prefix, cluster.timeout_s, cluster.replication) == (
        "a:9092,b:9093",
        "shop",
        3,
        3,
    )
    assert cluster.conf()["security.protocol"] == "PLAINTEXT"


def test_sasl_and_tls_become_settings_of_the_client_and_are_not_shown(tmp_path):
    text = (
        'url = "kafka://a/shop"\ntls = true\nca_file = "/ca.pem"\nsasl = '
        '"SCRAM-SHA-512"\nsasl_user = "u"\n'
    )
    text += 'client = ["compression.type=zstd"]'
    cluster = _cluster(tmp_path, text, {"TAILORBIRD_STREAM__SASL_PASSWORD": "not to be seen"})
    options = cluster.conf(acks="all")
    expected = {
        "security.protocol": "SASL_SSL",
        "ssl.ca.location": "/ca.pem",
        "sasl.mechanism": "SCRAM-SHA-512",
        "sasl.username": "u",
        "sasl.password": "not to be seen",
        "compression.type": "zstd",
        "acks": "all",
    }
    assert expected.items() <= options.items()
    assert "not to be seen" not in f"{cluster!r} {cluster}"
    _, origins = load_settings(
        tmp_path / "tailorbird.toml", {"TAILORBIRD_STREAM__SASL_PASSWORD": "not to be seen"}
    )
    assert "not to be seen" not in repr(origins)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('url = "http://a"', "expected kafka://host:9092/prefix, got 'http://a'"),
        ('url = "kafka://user:hush@a/shop"', "a password does not belong into an address"),
        ('url = "kafka://a/sh op"', "topics cannot begin with 'sh op'"),
        (
            'url = "kafka://a"\nsasl = "GSSAPI"',
            "expected one of PLAIN, SCRAM-SHA-256, SCRAM-SHA-512, got 'GSSAPI'",
        ),
        ('url = "kafka://a"\nsasl = "PLAIN"', "PLAIN needs a user and a password"),
        ('url = "kafka://a"\nclient = ["acks"]', "expected `name=value` of each entry"),
        ('url = "kafka://a"\nclient = ["acks=1"]', "acks is what keeps events from being lost"),
        ('timeout = "soon"', "stream.timeout"),
    ],
)
def test_invalid_settings_are_errors(tmp_path, text, message):
    with pytest.raises(ConfigError) as refused:
        _cluster(tmp_path, text)
    assert message in str(refused.value)
    assert "hush" not in str(refused.value)
