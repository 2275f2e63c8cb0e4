"""Refusal of queries before they are parsed: the response of an overloaded server from the
request's bytes alone.

A refusal through parser, application, route and handler costs a tenth of an answer or more, so that
at ten times the load a server would do little but refuse. This one costs a hundredth, and says the
same: 503, `overloaded`, and Retry-After. It applies to data that is clearly one complete query of a
program. Everything else takes the usual path to the same end: data in pieces, or several requests
at once; requests of a browser's page, which need headers for its origin; requests without
keep-alive; and whatever two parsers might read differently.
"""

import asyncio
import re
from functools import lru_cache

import msgspec

from tailorbird.serving.http.access import SECURITY_HEADERS
from tailorbird.serving.http.handling import Service
from tailorbird.serving.http.logs import choose_request_id
from tailorbird.serving.load_shedding import OverloadedError
from tailorbird.serving.messages import Fault

PATHS = ("/v1/recommend", "/v1/rank", "/v1/search")
_PATH_BY_LINE = {f"POST {path} HTTP/1.1\r\n".encode(): path for path in PATHS}
_LINE_PREFIXES = tuple(_PATH_BY_LINE)
_LENGTH_PATTERN = re.compile(rb"\r\ncontent-length: (\d{1,6})(?=\r\n|\Z)")
_REQUEST_ID_PATTERN = re.compile(rb"\r\nx-request-id: ([^\r]*)", re.IGNORECASE)
_SPECIAL_HEADERS_PATTERN = re.compile(
    rb"\r\n(?:origin|expect|transfer-encoding|upgrade|connection: (?!keep-alive(?:\r|\Z)))"
)
_HEADERS = "".join(f"{name}: {value}\r\n" for name, value in SECURITY_HEADERS.items())
_HEAD = f"HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\n{_HEADERS}".encode()
_encode = msgspec.json.Encoder().encode


class EarlyRefusal:
    """Returns the complete refusal to data of `protocol.LimitedHttpProtocol`, or None to
    process it.

    Many requests arrive before the first of them is admitted: it is the event loop's next turn that
    does so. Those that are let through meanwhile count, or a burst would pass as a whole and be
    refused the long way.
    """

    def __init__(self, service: Service) -> None:
        self._service = service
        self._arriving_count = 0

    def __call__(self, data: bytes) -> bytes | None:
        service = self._service
        if service.draining or not data.startswith(_LINE_PREFIXES):
            return None
        if not service.shedder.is_full(arriving=self._arriving_count):
            if not self._arriving_count:
                asyncio.get_running_loop().call_soon(self._reset_arriving)
            self._arriving_count += 1
            return None
        head, _, body = data.partition(b"\r\n\r\n")
        lowercase_head = head.lower()
        if not _is_simple(lowercase_head, len(body)):
            return None
        path = _PATH_BY_LINE[data[: data.index(b"\n") + 1]]
        service.metrics.count_early_refusal(path)
        service.request_log.record(path, 503, 0.0, "")
        id_header = _REQUEST_ID_PATTERN.search(head)
        request_id = choose_request_id(id_header[1].decode("latin-1") if id_header else None)
        template, id_placeholder = _response_template(
            service.shedder.record_refusal(), len(request_id)
        )
        return template.replace(id_placeholder, request_id.encode())

    def _reset_arriving(self) -> None:
        self._arriving_count = 0


def _is_simple(head: bytes, body_length: int) -> bool:
    """Return whether a lower-case head fits a body of that length, and has no special header."""
    lines = head.count(b"\r\n")
    length_header = _LENGTH_PATTERN.search(head)
    return (
        length_header is not None
        and int(length_header[1]) == body_length
        and head.count(b"\r\ncontent-length") == 1
        and head.count(b"\n") == head.count(b"\r") == lines
        and not _SPECIAL_HEADERS_PATTERN.search(head)
    )


@lru_cache(maxsize=256)
def _response_template(retry_after_s: int, id_length: int) -> tuple[bytes, bytes]:
    """Return the complete response, and the placeholder in it of a request id of that length."""
    error = OverloadedError(retry_after_s)
    id_placeholder = "\x00" * id_length
    body = _encode(Fault(error.code, error.message, "", error.fix, "-" * id_length)).replace(
        b"-" * id_length, id_placeholder.encode()
    )
    head_end = (
        f"retry-after: {error.retry_after_s}\r\nx-request-id: {id_placeholder}\r\ncontent-length: "
        f"{len(body)}\r\n\r\n"
    )
    return _HEAD + head_end.encode() + body, id_placeholder.encode()
