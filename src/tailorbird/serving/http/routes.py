"""Routes of the HTTP API, with the scope that each needs, and their handlers."""

import asyncio
from dataclasses import asdict

from starlette.requests import Request
from starlette.responses import Response

from tailorbird.events import Event
from tailorbird.serving.auth.keyfile import ADMIN, OPEN, READ, WRITE
from tailorbird.serving.http import access, openapi, tracker
from tailorbird.serving.http.handling import (
    Handler,
    Service,
    accept_foreign_events,
    create_admission,
    json_response,
    read_request_body,
    receipts_response,
)
from tailorbird.serving.http.openapi import Operation
from tailorbird.serving.http.queries import (
    get_churn,
    get_formulas,
    get_item,
    get_scores,
    get_similar,
    put_formula,
    rank,
    recommend,
    search,
)
from tailorbird.serving.messages import (
    ChurnResponse,
    Fault,
    FormulaQuery,
    Item,
    RankQuery,
    Receipts,
    RecommendQuery,
    RecommendResponse,
    SearchQuery,
    Similar,
    SlotFormula,
    Status,
)
from tailorbird.serving.metrics import CONTENT_TYPE
from tailorbird.serving.scores.log import Scores


async def post_events(request: Request, service: Service) -> Response:
    media_type = (
        request.headers.get("content-type", "application/json").partition(";")[0].strip().lower()
    )
    encoding = (
        "ndjson"
        if media_type in ("application/x-ndjson", "application/jsonl", "application/ndjson")
        else "json"
    )
    body = await read_request_body(request, service)
    format_ = request.query_params.get("format", "")
    if not format_ and (
        media_type.startswith("application/cloudevents") or "ce-specversion" in request.headers
    ):
        format_ = "cloudevents"
    if format_:
        return await accept_foreign_events(request, service, format_, body)
    admission = create_admission(request, service)
    source = request.state.caller.source
    return receipts_response(
        await service.collector.submit_async(body, encoding, source=source, admission=admission)
    )


async def healthz(request: Request, service: Service) -> Response:
    """Answer 200 whenever the process runs, so that a failed dependency never gets a healthy
    process killed.
    """
    return Response(b"ok\n", media_type="text/plain")


async def readyz(request: Request, service: Service) -> Response:
    """Tell a load balancer whether to send traffic: the log takes writes, warm-up is done, and no
    drain began.

    Details are in /metrics.
    """
    if service.draining or not service.collector.figures().open:
        return Response(b"not ready\n", 503, media_type="text/plain")
    if service.is_warming():
        return Response(b"warming\n", 503, media_type="text/plain")
    missing = service.pipeline.missing_parts()
    return Response(b"degraded\n" if missing else b"ready\n", media_type="text/plain")


async def get_metrics(request: Request, service: Service) -> Response:
    text = await asyncio.to_thread(service.metrics.text)  # It asks the other servers.
    return Response(text, headers={"content-type": CONTENT_TYPE})


async def get_status(request: Request, service: Service) -> Response:
    """Summarise the server for an operator: log state, missing parts, limits and key usage."""
    figures = service.collector.figures()
    return json_response(
        Status(
            producer=service.collector.producer,
            draining=service.draining,
            missing=service.pipeline.missing_parts(),
            waiting=service.shedder.waiting,
            collector={name: value for name, value in asdict(figures).items() if name != "refused"},
            refused=figures.refused,
            limited=dict(service.limiter.refusals_by_limit),
            keys=service.keys.figures(),
        )
    )


async def get_openapi(request: Request, service: Service) -> Response:
    return json_response(openapi.build_document(OPERATIONS, Fault))


async def get_docs(request: Request, service: Service) -> Response:
    html = openapi.render_page(openapi.build_document(OPERATIONS, Fault))
    content_security_policy = access.SECURITY_HEADERS["content-security-policy"].replace(
        "style-src 'self'", f"style-src {openapi.STYLE_HASH}"
    )
    return Response(
        html, media_type="text/html", headers={"content-security-policy": content_security_policy}
    )


async def get_tracker_script(request: Request, service: Service) -> Response:
    return Response(tracker.read_script(), media_type="text/javascript", headers=tracker.HEADERS)


_EXPLAIN_QUERY = {
    "explain": "`true` tells what stood behind each item, as `explain` in the body does"
}
_QUERY_STATUSES = (400, 401, 403, 408, 413, 415, 429, 503)
_GET_STATUSES = (401, 403, 429, 503)
ROUTES: dict[tuple[str, str], tuple[Handler, Operation]] = {
    ("/v1/events", "POST"): (
        post_events,
        Operation(
            WRITE,
            "Take one event, a list, or one a line; what is accepted is on the disk when "
            "this answers.",
            Event | list[Event],
            Receipts,
            refusal_type=Receipts,
            queries={
                "format": "`segment`, `cloudevents` or `metarank`, for what those send; our own "
                "events without it",
                "key": "a key for browsers, where a page that is left can set no header",
            },
            request_media_types=("application/json", "application/x-ndjson"),
            error_statuses=(400, 401, 403, 408, 413, 415, 429, 503, 507),
        ),
    ),
    ("/v1/recommend", "POST"): (
        recommend,
        Operation(
            READ,
            "Fill a slot for a person.",
            RecommendQuery,
            RecommendResponse,
            queries=_EXPLAIN_QUERY,
            error_statuses=_QUERY_STATUSES,
        ),
    ),
    ("/v1/rank", "POST"): (
        rank,
        Operation(
            READ,
            "Order the caller's own items for a person.",
            RankQuery,
            RecommendResponse,
            queries=_EXPLAIN_QUERY,
            error_statuses=_QUERY_STATUSES,
        ),
    ),
    ("/v1/search", "POST"): (
        search,
        Operation(
            READ,
            "Find items by words, ordered for a person.",
            SearchQuery,
            RecommendResponse,
            queries=_EXPLAIN_QUERY,
            error_statuses=_QUERY_STATUSES,
        ),
    ),
    ("/v1/items/{id}/similar", "GET"): (
        get_similar,
        Operation(
            READ,
            "Items that go with an item.",
            response_type=Similar,
            queries={
                "size": "how many, 12 unless said",
                "slot": "whose rules for everybody, and lists, hold; none unless said",
            },
            error_statuses=(400, 404, *_GET_STATUSES),
        ),
    ),
    ("/v1/users/{id}/churn", "GET"): (
        get_churn,
        Operation(
            READ,
            "How likely a person is to leave.",
            response_type=ChurnResponse,
            queries={
                "model": "which of churn.py, `churn` unless said",
                "explain": "`true` tells what moves the score",
            },
            error_statuses=(400, *_GET_STATUSES),
        ),
    ),
    ("/v1/items/{id}", "GET"): (
        get_item,
        Operation(
            READ,
            "An item as the live index knows it.",
            response_type=Item,
            error_statuses=(404, *_GET_STATUSES),
        ),
    ),
    ("/v1/scores", "GET"): (
        get_scores,
        Operation(
            READ,
            "What was scored as events came in, from a position on.",
            response_type=Scores,
            queries={
                "start": "the `next` of the last answer; 0, or none, for the oldest that is kept"
            },
            error_statuses=(400, 404, *_GET_STATUSES),
        ),
    ),
    ("/v1/formulas", "GET"): (
        get_formulas,
        Operation(
            ADMIN,
            "What an item is worth to each slot.",
            response_type=list[SlotFormula],
            error_statuses=_GET_STATUSES,
        ),
    ),
    ("/v1/formulas/{slot}", "PUT"): (
        put_formula,
        Operation(
            ADMIN,
            "Change what an item is worth to a slot, on all servers, without a new model.",
            FormulaQuery,
            SlotFormula,
            error_statuses=_QUERY_STATUSES,
        ),
    ),
    ("/healthz", "GET"): (healthz, Operation(OPEN, "Whether the process answers.")),
    ("/readyz", "GET"): (
        readyz,
        Operation(OPEN, "Whether traffic should be sent here.", error_statuses=(503,)),
    ),
    ("/metrics", "GET"): (
        get_metrics,
        Operation(READ, "Figures for Prometheus.", error_statuses=(401, 403, 429)),
    ),
    ("/v1/status", "GET"): (
        get_status,
        Operation(
            ADMIN,
            "What this server is doing, and which keys are used.",
            response_type=Status,
            error_statuses=(401, 403),
        ),
    ),
    ("/tailorbird.js", "GET"): (
        get_tracker_script,
        Operation(
            OPEN,
            "The script that sends what people do on a page.",
            text_media_type="text/javascript",
        ),
    ),
    ("/openapi.json", "GET"): (
        get_openapi,
        Operation(READ, "This document.", response_type=dict, error_statuses=(401, 403, 429)),
    ),
    ("/docs", "GET"): (
        get_docs,
        Operation(
            READ,
            "This document as a page.",
            text_media_type="text/html",
            error_statuses=(401, 403, 429),
        ),
    ),
}
OPERATIONS = {key: operation for key, (_, operation) in ROUTES.items()}
