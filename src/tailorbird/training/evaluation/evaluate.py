"""Evaluation of models, registry versions and all baselines on the same requests, as served."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tailorbird.candidates.merge import bound_limits
from tailorbird.candidates.query import CandidateColumns
from tailorbird.errors import UsageError
from tailorbird.events import Clock
from tailorbird.features import FeatureSet
from tailorbird.features.offline.backfill import History
from tailorbird.lake import Lake
from tailorbird.ranking.baseline import default_baselines
from tailorbird.ranking.bundle import Bundle
from tailorbird.ranking.encode.live import LiveColumns
from tailorbird.ranking.slot import Slot
from tailorbird.registry import Registry
from tailorbird.storage_paths import StoragePath
from tailorbird.training.dataset.clicks import DrawnRequests, describe_sources, draw_candidates
from tailorbird.training.dataset.dataset import Dataset
from tailorbird.training.dataset.indexes import IndexSeries, build_series
from tailorbird.training.dataset.matrix import FeatureChunk, encode_rows, iterate_features_from
from tailorbird.training.dataset.replay import Replay
from tailorbird.training.dataset.rows import TrainingData, load_training_data
from tailorbird.training.dataset.sampling import thin_evenly
from tailorbird.training.dataset.slates import Slates
from tailorbird.training.dataset.split import split_at, split_by_time
from tailorbird.training.evaluation.figures import Evaluation
from tailorbird.training.evaluation.judge import Evaluator, interaction_shares
from tailorbird.training.settings import Progress, TrainSettings

Floats = npt.NDArray[np.float64]
BaselineValues = Mapping[str, Floats]
# Returns the probability of each row by head, and its value.
Scorer = Callable[[FeatureChunk], tuple[Mapping[str, Floats], Floats]]

CHUNK_ROWS = 1_000_000
CHUNK_REQUESTS = 4_000  # requests whose candidates are looked up at once


def evaluate_scorers(
    training_data: TrainingData,
    features: FeatureSet,
    test_data: Dataset,
    replay: Replay,
    source_limits: Mapping[str, int],
    scorers: Mapping[str, Scorer],
    objective: Mapping[str, float],
    *,
    as_of: int,
    seed: int = 0,
    progress: Progress = lambda stage, requests_done, total: None,
) -> Evaluation:
    """Evaluate scorers and the baselines of a replay on a test part.

    The first scorer is the one that others are compared with.

    Args:
        replay: replay of the slot, with the live columns that any scorer reads.
        source_limits: sources of the replay, for reports.
        as_of: start of the test part, at which popularity, novelty and the long tail are taken.
    """
    model_name = next(iter(scorers))
    evaluator = Evaluator(
        training_data.history,
        interaction_shares(training_data.history, as_of),
        objective,
        seed=seed,
    )
    history = History(features, training_data.events)
    report_progress = partial(progress, "judge")
    positive_count = retrieved_positive_count = candidate_count = 0
    for test_chunk, baseline_values in _test_chunks(
        training_data, test_data, replay, report_progress
    ):
        requests_done = rows_done = 0
        for chunk in iterate_features_from(history, test_chunk.data, rows_max=CHUNK_ROWS):
            scores: dict[str, Floats] = {}
            probabilities: Mapping[str, Floats] = {}
            for name, scorer in scorers.items():
                predictions, scores[name] = scorer(chunk)
                probabilities = predictions if name == model_name else probabilities
            request_count = chunk.data.request_count
            row_range = slice(rows_done, rows_done + chunk.data.row_count)
            scores |= {name: column[row_range] for name, column in baseline_values.items()}
            evaluator.add(
                chunk.data,
                scores,
                probabilities,
                {
                    name: _slice_slates(slate, requests_done, request_count)
                    for name, slate in test_chunk.slates.items()
                },
            )
            requests_done = requests_done + request_count
            rows_done = rows_done + chunk.data.row_count
        positive_count = positive_count + test_chunk.positive_count
        retrieved_positive_count = retrieved_positive_count + test_chunk.retrieved_positive_count
        candidate_count += int(
            test_chunk.data.provenance.get("candidates", test_chunk.data.row_count)
        )
    summary: dict[str, Any] = {"source": training_data.source_note}
    if training_data.sampling_scheme is not None:
        summary |= {
            "candidate_recall": retrieved_positive_count / max(positive_count, 1),
            "candidates_mean": candidate_count / max(test_data.request_count, 1),
        }
        summary["candidates"] = describe_sources(source_limits, summary)
    return replace(evaluator.build_evaluation(model_name), data_summary=summary)


def _test_chunks(
    training_data: TrainingData,
    test_data: Dataset,
    replay: Replay,
    report_progress: Callable[[int, int], None],
) -> Iterator[tuple[DrawnRequests, BaselineValues]]:
    """Yield the test part with candidates and live columns, in chunks that fit into memory.

    Logged responses come with the values of baselines.
    """
    if training_data.sampling_scheme is not None:
        for test_chunk in draw_candidates(
            test_data, replay, training_data.sampling_scheme, progress=report_progress
        ):
            yield replace(test_chunk, data=training_data.add_extra_labels(test_chunk.data)), {}
        return
    live_values, baseline_values = replay.read_live_columns(test_data, progress=report_progress)
    test_rows = replace(test_data, live_values=live_values)
    for start in range(0, test_rows.request_count, CHUNK_REQUESTS):
        request_indexes = np.arange(start, min(start + CHUNK_REQUESTS, test_rows.request_count))
        row_range = slice(
            test_rows.offsets[request_indexes[0]], test_rows.offsets[request_indexes[-1] + 1]
        )
        yield (
            DrawnRequests(test_rows.take(request_indexes), {}, 0, 0),
            {name: column[row_range] for name, column in baseline_values.items()},
        )


def _slice_slates(slates: Slates, first_request: int, request_count: int) -> Slates:
    offsets = slates.offsets[first_request : first_request + request_count + 1]
    return Slates(offsets - offsets[0], slates.item_codes[offsets[0] : offsets[-1]])


def build_version_scorer(
    bundle: Bundle,
    index_series: IndexSeries,
    objective: Mapping[str, float],
    live_columns: LiveColumns,
    features: FeatureSet | None = None,
    events: pa.Table | None = None,
) -> Scorer:
    """Return a scorer for a bundle, over the indexes of the time instead of its own.

    The bundle's own index may know what came later. Its vectors are used where the series has none.

    Args:
        live_columns: live columns of the chunks, which include the bundle's own.
        features: feature set of the chunks, where its schema may differ from the bundle's; the
            bundle then gets features of its own, computed from the same `events`.
    """
    own_features = (
        bundle.features
        if features is not None and bundle.schema_hash != features.schema_hash
        else None
    )
    own_history = (
        History(own_features, events) if own_features is not None and events is not None else None
    )

    def score(chunk: FeatureChunk) -> tuple[Mapping[str, Floats], Floats]:
        if own_history is not None:
            chunk = next(
                iterate_features_from(
                    own_history, chunk.data, rows_max=max(1, chunk.data.row_count)
                )
            )
        scores = bundle.score_matrix(
            encode_rows(
                chunk,
                bundle.encoder,
                index_series,
                fallback_space=bundle.space,
                live_columns=live_columns,
            ),
            objective=objective,
        )
        return scores.heads, scores.value

    return score


def explain_head_mismatch(bundle: Bundle, slot: Slot) -> str:
    """Return why a bundle cannot order items for a slot, "" if it predicts any of its heads."""
    if set(bundle.heads) & set(slot.objective):
        return ""
    return (
        f"predicts {', '.join(bundle.heads) or 'nothing'}, while slot {slot.name} asks for "
        f"{', '.join(slot.objective)}"
    )


def evaluate(
    features: FeatureSet,
    slot: Slot,
    versions: tuple[str, ...] = (),
    *,
    lake: StoragePath,
    registry: Path,
    clock: Clock,
    settings: TrainSettings | None = None,
    progress: Progress = lambda stage, done, total: None,
) -> Evaluation:
    """Evaluate registry versions, by default the champion, and all baselines on the newest data.

    Raises:
        UsageError: a version does not exist or predicts none of the slot's heads, or there is no
            champion.
        BundleError: the versions read different features.
    """
    settings = (settings or TrainSettings()).with_quick_applied()
    now = clock.now()
    paths = _version_paths(Registry(registry, clock=clock), versions)
    # Versions are evaluated with their own features, whatever the project declares by now.
    features = Bundle.load(paths[0], schema_hash=None).features or features
    bundles = [Bundle.load(path, schema_hash=features.schema_hash) for path in paths]
    for bundle in bundles:
        if reason := explain_head_mismatch(bundle, slot):
            raise UsageError(
                f"{bundle.version} {reason}",
                where=f"slot {slot.name}",
                fix="judge it on another slot: --slot NAME",
            )
    progress("read", 0, 1)
    training_data = load_training_data(Lake(lake), features, slot, settings.row_settings(now))
    progress("read", 1, 1)
    data = training_data.dataset
    label_window_us = training_data.label_window_us
    test_from = settings.test_from
    split = (
        split_at(data.t, settings.validation_from or test_from, test_from, gap=label_window_us)
        if test_from
        else split_by_time(data.t, gap=label_window_us)
    )
    index_series = build_series(
        training_data.events,
        training_data.item_profiles,
        [split.validation_until],
        progress=partial(progress, "index"),
    )
    live_columns = merge_live_columns([bundle.encoder.live_columns for bundle in bundles])
    scorers = {
        bundle.version: build_version_scorer(bundle, index_series, slot.objective, live_columns)
        for bundle in bundles
    }
    test_data = data.take(thin_evenly(split.test, settings.test_requests, settings.seed))
    source_limits = bound_limits(slot.sources)
    baselines = default_baselines(slot.sources)
    replay = Replay(
        training_data.events_with_profiles,
        features,
        slot,
        training_data.item_vocabulary,
        live_columns,
        baselines=baselines,
        source_limits=source_limits,
    )
    as_of = split.validation_until
    return evaluate_scorers(
        training_data=training_data,
        features=features,
        test_data=test_data,
        replay=replay,
        source_limits=source_limits,
        scorers=scorers,
        objective=slot.objective,
        as_of=as_of,
        seed=settings.seed,
        progress=progress,
    )


def merge_live_columns(live_column_sets: Sequence[LiveColumns]) -> LiveColumns:
    """Return the live columns that any of several models reads."""
    sources = dict.fromkeys(name for live in live_column_sets for name in live.candidates.sources)
    similarity_by_name = {
        similarity.name: similarity for live in live_column_sets for similarity in live.similarities
    }
    return LiveColumns(CandidateColumns(tuple(sources)), tuple(similarity_by_name.values()))


def _version_paths(registry: Registry, versions: tuple[str, ...]) -> list[Path]:
    if versions:
        paths = {info.version: info.path for info in registry.versions()}
        if unknown := [version for version in versions if version not in paths]:
            raise UsageError(f"there is no version {unknown[0]!r}", fix="tailorbird models list")
        return [paths[version] for version in versions]
    champion = registry.champion_folder()
    if champion is None:
        raise UsageError("there is no champion to judge", fix="tailorbird train, or name a version")
    return [champion]
