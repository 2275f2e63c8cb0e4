"""Gorse's REST API under /api, so that its clients work unchanged: feedback, users and items in,
recommendations out.

    POST, PUT /api/feedback                    events, as `tailorbird import gorse` reads them;
                                               counted once, however often they are sent
    POST /api/user, /api/users, /api/item(s)   profiles, valid from now on
    GET  /api/recommend/{user}[/{category}]    an answer of the slot `[serve] gorse_slot`;
                                               `write-back-type` records it as an impression;
                                               `X-API-Version: 2` returns scores
    POST /api/session/recommend                items related to those of a session
    GET  /api/item/{id}/neighbors              similar items
    GET  /api/popular, /api/latest [/{category}], /api/non-personalized/{name}
    GET  /api/item/{id}, /api/health/live, /api/health/ready

Keys come in `X-API-Key` or as a bearer token. Give the key of a Gorse client both scopes, read and
write. Gorse's clients know no `request_id`, so this process remembers the newest answers of each
person and joins feedback on an item to the answer that showed it. Deletions, partial updates, and
cursors over users, items and feedback are not supported.

Source: Gorse's documentation, "RESTful API", and its `server/rest.go`.
"""

import asyncio
import dataclasses
import logging
import threading
import uuid
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from functools import partial
from hashlib import sha256
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from tailorbird.errors import TailorbirdError
from tailorbird.events import Event
from tailorbird.events.adapters import gorse
from tailorbird.events.adapters.batch import encode_event
from tailorbird.events.adapters.fields import as_record
from tailorbird.events.adapters.record import Record, record_to_lines
from tailorbird.events.tables.files import count_records, split_records
from tailorbird.ranking.slot import Slot
from tailorbird.serving.auth.keyfile import OPEN, READ, WRITE
from tailorbird.serving.http.app import route
from tailorbird.serving.http.handling import (
    AnswerPipeline,
    Service,
    admission,
    as_json,
    fault,
    read_request_body,
    require_additional_scope,
    run_in_thread,
)
from tailorbird.serving.messages import SIZE_MAX, QueryError, RecommendQuery, Shown, decode

SIZE = 10  # Gorse's own default
PEOPLE_MAX = 20_000
ANSWERS_MAX = 3
REFUSALS_LISTED_MAX = 10
_HIDDEN_RULE = "not item.is_hidden"
SESSION_MAX = 10  # newest items of a session that count
_LISTS = {"popular": "popular", "latest": "new_items"}
_RESERVED_ATTRIBUTES = ("categories", "category", "comment", "is_hidden", "timestamp")

log = logging.getLogger(__name__)

Convert = Callable[[Record, bytes], Event]


class _InSession(msgspec.Struct):
    ItemId: str


_session_of = msgspec.json.Decoder(list[_InSession])


class RecentAnswers:
    """The newest answers of each person, as far as this process gave them. Thread-safe."""

    def __init__(self, people_max: int = PEOPLE_MAX) -> None:
        self._people: OrderedDict[str, deque[tuple[str, frozenset[str]]]] = OrderedDict()
        self._people_max = people_max
        self._lock = threading.Lock()

    def record(self, user: str, request_id: str, items: list[str]) -> None:
        """Record the items that were shown to a person."""
        with self._lock:
            answers = self._people.setdefault(user, deque(maxlen=ANSWERS_MAX))
            answers.append((request_id, frozenset(items)))
            self._people.move_to_end(user)
            while len(self._people) > self._people_max:
                self._people.popitem(last=False)

    def find_request_id(self, user: str, item: str) -> str | None:
        """Return the newest answer that showed this item to this person."""
        with self._lock:
            answers = self._people.get(user, ())
            return next(
                (request_id for request_id, items in reversed(answers) if item in items), None
            )


def with_hidden_rule(slots: Mapping[str, Slot], name: str) -> dict[str, Slot]:
    """Return the slots, with a rule against `IsHidden` items on that of Gorse's clients."""
    return {
        **slots,
        name: dataclasses.replace(slots[name], rules=(*slots[name].rules, _HIDDEN_RULE)),
    }


def gorse_routes(service: Service, slot: str) -> list[Route]:
    """Return Gorse's routes, to be mounted beside those of the API; answers are those of `slot`."""
    recent_answers = RecentAnswers()
    recommended = partial(_recommend, slot=slot, recent_answers=recent_answers)
    session, neighbors = partial(_session, slot=slot), partial(_neighbors, slot=slot)
    feedback, user, item = partial(_feedback, recent_answers=recent_answers), _user, _item
    routes = [
        *(
            ("/api/feedback", method, partial(_insert, convert=feedback), WRITE)
            for method in ("POST", "PUT")
        ),
        *((f"/api/user{end}", "POST", partial(_insert, convert=user), WRITE) for end in ("", "s")),
        *((f"/api/item{end}", "POST", partial(_insert, convert=item), WRITE) for end in ("", "s")),
        *(
            (f"/api/recommend/{{user}}{end}", "GET", recommended, READ)
            for end in ("", "/", "/{category}")
        ),
        ("/api/session/recommend", "POST", session, READ),
        *((f"/api/item/{{id}}/neighbors{end}", "GET", neighbors, READ) for end in ("", "/")),
        *(
            (f"/api/{name}{end}", "GET", partial(_list, name=name, slot=slot), READ)
            for name in _LISTS
            for end in ("", "/{category}")
        ),
        ("/api/non-personalized/{name}", "GET", partial(_non_personalized, slot=slot), READ),
        ("/api/item/{id}", "GET", _get_item, READ),
        *((f"/api/health/{name}", "GET", _health, OPEN) for name in ("live", "ready")),
    ]
    return [
        route(path, method, handler, scope, service, key_header="x-api-key")
        for path, method, handler, scope in routes
    ]


# Requests that write


async def _insert(request: Request, service: Service, *, convert: Convert) -> Response:
    body = await read_request_body(request, service)
    admit, source = admission(request, service), request.state.caller.source
    lines = await asyncio.to_thread(_lines, body, convert, admit.charge_rows)
    decisions = []
    if lines:
        decisions = await service.collector.submit_async(
            b"\n".join(lines), "ndjson", source=source, format_=gorse.FORMAT, admit=admit
        )
    refused = [decision for decision in decisions if not decision.accepted]
    if refused and len(refused) == len(decisions):
        return fault(
            400,
            refused[0].code,
            refused[0].message,
            path=refused[0].path,
            fix="it is kept: tailorbird lake quarantine",
        )
    refusals = [
        {"Code": refusal.code, "Path": refusal.path, "Message": refusal.message}
        for refusal in refused[:REFUSALS_LISTED_MAX]
    ]
    return as_json(
        {
            "RowAffected": len(decisions) - len(refused),
            **({"RowRefused": len(refused), "Refused": refusals} if refused else {}),
        }
    )


def _lines(body: bytes, convert: Convert, charge_rows: Callable[[int], None]) -> list[bytes]:
    charge_rows(count_records(body))
    lines: list[bytes] = []
    for raw in split_records(body):
        record_id = f"gorse:{sha256(raw).hexdigest()[:32]}"
        lines += record_to_lines(
            gorse.FORMAT,
            raw,
            record_id,
            lambda record, _, raw=raw: [convert(as_record(record), raw)],
            {},
        )
    return lines


def _feedback(fields: Record, raw: bytes, *, recent_answers: RecentAnswers) -> Event:
    event = gorse.feedback(fields)
    return msgspec.structs.replace(
        event, request_id=recent_answers.find_request_id(event.user_id or "", event.item_id or "")
    )


def _user(fields: Record, raw: bytes) -> Event:
    return msgspec.structs.replace(gorse.user(fields, _new_id()), timeless=False)


def _item(fields: Record, raw: bytes) -> Event:
    """Convert an item to a profile that is valid from now on; its creation time becomes an
    attribute.
    """
    event = gorse.item(fields, _new_id())
    created_at = {"timestamp": _to_rfc3339(event.ts)} if isinstance(event.ts, int) else {}
    return msgspec.structs.replace(
        event,
        ts=None,
        timeless=False,
        properties={**(event.properties or {}), **created_at} or None,
    )


def _to_rfc3339(micros: int) -> str:
    """Format a time as RFC 3339, the only format that clients in Go read."""
    return (
        (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=micros))
        .isoformat()
        .replace("+00:00", "Z")
    )


def _new_id() -> str:
    """Return a unique event id, because a profile may change back to an earlier one."""
    return f"gorse:{uuid.uuid4().hex}"


# Requests that read


async def _recommend(
    request: Request, service: Service, *, slot: str, recent_answers: RecentAnswers
) -> Response:
    count, offset = _number(request, "n", SIZE), _number(request, "offset", 0)
    if count == 0 or offset >= SIZE_MAX:
        return as_json([])
    write_back = request.query_params.get("write-back-type")
    if write_back:
        require_additional_scope(request, service, WRITE)  # checked first, because this is a write
    user = request.path_params["user"]
    category = _category(request)
    query = RecommendQuery(
        slot=slot,
        user_id=user,
        size=min(count + offset, SIZE_MAX),
        filters={"category": category} if category else {},
    )
    answer = await run_in_thread(service, service.pipeline.answer, query)
    items = answer.items[offset : offset + count]
    shown = [item.item_id for item in items]
    recent_answers.record(user, answer.request_id, shown)
    response = _scored(items) if request.headers.get("x-api-version") == "2" else as_json(shown)
    if shown and write_back:
        impression = Event(
            f"{answer.request_id}#impression",
            "impression",
            user_id=user,
            items=shown,
            request_id=answer.request_id,
        )
        if refused := await _write_back(request, service, impression):
            response.headers["x-write-back"] = refused
    return response


async def _write_back(request: Request, service: Service, impression: Event) -> str:
    """Record an impression within the limits of the key, and return the code of a refusal, or "".

    The answer is given in either case.
    """
    try:
        admit, source = admission(request, service), request.state.caller.source
        (decision,) = await service.collector.submit_async(
            encode_event(impression), source=source, admit=admit
        )
    except TailorbirdError as error:
        log.warning("what was shown could not be noted: %s: %s", error.code, error.message)
        return error.code
    return "" if decision.accepted else decision.code


async def _session(request: Request, service: Service, *, slot: str) -> Response:
    """Recommend for the items of an anonymous session, by the sum of their similar items.

    The items of the session themselves are left out.
    """
    count, offset = _number(request, "n", SIZE), _number(request, "offset", 0)
    body = await read_request_body(request, service)
    items = [feedback.ItemId for feedback in decode(body, _session_of)][-SESSION_MAX:]
    related = await run_in_thread(
        service, _sum_similar, service.pipeline, items, min(count + offset, SIZE_MAX), slot
    )
    return as_json(related[offset : offset + count])


def _sum_similar(
    pipeline: AnswerPipeline, items: list[str], size: int, slot: str
) -> list[dict[str, Any]]:
    scores: dict[str, float] = {}
    for item in dict.fromkeys(items):
        neighbors = pipeline.similar(item, SIZE_MAX, slot)
        for shown in neighbors.items if neighbors is not None else ():
            if shown.item_id not in items:
                scores[shown.item_id] = scores.get(shown.item_id, 0.0) + (shown.score or 0.0)
    ranked = sorted(
        scores.items(), key=lambda entry: -entry[1]
    )  # fillers have score 0 and keep their order
    return [{"Id": item, "Score": score} for item, score in ranked[:size]]


async def _neighbors(request: Request, service: Service, *, slot: str) -> Response:
    count, offset = _number(request, "n", SIZE), _number(request, "offset", 0)
    similar_items = await run_in_thread(
        service,
        service.pipeline.similar,
        request.path_params["id"],
        min(count + offset, SIZE_MAX),
        slot,
    )
    return (
        _no_item()
        if similar_items is None
        else _scored(similar_items.items[offset : offset + count])
    )


async def _list(request: Request, service: Service, *, name: str, slot: str) -> Response:
    count, offset = _number(request, "n", SIZE), _number(request, "offset", 0)
    category = _category(request)
    listed_items = await run_in_thread(
        service, service.pipeline.top_items, _LISTS[name], count + offset, category, slot
    )
    return _scored(listed_items[offset : offset + count])


async def _non_personalized(request: Request, service: Service, *, slot: str) -> Response:
    name = request.path_params["name"]
    if name not in _LISTS:
        return fault(404, "unknown_list", f"there is no such list; there are {', '.join(_LISTS)}")
    return await _list(request, service, name=name, slot=slot)


async def _get_item(request: Request, service: Service) -> Response:
    """Return an item, even a hidden one as Gorse does: the caller knows its id, and `IsHidden` says
    so.
    """
    item = await run_in_thread(service, service.pipeline.item, request.path_params["id"])
    if item is None:
        return _no_item()
    attributes: dict[str, Any] = item.attributes
    categories = attributes.get("categories") or (
        [attributes["category"]] if attributes.get("category") else []
    )
    return as_json(
        {
            "ItemId": item.item_id,
            "IsHidden": attributes.get("is_hidden") in (True, 1, "True", "true"),
            "Categories": categories
            if isinstance(categories, list)
            else str(categories).split("|"),  # as the index stores a list
            "Timestamp": attributes.get("timestamp") or "0001-01-01T00:00:00Z",
            "Labels": {
                name: value
                for name, value in attributes.items()
                if name not in _RESERVED_ATTRIBUTES and value is not None
            },
            "Comment": attributes.get("comment") or "",
        }
    )


async def _health(request: Request, service: Service) -> Response:
    ready = service.collector.figures().open and not service.draining
    health = {
        "Ready": ready,
        "DataStoreConnected": ready,
        "CacheStoreConnected": ready,
        "DataStoreError": None,
        "CacheStoreError": None,
    }
    return as_json(health, 200 if ready or request.url.path.endswith("/live") else 503)


def _scored(items: list[Shown]) -> Response:
    return as_json([{"Id": item.item_id, "Score": item.score or 0.0} for item in items])


def _no_item() -> Response:
    return fault(404, "unknown_item", "the live index has no such item")


def _category(request: Request) -> str | None:
    """Return the category to filter by.

    Gorse takes several, which an item must all have; here an item has one.
    """
    requested = [
        request.path_params.get("category") or "",
        *request.query_params.getlist("category"),
    ]
    categories = requested[:1] if requested[0] else list(dict.fromkeys(filter(None, requested)))
    if len(categories) > 1:
        raise QueryError(
            f"expected one category, got {len(categories)}: an item has its first one only",
            path="category",
            fix="ask for one",
        )
    return categories[0] if categories else None


def _number(request: Request, name: str, default: int) -> int:
    text = request.query_params.get(name, "")
    if not text:
        return default
    if not (text.isascii() and text.isdecimal() and len(text) <= 6):
        raise QueryError(f"expected a number, got {text[:20]!r}", path=name)
    return int(text)
