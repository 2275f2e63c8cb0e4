"""Output of commands: tables and progress bars for people, one JSON object for machines."""

import os
import shlex
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Annotated, Any

import msgspec
from cyclopts import Parameter
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from tailorbird.platform.progress import Progress as ReportProgress

STDIN = "/dev/stdin"  # What `-` on the command line stands for.
# Options that several commands share.
Json = Annotated[bool, Parameter(negative="", help="Print one JSON object and nothing else.")]
Why = Annotated[str, Parameter(help="reason for the audit log")]
By = Annotated[str, Parameter(help="who decided; by default the name of this account")]
HealthPort = Annotated[
    int, Parameter(help="serve /healthz, /readyz and /metrics on this port; 0 disables it")
]
HealthHost = Annotated[str, Parameter(help="address that the health port binds to")]

_FILE_WIDTH = 240  # Columns of a table that is written to a file or a pipe.

LINE_INTERVAL_S = 10.0  # Interval of progress lines if no terminal shows bars.
_CONTROL_ESCAPES = {
    code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160)) if chr(code) not in "\t\n"
}


def console(*, stderr: bool = False) -> Console:
    """Return a console; in a file or a pipe it writes plain lines without wrapping."""
    is_terminal = (sys.stderr if stderr else sys.stdout).isatty()
    return Console(
        stderr=stderr,
        highlight=False,
        markup=False,
        emoji=False,
        soft_wrap=not is_terminal,
        width=None if is_terminal else _FILE_WIDTH,
    )


def this_command() -> str:
    """Return the start of a command for this project, with `-C` if this one was called with it."""
    project = os.environ.get("TAILORBIRD_PROJECT")
    return f"tailorbird -C {shlex.quote(project)}" if project else "tailorbird"


def print_note(text: str) -> None:
    """Print a note to stderr that the reader of the output must know."""
    console(stderr=True).print(text)


def print_json(value: Any) -> None:
    """Print one JSON object to stdout."""
    sys.stdout.write(
        msgspec.json.format(msgspec.json.encode(value, enc_hook=_to_json_type), indent=1).decode()
        + "\n"
    )


def _to_json_type(value: Any) -> Any:
    if hasattr(value, "item"):
        return value.item()
    if hasattr(value, "tolist"):
        return value.tolist()
    return str(value)


def print_table(
    title: str,
    columns: Sequence[str],
    rows: Iterable[Sequence[object]],
    *,
    numeric_columns: Sequence[str] = (),
) -> None:
    """Print a table; columns named in `numeric_columns` hold numbers."""
    table = Table(
        title=title or None, title_justify="left", header_style="bold", box=None, pad_edge=False
    )
    for column in columns:
        table.add_column(
            column, justify="right" if column in numeric_columns else "left", overflow="fold"
        )
    for row in rows:
        table.add_row(*(Text(format_cell(value)) for value in row))
    if not table.row_count:
        table.add_row("none")
    console().print(table)


def format_cell(value: object) -> str:
    """Format a table cell: numbers with separators, None as "", and control characters escaped."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.4f}" if abs(value) < 100 else f"{value:,.1f}"
    return str(value).translate(_CONTROL_ESCAPES)


def _line_reporter() -> ReportProgress:
    """Return a function that reports progress as lines on stderr, for logs and pipes.

    It prints nothing in the first ten seconds.
    """
    started_at = last_line_at = time.monotonic()

    def report(stage: str, done: int, total: int | None) -> None:
        nonlocal last_line_at
        now = time.monotonic()
        if now - last_line_at < LINE_INTERVAL_S:
            return
        last_line_at = now
        print(
            f"{stage}: {done:,}{f' of {total:,}' if total else ''}, {now - started_at:.0f} s "
            "so far",
            file=sys.stderr,
            flush=True,
        )

    return report


@contextmanager
def progress_bars(*, quiet: bool = False) -> Iterator[ReportProgress]:
    """Yield a function (stage, done, total or None) that draws a bar per stage on stderr.

    Without a terminal it writes lines.
    """
    if not quiet and not sys.stderr.isatty():
        yield _line_reporter()
        return
    bars = Progress(
        SpinnerColumn(),
        TextColumn("{task.description:<28}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(compact=True),
        console=console(stderr=True),
        disable=quiet,
        transient=False,
    )
    task_by_stage: dict[str, TaskID] = {}

    def report(stage: str, done: int, total: int | None) -> None:
        if stage not in task_by_stage:
            for earlier_task in task_by_stage.values():
                task = bars.tasks[earlier_task]
                bars.update(earlier_task, total=task.completed)
            task_by_stage[stage] = bars.add_task(stage, total=total)
        bars.update(task_by_stage[stage], completed=done, total=total)

    with bars:
        yield report


def print_routed_counts(count_by_decision: dict[str, int] | None, command: str) -> None:
    """Print the counts of `drain`; None means that another process held the lock."""
    out = console()
    if count_by_decision is not None:
        counts = (
            f"{count_by_decision['accepted']:,} events, {count_by_decision['duplicates']:,} "
            "repeats, "
            f"{count_by_decision['quarantined']:,} to quarantine"
        )
        out.print(f"Routed {counts}; all in the lake.")
        return
    out.print(
        "Another process is writing the log or the lake. If it is `up` or a role, it processes "
        "these events:"
    )
    out.print(f'  {this_command()} sql "SELECT count(*) FROM events"')
    out.print(
        f"After any other command, {command} the same again: events that are in the log are "
        "then routed."
    )
