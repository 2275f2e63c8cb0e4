"""`lake repair` after corruption of every kind in every kind of file: `lake verify` finds it, and
it is rebuilt exactly, or named with what is lost.

A real site: bodies through the collector, routed, loaded, with answers, compacted files and
checkpoints. `kept`: the logs still have their rows. `pruned`: they do not, so the archive is the
only source of what came in.
"""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
from deltalake import DeltaTable, write_deltalake
from tests.faults.chaos.site import CLOCK, Site, make_site, submit
from tests.support.commands import tailorbird

from tailorbird.config import open_project
from tailorbird.config.schemas import releasable_offset
from tailorbird.errors import DamageError, LockedError, TailorbirdError
from tailorbird.lake import Lake, LakeRole, verify
from tailorbird.lake.delta import table as delta
from tailorbird.lake.files.ledger import Ledger
from tailorbird.lake.rebuild import Rebuilder
from tailorbird.lake.rebuild.logs import log_corruption
from tailorbird.lake.tables import TABLES
from tailorbird.lake.write.log_pruning import prune_idle
from tailorbird.platform.lake.repair import open_router
from tailorbird.platform.runtime.roles import InProcessRoles
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
# The kinds without a second source: with logs that still have their rows, and without.
NO_SOURCE = {
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
        patch.setattr(delta, "CHECKPOINT_EVERY_COMMITS", 3)
        for first in range(0, 24, 4):
            _send(site, first, first + 4)
        project = site.project
        with LakeRole(project.stream, project.paths.lake, clock=CLOCK) as role:
            role.upkeep(include_unsettled=True)
            role.upkeep(include_unsettled=True)
        _send(site, 24, 28)
        if request.param == "pruned":
            with LakeRole(project.stream, project.paths.lake, clock=CLOCK) as role:
                role.vacuum(keep_us=0)
                role.publish_positions()
            with Router(project.stream, project.plan, clock=CLOCK) as router:
                assert router.prune(releasable_offset(project))
            prune_idle(project.paths.stream, project.paths.lake, CLOCK, idle_us=0)
    assert verify(project.paths.lake, deep=True).is_clean
    return request.param, folder


def _send(site: Site, first: int, end: int) -> None:
    with site.collector() as collector:
        for number in range(first, end):
            assert submit(collector, 3, number)["acked"]
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
        results = collector.submit(json.dumps([profile, person, refused, profile]).encode())
        assert [each.accepted for each in results] == [True, True, False, True]
    with InProcessRoles(site.project, CLOCK) as roles:
        roles.drain()


def _rebuilder(project) -> Rebuilder:
    return Rebuilder(
        project.stream, project.paths.lake, clock=CLOCK, route_again=partial(open_router, project)
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


def _corrupt(base: Path, folder: Path, kind: str, how, trial: int) -> tuple[Site, Path, str]:
    shutil.copytree(base, folder)
    rng = random.Random(f"{kind}/{how.__name__}/{trial}")
    candidates = sorted((folder / "shop").glob(KINDS[kind]))
    if kind in TABLES:  # of its files those that are part of it now
        lake = folder / "shop" / "data" / "lake"
        candidates = [
            lake / kind / path for path in sorted(Ledger(lake / "ledger.jsonl").files(kind))
        ]
    path = rng.choice(candidates)
    what = how(path, rng)
    return Site(folder), path, f"{path.relative_to(folder)}: {what}"


def _is_detected(project, path: Path) -> bool:
    """Return whether `lake verify`, or reading the log, finds the corruption."""
    try:
        if not verify(project.paths.lake).is_clean:
            return True
    except TailorbirdError:
        return True
    return path.suffix == ".db" and path.exists() and log_corruption(path) is not None


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_flipped_bit_is_found_and_rebuilt_exactly_or_named_with_what_is_lost(
    base, kind: str, tmp_path: Path
) -> None:
    logs, original = base
    before = _content(Site(original).project)
    for trial in range(TRIALS):
        site, path, what = _corrupt(original, tmp_path / str(trial), kind, _flip, trial)
        project = site.project
        rebuilder = _rebuilder(project)
        is_detected, plan = _is_detected(project, path), rebuilder.plan()
        if not is_detected:  # in an unused page of SQLite, or between the numbers of a JSON file
            assert kind in ("raw log", "answers log", "routed log", "positions"), what
            assert not plan.rebuilds, what
            assert not plan.unrecoverable, what
            continue
        assert plan.rebuilds or plan.unrecoverable, what
        assert _is_detected(project, path), "a plan changes nothing"
        done = rebuilder.run()
        if kind in NO_SOURCE[logs]:
            assert done.unrecoverable, what
        if done.unrecoverable:
            assert kind in NO_SOURCE[logs] | {"raw log", "answers log"}, f"{what}: {done}"
            assert all(one.lost for one in done.unrecoverable)
            continue
        assert verify(project.paths.lake).is_clean, what
        assert not _is_detected(project, path), what
        assert _content(project) == before, what
        assert not rebuilder.plan().rebuilds, "rebuilt once and for all"


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
def test_a_file_that_is_gone_or_cut_is_rebuilt_where_it_has_a_second_source(
    base, kind: str, how, tmp_path: Path
) -> None:
    logs, original = base
    before = _content(Site(original).project)
    site, path, what = _corrupt(original, tmp_path / "site", kind, how, 0)
    project = site.project
    assert _is_detected(project, path), what
    rebuilder = _rebuilder(project)
    done = rebuilder.run()
    if kind in NO_SOURCE[logs]:
        assert done.unrecoverable, what
        assert all(one.lost for one in done.unrecoverable), what
        return
    assert not done.unrecoverable, f"{what}: {done.unrecoverable}"
    assert done.rebuilds, what
    assert verify(project.paths.lake, stream=project.stream, deep=True).is_clean, what
    assert _content(project) == before, what
    _go_on(site)
    assert sorted(set(_mirrored(project.paths.lake))) == sorted(_mirrored(project.paths.lake))


def _go_on(site: Site) -> None:
    """Take another body through all roles, and verify."""
    project = site.project
    with site.collector() as collector:
        sent = submit(collector, 4, 0)["acked"]
    with InProcessRoles(project, CLOCK) as roles:
        roles.drain()
    ids = Lake(project.paths.lake).events(["event_id"])["event_id"].to_pylist()
    assert set(sent) <= set(ids)
    assert len(set(ids)) == len(ids)
    report = verify(project.paths.lake, stream=project.stream, deep=True)
    assert report.is_clean, report


def _mirrored(lake: Path) -> list[tuple[str, int]]:
    """Return the commits of which the table `commits` has a row."""
    rows = Lake(lake).table("commits", ["table", "version"])
    return list(zip(rows["table"].to_pylist(), rows["version"].to_pylist(), strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("kinds", [("events", "users"), ("events", "duplicates", "quarantine")])
def test_several_tables_are_rebuilt_together(base, kinds: tuple[str, ...], tmp_path: Path) -> None:
    _, original = base
    before = _content(Site(original).project)
    shutil.copytree(original, tmp_path / "site")
    site = Site(tmp_path / "site")
    lake = site.project.paths.lake
    for kind in kinds:
        (lake / kind / min(Ledger(lake / "ledger.jsonl").files(kind))).unlink()
    done = _rebuilder(site.project).run()
    assert not done.unrecoverable, done.unrecoverable
    assert _content(site.project) == before
    _go_on(site)


KILL_SITES = (
    ("lake.after_create", 1),
    ("lake.after_data", 1),
    ("lake.after_commit", 1),
    ("lake.after_ledger", 2),
    ("rebuild.before_marker", 1),
    ("rebuild.after_marker", 1),
    ("rebuild.between_evidence", 1),
    ("rebuild.between_renames", 1),
    ("rebuild.after_rename", 1),
    ("rebuild.between_renames", 3),
    ("rebuild.after_rename", 4),
    ("rebuild.before_cleanup", 1),
    ("lake.before_positions", 1),
)


@pytest.mark.slow
@pytest.mark.parametrize(("fault", "hit"), KILL_SITES)
def test_a_rebuild_that_is_killed_is_completed_by_the_next_one(
    base, fault: str, hit: int, tmp_path: Path
) -> None:
    _, original = base
    before = _content(Site(original).project)
    site, _, _ = _corrupt(original, tmp_path / "site", "events", _halve, 0)
    project = site.project
    (project.paths.lake / "users/_delta_log" / f"{2:020d}.json").unlink(missing_ok=True)
    killed = _repair(site, "--yes", faults=f"{fault}=kill@{hit}")
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    done = _rebuilder(project).run()
    assert not done.unrecoverable, done.unrecoverable
    assert _content(project) == before
    assert not (project.paths.lake / "rebuild").exists()
    _go_on(site)


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["rebuild.after_marker", "rebuild.between_renames"])
def test_the_role_completes_a_swap_that_was_killed(base, fault: str, tmp_path: Path) -> None:
    _, original = base
    before = _content(Site(original).project)
    site, _, _ = _corrupt(original, tmp_path / "site", "events", _halve, 0)
    assert _repair(site, "--yes", faults=f"{fault}=kill@1").returncode == -signal.SIGKILL
    assert not verify(site.project.paths.lake).is_clean
    with InProcessRoles(site.project, CLOCK) as roles:
        roles.drain()
    assert _content(site.project) == before
    _go_on(site)


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["rebuild.before_log", "rebuild.between_log_files"])
def test_a_rebuild_of_a_log_that_is_killed_is_completed_by_the_next_one(
    base, fault: str, tmp_path: Path
) -> None:
    _, original = base
    site, _, _ = _corrupt(original, tmp_path / "site", "raw log", _overwrite, 0)
    assert _repair(site, "--yes", faults=f"{fault}=kill@1").returncode == -signal.SIGKILL
    done = _rebuilder(site.project).run()
    assert not done.unrecoverable, done.unrecoverable
    _go_on(site)


def _overwrite(path: Path, rng: random.Random) -> str:
    """Overwrite an archived body in a log."""
    data = bytearray(path.read_bytes())
    for first in range(0, len(data), 4096):
        if first:
            data[first : first + 40] = bytes(40)
    path.write_bytes(bytes(data))
    return "overwritten"


def _repair(site: Site, *options: str, faults: str = "") -> subprocess.CompletedProcess[str]:
    words = ("-C", site.folder / "shop", "lake", "repair", *options)
    return tailorbird(*words, env={"TAILORBIRD_FAULTS": faults}, timeout=120)


@pytest.mark.slow
def test_a_lost_ledger_is_restored_from_an_older_backup(base, tmp_path: Path) -> None:
    """The tables' own commits complete it."""
    _, original = base
    shutil.copytree(original, tmp_path / "site")
    site = Site(tmp_path / "site")
    project, ledger = site.project, site.project.paths.lake / "ledger.jsonl"
    before, backup = _content(project), ledger.read_bytes()
    _send(site, 28, 32)
    added = _content(project)
    assert added != before
    ledger.unlink()
    (named,) = _rebuilder(project).plan().unrecoverable
    assert Path(named.where) == ledger
    assert "restore it from the backup" in named.lost
    ledger.write_bytes(backup)
    assert [Path(one.where) for one in _rebuilder(project).plan().rebuilds] == [ledger]
    done = _rebuilder(project).run()
    assert not done.unrecoverable, done.unrecoverable
    assert _content(project) == added
    _go_on(site)


@pytest.mark.slow
@pytest.mark.parametrize("how", ["changed", "changed twice", "appended", "cut", "empty"])
def test_an_orphan_commit_is_reported_and_set_aside(base, how: str, tmp_path: Path) -> None:
    """Readers take the newest version for true, whoever made it."""
    _, original = base
    shutil.copytree(original, tmp_path / "site")
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
    done = _rebuilder(project).run()
    assert done.rebuilds
    assert not done.unrecoverable
    assert verify(project.paths.lake, stream=project.stream, deep=True).is_clean
    assert _content(project) == before
    _go_on(site)


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


def _delete_hinted_checkpoint(events: Path) -> None:
    max((events / "_delta_log").glob("*.checkpoint.parquet")).unlink()


# what others did to the table, and what of it is in the way then; numbers are of versions behind
# the newest of the lake's own
FOREIGN_WRITES = {
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
    "hinted checkpoint gone": ((_delete_hinted_checkpoint,), ["_last_checkpoint"]),
    "checkpoint of own version": (
        (_checkpoint_of_own_version,),
        ["0.checkpoint", "_last_checkpoint"],
    ),
    "torn checkpoint": ((_torn_checkpoint,), ["0.checkpoint", "_last_checkpoint"]),
}


def _with_foreign_writes(base: Path, folder: Path, how: str) -> tuple[Site, list[str]]:
    """Return a site with foreign writes to its events, and the names of the files they left."""
    shutil.copytree(base, folder)
    site = Site(folder)
    events = site.project.paths.lake / "events"
    newest, (steps, names) = DeltaTable(events).version(), FOREIGN_WRITES[how]
    for step in steps:
        step(events)
    suffixes = {"json": "json", "checkpoint": "checkpoint.parquet"}
    split = [name.partition(".") for name in names]
    return site, [
        f"{newest + int(versions_later):020d}.{suffixes[kind]}" if kind else versions_later
        for versions_later, _, kind in split
    ]


@pytest.mark.slow
@pytest.mark.parametrize("how", FOREIGN_WRITES)
def test_an_orphan_commit_or_checkpoint_is_set_aside_and_everything_goes_on(
    base, how: str, tmp_path: Path
) -> None:
    """Readers begin with the checkpoint that the hint names, and cannot open a table without it."""
    _, original = base
    before = _content(Site(original).project)
    site, names = _with_foreign_writes(original, tmp_path / "site", how)
    project = site.project
    lake, aside = project.paths.lake, project.paths.lake / "set-aside" / "events"
    assert not verify(lake, stream=project.stream).is_clean
    brought = {path.name for path in (lake / "events").rglob("part-*.parquet")} - _written(lake)
    assert bool(brought) == ("append" in how or "changed" in how or "two" in how)
    done = _rebuilder(project).run()
    assert not done.unrecoverable
    rebuilt = {Path(one.where).name for one in done.rebuilds}
    assert rebuilt >= set(names)
    assert {path.name for path in aside.iterdir()} == {*names, *brought}, "nothing is deleted"
    assert verify(lake, stream=project.stream, deep=True).is_clean
    assert _content(project) == before
    assert not _rebuilder(project).plan().rebuilds
    _go_on(site)


def _written(lake: Path) -> set[str]:
    """The names of all data files that the lake's own commits brought into `events`."""
    return {
        Path(file.path).name
        for line in Ledger(lake / "ledger.jsonl").commits("events").values()
        for file in line.files
    }


@pytest.mark.slow
def test_a_table_that_cannot_be_opened_names_the_remedy(base, tmp_path: Path) -> None:
    _, original = base
    for how, name in (
        ("hint to what never was", "_last_checkpoint"),
        ("torn checkpoint", "events"),
    ):
        site, _ = _with_foreign_writes(original, tmp_path / how, how)
        with pytest.raises(DamageError, match="tailorbird lake repair") as raised:
            Lake(site.project.paths.lake).events()
        assert Path(raised.value.where).name == name


@pytest.mark.slow
@pytest.mark.parametrize("foreign_commits", [0, 1, 3])
def test_the_role_starts_no_new_ledger_next_to_tables(
    base, foreign_commits: int, tmp_path: Path
) -> None:
    """It would know the newest commit of each table alone, and `lake repair` find no way on; with
    commits of others behind them as well.
    """
    _, original = base
    shutil.copytree(original, tmp_path / "site")
    project = Site(tmp_path / "site").project
    lake = project.paths.lake
    for _ in range(foreign_commits):
        write_deltalake(
            lake / "events",
            DeltaTable(lake / "events").to_pyarrow_table().slice(0, 1),
            mode="append",
        )
    (lake / "ledger.jsonl").unlink()
    for _ in range(2):
        with pytest.raises(
            DamageError, match="the ledger is missing, and tables have rows"
        ) as raised:
            LakeRole(project.stream, lake, clock=CLOCK)
        assert "backup" in raised.value.fix
    assert not (lake / "ledger.jsonl").exists()


def test_the_command_names_a_lost_ledger(base, tmp_path: Path) -> None:
    _, original = base
    shutil.copytree(original, tmp_path / "site")
    site = Site(tmp_path / "site")
    (site.project.paths.lake / "ledger.jsonl").unlink()
    (named,) = _rebuilder(site.project).run().unrecoverable
    done = _repair(site, "--yes", "--json")
    assert (done.returncode, json.loads(done.stdout)["unrecoverable"]) == (1, [vars(named)])


def _move_position(project, position: int) -> None:
    """Say that the table `events` has the routed log up to there, as a file that an older release
    wrote, without a checksum.
    """
    path = project.paths.lake / "positions.json"
    positions = json.loads(path.read_bytes())
    del positions["checksum"]
    positions["tables"]["events"]["routed"] = position
    path.write_text(json.dumps(positions))


@pytest.mark.slow
def test_a_position_that_a_bit_moved_loses_no_row(base, tmp_path: Path) -> None:
    _, original = base
    for checksum in (True, False):
        shutil.copytree(original, folder := tmp_path / str(checksum))
        site = Site(folder)
        project, path = site.project, site.project.paths.lake / "positions.json"
        if checksum:
            text = path.read_bytes()
            at = text.index(b'"routed": ', text.index(b'"events"')) + len(b'"routed": ')
            path.write_bytes(text[:at] + bytes((text[at] ^ 4,)) + text[at + 1 :])
        else:
            _move_position(project, 7200)
        with site.collector() as collector:
            assert submit(collector, 4, 0)["acked"]
        with (
            pytest.raises(DamageError, match=r"lake repair|passed over"),
            InProcessRoles(project, CLOCK) as roles,
        ):
            roles.drain()
        assert not verify(project.paths.lake, stream=project.stream).is_clean
        assert [one.where for one in _rebuilder(project).run().rebuilds] == [str(path)]
        with InProcessRoles(project, CLOCK) as roles:
            roles.drain()
        report = verify(project.paths.lake, stream=project.stream, deep=True)
        assert report.is_clean, report


@pytest.mark.slow
def test_skipped_rows_are_recovered(base, tmp_path: Path) -> None:
    """A flipped bit in the positions of an older release makes the role skip rows."""
    logs, original = base
    shutil.copytree(original, tmp_path / "site")
    site = Site(tmp_path / "site")
    project = site.project
    with site.collector() as collector, Router(project.stream, project.plan, clock=CLOCK) as router:
        for number in range(3):
            assert submit(collector, 4, number)["acked"]
        item = {
            "event_id": "p-over",
            "type": "item",
            "item_id": "i-over",
            "properties": {"category": "c", "price": 5.0},
        }
        assert all(each.accepted for each in collector.submit(json.dumps([item]).encode()))
        while router.step().rows:
            pass
        _move_position(project, router.end())
    with InProcessRoles(project, CLOCK) as roles:
        roles.drain()
    shutil.copytree(tmp_path / "site", tmp_path / "as-it-was")
    lost = verify(project.paths.lake, stream=project.stream)
    assert any("in no table" in fault.what for fault in lost.faults), lost
    if logs == "pruned":
        with LakeRole(project.stream, project.paths.lake, clock=CLOCK) as role:
            role.publish_positions()
        with Router(project.stream, project.plan, clock=CLOCK) as router:
            assert router.prune(releasable_offset(project))
    plan = _rebuilder(project).plan()
    assert not plan.unrecoverable, plan.unrecoverable
    source = "the routed log" if logs == "kept" else "the archive, routed again"
    assert {one.source for one in plan.rebuilds} == {source}
    assert _rebuilder(project).run().unrecoverable == []
    report = verify(project.paths.lake, stream=project.stream, deep=True)
    assert report.is_clean, report
    events = Lake(project.paths.lake).table("events", ["p"])["p"].to_pylist()
    assert len(set(events)) == len(events)
    assert "i-over" in Lake(project.paths.lake).table("items", ["id"])["id"].to_pylist()
    assert not _rebuilder(project).plan().rebuilds


def test_a_raw_log_is_rebuilt_from_the_archive_and_its_intact_blocks(base, tmp_path: Path) -> None:
    _, original = base
    shutil.copytree(original, tmp_path / "site")
    site = Site(tmp_path / "site")
    with site.collector() as collector:
        waiting = [
            submit(collector, 3, number) for number in range(28, 31)
        ]  # neither archived nor routed
    path = next((tmp_path / "site/shop/data/stream").glob("raw-*.db"))
    before = _content(site.project)
    data = path.read_bytes()
    at = data.index(b'"t3-28-0"')
    path.write_bytes(data[:at] + b"X" + data[at + 1 :])
    refused = _rebuilder(site.project).run()
    assert [Path(one.where) for one in refused.unrecoverable] == [path]
    assert "were acknowledged and are nowhere else" in refused.unrecoverable[0].lost
    assert path.read_bytes() != data, "what cannot be mended is left as it is"
    path.write_bytes(data)
    at = data.find(b'"t3-25-0"')
    if at >= 0:  # what the archive has too
        path.write_bytes(data[:at] + b"X" + data[at + 1 :])
        done = _rebuilder(site.project).run()
        assert [Path(one.where) for one in done.rebuilds] == [path]
        assert not done.unrecoverable
    with InProcessRoles(site.project, CLOCK) as roles:
        roles.drain()
    event_ids = {
        row["event_id"] for row in Lake(site.project.paths.lake).events(["event_id"]).to_pylist()
    }
    assert {each for body in waiting for each in body["acked"]} <= event_ids
    assert len(event_ids) > len(before["events"])
    assert verify(site.project.paths.lake).is_clean


def test_a_repair_must_be_alone(base, tmp_path: Path) -> None:
    _, original = base
    site, _, _ = _corrupt(original, tmp_path / "site", "commit file", _flip, 0)
    project = open_project(site.folder / "shop")
    lake = project.paths.lake
    from tailorbird.lake.files.lease import acquire_writer_lock

    lock = acquire_writer_lock(lake / "ledger.jsonl", CLOCK)
    try:
        with pytest.raises(LockedError):
            _rebuilder(project).run()
        assert _rebuilder(project).plan().rebuilds, "looking needs no lock"
    finally:
        lock.release()


@pytest.mark.slow
def test_the_command_plans_and_with_yes_rebuilds(base, tmp_path: Path) -> None:
    logs, original = base
    if logs == "pruned":
        pytest.skip("once is enough")
    site, _, _ = _corrupt(original, tmp_path / "site", "users", _lose, 0)

    def run(*options: str) -> tuple[int, dict]:
        done = _repair(site, "--json", *options)
        assert "Traceback" not in done.stderr
        return done.returncode, json.loads(done.stdout)

    status, output = run()
    assert (status, output["done"], output["unrecoverable"]) == (1, False, [])
    assert [one["what"] for one in output["rebuilt"]] == ["is missing (1 rows)"]
    assert not verify(site.project.paths.lake).is_clean
    events = Ledger(site.project.paths.lake / "ledger.jsonl").files("events")
    for path in events:
        (site.project.paths.lake / "events" / path).unlink()
    text = _repair(site).stdout
    assert len(events) > 1
    assert all(f"data/lake/events/{path}  is missing" in text for path in events)
    assert text.count("Can be rebuilt from the routed log") == 1, "one title for many files"
    status, output = run("--yes")
    assert (status, output["done"], output["clean"]) == (0, True, True)
    assert verify(site.project.paths.lake).is_clean
    assert run() == (0, {"done": False, "rebuilt": [], "unrecoverable": [], "clean": True})


@pytest.mark.slow
def test_rows_that_the_role_has_still_to_load_are_not_doubled(base, tmp_path: Path) -> None:
    """A crash between two tables leaves one of them behind; a rebuild must not run ahead of it."""
    logs, original = base
    if logs == "pruned":
        pytest.skip("the routed log must have the rows")
    shutil.copytree(original, tmp_path / "site")
    site = Site(tmp_path / "site")
    project, lake = site.project, site.project.paths.lake
    with site.collector() as collector:
        assert submit(collector, 4, 1)["acked"]
        refused = {"event_id": "x-between", "type": "nonsense", "user_id": "u1"}
        collector.submit(json.dumps([refused]).encode())
    with Router(project.stream, project.plan, clock=CLOCK) as router:
        while router.step().rows:
            pass
    step = (
        "import sys; from pathlib import Path; from tailorbird.lake import LakeRole; "
        "from tailorbird.events import SystemClock; "
        "LakeRole(Path(sys.argv[1]), Path(sys.argv[2]), clock=SystemClock()).step()"
    )
    killed = subprocess.run(
        [sys.executable, "-c", step, str(project.stream), str(lake)],
        env={**os.environ, "TAILORBIRD_FAULTS": "lake.between_tables=kill@1"},
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL
    (lake / "quarantine" / min(Ledger(lake / "ledger.jsonl").files("quarantine"))).unlink()
    done = _rebuilder(project).run()
    assert not done.unrecoverable, done.unrecoverable
    _go_on(site)
    bodies = Lake(lake).table("quarantine", ["body"])["body"].to_pylist()
    assert sum(b"x-between" in body for body in bodies) == 1
