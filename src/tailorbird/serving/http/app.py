"""The HTTP API: an application of the routes, with errors as `{code, message, path}`.

`serving.http.routes` has the handlers, which read, decode and encode. `serving.pipeline.pipeline`
computes answers in threads of its own, so that the event loop stays free to accept.
`serving.http.handling` has what all handlers share, `serving.auth.keys` decides who may call,
`serving.http.access` has the rules for all requests, and `serving.http.body` the limits of a body.
"""

import time
from collections.abc import Sequence

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute
from starlette.types import ASGIApp

from tailorbird.errors import suggest_name
from tailorbird.serving.auth.keyfile import OPEN, SCOPES, WRITE
from tailorbird.serving.auth.keys import ANONYMOUS
from tailorbird.serving.http import segment
from tailorbird.serving.http.access import Guard
from tailorbird.serving.http.addresses import EncodedIdRoute
from tailorbird.serving.http.body import Reservation
from tailorbird.serving.http.handling import Handler, Service, authorize_and_handle, error_response
from tailorbird.serving.http.routes import ROUTES

_SEGMENT_PATH_NAMES = (*segment.BATCH_PATH_NAMES, *segment.MESSAGE_TYPES)


def create_app(service: Service, routes: Sequence[BaseRoute] = ()) -> ASGIApp:
    """Create the ASGI application of a serve process.

    Args:
        routes: additional routes, such as a demo's shop page. Each must be made by `create_route`,
            so that none lacks a declared scope.
    Raises:
        ValueError: a route declares no scope; that is a bug, not a user's mistake.
    """
    own_routes = [
        create_route(path, method, handler, operation.scope, service, allow_slashes=True)
        for (path, method), (handler, operation) in ROUTES.items()
    ]
    own_routes += [
        create_route(path, "POST", handler, WRITE, service, allow_slashes=True)
        for path, handler in segment.handlers_by_path().items()
    ]
    for declared_route in (*own_routes, *routes):
        if getattr(getattr(declared_route, "endpoint", None), "scope", None) not in (OPEN, *SCOPES):
            raise ValueError(f"route {declared_route} declares no scope")
    service.metrics.watch_collector(service.collector.figures)
    service.metrics.watch_shedding(service.shedder)
    service.metrics.watch_limits(lambda: dict(service.limiter.refusals_by_limit))
    app = Starlette(
        routes=[*own_routes, *routes],
        exception_handlers={
            HTTPException: _respond_to_http_error,
            Exception: _respond_to_internal_error,
        },
    )
    app.router.redirect_slashes = False
    return Guard(app, service.perimeter, lambda: service.draining, lambda: service.keys.origins())


def create_route(
    path: str,
    method: str,
    handler: Handler,
    scope: str,
    service: Service,
    *,
    key_header: str = "",
    allow_slashes: bool = False,
) -> EncodedIdRoute:
    """Create a route that requires a key of `scope`, turns errors into response bodies and measures
    times.

    Args:
        key_header: another header that may carry the bare key, for third-party clients.
        allow_slashes: see `EncodedIdRoute`.
    """

    async def endpoint(request: Request) -> Response:
        start = time.perf_counter()
        request.state.caller = ANONYMOUS
        request.state.reservation = Reservation(service.budget)
        status = 500
        try:
            response = await authorize_and_handle(request, handler, scope, service, key_header)
            status = response.status_code
        finally:
            request.state.reservation.release()
            duration_s = time.perf_counter() - start
            service.metrics.record_request(path, status, duration_s)
            service.request_log.record(path, status, duration_s, request.state.caller.id)
        return response

    endpoint.scope = scope  # type: ignore[attr-defined]
    return EncodedIdRoute(path, endpoint, methods=[method], allow_slashes=allow_slashes)


async def _respond_to_http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    code = {404: "no_such_route", 405: "method_not_allowed"}.get(error.status_code, "http")
    fix = _suggest_fix(request.url.path.rstrip("/"), error)
    return error_response(
        error.status_code, code, error.detail, fix=fix, headers=dict(error.headers or {})
    )


def _suggest_fix(path: str, error: HTTPException) -> str:
    """Suggest what to request instead of a path or method that is not served."""
    if error.status_code == 405:
        return f"it takes {(error.headers or {}).get('Allow', 'another method')}"
    last_part = path.rpartition("/")[2]
    if last_part in _SEGMENT_PATH_NAMES:
        return (
            f"Segment's libraries post to /v1/{last_part}: give them this server as their host, "
            "without a path"
        )
    if error.status_code != 404:
        return ""
    return suggest_name(
        path,
        [*(served_path for served_path, _ in ROUTES), *segment.handlers_by_path()],
        "/docs lists the routes",
    )


async def _respond_to_internal_error(request: Request, error: Exception) -> Response:
    """Answer 500 without the traceback, which the server has already logged."""
    return error_response(500, "internal", "this is a fault of the server's; it has been logged")
