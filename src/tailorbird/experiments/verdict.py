"""Conclusions of a planned experiment about all its arms: colour, verdict, risk and advice.

Each arm that crossed its boundary is named, those that do harm first. Where the stopping rule gives
no verdict, a decision is a person's, and the advice says so.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from tailorbird.experiments.checks import Check
from tailorbird.experiments.metrics import Metric
from tailorbird.experiments.page import format_interval, format_uplift
from tailorbird.experiments.run_report import Run
from tailorbird.experiments.stages import AnalysisPath

RED = "red"
GREEN = "green"
AMBER = "amber"


@dataclass(frozen=True)
class MetricResult:
    """A metric of a treatment against the control, with its interval.

    Attributes:
        value, control_value: of both arms, after CUPED.
        uplift, low, high: relative, as fractions; NaN with too little data.
        p: adjusted for several arms of the primary metric (Holm); NaN where intervals are valid at
            any time, and before the stopping rule concludes.
        variance_ratio: share of the variance that CUPED left.
        is_worse: whether the interval lies on the bad side of zero.
    """

    metric: str
    arm: str
    control: str
    value: float
    control_value: float
    uplift: float
    low: float
    high: float
    p: float
    variance_ratio: float
    is_worse: bool


@dataclass(frozen=True)
class Conclusion:
    """The colour, and three sentences: the result, what may go wrong, and what to do."""

    colour: str
    verdict: str
    risk: str
    advice: str


@dataclass(frozen=True)
class _ArmsByOutcome:
    """The treatments by what is known of them, best first.

    Attributes:
        lost, won: those whose boundary was crossed.
        harmed: arm → the guardrail that it makes worse, of those that did not lose.
        undecided: the others.
    """

    lost: tuple[MetricResult, ...]
    harmed: dict[str, MetricResult]
    won: tuple[MetricResult, ...]
    undecided: tuple[MetricResult, ...]

    @property
    def harmful(self) -> tuple[str, ...]:
        return (*(result.arm for result in self.lost), *self.harmed)


def conclude(
    run: Run,
    *,
    units: int,
    path_by_arm: Mapping[str, AnalysisPath],
    primary: tuple[MetricResult, ...],
    guardrails: tuple[MetricResult, ...],
    checks: tuple[Check, ...],
) -> Conclusion:
    """Conclude from the analyses of each treatment what the stopping rule allows."""
    experiment = run.experiment
    if not units:
        advice = f"Send traffic to the slot {experiment.slot}, and check that a server runs."
        verdict = "No unit has been in this experiment yet."
        return Conclusion(AMBER, verdict, "Nothing is known.", _advise(run, advice))
    if failed := [check for check in checks if not check.passed]:
        stop_clause = "stop this experiment, " if run.state == "running" else ""
        return Conclusion(
            RED,
            f"Do not decide by this experiment: {failed[0].reason}",
            "Every figure below may be wrong.",
            _advise(run, f"Find the cause, {stop_clause}and start a new one under another name."),
        )
    arms = _sort_arms(path_by_arm, primary, guardrails, _improvement_sign(experiment.metric))
    colour = RED if arms.harmful else GREEN if arms.won else AMBER
    risk = _describe_risk(run, primary, guardrails)
    return Conclusion(
        colour, _describe_verdict(run, arms, primary), risk, _choose_advice(run, arms, path_by_arm)
    )


def _sort_arms(
    path_by_arm: Mapping[str, AnalysisPath],
    primary: tuple[MetricResult, ...],
    guardrails: tuple[MetricResult, ...],
    sign: int,
) -> _ArmsByOutcome:
    def signed_uplift(result: MetricResult) -> float:
        return sign * result.uplift if math.isfinite(result.uplift) else -math.inf

    results = sorted(primary, key=signed_uplift, reverse=True)
    crossed_results = [result for result in results if path_by_arm[result.arm].is_conclusive]
    lost_results = tuple(result for result in crossed_results if signed_uplift(result) < 0)
    harmed_guardrail_by_arm = {
        result.arm: result for result in reversed(guardrails) if result.is_worse
    }
    guardrail_by_harmed_arm = {
        result.arm: harmed_guardrail_by_arm[result.arm]
        for result in results
        if result.arm in harmed_guardrail_by_arm and result not in lost_results
    }
    other_results = [
        result
        for result in results
        if result not in lost_results and result.arm not in guardrail_by_harmed_arm
    ]
    return _ArmsByOutcome(
        lost_results,
        guardrail_by_harmed_arm,
        tuple(result for result in other_results if result in crossed_results),
        tuple(result for result in other_results if result not in crossed_results),
    )


def _describe_verdict(run: Run, arms: _ArmsByOutcome, primary: tuple[MetricResult, ...]) -> str:
    """Return the verdict: each arm that is decided, or the best of those that are not."""
    level = run.experiment.level
    control = run.experiment.control_arm

    def describe_result(result: MetricResult) -> str:
        if not math.isfinite(result.uplift):
            return "too little data for a first analysis"
        interval = f"{level:.0%} interval {format_interval(result.low, result.high)}"
        return f"{format_uplift(result.uplift)} {result.metric} ({interval})"

    result_by_arm = {result.arm: result for result in primary}
    clauses = [
        f"{result.arm} is worse than {control}: {describe_result(result)}" for result in arms.lost
    ]
    for arm, guardrail in arms.harmed.items():
        harm = f"{arm} makes {guardrail.metric} worse: {format_uplift(guardrail.uplift)}"
        clauses.append(f"{harm}, though it has {describe_result(result_by_arm[arm])}")
    clauses += [f"{result.arm} beats {control}: {describe_result(result)}" for result in arms.won]
    if arms.undecided and not arms.won:
        best = arms.undecided[0]
        text = f"{run.open_state}: {best.arm} has {describe_result(best)}"
        if run.is_over:
            text = (
                f"No difference between {best.arm} and {control} is shown: {describe_result(best)}"
            )
        clauses.append(text[0].lower() + text[1:] if clauses else text)
    return f"{'; '.join(clauses)}."


def _choose_advice(run: Run, arms: _ArmsByOutcome, path_by_arm: Mapping[str, AnalysisPath]) -> str:
    experiment = run.experiment
    name = experiment.name
    control = experiment.control_arm
    stop_command = f"tailorbird experiment stop {name} --why …"
    decide_command = f"tailorbird experiment decide {name}"
    if arms.won:
        winning_arms = tuple(result.arm for result in arms.won)
        return _advise(
            run, f"{stop_command}, then: {decide_command} {winning_arms[0]}", *winning_arms
        )
    if arms.harmful and arms.undecided:
        undecided_arms = ", ".join(result.arm for result in arms.undecided)
        advice = f"Stop it: {stop_command}. Then start one without {', '.join(arms.harmful)}, for {undecided_arms}."
        return _advise(run, advice, control)
    if arms.harmful:
        return _advise(run, f"{stop_command}, then: {decide_command} {control}", control)
    if run.is_over:
        return _advise(run, f"Keep {control}; or plan a longer experiment.", control)
    if all(path_by_arm[result.arm].is_futile for result in arms.undecided):
        advice = (
            "The planned effect is unlikely to be found any more. You may stop; going on costs no "
            "validity."
        )
    elif experiment.stopping == "fixed":
        advice = "Wait for the planned end. The interval is valid only then."
    else:
        advice = f"Let it run. The boundary is read every {experiment.interval}."
    return _advise(run, advice)


def _advise(run: Run, running_advice: str, *supported_arms: str) -> str:
    """Return the advice by state; `supported_arms` are the arms that the rule allows to choose."""
    name = run.experiment.name
    if run.state == "running":
        return running_advice
    if run.state == "decided":
        text = f"Nothing: {run.decided_by or 'somebody'} decided for {run.decision or 'an arm'}."
        if run.decision not in supported_arms:
            text += " It is a person's decision: the stopping rule gives no verdict for this arm."
        return text
    if supported_arms:
        return f"Decide: tailorbird experiment decide {name} {supported_arms[0]} --why …"
    return (
        "The stopping rule gives no verdict, so that a decision is yours: tailorbird experiment "
        f"decide {name} ARM --why …"
    )


def _describe_risk(
    run: Run, primary: tuple[MetricResult, ...], guardrails: tuple[MetricResult, ...]
) -> str:
    """Return the worst values of the intervals: of each arm, and of the guardrails."""
    metric = run.experiment.metric
    clauses = [
        f"{result.arm} changes {metric.name} by {format_uplift(bound)}"
        for result in primary
        if math.isfinite(bound := _worst_bound(result, metric))
    ]
    if not clauses:
        return "There is too little data to bound what it may cost."
    guardrail_by_name = {guardrail.name: guardrail for guardrail in run.experiment.guardrails}
    worst = _find_worst((result, guardrail_by_name[result.metric]) for result in guardrails)
    if worst is not None:
        result, value = worst
        arm_phrase = f" of {result.arm}" if len(primary) > 1 else ""
        clauses.append(f"{result.metric}{arm_phrase} by {format_uplift(value)}")
    return f"In the worst case of the interval, {', and '.join(clauses)}."


def _find_worst(
    results: Iterable[tuple[MetricResult, Metric]],
) -> tuple[MetricResult, float] | None:
    bounds = [
        (result, _worst_bound(result, metric), _improvement_sign(metric))
        for result, metric in results
    ]
    known_bounds = [entry for entry in bounds if math.isfinite(entry[1])]
    return min(known_bounds, key=lambda entry: entry[1] * entry[2])[:2] if known_bounds else None


def _worst_bound(result: MetricResult, metric: Metric) -> float:
    return result.low if metric.increase_is_good else result.high


def _improvement_sign(metric: Metric) -> int:
    return 1 if metric.increase_is_good else -1
