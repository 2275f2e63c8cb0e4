"""`tailorbird features backfill`: features of the past into a folder of Parquet."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from tailorbird.cli.output import Json, console, print_json, progress_bars, this_command
from tailorbird.errors import NotReadyError, UsageError

if TYPE_CHECKING:
    import pyarrow as pa

    from tailorbird.features.backfill import Requests
    from tailorbird.lake import Lake

WORK = "columns"  # what was computed, by column; whole ones are never computed again
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*(MB|MiB|GB|GiB|TB|TiB)?\Z", re.IGNORECASE)
_UNITS = {"mb": 10**6, "mib": 1 << 20, "gb": 10**9, "gib": 1 << 30, "tb": 10**12, "tib": 1 << 40, "": 1}
_KNOWN_BY = ("session_id", "device", "country", "local_hour", "query")


def backfill(
    *,
    out: Path,
    from_: Annotated[str, Parameter(name="--from")] = "",
    to: str = "",
    requests: Path | None = None,
    only: Annotated[list[str] | None, Parameter(negative=())] = None,
    memory: str = "2GB",
    json: Json = False,
) -> None:
    """Compute what features.py declares for requests of the past, each value as it was known then, into a folder of Parquet files.

    The requests are the logged answers of a span of time, or the rows of a Parquet file with the columns person, item and ts (and, where
    known, session_id, device, country, local_hour, query, and p, the routed position up to which events were known; without p all that
    the lake knows counts). Values that the folder has already are kept: interrupted, it goes on; with one feature more it computes that one
    alone.

    rows-*.parquet have a row for each request and item: who, which, when, and the features (categories as hashes, missing is 0);
    requests-*.parquet have the sequences of each request. Every column that the folder holds as it is declared now is in them.

    Example:  tailorbird -C shop features backfill --from 2026-03-01 --to 2026-04-01 --out march

    Example:  tailorbird -C shop features backfill --requests wanted.parquet --only item_ctr_7d --memory 8GB --out wanted

    Parameters
    ----------
    out:
        the folder
    from_:
        answers from this time on, such as 2026-03-01; from the first one unless told otherwise
    to:
        answers before this time; up to the newest one unless told otherwise
    requests:
        a Parquet file of requests instead of logged answers
    only:
        these features only; may be given several times
    memory:
        how much the computation may take beside the requests themselves
    """
    from tailorbird.config import open_project
    from tailorbird.features.shards import backfill_to, definitions
    from tailorbird.lake import Lake
    from tailorbird.stream.lock import FileLock

    project = open_project()
    size = _size(memory)
    chosen = only or []
    _require_known([feature.name for feature in project.features.features], chosen)
    lake = Lake(project.paths.lake)
    if not lake.exists("events"):
        raise NotReadyError("the lake is empty", where=str(lake.path), fix="tailorbird import brings events in")
    if requests is not None and (from_ or to):
        raise UsageError("--requests brings its own times", where="--from", fix="leave --from and --to away")
    wanted, ids = _of_file(requests, lake) if requests is not None else _of_answers(lake, from_, to)
    newest = int(wanted.p.max(initial=0))
    lock = FileLock(out / WORK)  # two at a time would write over each other
    try:
        with progress_bars(quiet=json) as progress:
            backfill_to(
                project.features,
                lambda columns: _events(lake, columns, newest),
                wanted,
                out / WORK,
                memory_bytes=size,
                only=chosen or None,
                version=f"p{newest}",  # later events change no value that was known by then
                progress=progress,
            )
        names = _write_rows(out, definitions(project.features), wanted, ids)
    finally:
        lock.release()
    if json:
        print_json({"folder": str(out), "requests": len(wanted.t), "rows": len(wanted.row_request), "columns": names, "p": newest})
        return
    told = f"{len(names)} features of {len(wanted.row_request):,} rows of {len(wanted.t):,} requests"
    console().print(f"{told} are in {out}/rows-*.parquet.", markup=False)


def _of_answers(lake: "Lake", since: str, to: str) -> "tuple[Requests, pa.Array | None]":
    import pyarrow.compute as pc

    from tailorbird.cli.moment import time_of
    from tailorbird.features.recompute import requests_of

    if not lake.exists("answers") or not lake.count("answers"):
        raise NotReadyError("no answer has been logged yet", where=str(lake.path), fix="--requests FILE brings requests of your own")
    columns = ["ts", "p", "person", "items", "request_id", *_KNOWN_BY]
    answers = lake.answers(columns, time_of(since, "--from") if since else None, time_of(to, "--to") if to else None)
    answers = answers.filter(pc.greater(pc.list_value_length(answers["items"]), 0)).sort_by(
        [("ts", "ascending"), ("request_id", "ascending")]
    )
    if not answers.num_rows:
        raise NotReadyError("no answer was logged in that time", where=str(lake.path), fix="choose another span: --from, --to")
    return requests_of(answers.combine_chunks()), answers["request_id"].combine_chunks()


def _of_file(file: Path, lake: "Lake") -> "tuple[Requests, pa.Array | None]":
    """Each row is a request for one item."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    from tailorbird.features.backfill import Requests

    try:
        table = pq.read_table(file)
    except (OSError, pa.ArrowInvalid) as error:
        raise UsageError(f"cannot be read as Parquet: {error}", where=str(file)) from None
    for name in ("person", "item", "ts"):
        if name not in table.column_names:
            told = f"expected columns person, item and ts, found {', '.join(table.column_names)}"
            raise UsageError(told, where=str(file), fix=f"name the column {name}")
        if table[name].null_count and name != "person":
            raise UsageError(f"{table[name].null_count:,} values are missing", where=f"{file}: {name}")
    rows = table.num_rows
    if "p" in table.column_names:
        p = table["p"].to_numpy().astype(np.int64)
    else:
        p = np.full(rows, int(pc.max(lake.table("events", ["p"])["p"]).as_py() or 0))
    known = {name: table[name] for name in _KNOWN_BY if name in table.column_names}
    ts = table["ts"]
    if pa.types.is_timestamp(ts.type):
        ts = ts.cast(pa.timestamp("us", getattr(ts.type, "tz", None)), safe=False).cast(pa.int64())
    elif not pa.types.is_integer(ts.type):
        raise UsageError(f"expected timestamps or microseconds, got {ts.type}", where=f"{file}: ts")
    texts = {name: table[name].cast(pa.string()) for name in ("person", "item")}
    return Requests(ts.to_numpy().astype(np.int64), p, texts["person"], np.arange(rows), texts["item"], **known), None


def _events(lake: "Lake", columns: Sequence[str], newest: int) -> "Iterator[pa.Table]":
    import pyarrow as pa
    import pyarrow.dataset as ds

    for batch in lake.batches("events", columns, ds.field("p") <= newest):
        yield pa.Table.from_batches([batch])


def _write_rows(out: Path, declared: "dict[str, str]", wanted: "Requests", ids: "pa.Array | None") -> list[str]:
    """Put who asked beside what was computed, part by part; the columns that are there."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from tailorbird.features.parts import read_manifest, read_parts

    manifest = read_manifest(out / WORK)
    held = {name: definition for name, definition in declared.items() if manifest.group_of(name, definition) is not None}
    moments = pa.array(wanted.t).cast(pa.timestamp("us", "UTC"))
    named = {"request_id": ids, "person": wanted.person, "t": moments, "p": pa.array(wanted.p)}
    known = {name: one if isinstance(one, pa.Array | pa.ChunkedArray) else pa.array(one) for name, one in named.items() if one is not None}
    for number, part in enumerate(read_parts(out / WORK, held)):
        asked = pa.table({name: one.slice(part.start, part.stop - part.start) for name, one in known.items()})
        places = pa.array(wanted.row_request[part.row_start : part.row_stop] - part.start)
        rows = asked.take(places).append_column("item_id", pa.array(wanted.row_item[part.row_start : part.row_stop]))
        for values, names in ((part.rows.numeric, part.rows.numeric_names), (part.rows.categorical, part.rows.categorical_names)):
            for place, name in enumerate(names):
                rows = rows.append_column(name, pa.array(values[:, place].copy()))
        for name, one in part.rows.sequences.items():
            for column, values in (("item", one.item), ("type", one.type), ("ts", one.ts), *one.values.items()):
                lists = pa.LargeListArray.from_arrays(pa.array(one.offsets), pa.array(values))
                asked = asked.append_column(f"{name}.{column}", lists)
        for kind, table in (("rows", rows), ("requests", asked)):
            fresh = out / f"{kind}-{number:05d}.new"
            pq.write_table(table, fresh)
            fresh.replace(fresh.with_suffix(".parquet"))
    for kind in ("rows", "requests"):  # of an earlier run that asked for more
        for file in out.glob(f"{kind}-*.parquet"):
            if int(file.stem.partition("-")[2]) >= manifest.parts:
                file.unlink()
    return list(held)


def _require_known(declared: Sequence[str], only: Sequence[str]) -> None:
    import difflib

    for name in only:
        if name not in declared:
            near = difflib.get_close_matches(name, declared, n=1)
            fix = f"did you mean {near[0]}?" if near else f"{this_command()} features list"
            raise UsageError(f"features.py declares no feature {name!r}", where="--only", fix=fix)


def _size(text: str) -> int:
    match = _SIZE.match(text.strip())
    size = int(float(match[1]) * _UNITS[(match[2] or "").lower()]) if match else 0
    if size < 1 << 24:
        raise UsageError(f"expected a size such as 2GB, at least 16 MiB, got {text!r}", where="--memory")
    return size
