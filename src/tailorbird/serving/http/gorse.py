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
import uuid
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from functools import partial
from hashlib import sha256
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from tailorbird.events import Event
from tailorbird.events.adapters import gorse
from tailorbird.events.adapters.fields import as_record
from tailorbird.events.adapters.record import Record, record_to_lines
from tailorbird.events.tables.files import count_records, split_records
from tailorbird.ranking.slot import Slot
from tailorbird.serving.auth.keyfile import OPEN, READ, WRITE
from tailorbird.serving.http.app import create_route
from tailorbird.serving.http.gorse_lists import (
    SOURCE_BY_LIST,
    RecentResponses,
    get_list,
    get_non_personalized,
    list_neighbors,
    recommend_for_session,
    recommend_items,
    unknown_item_response,
)
from tailorbird.serving.http.handling import (
    Service,
    create_admission,
    error_response,
    json_response,
    read_request_body,
    run_in_thread,
)

REFUSALS_LISTED_MAX = 10
_NOT_HIDDEN_RULE = "not item.is_hidden"
_RESERVED_ATTRIBUTES = ("categories", "category", "comment", "is_hidden", "timestamp")

RecordConverter = Callable[[Record, bytes], Event]


def with_hidden_rule(slots: Mapping[str, Slot], name: str) -> dict[str, Slot]:
    """Return the slots, with a rule against `IsHidden` items on that of Gorse's clients."""
    return {
        **slots,
        name: dataclasses.replace(slots[name], rules=(*slots[name].rules, _NOT_HIDDEN_RULE)),
    }


def gorse_routes(service: Service, slot: str) -> list[Route]:
    """Return Gorse's routes, to be mounted beside those of the API; answers are those of `slot`."""
    recent_responses = RecentResponses()
    recommend_handler = partial(recommend_items, slot=slot, recent_responses=recent_responses)
    session_handler = partial(recommend_for_session, slot=slot)
    neighbors_handler = partial(list_neighbors, slot=slot)
    convert_feedback = partial(_convert_feedback, recent_responses=recent_responses)
    routes = [
        *(
            ("/api/feedback", method, partial(_insert_records, convert=convert_feedback), WRITE)
            for method in ("POST", "PUT")
        ),
        *(
            (
                f"/api/user{path_suffix}",
                "POST",
                partial(_insert_records, convert=_convert_user),
                WRITE,
            )
            for path_suffix in ("", "s")
        ),
        *(
            (
                f"/api/item{path_suffix}",
                "POST",
                partial(_insert_records, convert=_convert_item),
                WRITE,
            )
            for path_suffix in ("", "s")
        ),
        *(
            (f"/api/recommend/{{user}}{path_suffix}", "GET", recommend_handler, READ)
            for path_suffix in ("", "/", "/{category}")
        ),
        ("/api/session/recommend", "POST", session_handler, READ),
        *(
            (f"/api/item/{{id}}/neighbors{path_suffix}", "GET", neighbors_handler, READ)
            for path_suffix in ("", "/")
        ),
        *(
            (f"/api/{name}{path_suffix}", "GET", partial(get_list, name=name, slot=slot), READ)
            for name in SOURCE_BY_LIST
            for path_suffix in ("", "/{category}")
        ),
        ("/api/non-personalized/{name}", "GET", partial(get_non_personalized, slot=slot), READ),
        ("/api/item/{id}", "GET", _get_item, READ),
        *((f"/api/health/{name}", "GET", _get_health, OPEN) for name in ("live", "ready")),
    ]
    return [
        create_route(path, method, handler, scope, service, key_header="x-api-key")
        for path, method, handler, scope in routes
    ]


# Requests that write


async def _insert_records(
    request: Request, service: Service, *, convert: RecordConverter
) -> Response:
    body = await read_request_body(request, service)
    admission = create_admission(request, service)
    source = request.state.caller.source
    lines = await asyncio.to_thread(_convert_lines, body, convert, admission.charge_rows)
    decisions = []
    if lines:
        decisions = await service.collector.submit_async(
            b"\n".join(lines), "ndjson", source=source, format_=gorse.FORMAT, admission=admission
        )
    refused_decisions = [decision for decision in decisions if not decision.accepted]
    if refused_decisions and len(refused_decisions) == len(decisions):
        return error_response(
            400,
            refused_decisions[0].code,
            refused_decisions[0].message,
            path=refused_decisions[0].path,
            fix="it is kept: tailorbird lake quarantine",
        )
    listed_refusals = [
        {"Code": refusal.code, "Path": refusal.path, "Message": refusal.message}
        for refusal in refused_decisions[:REFUSALS_LISTED_MAX]
    ]
    return json_response(
        {
            "RowAffected": len(decisions) - len(refused_decisions),
            **(
                {"RowRefused": len(refused_decisions), "Refused": listed_refusals}
                if refused_decisions
                else {}
            ),
        }
    )


def _convert_lines(
    body: bytes, convert: RecordConverter, charge_rows: Callable[[int], None]
) -> list[bytes]:
    charge_rows(count_records(body))
    lines: list[bytes] = []
    for raw_record in split_records(body):
        record_id = f"gorse:{sha256(raw_record).hexdigest()[:32]}"
        lines += record_to_lines(
            gorse.FORMAT,
            raw_record,
            record_id,
            lambda record, _, raw_record=raw_record: [convert(as_record(record), raw_record)],
            {},
        )
    return lines


def _convert_feedback(
    fields: Record, raw_record: bytes, *, recent_responses: RecentResponses
) -> Event:
    event = gorse.convert_feedback(fields)
    return msgspec.structs.replace(
        event, request_id=recent_responses.find_request_id(event.user_id or "", event.item_id or "")
    )


def _convert_user(fields: Record, raw_record: bytes) -> Event:
    return msgspec.structs.replace(gorse.convert_user(fields, _new_event_id()), timeless=False)


def _convert_item(fields: Record, raw_record: bytes) -> Event:
    """Convert an item to a profile that is valid from now on; its creation time becomes an
    attribute.
    """
    event = gorse.convert_item(fields, _new_event_id())
    timestamp_attribute = (
        {"timestamp": _format_rfc3339(event.ts)} if isinstance(event.ts, int) else {}
    )
    return msgspec.structs.replace(
        event,
        ts=None,
        timeless=False,
        properties={**(event.properties or {}), **timestamp_attribute} or None,
    )


def _format_rfc3339(ts: int) -> str:
    """Format a time as RFC 3339, the only format that clients in Go read."""
    return (
        (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=ts))
        .isoformat()
        .replace("+00:00", "Z")
    )


def _new_event_id() -> str:
    """Return a unique event id, because a profile may change back to an earlier one."""
    return f"gorse:{uuid.uuid4().hex}"


# Requests that read


async def _get_item(request: Request, service: Service) -> Response:
    """Return an item, even a hidden one as Gorse does: the caller knows its id, and `IsHidden` says
    so.
    """
    index_item = await run_in_thread(service, service.pipeline.item, request.path_params["id"])
    if index_item is None:
        return unknown_item_response()
    attributes: dict[str, Any] = index_item.attributes
    category_value = attributes.get("categories") or (
        [attributes["category"]] if attributes.get("category") else []
    )
    return json_response(
        {
            "ItemId": index_item.item_id,
            "IsHidden": attributes.get("is_hidden") in (True, 1, "True", "true"),
            "Categories": category_value
            if isinstance(category_value, list)
            else str(category_value).split("|"),  # as the index stores a list
            "Timestamp": attributes.get("timestamp") or "0001-01-01T00:00:00Z",
            "Labels": {
                name: value
                for name, value in attributes.items()
                if name not in _RESERVED_ATTRIBUTES and value is not None
            },
            "Comment": attributes.get("comment") or "",
        }
    )


async def _get_health(request: Request, service: Service) -> Response:
    is_ready = service.collector.figures().open and not service.draining
    health = {
        "Ready": is_ready,
        "DataStoreConnected": is_ready,
        "CacheStoreConnected": is_ready,
        "DataStoreError": None,
        "CacheStoreError": None,
    }
    return json_response(health, 200 if is_ready or request.url.path.endswith("/live") else 503)
