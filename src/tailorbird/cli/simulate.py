"""`tailorbird simulate`: write the history of a synthetic shop."""

import shlex
from pathlib import Path

from tailorbird.cli.output import Json, console, print_json, progress_bars, this_command


def simulate(
    *,
    out: Path,
    days: int = 14,
    users: int = 2_000,
    items: int = 800,
    seed: int = 1,
    dirt: bool = True,
    incident: list[str] | None = None,
    draw_first_day: bool = False,
    json: Json = False,
) -> None:
    """Write the history of a synthetic shop up to last midnight (UTC), for `import tailorbird`.

    The history has users with tastes, items with text, prices and freshness, sessions, searches and
    purchases. It also has faults for robustness tests: repeats, late and malformed events, skewed
    clocks and a bot.

    Example:  tailorbird simulate --days 14 --out history.jsonl

    Example:  tailorbird simulate --incident taste:0.7 --incident crawlers --out game-day.jsonl

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
    incident:
        what happens, KIND[:size[:hours]], repeatable; the rest is drawn from the seed. Kinds:
        taste, lost-field, crawlers, device, catalogue, promotion, holiday, outage, none
    draw_first_day:
        draw the first day, and so weekday and season, from the seed
    """
    from tailorbird.simulator.history_file import write_history

    with progress_bars(quiet=json) as progress:
        history = write_history(
            out,
            days=days,
            users=users,
            items=items,
            seed=seed,
            has_faults=dirt,
            incidents=incident or (),
            draw_first_day=draw_first_day,
            progress=progress,
        )
    if json:
        print_json(
            {
                "file": str(out),
                "lines": history.lines,
                "injected": history.injected,
                "incidents": [drawn_incident.to_dict() for drawn_incident in history.incidents],
            }
        )
        return
    next_step = f"{this_command()} import tailorbird {shlex.quote(str(out))}"
    for drawn_incident in history.incidents:
        console().print(drawn_incident.describe())
    console().print(f"Wrote {history!r}.\nNext:  {next_step}")
