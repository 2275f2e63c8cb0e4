"""Gorse's lists: recommendations, sessions, neighbours and the popular."""

import logging
import threading
from collections import OrderedDict, deque
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from tailorbird.errors import TailorbirdError
from tailorbird.events import Event
from tailorbird.events.adapters.batch import encode_event
from tailorbird.serving.auth.keyfile import WRITE
from tailorbird.serving.http.handling import (
    RequestPipeline,
    Service,
    create_admission,
    error_response,
    json_response,
    read_request_body,
    require_additional_scope,
    run_in_thread,
)
from tailorbird.serving.messages import SIZE_MAX, QueryError, RecommendQuery, ShownItem, decode

SIZE = 10  # Gorse's own default
PEOPLE_MAX = 20_000
ANSWERS_MAX = 3

SESSION_MAX = 10  # newest items of a session that count
LISTS = {"popular": "popular", "latest": "new_items"}

log = logging.getLogger(__name__)


class _SessionItem(msgspec.Struct):
    ItemId: str


_session_of = msgspec.json.Decoder(list[_SessionItem])


class RecentResponses:
    """The newest answers of each person, as far as this process gave them. Thread-safe."""

    def __init__(self, people_max: int = PEOPLE_MAX) -> None:
        self._people: OrderedDict[str, deque[tuple[str, frozenset[str]]]] = OrderedDict()
        self._people_max = people_max
        self._lock = threading.Lock()

    def record(self, user: str, request_id: str, items: list[str]) -> None:
        """Record the items that were shown to a person."""
        with self._lock:
            responses = self._people.setdefault(user, deque(maxlen=ANSWERS_MAX))
            responses.append((request_id, frozenset(items)))
            self._people.move_to_end(user)
            while len(self._people) > self._people_max:
                self._people.popitem(last=False)

    def find_request_id(self, user: str, item: str) -> str | None:
        """Return the newest answer that showed this item to this person."""
        with self._lock:
            responses = self._people.get(user, ())
            return next(
                (request_id for request_id, items in reversed(responses) if item in items), None
            )


async def recommend_items(
    request: Request, service: Service, *, slot: str, recent_responses: RecentResponses
) -> Response:
    count, offset = _read_number(request, "n", SIZE), _read_number(request, "offset", 0)
    if count == 0 or offset >= SIZE_MAX:
        return json_response([])
    write_back = request.query_params.get("write-back-type")
    if write_back:
        require_additional_scope(request, service, WRITE)  # checked first, because this is a write
    user = request.path_params["user"]
    category = _read_category(request)
    query = RecommendQuery(
        slot=slot,
        user_id=user,
        size=min(count + offset, SIZE_MAX),
        filters={"category": category} if category else {},
    )
    answer = await run_in_thread(service, service.pipeline.answer, query)
    items = answer.items[offset : offset + count]
    shown = [item.item_id for item in items]
    recent_responses.record(user, answer.request_id, shown)
    response = (
        _scored_response(items)
        if request.headers.get("x-api-version") == "2"
        else json_response(shown)
    )
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
        admit, source = create_admission(request, service), request.state.caller.source
        (decision,) = await service.collector.submit_async(
            encode_event(impression), source=source, admit=admit
        )
    except TailorbirdError as error:
        log.warning("what was shown could not be noted: %s: %s", error.code, error.message)
        return error.code
    return "" if decision.accepted else decision.code


async def recommend_for_session(request: Request, service: Service, *, slot: str) -> Response:
    """Recommend for the items of an anonymous session, by the sum of their similar items.

    The items of the session themselves are left out.
    """
    count, offset = _read_number(request, "n", SIZE), _read_number(request, "offset", 0)
    body = await read_request_body(request, service)
    items = [feedback.ItemId for feedback in decode(body, _session_of)][-SESSION_MAX:]
    related = await run_in_thread(
        service, _sum_similar, service.pipeline, items, min(count + offset, SIZE_MAX), slot
    )
    return json_response(related[offset : offset + count])


def _sum_similar(
    pipeline: RequestPipeline, items: list[str], size: int, slot: str
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


async def list_neighbors(request: Request, service: Service, *, slot: str) -> Response:
    count, offset = _read_number(request, "n", SIZE), _read_number(request, "offset", 0)
    similar_items = await run_in_thread(
        service,
        service.pipeline.similar,
        request.path_params["id"],
        min(count + offset, SIZE_MAX),
        slot,
    )
    return (
        no_item()
        if similar_items is None
        else _scored_response(similar_items.items[offset : offset + count])
    )


async def get_list(request: Request, service: Service, *, name: str, slot: str) -> Response:
    count, offset = _read_number(request, "n", SIZE), _read_number(request, "offset", 0)
    category = _read_category(request)
    listed_items = await run_in_thread(
        service, service.pipeline.top_items, LISTS[name], count + offset, category, slot
    )
    return _scored_response(listed_items[offset : offset + count])


async def non_personalized(request: Request, service: Service, *, slot: str) -> Response:
    name = request.path_params["name"]
    if name not in LISTS:
        return error_response(
            404, "unknown_list", f"there is no such list; there are {', '.join(LISTS)}"
        )
    return await get_list(request, service, name=name, slot=slot)


def _scored_response(items: list[ShownItem]) -> Response:
    return json_response([{"Id": item.item_id, "Score": item.score or 0.0} for item in items])


def no_item() -> Response:
    return error_response(404, "unknown_item", "the live index has no such item")


def _read_category(request: Request) -> str | None:
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


def _read_number(request: Request, name: str, default: int) -> int:
    text = request.query_params.get(name, "")
    if not text:
        return default
    if not (text.isascii() and text.isdecimal() and len(text) <= 6):
        raise QueryError(f"expected a number, got {text[:20]!r}", path=name)
    return int(text)
