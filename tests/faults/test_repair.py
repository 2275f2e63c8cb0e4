"""`lake repair` after damage of every kind in every kind of file: seen by `lake verify`, and mended
exactly, or refused with what is lost.

A real site: bodies through the door, routed, loaded, with answers, files that were put together and
checkpoints. `kept`: the logs still have their rows. `pruned`: they do not, so that the archive is
all there is of what came in.
"""

import json
import os
import random
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
from deltalake import DeltaTable, write_deltalake
from tests.faults.chaos.site import CLOCK, Site, make_site, submit
from tests.lake.conftest import Site as Logs

from tailorbird.cli.lake_repair import _router
from tailorbird.config import open_project
from tailorbird.config.schemas import released
from tailorbird.errors import DamageError, LockedError, NotReadyError, TailorbirdError
from tailorbird.lake import Lake, LakeRole, delta, verify
from tailorbird.lake.idle import prune_idle
from tailorbird.lake.ledger import Ledger
from tailorbird.lake.repair import Repairer
from tailorbird.lake.repair.logs import log_fault
from tailorbird.lake.tables import TABLES
from tailorbird.platform.roles import Roles
from tailorbird.router import Router

TRIALS = int(os.environ.get("REPAIR_TRIALS", "1"))  # damaged places of each kind of file and damage
KINDS = {
    "ledger": "data/lake/ledger.jsonl",
    "manifest": "data/lake/archive/manifest.jsonl",
    "positions": "data/lake/positions.json",
    "archive": "data/lake/archive/*/*.zst",
    "events": "data/lake/events/day=*/*.parquet",
    "quarantine": "data/lake/quarantine/*.parquet",
    "duplicates": "data/lake/duplicates/*.parquet",
    "users": "data/lake/users/*.parquet",
    "items": "data/lake/items/*.parquet",
    "answers": "data/lake/answers/*.parquet",
    "commits": "data/lake/commits/*.parquet",
    "commit file": "data/lake/*/_delta_log/*.json",
    "checkpoint": "data/lake/*/_delta_log/*.checkpoint.parquet",
    "raw log": "data/stream/raw-*.db",
    "answers log": "data/stream/answers-*.db",
    "routed log": "data/stream/routed.db",
}
# What there is no second copy of, so that only a single flipped bit can be taken back: by logs that
# still have the rows, and without.
ALONE = {
    "kept": {"ledger", "manifest", "routed log"},
    "pruned": {"ledger", "manifest", "routed log", "archive", "answers"},
}


@pytest.fixture(scope="module", params=["kept", "pruned"])
def base(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, Path]:
    folder = tmp_path_factory.mktemp("base") / "site"
    site = make_site(folder, 3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(delta, "CHECKPOINT_EVERY", 3)
        for first in range(0, 24, 4):
            _send(site, first, first + 4)
        project = site.project
        with LakeRole(project.stream, project.paths.lake, clock=CLOCK) as role:
            role.upkeep(everything=True)
            role.upkeep(everything=True)
        _send(site, 24, 28)
        if request.param == "pruned":
            with LakeRole(project.stream, project.paths.lake, clock=CLOCK) as role:
                role.vacuum(keep_us=0)
                role.publish()
            with Router(project.stream, project.plan, clock=CLOCK) as router:
                assert router.prune(released(project))
            prune_idle(project.paths.stream, project.paths.lake, CLOCK, idle_us=0)
    assert verify(project.paths.lake, deep=True).clean
    return request.param, folder


def _send(site: Site, first: int, end: int) -> None:
    with site.door() as door:
        for number in range(first, end):
            assert submit(door, 3, number)["acked"]
        profile = {
            "event_id": f"p{first}",
            "type": "item",
            "item_id": f"i{first}",
            "properties": {"category": "c", "price": 5.0},
        }
        person = {
            "event_id": f"q{first}",
            "type": "user",
            "user_id": f"u{first}",
            "properties": {"plan": "gold"},
        }
        refused = {
            "event_id": f"x{first}",
            "type": "nonsense",
            "user_id": f"u{first}",
        }  # and a repeat, so that each table gets rows
        told = door.submit(json.dumps([profile, person, refused, profile]).encode())
        assert [each.accepted for each in told] == [True, True, False, True]
    with Roles(site.project, CLOCK) as roles:
        roles.drain()


def _repairer(project) -> Repairer:
    return Repairer(
        project.stream, project.paths.lake, clock=CLOCK, route_again=partial(_router, project)
    )


def _content(project) -> dict[str, list]:
    """All rows of all tables but the ledger's mirror, to which a repair may add."""
    lake = Lake(project.paths.lake)
    return {
        name: sorted(map(repr, lake.table(name).to_pylist()))
        for name in TABLES
        if name != "commits"
    }


def _flip(path: Path, rng: random.Random) -> str:
    data = bytearray(path.read_bytes())
    at, bit = rng.randrange(len(data)), rng.randrange(8)
    data[at] ^= 1 << bit
    path.write_bytes(bytes(data))
    return f"bit {bit} of byte {at}"


def _lose(path: Path, rng: random.Random) -> str:
    path.unlink()
    return "deleted"


def _halve(path: Path, rng: random.Random) -> str:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return "cut in half"


def _damage(base: Path, folder: Path, kind: str, how, trial: int) -> tuple[Site, Path, str]:
    shutil.copytree(base, folder)
    rng = random.Random(f"{kind}/{how.__name__}/{trial}")
    found = sorted((folder / "shop").glob(KINDS[kind]))
    if kind in TABLES:  # of its files those that are part of it now
        lake = folder / "shop" / "data" / "lake"
        found = [lake / kind / path for path in sorted(Ledger(lake / "ledger.jsonl").files(kind))]
    path = rng.choice(found)
    what = how(path, rng)
    return Site(folder), path, f"{path.relative_to(folder)}: {what}"


def _seen(project, path: Path) -> bool:
    """Whether the damage shows: in the lake to `lake verify`; in a log to whoever reads it."""
    try:
        if not verify(project.paths.lake).clean:
            return True
    except TailorbirdError:
        return True
    return path.suffix == ".db" and path.exists() and log_fault(path) is not None


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_flipped_bit_is_seen_and_mended_exactly_or_refused_with_what_is_lost(
    base, kind: str, tmp_path: Path
) -> None:
    logs, whole = base
    before = _content(Site(whole).project)
    for trial in range(TRIALS):
        site, path, what = _damage(whole, tmp_path / str(trial), kind, _flip, trial)
        project = site.project
        repairer = _repairer(project)
        seen, plan = _seen(project, path), repairer.plan()
        if (
            not seen
        ):  # a page of SQLite's that nothing is in, or spaces between the numbers of a JSON file
            assert kind in ("raw log", "answers log", "routed log", "positions"), what
            assert not plan.mends, what
            assert not plan.beyond, what
            continue
        assert plan.mends or plan.beyond, what
        assert _seen(project, path), "a plan changes nothing"
        done = repairer.run()
        if done.beyond:
            assert kind in ALONE[logs] | {"events", "quarantine", "duplicates"} | {
                "raw log",
                "answers log",
            }, f"{what}: {done.beyond}"
            assert all(one.lost for one in done.beyond)
            continue
        assert verify(project.paths.lake).clean, what
        assert not _seen(project, path), what
        assert _content(project) == before, what
        assert not repairer.plan().mends, "mended once and for all"


LOST = (
    ("manifest", _halve),
    ("positions", _halve),
    ("positions", _lose),
    ("archive", _lose),
    ("events", _halve),
    ("events", _lose),
    ("quarantine", _lose),
    ("duplicates", _halve),
    ("users", _lose),
    ("answers", _lose),
    ("commits", _halve),
    ("commit file", _lose),
    ("commit file", _halve),
    ("checkpoint", _halve),
)


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "how"), LOST)
def test_a_file_that_is_gone_or_cut_is_made_anew_where_there_is_another_copy(
    base, kind: str, how, tmp_path: Path
) -> None:
    logs, whole = base
    before = _content(Site(whole).project)
    site, path, what = _damage(whole, tmp_path / "site", kind, how, 0)
    project = site.project
    assert _seen(project, path), what
    repairer = _repairer(project)
    done = repairer.run()
    if kind in ALONE[logs]:
        assert done.beyond, what
        assert all(one.lost for one in done.beyond), what
        return
    assert not done.beyond, f"{what}: {done.beyond}"
    assert done.mends, what
    assert verify(project.paths.lake).clean, what
    assert _content(project) == before, what


def _newest_files(lake: Path, table: str) -> list[Path]:
    """The data files of the last commit that brought rows into a table."""
    lines = Ledger(lake / "ledger.jsonl").commits(table)
    newest = max(
        version
        for version, line in lines.items()
        if line.positions and line.files and not line.removed
    )
    return [lake / table / file.path for file in lines[newest].files]


@pytest.mark.slow
@pytest.mark.parametrize("table", ["", "events", "quarantine", "duplicates", "users"])
def test_a_ledger_is_written_anew_and_a_file_that_is_lost_with_it_comes_back(
    base, table: str, tmp_path: Path
) -> None:
    _, whole = base
    shutil.copytree(whole, tmp_path / "site")
    site = Site(tmp_path / "site")
    project = site.project
    before, lake = _content(project), project.paths.lake
    lost = _newest_files(lake, table) if table else []
    (lake / "ledger.jsonl").unlink()
    for path in lost:
        path.unlink()
    if table == "users":
        _flip(lake / "positions.json", random.Random(7))
    with pytest.raises(NotReadyError, match="lake repair"):
        verify(lake)
    assert [Path(mend.where).name for mend in _repairer(project).plan().mends] == ["ledger.jsonl"]
    done = _repairer(project).run()
    assert not done.beyond, done.beyond
    assert {Path(mend.where) for mend in done.mends} - {lake / "positions.json"} == {
        lake / "ledger.jsonl",
        *lost,
    }
    assert _content(project) == before
    told = _told(lake)
    with site.door() as door:
        assert submit(door, 4, 0)["acked"]
    with Roles(project, CLOCK) as roles:
        roles.drain()
    report = verify(lake, stream=project.stream, deep=True)
    assert report.clean, report
    ledger = Ledger(lake / "ledger.jsonl")
    standing = {
        (name, version)
        for name in TABLES
        if name != "commits"
        for version in ledger.commits(name)
        if version >= ledger.log_begin(name)
    }
    assert standing <= set(_told(lake))
    assert len(_told(lake)) == len(set(_told(lake)))
    assert set(_told(lake)) > set(told)


def _told(lake: Path) -> list[tuple[str, int]]:
    """Of which commits the ledger's mirror has a row."""
    rows = Lake(lake).table("commits", ["table", "version"])
    return list(zip(rows["table"].to_pylist(), rows["version"].to_pylist(), strict=True))


def test_of_a_commit_of_several_days_the_rows_of_the_lost_day_come_back(tmp_path: Path) -> None:
    logs = Logs(tmp_path / "stream")
    logs.add(3)
    lake = tmp_path / "lake"
    with LakeRole(logs.stream, lake, clock=CLOCK) as role:
        role.drain()
    logs.close()
    before = sorted(Lake(lake).events(["event_id"])["event_id"].to_pylist())
    days = sorted((lake / "events").glob("day=*/*.parquet"))
    assert len(days) > 1
    (lake / "ledger.jsonl").unlink()
    days[0].unlink()
    done = Repairer(
        logs.stream,
        lake,
        clock=CLOCK,
        route_again=lambda folder: pytest.fail("its log has the rows"),
    ).run()
    assert not done.beyond
    assert sorted(Lake(lake).events(["event_id"])["event_id"].to_pylist()) == before


@pytest.mark.slow
@pytest.mark.parametrize("how", ["changed", "changed twice", "appended", "cut", "empty"])
def test_a_commit_that_is_none_of_the_lakes_own_is_told_and_set_aside(
    base, how: str, tmp_path: Path
) -> None:
    """Readers take the newest version for true, whoever made it."""
    _, whole = base
    shutil.copytree(whole, tmp_path / "site")
    site = Site(tmp_path / "site")
    project, events = site.project, site.project.paths.lake / "events"
    before, newest = _content(project), DeltaTable(events).version()
    for _ in range({"changed": 1, "changed twice": 2}.get(how, 0)):
        DeltaTable(events).update({"item_id": "'forged'"}, predicate="user_id IS NOT NULL")
    if how == "appended":
        write_deltalake(events, DeltaTable(events).to_pyarrow_table().slice(0, 1), mode="append")
    elif how in ("cut", "empty"):
        (events / "_delta_log" / f"{newest + 1:020d}.json").write_bytes(
            b'{"add":{"pa' if how == "cut" else b""
        )
    report = verify(project.paths.lake, stream=project.stream)
    assert report.faults[0].where.rpartition("/")[2] == f"{newest + 1:020d}.json"
    done = _repairer(project).run()
    assert done.mends
    assert not done.beyond
    assert verify(project.paths.lake, stream=project.stream, deep=True).clean
    assert _content(project) == before
    with site.door() as door:
        assert submit(door, 4, 0)["acked"]
    with Roles(project, CLOCK) as roles:
        roles.drain()
    assert verify(project.paths.lake, stream=project.stream, deep=True).clean


def _update(events: Path) -> None:
    DeltaTable(events).update({"item_id": "'forged'"}, predicate="user_id IS NOT NULL")


def _delete(events: Path) -> None:
    DeltaTable(events).delete("ts IS NOT NULL")


def _append(events: Path) -> None:
    write_deltalake(events, DeltaTable(events).to_pyarrow_table().slice(0, 1), mode="append")


def _checkpoint(events: Path) -> None:
    DeltaTable(events).create_checkpoint()


def _checkpoint_of_own_version(events: Path) -> None:
    """One of the newest version of the lake's own that says that there are no rows."""
    log, newest = events / "_delta_log", DeltaTable(events).version()
    _delete(events)
    _checkpoint(events)
    (log / f"{newest + 1:020d}.json").unlink()
    (log / f"{newest + 1:020d}.checkpoint.parquet").rename(
        log / f"{newest:020d}.checkpoint.parquet"
    )
    _hint(events, newest)


def _torn_checkpoint(events: Path) -> None:
    _checkpoint(events)
    path = max((events / "_delta_log").glob("*.checkpoint.parquet"))
    path.write_bytes(path.read_bytes()[:100])


def _hint(events: Path, version: int = 99) -> None:
    (events / "_delta_log" / "_last_checkpoint").write_text(
        json.dumps({"version": version, "size": 9})
    )


def _hinted_goes(events: Path) -> None:
    max((events / "_delta_log").glob("*.checkpoint.parquet")).unlink()


# what others did to the table, and what of it is in the way then; numbers are of versions behind
# the newest of the lake's own
OTHERS = {
    "changed, checkpoint": ((_update, _checkpoint), ["1.json", "1.checkpoint", "_last_checkpoint"]),
    "deleted, checkpoint": ((_delete, _checkpoint), ["1.json", "1.checkpoint", "_last_checkpoint"]),
    "appended, checkpoint": (
        (_append, _checkpoint),
        ["1.json", "1.checkpoint", "_last_checkpoint"],
    ),
    "two, checkpoint between": (
        (_append, _checkpoint, _delete),
        ["1.json", "2.json", "1.checkpoint", "_last_checkpoint"],
    ),
    "two, checkpoints": (
        (_update, _checkpoint, _delete, _checkpoint),
        ["1.json", "2.json", "1.checkpoint", "2.checkpoint", "_last_checkpoint"],
    ),
    "hint to what never was": ((_hint,), ["_last_checkpoint"]),
    "hinted checkpoint gone": ((_hinted_goes,), ["_last_checkpoint"]),
    "checkpoint of own version": (
        (_checkpoint_of_own_version,),
        ["0.checkpoint", "_last_checkpoint"],
    ),
    "torn checkpoint": ((_torn_checkpoint,), ["0.checkpoint", "_last_checkpoint"]),
}


def _others(base: Path, folder: Path, how: str) -> tuple[Site, list[str]]:
    """A site to whose events somebody else did that, and the names of the files that are in the
    way.
    """
    shutil.copytree(base, folder)
    site = Site(folder)
    events = site.project.paths.lake / "events"
    newest, (steps, names) = DeltaTable(events).version(), OTHERS[how]
    for step in steps:
        step(events)
    suffixes = {"json": "json", "checkpoint": "checkpoint.parquet"}
    split = [name.partition(".") for name in names]
    return site, [
        f"{newest + int(behind):020d}.{suffixes[kind]}" if kind else behind
        for behind, _, kind in split
    ]


@pytest.mark.slow
@pytest.mark.parametrize("how", OTHERS)
def test_what_hides_a_table_is_set_aside_before_it_is_read_and_everything_goes_on(
    base, how: str, tmp_path: Path
) -> None:
    """Readers begin with the checkpoint that the hint names, and cannot open a table without it."""
    logs, whole = base
    before = _content(Site(whole).project)
    site, names = _others(whole, tmp_path / "site", how)
    project = site.project
    lake, aside = project.paths.lake, project.paths.lake / "set-aside" / "events"
    trimmed = (
        logs == "pruned" and how == "hinted checkpoint gone"
    )  # the log begins with it: it comes back from the ledger
    assert not verify(lake, stream=project.stream).clean
    brought = {path.name for path in (lake / "events").rglob("part-*.parquet")} - _written(lake)
    assert bool(brought) == ("append" in how or "changed" in how or "two" in how)
    done = _repairer(project).run()
    assert not done.beyond
    mended = [Path(mend.where).name for mend in done.mends]
    assert sorted(mended) == sorted(
        names
        + (
            [f"{Ledger(lake / 'ledger.jsonl').log_begin('events'):020d}.checkpoint.parquet"]
            * trimmed
        )
    )
    assert {path.name for path in aside.iterdir()} == {*names, *brought}, "nothing is deleted"
    assert all(
        "set-aside/events" in mend.source for mend in done.mends if Path(mend.where).name in names
    )
    assert verify(lake, stream=project.stream, deep=True).clean
    assert _content(project) == before
    assert not _repairer(project).plan().mends
    with site.door() as door:
        sent = submit(door, 4, 0)["acked"]
    with Roles(project, CLOCK) as roles:
        roles.drain()
    assert set(sent) <= set(Lake(lake).events(["event_id"])["event_id"].to_pylist())
    assert verify(lake, stream=project.stream, deep=True).clean


def _written(lake: Path) -> set[str]:
    """The names of all data files that the lake's own commits brought into `events`."""
    return {
        Path(file.path).name
        for line in Ledger(lake / "ledger.jsonl").commits("events").values()
        for file in line.files
    }


@pytest.mark.slow
@pytest.mark.parametrize("how", ["two, checkpoints", "checkpoint of own version"])
def test_a_repair_that_ends_between_two_files_is_gone_on_with(
    base, how: str, tmp_path: Path
) -> None:
    _, whole = base
    before = _content(Site(whole).project)
    site, names = _others(whole, tmp_path / "site", how)
    moved = 0
    while mends := _repairer(site.project).plan().mends:
        mends[0].apply()
        moved += 1
    assert moved == len(names)
    assert verify(site.project.paths.lake, deep=True).clean
    assert _content(site.project) == before


@pytest.mark.slow
def test_who_reads_a_table_that_cannot_be_opened_is_told_what_mends_it(
    base, tmp_path: Path
) -> None:
    _, whole = base
    for how, name in (
        ("hint to what never was", "_last_checkpoint"),
        ("torn checkpoint", "events"),
    ):
        site, _ = _others(whole, tmp_path / how, how)
        with pytest.raises(DamageError, match="tailorbird lake repair") as told:
            Lake(site.project.paths.lake).events()
        assert Path(told.value.where).name == name


@pytest.mark.slow
@pytest.mark.parametrize("others", [0, 1, 3])
def test_the_role_does_not_begin_a_ledger_anew_beside_tables(
    base, others: int, tmp_path: Path
) -> None:
    """It would know the newest commit of each table alone, and `lake repair` find no way on; with
    commits of others behind them as well.
    """
    _, whole = base
    shutil.copytree(whole, tmp_path / "site")
    project = Site(tmp_path / "site").project
    lake, before = project.paths.lake, _content(project)
    for _ in range(others):
        write_deltalake(
            lake / "events",
            DeltaTable(lake / "events").to_pyarrow_table().slice(0, 1),
            mode="append",
        )
    (lake / "ledger.jsonl").unlink()
    for _ in range(2):
        with pytest.raises(
            DamageError, match="the ledger is missing, and tables have rows"
        ) as told:
            LakeRole(project.stream, lake, clock=CLOCK)
        assert "tailorbird lake repair" in told.value.fix
    assert not (lake / "ledger.jsonl").exists()
    assert not _repairer(project).run().beyond
    with Roles(project, CLOCK) as roles:
        roles.drain()
    assert _content(project) == before
    assert verify(lake, stream=project.stream, deep=True).clean


def test_a_ledger_of_a_table_whose_log_is_not_whole_is_not_made_up(base, tmp_path: Path) -> None:
    _, whole = base
    shutil.copytree(whole, tmp_path / "site")
    project = Site(tmp_path / "site").project
    lake = project.paths.lake
    (lake / "ledger.jsonl").unlink()
    sorted((lake / "events/_delta_log").glob("*.json"))[-2].unlink()
    (told,) = _repairer(project).run().beyond
    assert "the log of table events is not whole" in told.lost
    assert not (lake / "ledger.jsonl").exists()
    command = [
        sys.executable,
        "-m",
        "tailorbird",
        "-C",
        str(project.root),
        "lake",
        "repair",
        "--yes",
        "--json",
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, [one["lost"] for one in json.loads(done.stdout)["beyond"]]) == (
        1,
        [told.lost],
    )


def _moved(project, position: int) -> None:
    """Say that the table `events` has the routed log up to there, as a file that an older release
    wrote, without a checksum.
    """
    path = project.paths.lake / "positions.json"
    found = json.loads(path.read_bytes())
    del found["checksum"]
    found["tables"]["events"]["routed"] = position
    path.write_text(json.dumps(found))


@pytest.mark.slow
def test_a_position_that_a_bit_moved_loses_no_row(base, tmp_path: Path) -> None:
    _, whole = base
    for checksum in (True, False):
        shutil.copytree(whole, folder := tmp_path / str(checksum))
        site = Site(folder)
        project, path = site.project, site.project.paths.lake / "positions.json"
        if checksum:
            text = path.read_bytes()
            at = text.index(b'"routed": ', text.index(b'"events"')) + len(b'"routed": ')
            path.write_bytes(text[:at] + bytes((text[at] ^ 4,)) + text[at + 1 :])
        else:
            _moved(project, 7200)
        with site.door() as door:
            assert submit(door, 4, 0)["acked"]
        with (
            pytest.raises(DamageError, match=r"lake repair|passed over"),
            Roles(project, CLOCK) as roles,
        ):
            roles.drain()
        assert not verify(project.paths.lake, stream=project.stream).clean
        assert [mend.where for mend in _repairer(project).run().mends] == [str(path)]
        with Roles(project, CLOCK) as roles:
            roles.drain()
        report = verify(project.paths.lake, stream=project.stream, deep=True)
        assert report.clean, report


@pytest.mark.slow
def test_rows_that_were_passed_over_come_back(base, tmp_path: Path) -> None:
    """As a lake of an older release has them, whose positions a flipped bit had moved while the log
    was behind.
    """
    logs, whole = base
    shutil.copytree(whole, tmp_path / "site")
    site = Site(tmp_path / "site")
    project = site.project
    with site.door() as door, Router(project.stream, project.plan, clock=CLOCK) as router:
        for number in range(3):
            assert submit(door, 4, number)["acked"]
        item = {
            "event_id": "p-over",
            "type": "item",
            "item_id": "i-over",
            "properties": {"category": "c", "price": 5.0},
        }
        assert all(each.accepted for each in door.submit(json.dumps([item]).encode()))
        while router.step().rows:
            pass
        _moved(project, router.end())
    with Roles(project, CLOCK) as roles:
        roles.drain()
    shutil.copytree(tmp_path / "site", tmp_path / "as-it-was")
    lost = verify(project.paths.lake, stream=project.stream)
    assert any("in no table" in fault.what for fault in lost.faults), lost
    if logs == "pruned":
        with LakeRole(project.stream, project.paths.lake, clock=CLOCK) as role:
            role.publish()
        with Router(project.stream, project.plan, clock=CLOCK) as router:
            assert router.prune(released(project))
    plan = _repairer(project).plan()
    assert not plan.beyond, plan.beyond
    assert (
        ["routed log" in mend.source for mend in plan.mends]
        == [logs == "kept"] * len(plan.mends)
        != []
    )
    assert _repairer(project).run().beyond == []
    report = verify(project.paths.lake, stream=project.stream, deep=True)
    assert report.clean, report
    events = Lake(project.paths.lake).table("events", ["p"])["p"].to_pylist()
    assert len(set(events)) == len(events)
    assert "i-over" in Lake(project.paths.lake).table("items", ["id"])["id"].to_pylist()
    assert not _repairer(project).plan().mends


def test_a_raw_log_is_made_anew_of_archive_and_what_is_whole_in_it_and_everything_goes_on(
    base, tmp_path: Path
) -> None:
    _, whole = base
    shutil.copytree(whole, tmp_path / "site")
    site = Site(tmp_path / "site")
    with site.door() as door:
        waiting = [
            submit(door, 3, number) for number in range(28, 31)
        ]  # neither archived nor routed
    path = next((tmp_path / "site/shop/data/stream").glob("raw-*.db"))
    before = _content(site.project)
    data = path.read_bytes()
    at = data.index(b'"t3-28-0"')
    path.write_bytes(data[:at] + b"X" + data[at + 1 :])
    refused = _repairer(site.project).run()
    assert [Path(one.where) for one in refused.beyond] == [path]
    assert "acknowledged and are nowhere else" in refused.beyond[0].lost
    assert path.read_bytes() != data, "what cannot be mended is left as it is"
    path.write_bytes(data)
    at = data.find(b'"t3-25-0"')
    if at >= 0:  # what the archive has too
        path.write_bytes(data[:at] + b"X" + data[at + 1 :])
        done = _repairer(site.project).run()
        assert [Path(one.where) for one in done.mends] == [path]
        assert not done.beyond
    with Roles(site.project, CLOCK) as roles:
        roles.drain()
    found = {
        row["event_id"] for row in Lake(site.project.paths.lake).events(["event_id"]).to_pylist()
    }
    assert {each for body in waiting for each in body["acked"]} <= found
    assert len(found) > len(before["events"])
    assert verify(site.project.paths.lake).clean


def test_a_repair_must_be_alone(base, tmp_path: Path) -> None:
    _, whole = base
    site, _, _ = _damage(whole, tmp_path / "site", "commit file", _flip, 0)
    project = open_project(site.folder / "shop")
    lake = project.paths.lake
    from tailorbird.lake.lease import hold

    lock = hold(lake / "ledger.jsonl", CLOCK)
    try:
        with pytest.raises(LockedError):
            _repairer(project).run()
        assert _repairer(project).plan().mends, "looking needs no lock"
    finally:
        lock.release()


@pytest.mark.slow
def test_the_command_says_what_it_would_do_and_does_it_when_told(base, tmp_path: Path) -> None:
    logs, whole = base
    if logs == "pruned":
        pytest.skip("once is enough")
    site, _, _ = _damage(whole, tmp_path / "site", "users", _lose, 0)
    command = [
        sys.executable,
        "-m",
        "tailorbird",
        "-C",
        str(site.folder / "shop"),
        "lake",
        "repair",
        "--json",
    ]

    def run(*more: str) -> tuple[int, dict]:
        done = subprocess.run(
            [*command, *more], capture_output=True, text=True, timeout=120, check=False
        )
        assert "Traceback" not in done.stderr
        return done.returncode, json.loads(done.stdout)

    status, told = run()
    assert (status, told["done"], told["beyond"]) == (1, False, [])
    assert [one["what"] for one in told["mends"]] == ["is missing"]
    assert not verify(site.project.paths.lake).clean
    events = Ledger(site.project.paths.lake / "ledger.jsonl").files("events")
    for path in events:
        (site.project.paths.lake / "events" / path).unlink()
    text = subprocess.run(
        command[:-1],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={**os.environ, "COLUMNS": "200"},
    ).stdout
    assert len(events) > 1
    assert all(f"data/lake/events/{path}  is missing" in text for path in events)
    assert text.count("its log, which still has the rows") == 1, (
        "what is said of many files is said once"
    )
    status, told = run("--yes")
    assert (status, told["done"], told["clean"]) == (0, True, True)
    assert verify(site.project.paths.lake).clean
    assert run() == (0, {"done": False, "mends": [], "beyond": [], "clean": True})
