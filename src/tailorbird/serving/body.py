"""Reading a request's body: bounded in size and time while it comes in, decompressed within the same bound.

The server under us limits neither: it takes 200 MiB, and waits forever for a sender that stops half-way.
"""

import asyncio
import zlib

from starlette.requests import ClientDisconnect, Request

from tailorbird.errors import TailorbirdError

BODY_BYTES_MAX = 1 << 20
BODY_DEADLINE_S = 10.0


class BodyError(TailorbirdError):
    """A body that is too large (413), too slow (408), or packed in a way that cannot be read (400, 415)."""

    code = "bad_body"

    def __init__(self, message: str, *, status: int, code: str, fix: str = "") -> None:
        super().__init__(message, fix=fix)
        self.status, self.code = status, code


async def read_body(request: Request, *, bytes_max: int = BODY_BYTES_MAX, deadline_s: float = BODY_DEADLINE_S) -> bytes:
    """The body, decompressed.

    Raises:
        BodyError: larger than `bytes_max` before or after decompression, not complete within `deadline_s`, or damaged.
    """
    length = request.headers.get("content-length", "")
    if length.isdigit() and int(length) > bytes_max:
        raise _too_large(bytes_max)
    unpack = _unpacker(request.headers.get("content-encoding", ""), bytes_max)
    try:
        async with asyncio.timeout(deadline_s):
            chunks = bytearray()
            async for chunk in request.stream():
                chunks += unpack.feed(chunk)
                if len(chunks) > bytes_max:
                    raise _too_large(bytes_max)
    except TimeoutError:
        raise BodyError(f"the body was not complete within {deadline_s:g} s", status=408, code="too_slow") from None
    except ClientDisconnect:
        raise BodyError("the sender went away", status=400, code="disconnected") from None
    if not unpack.complete():
        raise BodyError("the gzip body is cut short", status=400, code="bad_gzip")
    return bytes(chunks)


class _Plain:
    def feed(self, chunk: bytes) -> bytes:
        return chunk

    def complete(self) -> bool:
        return True


class _Gzip:
    """Never holds more than `bytes_max` decompressed bytes, whatever the ratio."""

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._unpacked = 0
        self._zlib = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)

    def feed(self, chunk: bytes) -> bytes:
        if not chunk:
            return b""
        try:
            data = self._zlib.decompress(chunk, self._bytes_max - self._unpacked + 1)
        except zlib.error:
            raise BodyError("the body is not gzip, or is damaged", status=400, code="bad_gzip") from None
        self._unpacked += len(data)
        if self._unpacked > self._bytes_max:
            raise _too_large(self._bytes_max)
        if self._zlib.unused_data:
            raise BodyError("bytes follow the end of the gzip body", status=400, code="bad_gzip")
        return data

    def complete(self) -> bool:
        return self._zlib.eof


def _unpacker(encoding: str, bytes_max: int) -> _Plain | _Gzip:
    name = encoding.strip().lower()
    if name in ("", "identity"):
        return _Plain()
    if name in ("gzip", "x-gzip"):
        return _Gzip(bytes_max)
    raise BodyError("expected no content encoding or gzip", status=415, code="content_encoding")


def _too_large(bytes_max: int) -> BodyError:
    return BodyError(f"the body has more than {bytes_max} bytes", status=413, code="too_large", fix="send fewer events at once")
