"""`tailorbird features backfill`: features of the past into a folder of Parquet."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from tailorbird.cli.limits import size_of
from tailorbird.cli.output import Json, console, print_json, progress_bars, this_command
from tailorbird.errors import NotReadyError, TailorbirdError, UsageError, suggest_name

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import pyarrow as pa

    from tailorbird.config import Project
    from tailorbird.features.backfill import Requests
    from tailorbird.features.featureset import FeatureSet
    from tailorbird.lake import Lake

    Tables = Callable[[Sequence[str]], Iterator[pa.Table]]

WORK = "columns"  # what was computed, by column; whole ones are never computed again
_LOCK = f"{WORK}.lock"
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
    """Compute what features.py declares for requests of the past, each value as it was known then,
    into a folder of Parquet files.

    The requests are the logged answers of a span of time, or the rows of a Parquet file with the
    columns person, item and ts (and, where known, session_id, device, country, local_hour, query,
    and p, the routed position up to which events were known; without p all that the lake knows at
    the first run counts). Values that the folder has already are kept: interrupted, it goes on;
    with one feature more it computes that one alone. A folder stays about the requests and the
    events that its first run found, whatever has come into the lake since.

    rows-*.parquet have a row for each request and item: who, which, when, and the features
    (categories as hashes, missing is 0); requests-*.parquet have the sequences of each request;
    categories.parquet says which text each hash is of. Every column that the folder holds as it is
    declared now is in them.

    Example:  tailorbird -C shop features backfill --from 2026-03-01 --to 2026-04-01 --out march

    Example:  tailorbird -C shop features backfill --requests wanted.parquet --only item_ctr_7d --memory 8GB --out wanted

    Parameters
    ----------
    out:
        the folder, a new one or one of the same requests
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
    import pyarrow.dataset as ds

    from tailorbird.config import open_project
    from tailorbird.features.asked import read_backfill_inputs
    from tailorbird.features.attached import JoinedEvents
    from tailorbird.features.shards import backfill_to, definitions
    from tailorbird.lock import FileLock

    project = open_project()
    size = size_of(memory)
    chosen = only or []
    _require_known([feature.name for feature in project.features.features], chosen)
    if requests is not None and (from_ or to):
        raise UsageError(
            "--requests brings its own times", where="--from", fix="leave --from and --to away"
        )
    read_backfill_inputs(out, lock=_LOCK)  # before a file of ours is made there
    fresh = not out.exists()
    lock = FileLock(out / WORK)  # two at a time would write over each other
    try:
        try:
            lake, wanted, ids = _asked(project, out, requests, from_, to)
        except TailorbirdError:
            _leave_none(out, folder=fresh)
            raise
        newest = int(wanted.p.max(initial=0))
        events = partial(
            JoinedEvents(lake, project.features).batches, where=ds.field("p") <= newest
        )
        with progress_bars(quiet=json) as progress:
            backfill_to(
                project.features,
                events,
                wanted,
                out / WORK,
                memory_bytes=size,
                only=chosen or None,
                version=_version(newest),
                progress=progress,
            )
            names, keys = _write_rows(out, definitions(project.features), wanted, ids)
            progress("texts of categories", 0, None)
            _write_texts(out, keys, wanted, events, project.features, names)
    finally:
        lock.release()
    if json:
        print_json(
            {
                "folder": str(out),
                "requests": len(wanted.t),
                "rows": len(wanted.row_request),
                "columns": names,
                "p": newest,
            }
        )
        return
    told = (
        f"{len(names)} features of {len(wanted.row_request):,} rows of {len(wanted.t):,} requests"
    )
    console().print(f"{told} are in {out}/rows-*.parquet.")


def _leave_none(out: Path, *, folder: bool) -> None:
    """Take the lock file out of a folder that nothing else is in, and the folder away if it was
    made for it.
    """
    if [path.name for path in out.iterdir()] == [_LOCK]:
        (out / _LOCK).unlink()
        if folder:
            out.rmdir()


def _asked(
    project: "Project", out: Path, file: Path | None, since: str, to: str
) -> "tuple[Lake, Requests, pa.Array | None]":
    """The lake as the folder's first run found it, and the requests; noted, if this is the first
    run.
    """
    from tailorbird.features.asked import (
        BackfillInputs,
        read_backfill_inputs,
        requests_of_file,
        write_backfill_inputs,
    )
    from tailorbird.features.shards import hash_inputs
    from tailorbird.lake import Lake
    from tailorbird.lake.versions import from_manifest, to_manifest, versions_of

    path = project.paths.lake
    before = read_backfill_inputs(out, lock=_LOCK)
    lake = Lake(path, at=versions_of(path) if before is None else from_manifest(before.lake))
    if not lake.exists("events"):
        raise NotReadyError(
            "the lake is empty", where=str(path), fix="tailorbird import brings events in"
        )
    wanted, ids = (
        (requests_of_file(file, lake.newest_p()), None)
        if file is not None
        else _of_answers(lake, since, to)
    )
    asked = BackfillInputs(
        hash_inputs(wanted, _version(int(wanted.p.max(initial=0)))), to_manifest(lake.at or {})
    )
    if before is None:
        write_backfill_inputs(out, asked)
    elif asked.inputs != before.inputs:
        told = "holds the features of other requests"
        raise UsageError(
            told, where=str(out), fix="choose another folder for these, or remove this one"
        )
    return lake, wanted, ids


def _version(newest: int) -> str:
    """Names the events: later ones change no value that was known by then."""
    return f"p{newest}"


def _of_answers(lake: "Lake", since: str, to: str) -> "tuple[Requests, pa.Array | None]":
    import pyarrow.compute as pc

    from tailorbird.features.recompute import requests_of
    from tailorbird.platform.moment import parse_time

    if not lake.exists("answers") or not lake.count("answers"):
        raise NotReadyError(
            "no answer has been logged yet",
            where=str(lake.path),
            fix="--requests FILE brings requests of your own",
        )
    columns = ["ts", "p", "positions", "person", "items", "request_id", *_KNOWN_BY]
    answers = lake.answers(
        columns,
        parse_time(since, "--from") if since else None,
        parse_time(to, "--to") if to else None,
    )
    # An answer may be in the lake before the events that it knew.
    complete = pc.and_(
        pc.greater(pc.list_value_length(answers["items"]), 0),
        pc.less_equal(answers["p"], lake.newest_p()),
    )
    answers = answers.filter(complete).sort_by([("ts", "ascending"), ("request_id", "ascending")])
    if not answers.num_rows:
        raise NotReadyError(
            "no answer was logged in that time",
            where=str(lake.path),
            fix="choose another span: --from, --to",
        )
    return requests_of(answers.combine_chunks()), answers["request_id"].combine_chunks()


def _write_rows(
    out: Path, declared: "dict[str, str]", wanted: "Requests", ids: "pa.Array | None"
) -> "tuple[list[str], npt.NDArray[np.uint64]]":
    """Put who asked beside what was computed, part by part; the columns that are there, and the
    hashes in them.
    """
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    from tailorbird.features.parts import read_manifest, read_parts
    from tailorbird.features.positions import newest_positions

    manifest = read_manifest(out / WORK)
    held = {
        name: definition
        for name, definition in declared.items()
        if manifest.group_of(name, definition) is not None
    }
    moments = pa.array(wanted.t).cast(pa.timestamp("us", "UTC"))
    named = {
        "request_id": ids,
        "person": wanted.person,
        "ts": moments,
        "p": pa.array(newest_positions(wanted.p)),
    }
    known = {
        name: one if isinstance(one, pa.Array | pa.ChunkedArray) else pa.array(one)
        for name, one in named.items()
        if one is not None
    }
    keys = np.zeros(0, np.uint64)
    for number, part in enumerate(read_parts(out / WORK, held)):
        asked = pa.table(
            {name: one.slice(part.start, part.stop - part.start) for name, one in known.items()}
        )
        places = pa.array(wanted.row_request[part.row_start : part.row_stop] - part.start)
        rows = asked.take(places).append_column(
            "item", pa.array(wanted.row_item[part.row_start : part.row_stop])
        )
        for values, names in (
            (part.rows.numeric, part.rows.numeric_names),
            (part.rows.categorical, part.rows.categorical_names),
        ):
            for place, name in enumerate(names):
                rows = rows.append_column(name, pa.array(values[:, place].copy()))
        keys = np.union1d(keys, part.rows.categorical)
        for name, one in part.rows.sequences.items():
            hashed = [
                one.item,
                one.type,
                *(each for each in one.values.values() if each.dtype == np.uint64),
            ]
            keys = np.union1d(keys, np.concatenate(hashed))
            for column, values in (
                ("item", one.item),
                ("type", one.type),
                ("ts", one.ts),
                *one.values.items(),
            ):
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
    return list(held), keys


def _write_texts(
    out: Path,
    keys: "npt.NDArray[np.uint64]",
    wanted: "Requests",
    events: "Tables",
    features: "FeatureSet",
    names: list[str],
) -> None:
    """The text of each hash. What an earlier run found is not looked for again."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    from tailorbird.features.backfill import event_columns, subset
    from tailorbird.features.dictionary import texts_by_hash

    file = out / "categories.parquet"
    of_texts = [
        name for name in names if name in features.categorical or name in features.sequences
    ]
    if not of_texts:
        return
    known = [pq.read_table(file)] if file.exists() else []
    left = np.setdiff1d(keys, known[0]["hash"].to_numpy()) if known else keys
    found = texts_by_hash(left, wanted, events(event_columns(subset(features, of_texts))))
    fresh = out / "categories.new"
    pq.write_table(pa.concat_tables([*known, found]).sort_by("hash"), fresh)
    fresh.replace(file)


def _require_known(declared: Sequence[str], only: Sequence[str]) -> None:
    for name in only:
        if name not in declared:
            fix = suggest_name(name, declared, f"{this_command()} features list")
            raise UsageError(f"features.py declares no feature {name!r}", where="--only", fix=fix)
