"""A project with pseudonyms: features work, and no file anywhere contains an original id."""

from pathlib import Path

import msgspec
import pytest
from starlette.testclient import TestClient
from tests.support.commands import assert_refused, must, must_json, tailorbird
from tests.support.serving.loop import Loop

from tailorbird.events import DAY
from tailorbird.events.pseudonyms import Pseudonyms
from tailorbird.lake import LakeRole
from tailorbird.serving.http.app import create_app
from tailorbird.serving.http.gorse import gorse_routes
from tailorbird.serving.http.handling import Service

KEY = "a key of thirty-two characters.."
USERS = [f"canary-user-{number}" for number in range(20)]
DEVICES = [f"canary-device-{number}" for number in range(20)]
CANARIES = (b"canary-user", b"canary-device", b"canary-unread")


def holding(folder: Path) -> list[str]:
    """The files below `folder` that hold any canary, as it is or as text in UTF-16."""
    paths = []
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            content = path.read_bytes()
            paths += [
                str(path)
                for canary in CANARIES
                if canary in content or canary.decode().encode("utf-16-le") in content
            ]
    return paths


@pytest.fixture
def loop(tmp_path, features, bundle):
    loop = Loop(tmp_path, features, bundle, Pseudonyms(KEY))
    yield loop
    loop.close()


@pytest.mark.slow
def test_features_work_and_no_file_holds_an_id(loop, tmp_path):
    service = Service(loop.pipeline, loop.collector)
    client = TestClient(
        create_app(service, gorse_routes(service, "home")), base_url="http://127.0.0.1"
    )

    def send(events: object, path: str = "/v1/events", status: int = 200) -> None:
        loop.clock.advance_to(loop.clock.now() + 1_000_000)
        assert client.post(path, json=events).status_code == status

    def clicks(**who: str) -> float:
        answer = client.post("/v1/recommend", json={"slot": "home", "explain": True, **who}).json()
        return answer["items"][0]["explanation"]["features"]["user_clicks"]

    for number, (user, device) in enumerate(zip(USERS, DEVICES, strict=True)):
        send({"event_id": f"a{number}", "type": "click", "anonymous_id": device, "item_id": "i7"})
        send({"event_id": f"u{number}", "type": "click", "user_id": user, "item_id": "i7"})
        send(
            {"event_id": f"i{number}", "type": "identify", "user_id": user, "anonymous_id": device}
        )
        into = {"merged_into": USERS[number - number % 2]}  # 1 is 0, 3 is 2, …
        send({"event_id": f"g{number}", "type": "merge", "user_id": user, "properties": into})
        send({"event_id": f"h{number}", "type": "merge", "properties": into}, status=400)
        send(
            {
                "event_id": f"j{number}",
                "type": "merge",
                "user_id": user,
                "properties": {"merged_into": [user]},
            },
            status=400,
        )
        send({"event_id": f"b{number}", "type": "click", "user_id": user}, status=400)
        send(
            {"event_id": f"c{number}", "type": "click", "userId": user, "item_id": "i7"}, status=400
        )
        send(
            {"event_id": f"d{number}", "type": f"met {user}", "user_id": "x", "item_id": "i7"},
            status=400,
        )
        send(
            {
                "event_id": f"f{number}",
                "type": "click",
                "user_id": "x",
                "item_id": "i7",
                "ts": f"when {user} came",
            },
            status=400,
        )
        send([user, {"user_id": user}, {"event_id": 7, "user_id": [device]}], status=400)
        send(
            {"type": "track", "messageId": None, "userId": user},
            "/v1/events?format=segment",
            status=400,
        )
        track = {
            "type": "track",
            "messageId": f"m{number}",
            "userId": user,
            "event": "Product Clicked",
        }
        send({**track, "properties": {"product_id": "i3"}}, "/v1/events?format=segment")
        send(
            [{"FeedbackType": "click", "UserId": user, "ItemId": "i7", "Timestamp": "2027-01-01"}],
            "/api/feedback",
        )
        send(
            [
                {
                    "FeedbackType": "star",
                    "UserId": "canary-unread",
                    "ItemId": "i7",
                    "Timestamp": "canary-unread",
                }
            ],
            "/api/feedback",
            status=400,
        )
        client.post("/v1/events", content=b'{"user_id": "' + user.encode())
        client.get(f"/api/recommend/{user}?n=3&write-back-type=read")
    loop.settle()
    assert clicks(user_id=USERS[3]) >= 1
    assert clicks(anonymous_id=DEVICES[3]) == clicks(user_id=USERS[3]), (
        "the device is the user's since they identified"
    )
    assert clicks(user_id=USERS[3]) == clicks(user_id=USERS[2]), "one user since the merge"
    assert clicks(user_id="somebody else") == 0
    send(
        {"event_id": "last", "type": "view", "user_id": USERS[0], "item_id": "i1"}
    )  # whose commit takes the answers along
    loop.settle()
    assert {row["user_id"] for row in loop.routed() if row["user_id"]} <= {
        loop.pseudonyms.user_id(user) for user in [*USERS, "somebody else"]
    }
    loop.clock.advance_to(loop.clock.now() + DAY)
    assert holding(tmp_path) == [], "with logs and their write-ahead files as they are"
    loop.collector.close()
    with LakeRole(tmp_path / "stream", tmp_path / "lake", clock=loop.clock) as role:
        role.drain()
    assert len(list((tmp_path / "lake").rglob("*.parquet"))) >= 2
    assert holding(tmp_path) == []


def test_a_search_that_can_fail(tmp_path):
    (tmp_path / "file").write_bytes(b"\x00canary-user-3\x00")
    assert len(holding(tmp_path)) == 1


@pytest.mark.slow
def test_the_command_line_hides_them_too_and_goes_on_with_one_key_only(fresh):
    env = {"TAILORBIRD_EVENTS__PSEUDONYM_KEY": KEY}
    lines = [
        {
            "event_id": f"e{number}",
            "type": "click",
            "user_id": user,
            "item_id": f"i{number % 5}",
            "ts": "2026-11-20T12:00:00Z",
        }
        for number, user in enumerate(USERS)
    ]
    bad = [{"event_id": "bad", "type": "click", "user_id": USERS[0]}, {"userId": USERS[1]}]
    source = fresh.with_name("history.jsonl")
    source.write_bytes(
        b"\n".join(msgspec.json.encode(line) for line in [*lines, *bad])
        + b'\n{"user_id": "canary-unread'
    )
    imported = must_json("-C", fresh, "import", "tailorbird", source, env=env)
    assert (imported["accepted"], imported["rows"]) == (20, 23)
    assert holding(fresh) == []
    pseudonym = must("-C", fresh, "keys", "pseudonym", USERS[4], env=env).strip()
    recommended = must(
        "-C",
        fresh,
        "sql",
        f"SELECT count(*) AS n FROM events WHERE user_id = '{pseudonym}'",
        env=env,
    )
    assert "1" in recommended
    assert_refused(
        tailorbird("-C", fresh, "import", "tailorbird", source), "no key for them is set", status=2
    )
    other = {"TAILORBIRD_EVENTS__PSEUDONYM_KEY": "another key of thirty-two chars.."}
    assert_refused(
        tailorbird("-C", fresh, "run", "serve", "--port", "0", env=other, timeout=60),
        "is not the key",
        status=2,
    )
    for words in (["config", "show"], ["config", "show", "--json"], ["doctor"], ["keys", "list"]):
        assert KEY not in tailorbird("-C", fresh, *words, env=env).stdout


@pytest.fixture
def fresh(tmp_path):
    must("init", tmp_path / "fresh")
    return tmp_path / "fresh"
