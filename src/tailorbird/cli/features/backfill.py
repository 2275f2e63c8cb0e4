"""`tailorbird features backfill`: compute historical features into a folder of Parquet files."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from tailorbird.cli.limits import parse_size
from tailorbird.cli.output import Json, console, print_json, progress_bars, this_command
from tailorbird.errors import NotReadyError, TailorbirdError, UsageError, suggest_name

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import pyarrow as pa

    from tailorbird.config import Project
    from tailorbird.features.featureset import FeatureSet
    from tailorbird.features.offline.backfill import Requests
    from tailorbird.lake import Lake

    ReadTables = Callable[[Sequence[str]], Iterator[pa.Table]]

# The subfolder of computed columns; complete ones are never computed again.
WORK_FOLDER = "columns"
_LOCK = f"{WORK_FOLDER}.lock"
_CONTEXT_COLUMNS = ("session_id", "device", "country", "local_hour", "query")


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
    """Compute historical features of past requests, each as it was known then, into Parquet files.

    The requests are the logged answers of a time span, or the rows of a Parquet file. The file has
    the columns person, item and ts, and optionally session_id, device, country, local_hour, query
    and p. `p` is the routed position up to which events were known; by default it is everything
    that the lake has at the first run. Existing values in the folder are reused: an interrupted run
    continues, and with an additional feature only that one is computed. A folder always refers to
    the requests and events of its first run.

    rows-*.parquet have a row per request and item with the features (categories as hashes, 0 if
    missing). requests-*.parquet have the sequences of each request. categories.parquet maps hashes
    to texts. Together they have every column of the folder that is still declared.

    Example:  tailorbird -C shop features backfill --from 2026-03-01 --to 2026-04-01 --out march

    Example:  tailorbird -C shop features backfill --requests ids.parquet --only item_ctr_7d --out ids

    Parameters
    ----------
    out:
        the folder, new or with the same requests
    from_:
        start of the answers to take, such as 2026-03-01; by default the first answer
    to:
        exclusive end of the answers to take; by default after the newest answer
    requests:
        a Parquet file of requests to use instead of logged answers
    only:
        name of a feature to compute; may be given several times; by default all
    memory:
        memory limit of the computation, in addition to the requests themselves
    """
    import pyarrow.dataset as ds

    from tailorbird.config import open_project
    from tailorbird.features.offline.entity_table import read_backfill_inputs
    from tailorbird.features.offline.partition.inputs import definitions
    from tailorbird.features.offline.profile_join import JoinedEvents
    from tailorbird.features.offline.shards import backfill_to
    from tailorbird.file_lock import FileLock

    project = open_project()
    memory_bytes = parse_size(memory)
    selected_columns = only or []
    _require_declared([feature.name for feature in project.features.features], selected_columns)
    if requests is not None and (from_ or to):
        raise UsageError(
            "--requests brings its own times", where="--from", fix="leave --from and --to away"
        )
    read_backfill_inputs(out, lock_name=_LOCK)  # Checked before a file of ours is created there.
    is_new_folder = not out.exists()
    lock = FileLock(out / WORK_FOLDER)  # Two runs at a time would overwrite each other.
    try:
        try:
            lake, entity_requests, request_ids = _open_requests(project, out, requests, from_, to)
        except TailorbirdError:
            _remove_if_empty(out, is_new_folder=is_new_folder)
            raise
        newest_log_position = int(entity_requests.log_position.max(initial=0))
        read_events = partial(
            JoinedEvents(lake, project.features).batches, where=ds.field("p") <= newest_log_position
        )
        with progress_bars(quiet=json) as progress:
            backfill_to(
                project.features,
                read_events,
                entity_requests,
                out / WORK_FOLDER,
                memory_bytes=memory_bytes,
                only_columns=selected_columns or None,
                version=_events_version(newest_log_position),
                progress=progress,
            )
            columns, hashes = _write_rows(
                out, definitions(project.features), entity_requests, request_ids
            )
            progress("texts of categories", 0, None)
            _write_texts(out, hashes, entity_requests, read_events, project.features, columns)
    finally:
        lock.release()
    if json:
        print_json(
            {
                "folder": str(out),
                "requests": len(entity_requests.t),
                "rows": len(entity_requests.row_request),
                "columns": columns,
                "p": newest_log_position,
            }
        )
        return
    summary = (
        f"{len(columns)} features of {len(entity_requests.row_request):,} rows of "
        f"{len(entity_requests.t):,} requests"
    )
    console().print(f"{summary} are in {out}/rows-*.parquet.")


def _remove_if_empty(out: Path, *, is_new_folder: bool) -> None:
    """Remove the lock file from an otherwise empty folder, and the folder too if it was created."""
    if [path.name for path in out.iterdir()] == [_LOCK]:
        (out / _LOCK).unlink()
        if is_new_folder:
            out.rmdir()


def _open_requests(
    project: "Project", out: Path, requests_file: Path | None, since: str, until: str
) -> "tuple[Lake, Requests, pa.Array | None]":
    """Return the lake as of the folder's first run, and the requests; record both then."""
    from tailorbird.features.offline.entity_table import (
        BackfillInputs,
        read_backfill_inputs,
        read_requests_file,
        write_backfill_inputs,
    )
    from tailorbird.features.offline.partition.inputs import hash_inputs
    from tailorbird.lake import Lake
    from tailorbird.lake.delta.versions import from_manifest, to_manifest, versions_of

    lake_path = project.paths.lake
    recorded_inputs = read_backfill_inputs(out, lock_name=_LOCK)
    lake = Lake(
        lake_path,
        versions=versions_of(lake_path)
        if recorded_inputs is None
        else from_manifest(recorded_inputs.lake),
    )
    if not lake.exists("events"):
        raise NotReadyError(
            "the lake is empty", where=str(lake_path), fix="tailorbird import brings events in"
        )
    requests, request_ids = (
        (read_requests_file(requests_file, lake.newest_log_position()), None)
        if requests_file is not None
        else _requests_of_responses(lake, since, until)
    )
    current_inputs = BackfillInputs(
        hash_inputs(requests, _events_version(int(requests.log_position.max(initial=0)))),
        to_manifest(lake.versions or {}),
    )
    if recorded_inputs is None:
        write_backfill_inputs(out, current_inputs)
    elif current_inputs.inputs != recorded_inputs.inputs:
        problem = "holds the features of other requests"
        raise UsageError(
            problem, where=str(out), fix="choose another folder for these, or remove this one"
        )
    return lake, requests, request_ids


def _events_version(newest_log_position: int) -> str:
    """Return a name for the events, which later events do not change."""
    return f"p{newest_log_position}"


def _requests_of_responses(
    lake: "Lake", since: str, until: str
) -> "tuple[Requests, pa.Array | None]":
    import pyarrow.compute as pc

    from tailorbird.features.parity.recompute import requests_of
    from tailorbird.platform.clocks import parse_time

    if not lake.exists("answers") or not lake.count("answers"):
        raise NotReadyError(
            "no answer has been logged yet",
            where=str(lake.path),
            fix="--requests FILE brings requests of your own",
        )
    columns = ["ts", "p", "positions", "person", "items", "request_id", *_CONTEXT_COLUMNS]
    responses = lake.responses(
        columns,
        parse_time(since, "--from") if since else None,
        parse_time(until, "--to") if until else None,
    )
    # An answer can reach the lake before the events that it used.
    is_complete = pc.and_(
        pc.greater(pc.list_value_length(responses["items"]), 0),
        pc.less_equal(responses["p"], lake.newest_log_position()),
    )
    responses = responses.filter(is_complete).sort_by(
        [("ts", "ascending"), ("request_id", "ascending")]
    )
    if not responses.num_rows:
        raise NotReadyError(
            "no answer was logged in that time",
            where=str(lake.path),
            fix="choose another span: --from, --to",
        )
    return requests_of(responses.combine_chunks()), responses["request_id"].combine_chunks()


def _write_rows(
    out: Path,
    definition_by_column: "dict[str, str]",
    requests: "Requests",
    request_ids: "pa.Array | None",
) -> "tuple[list[str], npt.NDArray[np.uint64]]":
    """Write rows and requests with the computed columns; return their columns and hashes.

    A part holds the columns of consecutive requests, and becomes one file of each kind.
    """
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    from tailorbird.features.offline.parts import read_manifest, read_parts
    from tailorbird.features.offline.positions import newest_positions

    manifest = read_manifest(out / WORK_FOLDER)
    available_columns = {
        name: definition
        for name, definition in definition_by_column.items()
        if manifest.group_of(name, definition) is not None
    }
    times = pa.array(requests.t).cast(pa.timestamp("us", "UTC"))
    optional_columns = {
        "request_id": request_ids,
        "person": requests.person,
        "ts": times,
        "p": pa.array(newest_positions(requests.log_position)),
    }
    request_columns = {
        name: values if isinstance(values, pa.Array | pa.ChunkedArray) else pa.array(values)
        for name, values in optional_columns.items()
        if values is not None
    }
    hashes = np.zeros(0, np.uint64)
    for number, part in enumerate(read_parts(out / WORK_FOLDER, available_columns)):
        part_requests = pa.table(
            {
                name: values.slice(part.start, part.stop - part.start)
                for name, values in request_columns.items()
            }
        )
        request_indexes = pa.array(
            requests.row_request[part.row_start : part.row_stop] - part.start
        )
        rows = part_requests.take(request_indexes).append_column(
            "item", pa.array(requests.row_item[part.row_start : part.row_stop])
        )
        for values, names in (
            (part.rows.numeric, part.rows.numeric_names),
            (part.rows.categorical, part.rows.categorical_names),
        ):
            for column_index, name in enumerate(names):
                rows = rows.append_column(name, pa.array(values[:, column_index].copy()))
        hashes = np.union1d(hashes, part.rows.categorical)
        for name, sequence in part.rows.sequences.items():
            hash_arrays = [
                sequence.item,
                sequence.type,
                *(values for values in sequence.values.values() if values.dtype == np.uint64),
            ]
            hashes = np.union1d(hashes, np.concatenate(hash_arrays))
            for column, values in (
                ("item", sequence.item),
                ("type", sequence.type),
                ("ts", sequence.ts),
                *sequence.values.items(),
            ):
                lists = pa.LargeListArray.from_arrays(pa.array(sequence.offsets), pa.array(values))
                part_requests = part_requests.append_column(f"{name}.{column}", lists)
        for kind, table in (("rows", rows), ("requests", part_requests)):
            temporary_file = out / f"{kind}-{number:05d}.new"
            pq.write_table(table, temporary_file)
            temporary_file.replace(temporary_file.with_suffix(".parquet"))
    for kind in ("rows", "requests"):  # Files of an earlier run with more requests.
        for file in out.glob(f"{kind}-*.parquet"):
            if int(file.stem.partition("-")[2]) >= manifest.part_count:
                file.unlink()
    return list(available_columns), hashes


def _write_texts(
    out: Path,
    hashes: "npt.NDArray[np.uint64]",
    requests: "Requests",
    read_events: "ReadTables",
    features: "FeatureSet",
    columns: list[str],
) -> None:
    """Write the text of each hash, reusing those of an earlier run."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    from tailorbird.features.offline.backfill import event_columns, subset_features
    from tailorbird.features.offline.dictionary import texts_by_hash

    file = out / "categories.parquet"
    text_columns = [
        name for name in columns if name in features.categorical or name in features.sequences
    ]
    if not text_columns:
        return
    existing_tables = [pq.read_table(file)] if file.exists() else []
    missing_hashes = (
        np.setdiff1d(hashes, existing_tables[0]["hash"].to_numpy()) if existing_tables else hashes
    )
    text_table = texts_by_hash(
        missing_hashes,
        requests,
        read_events(event_columns(subset_features(features, text_columns))),
    )
    temporary_file = out / "categories.new"
    pq.write_table(pa.concat_tables([*existing_tables, text_table]).sort_by("hash"), temporary_file)
    temporary_file.replace(file)


def _require_declared(declared_features: Sequence[str], requested_features: Sequence[str]) -> None:
    for name in requested_features:
        if name not in declared_features:
            fix = suggest_name(name, declared_features, f"{this_command()} features list")
            raise UsageError(f"features.py declares no feature {name!r}", where="--only", fix=fix)
