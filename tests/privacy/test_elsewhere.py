"""What an erasure leaves behind in other places: files sorted by person, an archive that can be
routed anew and models.
"""

import json
import shutil
from pathlib import Path

import msgspec
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable, write_deltalake
from tests.support.commands import assert_refused, run_each, tailorbird
from tests.support.people import CANARY, CLOCK, Site, find_in_files, make_site
from tests.support.privacy.events import make_click, make_project_with_events
from tests.support.roles import make_project
from tests.support.shops.evolving_shop import write_clicks_bundle

from tailorbird.config import Project
from tailorbird.errors import NotReadyError, UsageError
from tailorbird.events import DAY
from tailorbird.events.suppression import require_finished_erasure
from tailorbird.lake import Lake, verify
from tailorbird.lake.files.archive import Archive
from tailorbird.lake.write.role import LakeRole
from tailorbird.platform.runtime.roles import InProcessRoles
from tailorbird.privacy import erase, preview
from tailorbird.registry import Registry
from tailorbird.registry.manifest import MANIFEST, Manifest, TrainingWindow, seal
from tailorbird.router import Router
from tailorbird.serving.collector.collector import EventCollector
from tailorbird.stream import open_writer, raw_path

COMPARED = [
    "type",
    "ts",
    "item_id",
    "items",
    "price",
    "dwell_ms",
    "counts",
    "raw_row",
    "event_id",
    "request_id",
    "anonymous_id",
    "user_id",
]


@pytest.fixture(scope="module")
def erased(tmp_path_factory: pytest.TempPathFactory) -> Site:
    site = make_site(tmp_path_factory.mktemp("elsewhere"), canaries=4)
    erase(site.project, site.users, CLOCK)
    return site


@pytest.mark.slow
def test_the_archive_routed_anew_gives_what_the_lake_has(erased: Site, tmp_path: Path) -> None:
    project = erased.project
    archive = Archive(project.paths.lake / "archive")
    for partition in archive.positions():
        with open_writer(raw_path(tmp_path, partition), partition=partition) as log:
            for file in archive.files:
                if file.partition == partition:
                    log.append([stored.block for stored in archive.read(file)])
    with Router(tmp_path, project.plan, clock=CLOCK) as router:
        while router.step().rows:
            pass
    with LakeRole(tmp_path, tmp_path / "lake", clock=CLOCK) as role:
        role.drain()
    place = [("raw_partition", "ascending"), ("raw_offset", "ascending"), ("raw_row", "ascending")]
    again, now = (
        Lake(path).events([*COMPARED, "raw_partition", "raw_offset"]).sort_by(place)
        for path in (tmp_path / "lake", project.paths.lake)
    )
    assert again.num_rows > 100
    for name in COMPARED:
        assert again[name].to_pylist() == now[name].to_pylist(), name


def test_the_footers_of_sorted_files_name_nobody(tmp_path: Path) -> None:
    project = make_project_with_events(
        tmp_path, [make_click(f"e{n}", f"canary-{n}" if n % 3 else f"other-{n}") for n in range(12)]
    )
    for n in range(12, 16):
        more(project, make_click(f"e{n}", f"canary-{n}"))
    with LakeRole(project.stream, project.paths.lake, clock=CLOCK, sort="person") as role:
        assert role.upkeep(include_unsettled=True)
    assert CANARY.decode() in "".join(bounds(project.paths.lake))
    erase(project, [f"canary-{n}" for n in range(16) if n % 3 or n > 11], CLOCK)
    assert find_in_files(project.root, CANARY) == []
    found = bounds(project.paths.lake)
    assert found == sorted(found)
    assert found[-1] == "other-9", "the file is sorted still"
    assert verify(project.paths.lake).is_clean


def more(project: Project, event: dict) -> None:
    with (
        EventCollector(project.paths.stream, "serve-1", project.plan, CLOCK) as collector,
        InProcessRoles(project, CLOCK) as roles,
    ):
        collector.submit(json.dumps(event).encode())
        roles.drain()


def bounds(lake: Path) -> list[str]:
    """Least and greatest person of each sorted file."""
    found: list[str] = []
    for file in Lake(lake).row_counts_by_file("events", Lake(lake).version("events")):
        metadata = pq.ParquetFile(lake / "events" / file).metadata.row_group(0)
        column = next(
            one
            for one in map(metadata.column, range(metadata.num_columns))
            if one.path_in_schema == "person"
        )
        if column.is_stats_set:
            found += [column.statistics.min, column.statistics.max]
    return found


@pytest.mark.slow
def test_what_was_set_aside_is_told_file_by_file_with_what_to_do(tmp_path: Path) -> None:
    """It may hold anybody's rows: of a file that was damaged, or of another writer's commit, which
    nobody needs.
    """
    site = make_site(tmp_path, canaries=1, others=3)
    project, lake = site.project, site.project.paths.lake
    table = DeltaTable(str(lake / "events"))
    own = set(table.file_uris())
    write_deltalake(table, table.to_pyarrow_table().slice(0, 1), mode="append")
    (rows,) = set(DeltaTable(str(lake / "events")).file_uris()) - own
    with LakeRole(project.stream, lake, clock=CLOCK):
        pass
    foreign, damaged = (
        lake / "set-aside" / "events" / name for name in (Path(rows).name, "part-7.parquet")
    )
    assert foreign.exists()
    with pytest.raises(UsageError, match="1 files") as told:
        erase(project, site.users, CLOCK)
    assert str(foreign) in told.value.fix
    damaged.write_bytes(b"PAR1")
    with pytest.raises(UsageError, match="2 files") as told:
        erase(project, site.users, CLOCK)
    assert str(damaged) in told.value.fix
    foreign.unlink()
    damaged.unlink()
    assert erase(project, site.users, CLOCK).is_clean


def test_models_that_learned_from_them_are_named_with_when_they_are_due(tmp_path: Path) -> None:
    project = make_project_with_events(tmp_path, [make_click("e1", "user-4711")])
    now = CLOCK.now()
    registry = Registry(project.paths.registry, clock=CLOCK)
    spans = {
        "live": (now - DAY, now + DAY),
        "old": (now - 9 * DAY, now - 2 * DAY),
        "spare": (0, now + DAY),
    }
    versions = {
        name: registry.add(trained(project, tmp_path / name, TrainingWindow(*span)), by="test")
        for name, span in spans.items()
    }
    registry.promote(versions["live"], by="test", why="to have one")
    told = {
        one["version"]: (one["aliases"], one["what"])
        for one in preview(project, ["user-4711"], CLOCK).bundles
    }
    assert told == {
        versions["live"]: (["champion"], "train anew and promote"),
        versions["spare"]: ([], "delete the folder"),
    }
    done = erase(project, ["user-4711"], CLOCK)
    assert {one["version"]: one["due"] for one in done.bundles} == dict.fromkeys(
        told, done.begun_at + 30 * DAY
    )


def test_churn_models_that_learned_from_them_are_named_too(tmp_path: Path) -> None:
    project = make_project_with_events(tmp_path, [make_click("e1", "user-4711")])
    registry = Registry(project.paths.churn("leaving"), clock=CLOCK)
    registry.add(
        trained(project, tmp_path / "model", TrainingWindow(0, CLOCK.now() + DAY)), by="test"
    )
    told = [(one["version"], one["what"]) for one in preview(project, ["user-4711"], CLOCK).bundles]
    assert told == [("churn/leaving/v0001", "delete the folder")]


def trained(project: Project, folder: Path, window: TrainingWindow) -> Path:
    write_clicks_bundle(folder, project.features)
    manifest = msgspec.json.decode((folder / MANIFEST).read_bytes(), type=Manifest)
    seal(
        folder, msgspec.structs.replace(manifest, window=window, index_as_of=window.ts_to, files={})
    )
    return folder


@pytest.mark.slow
def test_nothing_starts_on_half_an_erasure(tmp_path: Path) -> None:
    journal = tmp_path / "erasure" / "journal.json"
    require_finished_erasure(tmp_path)
    journal.parent.mkdir()
    journal.write_text("{}")
    with pytest.raises(NotReadyError, match="cut short"):
        require_finished_erasure(tmp_path)
    project = make_project(tmp_path / "shop")
    shutil.copytree(journal.parent, project.paths.data / "erasure")
    assert_refused(
        tailorbird("-C", project.root, "up"), "an erasure was cut short", "lake erase --yes"
    )
    (tmp_path / "more.jsonl").write_text(
        '{"event_id": "e1", "type": "click", "user_id": "u1", "item_id": "i1"}\n'
    )
    adding = (
        ["import", "tailorbird", tmp_path / "more.jsonl"],
        ["lake", "replay", "--reason", "unknown_type"],
    )
    reading = (
        ["train"],
        ["run", "trainer"],
        ["features", "apply", "--yes"],
        ["lake", "export-user", "u1"],
        ["checks", "run"],
    )
    commands = [["-C", str(project.root), *map(str, words)] for words in (*adding, *reading)]
    for done in run_each(commands, cwd=project.root):
        assert_refused(done, "an erasure was cut short", "lake erase --yes")
    assert "an erasure was cut short" in tailorbird("-C", project.root, "doctor").stdout
