"""Whose events are whose, under whatever ids; and what of them is told to whoever asks."""

import json
import sqlite3
import subprocess
import sys
from collections import Counter
from contextlib import closing
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.support.commands import assert_refused, environment, run_each, tailorbird
from tests.support.people import CANARY, CLOCK, Site, find_ids, find_in_files, make_site
from tests.support.privacy.events import (
    count_events_by_person,
    make_click,
    make_project_with_events,
)
from tests.support.roles import make_project, until

from tailorbird.config import open_project
from tailorbird.config.erasures import READ_LOCK, hold_off_erasures
from tailorbird.errors import DamageError
from tailorbird.events import HOUR
from tailorbird.file_lock import FileLock
from tailorbird.lake import Lake, verify
from tailorbird.platform.runtime.roles import InProcessRoles
from tailorbird.privacy import erase, export_person, find_people
from tailorbird.privacy.people import pseudonymise_ids
from tailorbird.serving.collector.collector import EventCollector
from tailorbird.stream import IMPORT_PRODUCER, open_writer, raw_path
from tailorbird.stream.importer import import_files

pytestmark = pytest.mark.slow

HOSTILE = [
    "' OR 1=1 --",
    "a'b\"c",
    "x) OR (person IS NOT NULL",
    "%",
    "_",
    "\\",
    "ü\u2028é",
    "../../etc",
    "{canary}",
    "a" * 256,
]


def test_an_id_is_a_value_and_never_part_of_a_query(tmp_path: Path) -> None:
    project = make_project_with_events(
        tmp_path, [make_click(f"e{n}", one) for n, one in enumerate([*HOSTILE, "u2", "other"])]
    )
    for user in HOSTILE:
        assert find_people(Lake(project.paths.lake), [user]).users == {user}
        assert [
            one["user_id"]
            for one in export_person(project, [user], CLOCK)
            if one["source"] == "event"
        ] == [user]
    erase(project, ["\x00", "u2\x00"], CLOCK)  # what is no id finds nobody
    assert count_events_by_person(project) == Counter([*HOSTILE, "u2", "other"])
    for some in (HOSTILE[:1], HOSTILE[1:]):
        done = erase(project, pseudonymise_ids(some, None), CLOCK)
        assert done.is_clean, done.searched.matches
        left = count_events_by_person(project)
        assert (left["u2"], left["other"], *(left[user] for user in some)) == (
            1,
            1,
            *(0 for _ in some),
        )
    assert sum(count_events_by_person(project).values()) == len(HOSTILE) + 2
    assert verify(project.paths.lake).is_clean


def test_a_shared_device_is_erased_whole(tmp_path: Path) -> None:
    login = {"type": "identify", "item_id": None}
    events = [
        make_click("e0", visitor="tablet-1"),
        make_click("l1", "anna-7755", "tablet-1", **login),
        make_click("e1", visitor="tablet-1"),
        make_click("l2", "bert-8866", "tablet-1", **login),
        make_click("e2", "bert-8866", "tablet-1"),
        make_click("e3", "bert-8866", "phone-of-bert"),
        make_click("e4", "bert-8866"),
    ]
    project = make_project_with_events(tmp_path, events)
    people = find_people(Lake(project.paths.lake), ["anna-7755"])
    assert (people.devices, people.shared) == ({"tablet-1"}, {"tablet-1"})
    told = json.dumps(list(export_person(project, ["anna-7755"], CLOCK)))
    assert "bert-8866" not in told, "what another did on the device is not told"
    done = erase(project, ["anna-7755"], CLOCK)
    assert done.is_clean, done.searched.matches
    assert find_in_files(project.root, b"anna-7755", b"tablet-1") == []
    assert count_events_by_person(project)["bert-8866"] == 2
    assert sum(count_events_by_person(project).values()) == 7
    with EventCollector(
        project.paths.stream,
        "serve-1",
        project.plan,
        CLOCK,
        suppression_list=project.suppression_list(),
    ) as collector:
        late = [
            make_click("e1", visitor="tablet-1", ts=CLOCK.now() - HOUR),
            make_click("e5", "bert-8866"),
        ]
        collector.submit(json.dumps([*late, make_click("e6", visitor="tablet-1")]).encode())
    with InProcessRoles(project, CLOCK) as roles:
        roles.drain()
    left = count_events_by_person(project)
    assert (left["bert-8866"], left["anon:tablet-1"]) == (3, 1), "what is new of it is taken"


def test_a_visitor_without_a_name_and_mentions_in_texts_of_others(tmp_path: Path) -> None:
    friend = make_click(
        "f",
        "friend",
        properties={"referred_by": "anonymous-77", "note": "hello anonymous-77!", "size": 3},
        context={"page": "/u/anonymous-77"},
    )
    project = make_project_with_events(
        tmp_path,
        [
            make_click("v1", visitor="anonymous-77"),
            make_click("v2", visitor="anonymous-778"),
            friend,
        ],
    )
    done = erase(project, pseudonymise_ids(["anon:anonymous-77"], None), CLOCK)
    assert done.is_clean, done.searched.matches
    rows = {
        row["person"]: row
        for row in Lake(project.paths.lake)
        .events(["person", "properties", "page", "event_id"])
        .to_pylist()
    }
    assert json.loads(rows["friend"]["properties"]) == {
        "referred_by": None,
        "note": None,
        "size": 3,
    }
    assert (rows["friend"]["page"], rows["friend"]["event_id"]) == (None, "f")
    assert "anon:anonymous-778" in rows


def test_the_plain_id_is_asked_for_where_pseudonyms_are_kept(tmp_path: Path) -> None:
    project = make_project_with_events(
        tmp_path,
        [make_click("e1", "u1-plain", "v1-plain"), make_click("e2", "u2")],
        f'[events]\npseudonym_key = "{"k" * 40}"\n',
    )
    hidden_id = pseudonymise_ids(["u1-plain"], project.pseudonyms())
    assert count_events_by_person(project)[hidden_id[0]] == 1
    done = erase(project, hidden_id, CLOCK)
    assert done.is_clean
    assert count_events_by_person(project)[hidden_id[0]] == 0
    assert find_in_files(project.root, hidden_id[0].encode(), b"u1-plain", b"v1-plain") == []


def test_what_was_written_before_there_was_a_key_of_pseudonyms_goes_too(tmp_path: Path) -> None:
    events = [
        make_click("e1", "u1-plain", "v1-plain"),
        make_click("e2", "u2-plain"),
        make_click("e3", visitor="v3-plain"),
    ]
    project = make_project_with_events(tmp_path, events)
    (project.root / "tailorbird.toml").write_text(f'[events]\npseudonym_key = "{"k" * 40}"\n')
    project = open_project(project.root)
    with EventCollector(
        project.paths.stream, "serve-1", project.plan, CLOCK, pseudonyms=project.pseudonyms()
    ) as collector:
        collector.submit(json.dumps(make_click("e4", "u1-plain")).encode())
    asked = ["u1-plain", "anon:v3-plain"]
    commands = [
        ["erase", "-", "--yes"],
        ["verify", "--erased", asked[0]],
        ["verify", "--erased", "u2-plain"],
    ]
    done = [
        tailorbird("-C", project.root, "lake", *one, stdin="\n".join(asked)) for one in commands
    ]
    assert [one.returncode for one in done] == [0, 0, 1]
    assert (
        find_in_files(
            project.root,
            b"u1-plain",
            b"v1-plain",
            b"v3-plain",
            pseudonymise_ids(asked, project.pseudonyms())[0].encode(),
        )
        == []
    )
    assert "of the ids that were given" not in done[0].stdout
    assert count_events_by_person(project)["u2-plain"] == 1


def test_features_are_shown_of_the_plain_id_too(tmp_path: Path) -> None:
    """The id as the site knows it is asked for, alone, with an item, and together with what else
    features are about.
    """
    login = {"type": "identify", "item_id": None}
    events = [
        make_click("e0", "u1-plain", "v1-plain", **login),
        make_click("e1", "u1-plain", "v1-plain"),
        make_click("e2", visitor="v2-plain"),
    ]
    project = make_project_with_events(
        tmp_path, events, f'[events]\npseudonym_key = "{"k" * 40}"\n'
    )
    user, visitor = pseudonymise_ids(["u1-plain", "anon:v2-plain"], project.pseudonyms())
    asked = [
        ["user:u1-plain"],
        ["user:u1-plain", "--item", "i1"],
        ["anonymous:v1-plain"],
        ["anonymous:v2-plain"],
        ["user:u1-plain", "--why", "user_clicks_7d"],
        ["user:u1-plain", "item.category:x"],
    ]
    words = [["-C", str(project.root), "features", "show", *one, "--json"] for one in asked]
    told = [json.loads(one.stdout) for one in run_each(words, cwd=project.root)]
    assert [one["person"] for one in told] == [user, user, user, visitor, user, user]
    assert [one["unheard_of"] for one in told[:4]] == [[], [], [], []]
    assert [one["features"]["user_clicks_7d"] for one in told[:4]] == [1, 1, 1, 1]
    assert told[4]["value"] == 1


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Site:
    return make_site(tmp_path_factory.mktemp("people"), canaries=2)


def test_all_that_is_held_is_told(shop: Site) -> None:
    user = shop.users[0]
    records = list(export_person(shop.project, [user], CLOCK))
    counts = Counter(record["source"] for record in records)
    assert counts["event"] == 6 + 1 + 7 + 2
    assert counts["profile"] == 2
    assert counts["answer"] == 1
    assert counts["refused"] == 1
    assert counts["repeat"] == 7
    assert counts["feature"] > 3
    told = json.dumps(records)
    for text in (
        f"the wish of {user}",
        f"{user}@example.com",
        f"{user} says so",
        f"{user}-visitor".replace("-user", ""),
        f"{user}-bad",
    ):
        assert text.replace("canary-000-visitor", "canary-visitor-000") in told, text
    answer = next(record for record in records if record["source"] == "answer")
    assert answer["features"][0]["user_clicks_7d"] > 0
    assert shop.users[1] not in told
    assert "other-user" not in told


def test_what_waits_in_the_logs_is_told_too(shop: Site) -> None:
    project = shop.project
    with EventCollector(project.paths.stream, "serve-1", project.plan, CLOCK) as collector:
        collector.submit(json.dumps(make_click("waits", shop.users[1])).encode())
    waiting = [
        record
        for record in export_person(project, [shop.users[1]], CLOCK)
        if record["source"] == "waiting"
    ]
    assert [json.loads(record["body"])["event_id"] for record in waiting] == ["waits"]


def test_no_erasure_beside_a_command_that_writes_down_what_it_reads(
    shop: Site, tmp_path: Path
) -> None:
    user, data = shop.users[0], shop.project.paths.data
    wanted, out = tmp_path / "wanted.parquet", tmp_path / "out"
    pq.write_table(
        pa.table(
            {
                "person": [user],
                "item": ["i1"],
                "ts": pa.array([CLOCK.now()], pa.timestamp("us", "UTC")),
            }
        ),
        wanted,
    )
    (tmp_path / "more.jsonl").write_text(json.dumps(make_click("more", user)))
    commands = [
        ["features", "backfill", "--requests", str(wanted), "--out", str(out)],
        ["train"],
        ["import", "tailorbird", str(tmp_path / "more.jsonl")],
        ["run", "trainer"],
        ["sql", "SELECT 1"],
    ]
    commands = [["-C", str(shop.root), *words] for words in commands]
    with hold_off_erasures(data), hold_off_erasures(data):
        (alone,) = run(shop.root, [["erase", user, "--yes"]])
    assert_refused(
        alone, "a command that writes down what it reads is at work", "let it end or stop it"
    )
    erasing = FileLock(data / "run" / READ_LOCK)
    *held, other = run_each(commands, cwd=shop.root)
    erasing.release()
    for one in held:
        assert_refused(one, "people are being erased", "run it again")
    assert not out.exists()
    assert other.returncode == 0, "what only tells something may run"
    (after,) = run_each(commands[:1], cwd=shop.root)
    assert after.returncode == 0, after.stderr


def test_no_erasure_beside_a_lone_role(shop: Site, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tailorbird", "-C", str(shop.root), "run", "trainer"]
    role = subprocess.Popen(command, env=environment(), stdin=subprocess.DEVNULL)
    try:
        lock = shop.project.paths.run / f"{READ_LOCK}.lock"
        until(
            lambda: lock.exists() and lock.read_text().strip() == str(role.pid),
            120,
            "the trainer did not begin",
        )
        (alone,) = run(shop.root, [["erase", shop.users[0], "--yes"]])
    finally:
        role.terminate()
        role.wait(60)
    assert_refused(alone, "a role", "is at work", "let it end or stop it")
    assert find_in_files(shop.root, shop.users[0].encode()), "nothing was changed"


def test_the_commands(shop: Site, tmp_path: Path) -> None:
    user, root = shop.users[0], shop.root
    (tmp_path / "leavers.txt").write_text("\n".join(shop.users))
    running = FileLock(shop.project.paths.stream / "routed.db")
    first = [
        ["erase", user, "--json"],
        ["erase", user, "--yes"],
        ["export-user", user, "--out", str(tmp_path / "told.jsonl"), "--json"],
        ["verify", "--erased", user],
        ["erase", "--yes"],
        ["export-user", user],
    ]
    preview, alone, told, found, nobody, printed = run(root, first)
    assert {json.loads(line)["source"] for line in printed.stdout.splitlines()} >= {
        "person",
        "event",
        "profile",
    }
    running.release()
    assert json.loads(preview.stdout)["events"]["click"] >= 2
    assert json.loads(preview.stdout)["refused"] == 1
    assert_refused(alone, "a role of this project is running", "stop `tailorbird up`")
    assert sum(json.loads(told.stdout)["records"].values()) == len(
        (tmp_path / "told.jsonl").read_text().splitlines()
    )
    assert (tmp_path / "told.jsonl").stat().st_mode & 0o777 == 0o600
    assert (found.returncode, "Still there" in found.stdout) == (1, True)
    assert_refused(nobody, "expected the id of a user")
    assert find_in_files(root, user.encode()), "nothing was changed"
    done, gone = run(
        root,
        [
            ["erase", "--from", str(tmp_path / "leavers.txt"), "--yes", "--json"],
            ["verify", "--erased", user],
        ],
    )
    assert (done.returncode, gone.returncode) == (0, 0), done.stderr
    report = json.loads(done.stdout)
    assert report["clean"]
    receipt = Path(report["path"]).read_text()
    assert CANARY.decode() not in receipt
    assert json.loads(receipt)["counts"]["tables"]["events"] > 20
    assert find_in_files(root, CANARY) == []


def test_ids_come_from_standard_input(tmp_path: Path) -> None:
    project = make_project_with_events(
        tmp_path,
        [
            make_click("e1", "user-4711"),
            make_click("e2", "user-4712"),
            make_click("e3", "user-4713"),
        ],
    )
    words = ("lake", "erase", "-", "--yes", "--json")
    done = tailorbird("-C", project.root, *words, stdin="user-4711\n\nuser-4712\n")
    assert done.returncode == 0, done.stderr
    assert set(count_events_by_person(project)) & {"user-4711", "user-4712", "user-4713"} == {
        "user-4713"
    }
    assert find_in_files(project.root, b"user-4711", b"user-4712") == []


def run(root: Path, commands: list[list[str]]) -> list:
    return run_each([["-C", str(root), "lake", *words] for words in commands], cwd=root)


def test_other_ids_than_those_of_an_erasure_that_was_cut_short_are_erased_too(
    tmp_path: Path,
) -> None:
    project = make_project_with_events(
        tmp_path,
        [
            make_click("e1", "user-4711"),
            make_click("e2", "user-4712"),
            make_click("e3", "user-4713"),
        ],
    )
    erasing = ("-C", project.root, "lake", "erase", "--yes", "--json")
    kill = {"TAILORBIRD_FAULTS": "erase.before_done.tables=kill"}
    assert tailorbird(*erasing, "user-4711", env=kill).returncode == -9
    done = tailorbird(*erasing, "user-4712")
    told = json.loads(done.stdout)
    assert (done.returncode, told["clean"], told["cut_short"]["clean"]) == (0, True, True), (
        done.stderr
    )
    assert told["people"] != told["cut_short"]["people"]
    assert find_in_files(project.root, b"user-4711", b"user-4712") == []
    assert find_in_files(project.root, b"user-4713")


def test_a_file_that_was_called_after_somebody_and_imported_is_no_trace(tmp_path: Path) -> None:
    project = make_project_with_events(
        tmp_path, [make_click("e1", "user-4711"), make_click("e2", "user-4712")]
    )
    for user in ("user-4711", "user-4712"):
        (tmp_path / f"of-{user}.jsonl").write_text(
            json.dumps(make_click(f"more-{user[-4:]}", user, ts=1_780_000_000_000_000))
        )
        import_files(
            project.paths.stream,
            "tailorbird",
            tmp_path / f"of-{user}.jsonl",
            plan=project.plan,
            clock=CLOCK,
        )
    with InProcessRoles(project, CLOCK) as roles:
        roles.drain()
    assert find_in_files(project.paths.stream, b"of-user-4711") == []
    with (
        open_writer(
            raw_path(project.paths.stream, IMPORT_PRODUCER), partition=IMPORT_PRODUCER
        ) as log,
        log.transaction() as connection,
    ):
        connection.execute(
            "UPDATE import SET path = '/exports/user-4711.jsonl'"
        )  # as earlier versions wrote it
    done = erase(project, ["user-4711"], CLOCK)
    assert done.is_clean, done.searched.matches
    assert import_files(
        project.paths.stream,
        "tailorbird",
        tmp_path / "of-user-4712.jsonl",
        plan=project.plan,
        clock=CLOCK,
    ).is_repeated, "it is known by its content"


def test_of_rows_of_others_only_what_is_said_of_the_asked_is_told(tmp_path: Path) -> None:
    project = make_project_with_events(
        tmp_path,
        [make_click("e1", "anna-7755", session_id="session-of-anna"), make_click("e2", "bert-88")],
    )
    about = {"properties": {"about": "anna-7755", "iban": "secret-of-bert"}}
    rows = [
        {**make_click("r1", "bert-88"), "type": "clack", **about},
        {**make_click("r2", "anna-7755"), "type": "clack", "properties": {"phone": "11"}},
        {
            "event_id": "r3",
            "type": "clack",
            "session_id": "session-of-anna",
            "properties": {"phone": "22"},
        },
        make_click("e3", "bert-88", **about),
        make_click("e4", "anna-7755"),
    ]
    with EventCollector(project.paths.stream, "serve-1", project.plan, CLOCK) as collector:
        collector.submit(json.dumps(rows).encode())
    waiting = list(export_person(project, ["anna-7755"], CLOCK))
    with InProcessRoles(project, CLOCK) as roles:
        roles.drain()
    told = list(export_person(project, ["anna-7755"], CLOCK))
    for records in (waiting, told):
        text = json.dumps(records)
        assert "secret-of-bert" not in text
        assert "bert-88" not in text
    assert [one["table"] for one in told if one["source"] == "mention"] == ["events"]
    assert Counter(one["source"] for one in waiting)["waiting"] == 2
    assert Counter(one["source"] for one in told) & Counter(["waiting"]) == Counter()
    assert sorted(
        json.loads(one["body"])["event_id"] for one in told if one["source"] == "refused"
    ) == ["r2", "r3"]
    assert sum(one["source"] == "event" for one in told) == 2


def test_a_router_that_lost_a_part_of_its_index_is_told_by_name(tmp_path: Path) -> None:
    """As a disk leaves it that confirmed a write and swallowed it."""
    project = make_project_with_events(tmp_path, [make_click("e1", "user-4711")])
    path = project.paths.stream / "routed.db"
    with closing(sqlite3.connect(path)) as connection:
        segments = connection.execute("SELECT count(*) FROM dedup_segment").fetchone()[0]
        if not segments:
            connection.execute("INSERT INTO dedup_segment VALUES (1, 0, 0, x'', x'')")
        connection.execute("DELETE FROM dedup_page")
        connection.commit()
    with pytest.raises(DamageError, match="index of repeats has lost"):
        erase(project, ["user-4711"], CLOCK)


def test_ids_of_whom_nothing_is_here_are_told(tmp_path: Path) -> None:
    profile = {"event_id": "p", "type": "user", "user_id": "quiet-4714", "properties": {"age": 3}}
    project = make_project_with_events(
        tmp_path,
        [
            make_click("e1", "user-4711"),
            make_click("e2", "user-4712", "visitor-1"),
            make_click("e3", visitor="visitor-2"),
            profile,
        ],
    )
    leavers = tmp_path / "leavers.txt"
    leavers.write_bytes(
        (
            "\ufeffuser-4711\r\n user-4712 "
            "\n\nuser4713\nanon:visitor-2\nanon:visitor-3\nquiet-4714\n"
        ).encode()
    )
    asked = ["erase", "--from", str(leavers)]
    preview, done, again, told = run(
        project.root,
        [
            [*asked, "--json"],
            [*asked, "--yes"],
            [*asked, "--yes", "--json"],
            ["erase", "user-4799"],
        ],
    )
    assert json.loads(preview.stdout)["unknown"] == [3, 5]
    assert done.returncode == 0, done.stderr
    assert (
        "of 2 of the ids that were given (number 3, 5): are they written as the site writes them?"
        in " ".join(done.stdout.split())
    )
    assert (
        set(count_events_by_person(project)) & {"user-4711", "user-4712", "anon:visitor-2"} == set()
    )
    assert json.loads(again.stdout)["unknown"] == [], (
        "they were erased before, as far as anybody can tell"
    )
    assert "of 1 of the ids that were given" in told.stdout


def test_what_commands_made_of_somebody_with_a_short_id_is_found_and_deleted(
    tmp_path: Path,
) -> None:
    project = make_project_with_events(
        tmp_path,
        [
            make_click("e1", "42", "7", item_id="9"),
            make_click("e2", "9", item_id="42"),
            make_click("e3", "77", item_id="42"),
        ],
    )
    root, wanted = project.root, tmp_path / "wanted.parquet"
    for who in ("42", "77"):
        pq.write_table(
            pa.table(
                {
                    "person": [who],
                    "item": ["42"],
                    "ts": pa.array([CLOCK.now()], pa.timestamp("us", "UTC")),
                }
            ),
            wanted,
        )
        made = [
            ["features", "backfill", "--requests", str(wanted), "--out", str(root / f"set-{who}")],
            ["lake", "export-user", who, "--out", str(root / f"told-{who}.jsonl")],
        ]
        done = run_each([["-C", str(root), *words] for words in made], cwd=root)
        assert [one.returncode for one in done] == [0, 0], done[0].stderr
    pq.write_table(pa.table({"person": ["42"]}), root / "own.parquet")
    told = {
        str(Path(one.path).relative_to(root))
        for one in find_ids(project, ["42"]).matches
        if not one.path.startswith(str(root / "data"))
    }
    assert told == {
        "set-42/rows-00000.parquet",
        "set-42/requests-00000.parquet",
        "told-42.jsonl",
        "own.parquet",
    }
    done = erase(project, ["42"], CLOCK)
    assert [Path(path).name for path in done.left] == ["own.parquet"]
    left = [
        path.name
        for path in sorted(root.iterdir())
        if path.name.startswith(("set-77", "told", "own"))
    ]
    assert left == ["own.parquet", "set-77", "told-77.jsonl"]
    assert list((root / "set-42").rglob("*.parquet")) == []


@pytest.mark.parametrize("linked", [False, True])
def test_data_elsewhere_are_searched_too(linked: bool, tmp_path: Path) -> None:
    root, elsewhere = make_project(tmp_path / "shop").root, tmp_path / "elsewhere"
    elsewhere.mkdir()
    if linked:
        (root / "data").rmdir()
        (root / "data").symlink_to(elsewhere)
    else:
        (root / "tailorbird.toml").write_text(f'[project]\ndata = "{elsewhere}"\n')
    project = open_project(root)
    with (
        EventCollector(project.paths.stream, "serve-1", project.plan, CLOCK) as collector,
        InProcessRoles(project, CLOCK) as roles,
    ):
        collector.submit(
            json.dumps([make_click("e1", "user-4711"), make_click("e2", "user-4712")]).encode()
        )
        roles.drain()
    reports = elsewhere / "reports"
    reports.mkdir()
    for user in ("user-4711", "user-4712"):
        (reports / f"signals-{user[-1]}.html").write_text(f"<p>{user} clicked most")
    (elsewhere / "notes.txt").write_text("ask user-4711")
    assert {Path(one.path).parts[-2] for one in find_ids(project, ["user-4711"]).matches} >= {
        "stream",
        "reports",
    }
    done = erase(project, ["user-4711"], CLOCK)
    assert done.left == [str(elsewhere / "notes.txt")]
    assert [path.name for path in reports.iterdir()] == ["signals-2.html"]


def test_a_file_of_ones_own_is_told_and_not_touched(tmp_path: Path) -> None:
    project = make_project_with_events(tmp_path, [make_click("e1", "user-4711")])
    own = project.root / "my-notes.txt"
    own.write_text("ask user-4711")
    done = erase(project, ["user-4711"], CLOCK)
    assert not done.is_clean
    assert done.left == [str(own)]
    assert own.read_text() == "ask user-4711"
