"""Find falls of a champion's figures, and decide what to do: recalibrate, retrain, or hold.

| watched | compared with | means |
|---|---|---|
| clicks, conversion and revenue of the model's arm | the control arm, at the same time | the order may be worse |
| conversion of the champion, by the day | the days after it went live | the level may be off |
| clicks on seen items | what the champion's scores promise | the level may be off |

All share one probability of a false alarm, `FALSE_ALARM_PROBABILITY`. Revenue is watched where the
experiment's metrics name it. An order by a single target does not depend on its calibration, so a
fall against the control then leads to a training at once. Otherwise `training.recalibrate` judges
the champion.
"""

import logging
from dataclasses import dataclass, replace

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from tailorbird.config import Project
from tailorbird.errors import BundleError
from tailorbird.events import DAY, Clock, micros, parse_duration
from tailorbird.experiments.counts import COLUMNS as EVENT_COLUMNS
from tailorbird.lake import Lake
from tailorbird.monitoring import RetrainCriteria, RetrainVerdict, decide_from_steps, decide_retrain
from tailorbird.monitoring.conversions import CELL_COLUMNS as CELL_COLUMNS
from tailorbird.monitoring.conversions import mirror_steps, outcome_steps, promised_steps
from tailorbird.monitoring.drift.causes import DATA_FAULTS
from tailorbird.monitoring.figures.report import DELAY_COLUMNS, slot_delays
from tailorbird.monitoring.retrain import LogRatioStep
from tailorbird.monitoring.versions import CHAMPION_CHANGES
from tailorbird.platform.drift import explain_fall, figure_store
from tailorbird.platform.rollout import ACTOR
from tailorbird.platform.runtime.overdue import versions_of
from tailorbird.ranking import Slot
from tailorbird.ranking.bundle import Bundle
from tailorbird.ranking.policy.targets import item_heads
from tailorbird.registry import Registry
from tailorbird.training.recalibrate import LevelVerdict, examine_champion

REFERENCE_WINDOW_US = 2 * DAY  # Live traffic after a promotion that serves as reference.
FALL_TRAFFIC_MIN_US = 2 * DAY  # Minimum traffic since the fall began to learn from.
RETRY_WAIT_US = DAY  # Minimum wait after a model that the gate refused, …
RETRY_TRAFFIC_GROWTH = 0.25  # … unless traffic has grown by this share.
FALSE_ALARM_PROBABILITY = 0.01  # of all figures of a slot together, while they are watched
LEVEL_FALL_MIN = 0.25  # of a level without a control; less may be the weekday
DELAY_DAYS = 28  # of conversions whose delays are learned
DECISION_ACTIONS = ("recalibrate", "hold")  # of the audit log
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Fall:
    """A figure of the champion that fell by more than chance allows.

    Attributes:
        is_level_fall: there is no control that was as before, so people may do less of everything.
    """

    decision: RetrainVerdict
    is_level_fall: bool

    @property
    def since(self) -> int:
        """The time when it began, microseconds."""
        assert self.decision.since is not None
        return self.decision.since


def find_fall(
    project: Project, slot: Slot, champion: str, live_since: int, now: int
) -> Fall | None:
    """Return the first figure that fell, None if chance explains all of them.

    Args:
        live_since: since when the champion answers.
    """
    all_criteria = _watched_criteria(slot, champion)
    attribution_us = parse_duration(slot.attribution)
    for criteria in all_criteria:
        if criteria.measure == "clicks":
            decision = decide_retrain(
                Lake(project.paths.lake).events(
                    columns=EVENT_COLUMNS, ts_from=live_since - attribution_us
                ),
                criteria,
                reference_from=live_since,
                reference_to=live_since + REFERENCE_WINDOW_US,
                until=now,
                denominator=slot.denominator,
                attribution=attribution_us,
            )
        else:
            decision = _judge_outcomes(project, criteria, champion, live_since, now)
        log.info("slot %s: %s", slot.name, decision.reason)
        if decision.since is not None:
            return Fall(decision, is_level_fall=not criteria.control)
    return None


def _watched_criteria(slot: Slot, champion: str) -> list[RetrainCriteria]:
    """Return what is watched of a slot; what has a control comes first."""
    experiment = slot.experiment
    all_criteria = []
    arm = model_arm(slot)
    if experiment is not None and arm:
        metric_kinds = {metric.kind for metric in (experiment.metric, *experiment.guardrails)}
        measures = ["clicks", "conversion", *(["revenue"] if "revenue" in metric_kinds else [])]
        all_criteria = [
            RetrainCriteria(
                slot.name, arm, experiment.control_arm, experiment.name, measure=measure
            )
            for measure in measures
        ]
    all_criteria += [
        RetrainCriteria(slot.name, champion, period=DAY, fall=LEVEL_FALL_MIN, measure=measure)
        for measure in ("conversion", "calibration")
    ]
    return [
        replace(criteria, false_alarm=FALSE_ALARM_PROBABILITY / len(all_criteria))
        for criteria in all_criteria
    ]


def model_arm(slot: Slot) -> str:
    """Return the arm of the slot's experiment that the model serves beside a control, or ""."""
    experiment = slot.experiment
    if experiment is None:
        return ""
    arms = (name for name in experiment.arms if experiment.policy_of(name) == "model")
    arm = next(arms, "")
    return "" if arm == experiment.control_arm else arm


def _judge_outcomes(
    project: Project, criteria: RetrainCriteria, champion: str, live_since: int, now: int
) -> RetrainVerdict:
    """Judge conversion, revenue or calibration by cells, the stored figures of each minute."""
    store = figure_store(project)
    delays = slot_delays(store.read(now - DELAY_DAYS * DAY, now, DELAY_COLUMNS)).get(criteria.slot)
    until = now // criteria.period * criteria.period
    cells = store.read(live_since, until, CELL_COLUMNS)
    cells = cells.filter(pc.field("slot") == criteria.slot)
    arm_column = "arm" if criteria.control else "version"
    arms = [criteria.arm, *([criteria.control] if criteria.control else [])]

    def outcome_steps_between(since: int, until: int) -> list[LogRatioStep]:
        period_cells = cells.filter((pc.field("minute") >= since) & (pc.field("minute") < until))
        cells_by_arm = {arm: period_cells.filter(pc.field(arm_column) == arm) for arm in arms}
        return outcome_steps(cells_by_arm, criteria, delays) if delays is not None else []

    if criteria.measure != "calibration":
        reference_to = (live_since + REFERENCE_WINDOW_US) // criteria.period * criteria.period
        return decide_from_steps(
            outcome_steps_between(live_since, reference_to),
            outcome_steps_between(reference_to, until),
            criteria,
        )
    watched_steps = outcome_steps_between(live_since, until)
    # Outcomes may be fewer than the scores promise, or, in mirrored steps, more.
    decisions = [
        decide_from_steps(promised_steps(signed_steps), signed_steps, criteria)
        for signed_steps in (watched_steps, mirror_steps(watched_steps))
    ]
    return next((decision for decision in decisions if decision.since is not None), decisions[0])


@dataclass(frozen=True)
class ChampionHistory:
    """The champion, its promotion, and the last time since then that something was decided."""

    version: str
    promoted_at: int
    last_attempt_at: int | None


@dataclass(frozen=True)
class ChampionFall:
    """A fall of a champion, which answers since `live_since`, and when the slot was answered."""

    champion: ChampionHistory
    live_since: int
    response_times: npt.NDArray[np.int64]
    fall: Fall


class SlotDecision(msgspec.Struct, frozen=True):
    """The trainer's decision about the champion in a slot: recalibrate, retrain or hold."""

    slot: str
    action: str
    reason: str


def read_decisions(project: Project, clock: Clock, slot: str = "") -> list[SlotDecision]:
    """Return what the trainer would decide about each slot, or one; changes nothing."""
    slots = [project.slot(slot)] if slot else list(project.slots.values())
    decisions = []
    for watched_slot in slots:
        verdict = LevelVerdict("hold", "no figure fell by more than chance allows")
        if (champion_fall := look_for_fall(project, clock, watched_slot)) is not None:
            verdict = decide_action(project, clock, watched_slot, champion_fall)
        decisions.append(SlotDecision(watched_slot.name, verdict.action, verdict.reason))
    return decisions


def look_for_fall(project: Project, clock: Clock, slot: Slot) -> ChampionFall | None:
    """Judge the live figures of the champion in a slot; None if none fell, or it is too early."""
    champion = read_champion_history(Registry(project.paths.registry, clock=clock), slot.name)
    if champion is None:
        return None
    now = clock.now()
    events = _response_events(Lake(project.paths.lake), champion.promoted_at)
    live_since = _first_response_time(events, slot.name, champion.version)
    if live_since is None or now < live_since + REFERENCE_WINDOW_US:
        return None
    fall = find_fall(project, slot, champion.version, live_since, now)
    if fall is None:
        return None
    return ChampionFall(champion, live_since, _response_times(events, slot.name), fall)


def decide_action(
    project: Project, clock: Clock, slot: Slot, champion_fall: ChampionFall
) -> LevelVerdict:
    """Decide what to do about a fall."""
    fall = champion_fall.fall
    live_since = champion_fall.live_since
    if not fall.is_level_fall and len(item_heads(slot.objective)) < 2:
        reason = "the order by a single target does not depend on its calibration"
        return LevelVerdict("retrain", f"{fall.decision.reason}; {reason}")
    if fall.is_level_fall:
        cause = explain_fall(project, clock, fall.decision, live_since)
        if cause.name in DATA_FAULTS:
            reason = f"{fall.decision.reason}; the cause is {cause.name}, {cause.evidence}"
            reason += f"; nothing is learned from {cause.describe_reach()}"
            return LevelVerdict("hold", reason)
    registry = Registry(project.paths.registry, clock=clock)
    champion_folder = registry.champion_folder()
    assert champion_folder is not None
    try:
        verdict = examine_champion(
            Bundle.load(champion_folder, schema_hash=None),
            project.features,
            slot,
            Lake(project.paths.lake),
            reference_from=live_since,
            changed_at=fall.since,
            as_of=clock.now(),
        )
    except BundleError as error:
        verdict = LevelVerdict("retrain", f"the champion cannot be judged: {error.message}")
    # A control that did not fall shows that a better model is possible.
    action = "retrain" if verdict.action == "hold" and not fall.is_level_fall else verdict.action
    return replace(verdict, action=action, reason=f"{fall.decision.reason}; {verdict.reason}")


def read_champion_history(registry: Registry, slot: str) -> ChampionHistory | None:
    """Return the history of the champion by the audit log; None without one."""
    champion = registry.aliases().champion
    audit = registry.audit()
    # Ordered by position in the log and not by time, because some times are simulated.
    promotion_indexes = [
        index
        for index, entry in enumerate(audit)
        if entry.action in CHAMPION_CHANGES and entry.version == champion
    ]
    if not champion or not promotion_indexes:
        return None
    slot_versions = {info.version for info in versions_of(registry, slot)}
    attempt_times = [
        entry.at
        for entry in audit[promotion_indexes[-1] :]
        if entry.by == ACTOR
        and (
            entry.action in DECISION_ACTIONS
            or (entry.action == "add" and entry.version in slot_versions)
        )
    ]
    return ChampionHistory(
        champion, audit[promotion_indexes[-1]].at, attempt_times[-1] if attempt_times else None
    )


def _response_events(lake: Lake, since: int) -> pa.Table:
    return lake.events(columns=("type", "ts", "slot", "model", "agent"), ts_from=since)


def _first_response_time(events: pa.Table, slot: str, version: str) -> int | None:
    """Return when a version first answered a person in the slot."""
    times = _response_times(events.filter(pc.equal(events["model"], version)), slot)
    return int(times.min()) if len(times) else None


def _response_times(events: pa.Table, slot: str) -> npt.NDArray[np.int64]:
    """Return the times of a slot's answers to people."""
    is_slot_response = pc.and_kleene(
        pc.equal(events["type"], "answer"), pc.equal(events["slot"], slot)
    )
    is_slot_response = pc.and_kleene(
        is_slot_response, pc.not_equal(pc.fill_null(events["agent"], "person"), "bot")
    )
    return micros(events["ts"].filter(is_slot_response))


def has_enough_traffic(
    slot: str,
    response_times: npt.NDArray[np.int64],
    since: int,
    last_attempt_at: int | None,
    now: int,
) -> bool:
    """Return whether enough traffic has arrived since the fall and since the last attempt."""
    if now < since + FALL_TRAFFIC_MIN_US:
        log.info(
            "slot %s: waiting until there are %d days of traffic since the fall",
            slot,
            FALL_TRAFFIC_MIN_US // DAY,
        )
        return False
    if last_attempt_at is None or now >= last_attempt_at + RETRY_WAIT_US:
        return True
    previous_count = int(np.sum((response_times >= since) & (response_times < last_attempt_at)))
    new_count = int(
        np.sum((response_times >= max(since, last_attempt_at)) & (response_times < now))
    )
    if new_count >= RETRY_TRAFFIC_GROWTH * previous_count:
        return True
    log.info(
        "slot %s: the gate refused the last model; waiting for a day, or a quarter more "
        "traffic, to try again",
        slot,
    )
    return False
