"""What of an answer goes where: reasons and attributes to the caller, the event and the record of its features to the log."""

from collections.abc import Iterable

import msgspec
import numpy as np

from tailorbird.events import Answer as AnswerOfEvent
from tailorbird.events import Event
from tailorbird.events.answer_record import AnswerRecord
from tailorbird.features import Rows
from tailorbird.ranking.policy import Choice
from tailorbird.ranking.reasons import reasons
from tailorbird.retrieval import Index, TextColumn
from tailorbird.serving.messages import Answer
from tailorbird.serving.request import Candidates, Request

_encode_event = msgspec.json.Encoder().encode
_encode_sequences = msgspec.msgpack.Encoder().encode


def logged(
    request: Request, answer: Answer, shown: Candidates, choice: Choice, rows: Rows | None, schema_hash: str
) -> tuple[bytes, AnswerRecord]:
    """The answer's event, as it goes into the raw log, and the record of what it read."""
    query, slot = request.query, request.slot
    experiment = slot.experiment.name if slot.experiment is not None and request.arm else ""
    propensities = choice.propensities.tolist()
    event = Event(
        event_id=request.id,
        type="answer",
        ts=answer.t,
        user_id=query.user_id,
        anonymous_id=request.anonymous_id,
        session_id=query.session_id,
        items=list(shown.ids),
        request_id=request.id,
        context=query.context,
        answer=AnswerOfEvent(slot.name, request.arm, experiment, answer.model, request.text, propensities),
    )
    record = AnswerRecord(
        request_id=request.id,
        ts=answer.t,
        p=rows.p if rows is not None else 0,
        commit=answer.commit,
        schema_hash=schema_hash,
        person=request.person,
        user_id=query.user_id,
        anonymous_id=request.anonymous_id,
        session_id=query.session_id,
        slot=slot.name,
        experiment=experiment or None,
        arm=request.arm or None,
        model=answer.model,
        query=request.text,
        device=query.context.device,
        country=query.context.country,
        local_hour=request.read.local_hour,
        items=list(shown.ids),
        sources=list(shown.sources),
        propensities=propensities,
        scores=[item.score or 0.0 for item in answer.items],
        numeric=rows.numeric.ravel().tolist() if rows is not None else [],
        categorical=rows.categorical.ravel().tolist() if rows is not None else [],
        sequences=_pack(rows) if rows is not None else b"",
        degraded=request.degraded,
    )
    return _encode_event(event), record


def reasons_for(request: Request, shown: Candidates, choice: Choice, *, ranked: bool) -> list[tuple[str, str]]:
    """Code and text for each shown item; `ranked` is whether a model ordered them."""
    if request.index is None:
        return [("for_you", "Picked for you")] * len(shown)
    known = np.flatnonzero(shown.rows >= 0)
    explored = int(np.searchsorted(known, choice.explored - 1)) + 1 if choice.explored else 0
    sources = [shown.sources[place] for place in known.tolist()]
    personal = request.recent
    if not ranked or request.policy != "model":
        # A baseline is not personal, and must not say so: its reason is its own order, wherever an item came from.
        personal = None
        if request.text is None:
            sources = ["fresh" if request.policy == "recent" else "popular"] * len(sources)
    told = reasons(request.index, shown.rows[known], sources, recent=personal, query=request.text, explored=explored)
    by_place = {place: (reason.code, reason.text) for place, reason in zip(known.tolist(), told, strict=True)}
    return [by_place.get(place, ("for_you", "Picked for you")) for place in range(len(shown))]


def attributes_of(index: Index, row: int, names: Iterable[str]) -> dict[str, str | float | None]:
    told: dict[str, str | float | None] = {}
    for name in names:
        column = index.attributes.get(name)
        if isinstance(column, TextColumn):
            told[name] = column.text(row) or None
        elif column is not None:
            value = float(column[row])
            told[name] = None if value != value else value
    return told


def _pack(rows: Rows) -> bytes:
    """The sequences as the log keeps them: name → [items, types, times, bits of further values …]."""
    return _encode_sequences({name: each.lists() for name, each in rows.sequences.items()})
