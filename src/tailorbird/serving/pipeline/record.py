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
from tailorbird.features.request import CANDIDATES_READ, pack_sequences
from tailorbird.ranking.baseline import Baseline
from tailorbird.ranking.bundle import Scores
from tailorbird.ranking.policy.slate_distribution import Slate
from tailorbird.ranking.reasons import FOR_YOU, OTHER_REASON, Reason, explain_items
from tailorbird.ranking.tower import sketch_vector
from tailorbird.retrieval import Index, TextColumn
from tailorbird.retrieval.facets import Facet
from tailorbird.serving.messages import FacetCounts, RecommendResponse, ShownItem
from tailorbird.serving.pipeline.deadlines import Dependency
from tailorbird.serving.pipeline.explain import Adjustment, explain_slate
from tailorbird.serving.pipeline.protocols import ResponseLog
from tailorbird.serving.pipeline.request import Candidates, Floats, Request

FALLBACK = "fallback"
_encode_event = msgspec.json.Encoder().encode


def build_response(
    request: Request,
    shown: Candidates,
    values: Floats,
    slate: Slate,
    rows: Rows | None,
    scores: Scores | None,
    adjustments: Sequence[Adjustment] = (),
    reasons: Sequence[Reason] | None = None,
) -> RecommendResponse:
    """Build the answer for the caller.

    `shown`, `values`, `rows`, `scores` and, for `explain`, `adjustments` describe the shown items,
    in order. Without `reasons`, they are those of the request's policy.
    """
    index, query = request.index, request.query
    if reasons is None:
        reasons = reasons_for(request, shown, slate, is_ranked=scores is not None)
    explanations = None
    if query.explain and index is not None:
        bundle = request.bundle if scores is not None else None
        explanations = explain_slate(
            request.access.features,
            bundle,
            index,
            shown.rows,
            shown.keys,
            rows,
            scores,
            request.formula.weights,
            query.context,
            adjustments,
            request.live,
        )
    items = []
    for position, item_id in enumerate(shown.ids):
        reason = reasons[position]
        row = int(shown.rows[position])
        items.append(
            ShownItem(
                item_id=item_id,
                position=position + 1,
                score=float(values[position]),
                reason=reason.text,
                reason_code=reason.code,
                reason_item=reason.item_id,
                source=shown.sources[position],
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
        t=rows.t if rows is not None else request.now,
        commit=rows.commit if rows is not None else 0,
    )


def to_facets(facets: Mapping[str, Facet]) -> dict[str, FacetCounts]:
    """Convert facets to their message."""
    return {
        name: FacetCounts(facet.counts, facet.missing, facet.low, facet.high)
        for name, facet in facets.items()
    }


def build_log_entry(
    request: Request,
    response: RecommendResponse,
    shown: Candidates,
    slate: Slate,
    rows: Rows | None,
    schema_hash: str,
    scores: Scores | None,
) -> tuple[bytes, ResponseRecord]:
    """Build the answer's event for the raw log, and the record of what it read.

    Without `scores`, no model ordered it.
    """
    query, slot = request.query, request.requested_slot
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
        items=list(shown.ids),
        request_id=request.id,
        context=query.context,
        answer=ResponseDetails(slot, arm, experiment, response.model, request.text, propensities),
    )
    record = ResponseRecord(
        request_id=request.id,
        ts=response.t,
        p=rows.p if rows is not None else 0,
        commit=response.commit,
        schema_hash=schema_hash,
        person=request.person,
        user_id=query.user_id,
        anonymous_id=request.anonymous_id,
        session_id=query.session_id,
        slot=slot,
        experiment=experiment or None,
        arm=arm or None,
        model=response.model,
        query=request.text,
        device=query.context.device,
        country=query.context.country,
        referrer=query.context.referrer,
        local_hour=request.read_request.local_hour,
        items=list(shown.ids),
        sources=list(shown.sources),
        propensities=propensities,
        scores=[item.score or 0.0 for item in response.items],
        numeric=rows.numeric.ravel().tolist() if rows is not None else [],
        categorical=rows.categorical.ravel().tolist() if rows is not None else [],
        sequences=_pack_sequences(request, rows),
        degraded=request.degraded,
        positions=list(rows.positions) if rows is not None else [],
        formula=request.formula.text if scores is not None else None,
        formula_version=(request.formula.version or None) if scores is not None else None,
        assigned_version=request.assigned_version or None,
        failure=request.failure or None,
        latency_us=round((time.perf_counter() - request.started_at) * 1e6),
        shadow=request.shadow or None,
        shadow_scores=request.shadow_scores,
        candidate_sources=list(request.contributed_counts),
        candidate_counts=list(request.contributed_counts.values()),
        candidate_lists=list(request.lists.by_source),
        candidate_digests=[listed.digest for listed in request.lists.by_source.values()],
        candidate_positions=_list_positions(request.lists),
        live=request.live.ravel().tolist()
        if request.live is not None and scores is not None
        else [],
        values=scores.value.tolist() if scores is not None else [],
        joint_propensities=slate.joint.tolist(),
        teams=[
            request.assignment.interleaved[team].arm if team >= 0 else "" for team in slate.teams
        ],
        click_probabilities=scores.heads["click"].tolist()
        if scores is not None and "click" in scores.heads
        else [],
        shadow_us=request.shadow_us,
        champion_us=request.champion_us,
        user_vector=sketch_vector(request.vector.user) if request.vector is not None else [],
    )
    return _encode_event(event), record


def _pack_sequences(request: Request, rows: Rows | None) -> bytes:
    """Encode the sequences of the features, and the one that candidate sources read if it differs:
    an event of the person may arrive between the two reads.
    """
    if rows is None:
        return b""
    sequences = {name: sequence.lists() for name, sequence in rows.sequences.items()}
    if request.recent is not None:
        read = request.recent.lists()
        if read != next(iter(sequences.values()), None):
            sequences[CANDIDATES_READ] = read
    return pack_sequences(sequences)


def _list_positions(lists: RequestLists) -> list[int]:
    """Return the log position that the tables of each list had reached; 0 for a list that reads
    none.
    """
    epochs = lists.tables.epochs
    return [
        epochs[group].position if (group := table_group(name)) in epochs else 0
        for name in lists.by_source
    ]


def reasons_for(
    request: Request, shown: Candidates, slate: Slate, *, is_ranked: bool
) -> list[Reason]:
    """Return the reason of each shown item; `is_ranked` is whether a model ordered them."""
    if request.index is None:
        return [OTHER_REASON] * len(shown)
    indexed_positions = np.flatnonzero(shown.rows >= 0)
    explored = [
        position
        for position, at in enumerate(indexed_positions.tolist(), 1)
        if at + 1 in slate.explored
    ]
    sources = [shown.sources[position] for position in indexed_positions.tolist()]
    recent_sequence, default_reason = request.recent, FOR_YOU
    if not is_ranked or request.policy != "model":
        # A baseline orders by its own sources, so these are the reason, whatever source found an
        # item: popular items are not chosen for a person.
        recent_sequence, default_reason = None, OTHER_REASON
        if request.text is None and request.judged_baseline:
            own_sources = [
                name or "given"
                for name in Baseline.parse(request.judged_baseline).leading_sources(
                    request.lists, shown.keys[indexed_positions]
                )
            ]
            sources = [
                source if source == "pinned" else own_source
                for source, own_source in zip(sources, own_sources, strict=True)
            ]
        elif request.text is None:
            popular = (
                request.lists.popularity(shown.keys[indexed_positions]) > 0
            )  # zero where nothing is published
            own_sources = [
                "new_items" if request.policy == "recent" else "popular" if is_popular else "given"
                for is_popular in popular.tolist()
            ]
            sources = [
                source if source == "pinned" else own_source
                for source, own_source in zip(sources, own_sources, strict=True)
            ]
            if request.policy == "random":
                explored = list(range(1, indexed_positions.size + 1))
    options = {
        "recent": recent_sequence,
        "query": request.text,
        "explored": explored,
        "otherwise": default_reason,
    }
    indexed_reasons = explain_items(
        request.index, shown.rows[indexed_positions], sources, request.lists, **options
    )
    by_position = dict(zip(indexed_positions.tolist(), indexed_reasons, strict=True))
    return [by_position.get(position, default_reason) for position in range(len(shown))]


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
                None if value != value else bool(value) if name in index.truths else value
            )
    return attributes


def log_response(
    response_log: ResponseLog | None,
    dependency: Dependency,
    request: Request,
    response: RecommendResponse,
    shown: Candidates,
    slate: Slate,
    rows: Rows | None,
    scores: Scores | None,
) -> None:
    """Log an answer, and mark it degraded where the log does not take it."""
    if response_log is None:
        return
    if not dependency.allow():
        request.mark_degraded("log")
        return
    start = time.perf_counter()
    event, record = build_log_entry(
        request, response, shown, slate, rows, request.access.features.schema_hash, scores
    )
    was_logged = response_log.record_response(event, record)
    dependency.record(time.perf_counter() - start)
    if not was_logged:
        request.mark_degraded("log")
