"""The server's log on stderr: one line per event, as text or as JSON, without personal data.

It contains no ids of people or items, no queries and no keys. The text of an exception may contain
any of them, so only its type and where it was raised are written. Control characters are escaped,
so that nobody can inject lines. Each line of a request has its `X-Request-Id`, which errors and the
answer's header have too.
"""

import logging
import random
import re
import sys
import time
import traceback
from contextvars import ContextVar

import msgspec

REQUEST_ID: ContextVar[str] = ContextVar("request_id", default="")
REFUSED_LINES_PER_S = 20.0  # so that refused requests cannot fill the disk
_SAFE_ID = re.compile(r"[A-Za-z0-9._-]{8,64}\Z")
_CONTROL_CHARACTER = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_EXTRA_FIELDS = ("route", "status", "ms", "key", "code", "left_out")
log = logging.getLogger(__name__)


def choose_request_id(header: str | None) -> str:
    """Return the caller's own id if it is safe to log, else a new one."""
    return header if header and _SAFE_ID.match(header) else f"{random.getrandbits(128):032x}"


class LineFormatter(logging.Formatter):
    """Formats a record as one line."""

    def __init__(self, *, as_json: bool) -> None:
        super().__init__()
        self._as_json = as_json

    def format(self, record: logging.LogRecord) -> str:
        fields: dict[str, object] = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
            + f".{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": _escape(record.getMessage()),
        }
        if request_id := REQUEST_ID.get():
            fields["request_id"] = request_id
        fields |= {name: getattr(record, name) for name in _EXTRA_FIELDS if hasattr(record, name)}
        if record.exc_info and record.exc_info[0]:
            fields["exception"] = record.exc_info[0].__name__
            frames = traceback.extract_tb(record.exc_info[2])[-12:]
            fields["raised"] = [
                f"{frame.filename.rpartition('site-packages/')[2]}:{frame.lineno} {frame.name}"
                for frame in frames
            ]
        if self._as_json:
            return msgspec.json.encode(fields).decode()
        suffix = " ".join(
            f"{name}={_escape(str(value))}"
            for name, value in fields.items()
            if name not in ("time", "level", "logger", "message")
        )
        return (
            f"{record.levelname} {record.name}: {fields['message']}{' ' if suffix else ''}{suffix}"
        )


def configure(*, as_json: bool) -> None:
    """Configure the log of this process."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(LineFormatter(as_json=as_json))
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)


class RequestLog:
    """Logs each refused or failed request, or every request.

    Refused requests, including those shed for load, are limited to `REFUSED_LINES_PER_S`.
    """

    def __init__(self, *, log_all: bool = False) -> None:
        self._logs_all = log_all
        self._tokens = REFUSED_LINES_PER_S
        self._refilled_at = time.monotonic()
        self._skipped_lines = 0

    def record(self, route: str, status: int, duration_s: float, key_id: str) -> None:
        """Log a request; `route` is the declared path, never the requested one."""
        if status < 400 and not self._logs_all:
            return
        throttle_fields: dict[str, object] = {}
        if 400 <= status < 500 or status == 503:
            now = time.monotonic()
            self._tokens = min(
                REFUSED_LINES_PER_S, self._tokens + (now - self._refilled_at) * REFUSED_LINES_PER_S
            )
            self._refilled_at = now
            if self._tokens < 1:
                self._skipped_lines += 1
                return
            self._tokens -= 1
            throttle_fields["left_out"] = self._skipped_lines
            self._skipped_lines = 0
        fields = {
            "route": route,
            "status": status,
            "ms": round(duration_s * 1e3, 1),
            "key": key_id,
            **throttle_fields,
        }
        log.log(logging.ERROR if status >= 500 else logging.INFO, "request", extra=fields)


def _escape(text: str) -> str:
    return _CONTROL_CHARACTER.sub(lambda match: f"\\x{ord(match[0]):02x}", text)
