"""Whatever files commands write: an erasure knows each kind, and nothing of the erased is left in
any.
"""

import json
import re
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.support.commands import run_each
from tests.support.people import (
    CANARY,
    CLOCK,
    find_in_files,
    make_collected_events,
    make_refused_row,
)

from tailorbird.config import open_project
from tailorbird.lake.write.labels import add_command_metadata
from tailorbird.platform.inprocess import InProcessServer
from tailorbird.platform.runtime.roles import InProcessRoles
from tailorbird.privacy import erase
from tailorbird.privacy.files import find_scratch_files, writing_command
from tailorbird.serving.collector.collector import EventCollector
from tailorbird.serving.messages import RecommendQuery

# Every kind of file that a command writes below a project's data, and what an erasure does with it.
KINDS = {
    r"stream/(raw|answers)-[^/]+\.db(-wal|-shm)?": "rewritten",
    r"stream/(routers/\d+/)?routed(-index(\.\d+)?)?\.db(-wal|-shm)?": "rewritten",
    r"stream/routed-items\.db(-wal|-shm)?": "rewritten",
    r"stream/scores\.db(-wal|-shm)?": "emptied",
    r"stream/import-runs/.+": "scratch",
    r"stream/.+\.damaged-\d+": "nobody can tell: an erasure refuses to begin",
    r"stream/.*answers-[^/]+\.(given|count|ledger)": "nobody",
    r"stream/.*reserve.*": "nobody",
    r"lake/[a-z]+/(_delta_log/.+|(day=[^/]+/)?[^/]+\.parquet)": "rewritten",
    r"lake/archive/.+": "rewritten",
    r"lake/(ledger\.jsonl|positions\.json|erasures\.json|pseudonyms\.json)": "nobody",
    r"lake/set-aside/.+": "rewritten",
    r"state/([^/]+/)?[0-9a-f]{12}/(data|lock)\.mdb(\.damaged)?": "rebuilt",
    r"state/(([^/]+/)?[0-9a-f]{12}/[a-z-]+\.json|applied\.json|score\.json)": "nobody",
    r"candidates/[0-9a-f]{12}/((data|lock)\.mdb(\.damaged)?|state-\d+\.npz)": "rebuilt",
    r"candidates/current\.json": "nobody",
    r"registry/(churn/[^/]+/)?(v\d+/.+)": "models",
    r"registry/(churn/[^/]+/)?(aliases\.json|formulas\.json|audit\.jsonl|lock)": "nobody",
    r"registry/(churn/[^/]+/)?\.incoming/.+": "scratch",
    r"(reports|checks)/.+": "derived",
    r"tune/[^/]+/unfinished/.+": "scratch",
    r"tune/[^/]+/lock": "nobody",
    r"training/(unfinished|warm)/.+": "scratch",
    r"training/logs/.+": "nobody: figures by epoch",
    r"run/.+": "derived",
    r"erasure/.+": "erasure",
    r"pseudonyms\.json": "nobody",
    r"project-id": "nobody",
    r".+\.lock": "nobody",
}
_DRAFT = re.compile(r"(.+\.(new|part|copy|fresh)|\..+\.\d+)\Z")
LEAVER, OTHER = "canary-user-000", "other-user-001"
WRITE = [
    ["checks", "run", "--json"],
    ["features", "verify"],
    ["features", "backfill", "--out", "training-set"],
    ["evaluate", "--json"],
    ["lake", "events", "--out", "events.parquet"],
    ["lake", "export-user", LEAVER, "--out", f"{LEAVER}.jsonl"],
    ["lake", "compact"],
    ["lake", "export-user", OTHER, "--out", "other.jsonl"],
    ["experiment", "report", "--json"],
    ["train", "--quick"],
    ["doctor"],
    ["models", "list"],
    ["lake", "verify"],
]


def unknown(data: Path) -> list[str]:
    """Return the files of which it is not said what an erasure does with them."""
    files = [path for path in sorted(data.rglob("*")) if path.is_file()]
    paths = [path.relative_to(data).as_posix() for path in files if not _DRAFT.fullmatch(path.name)]
    return [path for path in paths if not any(re.fullmatch(kind, path) for kind in KINDS)]


@pytest.mark.slow
def test_each_kind_of_file_has_no_data_of_erased_people(shop: Path, tmp_path: Path) -> None:
    root = Path(
        shutil.copytree(
            shop, tmp_path / "shop", ignore=shutil.ignore_patterns("history.jsonl", "*.lock")
        )
    )
    project = open_project(root)
    with (
        EventCollector(project.stream, "serve-1", project.plan, CLOCK) as collector,
        InProcessRoles(project, CLOCK) as roles,
    ):
        for user in (LEAVER, OTHER):
            collector.submit(json.dumps(make_collected_events(user)).encode())
            collector.submit(make_refused_row(user))
        roles.drain()
        parts = InProcessServer(project, CLOCK, collector=collector, seed=1)
        for user in (LEAVER, OTHER):
            parts.pipeline.answer(
                RecommendQuery(
                    slot=next(iter(project.slots)), user_id=user, session_id=f"{user}-session"
                )
            )
        parts.close()
        collector.close()
        roles.drain()
    done = run_each([["-C", str(root), *words] for words in WRITE], cwd=root)
    failures = {" ".join(one.args[2:]): one.stderr[-300:] for one in done if one.returncode}
    # what they find is for others to say
    assert not {name for name in failures if not name.startswith(("checks", "experiment"))}, (
        failures
    )
    cut_short = [
        root / "data" / "registry" / ".incoming" / "a",
        root / "data" / "run" / "verify-x" / "b",
        root / "scores.parquet.part",
    ]
    for path in cut_short:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(f"of {LEAVER}".encode())
    assert unknown(project.paths.data) == []

    (result,) = run_each([["-C", str(root), "lake", "verify", "--erased", LEAVER]], cwd=root)
    made_of_it, own = result.stdout.partition("in what commands made of it")[2].split(
        "in files of yours"
    )
    assert result.returncode == 1
    assert "training-set" in made_of_it
    assert "scores.parquet.part" in own
    assert "training-set" not in own

    outcome = erase(project, [LEAVER], CLOCK)

    assert [Path(path).name for path in outcome.left] == ["scores.parquet.part"], (
        "nobody can tell whose it is"
    )
    assert cut_short.pop().read_bytes() == f"of {LEAVER}".encode()
    (root / "scores.parquet.part").unlink()
    assert find_in_files(root, CANARY) == []
    assert not [path for path in cut_short if path.exists()]
    assert not (root / "events.parquet").exists()
    assert (root / "other.jsonl").exists(), "it says nothing of them"
    assert unknown(project.paths.data) == []


def test_files_that_a_command_wrote_elsewhere_are_recognised(tmp_path: Path) -> None:
    table = pa.table({"person": ["u1"], "gone": [0.5]})
    pq.write_table(add_command_metadata(table, "score churn"), tmp_path / "scores.parquet")
    pq.write_table(table, tmp_path / "own.parquet")
    (tmp_path / "told.jsonl").write_text('{"source":"person","asked":["u1"]}\n')
    (tmp_path / "own.jsonl").write_text('{"person":"u1"}\n')
    names = ("scores.parquet", "own.parquet", "told.jsonl", "own.jsonl", "nothing")
    assert [writing_command(tmp_path / name) for name in names] == [
        "score churn",
        "",
        "lake export-user",
        "",
        "",
    ]


def test_abandoned_intermediate_files_are_always_deleted(tmp_path: Path) -> None:
    retained = [
        "training/logs/home/events",
        "lake/events/a.parquet",
        "lake/ledger.jsonl.new",
        "registry/v0001/manifest.json",
    ]
    deleted = [
        "training/warm/home/warm.npz",
        "training/unfinished/home/checkpoint.npz",
        "tune/home/unfinished/a.npz",
        "registry/.incoming/a",
    ]
    deleted += ["stream/routed-index.db.copy", "run/verify-x/a", "state/applied.json.7.new"]
    for name in (*retained, *deleted):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    for path in list(find_scratch_files(tmp_path, tmp_path / "lake")):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert sorted(
        path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()
    ) == sorted(retained)


def test_a_file_of_no_kind_is_named(tmp_path: Path) -> None:
    for name in (
        "stream/raw-serve-1.db",
        "stream/notes.txt",
        "cache/users.parquet",
        "reports/signals.html",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert unknown(tmp_path) == ["cache/users.parquet", "stream/notes.txt"]
