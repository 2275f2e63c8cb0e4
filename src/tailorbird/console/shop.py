"""The demo shop: a page on which a brand-new visitor sees each click change the next list, and why.

    GET  /shop, /shop/shop.js, …                 the page, from this package; it is told which slot to show
    GET  /shop/picture/{id}.svg                  drawn from the item's attributes
    POST /shop/person                            the person's own features as the state holds them now

Everything else the page asks of the ordinary API.
"""

from html import escape
from importlib.resources import files

import msgspec
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from tailorbird.errors import NotReadyError
from tailorbird.features import ReadRequest
from tailorbird.serving.access import SECURITY_HEADERS
from tailorbird.serving.app import route
from tailorbird.serving.handling import Handler, Service, body_of
from tailorbird.serving.keyfile import OPEN, READ
from tailorbird.serving.messages import decode
from tailorbird.serving.pipeline import Pipeline
from tailorbird.simulator import item_picture

_FILES = {
    "shop": ("shop.html", "text/html"),
    "shop/shop.js": ("shop.js", "text/javascript"),
    "shop/shop.css": ("shop.css", "text/css"),
    "shop/icon.svg": ("icon.svg", "image/svg+xml"),
}
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "frame-ancestors 'none'; base-uri 'none'; form-action 'self'"
)


class PersonQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Whose features to read."""

    anonymous_id: str
    session_id: str | None = None


_person = msgspec.json.Decoder(PersonQuery)


def shop_routes(service: Service, slot: str) -> list[Route]:
    """The shop's routes, to be mounted beside the API's; the page shows `slot`."""
    page = [route(f"/{path}", "GET", _static(*file, slot), OPEN, service) for path, file in _FILES.items()]
    return [
        route("/", "GET", _home, OPEN, service),
        *page,
        route("/shop/picture/{id}.svg", "GET", _picture, OPEN, service),
        route("/shop/person", "POST", _read_person, READ, service),
    ]


async def _home(request: Request, service: Service) -> Response:
    return RedirectResponse("/shop", 302)


def _static(name: str, kind: str, slot: str) -> Handler:
    content = (files("tailorbird.console") / "static" / name).read_text()
    if name.endswith(".html"):
        content = content.replace("{slot}", escape(slot))

    async def handler(request: Request, service: Service) -> Response:
        return Response(content, media_type=kind, headers={"content-security-policy": _POLICY})

    return handler


async def _picture(request: Request, service: Service) -> Response:
    item = service.pipeline.item(request.path_params["id"])
    svg = item_picture(item.attributes if item else {})
    headers = {"content-security-policy": SECURITY_HEADERS["content-security-policy"], "cache-control": "max-age=600"}
    return Response(svg, media_type="image/svg+xml", headers=headers)


async def _read_person(request: Request, service: Service) -> Response:
    body = await body_of(request, service, bytes_max=4_096)
    query = decode(body, _person)
    return Response(msgspec.json.encode(read_person(service, query)), media_type="application/json")


def read_person(service: Service, query: PersonQuery) -> dict[str, object]:
    """The person's features without any item: what is about an item is missing.

    `seen` moves when an event of theirs has come in: the time of the newest one in a sequence, or the state's commit where none is kept.
    """
    pipeline = service.pipeline
    if not isinstance(pipeline, Pipeline):
        return {"seen": 0, "features": {}}
    anonymous_id = query.anonymous_id if pipeline.pseudonyms is None else pipeline.pseudonyms.anonymous_id(query.anonymous_id)
    request = ReadRequest(None, anonymous_id, query.session_id, None, None, 0, pipeline.clock.now())
    with pipeline.reading() as reading:
        try:
            rows = None if reading.reader is None else reading.reader.person(request)
        except NotReadyError:
            rows = None
    if rows is None:
        return {"seen": 0, "features": {}}
    newest = max((int(sequence.ts[-1]) for sequence in rows.sequences.values() if len(sequence.ts)), default=0)
    values = zip(reading.features.numeric, rows.numeric[0].tolist(), strict=True)
    return {"seen": newest if rows.sequences else rows.commit, "features": {name: value for name, value in values if value == value}}
