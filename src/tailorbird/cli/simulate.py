"""`tailorbird simulate`: write the history of a synthetic shop."""

import shlex
from datetime import UTC, datetime
from pathlib import Path

from tailorbird.cli.output import Json, console, print_json, progress_bars, this_command
from tailorbird.errors import UsageError


def simulate(
    *,
    out: Path,
    days: int = 14,
    users: int = 2_000,
    items: int = 800,
    seed: int = 1,
    dirt: bool = True,
    json: Json = False,
) -> None:
    """Write the history of a synthetic shop up to last midnight (UTC), for `import tailorbird`.

    The history has users with tastes, items with text, prices and freshness, sessions, searches and
    purchases. It also has faults for robustness tests: repeats, late and malformed events, skewed
    clocks and a bot.

    Example:  tailorbird simulate --days 14 --out history.jsonl

    Parameters
    ----------
    out:
        the file to write; it must not exist
    days:
        number of days
    users:
        number of users at the start
    items:
        number of items at the start
    seed:
        random seed; the same seed gives the same history for the same day
    dirt:
        also write faulty events
    """
    from tailorbird.events import DAY, SystemClock
    from tailorbird.simulator import Dirt, Site

    if out.exists():
        raise UsageError(
            "already there; nothing was written", where=str(out), fix="choose another file"
        )
    if days < 1 or users < 1 or items < 20:
        raise UsageError(
            f"expected at least 1 day, 1 user and 20 items, got {days}, {users}, {items}"
        )
    if seed < 0:
        raise UsageError(f"expected 0 or more, got {seed}", where="--seed")
    start = (SystemClock().now() // DAY - days) * DAY
    site = Site(seed, users=users, items=items, start=start, days=days + 60)
    history = site.history(days, dirt=Dirt() if dirt else Dirt.none())
    out.parent.mkdir(parents=True, exist_ok=True)
    lines = 0
    unfinished = out.with_name(f"{out.name}.part")
    with progress_bars(quiet=json) as progress, unfinished.open("wb") as file:
        for lines, arrival in enumerate(history, 1):
            file.write(arrival.body + b"\n")
            if lines % 5_000 == 0:
                progress("simulate", lines, None)
        progress("simulate", lines, lines)
    unfinished.rename(out)
    if json:
        print_json({"file": str(out), "lines": lines, "injected": history.injected})
        return
    first = datetime.fromtimestamp(start / 1e6, UTC).date()
    next_step = f"{this_command()} import tailorbird {shlex.quote(str(out))}"
    console().print(
        f"Wrote {lines:,} lines of {days} days from {first} on to {out}.\nNext:  {next_step}"
    )
