"""Segment's tracking API, so that its libraries work unchanged: give them this server as their
host.

    POST /v1/batch, /v1/import                                   many messages in a body
    POST /v1/track, /identify, /page, /screen, /group, /alias    one message, whose type is the path's

The write key goes where those libraries put it, into Basic authorisation. What a message becomes
stands in `events.adapters.segment`; what cannot be read is kept in the quarantine, and a body of
which nothing could be taken is refused.

Source: Segment, "HTTP Tracking API".
"""

from functools import partial

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from tailorbird.serving.handling import Handler, Service, read_request_body, accept_foreign_events

BATCH_KINDS = ("batch", "import")
MESSAGE_KINDS = ("track", "identify", "page", "screen", "group", "alias")


async def post_messages(request: Request, service: Service, *, kind: str) -> Response:
    """Take a body of Segment's."""
    body = await read_request_body(request, service)
    return await accept_foreign_events(
        request, service, "segment", body if kind in BATCH_KINDS else _with_type(body, kind)
    )


def handlers() -> dict[str, Handler]:
    """Return path → its handler."""
    return {f"/v1/{kind}": partial(post_messages, kind=kind) for kind in (*BATCH_KINDS, *MESSAGE_KINDS)}


def _with_type(body: bytes, kind: str) -> bytes:
    """Return a message with the type that its path says; what is no object is left for the adapter
    to refuse.
    """
    try:
        message = msgspec.json.decode(body, type=dict[str, msgspec.Raw])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return body
    return msgspec.json.encode({**message, "type": kind})
