"""External sort of an import's rows: in memory, and beyond a bound in temporary files."""

from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tailorbird.events.adapters.batch import ROW_ID_PREFIX
from tailorbird.events.contract.contract import ERASED_BODY

# held in memory
_RUN_BYTES_MAX = 1 << 30
_REFUSED_BYTES_MAX = 64 << 20
_SLICE_ROWS = 2_000


class RefusedLines:
    """Refused lines in order of arrival, in memory up to a bound and beyond that in a file."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "refused"
        self._lines = list[bytes]()
        self._size_bytes = 0

    def add(self, lines: list[bytes]) -> None:
        self._lines += lines
        self._size_bytes += sum(map(len, lines))
        if self._size_bytes >= _REFUSED_BYTES_MAX:
            self._path.parent.mkdir(exist_ok=True)
            with self._path.open("ab") as file:
                file.writelines(line + b"\n" for line in self._lines)
            self._lines = []
            self._size_bytes = 0

    def __iter__(self) -> Iterator[bytes]:
        if self._path.exists():
            with self._path.open("rb") as file:
                yield from (line.removesuffix(b"\n") for line in file)
        yield from self._lines


class ExternalSort:
    """Rows sorted by (ts, event_id): in memory up to `run_rows`, beyond that in runs on disk.

    The sort is stable. Equal rows of one file without ids of their own get ids that end in `~2`,
    `~3` and so on, so that none is a duplicate of another.
    """

    def __init__(self, folder: Path, run_rows: int) -> None:
        self._folder = folder
        self._run_rows = run_rows
        self._batches: list[pa.RecordBatch] = []
        self._rows = self._size_bytes = 0
        self._runs: list[pa.Table] = []
        self._current_file = ""
        self._file_number = 0

    def add(self, ts: list[int], event_ids: list[str], lines: list[bytes], file: str) -> None:
        self._file_number += file != self._current_file
        self._current_file = file
        file_numbers = pa.array([self._file_number] * len(ts), pa.int32())
        arrays = [
            pa.array(ts, pa.int64()),
            pa.array(event_ids, pa.string()),
            file_numbers,
            pa.array(lines, pa.large_binary()),
        ]
        self._batches.append(pa.record_batch(arrays, names=["ts", "id", "file", "line"]))
        self._rows += len(ts)
        self._size_bytes += self._batches[-1].nbytes
        if self._rows >= self._run_rows or self._size_bytes >= _RUN_BYTES_MAX:
            self._spill()

    def _spill(self) -> None:
        self._folder.mkdir(exist_ok=True)
        path = self._folder / f"run-{len(self._runs)}.arrow"
        run = _sort(pa.Table.from_batches(self._batches))
        with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, run.schema) as writer:
            writer.write_table(run)
        self._runs.append(pa.ipc.open_file(pa.memory_map(str(path))).read_all())
        self._batches = []
        self._rows = 0
        self._size_bytes = 0

    def lines(self) -> Iterator[bytes]:
        """Yield the lines in order."""
        for sorted_lines in self._merge_slices():
            for start in range(0, len(sorted_lines), _SLICE_ROWS):
                yield from sorted_lines.slice(start, _SLICE_ROWS).to_pylist()

    def _merge_slices(self) -> Iterator[pa.ChunkedArray]:
        runs = [*self._runs]
        if self._batches:
            runs.append(_sort(pa.Table.from_batches(self._batches)))
        if len(runs) == 1:
            yield _disambiguate_ids(runs[0])
            return
        ts_by_run = [run["ts"].to_numpy() for run in runs]
        sorted_ts = np.sort(np.concatenate([np.zeros(0, np.int64), *ts_by_run]))
        step = max(1, max((len(run) for run in runs), default=0) // 2)
        slice_ends = [*np.unique(sorted_ts[step::step]), np.iinfo(np.int64).max]
        starts = [0] * len(runs)
        for slice_end in slice_ends:
            ends = [int(np.searchsorted(ts, slice_end, side="left")) for ts in ts_by_run]
            run_slices = [
                run.slice(start, end - start)
                for run, start, end in zip(runs, starts, ends, strict=True)
            ]
            if run_slices:
                yield _disambiguate_ids(_sort(pa.concat_tables(run_slices)))
            starts = ends


def _sort(rows: pa.Table) -> pa.Table:
    return rows.sort_by([("ts", "ascending"), ("id", "ascending")])


def _disambiguate_ids(rows: pa.Table) -> pa.ChunkedArray:
    """Return the lines of sorted rows, with distinct ids for equal rows of a file."""
    if len(rows) < 2:
        return rows["line"]
    (ids, files), last_index = (
        (rows[name].combine_chunks() for name in ("id", "file")),
        len(rows) - 1,
    )
    is_repeat = pc.and_(
        pc.equal(ids[1:], ids[:last_index]), pc.equal(files[1:], files[:last_index])
    )
    is_repeat = pc.and_(is_repeat, pc.starts_with(ids[1:], ROW_ID_PREFIX))
    if not pc.any(is_repeat).as_py():
        return rows["line"]
    lines: list[bytes] = rows["line"].to_pylist()
    occurrence = 1
    for row_index, repeats_previous in enumerate(is_repeat.to_pylist(), 1):
        occurrence = occurrence + 1 if repeats_previous else 1
        if repeats_previous and lines[row_index] != ERASED_BODY:
            fields = msgspec.json.decode(lines[row_index])
            lines[row_index] = msgspec.json.encode(
                {**fields, "event_id": f"{fields['event_id']}~{occurrence}"}
            )
    return pa.chunked_array([pa.array(lines, pa.large_binary())])
