"""`tailorbird run serve`: the HTTP API."""

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from tailorbird.cli.roles.start import report_plain_copy, start_role

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from starlette.routing import BaseRoute

    from tailorbird.serving.http.handling import Service


def serve(*, host: str | None = None, port: int | None = None, shop: bool = False) -> None:
    """Serve the HTTP API: events in, recommendations out.

    The address is printed last, and is also stored in data/run/.

    Example:  tailorbird -C shop run serve --port 9000

    Parameters
    ----------
    host:
        address to bind instead of serve.host; any other than this machine's needs a key
    port:
        port to bind instead of serve.port; 0 takes any free port
    shop:
        also serve the demo shop at /shop
    """
    from tailorbird.cli.roles.serve_options import build_serve_options
    from tailorbird.config import open_project
    from tailorbird.config.erasures import apply_remote_erasures
    from tailorbird.config.roles import read_roles
    from tailorbird.console.home import home_routes
    from tailorbird.console.overview import read_overview
    from tailorbird.platform.runtime.listeners import is_port_explicit
    from tailorbird.serving.http.access import require_origins
    from tailorbird.serving.http.logs import configure
    from tailorbird.serving.server import run as run_server
    from tailorbird.serving.sockets import inherited_listener

    listener = inherited_listener()
    # Under `up` it outlives the supervisor, and the next one takes its place.
    stop_event = start_role(outlives_up=listener is not None)
    project = open_project(use_applied=True)
    apply_remote_erasures(project)
    settings = project.settings.serve
    configure(as_json=settings.log_format == "json")
    report_plain_copy(project)
    require_origins(settings.allowed_origins)
    # In addition to the routes of the API.
    route_factories: list[Callable[[Service], Sequence[BaseRoute]]] = []
    slots = project.slots
    if settings.gorse_slot:
        from tailorbird.platform.diagnostics.declarations import require_gorse_slot
        from tailorbird.serving.http.gorse import gorse_routes, with_hidden_rule

        require_gorse_slot(project)
        route_factories.append(partial(gorse_routes, slot=settings.gorse_slot))
        slots = with_hidden_rule(slots, settings.gorse_slot)
    route_factories.append(
        partial(
            home_routes,
            read_overview=partial(read_overview, project, shop=shop),
            reports_folder=project.paths.reports,
        )
    )
    if shop:
        from tailorbird.console.shop import shop_routes

        # The demo's page has a slot without an experiment.
        slot = "front" if "front" in project.slots else project.slot().name
        route_factories.append(partial(shop_routes, slot=slot))
    project.paths.stream.mkdir(parents=True, exist_ok=True)
    options = replace(
        build_serve_options(project),
        slots=slots,
        host=host or settings.host,
        port=settings.port if port is None else port,
        is_port_explicit=is_port_explicit(project, port),
        processes=1 if listener is None else settings.processes,
        roles=partial(read_roles, project.paths.run),
        routes=lambda service: [route for factory in route_factories for route in factory(service)],
    )
    run_server(options, stop=stop_event, log_clock=project.clock(), listener=listener)
