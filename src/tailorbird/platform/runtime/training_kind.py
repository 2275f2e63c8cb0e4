"""Choose between trainings from scratch and incremental ones, by what each took and brought.

Each scheduled training leaves an entry `trained` in the audit log: its kind, its seconds, whether
the gate accepted it, and the gain in the gate's metric over the champion of that time, if a model
was champion. The kinds alternate until each has `MEASURED_MIN` entries with a gain. Then the
cheaper is taken, unless its mean gain is behind the other's by more than its interval. Every
`SAME_KIND_MAX` trainings the other is measured again, so that a training from scratch comes at
least so often.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from tailorbird.registry import AuditEntry, Registry
from tailorbird.training.settings import TrainReport

TRAINED_ACTION = "trained"  # the action of the audit log
SCRATCH = "from scratch"
INCREMENTAL = "incremental"
MEASURED_MIN = 2  # trainings of each kind
SAME_KIND_MAX = 7
TRAININGS_MAX = 20  # trainings that count
Z = 1.96  # standard errors on each side of a 95 % interval


@dataclass(frozen=True)
class _MeanCost:
    """Mean cost of the trainings of a kind, and their mean gain with its error."""

    seconds: float
    gain: float
    error: float

    def __str__(self) -> str:
        return f"{self.seconds:.0f} s, {self.gain:+.4f}"


def choose_kind(audit: Sequence[AuditEntry], slot: str) -> tuple[str, str]:
    """Return the kind of a slot's next training, and why."""
    trainings = [
        entry.details
        for entry in audit
        if entry.action == TRAINED_ACTION and entry.details.get("slot") == slot
    ][-TRAININGS_MAX:]
    kinds = [details["kind"] for details in trainings]
    if not kinds:
        return SCRATCH, "it is the first"
    other_kind = INCREMENTAL if kinds[-1] == SCRATCH else SCRATCH
    measured_trainings = [details for details in trainings if "gain" in details]
    measured_count_by_kind = Counter(details["kind"] for details in measured_trainings)
    if min(measured_count_by_kind[SCRATCH], measured_count_by_kind[INCREMENTAL]) < MEASURED_MIN:
        return other_kind, "both are measured in turn"
    if len(kinds) >= SAME_KIND_MAX and other_kind not in kinds[-SAME_KIND_MAX:]:
        return other_kind, f"the last {SAME_KIND_MAX} were {kinds[-1]}"
    cost_by_kind = {kind: _mean_cost(measured_trainings, kind) for kind in (SCRATCH, INCREMENTAL)}
    cheaper_kind, dearer_kind = sorted(cost_by_kind, key=lambda kind: cost_by_kind[kind].seconds)
    cheaper_cost = cost_by_kind[cheaper_kind]
    dearer_cost = cost_by_kind[dearer_kind]
    cost_summary = (
        f"{cheaper_kind} takes {cheaper_cost}; {dearer_kind} {dearer_cost} in the gate's metric"
    )
    if dearer_cost.gain - cheaper_cost.gain > Z * math.hypot(cheaper_cost.error, dearer_cost.error):
        return (
            dearer_kind,
            f"{cost_summary}, so {cheaper_kind} is cheaper, but behind beyond chance",
        )
    return (
        cheaper_kind,
        f"{cost_summary}, so {cheaper_kind} is cheaper, and not behind beyond chance",
    )


def record_training(registry: Registry, slot: str, report: TrainReport, why: str, by: str) -> None:
    """Log what a training took and brought, and why it is of another kind than was chosen."""
    gain = report.evaluation.differences.get(report.champion)
    kind = INCREMENTAL if report.is_incremental else SCRATCH
    duration_s = sum(report.stage_seconds.values())
    details = {
        "slot": slot,
        "kind": kind,
        "seconds": f"{duration_s:.2f}",
        "accepted": "yes" if report.decision.is_accepted else "no",
    }
    comparison_text = "no model was champion"
    if gain is not None and gain.has_bounds:
        gain_interval = {"gain": gain.value, "low": gain.low, "high": gain.high}
        details |= {name: f"{value:.6f}" for name, value in gain_interval.items()}
        comparison_text = f"{gain.signed_text} over {report.champion}"
    elif report.champion:
        comparison_text = f"not compared with {report.champion}"
    verdict = "accepted" if report.decision.is_accepted else "refused"
    text = f"{kind} in {duration_s:.0f} s, {verdict} by the gate, {comparison_text}; {why}"
    if reason := report.not_incremental_reason:
        details["not_incremental"] = reason
        text = f"{text}, but {INCREMENTAL} was impossible: {reason}"
    registry.record(TRAINED_ACTION, report.version, by=by, why=text, details=details)


def _mean_cost(trainings: Sequence[dict[str, str]], kind: str) -> _MeanCost:
    rows = [
        [float(details[name]) for name in ("seconds", "gain", "low", "high")]
        for details in trainings
        if details["kind"] == kind
    ]
    seconds, gains, lows, highs = zip(*rows, strict=True)
    gain_errors = [(high - low) / (2 * Z) for low, high in zip(lows, highs, strict=True)]
    count = len(rows)
    mean_gain_error = math.sqrt(sum(error**2 for error in gain_errors)) / count
    return _MeanCost(sum(seconds) / count, sum(gains) / count, mean_gain_error)
