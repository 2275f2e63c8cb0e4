"""Shared parts of all handlers: bounded bodies, work in threads, and answers and errors as JSON.

Handlers and their routes are in `serving.http.routes`; those of third-party APIs are in `serving.http.gorse`,
those of pages in `console`.
"""

import asyncio
import base64
import binascii
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from dataclasses import dataclass, field
from typing import Any, Protocol

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from tailorbird.errors import NotReadyError, StorageError, TailorbirdError, UsageError
from tailorbird.events.adapters.webhook import body_to_lines
from tailorbird.serving.auth.keyfile import WRITE
from tailorbird.serving.auth.keys import AccessError, Caller, Keys
from tailorbird.serving.auth.limits import Admission, Limiter, LimitError
from tailorbird.serving.auth.networks import client_address, is_public_address
from tailorbird.serving.collector.collector import EventCollector
from tailorbird.serving.collector.decisions import Decision
from tailorbird.serving.http import access
from tailorbird.serving.http.access import Perimeter
from tailorbird.serving.http.body import (
    BODY_BYTES_MAX,
    BODY_DEADLINE_S,
    BodyError,
    Budget,
    read_body,
)
from tailorbird.serving.http.logs import REQUEST_ID, RequestLog
from tailorbird.serving.load_shedding import WAIT_S, Shedder
from tailorbird.serving.messages import (
    ChurnResponse,
    EventDecision,
    Fault,
    Item,
    Query,
    RankQuery,
    Receipts,
    RecommendQuery,
    RecommendResponse,
    SearchQuery,
    ShownItem,
    Similar,
    SlotFormula,
)
from tailorbird.serving.metrics import Metrics
from tailorbird.serving.scores.log import ScoreFeed
from tailorbird.stream.lag import Lag

log = logging.getLogger(__name__)
_encode = msgspec.json.Encoder().encode


class ChurnService(Protocol):
    """The churn models that the HTTP API needs, as `serving.models.churn.ChurnModels`."""

    def answer(self, user_id: str, name: str, *, explain: bool = False) -> ChurnResponse: ...


class FormulaService(Protocol):
    """The formulas that the HTTP API needs, as `serving.pipeline.formulas.LiveFormulas`."""

    def describe_all(self) -> list[SlotFormula]: ...
    def put(self, slot: str, text: str, *, by: str, why: str) -> SlotFormula: ...


class RequestPipeline(Protocol):
    """The pipeline that the HTTP API needs, as `serving.pipeline.pipeline.Pipeline`."""

    def answer(self, query: RecommendQuery) -> RecommendResponse: ...
    def rank(self, query: RankQuery) -> RecommendResponse: ...
    def search(self, query: SearchQuery) -> RecommendResponse: ...
    def similar_items(self, item_id: str, size: int, slot: str = "") -> Similar | None: ...
    def item(self, item_id: str) -> Item | None: ...
    def top_items(
        self, source: str, size: int, category: str | None = None, slot: str = ""
    ) -> list[ShownItem]: ...
    def missing_parts(self) -> list[str]: ...


@dataclass
class Service:
    """The objects that the handlers of one process share.

    Attributes:
        wait_s: how long a request may have to wait for a thread, see `serving.load_shedding`.
        draining: set at shutdown; answers then close their connections, and `/readyz` fails.
        has_warned_of_proxy: whether the warning about an unlisted proxy was logged.
        is_warming: returns whether warm-up still runs; `/readyz` fails meanwhile.
        lags: returns the last measured lag of each log reader.
    """

    pipeline: RequestPipeline
    collector: EventCollector
    keys: Keys = field(default_factory=Keys)
    perimeter: Perimeter = field(default_factory=lambda: Perimeter(hosts=access.LOCAL_HOSTS))
    metrics: Metrics = field(default_factory=Metrics)
    body_bytes_max: int = BODY_BYTES_MAX
    body_deadline_s: float = BODY_DEADLINE_S
    limiter: Limiter = field(default_factory=Limiter)
    budget: Budget = field(default_factory=Budget)
    request_log: RequestLog = field(default_factory=RequestLog)
    churn: ChurnService | None = None
    formulas: FormulaService | None = None
    scores: ScoreFeed | None = None
    threads: int = 2
    wait_s: float = WAIT_S
    draining: bool = False
    has_warned_of_proxy: bool = False
    is_warming: Callable[[], bool] = lambda: False
    lags: Callable[[], list[Lag]] = list
    pool: ThreadPoolExecutor = field(init=False)
    shedder: Shedder = field(init=False)

    def __post_init__(self) -> None:
        self.pool = ThreadPoolExecutor(self.threads, thread_name_prefix="answer")
        self.shedder = Shedder(self.threads, self.wait_s)

    def drain(self) -> None:
        """Announce that this server is about to stop."""
        self.draining = True


def _basic_to_bearer(authorization: str | None) -> str | None:
    """Convert a key in Basic authorisation to a bearer token; return other headers unchanged.

    The key is the password, or the name where there is no password.
    """
    if authorization is None or authorization[:6].lower() != "basic ":
        return authorization
    try:
        name, _, password = (
            base64.b64decode(authorization[6:], validate=True).decode().partition(":")
        )
    except (binascii.Error, UnicodeDecodeError):
        return authorization
    return f"Bearer {password or name}"


Handler = Callable[[Request, Service], Awaitable[Response]]


async def authorize_and_handle(
    request: Request, handler: Handler, scope: str, service: Service, key_header: str
) -> Response:
    """Check the key and its limits, call the handler, and turn its errors into responses.

    `key_header` names another header that may carry the bare key; "" for none.
    """
    authorization = request.headers.get("authorization")
    if (
        authorization is None
        and key_header
        and (key := request.headers.get(key_header)) is not None
    ):
        authorization = f"Bearer {key}"
    authorization = _basic_to_bearer(authorization)
    if not service.has_warned_of_proxy:
        _warn_of_unlisted_proxy(request, service)
    try:
        url_key = request.query_params.get("key") if scope == WRITE else None
        request.state.authorization = authorization
        caller = request.state.caller = service.keys.require(
            scope, authorization, request.headers.get("origin"), url_key=url_key
        )
        service.limiter.admit_request(caller, scope, _limited_address(request, service, caller))
        return await handler(request, service)
    except AccessError as error:
        challenge = {"www-authenticate": "Bearer"} if error.status == 401 else {}
        return error_response(
            error.status,
            error.code,
            error.message,
            fix=error.fix,
            headers={**challenge, "connection": "close"},
        )
    except BodyError as error:
        # The rest of the body is not read, so the connection cannot be used again.
        retry_headers = {"retry-after": str(error.retry_after_s)} if error.retry_after_s else {}
        service.limiter.count_refusal(error.code)
        return error_response(
            error.status,
            error.code,
            error.message,
            fix=error.fix,
            headers={**retry_headers, "connection": "close"},
        )
    except LimitError as error:
        retry_headers = {"retry-after": str(error.retry_after_s)} if error.status == 429 else {}
        return error_response(
            error.status,
            error.code,
            error.message,
            fix=error.fix,
            headers={**retry_headers, "connection": "close"},
        )
    except TailorbirdError as error:
        return _fault_response(error)


def _warn_of_unlisted_proxy(request: Request, service: Service) -> None:
    """Warn once about a proxy that is not configured.

    Nothing seems wrong otherwise until all its users share one limit.
    """
    peer = request.client.host if request.client is not None else ""
    if "x-forwarded-for" not in request.headers or peer in service.limiter.server_limits.proxies:
        return
    service.has_warned_of_proxy = True
    # A public address may belong to a visitor who sent the header, so it is not logged.
    source = peer if peer and not is_public_address(peer) else "an address"
    log.warning(
        "X-Forwarded-For comes from %s, which is not in serve.trusted_proxies: all who come from "
        "there share the limits of one address. "
        "If it is your proxy, name it in serve.trusted_proxies, or TAILORBIRD_SERVE__TRUSTED_PROXIES",
        source,
    )


def _fault_response(error: TailorbirdError) -> Response:
    retry_after_s = getattr(error, "retry_after_s", 1)
    if isinstance(error, UsageError):
        return error_response(400, error.code, error.message, path=error.where, fix=error.fix)
    if isinstance(error, StorageError | NotReadyError):
        status = {"busy": 429, "disk_full": 507}.get(error.code, 503)
        return error_response(
            status,
            error.code,
            error.message,
            fix=error.fix,
            headers={"retry-after": str(retry_after_s)},
        )
    log.error("a request failed: %s", error.code, exc_info=error)
    return error_response(
        503, error.code, "this cannot be answered at the moment", headers={"retry-after": "5"}
    )


def require_additional_scope(request: Request, service: Service, scope: str) -> None:
    """Require that the key has another scope as well as that of its route.

    For WRITE also require that no page of a foreign origin sends the request. Raise AccessError.
    """
    if scope == WRITE:
        access.require_own_origin(
            request.headers, service.perimeter.origins | service.keys.origins()
        )
    service.keys.require(scope, request.state.authorization, request.headers.get("origin"))


async def read_query_body(request: Request, service: Service) -> bytes:
    service.shedder.require_room()
    return await read_request_body(request, service)


async def read_request_body(request: Request, service: Service, *, bytes_max: int = 0) -> bytes:
    """Read the request's body within the limits of its key and the server, or `bytes_max`."""
    caller: Caller = request.state.caller
    key_bytes_max = caller.limits.body_bytes_max
    limit_bytes = bytes_max or (service.body_bytes_max if key_bytes_max is None else key_bytes_max)
    return await read_body(
        request,
        bytes_max=limit_bytes,
        deadline_s=service.body_deadline_s,
        reservation=request.state.reservation,
    )


def create_admission(request: Request, service: Service) -> Admission:
    """Create the check of one body against its sender's limits."""
    caller: Caller = request.state.caller
    return Admission(service.limiter, caller, _limited_address(request, service, caller))


def _limited_address(request: Request, service: Service, caller: Caller) -> str:
    """Return the address whose limits apply, or "" for a caller without such limits."""
    if not caller.public:
        return ""
    peer = request.client.host if request.client is not None else ""
    return client_address(
        peer,
        ",".join(request.headers.getlist("x-forwarded-for")),
        service.limiter.server_limits.proxies,
    )


async def run_in_thread(service: Service, call: Callable[..., Any], *args: Any) -> Any:
    """Run a call in the thread pool. Raise OverloadedError if it would have to wait too long."""
    query = args[0] if args else None
    # Queries that a page depends on take precedence.
    admitted_request = service.shedder.admit(
        getattr(call, "__name__", "other"),
        _relative_size(query),
        is_primary=isinstance(query, Query),
    )
    durations_s: list[float] = []

    def call_and_time() -> Any:
        service.metrics.observe_wait(service.shedder.start(admitted_request))
        started_at = time.perf_counter()
        try:
            return call(*args)
        finally:
            durations_s.append(time.perf_counter() - started_at)

    try:
        # The copied context carries the request's id into the log.
        return await asyncio.get_running_loop().run_in_executor(
            service.pool, copy_context().run, call_and_time
        )
    finally:
        service.shedder.finish(admitted_request, durations_s[0] if durations_s else None)


def _relative_size(query: object) -> float:
    """Return the size of a query relative to others of its kind."""
    return max(1.0, len(query.items) / 10) if isinstance(query, RankQuery) else 1.0


def json_response(value: Any, status: int = 200) -> Response:
    """Encode a value as a JSON response."""
    return Response(_encode(value), status, media_type="application/json")


def receipts_response(decisions: Sequence[Decision]) -> Response:
    """Return a response with the decision on each event of a body."""
    # A body that is refused in full is the sender's mistake, and a 400. If some events were
    # accepted, a retry of the whole body would be wrong.
    refused_count = sum(not decision.accepted for decision in decisions)
    events = [
        EventDecision(decision.accepted, decision.code, decision.path, decision.message)
        for decision in decisions
    ]
    return json_response(
        Receipts(len(decisions) - refused_count, refused_count, events),
        400 if decisions and refused_count == len(decisions) else 200,
    )


async def accept_foreign_events(
    request: Request, service: Service, format_: str, body: bytes
) -> Response:
    """Accept a body in a foreign format, and respond with the decision on each event in it."""
    admission = create_admission(request, service)
    lines = await asyncio.to_thread(
        body_to_lines, format_, body, request.headers, admission.charge_rows
    )
    if not lines:
        return json_response(Receipts(0, 0, []))  # nothing in it is about people or items
    source = request.state.caller.source
    return receipts_response(
        await service.collector.submit_async(
            b"\n".join(lines), "ndjson", source=source, format_=format_, admission=admission
        )
    )


def error_response(
    status: int,
    code: str,
    message: str,
    *,
    path: str = "",
    fix: str = "",
    headers: dict[str, str] | None = None,
) -> Response:
    """Create an error response."""
    return Response(
        _encode(Fault(code, message, path, fix, REQUEST_ID.get())),
        status,
        media_type="application/json",
        headers=headers,
    )
