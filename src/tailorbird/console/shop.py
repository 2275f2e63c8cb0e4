"""The demo shop: a page on which a new visitor sees how each click changes the next list, and why.

    GET  /shop, /shop/shop.js, …         the page, from this package, with the slot to show
    GET  /shop/picture/{id}.svg          drawn from the item's attributes

All other requests of the page go to the ordinary API, and to the routes of `console.home`.
"""

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from tailorbird.console.pages import static_file
from tailorbird.serving.auth.keyfile import OPEN
from tailorbird.serving.http.access import SECURITY_HEADERS
from tailorbird.serving.http.app import create_route
from tailorbird.serving.http.handling import Service
from tailorbird.simulator import item_picture


def shop_routes(service: Service, slot: str) -> list[Route]:
    """Return the shop's routes, to be mounted beside those of the page at `/`; the shop shows
    `slot`.
    """
    return [
        create_route("/shop", "GET", static_file("shop.html", slot=slot), OPEN, service),
        *(
            create_route(f"/shop/{name}", "GET", static_file(name), OPEN, service)
            for name in ("shop.js", "shop.css")
        ),
        create_route("/shop/picture/{id}.svg", "GET", _get_picture, OPEN, service),
    ]


async def _get_picture(request: Request, service: Service) -> Response:
    item = service.pipeline.item(request.path_params["id"])
    svg = item_picture(item.attributes if item else {})
    headers = {
        "content-security-policy": SECURITY_HEADERS["content-security-policy"],
        "cache-control": "max-age=600",
    }
    return Response(svg, media_type="image/svg+xml", headers=headers)
