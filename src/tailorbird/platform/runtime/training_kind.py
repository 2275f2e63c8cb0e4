"""Choose between trainings from scratch and incremental ones, by what each took and brought.

Each scheduled training leaves an entry `trained` in the audit log: its kind, its seconds, and the
gain in the gate's metric over the champion of that time. The kinds alternate until each has
`MEASURED_MIN` entries. Then the cheaper is taken, unless its mean gain is behind the other's by
more than its interval. Every `SAME_KIND_MAX` trainings the other is measured again, so that a training
from scratch comes at least so often.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from tailorbird.registry import AuditEntry, Registry
from tailorbird.training.settings import TrainReport

TRAINED = "trained"  # the action of the audit log
SCRATCH, INCREMENTAL = "from scratch", "incremental"
MEASURED_MIN = 2  # trainings of each kind
SAME_KIND_MAX = 7
TRAININGS_MAX = 20  # trainings that count
Z = 1.96


@dataclass(frozen=True)
class _Cost:
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
        if entry.action == TRAINED and entry.details.get("slot") == slot
    ][-TRAININGS_MAX:]
    kinds = [details["kind"] for details in trainings]
    if not kinds:
        return SCRATCH, "it is the first"
    other = INCREMENTAL if kinds[-1] == SCRATCH else SCRATCH
    if min(kinds.count(SCRATCH), kinds.count(INCREMENTAL)) < MEASURED_MIN:
        return other, "both are measured in turn"
    if len(kinds) >= SAME_KIND_MAX and other not in kinds[-SAME_KIND_MAX:]:
        return other, f"the last {SAME_KIND_MAX} were {kinds[-1]}"
    costs = {kind: _cost(trainings, kind) for kind in (SCRATCH, INCREMENTAL)}
    cheaper, dearer = sorted(costs, key=lambda kind: costs[kind].seconds)
    behind = costs[dearer].gain - costs[cheaper].gain
    listed = f"{cheaper} takes {costs[cheaper]}; {dearer} {costs[dearer]} in the gate's metric"
    if behind > Z * math.hypot(costs[cheaper].error, costs[dearer].error):
        return dearer, f"{listed}, so {cheaper} is cheaper, but behind beyond chance"
    return cheaper, f"{listed}, so {cheaper} is cheaper, and not behind beyond chance"


def record_training(registry: Registry, slot: str, report: TrainReport, why: str, by: str) -> None:
    """Log what a training took and brought.

    Without a champion to compare with, or without an interval, nothing is measured.
    """
    gain = report.evaluation.differences.get(report.incumbent)
    if gain is None or not gain.has_bounds:
        return
    kind = INCREMENTAL if report.is_incremental else SCRATCH
    seconds = sum(report.seconds.values())
    details = {
        "slot": slot,
        "kind": kind,
        "seconds": f"{seconds:.2f}",
        "gain": f"{gain.value:.6f}",
        "low": f"{gain.low:.6f}",
        "high": f"{gain.high:.6f}",
    }
    text = f"{kind} in {seconds:.0f} s, {gain.signed} over {report.incumbent}; {why}"
    registry.record(TRAINED, report.version, by=by, why=text, details=details)


def _cost(trainings: Sequence[dict[str, str]], kind: str) -> _Cost:
    rows = [
        [float(each[name]) for name in ("seconds", "gain", "low", "high")]
        for each in trainings
        if each["kind"] == kind
    ]
    seconds, gains, lows, highs = zip(*rows, strict=True)
    errors = [(high - low) / (2 * Z) for low, high in zip(lows, highs, strict=True)]
    count = len(rows)
    error = math.sqrt(sum(error**2 for error in errors)) / count
    return _Cost(sum(seconds) / count, sum(gains) / count, error)
