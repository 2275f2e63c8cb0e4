"""`tailorbird rules report`: the cost of rules."""

from typing import TYPE_CHECKING

from tailorbird.cli.output import Json, console, print_json, print_table, progress_bars
from tailorbird.errors import NotReadyError, UsageError

if TYPE_CHECKING:
    import pyarrow as pa

    from tailorbird.serving.pipeline.rule_costs import Cost

_TITLES = ["wish", "changes", "costs a request", "95 %", "of the value"]


def report(slot: str = "", *, requests: int = 200, json: Json = False) -> None:
    """Report what each rule, boost, pin, promotion, cap, quota and list of a slot costs in value.

    The command answers the newest logged requests of the slot again, with the champion and the
    present features: once with all rules, and once without each of them. It logs nothing, and also
    writes a page into data/reports.

    Example:  tailorbird -C shop rules report home

    Example:  tailorbird -C shop rules report home --requests 1000 --json

    Parameters
    ----------
    slot:
        name of the slot; by default train.slot
    requests:
        number of logged requests to answer again, the newest first
    """
    from dataclasses import asdict

    from tailorbird.config import open_project
    from tailorbird.events import SystemClock
    from tailorbird.lake import Lake
    from tailorbird.pages import write_page
    from tailorbird.platform.inprocess import InProcessServer
    from tailorbird.serving.pipeline.rule_costs import VariantComparer, costs

    project = open_project(applied=True)
    slot_declared, clock = project.slot(slot), SystemClock()
    weigher = VariantComparer(slot_declared, clock)
    if not weigher.names:
        raise UsageError(
            "it asks for nothing beside its formula",
            where=f"slot {slot_declared.name}",
            fix="declare rules in slots.py",
        )
    queries = _newest_queries(Lake(project.paths.lake), slot_declared.name, requests)
    server = InProcessServer(project, clock, collector=None, seed=0, pseudonymise=False)
    weighed = []
    try:
        with progress_bars(quiet=json) as progress:
            for number, query in enumerate(queries, 1):
                weights = server.pipeline.compare_variants(query, weigher)
                weighed += [weights] if weights is not None else []
                progress("requests", number, len(queries))
    finally:
        server.close()
    if not weighed:
        raise NotReadyError(
            "no request could be answered by a model",
            where=f"slot {slot_declared.name}",
            fix="tailorbird train",
        )
    rule_costs = costs(weighed)
    page = write_page(
        project.paths.reports / f"rules-{slot_declared.name}.html",
        "rules",
        f"Wishes of slot {slot_declared.name}",
        slot=slot_declared.name,
        requests=len(weighed),
        header=_TITLES,
        rows=[_row(cost) for cost in rule_costs],
    )
    if json:
        print_json(
            {
                "slot": slot_declared.name,
                "requests": len(weighed),
                "wishes": [asdict(cost) for cost in rule_costs],
            }
        )
        return
    print_table(
        f"Slot {slot_declared.name}, {len(weighed):,} requests answered again",
        _TITLES,
        [_row(cost) for cost in rule_costs],
        right=_TITLES[1:],
    )
    out = console()
    out.print(
        "The cost of a wish is the expected value of an answer without it minus that with "
        "it, with the present features of people."
    )
    out.print(f"Page: {page}")


def _row(cost: "Cost") -> list[str]:
    return [
        cost.wish,
        f"{cost.changed:.1%}",
        f"{cost.value:.5f}",
        f"{cost.low:.5f} – {cost.high:.5f}",
        f"{cost.share:.2%}",
    ]


def _newest_queries(lake, slot: str, limit: int) -> list:
    """Return the newest requests of a slot as queries."""
    import pyarrow.dataset as ds

    columns = ["ts", "user_id", "anonymous_id", "session_id", "device", "country", "items"]
    condition = (
        (ds.field("type") == "answer")
        & (ds.field("slot") == slot)
        & ds.field("answer_query").is_null()
    )
    answers: pa.Table | None = (
        lake.table("events", columns, condition) if lake.exists("events") else None
    )
    if answers is None or not len(answers):
        raise NotReadyError(
            "no request of it has been logged yet",
            where=f"slot {slot}",
            fix="tailorbird up, and ask it",
        )
    from tailorbird.events import Context
    from tailorbird.serving.messages import SIZE_MAX, RecommendQuery

    rows = answers.sort_by([("ts", "descending")]).slice(0, limit).to_pylist()
    return [
        RecommendQuery(
            slot=slot,
            user_id=row["user_id"],
            anonymous_id=row["anonymous_id"],
            session_id=row["session_id"],
            size=min(max(len(row["items"] or ()), 1), SIZE_MAX),
            context=Context(device=row["device"], country=row["country"]),
        )
        for row in rows
    ]
