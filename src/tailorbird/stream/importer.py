"""Import: files of any known format, checked, put in order of time and appended to the raw log of the producer `import`.

    files ──adapter──► JSON lines ──contract──► sorted by (ts, event_id) ──► raw-import.db, and how far it got, in one transaction

An import that was killed goes on where it was: the order is a function of the files, of the time at which the import began
and of the plan that it began with, which are kept beside its position. Sorting needs the memory of one run; longer
histories are sorted in runs on disk and merged by slices of time. What the contract refuses is appended behind the rest,
so that the router puts it whole into the quarantine. A row that is kept out because somebody was erased stands where the row
would: people may be erased between two parts of one import, and the position counts rows.
"""

import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tailorbird import faults
from tailorbird.errors import InputError, LockedError, UsageError
from tailorbird.events import Clock, Receipt, RoutePlan, check
from tailorbird.events.adapters import FORMATS, AdapterOptions, Batch, digest_files, find_files
from tailorbird.events.adapters.batch import ROW
from tailorbird.events.contract import ERASED
from tailorbird.events.erased import StopList
from tailorbird.events.pseudonyms import Pseudonyms
from tailorbird.places import Place
from tailorbird.stream.embedded import EmbeddedWriter, open_writer
from tailorbird.stream.held import held
from tailorbird.stream.partitions import IMPORTS, raw_path
from tailorbird.stream.protocol import Block

PRODUCER = IMPORTS
RUN_ROWS = 1_000_000  # sorted in memory at once: about half a GB of typical events
BODY_ROWS = 2_000
COMMIT_BODIES = 25
LOCK_S = 3.0  # how long an import waits for its log
_EXAMPLES = 5

Progress = Callable[[str, int, int | None], None]

_IMPORTS = """
CREATE TABLE IF NOT EXISTS import(
    key TEXT PRIMARY KEY, path TEXT NOT NULL, format TEXT NOT NULL, began_at INTEGER NOT NULL, plan BLOB NOT NULL,
    rows_done INTEGER NOT NULL, finished_at INTEGER
) STRICT
"""


@dataclass
class ImportReport:
    """What an import did.

    Attributes:
        rows: events and profiles in the files; accepted + refused.
        refused: reason code → rows, all of which go to the quarantine.
        left_out: kind of record → how many were left out, since they say nothing about people and items.
        examples: a sentence for each of the first refused rows, with file and line.
        resumed_at: how many rows an earlier, interrupted import of the same files had done.
        already: whether these files had been imported before, so that nothing was to do.
        set_aside: files into which a damaged end of the log, or one that lost rows, was moved; rows of earlier imports may be missing.
    """

    files: list[str]
    rows: int = 0
    accepted: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    left_out: Counter[str] = field(default_factory=Counter)
    examples: list[str] = field(default_factory=list)
    resumed_at: int = 0
    already: bool = False
    set_aside: list[str] = field(default_factory=list)


def import_files(
    stream: Path,
    format_: str,
    path: Path,
    *,
    plan: RoutePlan,
    clock: Clock,
    options: AdapterOptions | None = None,
    progress: Progress = lambda stage, done, total: None,
    run_rows: int = RUN_ROWS,
    pseudonyms: Pseudonyms | None = None,
    stopped: StopList | None = None,
    lake: Place | None = None,
) -> ImportReport:
    """Import the files at `path` into the raw log in the folder `stream`.

    Args:
        pseudonyms: hides the people of every row before it is checked and written.
        stopped: of whom nothing old is taken again, see `events.erased`.
        lake: which says how far it has the log; a lost one is begun anew behind that, see `stream.held`.
        run_rows: how many rows are sorted in memory at once; the order does not depend on it.

    Raises:
        UsageError: no such format.
        InputError: nothing there, no row in it, or a file that cannot be read.
        DamageError: a file does not match SHA256SUMS.
        LockedError: another import is running.
    """
    if format_ not in FORMATS:
        raise UsageError(f"unknown format {format_!r}", fix=f"use one of {', '.join(FORMATS)}")
    read, patterns = FORMATS[format_]
    files = find_files(path, patterns)
    size = sum(file.stat().st_size for file in files)
    seen = 0

    def digested(count: int) -> None:
        nonlocal seen
        seen += count
        progress("checksums", seen, size)

    options = options or AdapterOptions(root=str(path))
    digests = digest_files(files, digested)
    report = ImportReport([str(file) for file in files])
    writer = _open_log(stream, lake)
    folder = stream / "import-runs"  # one import at a time: the writer's lock is held
    try:
        report.set_aside = [str(aside) for aside in writer.set_aside]
        log = _Progress(writer, _key(format_, options, digests), path, format_, clock.now(), plan)
        if log.finished:
            report.already = True
            return report
        report.resumed_at = log.rows_done
        shutil.rmtree(folder, ignore_errors=True)  # of an import that died
        runs = _Runs(folder, run_rows)
        receipt = Receipt(log.began_at, "import", "ndjson")
        batches = read(digests, options)
        if pseudonyms is not None:
            batches = (pseudonyms.batch(batch, log.plan.event_types, foreign=format_ == "gorse") for batch in batches)
        refused = _collect(batches, receipt, log.plan, stopped if stopped else None, runs, report, progress)
        if report.rows == 0:
            found = f"only records that say nothing about people and items: {', '.join(report.left_out)}" if report.left_out else "no row"
            raise InputError(f"{found} was found in it", where=str(path), fix="look at the file, or choose another format")
        _append(log, runs, refused, receipt, report.rows, progress)
        log.finish(clock.now())
        return report
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        writer.close()


def _open_log(stream: Path, lake: Place | None) -> EmbeddedWriter:
    """The log of imports; the lake role may hold it for a second, to prune what earlier imports left."""
    path = raw_path(stream, PRODUCER)
    until = time.monotonic() + LOCK_S
    while True:
        try:
            return open_writer(path, partition=PRODUCER, held=held(stream, PRODUCER, lake)[path.stem])
        except LockedError:
            if time.monotonic() > until:
                raise
            time.sleep(0.05)


def _key(format_: str, options: AdapterOptions, digests: dict[Path, str]) -> str:
    parts = (format_, options.slot, options.mapping, *sorted(digests.values()))
    return sha256("\x00".join(parts).encode()).hexdigest()


def _collect(
    batches: Iterator[Batch], receipt: Receipt, plan: RoutePlan, stopped: StopList | None, runs: "_Runs", report: ImportReport,
    progress: Progress,
) -> list[bytes]:  # fmt: skip
    """Check every batch, give what is accepted to `runs`, and return the lines that are refused; both without what is kept out."""
    refused: list[bytes] = []
    for batch in batches:
        accepted, refusals = check(b"\n".join(batch.lines), receipt, plan)
        lines = batch.lines if stopped is None else [stopped.line(line, receipt, plan) for line in batch.lines]
        # Checked on a receipt with its own time; `ts` of an accepted row is what the router will find again.
        runs.add([row.ts for row in accepted], [row.event.event_id for row in accepted], [lines[row.row] for row in accepted], batch.file)
        refused += [lines[refusal.row] for refusal in refusals]
        if lines != batch.lines:  # what the router will say of them
            accepted, refusals = check(b"\n".join(lines), receipt, plan)
        for refusal in refusals:
            report.refused[refusal.code] += 1
            if len(report.examples) < _EXAMPLES:
                report.examples.append(f"{batch.file}:{batch.numbers[refusal.row]}: {refusal.path}: {refusal.message}")
        report.left_out.update(batch.left_out)
        report.rows += len(batch.lines)
        report.accepted += len(accepted)
        progress("read and check", report.rows, None)
    return refused


def _append(log: "_Progress", runs: "_Runs", refused: list[bytes], receipt: Receipt, rows: int, progress: Progress) -> None:
    pending: list[Block] = []
    done = 0
    encoded = msgspec.json.encode(receipt)
    for lines in _bodies(runs, refused):
        done += len(lines)
        if done <= log.rows_done:
            continue
        if done - len(lines) < log.rows_done:
            lines = lines[log.rows_done - (done - len(lines)) :]
        pending.append(Block("body", len(lines), b"\n".join(lines), encoded))
        if len(pending) == COMMIT_BODIES:
            log.append(pending, done)
            pending = []
            progress("append", done, rows)
    log.append(pending, done)
    progress("append", done, rows)


def _bodies(runs: "_Runs", refused: list[bytes]) -> Iterator[list[bytes]]:
    for column in runs.merged():
        for start in range(0, len(column), BODY_ROWS):
            yield column.slice(start, BODY_ROWS).to_pylist()
    for start in range(0, len(refused), BODY_ROWS):
        yield refused[start : start + BODY_ROWS]


class _Progress:
    """How far an import got, kept in the file that it appends to and committed with what it appends."""

    def __init__(self, writer: EmbeddedWriter, key: str, path: Path, format_: str, now: int, plan: RoutePlan) -> None:
        self._writer = writer
        self._key = key
        with writer.transaction() as connection:
            connection.execute(_IMPORTS)
            if writer.set_aside:  # whose rows they were is not known: files given again are taken again, the router drops repeats
                connection.execute("DELETE FROM import")
            begun = (key, str(path), format_, now, msgspec.json.encode(plan))
            connection.execute("INSERT OR IGNORE INTO import VALUES (?, ?, ?, ?, ?, 0, NULL)", begun)
            query = "SELECT began_at, plan, rows_done, finished_at IS NOT NULL FROM import WHERE key = ?"
            row: tuple[Any, ...] = next(iter(connection.execute(query, (key,))))
        self.began_at: int = row[0]
        self.plan = msgspec.json.decode(row[1], type=RoutePlan)
        self.rows_done: int = row[2]
        self.finished = bool(row[3])

    def append(self, blocks: list[Block], rows_done: int) -> None:
        with self._writer.transaction() as connection:
            if blocks:
                self._writer.append(blocks)
            faults.at("import.before_commit")
            connection.execute("UPDATE import SET rows_done = ? WHERE key = ?", (rows_done, self._key))
        faults.at("import.after_commit")

    def finish(self, moment: int) -> None:
        with self._writer.transaction() as connection:
            connection.execute("UPDATE import SET finished_at = ? WHERE key = ?", (moment, self._key))


class _Runs:
    """Rows in order of (ts, event_id), sorted in memory up to `run_rows` and beyond that in files, a slice of time at once.

    Rows that are equal in both keep the order in which they were added. Of the rows of one file that have no id of their own and are equal,
    the second gets an id that ends in `~2`, and so on: none of them repeats another.
    """

    def __init__(self, folder: Path, run_rows: int) -> None:
        self._folder = folder
        self._run_rows = run_rows
        self._batches: list[pa.RecordBatch] = []
        self._rows = 0
        self._runs: list[pa.Table] = []
        self._file, self._number = "", 0

    def add(self, ts: list[int], ids: list[str], lines: list[bytes], file: str) -> None:
        self._number += file != self._file
        self._file = file
        files = pa.array([self._number] * len(ts), pa.int32())
        arrays = [pa.array(ts, pa.int64()), pa.array(ids, pa.string()), files, pa.array(lines, pa.large_binary())]
        self._batches.append(pa.record_batch(arrays, names=["ts", "id", "file", "line"]))
        self._rows += len(ts)
        if self._rows >= self._run_rows:
            self._spill()

    def _spill(self) -> None:
        self._folder.mkdir(exist_ok=True)
        path = self._folder / f"run-{len(self._runs)}.arrow"
        run = _in_order(pa.Table.from_batches(self._batches))
        with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, run.schema) as writer:
            writer.write_table(run)
        self._runs.append(pa.ipc.open_file(pa.memory_map(str(path))).read_all())
        self._batches, self._rows = [], 0

    def merged(self) -> Iterator[pa.ChunkedArray]:
        """The lines, in order, in pieces."""
        runs = [*self._runs]
        if self._batches:
            runs.append(_in_order(pa.Table.from_batches(self._batches)))
        if len(runs) == 1:
            yield _numbered(runs[0])
            return
        times = [run["ts"].to_numpy() for run in runs]
        every = np.sort(np.concatenate([np.zeros(0, np.int64), *times]))
        step = max(1, self._run_rows // 2)
        edges = [*np.unique(every[step::step]), np.iinfo(np.int64).max]
        starts = [0] * len(runs)
        for edge in edges:
            ends = [int(np.searchsorted(ts, edge, side="left")) for ts in times]
            parts = [run.slice(start, end - start) for run, start, end in zip(runs, starts, ends, strict=True)]
            if parts:
                yield _numbered(_in_order(pa.concat_tables(parts)))
            starts = ends


def _in_order(rows: pa.Table) -> pa.Table:
    return rows.sort_by([("ts", "ascending"), ("id", "ascending")])


def _numbered(rows: pa.Table) -> pa.ChunkedArray:
    """The lines of rows that are in order, equal ones of a file told apart."""
    if len(rows) < 2:
        return rows["line"]
    (ids, files), n = (rows[name].combine_chunks() for name in ("id", "file")), len(rows) - 1
    same = pc.and_(pc.equal(ids[1:], ids[:n]), pc.equal(files[1:], files[:n]))
    same = pc.and_(same, pc.starts_with(ids[1:], ROW))
    if not pc.any(same).as_py():
        return rows["line"]
    lines: list[bytes] = rows["line"].to_pylist()
    number = 1
    for row, repeats in enumerate(same.to_pylist(), 1):
        number = number + 1 if repeats else 1
        if repeats and lines[row] != ERASED:
            fields = msgspec.json.decode(lines[row])
            lines[row] = msgspec.json.encode({**fields, "event_id": f"{fields['event_id']}~{number}"})
    return pa.chunked_array([pa.array(lines, pa.large_binary())])
