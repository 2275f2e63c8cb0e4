"""Judge the levels and the order of a champion on its newest rows, and calibrate it anew.

    rows before the change          rows since
    AUC of each head         ──►    AUC: worse beyond chance → retrain
                                    predicted ÷ observed within 10 % of 1 → hold
                                    fitted on the first part, judged on the last → recalibrate

A calibration is monotone: it mends the level of a head, never its order. The new one has to lower
the log loss on rows that it was not fitted on, and the order by the slot's formula must not get
worse. What was judged is what is published.
"""

import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
import numpy.typing as npt

from tailorbird.events import HOUR
from tailorbird.features import FeatureSet
from tailorbird.features.offline.backfill import History
from tailorbird.lake import Lake
from tailorbird.ranking.bundle import CALIBRATION_FILE, CARD_FILE, Bundle
from tailorbird.ranking.calibration import Calibration, Identity
from tailorbird.ranking.policy.targets import item_probability_heads
from tailorbird.ranking.slot import Slot
from tailorbird.registry import Registry, read_sealed, seal
from tailorbird.training.dataset.dataset import Dataset
from tailorbird.training.dataset.indexes import build_series
from tailorbird.training.dataset.matrix import encode_rows, iterate_features_from
from tailorbird.training.dataset.replay import Replay
from tailorbird.training.dataset.request_choice import RowSettings
from tailorbird.training.dataset.rows import load_training_data
from tailorbird.training.dataset.sampling import thin_evenly
from tailorbird.training.evaluation.bootstrap import Bootstrap, Interval, encode_people
from tailorbird.training.evaluation.calibration import measure_calibration
from tailorbird.training.evaluation.gate import RELATIVE_MARGIN
from tailorbird.training.evaluation.metrics import auc, auc_influence, log_losses, ndcg, rank_lists
from tailorbird.training.fit.architecture import ndcg_gain
from tailorbird.training.fit.calibrate import assign_periods, choose_calibration
from tailorbird.training.sketches import objective_value

Floats = npt.NDArray[np.float64]
RecommendedAction = Literal["recalibrate", "retrain", "hold"]

SCORED_REQUESTS_MAX = 6_000  # before the change, and since, at most; drawn evenly over the time
POSITIVES_MIN = 100  # of a head before the change, and since
LEVEL_TOLERANCE = 0.1  # a level within this of the truth is right
AUC_FALL_MIN = 0.02  # in AUC; a smaller fall is no reason to retrain
FITTED_REQUESTS_SHARE = 0.6  # of the newest requests; the others judge


@dataclass(frozen=True)
class ScoredRows:
    """Rows with the champion's outputs before calibration, head → shape (rows,)."""

    data: Dataset
    raw_scores: Mapping[str, Floats]

    def take(self, request_indexes: npt.NDArray[np.int64]) -> "ScoredRows":
        """Return some requests, in ascending order."""
        row_mask = np.isin(self.data.request_index, request_indexes)
        selected_scores = {head: column[row_mask] for head, column in self.raw_scores.items()}
        return ScoredRows(self.data.take(request_indexes), selected_scores)

    @property
    def bootstrap(self) -> Bootstrap:
        return Bootstrap(encode_people(self.data.person_codes), seed=0)


@dataclass(frozen=True)
class LevelVerdict:
    """A decision about a champion, with its reason.

    Attributes:
        new_calibrations: of the heads whose level is off, fitted anew.
        metrics_by_head: head → AUC before and since, predicted ÷ observed, log losses of both
            calibrations.
    """

    action: RecommendedAction
    reason: str
    new_calibrations: Mapping[str, Calibration] = field(default_factory=dict)
    metrics_by_head: Mapping[str, Mapping[str, float]] = field(default_factory=dict)


def examine_champion(
    bundle: Bundle,
    features: FeatureSet,
    slot: Slot,
    lake: Lake,
    *,
    reference_from: int,
    changed_at: int,
    as_of: int,
) -> LevelVerdict:
    """Judge a champion on the answers of a slot before a change and since.

    Raises:
        NotReadyError: no answer has an outcome that is known by now.
    """
    features = bundle.features or features
    row_settings = RowSettings(reference_from, as_of, HOUR, "answers", extra_heads=bundle.heads)
    training_data = load_training_data(lake, features, slot, row_settings)
    data = training_data.dataset
    requests_before = np.flatnonzero(data.t < changed_at)
    requests_since = np.flatnonzero(data.t >= changed_at)
    if not len(requests_before) or not len(requests_since):
        return LevelVerdict(
            "hold", "no answer before the change, or since, has a known outcome yet"
        )
    index_series = build_series(
        training_data.events,
        training_data.item_profiles,
        [int(data.t[requests_before[0]]), int(data.t[requests_since[0]])],
    )
    live_columns = bundle.encoder.live_columns
    replay = Replay(
        training_data.events_with_profiles,
        features,
        slot,
        training_data.item_vocabulary,
        live_columns,
    )
    history = History(features, training_data.events)

    def score(request_indexes: npt.NDArray[np.int64]) -> ScoredRows:
        scored_data = data.take(thin_evenly(request_indexes, SCORED_REQUESTS_MAX, seed=0))
        scored_data = replace(scored_data, live_values=replay.read_live_columns(scored_data)[0])
        chunk_scores = [
            bundle.raw_scores(
                encode_rows(
                    chunk,
                    bundle.encoder,
                    index_series,
                    fallback_space=bundle.space,
                    live_columns=live_columns,
                )
            )
            for chunk in iterate_features_from(history, scored_data)
        ]
        raw_scores = {
            head: np.concatenate([each[head] for each in chunk_scores]) for head in bundle.heads
        }
        return ScoredRows(scored_data, raw_scores)

    return judge_levels(
        score(requests_before), score(requests_since), bundle.calibration, slot.objective
    )


def judge_levels(
    rows_before: ScoredRows,
    rows_since: ScoredRows,
    calibration_by_head: Mapping[str, Calibration],
    objective: Mapping[str, float],
) -> LevelVerdict:
    """Decide between a new calibration, a new model and neither.

    Args:
        calibration_by_head: of the champion.
        objective: the slot's formula.
    """
    metrics_by_head: dict[str, dict[str, float]] = {}
    worse_heads: list[str] = []
    miscalibrated_heads: list[tuple[str, str]] = []
    for head in item_probability_heads(rows_since.raw_scores):
        labels = [part.data.labels.get(head) for part in (rows_before, rows_since)]
        if any(label is None or np.sum(label > 0) < POSITIVES_MIN for label in labels):
            continue
        auc_before = _auc_interval(rows_before, head)
        auc_since = _auc_interval(rows_since, head)
        level_ratio = _level_ratio(rows_since, head, calibration_by_head.get(head, Identity()))
        metrics_by_head[head] = {
            "auc_before": auc_before.value,
            "auc": auc_since.value,
            "level": level_ratio.value,
        }
        auc_fall_margin = np.hypot(
            auc_before.high - auc_before.value, auc_since.value - auc_since.low
        )
        head_note = f"{head}: AUC {auc_before.value:.3f} before, {auc_since.value:.3f} since"
        auc_fall = auc_before.value - auc_since.value
        if auc_fall > AUC_FALL_MIN and auc_fall > auc_fall_margin:
            worse_heads.append(head_note)
        elif level_ratio.low > 1 + LEVEL_TOLERANCE or level_ratio.high < 1 - LEVEL_TOLERANCE:
            miscalibrated_heads.append((head, f"{head_note}; predicted ÷ observed {level_ratio}"))
    if worse_heads:
        reason = f"the order is worse, which no calibration mends; {'; '.join(worse_heads)}"
        return LevelVerdict("retrain", reason, metrics_by_head=metrics_by_head)
    if not metrics_by_head:
        reason = f"no target has {POSITIVES_MIN} outcomes before the change and since"
        return LevelVerdict("hold", reason)
    if not miscalibrated_heads:
        ratio_list = ", ".join(
            f"{head} {each['level']:.2f}" for head, each in metrics_by_head.items()
        )
        reason = f"the scores are right in order and level, predicted ÷ observed {ratio_list}"
        return LevelVerdict("hold", reason, metrics_by_head=metrics_by_head)
    new_calibrations, problem = _fit_calibrations(
        rows_since, [head for head, _ in miscalibrated_heads], calibration_by_head, metrics_by_head
    )
    problem = problem or _describe_order_loss(
        rows_since, calibration_by_head, new_calibrations, objective
    )
    if problem:
        return LevelVerdict(
            "retrain", f"a new calibration does not help: {problem}", {}, metrics_by_head
        )
    loss_notes = "; ".join(
        f"{head_note}; log loss {metrics_by_head[head]['log_loss']:.4f} to "
        f"{metrics_by_head[head]['log_loss_new']:.4f}, "
        f"calibration error {metrics_by_head[head]['error']:.4f} to "
        f"{metrics_by_head[head]['error_new']:.4f}"
        for head, head_note in miscalibrated_heads
    )
    reason = f"the level is off, the order is as before: {loss_notes}"
    return LevelVerdict("recalibrate", reason, new_calibrations, metrics_by_head)


def publish_recalibrated(
    registry: Registry, version: str, verdict: LevelVerdict, *, now: int, by: str
) -> str:
    """Add the same models with the new calibration, and return the new version.

    It is accepted, so that the rollout takes it through shadow and canary as a trained one.
    """
    with tempfile.TemporaryDirectory(prefix="tailorbird-bundle-") as temporary:
        folder = Path(temporary) / "bundle"
        shutil.copytree(registry.resolve(version), folder)
        manifest = read_sealed(folder).manifest
        calibration_tables: dict[str, Any] = msgspec.json.decode(
            (folder / CALIBRATION_FILE).read_bytes()
        )
        calibration_tables |= {
            name: msgspec.to_builtins(each) for name, each in verdict.new_calibrations.items()
        }
        (folder / CALIBRATION_FILE).write_bytes(
            msgspec.json.encode(calibration_tables, order="sorted")
        )
        heads = tuple(
            msgspec.structs.replace(head, calibration=verdict.new_calibrations[head.name].name)
            if head.name in verdict.new_calibrations
            else head
            for head in manifest.heads
        )
        metrics_by_head = {name: dict(each) for name, each in verdict.metrics_by_head.items()}
        about = {
            **manifest.metrics.get("about", {}),
            "recalibrated": {"of": version, "heads": metrics_by_head},
        }
        metrics = {**manifest.metrics, "accepted": True, "about": about}
        note = f"The models of {version}, calibrated anew: {verdict.reason}."
        card = f"{manifest.card.rstrip()}\n\n## Calibration\n\n{note}\n"
        (folder / CARD_FILE).write_text(card, encoding="utf-8")
        changed_fields = {"version": "", "created_at": now, "heads": heads, "metrics": metrics}
        seal(folder, msgspec.structs.replace(manifest, **changed_fields, card=card, files={}))
        return registry.add(folder, by=by, why=f"{version} recalibrated: {verdict.reason}")


def _fit_calibrations(
    rows: ScoredRows,
    heads: list[str],
    calibration_by_head: Mapping[str, Calibration],
    metrics_by_head: dict[str, dict[str, float]],
) -> tuple[dict[str, Calibration], str]:
    """Fit heads on the first part of the rows; return also why one does not help, or ""."""
    border = round(rows.data.request_count * FITTED_REQUESTS_SHARE)
    fitting_rows = rows.take(np.arange(border))
    judging_rows = rows.take(np.arange(border, rows.data.request_count))
    new_calibrations: dict[str, Calibration] = {}
    for head in heads:
        is_probability = head not in calibration_by_head or calibration_by_head[head].name in (
            "none",
            "beta",
            "temperature",
        )
        # The last part judges, so periods may share outcomes that came late.
        choice = choose_calibration(
            fitting_rows.raw_scores[head],
            fitting_rows.data.labels[head],
            assign_periods(fitting_rows.data.t[fitting_rows.data.request_index]),
            fitting_rows.data.weight,
            is_probability=is_probability,
        )
        new_calibrations[head] = choice.calibration
        label = judging_rows.data.labels[head] > 0
        raw_scores = judging_rows.raw_scores[head]
        old_probabilities = calibration_by_head.get(head, Identity()).apply(raw_scores)
        new_probabilities = new_calibrations[head].apply(raw_scores)
        old_losses, new_losses = (
            _sum_by_request(log_losses(probabilities, label), judging_rows.data)
            for probabilities in (old_probabilities, new_probabilities)
        )
        gain = judging_rows.bootstrap.difference(old_losses, new_losses)
        metrics_by_head[head] |= {
            "log_loss": float(np.sum(old_losses) / len(label)),
            "log_loss_new": float(np.sum(new_losses) / len(label)),
            "error": measure_calibration(old_probabilities, label).ece,
            "error_new": measure_calibration(new_probabilities, label).ece,
        }
        if not gain.low > 0:
            return new_calibrations, f"the log loss of {head} falls by {gain.signed_text}"
    return new_calibrations, ""


def _describe_order_loss(
    rows: ScoredRows,
    calibration_by_head: Mapping[str, Calibration],
    new_calibrations: Mapping[str, Calibration],
    objective: Mapping[str, float],
) -> str:
    """Return how far the order by the formula gets worse, "" within the gate's margin."""
    old_values, new_values = (
        objective_value(
            {
                head: calibrations.get(head, Identity()).apply(raw_score)
                for head, raw_score in rows.raw_scores.items()
            },
            objective,
            rows.data.row_count,
        )
        for calibrations in (calibration_by_head, {**calibration_by_head, **new_calibrations})
    )
    data = rows.data
    row_gains = rows.data.gain(objective)
    change = ndcg_gain(new_values, old_values, row_gains, data.offsets, data.person_codes)
    old_ndcg = float(np.nanmean(ndcg(rank_lists(old_values, row_gains, data.offsets))))
    if change.low >= -RELATIVE_MARGIN * old_ndcg:
        return ""
    return f"the order by the formula changes by {change.signed_text} in NDCG@10"


def _auc_interval(rows: ScoredRows, head: str) -> Interval:
    score = rows.raw_scores[head]
    label = rows.data.labels[head] > 0
    influence = auc_influence(score, label)
    return rows.bootstrap.auc(auc(score, label), influence, rows.data.request_index)


def _level_ratio(rows: ScoredRows, head: str, calibration: Calibration) -> Interval:
    """Return predicted ÷ observed."""
    predicted = _sum_by_request(calibration.apply(rows.raw_scores[head]), rows.data)
    return rows.bootstrap.ratio(predicted, _sum_by_request(rows.data.labels[head] > 0, rows.data))


def _sum_by_request(values: npt.NDArray, data: Dataset) -> Floats:
    return np.bincount(data.request_index, values, data.request_count).astype(np.float64)
