"""Read a request's body with bounds on its size, its decompressed size and its time.

The HTTP server below bounds neither: it takes 200 MiB, and waits forever for a sender that stops
half-way. `Budget` also bounds all bodies together. A body that does not fit is refused with
`Retry-After` before memory grows.
"""

import asyncio
import sys
import zlib
from collections.abc import Callable
from typing import Protocol

from starlette.requests import ClientDisconnect, Request

from tailorbird.errors import TailorbirdError

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

BODY_BYTES_MAX = 1 << 20
BODY_DEADLINE_S = 10.0
BODIES_BYTES_MAX = 64 << 20
RATIO_MAX = 200  # JSON lines that differ only in an id compress 40-fold
RATIO_FREE_BYTES = 65_536  # allowed at any ratio
MEMBERS_MAX = (
    1_000  # gzip members or zstd frames; starting one takes time, and an empty one is a few bytes
)
_WINDOW_LOG_MAX = 23  # 8 MiB, the window that RFC 8878, 3.1.1.1.2 recommends to support


class BodyError(TailorbirdError):
    """A body that is too large (413), too slow (408), unusable (400, 415) or beyond the memory
    budget (503).
    """

    code = "bad_body"

    def __init__(
        self, message: str, *, status: int, code: str, fix: str = "", retry_after_s: int = 0
    ) -> None:
        super().__init__(message, fix=fix)
        self.status = status
        self.code = code
        self.retry_after_s = retry_after_s


class Budget:
    """The bytes that all bodies of a process may occupy while they are read and checked. For one
    event loop.
    """

    def __init__(self, bytes_max: int = BODIES_BYTES_MAX) -> None:
        self.bytes_max = bytes_max
        self.reserved_bytes = 0


class Reservation:
    """The share of the budget that one request holds until it ends."""

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self._bytes = 0

    def grow(self, size: int) -> None:
        """Reserve more bytes, or raise BodyError if the budget is exhausted."""
        if self._budget.reserved_bytes + size > self._budget.bytes_max:
            raise BodyError(
                "too many bodies at once",
                status=503,
                code="overloaded",
                fix="send it again in a second",
                retry_after_s=1,
            )
        self._budget.reserved_bytes += size
        self._bytes += size

    def release(self) -> None:
        self._budget.reserved_bytes -= self._bytes
        self._bytes = 0


async def read_body(
    request: Request,
    *,
    bytes_max: int = BODY_BYTES_MAX,
    deadline_s: float = BODY_DEADLINE_S,
    reservation: Reservation | None = None,
) -> bytes:
    """Read the body and decompress it.

    Raises:
        BodyError: larger than `bytes_max` before or after decompression, packed beyond belief, not
            complete within `deadline_s`, damaged, or more than there is room for.
    """
    length = request.headers.get("content-length", "")
    if length.isascii() and length.isdecimal() and int(length[:20]) > bytes_max:
        raise _too_large(bytes_max)
    decoder = _decoder_for(request.headers.get("content-encoding", ""), bytes_max)
    compressed_bytes = 0
    try:
        async with asyncio.timeout(deadline_s):
            body = bytearray()
            async for chunk in request.stream():
                decompressed = decoder.decode_chunk(chunk)
                compressed_bytes += len(chunk)
                if reservation is not None:
                    reservation.grow(len(decompressed))
                body += decompressed
                if len(body) > bytes_max or compressed_bytes > bytes_max:
                    raise _too_large(bytes_max)
                if len(body) > RATIO_FREE_BYTES and len(body) > RATIO_MAX * compressed_bytes:
                    raise BodyError(
                        f"the body unpacks to more than {RATIO_MAX} times its size",
                        status=413,
                        code="too_dense",
                    )
    except TimeoutError:
        raise BodyError(
            f"the body was not complete within {deadline_s:g} s", status=408, code="too_slow"
        ) from None
    except ClientDisconnect:
        raise BodyError("the sender went away", status=400, code="disconnected") from None
    if not decoder.is_complete():
        raise BodyError(
            f"the {decoder.name} body is cut short", status=400, code=f"bad_{decoder.name}"
        )
    return bytes(body)


class _Decoder(Protocol):
    name: str

    def decode_chunk(self, chunk: bytes) -> bytes: ...
    def is_complete(self) -> bool: ...


class _Identity:
    name = "plain"

    def decode_chunk(self, chunk: bytes) -> bytes:
        return chunk

    def is_complete(self) -> bool:
        return True


class _Inflater(Protocol):
    """A decompressor of one gzip member or one zstd frame."""

    def decompress(self, data: bytes, max_length: int, /) -> bytes: ...
    @property
    def eof(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...


class _Decompressor:
    """Decompresses consecutive members (RFC 1952, 2.2; RFC 8878, 3) up to `bytes_max` bytes."""

    def __init__(
        self,
        name: str,
        bytes_max: int,
        new_inflater: Callable[[], _Inflater],
        corruption_error: type[Exception],
    ) -> None:
        self.name = name
        self._remaining_bytes = bytes_max
        self._new_inflater = new_inflater
        self._corruption_error = corruption_error
        self._bytes_max = bytes_max
        self._member_count = 1
        self._inflater = new_inflater()

    def decode_chunk(self, chunk: bytes) -> bytes:
        decompressed = bytearray()
        while chunk:
            if self._inflater.eof:
                self._start_member()
            try:
                member_bytes = self._inflater.decompress(chunk, self._remaining_bytes + 1)
            except self._corruption_error:
                raise BodyError(
                    f"the body is not {self.name}, or is damaged",
                    status=400,
                    code=f"bad_{self.name}",
                ) from None
            self._remaining_bytes -= len(member_bytes)
            if self._remaining_bytes < 0:
                raise _too_large(self._bytes_max)
            decompressed += member_bytes
            chunk = self._inflater.unused_data
        return bytes(decompressed)

    def _start_member(self) -> None:
        self._member_count += 1
        if self._member_count > MEMBERS_MAX:
            fix = f"pack the whole body as one {self.name} stream"
            raise BodyError(
                f"the body has more than {MEMBERS_MAX} {self.name} members",
                status=413,
                code="too_many_members",
                fix=fix,
            )
        self._inflater = self._new_inflater()

    def is_complete(self) -> bool:
        return self._inflater.eof


def _gzip_inflater() -> _Inflater:
    return zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)


def _zstd_inflater() -> _Inflater:
    return zstd.ZstdDecompressor(
        options={zstd.DecompressionParameter.window_log_max: _WINDOW_LOG_MAX}
    )


def _decoder_for(encoding: str, bytes_max: int) -> _Decoder:
    name = encoding.strip().lower()
    if name in ("", "identity"):
        return _Identity()
    if name in ("gzip", "x-gzip"):
        return _Decompressor("gzip", bytes_max, _gzip_inflater, zlib.error)
    if name == "zstd":
        return _Decompressor("zstd", bytes_max, _zstd_inflater, zstd.ZstdError)
    raise BodyError(
        "expected no content encoding, gzip or zstd", status=415, code="content_encoding"
    )


def _too_large(bytes_max: int) -> BodyError:
    return BodyError(
        f"the body has more than {bytes_max} bytes",
        status=413,
        code="too_large",
        fix="send fewer events at once",
    )
