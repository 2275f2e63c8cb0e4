"""What commands print: tables and bars for people, one JSON object for machines."""

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

from tailorbird.platform.progress import Progress as Report

STDIN = "/dev/stdin"  # what `-` on the command line stands for
# What several commands take, in the same words.
Json = Annotated[bool, Parameter(negative="", help="Print one JSON object and nothing else.")]
Why = Annotated[str, Parameter(help="stands in the audit log")]
By = Annotated[str, Parameter(help="who decided; the name of this account unless told otherwise")]
HealthPort = Annotated[
    int, Parameter(help="answer /healthz, /readyz and /metrics there; 0: nowhere")
]
HealthHost = Annotated[
    str, Parameter(help="address of that port; anything but this machine has to be asked for")
]

_WIDTH_OF_FILES = 240  # columns of a table that is written to a file or a pipe

LINE_EVERY_S = 10.0  # of progress, where no terminal shows bars
_OBEYED = {
    code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160)) if chr(code) not in "\t\n"
}


def console(*, stderr: bool = False) -> Console:
    """A terminal if it is one; else plain lines that are not broken, in a file or a pipe."""
    terminal = (sys.stderr if stderr else sys.stdout).isatty()
    return Console(
        stderr=stderr,
        highlight=False,
        markup=False,
        soft_wrap=not terminal,
        width=None if terminal else _WIDTH_OF_FILES,
    )


def this_command() -> str:
    """How this project's next command begins: with `-C` where this one was given it."""
    project = os.environ.get("TAILORBIRD_PROJECT")
    return f"tailorbird -C {shlex.quote(project)}" if project else "tailorbird"


def print_note(text: str) -> None:
    """Say something on stderr that a reader of the output must know."""
    console(stderr=True).print(text)


def print_json(value: Any) -> None:
    """One JSON object on stdout."""
    sys.stdout.write(
        msgspec.json.format(msgspec.json.encode(value, enc_hook=_plain), indent=1).decode() + "\n"
    )


def _plain(value: Any) -> Any:
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
    right: Sequence[str] = (),
) -> None:
    """A table; columns named in `right` hold numbers."""
    table = Table(
        title=title or None, title_justify="left", header_style="bold", box=None, pad_edge=False
    )
    for column in columns:
        table.add_column(column, justify="right" if column in right else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(show(value)) for value in row))
    if not table.row_count:
        table.add_row("none")
    console().print(table)


def show(value: object) -> str:
    """A value in a table: numbers with separators, nothing for None, and of what others wrote
    nothing that a terminal obeys.
    """
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.4f}" if abs(value) < 100 else f"{value:,.1f}"
    return str(value).translate(_OBEYED)


def _plain_lines() -> Report:
    """Return a function that says on stderr how far a long command is, for logs and pipes: nothing
    in the first ten seconds.
    """
    began = said = time.monotonic()

    def report(stage: str, done: int, total: int | None) -> None:
        nonlocal said
        now = time.monotonic()
        if now - said < LINE_EVERY_S:
            return
        said = now
        print(
            f"{stage}: {done:,}{f' of {total:,}' if total else ''}, {now - began:.0f} s so far",
            file=sys.stderr,
            flush=True,
        )

    return report


@contextmanager
def progress_bars(*, quiet: bool = False) -> Iterator[Report]:
    """Give a function (stage, done, total or None) that draws a bar for each stage on stderr;
    without a terminal, it writes lines.
    """
    if not quiet and not sys.stderr.isatty():
        yield _plain_lines()
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
    tasks: dict[str, TaskID] = {}

    def report(stage: str, done: int, total: int | None) -> None:
        if stage not in tasks:
            for earlier in tasks.values():
                task = bars.tasks[earlier]
                bars.update(earlier, total=task.completed)
            tasks[stage] = bars.add_task(stage, total=total)
        bars.update(tasks[stage], completed=done, total=total)

    with bars:
        yield report


def tell_routed(routed: dict[str, int] | None, command: str) -> None:
    """Print what `drain` did of a command's events; None where it was locked out, and nobody can
    tell by whom.
    """
    out = console()
    if routed is not None:
        counts = (
            f"{routed['accepted']:,} events, {routed['duplicates']:,} repeats, "
            f"{routed['quarantined']:,} to quarantine"
        )
        out.print(f"Routed {counts}; all in the lake.")
        return
    out.print(
        "Another process is writing the log or the lake. If it is up, or a role, it takes "
        "the events from here:"
    )
    out.print(f'  {this_command()} sql "SELECT count(*) FROM events"')
    out.print(
        f"After any other command, {command} the same again: what is in the log already is "
        "routed then."
    )
