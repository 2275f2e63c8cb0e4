"""Off-policy evaluation of two policies, as `tailorbird experiment estimate`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from tailorbird.candidates.merge import bound_limits
from tailorbird.errors import NotReadyError, UsageError
from tailorbird.events import DAY, HOUR, Clock, to_iso
from tailorbird.experiments.off_policy.support import ESS_MIN, FIX
from tailorbird.features import FeatureSet
from tailorbird.lake import Lake
from tailorbird.ranking.bundle import Bundle
from tailorbird.ranking.policy.targets import item_probability_heads
from tailorbird.ranking.slot import Slot
from tailorbird.registry import Registry
from tailorbird.storage_paths import StoragePath
from tailorbird.training.dataset.dataset import Dataset
from tailorbird.training.dataset.indexes import IndexSeries, build_series
from tailorbird.training.dataset.replay import Replay
from tailorbird.training.dataset.rows import TrainingData, load_training_data
from tailorbird.training.dataset.sampling import thin_evenly
from tailorbird.training.evaluation.evaluate import Scorer, explain_mismatch, merge_live_columns
from tailorbird.training.evaluation.off_policy import (
    OffPolicyReport,
    PolicyGroup,
    evaluate_off_policy,
    ignored_settings,
    read_responses,
)
from tailorbird.training.evaluation.policies import Policy, live_columns_of, scorer_of
from tailorbird.training.evaluation.slates import replayed_settings
from tailorbird.training.settings import TrainSettings

PILOT_RESPONSES = 500  # responses that are replayed to see whether all of them can tell
NOT_ESTIMATED = "value of this model and the champion, estimated from the log: not told, "


@dataclass(frozen=True)
class LoggedResponses:
    """The logged responses of a slot from which some policies can be estimated.

    Attributes:
        data: responses that no policy's model learned from, thinned to the settings' number.
        groups: the policies in order, those with the same settings but for the formula together.
        reward_model: the first policy with a model; "" if none has one.
        responses_per_day: of the slot, before they are thinned.
        notes: what was left out.
    """

    training_data: TrainingData
    features: FeatureSet
    data: Dataset
    groups: tuple[PolicyGroup, ...]
    series: IndexSeries
    reward_model: str
    responses_per_day: float
    notes: tuple[str, ...]


def estimate_policies(
    features: FeatureSet,
    slot: Slot,
    new: Policy,
    old: Policy,
    *,
    lake: StoragePath,
    registry: Path,
    clock: Clock,
    settings: TrainSettings,
    outcome: str = "click",
) -> OffPolicyReport:
    """Estimate the values of two policies from a slot's logged responses.

    Responses that either's model learned from are left out, as it looks better on them.

    Raises:
        UsageError: the policies are the same, a version does not exist, or it predicts none of the
            heads of its policy's formula.
        NotReadyError: no response is left.
    """
    log = load_responses(
        features,
        slot,
        (new, old),
        lake=lake,
        registry=registry,
        clock=clock,
        settings=settings,
        outcome=outcome,
    )
    report = evaluate_off_policy(
        log.training_data,
        log.features,
        slot,
        log.data,
        log.groups,
        log.series,
        outcome,
        reward_model=log.reward_model,
        seed=settings.seed,
    )
    return replace(report, notes=(*report.notes, *log.notes))


def load_responses(
    features: FeatureSet,
    slot: Slot,
    policies: Sequence[Policy],
    *,
    lake: StoragePath,
    registry: Path,
    clock: Clock,
    settings: TrainSettings,
    outcome: str,
) -> LoggedResponses:
    """Load a slot's logged responses for policies; the first model gives the features.

    Raises:
        UsageError: two policies are the same, a version does not exist, or it predicts none of the
            heads of its policy's formula.
        NotReadyError: no response is left.
    """
    loaded = _load_policies(Registry(registry, clock=clock), policies)
    bundles = [bundle for _, bundle in loaded.values() if bundle is not None]
    own_features = [bundle.features for bundle in bundles if bundle.features is not None]
    read_features, *other_features = own_features or [features]
    source, now = Lake(lake).pinned(), clock.now()
    rows = replace(settings.row_settings(now, (outcome,)), rows="answers")
    every_item = replace(slot, denominator="answer")
    training_data = load_training_data(
        source, read_features, every_item, rows, other_features=other_features
    )
    learned_until = max((bundle.manifest.window.ts_to for bundle in bundles), default=0)
    data = _read_known(source, training_data, slot, outcome, max(rows.ts_from, learned_until))
    per_day = data.requests * DAY / max(int(data.t[-1] - data.t[0]), HOUR)
    data, notes = _thin(data, training_data, settings)
    live = merge_live_columns([live_columns_of(*each) for each in loaded.values()])
    series = build_series(training_data.events, training_data.items, [int(data.t[0])])
    scorers_by_slot: list[tuple[Slot, dict[str, Scorer]]] = []
    for name, (policy, bundle) in loaded.items():
        served = policy.served_slot
        scorer = scorer_of(policy, bundle, series, live, read_features, training_data.events)
        for group_slot, scorers in scorers_by_slot:
            if replace(served, objective=group_slot.objective) == group_slot:
                scorers[name] = scorer
                break
        else:
            scorers_by_slot.append((served, {name: scorer}))
    groups = tuple(
        PolicyGroup(
            served,
            Replay(
                training_data.events_with_profiles,
                read_features,
                served,
                training_data.item_codes,
                live,
                sources=bound_limits(served.sources),
            ),
            scorers,
        )
        for served, scorers in scorers_by_slot
    )
    reward_model = next((name for name, (policy, _) in loaded.items() if policy.has_model), "")
    return LoggedResponses(
        training_data, read_features, data, groups, series, reward_model, per_day, notes
    )


def _read_known(
    source: Lake, training_data: TrainingData, slot: Slot, outcome: str, ts_from: int
) -> Dataset:
    try:
        return read_responses(source, training_data, slot, outcome, ts_from=ts_from)
    except NotReadyError as error:
        raise NotReadyError(
            f"no answer of slot {slot.name!r} with a known outcome is newer than {to_iso(ts_from)}, "
            "up to which a version learned",
            fix="let traffic run on, or compare versions that learned earlier",
        ) from error


def _thin(
    data: Dataset, training_data: TrainingData, settings: TrainSettings
) -> tuple[Dataset, tuple[str, ...]]:
    """Draw responses evenly over the time, and note what is left out."""
    left_out, responses = training_data.data.requests - data.requests, data.requests
    data = data.take(thin_evenly(np.arange(responses), settings.test_requests, settings.seed))
    notes = []
    if left_out > 0:
        notes.append(f"left out: {left_out:,} answers that a version may have learned from")
    if data.requests < responses:
        notes.append(f"{data.requests:,} of {responses:,} answers, drawn evenly over the time")
    return data, tuple(notes)


@dataclass(frozen=True)
class ChampionEstimate:
    """What the log tells of a new model and the champion.

    Attributes:
        report: None where the log cannot tell; `refusal` says why.
    """

    report: OffPolicyReport | None
    refusal: str = ""

    @property
    def is_worse(self) -> bool:
        """Return whether the new model earns less, with the whole interval below 0."""
        return self.report is not None and self.report.is_worse

    @property
    def summary(self) -> str:
        """The estimate, or why there is none, in one line."""
        return self.report.summary if self.report is not None else f"{NOT_ESTIMATED}{self.refusal}"

    def to_dict(self) -> dict[str, Any]:
        """Return the estimate as JSON."""
        return self.report.to_dict() if self.report is not None else {"refusal": self.refusal}


def estimate_against_champion(
    lake: Lake,
    training_data: TrainingData,
    features: FeatureSet,
    slot: Slot,
    replay: Replay,
    index_series: IndexSeries,
    scorers: Mapping[str, Scorer],
    *,
    ts_from: int,
    settings: TrainSettings,
) -> ChampionEstimate:
    """Estimate a new model and the champion on responses that neither learned from.

    A log that never varied a position is not replayed: it could only tell of models that show the
    same there. A pilot on a few responses spares the replay of a log that cannot tell.

    Args:
        scorers: the new model, then the champion.
    """
    outcome = next(iter(item_probability_heads(slot.objective)), "click")
    try:
        data = read_responses(lake, training_data, slot, outcome, ts_from=ts_from)
    except NotReadyError:
        return ChampionEstimate(None, "no answer is newer than what the two learned from")
    data = data.take(thin_evenly(np.arange(data.requests), settings.test_requests, settings.seed))
    if not (data.labels[outcome] > 0).any():
        return ChampionEstimate(None, f"no answer led to a {outcome}")
    varied = np.zeros(int(data.position.max()), bool)
    varied[data.position[data.propensity < 1] - 1] = True
    if not varied.all():
        position = int(np.flatnonzero(~varied)[0]) + 1
        return ChampionEstimate(
            None, f"the log shows what was ranked at position {position}, and nothing else"
        )
    estimate = partial(
        evaluate_off_policy,
        training_data,
        features,
        slot,
        groups=[PolicyGroup(slot, replay, scorers)],
        index_series=index_series,
        outcome=outcome,
        seed=settings.seed,
    )
    if data.requests > 2 * PILOT_RESPONSES:
        pilot = estimate(
            data.take(thin_evenly(np.arange(data.requests), PILOT_RESPONSES, settings.seed))
        )
        supports = (pilot.evaluation.new.support, pilot.evaluation.old.support)
        expected = (
            min(support.effective / support.responses for support in supports) * data.requests
        )
        if expected < ESS_MIN / 2:
            return ChampionEstimate(
                None,
                f"{data.requests:,} answers promise an effective sample size of {expected:,.0f}, "
                f"and {ESS_MIN:,.0f} are needed; {FIX}",
            )
    return ChampionEstimate(estimate(data))


def _load_policies(
    store: Registry, policies: Sequence[Policy]
) -> dict[str, tuple[Policy, Bundle | None]]:
    """Load the model of each policy, by the policy's name."""
    bundles: dict[Path, Bundle] = {}
    loaded: dict[str, tuple[Policy, Bundle | None]] = {}
    for policy in policies:
        bundle = None
        if policy.has_model:
            path = store.resolve(policy.version)
            if path not in bundles:
                bundles[path] = Bundle.load(path, schema_hash=None)
            bundle = bundles[path]
            if reason := explain_mismatch(bundle, policy.slot):
                raise UsageError(
                    f"{bundle.version} {reason}",
                    where=f"slot {policy.slot.name}",
                    fix="name a version with a model: tailorbird models list",
                )
        name = policy.name or (bundle.version if bundle is not None else policy.order)
        for other, other_bundle in loaded.values():
            _require_difference((other, other_bundle), (policy, bundle))
        loaded[name] = policy, bundle
    return loaded


def _require_difference(
    policy: tuple[Policy, Bundle | None], other: tuple[Policy, Bundle | None]
) -> None:
    """Refuse two policies whose replays are the same."""
    (new, bundle), (old, other_bundle) = policy, other
    version = bundle.version if bundle is not None else ""
    other_version = other_bundle.version if other_bundle is not None else ""
    settings = replayed_settings(new.served_slot)
    if (new.order, version, settings) != (
        old.order,
        other_version,
        replayed_settings(old.served_slot),
    ):
        return
    subject = f"{version or new.order} with the settings of slot {new.slot.name}"
    ignored = ignored_settings(new.slot, old.slot) or ignored_settings(old.slot, new.slot)
    if new.slot != old.slot and ignored:
        raise UsageError(
            f"the two policies differ in nothing that is replayed: {subject}; {ignored[0]}",
            fix="compare them by an experiment: tailorbird experiment start",
        )
    raise UsageError(
        f"the two policies are the same: {subject}",
        fix="name another version, formula, slot or arm, or another --against",
    )
