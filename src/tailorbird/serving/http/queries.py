"""Handlers of queries and scores."""

from functools import partial

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from tailorbird.errors import NotReadyError
from tailorbird.serving.http.handling import (
    Service,
    error_response,
    json_response,
    read_query_body,
    run_in_thread,
)
from tailorbird.serving.messages import (
    SIZE_MAX,
    FormulaQuery,
    QueryError,
    RankQuery,
    RecommendQuery,
    SearchQuery,
    decode,
)
from tailorbird.serving.pipeline.request import AnyQuery
from tailorbird.serving.scores.log import not_scored_error

_recommend_decoder = msgspec.json.Decoder(RecommendQuery)
_rank_decoder = msgspec.json.Decoder(RankQuery)
_search_decoder = msgspec.json.Decoder(SearchQuery)
_formula_decoder = msgspec.json.Decoder(FormulaQuery)


async def recommend(request: Request, service: Service) -> Response:
    query = _with_explain(
        request, decode(await read_query_body(request, service), _recommend_decoder)
    )
    return json_response(await run_in_thread(service, service.pipeline.answer, query))


async def rank(request: Request, service: Service) -> Response:
    query = _with_explain(request, decode(await read_query_body(request, service), _rank_decoder))
    return json_response(await run_in_thread(service, service.pipeline.rank, query))


async def search(request: Request, service: Service) -> Response:
    query = _with_explain(request, decode(await read_query_body(request, service), _search_decoder))
    return json_response(await run_in_thread(service, service.pipeline.search, query))


async def get_similar(request: Request, service: Service) -> Response:
    size = _parse_size(request.query_params.get("size", "12"))
    slot = request.query_params.get("slot", "")
    similar_items = await run_in_thread(
        service, service.pipeline.similar_items, request.path_params["id"], size, slot
    )
    return _unknown_item() if similar_items is None else json_response(similar_items)


async def get_item(request: Request, service: Service) -> Response:
    details = await run_in_thread(service, service.pipeline.item, request.path_params["id"])
    return _unknown_item() if details is None else json_response(details)


async def get_churn(request: Request, service: Service) -> Response:
    if service.churn is None:
        raise NotReadyError("there is no churn model", fix="declare one in churn.py")
    explain = _wants_explanation(request)
    name = request.query_params.get("model", "churn")
    return json_response(
        await run_in_thread(
            service, partial(service.churn.answer, explain=explain), request.path_params["id"], name
        )
    )


async def get_scores(request: Request, service: Service) -> Response:
    if service.scores is None:
        return error_response(
            404,
            "no_scores",
            "this project scores nobody",
            fix="declare what to score in scores.py, and run tailorbird up",
        )
    text = request.query_params.get("start", "0")
    start = int(text) if text.isascii() and text.isdecimal() and len(text) <= 18 else -1
    if start < 0:
        raise QueryError(f"expected a position, got {text[:20]!r}", path="start")
    try:
        return json_response(await run_in_thread(service, service.scores.read, start))
    except NotReadyError as error:
        raise not_scored_error(error) from None


async def get_formulas(request: Request, service: Service) -> Response:
    return json_response(
        []
        if service.formulas is None
        else await run_in_thread(service, service.formulas.describe_all)
    )


async def put_formula(request: Request, service: Service) -> Response:
    if service.formulas is None:
        raise NotReadyError("this server has no registry")
    query = decode(await read_query_body(request, service), _formula_decoder)
    put = partial(service.formulas.put, by=f"key {request.state.caller.id}", why=query.why)
    return json_response(
        await run_in_thread(service, put, request.path_params["slot"], query.formula)
    )


def _wants_explanation(request: Request) -> bool:
    return request.query_params.get("explain", "").lower() in ("true", "1")


def _with_explain(request: Request, query: AnyQuery) -> AnyQuery:
    """Return the query with `explain` set if the URL asks for it."""
    return msgspec.structs.replace(query, explain=True) if _wants_explanation(request) else query


def _parse_size(text: str) -> int:
    size = int(text) if text.isascii() and text.isdecimal() and len(text) <= 3 else 0
    if not 1 <= size <= SIZE_MAX:
        raise QueryError(f"expected a number from 1 to {SIZE_MAX}, got {text[:20]!r}", path="size")
    return size


def _unknown_item() -> Response:
    return error_response(404, "unknown_item", "the live index has no such item")
