"""The page at `/` of any project: its state, and a list for any person with the effect of each
click.

    GET  /                           the page
    GET  /console/overview           its data as JSON, see `console.overview`
    GET  /console/reports/{name}     a report that a command has written
"""

from collections.abc import Callable
from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from tailorbird.console.overview import Overview
from tailorbird.console.pages import post_person, static_file
from tailorbird.serving.auth.keyfile import ADMIN, OPEN, READ
from tailorbird.serving.http.app import create_route
from tailorbird.serving.http.handling import (
    Handler,
    Service,
    error_response,
    json_response,
    run_in_thread,
)

_STATIC_FILES = ("style.css", "live.js", "home.js", "icon.svg")
# Reports contain their own styles and drawings, and no script.
_REPORT_SECURITY_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; img-src data:; frame-ancestors "
    "'none'; base-uri 'none'; form-action 'none'"
)


def home_routes(
    service: Service, read_overview: Callable[[Service], Overview], reports_folder: Path
) -> list[Route]:
    """Return the routes of the page, to be mounted beside those of the API.

    Args:
        read_overview: reads the state of the project, see `console.overview`.
        reports_folder: the folder of reports.
    """
    # A route that is `OPEN` needs no key; the others need one with the scope `READ` or `ADMIN`.
    return [
        create_route("/", "GET", static_file("home.html"), OPEN, service),
        *(
            create_route(f"/console/{name}", "GET", static_file(name), OPEN, service)
            for name in _STATIC_FILES
        ),
        create_route("/console/person", "POST", post_person, READ, service),
        create_route(
            "/console/overview", "GET", _make_overview_handler(read_overview), ADMIN, service
        ),
        create_route(
            "/console/reports/{name}", "GET", _make_report_handler(reports_folder), ADMIN, service
        ),
    ]


def _make_overview_handler(read_overview: Callable[[Service], Overview]) -> Handler:
    async def handler(request: Request, service: Service) -> Response:
        return json_response(await run_in_thread(service, read_overview, service))

    return handler


def _make_report_handler(folder: Path) -> Handler:
    async def handler(request: Request, service: Service) -> Response:
        name = request.path_params["name"]
        path = folder / name
        if not name.endswith(".html") or path.name != name or not path.is_file():
            return error_response(404, "unknown_report", "there is no such report")
        return Response(
            path.read_bytes(),
            media_type="text/html",
            headers={"content-security-policy": _REPORT_SECURITY_POLICY},
        )

    return handler
