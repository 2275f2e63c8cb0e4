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
from tailorbird.events import Clock, Receipt, RoutePlan, check_body
from tailorbird.events.adapters import FORMATS, AdapterOptions, Batch, digest_files, find_files
from tailorbird.events.pseudonyms import KEY_SETTING, Pseudonyms
from tailorbird.events.suppression import SuppressionList
from tailorbird.storage_paths import StoragePath
from tailorbird.stream.embedded import EmbeddedWriter, open_writer
from tailorbird.stream.locked import read_expected_ends
from tailorbird.stream.partitions import IMPORT_PRODUCER, raw_path
from tailorbird.stream.protocol import Block
from tailorbird.stream.runs import ExternalSort, RefusedLines

RUN_ROWS = 1_000_000  # sorted in memory at once: about half a GB of typical events
BODY_ROWS = 2_000
BODY_BYTES = 4 << 20
COMMIT_BODIES = 25
COMMIT_BYTES = 64 << 20
ROW_BYTES_MAX = 256 << 20  # bound of a block; no event comes near
LOCK_TIMEOUT_S = 3.0  # time that an import waits for its log
_EXAMPLES_MAX = 5

ReportProgress = Callable[[str, int, int | None], None]

# `path` is empty, since a file may be named after somebody and is identified by its content.
# Earlier versions wrote it, see `erase_paths`.
_IMPORT_TABLE_SQL = """
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
    report_progress: ReportProgress = lambda stage, done, total: None,
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
    adapter = FORMATS[format_]
    files = find_files(path, adapter.patterns)
    total_bytes = sum(file.stat().st_size for file in files)
    digested_bytes = 0

    def report_digested(count: int) -> None:
        nonlocal digested_bytes
        digested_bytes += count
        report_progress("checksums", digested_bytes, total_bytes)

    options = options or AdapterOptions(root=str(path))
    digests = digest_files(files, report_digested)
    report = ImportReport([str(file) for file in files])
    writer = _open_log(stream, lake)
    runs_folder = stream / "import-runs"  # the writer's lock allows one import at a time
    try:
        report.set_aside = [str(damaged_path) for damaged_path in writer.damaged_tail_paths]
        pseudonym_key_id = "" if pseudonyms is None else pseudonyms.key_fingerprint
        progress = _ImportProgress(
            writer,
            key=_hash_import(format_, options, digests),
            path=path,
            format_=format_,
            now=clock.now(),
            plan=plan,
            pseudonym_key_id=pseudonym_key_id,
        )
        if progress.is_finished:
            report.is_repeated = True
            return report
        report.resumed_at = progress.rows_done
        shutil.rmtree(runs_folder, ignore_errors=True)  # left by an import that died
        external_sort = ExternalSort(runs_folder, run_rows)
        refused_lines = RefusedLines(runs_folder)
        receipt = Receipt(progress.started_at, "import", "ndjson")
        pseudonymise_line = None
        if pseudonyms is not None:
            pseudonymise_line = partial(
                pseudonyms.pseudonymise_line,
                is_foreign=format_ == "gorse",
                event_types=progress.plan.event_types,
            )
        row_checker = _RowChecker(
            receipt=receipt,
            plan=progress.plan,
            pseudonymise_line=pseudonymise_line,
            is_ordered_by_pseudonyms=progress.is_ordered_by(pseudonym_key_id),
            suppression_list=suppression_list or None,
            external_sort=external_sort,
            refused_lines=refused_lines,
            report=report,
        )
        for batch in adapter.read(digests, options):
            row_checker.add(batch)
            report_progress("read and check", report.rows, None)
        _require_rows(report, path)
        _append_rows(progress, external_sort, refused_lines, receipt, report.rows, report_progress)
        progress.finish(clock.now())
        return report
    finally:
        shutil.rmtree(runs_folder, ignore_errors=True)
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
    select_table = "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'import'"
    with log.transaction() as connection:
        if connection.execute(select_table).fetchone() is not None:
            connection.execute("UPDATE import SET path = ''")


def _open_log(stream: Path, lake: StoragePath | None) -> EmbeddedWriter:
    """Open the log of imports; wait while the lake role prunes it."""
    path = raw_path(stream, IMPORT_PRODUCER)
    deadline = time.monotonic() + LOCK_TIMEOUT_S
    while True:
        try:
            return open_writer(
                path,
                partition=IMPORT_PRODUCER,
                expected_end=read_expected_ends(stream, IMPORT_PRODUCER, lake)[path.stem],
            )
        except LockedError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def _hash_import(format_: str, options: AdapterOptions, digests: dict[Path, str]) -> str:
    identity_fields = (format_, options.slot, options.mapping, *sorted(digests.values()))
    return sha256("\x00".join(identity_fields).encode()).hexdigest()


@dataclass(frozen=True)
class _RowChecker:
    """Checks batches and passes their pseudonymised rows on, without the rows of erased people.

    Attributes:
        is_ordered_by_pseudonyms: whether rows are ordered by their pseudonymised content. An
            import that began without a pseudonym key keeps the order of the original content,
            since the order must match the part that is done.
    """

    receipt: Receipt
    plan: RoutePlan
    pseudonymise_line: Callable[[bytes], bytes] | None
    is_ordered_by_pseudonyms: bool
    suppression_list: SuppressionList | None
    external_sort: ExternalSort
    refused_lines: RefusedLines
    report: ImportReport

    def add(self, batch: Batch) -> None:
        _check_length(batch)
        pseudonymised_lines = batch.lines
        if self.pseudonymise_line is not None:
            pseudonymised_lines = [self.pseudonymise_line(line) for line in batch.lines]
        checked_lines = pseudonymised_lines if self.is_ordered_by_pseudonyms else batch.lines
        accepted, refusals = check_body(b"\n".join(checked_lines), self.receipt, self.plan)
        lines = pseudonymised_lines
        suppression_list = self.suppression_list
        if suppression_list is not None:
            lines = [suppression_list.filter_line(line, self.receipt) for line in lines]
        # The receipt has a time of its own, so `ts` of an accepted row is what the router will see.
        self.external_sort.add(
            [verdict.ts for verdict in accepted],
            [verdict.event.event_id for verdict in accepted],
            [lines[verdict.row] for verdict in accepted],
            batch.file,
        )
        self.refused_lines.add([lines[refusal.row] for refusal in refusals])
        if lines != checked_lines:  # as the router will see them
            accepted, refusals = check_body(b"\n".join(lines), self.receipt, self.plan)
        report = self.report
        for refusal in refusals:
            report.refused[refusal.code] += 1
            if len(report.examples) < _EXAMPLES_MAX:
                location = f"{batch.file}:{batch.line_numbers[refusal.row]}"
                report.examples.append(f"{location}: {refusal.path}: {refusal.message}")
        report.left_out.update(batch.skipped_counts)
        report.rows += len(batch.lines)
        report.accepted += len(accepted)


def _check_length(batch: Batch) -> None:
    for number, line in zip(batch.line_numbers, batch.lines, strict=True):
        if len(line) > ROW_BYTES_MAX:
            message = f"a row of {len(line):,} bytes, and {ROW_BYTES_MAX:,} can be kept"
            raise InputError(
                message,
                where=f"{batch.file}:{number}",
                fix="take the row out of the file, or choose another format",
            )


def _append_rows(
    progress: "_ImportProgress",
    external_sort: ExternalSort,
    refused_lines: RefusedLines,
    receipt: Receipt,
    total_rows: int,
    report_progress: ReportProgress,
) -> None:
    pending_blocks: list[Block] = []
    rows_read = pending_bytes = 0
    encoded_receipt = msgspec.json.encode(receipt)
    for lines in _read_bodies(external_sort, refused_lines):
        rows_read += len(lines)
        if rows_read <= progress.rows_done:
            continue
        if rows_read - len(lines) < progress.rows_done:
            lines = lines[progress.rows_done - (rows_read - len(lines)) :]
        pending_blocks.append(Block("body", len(lines), b"\n".join(lines), encoded_receipt))
        pending_bytes += len(pending_blocks[-1].payload)
        if len(pending_blocks) == COMMIT_BODIES or pending_bytes >= COMMIT_BYTES:
            progress.append(pending_blocks, rows_read)
            pending_blocks = []
            pending_bytes = 0
            report_progress("append", rows_read, total_rows)
    progress.append(pending_blocks, rows_read)
    report_progress("append", rows_read, total_rows)


def _read_bodies(external_sort: ExternalSort, refused_lines: RefusedLines) -> Iterator[list[bytes]]:
    """Yield all rows in order, in bodies that fit into a block."""
    body: list[bytes] = []
    body_bytes = 0
    for line in chain(external_sort.lines(), refused_lines):
        if body and (len(body) >= BODY_ROWS or body_bytes + len(line) > BODY_BYTES):
            yield body
            body = []
            body_bytes = 0
        body.append(line)
        body_bytes += len(line)
    if body:
        yield body


class _ImportProgress:
    """Progress of an import, stored in the file that it appends to and committed with it."""

    def __init__(
        self,
        writer: EmbeddedWriter,
        key: str,
        path: Path,
        format_: str,
        now: int,
        plan: RoutePlan,
        pseudonym_key_id: str,
    ) -> None:
        self._writer = writer
        self._key = key
        with writer.transaction() as connection:
            connection.execute(_IMPORT_TABLE_SQL)
            columns = [name for _, name, *_ in connection.execute("PRAGMA table_info(import)")]
            if "pseudonyms" not in columns:  # the table of an earlier version
                connection.execute("ALTER TABLE import ADD COLUMN pseudonyms TEXT")
            # The imports of the lost rows are unknown. Files that are given again are read again,
            # and the router drops duplicates.
            if writer.damaged_tail_paths:
                connection.execute("DELETE FROM import")
            row_values = (key, "", format_, now, msgspec.json.encode(plan), pseudonym_key_id)
            connection.execute(
                "INSERT OR IGNORE INTO import VALUES (?, ?, ?, ?, ?, 0, NULL, ?)", row_values
            )
            query = (
                "SELECT began_at, plan, rows_done, finished_at IS NOT NULL, pseudonyms FROM "
                "import WHERE key = ?"
            )
            row: tuple[Any, ...] = next(iter(connection.execute(query, (key,))))
        started_at, encoded_plan, rows_done, is_finished, stored_key_id = row
        self.started_at: int = started_at
        self.plan = msgspec.json.decode(encoded_plan, type=RoutePlan)
        self.rows_done: int = rows_done
        self.is_finished = bool(is_finished)
        self._pseudonym_key_id: str | None = stored_key_id
        self._path = path

    def is_ordered_by(self, pseudonym_key_id: str) -> bool:
        """Return whether rows are ordered under this pseudonym key ("" is none), else under no key.

        Raises:
            ConfigError: they are ordered under another key.
        """
        if self._pseudonym_key_id in (None, pseudonym_key_id):
            return True
        if self._pseudonym_key_id:
            message = (
                f"the import of {self._path} was cut short, and began with another key of "
                "pseudonyms"
            )
            raise ConfigError(message, where=KEY_SETTING, fix="set that one until it is through")
        return False

    def append(self, blocks: list[Block], rows_done: int) -> None:
        with self._writer.transaction() as connection:
            if blocks:
                self._writer.append(blocks)
            faults.fire_if_armed("import.before_commit")
            connection.execute(
                "UPDATE import SET rows_done = ? WHERE key = ?", (rows_done, self._key)
            )
        faults.fire_if_armed("import.after_commit")

    def finish(self, finished_at: int) -> None:
        with self._writer.transaction() as connection:
            connection.execute(
                "UPDATE import SET finished_at = ? WHERE key = ?", (finished_at, self._key)
            )
