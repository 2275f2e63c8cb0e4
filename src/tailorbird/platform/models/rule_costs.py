"""The cost of the rules of a slot: logged requests answered again, without each of them."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tailorbird.config import Project
from tailorbird.errors import NotReadyError, UsageError
from tailorbird.platform.frames import Frame
from tailorbird.platform.progress import Progress, no_progress

if TYPE_CHECKING:
    import pyarrow as pa

    from tailorbird.lake import Lake
    from tailorbird.serving.messages import RecommendQuery
    from tailorbird.serving.pipeline.rule_costs import Cost

COLUMN_TITLES = ["rule", "changes", "costs a request", "95 %", "of the value"]


@dataclass(frozen=True, repr=False)
class RuleCosts:
    """What each rule, boost, pin, promotion, cap, quota and list of a slot costs in value.

    Attributes:
        request_count: number of requests that were answered again.
        page_path: the HTML report.
    """

    slot: str
    request_count: int
    costs: "list[Cost]"
    page_path: Path

    def to_frame(self) -> Frame:
        """Return a row for each rule: the share of answers it changes, and its cost a request."""
        return Frame.from_rows(
            ["rule", "changed", "value", "low", "high", "share"],
            [
                (cost.rule, cost.changed, cost.value, cost.low, cost.high, cost.share)
                for cost in self.costs
            ],
        )

    def to_dict(self) -> dict[str, Any]:
        """Return what `tailorbird rules report --json` prints."""
        costs = [asdict(cost) for cost in self.costs]
        return {"slot": self.slot, "requests": self.request_count, "rules": costs}

    @property
    def _header(self) -> str:
        return f"slot {self.slot}: {self.request_count:,} requests answered again"

    def __repr__(self) -> str:
        return f"{self._header}\n{self.to_frame()!r}"

    def _repr_html_(self) -> str:
        return self.to_frame().to_html(self._header)


def rule_costs(
    project: Project, slot: str = "", *, requests: int = 200, progress: Progress = no_progress
) -> RuleCosts:
    """Answer the newest requests of a slot again, without each rule; logs nothing.

    Args:
        slot: "" takes `train.slot`.
        requests: number of logged requests, the newest first.

    Raises:
        UsageError: the slot has no rules.
        NotReadyError: no request can be answered by a model.
    """
    from tailorbird.events import SystemClock
    from tailorbird.lake import Lake
    from tailorbird.pages import write_page
    from tailorbird.platform.inprocess import InProcessServer
    from tailorbird.serving.pipeline.rule_costs import VariantComparer, compute_costs

    slot_declaration = project.slot(slot)
    clock = SystemClock()
    comparer = VariantComparer(slot_declaration, clock)
    if not comparer.names:
        raise UsageError(
            "it asks for nothing beside its formula",
            where=f"slot {slot_declaration.name}",
            fix="declare rules in slots.py",
        )
    queries = _newest_queries(Lake(project.paths.lake), slot_declaration.name, requests)
    server = InProcessServer(project, clock, collector=None, seed=0, pseudonymise=False)
    all_variant_values = []
    try:
        for number, query in enumerate(queries, 1):
            variant_values = server.pipeline.compare_variants(query, comparer)
            all_variant_values += [variant_values] if variant_values is not None else []
            progress("requests", number, len(queries))
    finally:
        server.close()
    if not all_variant_values:
        raise NotReadyError(
            "no request could be answered by a model",
            where=f"slot {slot_declaration.name}",
            fix="tailorbird train",
        )
    measured_costs = compute_costs(all_variant_values)
    page_path = write_page(
        project.paths.reports / f"rules-{slot_declaration.name}.html",
        "rules",
        f"Rules of slot {slot_declaration.name}",
        slot=slot_declaration.name,
        requests=len(all_variant_values),
        header=COLUMN_TITLES,
        rows=[format_cost_row(cost) for cost in measured_costs],
    )
    return RuleCosts(slot_declaration.name, len(all_variant_values), measured_costs, page_path)


def format_cost_row(cost: "Cost") -> list[str]:
    """Return a row of tables with `COLUMN_TITLES`."""
    return [
        cost.rule,
        f"{cost.changed:.1%}",
        f"{cost.value:.5f}",
        f"{cost.low:.5f} – {cost.high:.5f}",
        f"{cost.share:.2%}",
    ]


def _newest_queries(lake: "Lake", slot: str, limit: int) -> "list[RecommendQuery]":
    """Return the newest requests of a slot as queries."""
    import pyarrow.dataset as ds

    columns = ["ts", "user_id", "anonymous_id", "session_id", "device", "country", "items"]
    condition = (
        (ds.field("type") == "answer")
        & (ds.field("slot") == slot)
        & ds.field("answer_query").is_null()
    )
    responses: pa.Table | None = (
        lake.table("events", columns, condition) if lake.exists("events") else None
    )
    if responses is None or not len(responses):
        raise NotReadyError(
            "no request of it has been logged yet",
            where=f"slot {slot}",
            fix="tailorbird up, and ask it",
        )
    from tailorbird.events import Context
    from tailorbird.serving.messages import SIZE_MAX, RecommendQuery

    rows = responses.sort_by([("ts", "descending")]).slice(0, limit).to_pylist()
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
