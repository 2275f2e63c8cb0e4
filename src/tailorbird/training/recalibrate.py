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
from tailorbird.ranking.bundle import CALIBRATION, CARD, Bundle
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
from tailorbird.training.evaluation.bootstrap import Bootstrap, Interval, code_people
from tailorbird.training.evaluation.calibration import measure_calibration
from tailorbird.training.evaluation.gate import MARGIN
from tailorbird.training.evaluation.metrics import auc, auc_influence, log_losses, ndcg, rank_lists
from tailorbird.training.fit.architecture import ndcg_gain
from tailorbird.training.fit.calibrate import assign_periods, choose_calibration
from tailorbird.training.sketches import objective_value

Floats = npt.NDArray[np.float64]
Action = Literal["recalibrate", "retrain", "hold"]

REQUESTS = 6_000  # before the change, and since, at most; drawn evenly over the time
POSITIVES_MIN = 100  # of a head before the change, and since
LEVEL_TOLERANCE = 0.1  # a level within this of the truth is right
AUC_FALL_MIN = 0.02  # in AUC; a smaller fall is no reason to retrain
FIT_SHARE = 0.6  # of the newest requests; the others judge


@dataclass(frozen=True)
class ScoredRows:
    """Rows with the champion's outputs before calibration, head → shape (rows,)."""

    data: Dataset
    raw_scores: Mapping[str, Floats]

    def take(self, requests: npt.NDArray[np.int64]) -> "ScoredRows":
        """Return some requests, in ascending order."""
        rows = np.isin(self.data.request, requests)
        part = {head: column[rows] for head, column in self.raw_scores.items()}
        return ScoredRows(self.data.take(requests), part)

    @property
    def bootstrap(self) -> Bootstrap:
        return Bootstrap(code_people(self.data.person), seed=0)


@dataclass(frozen=True)
class LevelVerdict:
    """A decision about a champion, with its reason.

    Attributes:
        calibration: of the heads whose level is off, fitted anew.
        figures: head → AUC before and since, predicted ÷ observed, log losses of both calibrations.
    """

    action: Action
    reason: str
    calibration: Mapping[str, Calibration] = field(default_factory=dict)
    figures: Mapping[str, Mapping[str, float]] = field(default_factory=dict)


def examine_champion(
    bundle: Bundle,
    features: FeatureSet,
    slot: Slot,
    lake: Lake,
    *,
    reference_from: int,
    since: int,
    now: int,
) -> LevelVerdict:
    """Judge a champion on the answers of a slot before a change and since.

    Raises:
        NotReadyError: no answer has an outcome that is known by now.
    """
    features = bundle.features or features
    rows = RowSettings(reference_from, now, HOUR, "answers", heads=bundle.heads)
    training_data = load_training_data(lake, features, slot, rows)
    data = training_data.data
    parts = [np.flatnonzero(data.t < since), np.flatnonzero(data.t >= since)]
    if not all(len(part) for part in parts):
        return LevelVerdict(
            "hold", "no answer before the change, or since, has a known outcome yet"
        )
    series = build_series(
        training_data.events, training_data.items, [int(data.t[part[0]]) for part in parts]
    )
    live_columns = bundle.encoder.live
    replay = Replay(
        training_data.events_with_profiles, features, slot, training_data.item_codes, live_columns
    )
    history = History(features, training_data.events)

    def score(requests: npt.NDArray[np.int64]) -> ScoredRows:
        shown = data.take(thin_evenly(requests, REQUESTS, seed=0))
        shown = replace(shown, live=replay.read_live_columns(shown)[0])
        raw = [
            bundle.raw_scores(
                encode_rows(
                    chunk,
                    bundle.encoder,
                    series,
                    fallback_space=bundle.space,
                    live_columns=live_columns,
                )
            )
            for chunk in iterate_features_from(history, shown)
        ]
        heads = {head: np.concatenate([each[head] for each in raw]) for head in bundle.heads}
        return ScoredRows(shown, heads)

    return judge_levels(score(parts[0]), score(parts[1]), bundle.calibration, slot.objective)


def judge_levels(
    rows_before: ScoredRows,
    rows_since: ScoredRows,
    calibration: Mapping[str, Calibration],
    objective: Mapping[str, float],
) -> LevelVerdict:
    """Decide between a new calibration, a new model and neither.

    Args:
        calibration: of the champion.
        objective: the slot's formula.
    """
    figures: dict[str, dict[str, float]] = {}
    worse_heads: list[str] = []
    miscalibrated_heads: list[tuple[str, str]] = []
    for head in item_probability_heads(rows_since.raw_scores):
        labels = [part.data.labels.get(head) for part in (rows_before, rows_since)]
        if any(label is None or np.sum(label > 0) < POSITIVES_MIN for label in labels):
            continue
        auc_before, auc_since = _auc(rows_before, head), _auc(rows_since, head)
        ratio = _level(rows_since, head, calibration.get(head, Identity()))
        figures[head] = {
            "auc_before": auc_before.value,
            "auc": auc_since.value,
            "level": ratio.value,
        }
        error = np.hypot(auc_before.high - auc_before.value, auc_since.value - auc_since.low)
        text = f"{head}: AUC {auc_before.value:.3f} before, {auc_since.value:.3f} since"
        fall = auc_before.value - auc_since.value
        if fall > AUC_FALL_MIN and fall > error:
            worse_heads.append(text)
        elif ratio.low > 1 + LEVEL_TOLERANCE or ratio.high < 1 - LEVEL_TOLERANCE:
            miscalibrated_heads.append((head, f"{text}; predicted ÷ observed {ratio}"))
    if worse_heads:
        reason = f"the order is worse, which no calibration mends; {'; '.join(worse_heads)}"
        return LevelVerdict("retrain", reason, figures=figures)
    if not figures:
        reason = f"no target has {POSITIVES_MIN} outcomes before the change and since"
        return LevelVerdict("hold", reason)
    if not miscalibrated_heads:
        ratio_list = ", ".join(f"{head} {each['level']:.2f}" for head, each in figures.items())
        reason = f"the scores are right in order and level, predicted ÷ observed {ratio_list}"
        return LevelVerdict("hold", reason, figures=figures)
    fitted, problem = _fit(
        rows_since, [head for head, _ in miscalibrated_heads], calibration, figures
    )
    problem = problem or _order_loss(rows_since, calibration, fitted, objective)
    if problem:
        return LevelVerdict("retrain", f"a new calibration does not help: {problem}", {}, figures)
    losses = "; ".join(
        f"{text}; log loss {figures[head]['log_loss']:.4f} to {figures[head]['log_loss_new']:.4f}, "
        f"calibration error {figures[head]['error']:.4f} to {figures[head]['error_new']:.4f}"
        for head, text in miscalibrated_heads
    )
    reason = f"the level is off, the order is as before: {losses}"
    return LevelVerdict("recalibrate", reason, fitted, figures)


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
        tables: dict[str, Any] = msgspec.json.decode((folder / CALIBRATION).read_bytes())
        tables |= {name: msgspec.to_builtins(each) for name, each in verdict.calibration.items()}
        (folder / CALIBRATION).write_bytes(msgspec.json.encode(tables, order="sorted"))
        heads = tuple(
            msgspec.structs.replace(head, calibration=verdict.calibration[head.name].name)
            if head.name in verdict.calibration
            else head
            for head in manifest.heads
        )
        figures = {name: dict(each) for name, each in verdict.figures.items()}
        about = {
            **manifest.metrics.get("about", {}),
            "recalibrated": {"of": version, "heads": figures},
        }
        metrics = {**manifest.metrics, "accepted": True, "about": about}
        note = f"The models of {version}, calibrated anew: {verdict.reason}."
        card = f"{manifest.card.rstrip()}\n\n## Calibration\n\n{note}\n"
        (folder / CARD).write_text(card, encoding="utf-8")
        changed = {"version": "", "created_at": now, "heads": heads, "metrics": metrics}
        seal(folder, msgspec.structs.replace(manifest, **changed, card=card, files={}))
        return registry.add(folder, by=by, why=f"{version} recalibrated: {verdict.reason}")


def _fit(
    rows: ScoredRows,
    heads: list[str],
    calibration: Mapping[str, Calibration],
    figures: dict[str, dict[str, float]],
) -> tuple[dict[str, Calibration], str]:
    """Fit heads on the first part of the rows, and return them with the first that does not help."""
    border = round(rows.data.requests * FIT_SHARE)
    first = rows.take(np.arange(border))
    last = rows.take(np.arange(border, rows.data.requests))
    fitted: dict[str, Calibration] = {}
    for head in heads:
        is_probability = head not in calibration or calibration[head].name in (
            "none",
            "beta",
            "temperature",
        )
        # The last part judges, so periods may share outcomes that came late.
        choice = choose_calibration(
            first.raw_scores[head],
            first.data.labels[head],
            assign_periods(first.data.t[first.data.request]),
            first.data.weight,
            is_probability=is_probability,
        )
        fitted[head] = choice.calibration
        label, raw = last.data.labels[head] > 0, last.raw_scores[head]
        probabilities = [
            each.apply(raw) for each in (calibration.get(head, Identity()), fitted[head])
        ]
        losses = [_by_request(log_losses(each, label), last.data) for each in probabilities]
        gain = last.bootstrap.difference(*losses)
        errors = [measure_calibration(each, label).error for each in probabilities]
        figures[head] |= {
            "log_loss": float(np.sum(losses[0]) / len(label)),
            "log_loss_new": float(np.sum(losses[1]) / len(label)),
            "error": errors[0],
            "error_new": errors[1],
        }
        if not gain.low > 0:
            return fitted, f"the log loss of {head} falls by {gain.signed}"
    return fitted, ""


def _order_loss(
    rows: ScoredRows,
    calibration: Mapping[str, Calibration],
    fitted: Mapping[str, Calibration],
    objective: Mapping[str, float],
) -> str:
    """Return how far the order by the formula gets worse, "" within the gate's margin."""
    values = []
    for tables in (calibration, {**calibration, **fitted}):
        heads = {
            head: tables.get(head, Identity()).apply(raw) for head, raw in rows.raw_scores.items()
        }
        values.append(objective_value(heads, objective, rows.data.rows))
    data, gain = rows.data, rows.data.gain(objective)
    change = ndcg_gain(values[1], values[0], gain, data.offsets, data.person)
    level = float(np.nanmean(ndcg(rank_lists(values[0], gain, data.offsets))))
    if change.low >= -MARGIN * level:
        return ""
    return f"the order by the formula changes by {change.signed} in NDCG@10"


def _auc(rows: ScoredRows, head: str) -> Interval:
    score, label = rows.raw_scores[head], rows.data.labels[head] > 0
    influence = auc_influence(score, label)
    return rows.bootstrap.auc(auc(score, label), influence, rows.data.request)


def _level(rows: ScoredRows, head: str, calibration: Calibration) -> Interval:
    """Return predicted ÷ observed."""
    predicted = _by_request(calibration.apply(rows.raw_scores[head]), rows.data)
    return rows.bootstrap.ratio(predicted, _by_request(rows.data.labels[head] > 0, rows.data))


def _by_request(values: npt.NDArray, data: Dataset) -> Floats:
    return np.bincount(data.request, values, data.requests).astype(np.float64)
