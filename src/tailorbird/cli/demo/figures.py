"""The figures that the demo prints at its end, as JSON and as a table."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tailorbird.cli.output import console, print_table
from tailorbird.simulator import InjectedCounts


@dataclass
class Figures:
    """The measured figures, filled stage by stage.

    Attributes:
        offline: model or baseline → its metrics on the holdout of the first training.
        online: the arms, uplift and truth of the first experiment.
        first_model: the model that went live first, and those that the gate refused before.
        drift: the likely cause of the fall of clicks, once monitoring has detected it, and whether
            it is the injected one.
        retrained: the model that was trained after the fall, and what it changed.
        broken: the model that was broken on purpose, and its roll-back.
        status: lines of `monitor status` for the last 24 hours.
    """

    events: dict[str, Any] = field(default_factory=dict)
    parity: dict[str, Any] = field(default_factory=dict)
    offline: dict[str, Any] = field(default_factory=dict)
    online: dict[str, Any] = field(default_factory=dict)
    experiments: dict[str, Any] = field(default_factory=dict)
    latency_ms: dict[str, float] = field(default_factory=dict)
    freshness_ms: dict[str, float] = field(default_factory=dict)
    first_model: dict[str, Any] = field(default_factory=dict)
    drift: dict[str, Any] = field(default_factory=dict)
    retrained: dict[str, Any] = field(default_factory=dict)
    broken: dict[str, Any] = field(default_factory=dict)
    status: list[str] = field(default_factory=list)
    http: dict[str, Any] = field(default_factory=dict)
    first_page_s: float = 0.0
    stages_s: dict[str, float] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        return dict(vars(self))


def compare_event_counts(
    accepted: int,
    duplicates: int,
    quarantined: int,
    injected_counts: list[InjectedCounts],
    answers: int,
) -> dict[str, Any]:
    """Compare the router's decisions with what the simulator sent and injected.

    `found` in the result tells whether all counts match exactly.

    Args:
        answers: responses that the collector logged during live traffic; each is an event.
    """
    expected_counts = {
        "accepted": sum(counts.events for counts in injected_counts) + answers,
        "duplicates": sum(counts.duplicates for counts in injected_counts),
        "quarantined": sum(counts.malformed_total for counts in injected_counts),
    }
    decision_counts = {"accepted": accepted, "duplicates": duplicates, "quarantined": quarantined}
    return {
        **decision_counts,
        "expected": expected_counts,
        "answers": answers,
        "found": decision_counts == expected_counts,
    }


def print_figures(figures: Figures) -> None:
    """Print the closing table."""
    online = figures.online
    parity = figures.parity
    events = figures.events
    rows: list[tuple[str, str]] = [
        (
            "events",
            f"{events['accepted']:,} accepted, {events['duplicates']:,} repeats and "
            f"{events['quarantined']:,} malformed found"
            f" ({'exactly' if events['found'] else 'NOT'} what was sent and injected)",
        )
    ]
    rows.append(
        (
            "features",
            f"{parity['compared']:,} logged values recomputed from the lake, "
            f"{parity['unequal']:,} unequal",
        )
    )
    rows += [
        (f"offline {name}", _format_offline(metrics)) for name, metrics in figures.offline.items()
    ]
    rows += [
        ("first model", describe_refusal(refusal)) for refusal in figures.first_model["refusals"]
    ]
    if baseline := figures.first_model["baseline"]:
        rows.append(("first model", describe_baseline(baseline)))
    for arm, arm_figures in online["arms"].items():
        rows.append(
            (
                f"online {arm}",
                f"{arm_figures['users']:,} users, {arm_figures['impressions']:,} items seen, CTR "
                f"{arm_figures['ctr']:.2%}",
            )
        )
    rows.append(
        (
            "uplift",
            f"{_format_uplift(interval_figures(online['uplift'], online['low'], online['high']))}, "
            f"true {online['true_uplift']:+.1%};"
            f" split p = {online['srm_p']:.3f}",
        )
    )
    rows += [
        (name, _describe_experiment(experiment)) for name, experiment in figures.experiments.items()
    ]
    if figures.drift:
        rows.append(
            (
                "fall",
                f"since {figures.drift['since'][:16]}Z, "
                f"likely cause: {describe_cause(figures.drift)}",
            )
        )
    rows.append(("retrained", describe_retraining(figures.retrained)))
    rows.append(("broken model", _broken_summary(figures.broken)))
    rows.append(("latency", _format_latency(figures.latency_ms, "request → answer")))
    rows.append(
        ("freshness", _format_latency(figures.freshness_ms, "click accepted → changed answer"))
    )
    rows.append(("first page", f"{figures.first_page_s:.1f} s after the start"))
    print_table("\nThe loop, as measured", ["", ""], rows)


def _format_offline(metrics: dict[str, Any]) -> str:
    metric_names = [name for name in ("ndcg_10", "auc") if metrics.get(name) is not None]
    return ", ".join(
        f"{name} {metrics[name]:.4f} ({metrics[name + '_low']:.4f} to "
        f"{metrics[name + '_high']:.4f})"
        for name in metric_names
    )


def _describe_experiment(result: dict[str, Any]) -> str:
    state = "stopped by its rule" if result["stopped"] else "runs on"
    days = f"{result['days']:.1f} of {result['planned_days']:.0f} days"
    if result["uplift"] is None:
        return f"{state} after {days}, too little data yet"
    uplift_text = f"{result['uplift']:+.1%} ({result['low']:+.1%} to {result['high']:+.1%})"
    return f"{state} after {days}: measured {uplift_text}, true {result['true_uplift']:+.1%}"


def interval_figures(value: float, low: float, high: float) -> dict[str, float | None]:
    """Return an estimate with its interval for JSON; None with too little data."""
    return {
        name: figure if math.isfinite(figure) else None
        for name, figure in (("value", value), ("low", low), ("high", high))
    }


def describe_refusal(refusal: Mapping[str, Any]) -> str:
    """Return the gate's word on a first model beside the truth, and what follows."""
    return (
        f"the gate refused {refusal['version']}: {refusal['reason']}. "
        f"{refusal['over'] or 'the champion'} answered in its place; true uplift of "
        f"{refusal['version']} over it: {refusal['true_uplift']:+.1%}. With more days of data, "
        "another one is trained"
    )


def describe_baseline(baseline: str) -> str:
    """Say that the arm of the model is answered by a baseline."""
    return f"no model passed the gate: the arm `model` is answered by the best baseline, {baseline}"


def describe_cause(drift: Mapping[str, Any]) -> str:
    """Return the named cause, and whether it is the injected one."""
    if drift["is_injected"]:
        return f"{drift['name']} (right: it is what was injected)"
    return f"{drift['name']} (wrong: a {drift['injected']} was injected)"


def describe_retraining(retrained: Mapping[str, Any]) -> str:
    """Return what the fall led to: the lifts before, fallen and after, and the new model's fate."""
    if not retrained["trigger"]:
        return f"nothing was retrained: {retrained['reason']}"
    if retrained["promoted"]:
        outcome = f"{retrained['old']} → {retrained['new']} (promoted)"
    elif retrained["canary"]:
        outcome = f"the canary {retrained['new']} did not replace {retrained['old']}"
    else:
        outcome = f"{retrained['new']} did not replace {retrained['old']}: {retrained['gate']}"
    return (
        f"lift {_format_uplift(retrained['figure_before'])} → "
        f"{_format_uplift(retrained['figure_fallen'])}; {outcome}; then "
        f"{_format_uplift(retrained['figure_after'])}, true {retrained['true_after']:+.1%}"
    )


def describe_canary(canary: Mapping[str, Any]) -> str:
    """Return the estimate before, the measured uplift and the truth, side by side."""
    return (
        f"clicks, new model over old: estimated before from the log: {canary['estimate']}; "
        f"measured by the canary: {_format_uplift(canary['measured'])}; "
        f"true: {canary['true']:+.1%}"
    )


def _format_uplift(uplift: Mapping[str, float | None]) -> str:
    value = uplift["value"]
    low = uplift["low"]
    high = uplift["high"]
    if value is None or low is None or high is None:
        return "too little data to tell"
    return f"{value:+.1%} (95 %: {low:+.1%} to {high:+.1%})"


def _broken_summary(broken: dict[str, Any]) -> str:
    if not broken["rolled_back"]:
        return f"{broken['broken']} was NOT rolled back"
    return f"{broken['broken']} rolled back to {broken['champion']} after {broken['after_min']} min"


def _format_latency(values: dict[str, float], label: str) -> str:
    return (
        f"{label}: median {values['p50']:.1f} ms, p99 {values['p99']:.1f} ms ({values['n']:,} "
        "measured)"
    )


def say(text: str, *, quiet: bool, style: str | None = None) -> None:
    """Print a line unless the output is for a machine."""
    if not quiet:
        console().print(text, style=style)
