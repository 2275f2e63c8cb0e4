"""Nothing old of an erased person comes back, however it is sent again; what they do from then on
is taken.
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.cli.kit import each
from tests.privacy.kit import CANARY, CLOCK, Site, left_of, make_site, past, present, refused

from tailorbird.config import open_project
from tailorbird.errors import DamageError
from tailorbird.events import DAY, HOUR, Receipt, RoutePlan
from tailorbird.events.contract import ERASED
from tailorbird.events.erased import MARK, StopList
from tailorbird.lake import Lake, verify
from tailorbird.lake.refused import Choice
from tailorbird.lake.replay import replay
from tailorbird.platform.roles import Roles
from tailorbird.privacy import erase
from tailorbird.serving.door import Door
from tailorbird.stream.importer import import_files

AT = 1_795_000_000_000_000
PLAN = RoutePlan()
CLICK = {"event_id": "e1", "type": "click", "user_id": "u1", "item_id": "i1"}


@pytest.fixture(scope="module")
def erased(tmp_path_factory: pytest.TempPathFactory) -> tuple[Site, Path]:
    """A site whose canaries were erased, and a copy of its raw logs from before."""
    folder = tmp_path_factory.mktemp("stop")
    site = make_site(folder, canaries=3)
    backup = folder / "backup"
    backup.mkdir()
    for raw in site.project.paths.stream.glob("raw-serve*.db"):
        shutil.copy(raw, backup)
    erase(site.project, site.users, CLOCK)
    return site, backup


def drained(site: Site) -> None:
    with Roles(site.project, CLOCK) as roles:
        roles.drain()


@pytest.mark.slow
def test_retries_imports_and_replays_bring_nothing_back(
    erased: tuple[Site, Path], tmp_path: Path
) -> None:
    site, _ = erased
    project = site.project
    before = Lake(project.paths.lake).count("events")
    with Door(
        project.paths.stream, "serve-1", project.plan, CLOCK, stopped=project.stopped()
    ) as door:
        sent = [
            {**event, "ts": event.get("ts", CLOCK.now() - HOUR)}
            for user in site.users
            for event in present(user)
        ]
        without_time = [
            event
            for user in site.users
            for event in present(user)
            if "ts" not in event and event["type"] != "user"
        ]
        bodies = [(json.dumps(sent).encode(), "json"), (json.dumps(without_time).encode(), "json")]
        bodies.append((b"\n".join(refused(user) for user in site.users), "ndjson"))
        told = [door.submit(*body) for body in bodies]
        assert set(door.figures().refused) == {"erased"}, "which only the operator is told"
    with Door(tmp_path / "elsewhere", "serve-1", project.plan, CLOCK) as door:
        assert told == [door.submit(*body) for body in bodies], (
            "nobody can ask whether somebody was erased"
        )
    history = tmp_path / "old.jsonl"
    history.write_text(
        "\n".join(json.dumps(event) for event in past([*site.users, "other-user-900"]))
    )
    report = import_files(
        project.paths.stream,
        "tailorbird",
        history,
        plan=project.plan,
        clock=CLOCK,
        stopped=project.stopped(),
    )
    assert report.refused == {"erased": 3 * 7}
    drained(site)
    replay(
        project.paths.lake,
        project.paths.stream,
        Choice(("erased", "unknown_type")),
        plan=project.plan,
        clock=CLOCK,
    )
    drained(site)
    assert Lake(project.paths.lake).count("events") == before + 7
    assert left_of(site.root, CANARY) == []
    assert verify(project.paths.lake).clean


@pytest.mark.slow
def test_an_old_file_whose_line_was_cut_brings_nobody_back(
    erased: tuple[Site, Path], tmp_path: Path
) -> None:
    site, _ = erased
    project = site.project
    gorse = [
        f'{{"UserId":"{site.users[0]}", "FeedbackType":"read"',
        f'{{"FeedbackType":"read", "UserId":"{site.users[1]}',
        json.dumps(
            {
                "ItemId": "flat-9",
                "Labels": {"seller": site.users[2]},
                "Comment": f"of {site.users[2]}",
            }
        ),
    ]
    for format_, lines in (
        ("gorse", gorse),
        ("tailorbird", [json.dumps(present(site.users[0])[4])[:-30]]),
    ):
        file = tmp_path / f"{format_}.jsonl"
        file.write_text("\n".join(lines))
        import_files(
            project.paths.stream,
            format_,
            file,
            plan=project.plan,
            clock=CLOCK,
            stopped=project.stopped(),
        )
    drained(site)
    assert left_of(site.root, CANARY) == []
    items = [
        row["attributes"]
        for row in Lake(project.paths.lake).table("items").to_pylist()
        if row["id"] == "flat-9"
    ]
    assert [json.loads(one)["seller"] for one in items] == [None]


def test_a_log_from_a_backup_brings_nothing_back(erased: tuple[Site, Path]) -> None:
    site, backup = erased
    stream = site.project.paths.stream
    for raw in backup.glob("raw-serve*.db"):
        shutil.copy(raw, stream / "raw-old.db")
    from tailorbird.stream import open_writer, sqlite

    connection = sqlite.connect_writer(stream / "raw-old.db")
    with connection:
        connection.execute("UPDATE log SET partition = 'old'")
    connection.close()
    with open_writer(stream / "raw-old.db", partition="old", damaged_tail="stop") as log:
        assert log.end() > 0
    before = Lake(site.project.paths.lake).events(["person"])["person"].to_pylist()
    drained(site)
    after = Lake(site.project.paths.lake).events(["person"])["person"].to_pylist()
    assert len(after) >= len(before)
    assert not [person for person in after if person and CANARY.decode() in person]


def test_somebody_who_comes_back_is_somebody_new(erased: tuple[Site, Path]) -> None:
    site, _ = erased
    user = site.users[0]
    with Door(
        site.project.paths.stream,
        "serve-1",
        site.project.plan,
        CLOCK,
        stopped=site.project.stopped(),
    ) as door:
        told = door.submit(
            json.dumps(
                {"event_id": "a new one", "type": "click", "user_id": user, "item_id": "i1"}
            ).encode()
        )
    assert told[0].accepted
    drained(site)
    events = Lake(site.project.paths.lake).events(["person", "event_id", "user_profile"])
    assert [
        (row["event_id"], row["user_profile"])
        for row in events.to_pylist()
        if row["person"] == user
    ] == [("a new one", None)]
    erase(
        site.project, [user, "anon:canary-visitor-000"], CLOCK
    )  # the log from the backup has it, and nothing ties it to the user any more
    assert left_of(site.root, b"canary-user-000", b"canary-visitor-000") == []


def listed(**more: object) -> bytes:
    stopped = StopList(b"").with_people(
        [("u", "u1"), ("a", "a1")], [(("u", "u1"), "e-recent")], AT, 0
    )
    event = {**CLICK, **more}
    return stopped.without(
        json.dumps({name: value for name, value in event.items() if value}).encode(),
        Receipt(AT + DAY),
        PLAN,
    )


@pytest.mark.parametrize(
    ("more", "kept_out"),
    [
        ({"ts": AT - 1}, True),
        ({"ts": AT}, False),
        (
            {"ts": AT - 1, "sent_at": AT - 1},
            True,
        ),  # the body of a retry: what it says of its time is from before
        ({}, False),
        ({"event_id": "e-recent"}, True),  # without a time, and sent before
        ({"user_id": "u2", "ts": AT - 1}, False),
        (
            {"user_id": "u2", "anonymous_id": "a1", "ts": AT - 1},
            False,
        ),  # another person on the same device
        ({"user_id": None, "anonymous_id": "a1", "ts": AT - 1}, True),
        ({"type": "user", "item_id": None, "timeless": True}, False),
        ({"type": "no such type", "ts": AT - 1}, True),  # it would be kept whole, in quarantine
        ({"type": "no such type", "ts": AT + 1}, False),
    ],
)
def test_what_is_kept_out(more: dict, kept_out: bool) -> None:
    assert (listed(**more) == ERASED) is kept_out


def test_only_the_rows_that_are_kept_out_are_replaced() -> None:
    stopped = StopList(b"").with_people([("u", "u1")], [], AT, 0)
    rows = [
        json.dumps({**CLICK, "event_id": f"e{n}", "user_id": f"u{n % 2}", "ts": AT - 5}).encode()
        for n in range(4)
    ]
    found = stopped.without(b"[" + b", ".join(rows) + b"]", Receipt(AT), PLAN)
    assert json.loads(found) == [
        json.loads(rows[0]),
        {"erased": True},
        json.loads(rows[2]),
        {"erased": True},
    ]
    lines = stopped.without(b"\n".join(rows), Receipt(AT, encoding="ndjson"), PLAN)
    assert lines.split(b"\n") == [rows[0], ERASED, rows[2], ERASED]


def test_the_list_says_nothing_without_its_key(tmp_path: Path) -> None:
    stopped = StopList(b"").with_people([("u", "u1")], [], AT, 0)
    text, key = stopped.encoded()
    assert b"u1" not in text
    for known, at in ((key, AT), (bytes(32), None)):
        assert before_checksums(tmp_path / known.hex(), text, known).erased_at("u", "u1") == at


def told_by(*ids: str) -> StopList:
    return StopList(b"").with_people([("u", id_) for id_ in ids], [], AT, 0)


@pytest.mark.parametrize(
    ("properties", "kept"),
    [
        ({"seller": "martha-1", "price": 5}, {"seller": None, "price": 5}),
        ({"text": "Call martha-1, or 41765012!"}, {"text": None}),
        ({"text": "ord-41765012"}, {"text": None}),
        ({"told by martha-1": 1, "list": ["a", "martha-1"]}, {"list": ["a", None]}),
        ({"text": "write to zoe@mail.example"}, {"text": None}),
        ({"text": "martha-12, 541765012, ursula"}, {"text": "martha-12, 541765012, ursula"}),
        (
            {"text": "u2 said so"},
            {"text": "u2 said so"},
        ),  # short ids are looked for as whole texts alone
        ({"text": "u2"}, {"text": None}),
    ],
)
def test_old_events_of_others_come_in_without_what_they_say_of_somebody(
    properties: dict, kept: dict
) -> None:
    stopped = told_by("martha-1", "41765012", "zoe@mail.example", "u2")
    item = {"event_id": "e1", "type": "item", "item_id": "flat-7", "properties": properties}
    old = json.dumps({**item, "ts": AT - 1}).encode()
    found = stopped.without(old, Receipt(AT + DAY), PLAN)
    assert json.loads(found)["properties"] == kept
    assert (found == old) is (properties == kept)
    new = json.dumps({**item, "ts": AT}).encode()
    assert stopped.without(new, Receipt(AT + DAY), PLAN) == new, (
        "what is said from then on is taken"
    )
    timeless = json.dumps({**item, "timeless": True}).encode()
    assert (
        json.loads(stopped.without(timeless, Receipt(AT + DAY, "import"), PLAN))["properties"]
        == kept
    )
    assert stopped.without(timeless, Receipt(AT + DAY), PLAN) == timeless


def lose_folder(folder: Path) -> None:
    shutil.rmtree(folder)


def lose_list(folder: Path) -> None:
    (folder / "stop.json").unlink()


def turn_back(folder: Path) -> None:
    """The list as it was before the last erasure, with a checksum that is right."""
    listed, key = (
        StopList((folder / "stop.key").read_bytes())
        .with_people([("u", "somebody")], [], AT, 0)
        .encoded()
    )
    (folder / "stop.json").write_bytes(listed)
    (folder / "stop.key").write_bytes(key)


def flip(name: str, place: int) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        data = bytearray((folder / name).read_bytes())
        data[place] ^= 1
        (folder / name).write_bytes(bytes(data))

    return change


@pytest.mark.parametrize(
    "harm",
    [
        lose_folder,
        lose_list,
        turn_back,
        flip("stop.json", 40),
        flip("stop.json", 3),
        flip("stop.key", 7),
        flip("stop.json", -9),
    ],
)
def test_a_list_that_is_lost_or_changed_is_told_and_nothing_is_taken(
    harm: Callable[[Path], None], erased: tuple[Site, Path], tmp_path: Path
) -> None:
    root = tmp_path / "shop"
    shutil.copytree(erased[0].root, root)
    project = open_project(root)
    assert len(project.stopped()) == 6
    harm(project.paths.data / "erasure")
    with pytest.raises(DamageError, match=r"stop list|list of them"):
        project.stopped()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{}",
        b'{"people": "x',
        b'{"people": 2, "checksum": "%s"}',
        b'{"people": 7, "checksum": "%s"}',
        b"\xff",
    ],
)
def test_a_damaged_note_of_how_many_were_erased_is_told(
    content: bytes, erased: tuple[Site, Path], tmp_path: Path
) -> None:
    lake, data = tmp_path / "lake", erased[0].project.paths.data
    shutil.copytree(
        erased[0].project.paths.lake,
        lake,
        ignore=lambda folder, names: [one for one in names if one != MARK],
    )
    listed = StopList.load(data)
    was = json.loads((lake / MARK).read_bytes())
    assert was["people"] == len(listed) == 6
    listed.require_marked(lake, data)
    (lake / MARK).write_bytes(content.replace(b"%s", was["checksum"].encode()))
    with pytest.raises(DamageError, match="how many people were erased is damaged"):
        listed.require_marked(lake, data)
    (lake / MARK).write_bytes(b'{"people": 6}')  # as versions of before wrote it
    listed.require_marked(lake, data)
    (lake / MARK).unlink()
    listed.require_marked(lake, data)


def test_the_commands_tell_that_the_list_is_lost(erased: tuple[Site, Path], tmp_path: Path) -> None:
    root = tmp_path / "shop"
    shutil.copytree(erased[0].root, root)
    lose_folder(open_project(root).paths.data / "erasure")
    (tmp_path / "old.jsonl").write_text(json.dumps(present(erased[0].users[0])[0]))
    (tmp_path / "out").mkdir()
    commands = (
        ["lake", "verify"],
        ["doctor"],
        ["import", "tailorbird", str(tmp_path / "old.jsonl")],
    )
    runs = each([["-C", str(root), *command] for command in commands], tmp_path / "out", cwd=root)
    for command, run in zip(commands, runs, strict=True):
        assert run.returncode != 0, command
        assert "people were erased here" in " ".join((run.stdout + run.stderr).split()), command
        assert "Traceback" not in run.stderr


def test_a_list_of_before_there_were_checksums_is_read(tmp_path: Path) -> None:
    assert (
        before_checksums(
            tmp_path, *StopList(b"").with_people([("u", "u1")], [], AT, 0).encoded()
        ).erased_at("u", "u1")
        == AT
    )


def before_checksums(data: Path, listed: bytes, key: bytes) -> StopList:
    """The list as it was written before it had a checksum."""
    content = json.loads(listed)
    del content["checksum"]
    (data / "erasure").mkdir(parents=True)
    (data / "erasure" / "stop.json").write_text(json.dumps(content))
    (data / "erasure" / "stop.key").write_bytes(key)
    return StopList.load(data)
