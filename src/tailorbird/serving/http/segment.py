"""Segment's tracking API, so that its libraries work unchanged with this server as their host.

    POST /v1/batch, /v1/import                    many messages in a body
    POST /v1/track, /identify, /page, /screen,    one message, whose type is that of the path
         /group, /alias

The write key is in Basic authorisation, as those libraries send it. `events.adapters.segment`
converts messages. Unreadable ones are quarantined, and a body is refused if nothing in it could be
accepted.

Source: Segment, "HTTP Tracking API".
"""

from functools import partial

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from tailorbird.serving.http.handling import (
    Handler,
    Service,
    accept_foreign_events,
    read_request_body,
)

BATCH_PATH_NAMES = ("batch", "import")
MESSAGE_TYPES = ("track", "identify", "page", "screen", "group", "alias")


async def post_messages(request: Request, service: Service, *, path_name: str) -> Response:
    """Accept a body in Segment's format."""
    body = await read_request_body(request, service)
    return await accept_foreign_events(
        request,
        service,
        "segment",
        body if path_name in BATCH_PATH_NAMES else _with_type(body, path_name),
    )


def handlers_by_path() -> dict[str, Handler]:
    """Return path → handler."""
    return {
        f"/v1/{path_name}": partial(post_messages, path_name=path_name)
        for path_name in (*BATCH_PATH_NAMES, *MESSAGE_TYPES)
    }


def _with_type(body: bytes, message_type: str) -> bytes:
    """Set the type of a message to that of its path; leave non-objects to the adapter."""
    try:
        message = msgspec.json.decode(body, type=dict[str, msgspec.Raw])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return body
    return msgspec.json.encode({**message, "type": message_type})
