"""Nothing of an erased person comes back, however it is sent again."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.support.commands import run_each
from tests.support.people import (
    CANARY,
    CLOCK,
    Site,
    find_in_files,
    make_collected_events,
    make_imported_events,
    make_refused_row,
    make_site,
)

from tailorbird.config import open_project
from tailorbird.errors import DamageError
from tailorbird.events import DAY, HOUR, Receipt
from tailorbird.events.contract.contract import ERASED_BODY
from tailorbird.events.suppression import (
    ERASED_COUNT_FILE,
    SUPPRESSION_FILE,
    SUPPRESSION_KEY_FILE,
    SuppressionList,
)
from tailorbird.lake import Lake, verify
from tailorbird.lake.quarantine import QuarantineFilter
from tailorbird.lake.write.replay import replay
from tailorbird.platform.runtime.roles import InProcessRoles
from tailorbird.privacy import erase
from tailorbird.serving.collector.collector import EventCollector
from tailorbird.stream.importer import import_files

AT = 1_795_000_000_000_000
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
    with InProcessRoles(site.project, CLOCK) as roles:
        roles.drain()


@pytest.mark.slow
def test_retries_imports_and_replays_bring_nothing_back(
    erased: tuple[Site, Path], tmp_path: Path
) -> None:
    site, _ = erased
    project = site.project
    before = Lake(project.paths.lake).count("events")
    with EventCollector(
        project.paths.stream,
        "serve-1",
        project.plan,
        CLOCK,
        suppression_list=project.suppression_list(),
    ) as collector:
        sent = [
            {**event, "ts": event.get("ts", CLOCK.now() - HOUR)}
            for user in site.users
            for event in make_collected_events(user)
        ]
        without_time = [
            event
            for user in site.users
            for event in make_collected_events(user)
            if "ts" not in event and event["type"] != "user"
        ]
        bodies = [(json.dumps(sent).encode(), "json"), (json.dumps(without_time).encode(), "json")]
        bodies.append((b"\n".join(make_refused_row(user) for user in site.users), "ndjson"))
        told = [collector.submit(*body) for body in bodies]
        assert set(collector.figures().refused) == {"erased"}, "which only the operator is told"
    with EventCollector(tmp_path / "elsewhere", "serve-1", project.plan, CLOCK) as collector:
        assert told == [collector.submit(*body) for body in bodies], (
            "nobody can ask whether somebody was erased"
        )
    history = tmp_path / "old.jsonl"
    history.write_text(
        "\n".join(
            json.dumps(event) for event in make_imported_events([*site.users, "other-user-900"])
        )
    )
    report = import_files(
        project.paths.stream,
        "tailorbird",
        history,
        plan=project.plan,
        clock=CLOCK,
        suppression_list=project.suppression_list(),
    )
    assert report.refused == {"erased": 3 * 7}
    drained(site)
    replay(
        project.paths.lake,
        project.paths.stream,
        QuarantineFilter(("erased", "unknown_type")),
        plan=project.plan,
        clock=CLOCK,
    )
    drained(site)
    assert Lake(project.paths.lake).count("events") == before + 7
    assert find_in_files(site.root, CANARY) == []
    assert verify(project.paths.lake).is_clean


@pytest.mark.slow
def test_an_old_file_whose_line_was_cut_brings_nobody_back(
    erased: tuple[Site, Path], tmp_path: Path
) -> None:
    site, _ = erased
    project = site.project
    gorse = [
        f'{{"UserId":"{site.users[0]}", "FeedbackType":"read"',
        f'{{"FeedbackType":"read", "UserId":"{site.users[1]}',
    ]
    for format_, lines in (
        ("gorse", gorse),
        ("tailorbird", [json.dumps(make_collected_events(site.users[0])[4])[:-30]]),
    ):
        file = tmp_path / f"{format_}.jsonl"
        file.write_text("\n".join(lines))
        import_files(
            project.paths.stream,
            format_,
            file,
            plan=project.plan,
            clock=CLOCK,
            suppression_list=project.suppression_list(),
        )
    drained(site)
    assert find_in_files(site.root, CANARY) == []


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
    with open_writer(stream / "raw-old.db", partition="old", on_damaged_tail="stop") as log:
        assert log.end() > 0
    before = Lake(site.project.paths.lake).events(["person"])["person"].to_pylist()
    drained(site)
    after = Lake(site.project.paths.lake).events(["person"])["person"].to_pylist()
    assert len(after) >= len(before)
    assert not [person for person in after if person and CANARY.decode() in person]


def test_only_the_rows_that_are_kept_out_are_replaced() -> None:
    stopped = SuppressionList(b"").with_erased_subjects([("u", "u1")], AT)
    rows = [
        json.dumps({**CLICK, "event_id": f"e{n}", "user_id": f"u{n % 2}", "ts": AT - 5}).encode()
        for n in range(4)
    ]
    found = stopped.filter_body(b"[" + b", ".join(rows) + b"]", Receipt(AT))
    assert json.loads(found) == [
        json.loads(rows[0]),
        {"erased": True},
        json.loads(rows[2]),
        {"erased": True},
    ]
    lines = stopped.filter_body(b"\n".join(rows), Receipt(AT, encoding="ndjson"))
    assert lines.split(b"\n") == [rows[0], ERASED_BODY, rows[2], ERASED_BODY]


def test_the_list_says_nothing_without_its_key(tmp_path: Path) -> None:
    stopped = SuppressionList(b"").with_erased_subjects([("u", "u1")], AT)
    text, key = stopped.encode()
    assert b"u1" not in text
    (tmp_path / "erasure").mkdir()
    for name, content in ((SUPPRESSION_FILE, text), (SUPPRESSION_KEY_FILE, key)):
        (tmp_path / "erasure" / name).write_bytes(content)
    assert SuppressionList.load(tmp_path).get_erased_at("u", "u1") == AT
    (tmp_path / "erasure" / SUPPRESSION_KEY_FILE).write_bytes(bytes(32))
    with pytest.raises(DamageError, match="does not match its checksum"):
        SuppressionList.load(tmp_path)


@pytest.mark.parametrize(
    ("more", "is_dropped"),
    [
        ({"ts": AT - 1}, True),
        ({"ts": AT + DAY}, True),
        ({}, True),
        ({"user_id": "u2", "ts": AT - 1}, False),
        ({"user_id": "u2", "anonymous_id": "a1"}, False),  # somebody else on the device
        ({"user_id": None, "anonymous_id": "a1", "ts": AT + DAY}, True),
        ({"user_id": None, "anonymous_id": "shared", "ts": AT - 1}, True),
        ({"user_id": None, "anonymous_id": "shared", "ts": AT + 1}, False),
        ({"user_id": None, "anonymous_id": "shared", "timeless": True}, True),
        ({"type": "no such type"}, True),  # it would be kept whole, in quarantine
        ({"user_id": "u2", "type": "merge", "properties": {"merged_into": "u1"}}, True),
        ({"user_id": "u2", "type": "merge", "properties": {"merged_into": "u3"}}, False),
        ({"user_id": 17}, True),
    ],
)
def test_what_is_dropped(more: dict, is_dropped: bool) -> None:
    people = [("u", "u1"), ("u", "17"), ("a", "a1")]
    listed = SuppressionList(b"").with_erased_subjects(people, AT, [("a", "shared")])
    event = {name: value for name, value in {**CLICK, **more}.items() if value is not None}
    body = json.dumps(event).encode()
    assert (listed.filter_body(body, Receipt(AT + DAY)) == ERASED_BODY) is is_dropped


def lose_folder(folder: Path) -> None:
    shutil.rmtree(folder)


def lose_list(folder: Path) -> None:
    (folder / "suppression.json").unlink()


def turn_back(folder: Path) -> None:
    """The list as it was before the last erasure, with a checksum that is right."""
    listed, key = (
        SuppressionList((folder / "suppression.key").read_bytes())
        .with_erased_subjects([("u", "somebody")], AT)
        .encode()
    )
    (folder / "suppression.json").write_bytes(listed)
    (folder / "suppression.key").write_bytes(key)


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
        flip("suppression.json", 40),
        flip("suppression.json", 3),
        flip("suppression.key", 7),
        flip("suppression.json", -9),
    ],
)
def test_a_list_that_is_lost_or_changed_is_told_and_nothing_is_taken(
    harm: Callable[[Path], None], erased: tuple[Site, Path], tmp_path: Path
) -> None:
    root = tmp_path / "shop"
    shutil.copytree(erased[0].root, root)
    project = open_project(root)
    assert len(project.suppression_list()) == 6
    harm(project.paths.data / "erasure")
    with pytest.raises(DamageError, match=r"suppression list|list of them"):
        project.suppression_list()


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
        ignore=lambda folder, names: [one for one in names if one != ERASED_COUNT_FILE],
    )
    listed = SuppressionList.load(data)
    was = json.loads((lake / ERASED_COUNT_FILE).read_bytes())
    assert was["people"] == len(listed) == 6
    listed.require_complete(lake, data)
    (lake / ERASED_COUNT_FILE).write_bytes(content.replace(b"%s", was["checksum"].encode()))
    with pytest.raises(DamageError, match="how many people were erased is damaged"):
        listed.require_complete(lake, data)
    (lake / ERASED_COUNT_FILE).unlink()
    listed.require_complete(lake, data)


def test_the_commands_tell_that_the_list_is_lost(erased: tuple[Site, Path], tmp_path: Path) -> None:
    root = tmp_path / "shop"
    shutil.copytree(erased[0].root, root)
    lose_folder(open_project(root).paths.data / "erasure")
    (tmp_path / "old.jsonl").write_text(json.dumps(make_collected_events(erased[0].users[0])[0]))
    commands = (
        ["lake", "verify"],
        ["doctor"],
        ["import", "tailorbird", str(tmp_path / "old.jsonl")],
    )
    runs = run_each([["-C", str(root), *command] for command in commands], cwd=root)
    for command, run in zip(commands, runs, strict=True):
        assert run.returncode != 0, command
        assert "people were erased here" in " ".join((run.stdout + run.stderr).split()), command
        assert "Traceback" not in run.stderr
