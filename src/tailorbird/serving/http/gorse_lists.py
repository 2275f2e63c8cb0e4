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

DEFAULT_SIZE = 10  # Gorse's own default
REMEMBERED_USERS_MAX = 20_000
REMEMBERED_RESPONSES_MAX = 3

SESSION_ITEMS_MAX = 10  # newest items of a session that count
SOURCE_BY_LIST = {"popular": "popular", "latest": "new_items"}

log = logging.getLogger(__name__)


class _SessionItem(msgspec.Struct):
    ItemId: str


_session_decoder = msgspec.json.Decoder(list[_SessionItem])


class RecentResponses:
    """The newest answers of each person, as far as this process gave them. Thread-safe."""

    def __init__(self, users_max: int = REMEMBERED_USERS_MAX) -> None:
        self._responses_by_user: OrderedDict[str, deque[tuple[str, frozenset[str]]]] = OrderedDict()
        self._users_max = users_max
        self._lock = threading.Lock()

    def record(self, user_id: str, request_id: str, item_ids: list[str]) -> None:
        """Record the items that were shown to a person."""
        with self._lock:
            responses = self._responses_by_user.setdefault(
                user_id, deque(maxlen=REMEMBERED_RESPONSES_MAX)
            )
            responses.append((request_id, frozenset(item_ids)))
            self._responses_by_user.move_to_end(user_id)
            while len(self._responses_by_user) > self._users_max:
                self._responses_by_user.popitem(last=False)

    def find_request_id(self, user_id: str, item_id: str) -> str | None:
        """Return the newest answer that showed this item to this person."""
        with self._lock:
            responses = self._responses_by_user.get(user_id, ())
            return next(
                (
                    request_id
                    for request_id, shown_ids in reversed(responses)
                    if item_id in shown_ids
                ),
                None,
            )


async def recommend_items(
    request: Request, service: Service, *, slot: str, recent_responses: RecentResponses
) -> Response:
    count = _read_number(request, "n", DEFAULT_SIZE)
    offset = _read_number(request, "offset", 0)
    if count == 0 or offset >= SIZE_MAX:
        return json_response([])
    write_back_type = request.query_params.get("write-back-type")
    if write_back_type:
        require_additional_scope(request, service, WRITE)  # checked first, because this is a write
    user_id = request.path_params["user"]
    category = _read_category(request)
    query = RecommendQuery(
        slot=slot,
        user_id=user_id,
        size=min(count + offset, SIZE_MAX),
        filters={"category": category} if category else {},
    )
    response = await run_in_thread(service, service.pipeline.answer, query)
    shown_items = response.items[offset : offset + count]
    shown_ids = [item.item_id for item in shown_items]
    recent_responses.record(user_id, response.request_id, shown_ids)
    http_response = (
        _scored_response(shown_items)
        if request.headers.get("x-api-version") == "2"
        else json_response(shown_ids)
    )
    if shown_ids and write_back_type:
        impression = Event(
            f"{response.request_id}#impression",
            "impression",
            user_id=user_id,
            items=shown_ids,
            request_id=response.request_id,
        )
        if refusal_code := await _write_back(request, service, impression):
            http_response.headers["x-write-back"] = refusal_code
    return http_response


async def _write_back(request: Request, service: Service, impression: Event) -> str:
    """Record an impression within the limits of the key, and return the code of a refusal, or "".

    The answer is given in either case.
    """
    try:
        admission = create_admission(request, service)
        source = request.state.caller.source
        (decision,) = await service.collector.submit_async(
            encode_event(impression), source=source, admission=admission
        )
    except TailorbirdError as error:
        log.warning("what was shown could not be noted: %s: %s", error.code, error.message)
        return error.code
    return "" if decision.accepted else decision.code


async def recommend_for_session(request: Request, service: Service, *, slot: str) -> Response:
    """Recommend for the items of an anonymous session, by the sum of their similar items.

    The items of the session themselves are left out.
    """
    count = _read_number(request, "n", DEFAULT_SIZE)
    offset = _read_number(request, "offset", 0)
    body = await read_request_body(request, service)
    item_ids = [feedback.ItemId for feedback in decode(body, _session_decoder)][-SESSION_ITEMS_MAX:]
    related_items = await run_in_thread(
        service, _sum_similar, service.pipeline, item_ids, min(count + offset, SIZE_MAX), slot
    )
    return json_response(related_items[offset : offset + count])


def _sum_similar(
    pipeline: RequestPipeline, item_ids: list[str], size: int, slot: str
) -> list[dict[str, Any]]:
    score_by_item: dict[str, float] = {}
    for item_id in dict.fromkeys(item_ids):
        neighbors = pipeline.similar_items(item_id, SIZE_MAX, slot)
        for similar_item in neighbors.items if neighbors is not None else ():
            if similar_item.item_id not in item_ids:
                score_by_item[similar_item.item_id] = score_by_item.get(
                    similar_item.item_id, 0.0
                ) + (similar_item.score or 0.0)
    ranked_items = sorted(
        score_by_item.items(), key=lambda entry: -entry[1]
    )  # fillers have score 0 and keep their order
    return [{"Id": item_id, "Score": score} for item_id, score in ranked_items[:size]]


async def list_neighbors(request: Request, service: Service, *, slot: str) -> Response:
    count = _read_number(request, "n", DEFAULT_SIZE)
    offset = _read_number(request, "offset", 0)
    similar_items = await run_in_thread(
        service,
        service.pipeline.similar_items,
        request.path_params["id"],
        min(count + offset, SIZE_MAX),
        slot,
    )
    return (
        unknown_item_response()
        if similar_items is None
        else _scored_response(similar_items.items[offset : offset + count])
    )


async def get_list(request: Request, service: Service, *, name: str, slot: str) -> Response:
    count = _read_number(request, "n", DEFAULT_SIZE)
    offset = _read_number(request, "offset", 0)
    category = _read_category(request)
    listed_items = await run_in_thread(
        service, service.pipeline.top_items, SOURCE_BY_LIST[name], count + offset, category, slot
    )
    return _scored_response(listed_items[offset : offset + count])


async def get_non_personalized(request: Request, service: Service, *, slot: str) -> Response:
    name = request.path_params["name"]
    if name not in SOURCE_BY_LIST:
        return error_response(
            404, "unknown_list", f"there is no such list; there are {', '.join(SOURCE_BY_LIST)}"
        )
    return await get_list(request, service, name=name, slot=slot)


def _scored_response(items: list[ShownItem]) -> Response:
    return json_response([{"Id": item.item_id, "Score": item.score or 0.0} for item in items])


def unknown_item_response() -> Response:
    return error_response(404, "unknown_item", "the live index has no such item")


def _read_category(request: Request) -> str | None:
    """Return the category to filter by.

    Gorse takes several, which an item must all have; here an item has one.
    """
    requested_categories = [
        request.path_params.get("category") or "",
        *request.query_params.getlist("category"),
    ]
    categories = (
        requested_categories[:1]
        if requested_categories[0]
        else list(dict.fromkeys(filter(None, requested_categories)))
    )
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
