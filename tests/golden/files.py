"""The files of a project: paths and the shapes of JSON files, tables, logs, and a bundle."""

import json
import re
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pyarrow as pa
from deltalake import DeltaTable
from tests.golden.shapes import readable, shape
from tests.golden.site import RecordedShop

from tailorbird.events.contract.schema import ROUTED

_PASSING = re.compile(r"(\.lock|-wal|-shm|/lock|/lock\.mdb)$")  # is there or not, as it happens
_VARYING = (
    (re.compile(r"\b[0-9a-f]{32}\b"), "<segment>"),
    (re.compile(r"\b[0-9a-f]{12}\b"), "<schema>"),
    (re.compile(r"\b\d{20}\b"), "<number>"),
    (re.compile(r"\bv\d{4}\b"), "<version>"),
    (re.compile(r"\bday=[0-9-]+"), "day=<day>"),
    (re.compile(r"[^/]+\.parquet$"), "<part>.parquet"),
)
_RECORDED = ("lake", "registry", "state", "stream")  # of `data/`; what is in `run` comes and goes
_TABLES = ("answers", "commits", "duplicates", "events", "items", "quarantine", "users")
# Dictionaries whose keys are data, by the end of the file's name.
_MAPS = {
    "lake/ledger.jsonl": ("[].positions",),
    "lake/positions.json": (
        "archive",
        "routed",
        "safe",
        *(f"tables.{name}" for name in _TABLES),
        "router_offsets",
    ),
    "state/<schema>/worker.json": ("capped", "converted", "kinds", "unreadable"),
    "state/score.json": ("capped", "converted", "kinds", "unreadable"),
}
# Of the report of a training, wherever it stands.
TRAINING_MAPS = (
    "about.calibration",
    "about.columns",
    "about.dropped",
    *(f"about.lake.{name}.positions" for name in _TABLES),
    "about.objective",
    "amounts",
    "heads",
    "heads.<...>.calibration_slices",
    "seconds",
    "slices",
)
MANIFEST_MAPS = ("files", "formula", *(f"metrics.{path}" for path in TRAINING_MAPS))


def bundle(shop: RecordedShop) -> str:
    """Return the files of the trained bundle with the shapes of those in JSON, as text."""
    folder = shop.project / "data" / "registry" / shop.trained
    return readable(_files(folder, {"manifest.json": MANIFEST_MAPS}))


def files(shop: RecordedShop) -> str:
    """Return the files of logs, state, lake and registry, bundles left out, as text."""
    data = shop.project / "data"
    paths = {
        f"{name}/{path}": content
        for name in _RECORDED
        for path, content in _files(data / name, _MAPS).items()
        if not f"{name}/{path}".startswith("registry/<version>/")
    }
    return readable(paths)


def tables(shop: RecordedShop) -> str:
    """Return the columns and partitions of each table of the lake, as text."""
    column_types = {}
    for folder in sorted((shop.project / "data" / "lake").iterdir()):
        if (folder / "_delta_log").exists():
            table = DeltaTable(folder)
            columns = pa.schema(table.schema().to_arrow())
            column_types[folder.name] = {
                "columns": _columns(columns),
                "partitioned by": table.metadata().partition_columns,
            }
    return json.dumps(column_types, indent=1) + "\n"


def routed(shop: RecordedShop) -> str:
    """Return the columns of each kind of block of the routed log, as text."""
    kinds = {}
    path = shop.project / "data" / "stream" / "routed.db"
    for kind, payload in _rows(path, "SELECT kind, max(payload) FROM block GROUP BY kind"):
        if kind == "progress":  # says in JSON which rows of the raw logs were looked at
            continue
        kinds[kind] = _columns(pa.ipc.open_stream(payload).schema)
    assert kinds["events"] == _columns(ROUTED), "the log holds other columns than are declared"
    return json.dumps(kinds, indent=1) + "\n"


def _columns(schema: pa.Schema) -> list[str]:
    return [f"{field.name}: {field.type}" for field in schema]


def _files(folder: Path, maps: dict[str, tuple[str, ...]]) -> dict[str, Any]:
    """Return what each file of a folder holds, under its name with what varies left out."""
    paths_: dict[str, Any] = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_dir() or _PASSING.search(f"/{name}"):
            continue
        for varying, instead in _VARYING:
            name = varying.sub(instead, name)
        inside = next((maps[key] for key in maps if f"{folder.name}/{name}".endswith(key)), ())
        paths_[name] = _content(path, inside)
    return paths_


def _content(path: Path, maps: tuple[str, ...]) -> Any:
    if "text" in path.parts or "_delta_log" in path.parts:  # Tantivy's own, and Delta's
        return "file"
    if path.suffix == ".json":
        return shape(json.loads(path.read_bytes()), maps)
    if path.suffix == ".jsonl":
        return shape([json.loads(line) for line in path.read_bytes().splitlines()], maps)
    if path.suffix == ".db":
        return {"blocks": _blocks(path), "tables": _sqlite_tables(path)}
    return "file"


def _blocks(path: Path) -> dict[str, Any]:
    """Return the shape of the receipts of each kind of block in a log."""
    receipts: dict[str, list[Any]] = {}
    for kind, receipt in _rows(path, "SELECT kind, receipt FROM block"):
        receipts.setdefault(kind, []).append(json.loads(receipt) if receipt else None)
    return {kind: shape(some) for kind, some in receipts.items()}


def _sqlite_tables(path: Path) -> dict[str, list[str]]:
    names = [name for (name,) in _rows(path, "SELECT name FROM sqlite_schema WHERE type = 'table'")]
    return {
        name: [f"{row[1]}: {row[2].lower()}" for row in _rows(path, f"PRAGMA table_info({name})")]
        for name in names
    }


def _rows(path: Path, query: str) -> list[Any]:
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
        return connection.execute(query).fetchall()
