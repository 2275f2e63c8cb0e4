"""Measure how fast rows enter the lake, and the gain from compaction.

Each is compared with the bare equivalent.

    python -m benchmarks.lake [--small] [--json] [--events N] [--runs N]

    duckdb_write   routed log → tables, beside DuckDB that writes the same rows, which it has in
                   memory, into one Parquet file
    duckdb_json    raw bodies → collector, router, lake, beside DuckDB's `read_json` of the same
                   events → Parquet: no check, no deduplication, no identity, no log, no sync
    compaction     reading a lake of many small commits, before and after compaction: all rows of
                   two columns
    person         one person's rows out of a lake whose old day is sorted by person, beside the
                   same in the order of the log
    positions      a range of positions out of the lake in the order of the log, beside the same
                   sorted by person

Ratios are the other's time over ours, `cpu_ratios` the same for CPU time; `compaction`, `person`
and `positions` are the gain (below 1: the cost). DuckDB runs on all cores, and with `_1` on one, as
our roles do.
"""

import argparse
import io
import json
import platform
import shutil
import sys
import tempfile
from collections import defaultdict
from importlib.metadata import version
from pathlib import Path

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds

from benchmarks.ingest import BODY_ROWS, PLAN, START, Stopwatch, cpu_name, make_bodies
from tailorbird.events import DAY, Receipt, SimulatedClock
from tailorbird.events.contract.columnwise import Contract
from tailorbird.lake import Lake, LakeRole
from tailorbird.periodic import exit_process
from tailorbird.router import Router
from tailorbird.stream import Block, open_reader, open_writer, raw_path, routed_path

COMMIT_ROWS = 10_000
PERSON = "u00042"
RECEIPT = msgspec.json.encode(Receipt(START))


def write_logs_and_lake(folder: Path, sent: list[bytes], watch: Stopwatch) -> None:
    """Write raw log, routed log and lake of the events, each stage timed by itself.

    The routed log alone is also read into a second lake.
    """
    clock, stream = SimulatedClock(START), folder / "stream"
    with watch.of("check"):
        receipt, contract = Receipt(START), Contract(PLAN)
        for body in sent:
            assert not contract.check_bodies([(body, receipt)]).refusals
    blocks = [Block("body", BODY_ROWS, body, RECEIPT) for body in sent]
    with (
        open_writer(raw_path(stream, "collector"), partition="collector") as writer,
        watch.of("raw_log"),
    ):
        for start in range(0, len(blocks), 16):
            writer.append(blocks[start : start + 16])
    with Router(stream, PLAN, clock=clock) as router, watch.of("router"):
        while router.step().rows:
            pass
    alone = folder / "routed-alone"
    alone.mkdir()
    for database in stream.glob("routed.db*"):
        shutil.copy(database, alone)
    with LakeRole(alone, folder / "lake-alone", clock=clock) as role, watch.of("routed_to_lake"):
        role.drain()
    with LakeRole(stream, folder / "lake", clock=clock) as role, watch.of("lake"):
        role.drain()
    for seconds in (watch.seconds, watch.cpu_seconds):
        seconds["body_to_lake"].append(
            sum(seconds[stage][-1] for stage in ("check", "raw_log", "router", "lake"))
        )


def routed_events(stream: Path) -> pa.Table:
    """Return the events of the routed log as one table in memory."""
    tables, start = [], 0
    with open_reader(routed_path(stream)) as reader:
        while blocks := reader.read(start):
            tables += [
                pa.ipc.open_stream(io.BytesIO(record.block.payload)).read_all()
                for record in blocks
                if record.block.kind == "events"
            ]
            start = blocks[-1].end
    return pa.concat_tables(tables).combine_chunks()


def duckdb_writes(folder: Path, sent: list[bytes], watch: Stopwatch) -> int:
    """Time both of DuckDB's parts, on all cores and on one; return the rows that it wrote."""
    import duckdb

    table = routed_events(folder / "stream")
    lines = folder / "events.json"
    lines.write_bytes(
        b"\n".join(
            msgspec.json.encode(event) for body in sent for event in msgspec.json.decode(body)
        )
    )
    to = "(FORMAT parquet, COMPRESSION zstd, COMPRESSION_LEVEL 1)"
    for suffix, threads in (("", 0), ("_1", 1)):
        connection = duckdb.connect()
        if threads:
            connection.execute(f"SET threads = {threads}")
        connection.register("routed", table)
        out = folder / f"duckdb{suffix}.parquet"
        with watch.of(f"duckdb_write{suffix}"):
            connection.execute(f"COPY (SELECT * FROM routed) TO '{out}' {to}")
        (written,) = connection.execute(f"SELECT count(*) FROM '{out}'").fetchall()[0]
        with watch.of(f"duckdb_json{suffix}"):
            connection.execute(
                f"COPY (SELECT * FROM read_json('{lines}', format = 'newline_delimited')) TO "
                f"'{out}' {to}"
            )
        connection.close()
    return written


def time_reads(folder: Path, watch: Stopwatch, rows: int) -> bool:
    """Time reads of a lake of small commits: as it is, compacted, and sorted by person.

    Returns True if all three give the same rows.
    """
    clock, answers = SimulatedClock(START), []
    layouts = {"small_files": "position", "together": "position", "sorted": "person"}
    for layout, sort in layouts.items():
        path = folder / f"lake-{layout}"
        with LakeRole(folder / "routed-alone", path, clock=clock, sort=sort) as role:
            while not role.step(COMMIT_ROWS).is_idle:
                pass
            if layout != "small_files":
                with watch.of(f"put_{layout}"):
                    while role.upkeep(include_unsettled=True):
                        pass
        low = rows // 2
        queries = {
            "all": (["ts", "item_id"], None),
            "person": (["ts", "item_id"], ds.field("person") == PERSON),
            "positions": (
                ["ts", "item_id"],
                (ds.field("p") >= low) & (ds.field("p") < low + rows // 20),
            ),
        }
        for name, (columns, where) in queries.items():
            with watch.of(f"{name}_{layout}"):
                table = Lake(path).table("events", columns, where)
            answers.append(
                (name, table.num_rows, int(np.sum(table["ts"].cast(pa.int64()).to_numpy() % DAY)))
            )
        files = Lake(path).row_counts_by_file("events", Lake(path).version("events"))
        watch.seconds[f"files_{layout}"].append(len(files))
        watch.seconds[f"bytes_{layout}"].append(
            sum((path / "events" / file).stat().st_size for file in files)
        )
    return len(set(answers)) == len(queries)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--small", action="store_true", help="a tenth of the size, for a minute at most"
    )
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--events", type=int, default=300_000)
    parser.add_argument("--runs", type=int, default=3)
    arguments = parser.parse_args()
    events = max(
        BODY_ROWS, arguments.events // (10 if arguments.small else 1) // BODY_ROWS * BODY_ROWS
    )
    sent, watch, equal, peers = make_bodies(events), Stopwatch(), [], True
    for _ in range(arguments.runs):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            write_logs_and_lake(folder, sent, watch)
            equal.append(
                Lake(folder / "lake").count("events")
                == Lake(folder / "lake-alone").count("events")
                == events
            )
            try:
                equal.append(duckdb_writes(folder, sent, watch) == events)
            except ImportError:
                peers = False
            equal.append(time_reads(folder, watch, events))
    shapes = {
        name: int(watch.median(name))
        for name in list(watch.seconds)
        if name.startswith(("files_", "bytes_"))
    }
    for name in shapes:
        del watch.seconds[name]
    stages = ("check", "raw_log", "router", "lake")
    total_s = sum(watch.median(stage) for stage in stages)
    report = {
        "results": watch.results(defaultdict(lambda: events)),
        "shares": {stage: round(watch.median(stage) / total_s, 3) for stage in stages},
        "ratios": {name: watch.ratio(*pair) for name, pair in ratio_pairs(peers).items()},
        "cpu_ratios": {name: watch.cpu_ratio(*pair) for name, pair in ratio_pairs(peers).items()},
        "left_out": {} if peers else {"duckdb": "is not installed: pip install -e '.[bench]'"},
        "equal": {"every way has the same rows": all(equal)},
        "sizes": {
            "events": events,
            "bytes": sum(map(len, sent)),
            "commit_rows": COMMIT_ROWS,
            "runs": arguments.runs,
            **shapes,
        },
        "versions": {
            name: version(name)
            for name in ("deltalake", "pyarrow", "apsw", "numpy", *(("duckdb",) if peers else ()))
        }
        | {"python": platform.python_version()},
        "cpu": cpu_name(),
    }
    json.dump(report, sys.stdout, indent=None if arguments.json else 2)
    print()
    exit_process(
        0 if all(equal) else 1
    )  # deltalake's threads may abort a process that ends in the usual way


def ratio_pairs(peers: bool) -> dict[str, tuple[str, str]]:
    """Return the stage names of each peer's time and of ours."""
    pairs_by_name = {
        "compaction": ("all_small_files", "all_together"),
        "person": ("person_together", "person_sorted"),
        "positions": ("positions_together", "positions_sorted"),
    }
    if peers:
        for suffix in ("", "_1"):
            pairs_by_name[f"duckdb_write{suffix}"] = (f"duckdb_write{suffix}", "routed_to_lake")
            pairs_by_name[f"duckdb_json{suffix}"] = (f"duckdb_json{suffix}", "body_to_lake")
    return pairs_by_name


if __name__ == "__main__":
    main()
