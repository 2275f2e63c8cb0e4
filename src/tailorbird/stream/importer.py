"""Import of files in any known format: check, sort by time and append to the raw log `import`.

    files ──adapter──► JSON lines ──contract──► sorted by (ts, event_id) ──► raw-import.db and
                                                                 progress, in one transaction

A killed import resumes where it was. Its order is a function of the files, its start time, the plan
and the pseudonym key, all stored beside its position. Sorting takes the memory of one run; longer
histories are sorted in runs on disk and merged by slices of time. Refused rows are appended last,
so that the router puts them whole into the quarantine. A row of an erased person is replaced by a
placeholder: people may be erased between two parts of one import, and the position counts rows.
"""

import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from hashlib import sha256
from itertools import chain
from pathlib import Path
from typing import Any

import msgspec

from tailorbird import faults
from tailorbird.errors import ConfigError, InputError, LockedError, UsageError
from tailorbird.events import Clock, Receipt, RoutePlan, check
from tailorbird.events.adapters import FORMATS, AdapterOptions, Batch, digest_files, find_files
from tailorbird.events.pseudonyms import SETTING, Pseudonyms
from tailorbird.events.suppression import SuppressionList
from tailorbird.storage_paths import StoragePath
from tailorbird.stream.embedded import EmbeddedWriter, open_writer
from tailorbird.stream.locked import read_expected_ends
from tailorbird.stream.partitions import IMPORTS, raw_path
from tailorbird.stream.protocol import Block
from tailorbird.stream.runs import ExternalSort, RefusedLines

PRODUCER = IMPORTS
RUN_ROWS = 1_000_000  # sorted in memory at once: about half a GB of typical events
BODY_ROWS, BODY_BYTES = 2_000, 4 << 20
COMMIT_BODIES, COMMIT_BYTES = 25, 64 << 20
ROW_BYTES_MAX = 256 << 20  # bound of a block; no event comes near
LOCK_S = 3.0  # time that an import waits for its log
_EXAMPLES = 5

Progress = Callable[[str, int, int | None], None]

# `path` is empty, since a file may be named after somebody and is identified by its content.
# Earlier versions wrote it, see `erase_paths`.
_IMPORTS = """
CREATE TABLE IF NOT EXISTS import(
    key TEXT PRIMARY KEY, path TEXT NOT NULL, format TEXT NOT NULL, began_at INTEGER NOT NULL,
    plan BLOB NOT NULL,
    rows_done INTEGER NOT NULL, finished_at INTEGER, pseudonyms TEXT
) STRICT
"""


@dataclass
class ImportReport:
    """Report of an import.

    Attributes:
        rows: events and profiles in the files; accepted + refused.
        refused: reason code → rows, all of which go to the quarantine.
        left_out: kind of record → number of skipped records, which concern no users or items.
        examples: messages for the first refused rows, with file and line.
        resumed_at: number of rows done by an earlier, interrupted import of the same files.
        is_repeated: whether these files were imported before.
        set_aside: files with a damaged end of the log, or a log that lost rows; rows of earlier
            imports may be missing.
    """

    files: list[str]
    rows: int = 0
    accepted: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    left_out: Counter[str] = field(default_factory=Counter)
    examples: list[str] = field(default_factory=list)
    resumed_at: int = 0
    is_repeated: bool = False
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
    suppression_list: SuppressionList | None = None,
    lake: StoragePath | None = None,
) -> ImportReport:
    """Import the files at `path` into the raw log in the folder `stream`.

    Args:
        pseudonyms: replaces ids of people in every row before it is checked and written.
        suppression_list: the list of erased people, see `events.suppression`.
        lake: has the position up to which the log was loaded; a lost log begins again there, see
            `stream.locked`.
        run_rows: number of rows sorted in memory at once; the order does not depend on it.

    Raises:
        UsageError: no such format.
        InputError: no file, no row, a row of hundreds of megabytes, or an unreadable file.
        ConfigError: it was interrupted and began with another pseudonym key.
        DamageError: a file does not match SHA256SUMS.
        LockedError: another import is running.
    """
    if format_ not in FORMATS:
        raise UsageError(f"unknown format {format_!r}", fix=f"use one of {', '.join(FORMATS)}")
    format_adapter = FORMATS[format_]
    read, patterns = format_adapter.read, format_adapter.patterns
    files = find_files(path, patterns)
    size = sum(file.stat().st_size for file in files)
    digested_bytes = 0

    def report_digested(count: int) -> None:
        nonlocal digested_bytes
        digested_bytes += count
        progress("checksums", digested_bytes, size)

    options = options or AdapterOptions(root=str(path))
    digests = digest_files(files, report_digested)
    report = ImportReport([str(file) for file in files])
    writer = _open_log(stream, lake)
    folder = stream / "import-runs"  # the writer's lock allows one import at a time
    try:
        report.set_aside = [str(aside) for aside in writer.set_aside]
        pseudonym_key_id = "" if pseudonyms is None else pseudonyms.fingerprint
        log = _Progress(
            writer,
            _hash_import(format_, options, digests),
            path,
            format_,
            clock.now(),
            plan,
            pseudonym_key_id,
        )
        if log.is_finished:
            report.is_repeated = True
            return report
        report.resumed_at = log.rows_done
        shutil.rmtree(folder, ignore_errors=True)  # left by an import that died
        runs, refused = ExternalSort(folder, run_rows), RefusedLines(folder)
        receipt = Receipt(log.started_at, "import", "ndjson")
        hide = None
        if pseudonyms is not None:
            hide = partial(
                pseudonyms.pseudonymise_line, foreign=format_ == "gorse", types=log.plan.event_types
            )
        collector = _Collector(
            receipt,
            log.plan,
            hide,
            log.is_ordered_by(pseudonym_key_id),
            suppression_list if suppression_list else None,
            runs,
            refused,
            report,
        )
        for batch in read(digests, options):
            collector.add(batch)
            progress("read and check", report.rows, None)
        _require_rows(report, path)
        _append(log, runs, refused, receipt, report.rows, progress)
        log.finish(clock.now())
        return report
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        writer.close()


def _require_rows(report: ImportReport, path: Path) -> None:
    if report.rows:
        return
    content = (
        f"only records that say nothing about people and items: {', '.join(report.left_out)}"
        if report.left_out
        else "no row"
    )
    raise InputError(
        f"{content} was found in it",
        where=str(path),
        fix="look at the file, or choose another format",
    )


def erase_paths(log: EmbeddedWriter) -> None:
    """Erase the paths of imported files, which earlier versions kept and which may name people."""
    with log.transaction() as connection:
        if (
            connection.execute(
                "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'import'"
            ).fetchone()
            is not None
        ):
            connection.execute("UPDATE import SET path = ''")


def _open_log(stream: Path, lake: StoragePath | None) -> EmbeddedWriter:
    """Open the log of imports; wait while the lake role prunes it."""
    path = raw_path(stream, PRODUCER)
    deadline = time.monotonic() + LOCK_S
    while True:
        try:
            return open_writer(
                path,
                partition=PRODUCER,
                expected_end=read_expected_ends(stream, PRODUCER, lake)[path.stem],
            )
        except LockedError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def _hash_import(format_: str, options: AdapterOptions, digests: dict[Path, str]) -> str:
    parts = (format_, options.slot, options.mapping, *sorted(digests.values()))
    return sha256("\x00".join(parts).encode()).hexdigest()


@dataclass(frozen=True)
class _Collector:
    """Checks batches and passes pseudonymised rows to `runs` or `refused`, without erased people.

    Attributes:
        ordered_hidden: whether rows are ordered by their pseudonymised content. An import that
            began without a pseudonym key keeps the order of the original content, since the order
            must match the part that is done.
    """

    receipt: Receipt
    plan: RoutePlan
    hide_line: Callable[[bytes], bytes] | None
    ordered_hidden: bool
    suppression_list: SuppressionList | None
    runs: ExternalSort
    refused: RefusedLines
    report: ImportReport

    def add(self, batch: Batch) -> None:
        _check_length(batch)
        hidden_lines = batch.lines
        if self.hide_line is not None:
            hidden_lines = [self.hide_line(line) for line in batch.lines]
        checked_lines = hidden_lines if self.ordered_hidden else batch.lines
        accepted, refusals = check(b"\n".join(checked_lines), self.receipt, self.plan)
        lines, suppression_list = hidden_lines, self.suppression_list
        if suppression_list is not None:
            lines = [suppression_list.filter_line(line, self.receipt) for line in hidden_lines]
        # The receipt has a time of its own, so `ts` of an accepted row is what the router will see.
        times, ids = [row.ts for row in accepted], [row.event.event_id for row in accepted]
        self.runs.add(times, ids, [lines[row.row] for row in accepted], batch.file)
        self.refused.add([lines[refusal.row] for refusal in refusals])
        if lines != checked_lines:  # as the router will see them
            accepted, refusals = check(b"\n".join(lines), self.receipt, self.plan)
        report = self.report
        for refusal in refusals:
            report.refused[refusal.code] += 1
            if len(report.examples) < _EXAMPLES:
                report.examples.append(
                    f"{batch.file}:{batch.numbers[refusal.row]}: {refusal.path}: {refusal.message}"
                )
        report.left_out.update(batch.left_out)
        report.rows += len(batch.lines)
        report.accepted += len(accepted)


def _check_length(batch: Batch) -> None:
    for number, line in zip(batch.numbers, batch.lines, strict=True):
        if len(line) > ROW_BYTES_MAX:
            message = f"a row of {len(line):,} bytes, and {ROW_BYTES_MAX:,} can be kept"
            raise InputError(
                message,
                where=f"{batch.file}:{number}",
                fix="take the row out of the file, or choose another format",
            )


def _append(
    log: "_Progress",
    runs: ExternalSort,
    refused: RefusedLines,
    receipt: Receipt,
    rows: int,
    progress: Progress,
) -> None:
    pending_blocks: list[Block] = []
    done = size = 0
    encoded = msgspec.json.encode(receipt)
    for lines in _read_bodies(runs, refused):
        done += len(lines)
        if done <= log.rows_done:
            continue
        if done - len(lines) < log.rows_done:
            lines = lines[log.rows_done - (done - len(lines)) :]
        pending_blocks.append(Block("body", len(lines), b"\n".join(lines), encoded))
        size += len(pending_blocks[-1].payload)
        if len(pending_blocks) == COMMIT_BODIES or size >= COMMIT_BYTES:
            log.append(pending_blocks, done)
            pending_blocks, size = [], 0
            progress("append", done, rows)
    log.append(pending_blocks, done)
    progress("append", done, rows)


def _read_bodies(runs: ExternalSort, refused: RefusedLines) -> Iterator[list[bytes]]:
    """Yield all rows in order, in bodies that fit into a block."""
    body: list[bytes] = []
    size = 0
    for line in chain(runs.lines(), refused):
        if body and (len(body) >= BODY_ROWS or size + len(line) > BODY_BYTES):
            yield body
            body, size = [], 0
        body.append(line)
        size += len(line)
    if body:
        yield body


class _Progress:
    """Progress of an import, stored in the file that it appends to and committed with it."""

    def __init__(
        self,
        writer: EmbeddedWriter,
        key: str,
        path: Path,
        format_: str,
        now: int,
        plan: RoutePlan,
        hiding_key: str,
    ) -> None:
        self._writer = writer
        self._key = key
        with writer.transaction() as connection:
            connection.execute(_IMPORTS)
            if "pseudonyms" not in [
                name for _, name, *_ in connection.execute("PRAGMA table_info(import)")
            ]:  # the table of an earlier version
                connection.execute("ALTER TABLE import ADD COLUMN pseudonyms TEXT")
            # The imports of the lost rows are unknown. Files that are given again are read again,
            # and the router drops duplicates.
            if writer.set_aside:
                connection.execute("DELETE FROM import")
            row_values = (key, "", format_, now, msgspec.json.encode(plan), hiding_key)
            connection.execute(
                "INSERT OR IGNORE INTO import VALUES (?, ?, ?, ?, ?, 0, NULL, ?)", row_values
            )
            query = (
                "SELECT began_at, plan, rows_done, finished_at IS NOT NULL, pseudonyms FROM "
                "import WHERE key = ?"
            )
            row: tuple[Any, ...] = next(iter(connection.execute(query, (key,))))
        self.started_at: int = row[0]
        self.plan = msgspec.json.decode(row[1], type=RoutePlan)
        self.rows_done: int = row[2]
        self.is_finished = bool(row[3])
        self._hiding_key: str | None = row[4]
        self._path = path

    def is_ordered_by(self, hiding_key: str) -> bool:
        """Return whether rows are ordered under this pseudonym key ("" is none), else under no key.

        Raises:
            ConfigError: they are ordered under another key.
        """
        if self._hiding_key in (None, hiding_key):
            return True
        if self._hiding_key:
            message = (
                f"the import of {self._path} was cut short, and began with another key of "
                "pseudonyms"
            )
            raise ConfigError(message, where=SETTING, fix="set that one until it is through")
        return False

    def append(self, blocks: list[Block], rows_done: int) -> None:
        with self._writer.transaction() as connection:
            if blocks:
                self._writer.append(blocks)
            faults.at("import.before_commit")
            connection.execute(
                "UPDATE import SET rows_done = ? WHERE key = ?", (rows_done, self._key)
            )
        faults.at("import.after_commit")

    def finish(self, moment: int) -> None:
        with self._writer.transaction() as connection:
            connection.execute(
                "UPDATE import SET finished_at = ? WHERE key = ?", (moment, self._key)
            )
