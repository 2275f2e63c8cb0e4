"""Metrics of experiments, declared once and computed from the lake's events.

    Metric("clicks per item", "ratio", event="click", per="impression")
    Metric("orders", "conversion", event="purchase")
    Metric("revenue", "revenue", winsorise=0.99, scope="site", window="14d")
    Metric("back in a week", "return", window="7d")
    Metric("dwell", "mean", event="view", value="dwell_s", winsorise=0.99)
    Metric("search success", "success", event="view", dwell="10s")

`experiments.units` computes them. Each is a value per unit, so that variances are clustered by it.
"""

from dataclasses import dataclass

from tailorbird.errors import DeclarationError, TailorbirdError, suggest_name
from tailorbird.events.clock import SECOND, parse_duration
from tailorbird.pages.notebook import notebook_repr

KINDS = ("count", "conversion", "ratio", "mean", "quantile", "revenue", "return", "success")
EVENTS = ("answer", "impression", "click", "purchase", "view")
VALUES = ("count", "revenue", "dwell_s")
SCOPES = ("slot", "site")
GUARDRAIL_TUNED_FOR_UNITS = (
    10_000  # units at which the confidence sequences of guardrails are narrowest
)


@notebook_repr
@dataclass(frozen=True)
class Metric:
    """A metric of units.

    Args:
        name: as reports show it.
        kind: `count`: events per unit. `conversion`: share of units with such an event. `ratio`:
            all events over all of `per`. `mean`: `value` per unit. `quantile`: of `value` over
            units. `revenue`: price × quantity of purchases per unit. `return`: share of units with
            an event on a later day within `window`. `success`: share of the slot's responses with
            such an event, such as searches after which something was clicked.
        event: one of `EVENTS`; with the scope `site` any event type.
        per: denominator of a ratio, `impression` (items seen) or `answer` (items returned).
        value: the value of an event to `mean` and `quantile`: `count`, `revenue` or `dwell_s`.
        winsorise: quantile at which values of units are capped, such as 0.99; 0 caps nothing.
        quantile: probability of the quantile.
        scope: `slot` counts events attributed to items that the slot showed, `site` all that the
            unit does after its first exposure.
        dwell: how long the event must have lasted, such as `10s`; "" counts any.
        window: attribution window. Of the scope `slot` it follows the response, by default as long
            as the slot's; of `site` and `return` it follows the first exposure.
        increase_is_good: whether a higher value is better.
    """

    name: str
    kind: str = "ratio"
    event: str = "click"
    per: str = "impression"
    value: str = "count"
    winsorise: float = 0.0
    quantile: float = 0.5
    scope: str = "slot"
    dwell: str = ""
    window: str = ""
    increase_is_good: bool = True

    def __post_init__(self) -> None:
        where = f"metric {self.name}"
        for field, value, allowed in (
            ("kind", self.kind, KINDS),
            ("per", self.per, ("impression", "answer")),
            ("value", self.value, VALUES),
            ("scope", self.scope, SCOPES),
            *((("event", self.event, EVENTS),) if self.scope == "slot" else ()),
        ):
            if value not in allowed:
                raise DeclarationError(
                    f"{field}: nothing logs {value!r}",
                    where=where,
                    fix=suggest_name(value, allowed, f"use one of {', '.join(allowed)}"),
                )
        if not (0 <= self.winsorise < 1 and 0 < self.quantile < 1):
            raise DeclarationError(
                "expected quantiles between 0 and 1", where=where, fix="such as winsorise=0.99"
            )
        if self.kind in ("ratio", "success") and self.scope == "site":
            raise DeclarationError(
                f"a {self.kind} counts what the slot showed",
                where=where,
                fix='leave out scope="site"',
            )
        if self.kind == "return" and not self.window:
            raise DeclarationError("a return needs a window", where=where, fix='window="7d"')
        for field, value, example in (("window", self.window, "14d"), ("dwell", self.dwell, "10s")):
            try:
                parse_duration(value or "1d")
            except (ValueError, TailorbirdError):
                raise DeclarationError(
                    f"{field}: {value!r} is no duration", where=where, fix=f'{field}="{example}"'
                ) from None

    @property
    def event_type(self) -> str:
        """The event whose occurrence or value counts."""
        return "purchase" if self.kind == "revenue" else self.event

    @property
    def event_types(self) -> tuple[str, ...]:
        """The events without which the metric has no value."""
        if self.kind == "return":
            return ()
        return (self.event_type, self.per) if self.kind == "ratio" else (self.event_type,)

    @property
    def dwell_s(self) -> float:
        """How long the event must have lasted, seconds."""
        return parse_duration(self.dwell) / SECOND if self.dwell else 0.0

    @property
    def event_value(self) -> str:
        """The value of such an event."""
        if self.kind == "revenue":
            return "revenue"
        return self.value if self.kind in ("mean", "quantile") else "count"

    @property
    def window_us(self) -> int | None:
        """The declared window in microseconds; None for the slot's."""
        return parse_duration(self.window) if self.window else None


CLICKS_PER_ITEM = Metric("clicks per item shown")
