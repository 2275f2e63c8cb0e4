"""Import: files of any known format, checked, put in order of time and appended to the raw log of
the producer `import`.

    files ──adapter──► JSON lines ──contract──► sorted by (ts, event_id) ──► raw-import.db, and how
    far it got, in one transaction

An import that was killed goes on where it was: the order is a function of the files, of the time at
which the import began, and of the plan and the key of pseudonyms that it began with, which are kept
beside its position. Sorting needs the memory of one run; longer histories are sorted in runs on
disk and merged by slices of time. What the contract refuses is appended behind the rest, so that
the router puts it whole into the quarantine. A row that is kept out because somebody was erased
stands where the row would: people may be erased between two parts of one import, and the position
counts rows.
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
from tailorbird.places import Place
from tailorbird.stream.embedded import EmbeddedWriter, open_writer
from tailorbird.stream.held import held
from tailorbird.stream.partitions import IMPORTS, raw_path
from tailorbird.stream.protocol import Block
from tailorbird.stream.runs import Refused, Runs

PRODUCER = IMPORTS
RUN_ROWS = 1_000_000  # sorted in memory at once: about half a GB of typical events
BODY_ROWS, BODY_BYTES = 2_000, 4 << 20
COMMIT_BODIES, COMMIT_BYTES = 25, 64 << 20
ROW_BYTES_MAX = 256 << 20  # beyond what a block takes; no event comes near
LOCK_S = 3.0  # how long an import waits for its log
_EXAMPLES = 5

Progress = Callable[[str, int, int | None], None]

# `path` is empty: a file may be called after somebody, and is known by its content. Earlier
# versions wrote it: see `forget_paths`.
_IMPORTS = """
CREATE TABLE IF NOT EXISTS import(
    key TEXT PRIMARY KEY, path TEXT NOT NULL, format TEXT NOT NULL, began_at INTEGER NOT NULL, plan BLOB NOT NULL,
    rows_done INTEGER NOT NULL, finished_at INTEGER, pseudonyms TEXT
) STRICT
"""


@dataclass
class ImportReport:
    """What an import did.

    Attributes:
        rows: events and profiles in the files; accepted + refused.
        refused: reason code → rows, all of which go to the quarantine.
        left_out: kind of record → how many were left out, since they say nothing about people and
            items.
        examples: a sentence for each of the first refused rows, with file and line.
        resumed_at: how many rows an earlier, interrupted import of the same files had done.
        already: whether these files had been imported before, so that nothing was to do.
        set_aside: files into which a damaged end of the log, or one that lost rows, was moved; rows
            of earlier imports may be missing.
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
    stopped: SuppressionList | None = None,
    lake: Place | None = None,
) -> ImportReport:
    """Import the files at `path` into the raw log in the folder `stream`.

    Args:
        pseudonyms: hides the people of every row before it is checked and written.
        stopped: of whom nothing old is taken again, see `events.suppression`.
        lake: which says how far it has the log; a lost one is begun anew behind that, see
            `stream.held`.
        run_rows: how many rows are sorted in memory at once; the order does not depend on it.

    Raises:
        UsageError: no such format.
        InputError: nothing there, no row in it, a row of hundreds of megabytes, or a file that
            cannot be read.
        ConfigError: it was cut short, and began with another key of pseudonyms.
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
        hiding = "" if pseudonyms is None else pseudonyms.fingerprint
        log = _Progress(
            writer, _key(format_, options, digests), path, format_, clock.now(), plan, hiding
        )
        if log.finished:
            report.already = True
            return report
        report.resumed_at = log.rows_done
        shutil.rmtree(folder, ignore_errors=True)  # of an import that died
        runs, refused = Runs(folder, run_rows), Refused(folder)
        receipt = Receipt(log.began_at, "import", "ndjson")
        hide = None
        if pseudonyms is not None:
            hide = partial(pseudonyms.line, foreign=format_ == "gorse", types=log.plan.event_types)
        collect = _Collecting(
            receipt,
            log.plan,
            hide,
            log.in_order_of(hiding),
            stopped if stopped else None,
            runs,
            refused,
            report,
        )
        for batch in read(digests, options):
            collect.add(batch)
            progress("read and check", report.rows, None)
        if report.rows == 0:
            found = (
                "only records that say nothing about people and items: "
                f"{', '.join(report.left_out)}"
                if report.left_out
                else "no row"
            )
            raise InputError(
                f"{found} was found in it",
                where=str(path),
                fix="look at the file, or choose another format",
            )
        _append(log, runs, refused, receipt, report.rows, progress)
        log.finish(clock.now())
        return report
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        writer.close()


def forget_paths(log: EmbeddedWriter) -> None:
    """Forget where the files of imports stood, which earlier versions kept: a path may say who
    somebody is.
    """
    with log.transaction() as connection:
        if (
            connection.execute(
                "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'import'"
            ).fetchone()
            is not None
        ):
            connection.execute("UPDATE import SET path = ''")


def _open_log(stream: Path, lake: Place | None) -> EmbeddedWriter:
    """The log of imports; the lake role may hold it for a second, to prune what earlier imports
    left.
    """
    path = raw_path(stream, PRODUCER)
    until = time.monotonic() + LOCK_S
    while True:
        try:
            return open_writer(
                path, partition=PRODUCER, held=held(stream, PRODUCER, lake)[path.stem]
            )
        except LockedError:
            if time.monotonic() > until:
                raise
            time.sleep(0.05)


def _key(format_: str, options: AdapterOptions, digests: dict[Path, str]) -> str:
    parts = (format_, options.slot, options.mapping, *sorted(digests.values()))
    return sha256("\x00".join(parts).encode()).hexdigest()


@dataclass(frozen=True)
class _Collecting:
    """Checks batches, gives what is accepted to `runs` and what is not to `refused`; both hidden,
    and without what is kept out.

    Attributes:
        ordered_hidden: whether rows are in order of what they are once their people are hidden. Of
            an import that began without a key of pseudonyms they are in order of what they were
            before: the order must be that of the part that is done.
    """

    receipt: Receipt
    plan: RoutePlan
    hide: Callable[[bytes], bytes] | None
    ordered_hidden: bool
    stopped: SuppressionList | None
    runs: Runs
    refused: Refused
    report: ImportReport

    def add(self, batch: Batch) -> None:
        _check_length(batch)
        hidden = batch.lines if self.hide is None else [self.hide(line) for line in batch.lines]
        checked = hidden if self.ordered_hidden else batch.lines
        accepted, refusals = check(b"\n".join(checked), self.receipt, self.plan)
        lines = (
            hidden
            if self.stopped is None
            else [self.stopped.line(line, self.receipt) for line in hidden]
        )
        # Checked on a receipt with its own time; `ts` of an accepted row is what the router will
        # find again.
        times, ids = [row.ts for row in accepted], [row.event.event_id for row in accepted]
        self.runs.add(times, ids, [lines[row.row] for row in accepted], batch.file)
        self.refused.add([lines[refusal.row] for refusal in refusals])
        if lines != checked:  # what the router will say of them
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
            found = f"a row of {len(line):,} bytes, and {ROW_BYTES_MAX:,} can be kept"
            raise InputError(
                found,
                where=f"{batch.file}:{number}",
                fix="take the row out of the file, or choose another format",
            )


def _append(
    log: "_Progress", runs: Runs, refused: Refused, receipt: Receipt, rows: int, progress: Progress
) -> None:
    pending: list[Block] = []
    done = size = 0
    encoded = msgspec.json.encode(receipt)
    for lines in _bodies(runs, refused):
        done += len(lines)
        if done <= log.rows_done:
            continue
        if done - len(lines) < log.rows_done:
            lines = lines[log.rows_done - (done - len(lines)) :]
        pending.append(Block("body", len(lines), b"\n".join(lines), encoded))
        size += len(pending[-1].payload)
        if len(pending) == COMMIT_BODIES or size >= COMMIT_BYTES:
            log.append(pending, done)
            pending, size = [], 0
            progress("append", done, rows)
    log.append(pending, done)
    progress("append", done, rows)


def _bodies(runs: Runs, refused: Refused) -> Iterator[list[bytes]]:
    """All rows in their order, in bodies that a block can take."""
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
    """How far an import got, kept in the file that it appends to and committed with what it
    appends.
    """

    def __init__(
        self,
        writer: EmbeddedWriter,
        key: str,
        path: Path,
        format_: str,
        now: int,
        plan: RoutePlan,
        hiding: str,
    ) -> None:
        self._writer = writer
        self._key = key
        with writer.transaction() as connection:
            connection.execute(_IMPORTS)
            if "pseudonyms" not in [
                name for _, name, *_ in connection.execute("PRAGMA table_info(import)")
            ]:  # of an earlier version
                connection.execute("ALTER TABLE import ADD COLUMN pseudonyms TEXT")
            # whose rows they were is not known: files given again are taken again, the router drops
            # repeats
            if writer.set_aside:
                connection.execute("DELETE FROM import")
            begun = (key, "", format_, now, msgspec.json.encode(plan), hiding)
            connection.execute(
                "INSERT OR IGNORE INTO import VALUES (?, ?, ?, ?, ?, 0, NULL, ?)", begun
            )
            query = (
                "SELECT began_at, plan, rows_done, finished_at IS NOT NULL, pseudonyms FROM "
                "import WHERE key = ?"
            )
            row: tuple[Any, ...] = next(iter(connection.execute(query, (key,))))
        self.began_at: int = row[0]
        self.plan = msgspec.json.decode(row[1], type=RoutePlan)
        self.rows_done: int = row[2]
        self.finished = bool(row[3])
        self._hiding: str | None = row[4]
        self._path = path

    def in_order_of(self, hiding: str) -> bool:
        """Whether rows are in the order that they have under this key of pseudonyms ("" is none);
        else in that of no key.

        Raises:
            ConfigError: they are in that of another key, which only its holder can make again.
        """
        if self._hiding in (None, hiding):
            return True
        if self._hiding:
            found = (
                f"the import of {self._path} was cut short, and began with another key of "
                "pseudonyms"
            )
            raise ConfigError(found, where=SETTING, fix="set that one until it is through")
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
