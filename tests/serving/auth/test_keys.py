"""Keys: created once, stored as hashes, followed by a running server, bound to web origins,
revoked.
"""

import json
import os
import stat
from concurrent.futures import ThreadPoolExecutor

import pytest
from starlette.testclient import TestClient
from tests.support.serving.app import CLICK, PromptPipeline

from tailorbird.errors import ConfigError, UsageError
from tailorbird.events import RoutePlan, SimulatedClock, SystemClock
from tailorbird.serving.auth.keyfile import create_key, read_keys, revoke_key
from tailorbird.serving.auth.keys import AccessError, Caller, Keys
from tailorbird.serving.collector.collector import EventCollector
from tailorbird.serving.http.access import require_safe_bind
from tailorbird.serving.http.app import create_app
from tailorbird.serving.http.handling import Service


@pytest.fixture
def file(tmp_path):
    return tmp_path / "keys.json"


@pytest.fixture
def clock():
    return SimulatedClock(1_000_000)


def refusal(keys: Keys, scope: str, token: str | None, origin: str | None = None) -> str:
    with pytest.raises(AccessError) as refused:
        keys.require(scope, token and f"Bearer {token}", origin)
    assert token is None or token not in str(refused.value)
    return refused.value.code


def test_the_file_holds_no_key_and_only_its_owner_reads_it(file):
    token, record = create_key(file, "backend", ["read"], 1)
    secret = token.rpartition(f"{record.id}_")[2]
    assert secret not in file.read_text()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    twin, _ = create_key(file, "backend", ["read"], 1)
    hashes = [key.hash for key in read_keys(file)]
    assert len(set(hashes)) == 2
    assert token != twin


def test_a_running_server_follows_the_file(file, clock):
    keys = Keys(file=file, clock=clock)
    assert not keys
    assert keys.require("read", None) == Caller()
    token, record = create_key(file, "backend", ["read"], 1)
    assert keys
    assert refusal(keys, "read", None) == "key_missing"
    assert keys.require("read", f"Bearer {token}") == Caller(record.id)
    assert refusal(keys, "write", token) == "key_scope"
    revoke_key(file, record.id)
    assert refusal(keys, "read", token) == "key_unknown"


def test_revoking_the_last_key_closes_a_server_and_losing_the_file_does_too(file, clock):
    _, record = create_key(file, "backend", ["read"], 1)
    keys = Keys(file=file, clock=clock)
    revoke_key(file, record.id)
    assert keys
    assert Keys(file=file, clock=clock), "nor does a restart open it"
    file.unlink()
    assert refusal(keys, "read", None) == "key_missing"


def test_a_new_key_and_the_one_it_replaces_hold_side_by_side_until_the_old_one_ends(file, clock):
    old, record = create_key(file, "backend", ["read"], 1)
    new, _ = create_key(
        file, "backend", ["read"], 1, replaced_key_id=record.id, keep_until=2_000_000
    )
    keys = Keys(file=file, clock=clock)
    for token in (old, new):
        keys.require("read", f"Bearer {token}")
    assert [figures.used for figures in keys.figures()] == [1, 1]
    clock.advance_to(2_000_000)
    assert refusal(keys, "read", old) == "key_unknown"
    keys.require("read", f"Bearer {new}")


def test_replacing_never_prolongs_a_key(file):
    _, record = create_key(file, "backend", ["read"], 1, expires_at=500)
    create_key(file, "backend", ["read"], 1, replaced_key_id=record.id, keep_until=2_000)
    assert read_keys(file)[0].expires_at == 500


def test_a_key_of_the_page_holds_for_its_origins_only(file, clock):
    token, record = create_key(file, "page", ["write"], 1, origins=["https://shop.example"])
    keys = Keys(file=file, clock=clock)
    assert keys.require("write", f"Bearer {token}", "https://shop.example") == Caller(
        record.id, public=True
    )
    for origin in (
        None,
        "https://evil.example",
        "null",
        "https://shop.example.evil.example",
        "http://shop.example",
    ):
        assert refusal(keys, "write", token, origin) == "key_origin"


@pytest.mark.parametrize(
    ("scopes", "origins", "expected_message"),
    [
        ([], [], "expected scopes"),
        (["root"], [], "expected scopes"),
        (["read"], ["https://shop.example"], "may only write"),
        (["read", "write"], ["https://shop.example"], "may only write"),
        (["write"], ["https://shop.example/path"], "expected an origin"),
        (["write"], ["*"], "expected an origin"),
        (["write"], ["https://shop.example\r\nx: y"], "expected an origin"),
    ],
)
def test_what_no_key_may_be(file, scopes, origins, expected_message):
    with pytest.raises(UsageError, match=expected_message):
        create_key(file, "x", scopes, 1, origins=origins)
    assert not file.exists()


@pytest.mark.parametrize("name", ["", "x" * 65, "a\nb", "\x1b[31m"])
def test_a_name_is_fit_for_lists(file, name):
    with pytest.raises(UsageError, match="expected a name"):
        create_key(file, name, ["read"], 1)


def test_a_damaged_file_is_refused_at_the_start_and_changes_nothing_later(file, clock, caplog):
    token, _ = create_key(file, "backend", ["read"], 1)
    keys = Keys(file=file, clock=clock)
    file.write_text('{"version": 1, "keys": [')
    keys.require("read", f"Bearer {token}")
    assert refusal(keys, "read", None) == "key_missing"
    assert "stay as they were" in caplog.text
    with pytest.raises(ConfigError, match="no file of keys"):
        Keys(file=file, clock=clock)


def test_a_file_that_anybody_may_write_is_refused(file, clock):
    create_key(file, "backend", ["read"], 1)
    os.chmod(file, 0o666)
    with pytest.raises(ConfigError, match="anybody"):
        Keys(file=file, clock=clock)


def test_two_who_make_keys_at_once_lose_none(file):
    with ThreadPoolExecutor(4) as pool:
        made = list(
            pool.map(lambda number: create_key(file, f"k{number}", ["read"], 1)[1].id, range(12))
        )
    assert {record.id for record in read_keys(file)} == set(made)


def test_a_key_of_ours_with_a_wrong_secret_or_of_no_sense_is_unknown(file, clock):
    token, record = create_key(file, "backend", ["read"], 1)
    keys = Keys(file=file, clock=clock)
    for wrong in (
        token[:-1] + ("A" if token[-1] != "A" else "B"),
        f"tb_{record.id}_",
        record.id,
        "x" * 100_000,
        "\udcff" * 20,
        "tb_",
    ):
        assert refusal(keys, "read", wrong) == "key_unknown"


def test_a_public_bind_is_safe_with_a_file_of_keys(file, clock):
    create_key(file, "backend", ["read"], 1)
    require_safe_bind("0.0.0.0", Keys(file=file, clock=clock))
    with pytest.raises(ConfigError, match="no key is set"):
        require_safe_bind("::", Keys(file=file.with_name("none.json"), clock=clock))


@pytest.fixture
def client(tmp_path, file, clock):
    with EventCollector(tmp_path, "serve-1", RoutePlan(), SystemClock()) as collector:
        service = Service(PromptPipeline(), collector, Keys(file=file, clock=clock))
        with TestClient(create_app(service), base_url="http://127.0.0.1:8642") as client:
            yield client


def test_a_page_of_a_foreign_origin_changes_nothing_even_where_no_key_is_needed(client):
    """A browser sends such a request without asking first: the answer is hidden from the page, what
    it did would stay.
    """
    for origin in ("https://evil.example", "null", "http://[", "http://127.0.0.1:9999"):
        answer = client.post(
            "/v1/events", json=CLICK, headers={"origin": origin, "content-type": "text/plain"}
        )
        assert (answer.status_code, answer.json()["code"]) == (403, "wrong_origin")
    assert (
        client.post(
            "/v1/events", json=CLICK, headers={"origin": "http://127.0.0.1:8642"}
        ).status_code
        == 200
    )
    assert client.get("/healthz", headers={"origin": "https://evil.example"}).status_code == 200


def test_the_origins_of_keys_may_call_from_browsers_as_soon_as_the_key_is_made(client, file):
    preflight = {"origin": "https://shop.example", "access-control-request-method": "POST"}
    assert (
        "access-control-allow-origin" not in client.options("/v1/events", headers=preflight).headers
    )
    token, _ = create_key(file, "page", ["write"], 1, origins=["https://shop.example"])
    assert (
        client.options("/v1/events", headers=preflight).headers["access-control-allow-origin"]
        == "https://shop.example"
    )
    sent = client.post(
        "/v1/events",
        json=CLICK,
        headers={"origin": "https://shop.example", "authorization": f"Bearer {token}"},
    )
    assert sent.status_code == 200


def test_the_status_names_keys_and_never_shows_them(client, file):
    token, record = create_key(file, "watch", ["admin"], 1)
    status = client.get("/v1/status", headers={"authorization": f"Bearer {token}"})
    assert status.json()["keys"] == [
        {
            "id": record.id,
            "name": "watch",
            "scopes": ["admin"],
            "expires_at": 0,
            "origins": [],
            "used": 1,
        }
    ]
    assert token not in status.text
    assert record.hash not in status.text
    assert json.loads(status.text)["collector"]["open"] is True
