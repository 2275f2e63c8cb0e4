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
from tailorbird.experiments.off_policy.support import ESS_MIN, REFUSAL_FIX
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
from tailorbird.training.evaluation.evaluate import (
    Scorer,
    explain_head_mismatch,
    merge_live_columns,
)
from tailorbird.training.evaluation.off_policy import (
    OffPolicyReport,
    PolicyGroup,
    evaluate_off_policy,
    ignored_settings,
    read_responses,
)
from tailorbird.training.evaluation.policies import (
    Policy,
    build_policy_scorer,
    select_policy_columns,
)
from tailorbird.training.evaluation.slates import replayable_slot
from tailorbird.training.settings import TrainSettings

PILOT_RESPONSES = 500  # responses that are replayed to see whether all of them can tell
NOT_ESTIMATED_PREFIX = "value of this model and the champion, estimated from the log: not told, "


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
    index_series: IndexSeries
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
    logged_responses = load_responses(
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
        training_data=logged_responses.training_data,
        features=logged_responses.features,
        slot=slot,
        data=logged_responses.data,
        groups=logged_responses.groups,
        index_series=logged_responses.index_series,
        outcome=outcome,
        reward_model=logged_responses.reward_model,
        seed=settings.seed,
    )
    return replace(report, notes=(*report.notes, *logged_responses.notes))


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
    policy_bundles = _load_policies(Registry(registry, clock=clock), policies)
    bundles = [bundle for _, bundle in policy_bundles.values() if bundle is not None]
    own_features = [bundle.features for bundle in bundles if bundle.features is not None]
    read_features, *other_features = own_features or [features]
    pinned_lake = Lake(lake).pin_versions()
    now = clock.now()
    row_settings = replace(settings.row_settings(now, (outcome,)), row_source="answers")
    unfiltered_slot = replace(slot, denominator="answer")
    training_data = load_training_data(
        pinned_lake, read_features, unfiltered_slot, row_settings, other_features=other_features
    )
    learned_until = max((bundle.manifest.window.ts_to for bundle in bundles), default=0)
    data = _read_labelled_responses(
        pinned_lake, training_data, slot, outcome, max(row_settings.ts_from, learned_until)
    )
    responses_per_day = data.request_count * DAY / max(int(data.t[-1] - data.t[0]), HOUR)
    data, notes = _thin_responses(data, training_data, settings)
    live_columns = merge_live_columns(
        [select_policy_columns(policy, bundle) for policy, bundle in policy_bundles.values()]
    )
    index_series = build_series(training_data.events, training_data.item_profiles, [int(data.t[0])])
    scorers_by_slot: list[tuple[Slot, dict[str, Scorer]]] = []
    for name, (policy, bundle) in policy_bundles.items():
        served_slot = policy.served_slot
        scorer = build_policy_scorer(
            policy=policy,
            bundle=bundle,
            index_series=index_series,
            live_columns=live_columns,
            features=read_features,
            events=training_data.events,
        )
        for group_slot, scorers in scorers_by_slot:
            if replace(served_slot, objective=group_slot.objective) == group_slot:
                scorers[name] = scorer
                break
        else:
            scorers_by_slot.append((served_slot, {name: scorer}))
    groups = tuple(
        PolicyGroup(
            served_slot,
            Replay(
                training_data.events_with_profiles,
                read_features,
                served_slot,
                training_data.item_vocabulary,
                live_columns,
                source_limits=bound_limits(served_slot.sources),
            ),
            scorers,
        )
        for served_slot, scorers in scorers_by_slot
    )
    reward_model = next(
        (name for name, (policy, _) in policy_bundles.items() if policy.has_model), ""
    )
    return LoggedResponses(
        training_data=training_data,
        features=read_features,
        data=data,
        groups=groups,
        index_series=index_series,
        reward_model=reward_model,
        responses_per_day=responses_per_day,
        notes=notes,
    )


def _read_labelled_responses(
    lake: Lake, training_data: TrainingData, slot: Slot, outcome: str, ts_from: int
) -> Dataset:
    try:
        return read_responses(lake, training_data, slot, outcome, ts_from=ts_from)
    except NotReadyError as error:
        raise NotReadyError(
            f"no answer of slot {slot.name!r} with a known outcome is newer than "
            f"{to_iso(ts_from)}, up to which a version learned",
            fix="let traffic run on, or compare versions that learned earlier",
        ) from error


def _thin_responses(
    data: Dataset, training_data: TrainingData, settings: TrainSettings
) -> tuple[Dataset, tuple[str, ...]]:
    """Draw responses evenly over the time, and note what is left out."""
    left_out_count = training_data.dataset.request_count - data.request_count
    response_count = data.request_count
    data = data.take(thin_evenly(np.arange(response_count), settings.test_requests, settings.seed))
    notes = []
    if left_out_count > 0:
        notes.append(f"left out: {left_out_count:,} answers that a version may have learned from")
    if data.request_count < response_count:
        notes.append(
            f"{data.request_count:,} of {response_count:,} answers, drawn evenly over the time"
        )
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
        return (
            self.report.summary
            if self.report is not None
            else f"{NOT_ESTIMATED_PREFIX}{self.refusal}"
        )

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
    data = data.take(
        thin_evenly(np.arange(data.request_count), settings.test_requests, settings.seed)
    )
    if not (data.labels[outcome] > 0).any():
        return ChampionEstimate(None, f"no answer led to a {outcome}")
    is_varied = np.zeros(int(data.position.max()), bool)
    is_varied[data.position[data.propensity < 1] - 1] = True
    if not is_varied.all():
        position = int(np.flatnonzero(~is_varied)[0]) + 1
        return ChampionEstimate(
            None, f"the log shows what was ranked at position {position}, and nothing else"
        )
    run_estimate = partial(
        evaluate_off_policy,
        training_data,
        features,
        slot,
        groups=[PolicyGroup(slot, replay, scorers)],
        index_series=index_series,
        outcome=outcome,
        seed=settings.seed,
    )
    if data.request_count > 2 * PILOT_RESPONSES:
        pilot = run_estimate(
            data.take(thin_evenly(np.arange(data.request_count), PILOT_RESPONSES, settings.seed))
        )
        supports = (pilot.evaluation.new.support, pilot.evaluation.old.support)
        expected_sample_size = (
            min(support.effective / support.responses for support in supports) * data.request_count
        )
        if expected_sample_size < ESS_MIN / 2:
            return ChampionEstimate(
                None,
                f"{data.request_count:,} answers promise an effective sample size of "
                f"{expected_sample_size:,.0f}, "
                f"and {ESS_MIN:,.0f} are needed; {REFUSAL_FIX}",
            )
    return ChampionEstimate(run_estimate(data))


def _load_policies(
    registry: Registry, policies: Sequence[Policy]
) -> dict[str, tuple[Policy, Bundle | None]]:
    """Load the model of each policy, by the policy's name."""
    bundles: dict[Path, Bundle] = {}
    policy_bundles: dict[str, tuple[Policy, Bundle | None]] = {}
    for policy in policies:
        bundle = None
        if policy.has_model:
            path = registry.resolve(policy.version)
            if path not in bundles:
                bundles[path] = Bundle.load(path, schema_hash=None)
            bundle = bundles[path]
            if reason := explain_head_mismatch(bundle, policy.slot):
                raise UsageError(
                    f"{bundle.version} {reason}",
                    where=f"slot {policy.slot.name}",
                    fix="name a version with a model: tailorbird models list",
                )
        name = policy.name or (bundle.version if bundle is not None else policy.order)
        for other, other_bundle in policy_bundles.values():
            _require_difference((other, other_bundle), (policy, bundle))
        policy_bundles[name] = policy, bundle
    return policy_bundles


def _require_difference(
    policy: tuple[Policy, Bundle | None], other: tuple[Policy, Bundle | None]
) -> None:
    """Refuse two policies whose replays are the same."""
    (new, bundle), (old, other_bundle) = policy, other
    version = bundle.version if bundle is not None else ""
    other_version = other_bundle.version if other_bundle is not None else ""
    replayed_slot = replayable_slot(new.served_slot)
    if (new.order, version, replayed_slot) != (
        old.order,
        other_version,
        replayable_slot(old.served_slot),
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
