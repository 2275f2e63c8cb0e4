"""The report of an interleaved experiment: which of two rankings people prefer.

    report = interleaving_report(events, responses, experiment, started_at=…, now=…, attribution=…)

A click or purchase is credited to the arm whose ranking picked the item (`ranking.policy.
interleaving`), which the log calls the item's team. The preference is the share of a unit's credits
that the treatment got; without a difference it is a half. Its interval is the delta method's,
clustered by the unit, and valid however often it is read; that of a fixed plan is shorter and valid
at the planned end.
"""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from scipy.special import ndtri
from scipy.stats import binomtest

from tailorbird.events.contract.schema import micros
from tailorbird.experiments.analysis import estimates
from tailorbird.experiments.analysis.anytime import confidence_sequence
from tailorbird.experiments.analysis.multiple import adjust_holm
from tailorbird.experiments.assign import INTERLEAVED, Experiment
from tailorbird.experiments.checks import Check
from tailorbird.experiments.outcomes import (
    CLICK,
    COLUMNS,
    PURCHASE,
    RESPONSE,
    encode_values,
    match_outcomes,
)
from tailorbird.experiments.page import interleaving_html
from tailorbird.experiments.run_report import Run, RunReport
from tailorbird.experiments.views.tables import plot_preferences, preferences_frame

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from tailorbird.platform.frames import Frame

EVENT_COLUMNS = (*COLUMNS, "session_id")
RESPONSE_COLUMNS = ("request_id", "items", "teams")
CREDITED_TYPES = {"click": CLICK, "purchase": PURCHASE}
TUNED_FOR_UNITS = 1_000  # units at which the anytime-valid interval is narrowest
POSITION_ALARM = 0.001  # p, adjusted over all positions
MISSING_MAX = 0.02  # share of responses without teams

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Preference:
    """Result of the credits of one kind of event.

    Attributes:
        control, treatment: credits of each arm.
        units: those with a credit; more of them prefer the treatment (`wins`) or the control
            (`losses`).
        share: of the credits that the treatment got, with its interval.
        p: of the sign test over units, for one look.
    """

    event: str
    control: int
    treatment: int
    units: int
    wins: int
    losses: int
    share: float
    low: float
    high: float
    p: float


@dataclass(frozen=True)
class PositionBalance:
    """Items that each arm picked for a position, and the p-value of a fair coin (Holm)."""

    position: int
    control: int
    treatment: int
    p: float


@dataclass(frozen=True)
class Credits:
    """Credited events, shape (n,): unit, kind (of `CREDITED_TYPES`) and whether the treatment's.

    Attributes:
        picks: picks of the control and the treatment by position, shape (positions, 2).
        responses: interleaved responses; `missing` have no teams in the lake.
    """

    unit: Ints
    kind: Ints
    is_treatment: npt.NDArray[np.bool_]
    picks: Ints
    responses: int
    missing: int


@dataclass(frozen=True, kw_only=True)
class InterleavingReport(RunReport):
    """The results of an interleaved experiment so far."""

    control: str
    treatment: str
    responses: int
    preferences: tuple[Preference, ...]
    positions: tuple[PositionBalance, ...]

    def _repr_html_(self) -> str:
        return interleaving_html(self)

    def to_frame(self) -> "Frame":
        """Return the preference by kind of event as a table."""
        return preferences_frame(self)

    def plot(self) -> "Figure":
        """Draw the treatment's share of credits."""
        return plot_preferences(self)

    def __repr__(self) -> str:
        return f"{self.summary}\n{self.to_frame()!r}"


def interleaving_report(
    events: pa.Table,
    responses: pa.Table,
    experiment: Experiment,
    *,
    started_at: int,
    now: int,
    attribution: int,
    stopped_at: int = 0,
    state: str = "running",
    notes: tuple[str, ...] = (),
) -> InterleavingReport:
    """Report on an interleaved experiment.

    Args:
        events: with `EVENT_COLUMNS`, from the start on.
        responses: of the lake, with `RESPONSE_COLUMNS`.
        attribution: of the slot, microseconds.
    """
    run = Run(experiment, started_at, now, stopped_at, state, notes)
    credits = count_credits(
        events, responses, experiment, start=started_at, stop=run.until, attribution=attribution
    )
    is_fixed = experiment.stopping == "fixed"
    preferences = tuple(
        _estimate_preference(credits, event, experiment.level, is_fixed=is_fixed)
        for event in CREDITED_TYPES
    )
    positions = balance_positions(credits.picks)
    checks = _run_checks(credits, positions)
    open_state = run.open_state if is_fixed and not run.is_over else ""
    colour, verdict, advice = _conclude(experiment, preferences[0], checks, open_state)
    if state != "running":
        advice = f"It is {state}."
    return InterleavingReport(
        **run.report_fields(),
        control=experiment.control_arm,
        treatment=experiment.treatments[0],
        responses=credits.responses,
        colour=colour,
        verdict=verdict,
        advice=advice,
        preferences=preferences,
        positions=positions,
        checks=checks,
    )


def count_credits(
    events: pa.Table,
    responses: pa.Table,
    experiment: Experiment,
    *,
    start: int,
    stop: int,
    attribution: int,
) -> Credits:
    """Credit the clicks and purchases of interleaved responses to the arms."""
    outcomes = match_outcomes(events, experiment.slot, attribution)
    table = outcomes.table
    ts = micros(outcomes.table["ts"])
    is_drafted = pc.and_(
        pc.equal(table["experiment"], experiment.name), pc.equal(table["arm"], INTERLEAVED)
    )
    is_response = pc.fill_null(is_drafted, False).to_numpy() & (outcomes.kind == RESPONSE)
    is_response &= (ts >= start) & (ts < stop)
    unit_code, _ = encode_values(table["session_id" if experiment.unit == "session" else "person"])

    responses = responses.filter(
        pc.and_(
            pc.greater(pc.list_value_length(responses["teams"]), 0),
            pc.is_in(responses["request_id"], table["request_id"].filter(pa.array(is_response))),
        )
    ).combine_chunks()
    request_ids = responses["request_id"].combine_chunks()
    nullable_index = pc.index_in(table["request_id"], value_set=request_ids)
    response_index = pc.fill_null(nullable_index, -1).to_numpy().astype(np.int64)
    team_code = _team_codes(responses, experiment)
    response_of_item = pc.list_parent_indices(responses["items"]).to_numpy().astype(np.int64)
    item_code = pc.index_in(pc.list_flatten(responses["items"]), value_set=pa.array(outcomes.items))
    response_item_keys = response_of_item * len(outcomes.items) + item_code.to_numpy().astype(
        np.int64
    )
    order = np.argsort(response_item_keys, kind="stable")

    response_row = outcomes.response_row
    is_credit = (
        is_response[response_row] & (ts[outcomes.event_row] < stop) & (unit_code[response_row] >= 0)
    )
    is_credit &= np.isin(outcomes.kind[outcomes.event_row], list(CREDITED_TYPES.values()))
    is_credit &= response_index[response_row] >= 0
    credit_rows = np.flatnonzero(is_credit)
    credit_keys = (
        response_index[response_row[credit_rows]] * len(outcomes.items) + outcomes.item[credit_rows]
    )
    credited_index = (
        order[np.searchsorted(response_item_keys[order], credit_keys)]
        if len(credit_rows)
        else credit_rows
    )
    credit_rows = credit_rows[team_code[credited_index] >= 0]
    credited_team = team_code[credited_index][team_code[credited_index] >= 0]

    first_item_index = np.searchsorted(response_of_item, np.arange(len(responses)))
    position = np.arange(len(response_of_item)) - first_item_index[response_of_item]
    has_team = team_code >= 0
    picks = np.zeros((int(position[has_team].max(initial=-1)) + 1, 2), np.int64)
    np.add.at(picks, (position[has_team], team_code[has_team]), 1)
    response_count = int(is_response.sum())
    return Credits(
        unit=unit_code[response_row[credit_rows]],
        kind=outcomes.kind[outcomes.event_row[credit_rows]],
        is_treatment=credited_team == 1,
        picks=picks,
        responses=response_count,
        missing=response_count - len(responses),
    )


def _team_codes(responses: pa.Table, experiment: Experiment) -> Ints:
    """Return 0 for the control's items, 1 for the treatment's, and -1 for those of neither."""
    arms = pa.array([experiment.control_arm, *experiment.treatments])
    codes = pc.index_in(pc.list_flatten(responses["teams"]), value_set=arms)
    return pc.fill_null(codes, -1).to_numpy().astype(np.int64)


def estimate_share(control: npt.ArrayLike, treatment: npt.ArrayLike) -> estimates.Estimate:
    """Return the treatment's share of all credits, from those of each unit, shape (units,)."""
    treatment_credits = np.asarray(treatment, np.float64)
    return estimates.ratio(treatment_credits, treatment_credits + np.asarray(control, np.float64))


def _estimate_preference(
    credits: Credits, event: str, level: float, *, is_fixed: bool
) -> Preference:
    is_event = credits.kind == CREDITED_TYPES[event]
    units, unit_index = np.unique(credits.unit[is_event], return_inverse=True)
    is_treatment = credits.is_treatment[is_event]
    treatment = np.bincount(unit_index[is_treatment], minlength=len(units))
    control = np.bincount(unit_index[~is_treatment], minlength=len(units))
    wins = int((treatment > control).sum())
    losses = int((treatment < control).sum())
    share_estimate = estimate_share(control, treatment)
    low = high = math.nan
    if share_estimate.variance > 0:
        error = math.sqrt(share_estimate.variance)
        alpha = 1 - level
        half_width = float(ndtri(1 - alpha / 2)) * error
        low = share_estimate.value - half_width
        high = share_estimate.value + half_width
        if not is_fixed:
            low, high = confidence_sequence(
                share_estimate.value,
                error,
                len(units),
                tuned_for_units=TUNED_FOR_UNITS,
                alpha=alpha,
            )
        low = max(low, 0.0)
        high = min(high, 1.0)
    return Preference(
        event=event,
        control=int(control.sum()),
        treatment=int(treatment.sum()),
        units=len(units),
        wins=wins,
        losses=losses,
        share=share_estimate.value,
        low=low,
        high=high,
        p=float(binomtest(wins, wins + losses).pvalue) if wins + losses else math.nan,
    )


def balance_positions(picks: Ints) -> tuple[PositionBalance, ...]:
    """Test by position whether each arm picked half of the items; adjusted by Holm.

    Args:
        picks: of control and treatment by position, shape (positions, 2).
    """
    p = [
        binomtest(int(control_picks), int(control_picks + treatment_picks)).pvalue
        for control_picks, treatment_picks in picks
    ]
    return tuple(
        PositionBalance(position, int(control_picks), int(treatment_picks), float(adjusted_p))
        for position, ((control_picks, treatment_picks), adjusted_p) in enumerate(
            zip(picks, adjust_holm(p), strict=True), 1
        )
    )


def _run_checks(credits: Credits, positions: tuple[PositionBalance, ...]) -> tuple[Check, ...]:
    if not credits.responses:
        return ()
    missing_share = credits.missing / credits.responses
    logs_reason = (
        f"{credits.missing:,} of {credits.responses:,} responses have no teams in the lake."
    )
    checks = [Check("logs", missing_share <= MISSING_MAX, logs_reason)]
    if positions:
        worst_position = min(positions, key=lambda position: position.p)
        worst_text = f"position {worst_position.position} has {worst_position.control:,} : {worst_position.treatment:,} items"
        passed = worst_position.p >= POSITION_ALARM
        reason = f"At worst, {worst_text}; p = {worst_position.p:.3g} (Holm)."
        checks.append(Check("position balance", passed, reason))
    return tuple(checks)


def _conclude(
    experiment: Experiment, click_preference: Preference, checks: tuple[Check, ...], open_state: str
) -> tuple[str, str, str]:
    """Return colour, verdict and advice; `open_state` says why a fixed plan has no verdict."""
    name = experiment.name
    control = experiment.control_arm
    treatment = experiment.treatments[0]
    if failed := [check for check in checks if not check.passed]:
        verdict = f"Do not decide by this experiment: {failed[0].reason}"
        return "red", verdict, "Find the cause, and start a new one under another name."
    if not math.isfinite(click_preference.low):
        verdict = (
            f"Not decided yet: {click_preference.units:,} units have clicked on a drafted item."
        )
        return "amber", verdict, f"Send traffic to the slot {experiment.slot}."
    figures = (
        f"{click_preference.share:.1%} of credited clicks went to {treatment} ({experiment.level:.0%} "
        f"interval {click_preference.low:.1%} to {click_preference.high:.1%}; {click_preference.units:,} units)"
    )
    if open_state:
        advice = "Wait for the planned end. The interval is valid only then."
        return "amber", f"{open_state}: {figures}.", advice
    if click_preference.low <= 0.5 <= click_preference.high:
        verdict = f"No preference between {treatment} and {control} is shown: {figures}."
        return "amber", verdict, "Let it run, or keep the control."
    winner, loser = (treatment, control) if click_preference.low > 0.5 else (control, treatment)
    verdict = f"{winner} is preferred to {loser}: {figures}."
    advice = (
        f"tailorbird experiment stop {name} --why …, then: tailorbird experiment decide {name} "
        f"{winner}. For the uplift itself, run an A/B experiment."
    )
    return ("green" if winner == treatment else "red"), verdict, advice
