"""Output of an answer: reasons and attributes to the caller, the event and the record of its
features to the log.
"""

import time
from collections.abc import Iterable, Mapping, Sequence

import msgspec
import numpy as np

from tailorbird.candidates.query import RequestLists, table_group
from tailorbird.events import Event, ResponseDetails
from tailorbird.events.answer_record import ResponseRecord
from tailorbird.features import Rows
from tailorbird.features.request import CANDIDATES_KEY, pack_sequences
from tailorbird.ranking.baseline import Baseline
from tailorbird.ranking.policy.slate_distribution import Slate
from tailorbird.ranking.reasons import FOR_YOU, OTHER_REASON, Reason, explain_items
from tailorbird.ranking.tower import sketch_vector
from tailorbird.retrieval import Index, TextColumn
from tailorbird.retrieval.facets import Facet
from tailorbird.serving.messages import FacetCounts, RecommendResponse, ShownItem
from tailorbird.serving.pipeline.deadlines import Dependency
from tailorbird.serving.pipeline.explain import Adjustment, explain_slate
from tailorbird.serving.pipeline.protocols import ResponseLog
from tailorbird.serving.pipeline.request import Candidates, Ranking, Request

FALLBACK = "fallback"  # the `model` of an answer that no model ordered
_encode_event = msgspec.json.Encoder().encode


def build_response(
    request: Request,
    ranking: Ranking,
    slate: Slate,
    adjustments: Sequence[Adjustment] = (),
    reasons: Sequence[Reason] | None = None,
) -> RecommendResponse:
    """Build the answer for the caller.

    `ranking` and, for `explain`, `adjustments` describe the shown items, in order. Without
    `reasons`, they are those of the request's policy.
    """
    index = request.index
    query = request.query
    shown_candidates = ranking.candidates
    feature_rows = ranking.feature_rows
    if reasons is None:
        reasons = reasons_for(
            request, shown_candidates, slate, is_ranked=ranking.scores is not None
        )
    explanations = None
    if query.explain and index is not None:
        bundle = request.bundle if ranking.scores is not None else None
        explanations = explain_slate(
            request.feature_access.features,
            bundle,
            index,
            index_rows=shown_candidates.rows,
            item_keys=shown_candidates.keys,
            feature_rows=feature_rows,
            scores=ranking.scores,
            objective=request.formula.weights,
            context=query.context,
            adjustments=adjustments,
            live_columns=request.live_columns,
        )
    items = []
    for position, item_id in enumerate(shown_candidates.ids):
        reason = reasons[position]
        row = int(shown_candidates.rows[position])
        items.append(
            ShownItem(
                item_id=item_id,
                position=position + 1,
                score=float(ranking.values[position]),
                reason=reason.text,
                reason_code=reason.code,
                reason_item=reason.item_id,
                source=shown_candidates.sources[position],
                propensity=float(slate.propensities[position]),
                attributes=read_attributes(index, row, query.attributes)
                if query.attributes and index is not None and row >= 0
                else None,
                explanation=explanations[position] if explanations is not None else None,
            )
        )
    return RecommendResponse(
        request_id=request.id,
        slot=request.requested_slot,
        items=items,
        arm=request.arm,
        experiment=request.assignment.experiment,
        model=FALLBACK
        if request.bundle is None or "model" in request.degraded
        else request.bundle.version,
        degraded=request.degraded,
        t=feature_rows.t if feature_rows is not None else request.now,
        commit=feature_rows.commit if feature_rows is not None else 0,
    )


def to_facet_counts(facets: Mapping[str, Facet]) -> dict[str, FacetCounts]:
    """Convert facets to their message."""
    return {
        name: FacetCounts(facet.counts, facet.missing, facet.low, facet.high)
        for name, facet in facets.items()
    }


def build_log_entry(
    request: Request, response: RecommendResponse, ranking: Ranking, slate: Slate
) -> tuple[bytes, ResponseRecord]:
    """Build the answer's event for the raw log, and the record of what it read.

    Without scores in the `ranking`, no model ordered it.
    """
    shown_candidates = ranking.candidates
    scores = ranking.scores
    feature_rows = ranking.feature_rows
    query = request.query
    slot = request.requested_slot
    experiment = request.assignment.logged_experiment
    arm = request.arm if experiment else ""  # a forced arm counts in no analysis
    propensities = slate.propensities.tolist()
    event = Event(
        event_id=request.id,
        type="answer",
        ts=response.t,
        user_id=query.user_id,
        anonymous_id=request.anonymous_id,
        session_id=query.session_id,
        items=list(shown_candidates.ids),
        request_id=request.id,
        context=query.context,
        answer=ResponseDetails(
            slot, arm, experiment, response.model, request.search_text, propensities
        ),
    )
    record = ResponseRecord(
        request_id=request.id,
        ts=response.t,
        p=feature_rows.log_position if feature_rows is not None else 0,
        commit=response.commit,
        schema_hash=request.feature_access.features.schema_hash,
        person=request.person,
        user_id=query.user_id,
        anonymous_id=request.anonymous_id,
        session_id=query.session_id,
        slot=slot,
        experiment=experiment or None,
        arm=arm or None,
        model=response.model,
        query=request.search_text,
        device=query.context.device,
        country=query.context.country,
        referrer=query.context.referrer,
        local_hour=request.read_request.local_hour,
        items=list(shown_candidates.ids),
        sources=list(shown_candidates.sources),
        propensities=propensities,
        scores=[item.score or 0.0 for item in response.items],
        numeric=feature_rows.numeric.ravel().tolist() if feature_rows is not None else [],
        categorical=feature_rows.categorical.ravel().tolist() if feature_rows is not None else [],
        sequences=_pack_sequences(request, feature_rows),
        degraded=request.degraded,
        positions=list(feature_rows.log_positions) if feature_rows is not None else [],
        formula=request.formula.text if scores is not None else None,
        formula_version=(request.formula.version or None) if scores is not None else None,
        assigned_version=request.assigned_version or None,
        failure=request.failure_reason or None,
        latency_us=round((time.perf_counter() - request.started_at) * 1e6),
        shadow=request.shadow_version or None,
        shadow_scores=request.shadow_scores,
        candidate_sources=list(request.contributed_counts),
        candidate_counts=list(request.contributed_counts.values()),
        candidate_lists=list(request.ranked_lists.list_by_source),
        candidate_digests=[
            ranked_list.digest for ranked_list in request.ranked_lists.list_by_source.values()
        ],
        candidate_positions=_list_positions(request.ranked_lists),
        live=request.live_columns.ravel().tolist()
        if request.live_columns is not None and scores is not None
        else [],
        values=scores.value.tolist() if scores is not None else [],
        joint_propensities=slate.joint_propensities.tolist(),
        teams=[
            request.assignment.interleaved[team].arm if team >= 0 else "" for team in slate.teams
        ],
        click_probabilities=scores.heads["click"].tolist()
        if scores is not None and "click" in scores.heads
        else [],
        shadow_us=request.shadow_us,
        champion_us=request.champion_us,
        user_vector=sketch_vector(request.user_query.user_vector)
        if request.user_query is not None
        else [],
    )
    return _encode_event(event), record


def _pack_sequences(request: Request, feature_rows: Rows | None) -> bytes:
    """Encode the sequences of the features, and the one that candidate sources read if it differs:
    an event of the person may arrive between the two reads.
    """
    if feature_rows is None:
        return b""
    sequences = {name: sequence.to_lists() for name, sequence in feature_rows.sequences.items()}
    if request.recent_events is not None:
        source_sequence = request.recent_events.to_lists()
        if source_sequence != next(iter(sequences.values()), None):
            sequences[CANDIDATES_KEY] = source_sequence
    return pack_sequences(sequences)


def _list_positions(ranked_lists: RequestLists) -> list[int]:
    """Return the log position that the tables of each list had reached; 0 for a list that reads
    none.
    """
    epochs = ranked_lists.tables.epochs
    return [
        epochs[group].position if (group := table_group(name)) in epochs else 0
        for name in ranked_lists.list_by_source
    ]


def reasons_for(
    request: Request, shown_candidates: Candidates, slate: Slate, *, is_ranked: bool
) -> list[Reason]:
    """Return the reason of each shown item; `is_ranked` is whether a model ordered them."""
    if request.index is None:
        return [OTHER_REASON] * len(shown_candidates)
    indexed_positions = np.flatnonzero(shown_candidates.rows >= 0)
    explored_positions = [
        indexed_position
        for indexed_position, shown_position in enumerate(indexed_positions.tolist(), 1)
        if shown_position + 1 in slate.explored_positions
    ]
    sources = [shown_candidates.sources[position] for position in indexed_positions.tolist()]
    recent_sequence = request.recent_events
    default_reason = FOR_YOU
    if not is_ranked or request.policy != "model":
        # A baseline orders by its own sources, so these are the reason, whatever source found an
        # item: popular items are not chosen for a person.
        recent_sequence = None
        default_reason = OTHER_REASON
        if request.search_text is None and request.judged_baseline:
            baseline_sources = [
                name or "given"
                for name in Baseline.parse(request.judged_baseline).leading_sources(
                    request.ranked_lists, shown_candidates.keys[indexed_positions]
                )
            ]
            sources = [
                source if source == "pinned" else baseline_source
                for source, baseline_source in zip(sources, baseline_sources, strict=True)
            ]
        elif request.search_text is None:
            popular_mask = (
                request.ranked_lists.popularity_percentiles(
                    shown_candidates.keys[indexed_positions]
                )
                > 0
            )  # zero where nothing is published
            baseline_sources = [
                "new_items" if request.policy == "recent" else "popular" if is_popular else "given"
                for is_popular in popular_mask.tolist()
            ]
            sources = [
                source if source == "pinned" else baseline_source
                for source, baseline_source in zip(sources, baseline_sources, strict=True)
            ]
            if request.policy == "random":
                explored_positions = list(range(1, indexed_positions.size + 1))
    indexed_reasons = explain_items(
        request.index,
        shown_candidates.rows[indexed_positions],
        sources,
        request.ranked_lists,
        recent_events=recent_sequence,
        query=request.search_text,
        explored_positions=explored_positions,
        default_reason=default_reason,
    )
    reason_by_position = dict(zip(indexed_positions.tolist(), indexed_reasons, strict=True))
    return [
        reason_by_position.get(position, default_reason)
        for position in range(len(shown_candidates))
    ]


def read_attributes(
    index: Index, row: int, names: Iterable[str]
) -> dict[str, str | float | bool | None]:
    """Return some attributes of an item."""
    attributes: dict[str, str | float | bool | None] = {}
    for name in names:
        column = index.attributes.get(name)
        if isinstance(column, TextColumn):
            attributes[name] = column.text(row) or None
        elif column is not None:
            value = float(column[row])
            attributes[name] = (
                None if value != value else bool(value) if name in index.boolean_names else value
            )
    return attributes


def log_response(
    response_log: ResponseLog | None,
    log_dependency: Dependency,
    request: Request,
    response: RecommendResponse,
    ranking: Ranking,
    slate: Slate,
) -> None:
    """Log an answer, and mark it degraded where the log does not take it."""
    if response_log is None:
        return
    if not log_dependency.allow():
        request.mark_degraded("log")
        return
    start = time.perf_counter()
    event, record = build_log_entry(request, response, ranking, slate)
    was_logged = response_log.record_response(event, record)
    log_dependency.record(time.perf_counter() - start)
    if not was_logged:
        request.mark_degraded("log")
