"""Segment's tracking API, so that its libraries work unchanged: give them this server as their host.

    POST /v1/batch, /v1/import                                   many messages in a body
    POST /v1/track, /identify, /page, /screen, /group, /alias    one message, whose type is the path's

The write key goes where those libraries put it, into Basic authorisation. What a message becomes stands in `events.adapters.segment`;
what cannot be read is kept in the quarantine, and a body of which nothing could be taken is refused.

Source: Segment, "HTTP Tracking API".
"""

import asyncio
from functools import partial

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from tailorbird.events.adapters.webhook import lines_of_body
from tailorbird.serving.handling import Handler, Service, admission, as_json, as_receipts, body_of
from tailorbird.serving.messages import Receipts

MANY = ("batch", "import")
ONE = ("track", "identify", "page", "screen", "group", "alias")


async def post_messages(request: Request, service: Service, *, kind: str) -> Response:
    """Take a body of Segment's."""
    body = await body_of(request, service)
    admit = admission(request, service)
    lines = await asyncio.to_thread(lines_of_body, "segment", body if kind in MANY else _typed(body, kind), None, admit.rows)
    if not lines:
        return as_json(Receipts(0, 0, []))  # nothing in it says anything about people and items
    decisions = await service.door.submit_async(
        b"\n".join(lines), "ndjson", source=request.state.caller.source, format_="segment", admit=admit
    )
    return as_receipts(decisions)


def handlers() -> dict[str, Handler]:
    """Return path → its handler."""
    return {f"/v1/{kind}": partial(post_messages, kind=kind) for kind in (*MANY, *ONE)}


def _typed(body: bytes, kind: str) -> bytes:
    """Return a message with the type that its path says; what is no object is left for the adapter to refuse."""
    try:
        message = msgspec.json.decode(body, type=dict[str, msgspec.Raw])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return body
    return msgspec.json.encode({**message, "type": kind})
