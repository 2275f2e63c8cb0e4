"""`tailorbird rules report`."""

from html import escape
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from tailorbird.cli.output import Json, console, print_json, print_table, progress_bars
from tailorbird.errors import NotReadyError, UsageError

if TYPE_CHECKING:
    import pyarrow as pa

    from tailorbird.serving.rule_costs import Cost

_TITLES = ["wish", "changes", "costs a request", "95 %", "of the value"]


def report(slot: str = "", *, requests: int = 200, json: Json = False) -> None:
    """Say what each rule, boost, pin, promotion, cap, quota and list of a slot costs in expected
    value.

    Takes the newest logged requests of the slot and answers them again, with the champion and what
    is known of people now: once with all that the slot asks for, and once without each. Logs
    nothing. Also writes a page into data/reports.

    Example:  tailorbird -C shop rules report home

    Example:  tailorbird -C shop rules report home --requests 1000 --json

    Parameters
    ----------
    slot:
        the slot; train.slot unless told
    requests:
        how many logged requests, the newest
    """
    from dataclasses import asdict

    from tailorbird.config import open_project
    from tailorbird.events import SystemClock
    from tailorbird.lake import Lake
    from tailorbird.platform.inprocess import InProcessServer
    from tailorbird.serving.rule_costs import VariantComparer, costs

    project = open_project(applied=True)
    chosen, clock = project.slot(slot), SystemClock()
    weigher = VariantComparer(chosen, clock)
    if not weigher.names:
        raise UsageError(
            "it asks for nothing beside its formula",
            where=f"slot {chosen.name}",
            fix="declare rules in slots.py",
        )
    asked = _asked(Lake(project.paths.lake), chosen.name, requests)
    parts = InProcessServer(project, clock, collector=None, seed=0, hide=False)
    weighed = []
    try:
        with progress_bars(quiet=json) as progress:
            for number, query in enumerate(asked, 1):
                told = parts.pipeline.compare_variants(query, weigher)
                weighed += [told] if told is not None else []
                progress("requests", number, len(asked))
    finally:
        parts.close()
    if not weighed:
        raise NotReadyError(
            "no request could be answered by a model",
            where=f"slot {chosen.name}",
            fix="tailorbird train",
        )
    found = costs(weighed)
    page = _page(
        project.paths.reports / f"rules-{chosen.name}.html", chosen.name, found, len(weighed)
    )
    if json:
        print_json(
            {
                "slot": chosen.name,
                "requests": len(weighed),
                "wishes": [asdict(cost) for cost in found],
            }
        )
        return
    print_table(
        f"Slot {chosen.name}, {len(weighed):,} requests answered again",
        _TITLES,
        [_row(cost) for cost in found],
        right=_TITLES[1:],
    )
    out = console()
    out.print(
        "The cost of a wish is the expected value of an answer without it, less that with "
        "it; people are as they are known now."
    )
    if page is not None:
        out.print(f"Page: {page}")


def _row(cost: "Cost") -> list[str]:
    return [
        cost.wish,
        f"{cost.changed:.1%}",
        f"{cost.value:.5f}",
        f"{cost.low:.5f} – {cost.high:.5f}",
        f"{cost.share:.2%}",
    ]


def _page(path: Path, slot: str, found: "list[Cost]", requests: int) -> Path | None:
    """The page, where what draws pages is installed."""
    if find_spec("matplotlib") is None:
        return None
    from tailorbird.training.page import render_table, write_page

    text = (
        f"<h1>What the wishes of slot {escape(slot)} cost</h1><p>{requests:,} logged "
        "requests, answered again with all wishes and without"
        " each. The value of an answer is the sum of what the formula says of its items; a "
        "cost is the value without the wish less that"
        " with it.</p>"
    )
    return write_page(
        path,
        f"Wishes of slot {slot}",
        [text, render_table(_TITLES, [([escape(cell) for cell in _row(c)], False) for c in found])],
    )


def _asked(lake, slot: str, most: int) -> list:
    """The newest requests of a slot, as queries."""
    import pyarrow.dataset as ds

    columns = ["ts", "user_id", "anonymous_id", "session_id", "device", "country", "items"]
    wanted = (
        (ds.field("type") == "answer")
        & (ds.field("slot") == slot)
        & ds.field("answer_query").is_null()
    )
    answers: pa.Table | None = (
        lake.table("events", columns, wanted) if lake.exists("events") else None
    )
    if answers is None or not len(answers):
        raise NotReadyError(
            "no request of it has been logged yet",
            where=f"slot {slot}",
            fix="tailorbird up, and ask it",
        )
    from tailorbird.events import Context
    from tailorbird.serving.messages import SIZE_MAX, RecommendQuery

    newest = answers.sort_by([("ts", "descending")]).slice(0, most).to_pylist()
    return [
        RecommendQuery(
            slot=slot,
            user_id=row["user_id"],
            anonymous_id=row["anonymous_id"],
            session_id=row["session_id"],
            size=min(max(len(row["items"] or ()), 1), SIZE_MAX),
            context=Context(device=row["device"], country=row["country"]),
        )
        for row in newest
    ]
