"""The HTTP side: routes, each with the scope that it needs, and errors as `{code, message, path}`.

Handlers read, decode and encode; what an answer is, `serving.pipeline` decides, in threads of its own, so that the loop
stays free to accept. Who may call is `serving.keys`, what holds for all requests `serving.access`; the limits of a body, `serving.body`.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp

from tailorbird.errors import NotReadyError, StorageError, TailorbirdError, UsageError
from tailorbird.events import Event
from tailorbird.events.adapters.webhook import lines_of_body
from tailorbird.serving import access, openapi
from tailorbird.serving.access import Guard, Perimeter
from tailorbird.serving.body import BODY_BYTES_MAX, BODY_DEADLINE_S, BodyError, Budget, Held, read_body
from tailorbird.serving.decisions import Admit
from tailorbird.serving.door import Door
from tailorbird.serving.keyfile import ADMIN, OPEN, READ, SCOPES, WRITE
from tailorbird.serving.keys import ANYBODY, AccessError, Caller, Keys
from tailorbird.serving.limits import Limiter, LimitError, address_of
from tailorbird.serving.logs import REQUEST_ID, RequestLog
from tailorbird.serving.messages import (
    SIZE_MAX,
    Answer,
    EventDecision,
    Fault,
    Item,
    QueryError,
    RankQuery,
    Receipts,
    RecommendQuery,
    SearchQuery,
    Shown,
    Similar,
    Status,
    decode,
)
from tailorbird.serving.metrics import CONTENT_TYPE, Metrics
from tailorbird.serving.openapi import Operation

WAITING_MAX = 64  # requests that run or wait for a thread; more are refused at once, while refusing is cheap
log = logging.getLogger(__name__)


class Answers(Protocol):
    """What the HTTP side asks of a pipeline; `serving.pipeline.Pipeline` is the one."""

    def answer(self, query: RecommendQuery) -> Answer: ...
    def rank(self, query: RankQuery) -> Answer: ...
    def search(self, query: SearchQuery) -> Answer: ...
    def similar(self, item_id: str, size: int) -> Similar | None: ...
    def item(self, item_id: str) -> Item | None: ...
    def listed(self, source: str, size: int, category: str | None = None) -> list[Shown]: ...
    def missing(self) -> list[str]: ...


@dataclass
class Service:
    """What the handlers of one process share.

    Attributes:
        draining: set at shutdown; answers then close their connections and `/readyz` says no.
    """

    pipeline: Answers
    door: Door
    keys: Keys = field(default_factory=Keys)
    perimeter: Perimeter = field(default_factory=lambda: Perimeter(hosts=access.LOCAL_HOSTS))
    metrics: Metrics = field(default_factory=Metrics)
    body_bytes_max: int = BODY_BYTES_MAX
    body_deadline_s: float = BODY_DEADLINE_S
    limiter: Limiter = field(default_factory=Limiter)
    budget: Budget = field(default_factory=Budget)
    requests: RequestLog = field(default_factory=RequestLog)
    threads: int = 2
    draining: bool = False
    waiting: int = 0
    pool: ThreadPoolExecutor = field(init=False)

    def __post_init__(self) -> None:
        self.pool = ThreadPoolExecutor(self.threads, thread_name_prefix="answer")


class OverloadedError(StorageError):
    """Too many requests wait already."""

    code = "overloaded"
    retry_after_s = 1


Handler = Callable[[Request, Service], Awaitable[Response]]
_recommend = msgspec.json.Decoder(RecommendQuery)
_rank = msgspec.json.Decoder(RankQuery)
_search = msgspec.json.Decoder(SearchQuery)
_encode = msgspec.json.Encoder().encode


async def post_events(request: Request, service: Service) -> Response:
    kind = request.headers.get("content-type", "application/json").partition(";")[0].strip().lower()
    encoding = "ndjson" if kind in ("application/x-ndjson", "application/jsonl", "application/ndjson") else "json"
    body = await body_of(request, service)
    admit, source = admission(request, service), request.state.caller.source
    format_ = request.query_params.get("format", "")
    if not format_:
        decisions = await service.door.submit_async(body, encoding, source=source, admit=admit)
    elif lines := await asyncio.to_thread(lines_of_body, format_, body):
        decisions = await service.door.submit_async(b"\n".join(lines), "ndjson", source=source, format_=format_, admit=admit)
    else:
        return as_json(Receipts(0, 0, []))  # nothing in it says anything about people and items
    refused = sum(not decision.accepted for decision in decisions)
    events = [EventDecision(each.accepted, each.code, each.path, each.message) for each in decisions]
    # All refused is the sender's mistake, and said as one; with some accepted, a retry of the whole would be wrong.
    return as_json(Receipts(len(decisions) - refused, refused, events), 400 if refused == len(decisions) else 200)


async def recommend(request: Request, service: Service) -> Response:
    query = decode(await _body(request, service), _recommend)
    return as_json(await in_thread(service, service.pipeline.answer, query))


async def rank(request: Request, service: Service) -> Response:
    query = decode(await _body(request, service), _rank)
    return as_json(await in_thread(service, service.pipeline.rank, query))


async def search(request: Request, service: Service) -> Response:
    query = decode(await _body(request, service), _search)
    return as_json(await in_thread(service, service.pipeline.search, query))


async def similar(request: Request, service: Service) -> Response:
    size = _size(request.query_params.get("size", "12"))
    found = await in_thread(service, service.pipeline.similar, request.path_params["id"], size)
    return _unknown_item() if found is None else as_json(found)


async def item(request: Request, service: Service) -> Response:
    found = await in_thread(service, service.pipeline.item, request.path_params["id"])
    return _unknown_item() if found is None else as_json(found)


async def healthz(request: Request, service: Service) -> Response:
    """The process answers; that is all it says, so that a dead dependency never gets a healthy process killed."""
    return Response(b"ok\n", media_type="text/plain")


async def readyz(request: Request, service: Service) -> Response:
    """Whether a balancer should send traffic: the log takes writes, and we are not stopping. Details are in /metrics."""
    if service.draining or not service.door.figures().open:
        return Response(b"not ready\n", 503, media_type="text/plain")
    missing = service.pipeline.missing()
    return Response(b"degraded\n" if missing else b"ready\n", media_type="text/plain")


async def metrics(request: Request, service: Service) -> Response:
    return Response(service.metrics.text(), headers={"content-type": CONTENT_TYPE})


async def status(request: Request, service: Service) -> Response:
    """What an operator asks in a hurry: does the log take writes, what is missing, which keys are used."""
    door = service.door.figures()
    return as_json(
        Status(
            producer=service.door.producer,
            draining=service.draining,
            missing=service.pipeline.missing(),
            waiting=service.waiting,
            door={name: value for name, value in asdict(door).items() if name != "refused"},
            refused=door.refused,
            limited=dict(service.limiter.limited),
            keys=service.keys.figures(),
        )
    )


async def spec(request: Request, service: Service) -> Response:
    return as_json(openapi.document(OPERATIONS, Fault))


async def docs(request: Request, service: Service) -> Response:
    html = openapi.page(openapi.document(OPERATIONS, Fault))
    policy = access.SECURITY_HEADERS["content-security-policy"].replace("style-src 'self'", f"style-src {openapi.STYLE_HASH}")
    return Response(html, media_type="text/html", headers={"content-security-policy": policy})


_QUERY_STATUSES = (400, 401, 403, 408, 413, 415, 429, 503)
_GET_STATUSES = (401, 403, 429, 503)
ROUTES: dict[tuple[str, str], tuple[Handler, Operation]] = {
    ("/v1/events", "POST"): (
        post_events,
        Operation(
            WRITE,
            "Take one event, a list, or one a line; what is accepted is on the disk when this answers.",
            Event | list[Event],
            Receipts,
            refuses=Receipts,
            queries={"format": "`segment` or `cloudevents`, for what those send; our own events without it"},
            body_types=("application/json", "application/x-ndjson"),
            statuses=(400, 401, 403, 408, 413, 415, 429, 503, 507),
        ),
    ),
    ("/v1/recommend", "POST"): (recommend, Operation(READ, "Fill a slot for a person.", RecommendQuery, Answer, statuses=_QUERY_STATUSES)),
    ("/v1/rank", "POST"): (
        rank,
        Operation(READ, "Order the caller's own items for a person.", RankQuery, Answer, statuses=_QUERY_STATUSES),
    ),
    ("/v1/search", "POST"): (
        search,
        Operation(READ, "Find items by words, ordered for a person.", SearchQuery, Answer, statuses=_QUERY_STATUSES),
    ),
    ("/v1/items/{id}/similar", "GET"): (
        similar,
        Operation(
            READ,
            "Items that go with an item.",
            gives=Similar,
            queries={"size": "how many, 12 unless said"},
            statuses=(400, 404, *_GET_STATUSES),
        ),
    ),
    ("/v1/items/{id}", "GET"): (item, Operation(READ, "An item as the live index knows it.", gives=Item, statuses=(404, *_GET_STATUSES))),
    ("/healthz", "GET"): (healthz, Operation(OPEN, "Whether the process answers.")),
    ("/readyz", "GET"): (readyz, Operation(OPEN, "Whether traffic should be sent here.", statuses=(503,))),
    ("/metrics", "GET"): (metrics, Operation(READ, "Figures for Prometheus.", statuses=(401, 403, 429))),
    ("/v1/status", "GET"): (
        status,
        Operation(ADMIN, "What this server is doing, and which keys are used.", gives=Status, statuses=(401, 403)),
    ),
    ("/openapi.json", "GET"): (spec, Operation(READ, "This document.", gives=dict, statuses=(401, 403, 429))),
    ("/docs", "GET"): (docs, Operation(READ, "This document as a page.", text="text/html", statuses=(401, 403, 429))),
}
OPERATIONS = {key: operation for key, (_, operation) in ROUTES.items()}


def create_app(service: Service, routes: Sequence[BaseRoute] = ()) -> ASGIApp:
    """The ASGI application of a serve process.

    Args:
        routes: more routes, such as a demo's shop page, each made by `route`, so that none goes without a declared scope.
    Raises:
        ValueError: a route declares no scope; that is a bug, not a user's mistake.
    """
    own = [route(path, method, handler, operation.scope, service) for (path, method), (handler, operation) in ROUTES.items()]
    for each in (*own, *routes):
        if getattr(getattr(each, "endpoint", None), "scope", None) not in (OPEN, *SCOPES):
            raise ValueError(f"route {each} declares no scope")
    service.metrics.watch_door(service.door.figures)
    service.metrics.watch_limits(lambda: dict(service.limiter.limited))
    app = Starlette(routes=[*own, *routes], exception_handlers={HTTPException: _http_fault, Exception: _bug})
    app.router.redirect_slashes = False
    return Guard(app, service.perimeter, lambda: service.draining, lambda: service.keys.origins())


def route(path: str, method: str, handler: Handler, scope: str, service: Service, *, key_header: str = "") -> Route:
    """A route whose handler is reached only with a key of `scope`; errors are turned into their bodies, times measured.

    `key_header` names another header that may carry the bare key, for the clients of others.
    """

    async def endpoint(request: Request) -> Response:
        start = time.perf_counter()
        request.state.caller, request.state.held = ANYBODY, Held(service.budget)
        status = 500
        try:
            response = await _guarded(request, handler, scope, service, key_header)
            status = response.status_code
        finally:
            request.state.held.release()
            seconds = time.perf_counter() - start
            service.metrics.request(path, status, seconds)
            service.requests.note(path, status, seconds, request.state.caller.id)
        return response

    endpoint.scope = scope  # type: ignore[attr-defined]
    return Route(path, endpoint, methods=[method])


async def _guarded(request: Request, handler: Handler, scope: str, service: Service, key_header: str) -> Response:
    authorization = request.headers.get("authorization")
    if authorization is None and key_header and (key := request.headers.get(key_header)) is not None:
        authorization = f"Bearer {key}"
    try:
        caller = request.state.caller = service.keys.require(scope, authorization, request.headers.get("origin"))
        service.limiter.begin(caller, scope, _address(request, service, caller))
        return await handler(request, service)
    except AccessError as error:
        challenge = {"www-authenticate": "Bearer"} if error.status == 401 else {}
        return fault(error.status, error.code, error.message, fix=error.fix, headers={**challenge, "connection": "close"})
    except BodyError as error:
        # The rest of the body is not read, so the connection cannot be used again.
        wait = {"retry-after": str(error.retry_after_s)} if error.retry_after_s else {}
        service.limiter.refused(error.code)
        return fault(error.status, error.code, error.message, fix=error.fix, headers={**wait, "connection": "close"})
    except LimitError as error:
        wait = {"retry-after": str(error.retry_after_s)} if error.status == 429 else {}
        return fault(error.status, error.code, error.message, fix=error.fix, headers={**wait, "connection": "close"})
    except TailorbirdError as error:
        return _fault_of(error)


def _fault_of(error: TailorbirdError) -> Response:
    retry_after_s = getattr(error, "retry_after_s", 1)
    if isinstance(error, UsageError):
        return fault(400, error.code, error.message, path=error.where, fix=error.fix)
    if isinstance(error, StorageError | NotReadyError):
        status = {"busy": 429, "disk_full": 507}.get(error.code, 503)
        return fault(status, error.code, error.message, fix=error.fix, headers={"retry-after": str(retry_after_s)})
    log.error("a request failed: %s", error.code, exc_info=error)
    return fault(503, error.code, "this cannot be answered at the moment", headers={"retry-after": "5"})


async def _body(request: Request, service: Service) -> bytes:
    if service.waiting >= WAITING_MAX:
        service.metrics.shed()
        raise OverloadedError("too many requests wait already", fix="ask again in a second")
    return await body_of(request, service)


async def body_of(request: Request, service: Service, *, bytes_max: int = 0) -> bytes:
    """The request's body, within the limits of its key and of the server, or of `bytes_max`."""
    caller: Caller = request.state.caller
    own = caller.limits.body_bytes_max
    most = bytes_max or (service.body_bytes_max if own is None else own)
    return await read_body(request, bytes_max=most, deadline_s=service.body_deadline_s, held=request.state.held)


def admission(request: Request, service: Service) -> Admit:
    """What the door asks whether the key may send all this."""
    caller: Caller = request.state.caller
    return service.limiter.admit(caller, _address(request, service, caller))


def _address(request: Request, service: Service, caller: Caller) -> str:
    if not caller.public or request.client is None:
        return ""
    return address_of(request.client.host, request.headers.get("x-forwarded-for"), service.limiter.server.proxies)


async def in_thread(service: Service, call: Callable[..., Any], *args: Any) -> Any:
    """What a call gives that may take a while, made in a thread, unless too many wait already."""
    if service.waiting >= WAITING_MAX:
        service.metrics.shed()
        raise OverloadedError("too many requests wait already", fix="ask again in a second")
    service.waiting += 1
    try:
        # In a copy of the context, so that what is logged there has the request's id.
        return await asyncio.get_running_loop().run_in_executor(service.pool, copy_context().run, call, *args)
    finally:
        service.waiting -= 1


def _size(text: str) -> int:
    size = int(text) if text.isascii() and text.isdecimal() and len(text) <= 3 else 0
    if not 1 <= size <= SIZE_MAX:
        raise QueryError(f"expected a number from 1 to {SIZE_MAX}, got {text[:20]!r}", path="size")
    return size


def _unknown_item() -> Response:
    return fault(404, "unknown_item", "the live index has no such item")


def as_json(value: Any, status: int = 200) -> Response:
    """An answer of JSON."""
    return Response(_encode(value), status, media_type="application/json")


def fault(status: int, code: str, message: str, *, path: str = "", fix: str = "", headers: dict[str, str] | None = None) -> Response:
    """Why there is no answer."""
    return Response(_encode(Fault(code, message, path, fix, REQUEST_ID.get())), status, media_type="application/json", headers=headers)


async def _http_fault(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    code = {404: "no_such_route", 405: "method_not_allowed"}.get(error.status_code, "http")
    return fault(error.status_code, code, error.detail, headers=dict(error.headers or {}))


async def _bug(request: Request, error: Exception) -> Response:
    """What nobody foresaw: logged by the server with its traceback, told without it."""
    return fault(500, "internal", "this is a fault of the server's; it has been logged")
