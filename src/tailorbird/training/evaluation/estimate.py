"""Off-policy evaluation of two versions of the registry, as `tailorbird experiment estimate`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from tailorbird.candidates.merge import bound_limits
from tailorbird.errors import NotReadyError, UsageError
from tailorbird.events import Clock, to_iso
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
from tailorbird.training.dataset.rows import Material, load_material
from tailorbird.training.dataset.sampling import thin_evenly
from tailorbird.training.evaluation.evaluate import (
    Scorer,
    explain_mismatch,
    merge_live_columns,
    version_scorer,
)
from tailorbird.training.evaluation.off_policy import (
    OffPolicyReport,
    evaluate_off_policy,
    read_responses,
)
from tailorbird.training.settings import TrainSettings

PILOT_RESPONSES = 500  # responses that are replayed to see whether all of them can tell
NOT_ESTIMATED = "value of this model and the champion, estimated from the log: not told, "


@dataclass(frozen=True)
class LoggedResponses:
    """The logged responses of a slot that some versions can be estimated from.

    Attributes:
        data: responses that none of the versions learned from, thinned to the settings' number.
        scorers: version → its scorer.
        notes: what was left out.
    """

    material: Material
    features: FeatureSet
    data: Dataset
    replay: Replay
    series: IndexSeries
    scorers: Mapping[str, Scorer]
    notes: tuple[str, ...]


def estimate_bundles(
    features: FeatureSet,
    slot: Slot,
    new: str,
    old: str,
    *,
    lake: StoragePath,
    registry: Path,
    clock: Clock,
    settings: TrainSettings,
    outcome: str = "click",
) -> OffPolicyReport:
    """Estimate the values of two versions from a slot's logged responses.

    Responses that either learned from are left out, as a version looks better on them.

    Raises:
        UsageError: a version does not exist, or predicts none of the slot's heads.
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
        log.material,
        log.features,
        slot,
        log.data,
        log.replay,
        log.series,
        log.scorers,
        outcome,
        seed=settings.seed,
    )
    return replace(report, notes=(*report.notes, *log.notes))


def load_responses(
    features: FeatureSet,
    slot: Slot,
    names: Sequence[str],
    *,
    lake: StoragePath,
    registry: Path,
    clock: Clock,
    settings: TrainSettings,
    outcome: str,
) -> LoggedResponses:
    """Load a slot's logged responses for versions, of which the first gives the features.

    Raises:
        UsageError: a version does not exist, or predicts none of the slot's heads.
        NotReadyError: no response is left.
    """
    store = Registry(registry, clock=clock)
    bundles: dict[str, Bundle] = {}
    for name in names:
        bundle = _load(store, name, slot)
        if bundle.version in bundles:
            raise UsageError(
                f"{names[0]} and {name} are the same version, {bundle.version}",
                fix="tailorbird models list names others",
            )
        bundles[bundle.version] = bundle
    first, *others = bundles.values()
    read_features = first.features or features
    other_features = [bundle.features for bundle in others if bundle.features is not None]
    source, now = Lake(lake).pinned(), clock.now()
    rows = replace(settings.row_settings(now, (outcome,)), rows="answers")
    every_item = replace(slot, denominator="answer")
    material = load_material(source, read_features, every_item, rows, other_features=other_features)
    learned_until = max(bundle.manifest.window.ts_to for bundle in bundles.values())
    ts_from = max(rows.ts_from, learned_until)
    try:
        data = read_responses(source, material, slot, outcome, ts_from=ts_from)
    except NotReadyError as error:
        raise NotReadyError(
            f"no answer of slot {slot.name!r} with a known outcome is newer than {to_iso(ts_from)}, "
            "up to which a version learned",
            fix="let traffic run on, or compare versions that learned earlier",
        ) from error
    left_out, responses = material.data.requests - data.requests, data.requests
    data = data.take(thin_evenly(np.arange(responses), settings.test_requests, settings.seed))
    notes = []
    if left_out > 0:
        notes.append(f"left out: {left_out:,} answers that a version may have learned from")
    if data.requests < responses:
        notes.append(f"{data.requests:,} of {responses:,} answers, drawn evenly over the time")
    live = merge_live_columns([bundle.encoder.live for bundle in bundles.values()])
    series = build_series(material.events, material.items, [int(data.t[0])])
    replay = Replay(
        material.log, read_features, slot, material.codes, live, sources=bound_limits(slot.sources)
    )
    scorers = {
        version: version_scorer(
            bundle, series, slot.objective, live, read_features, material.events
        )
        for version, bundle in bundles.items()
    }
    return LoggedResponses(material, read_features, data, replay, series, scorers, tuple(notes))


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
    material: Material,
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
        data = read_responses(lake, material, slot, outcome, ts_from=ts_from)
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
        material,
        features,
        slot,
        replay=replay,
        index_series=index_series,
        scorers=scorers,
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


def _load(store: Registry, name: str, slot: Slot) -> Bundle:
    """Load a version that can order the slot's items."""
    bundle = Bundle.load(store.resolve(name), schema_hash=None)
    if reason := explain_mismatch(bundle, slot):
        raise UsageError(
            f"{bundle.version} {reason}",
            where=f"slot {slot.name}",
            fix="name a version with a model: tailorbird models list",
        )
    return bundle
