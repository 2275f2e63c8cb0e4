"""`tailorbird run ROLE`: one role as a process, until SIGTERM; `up` runs all of them."""

import logging
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from tailorbird.cli.supervisor import die_with_parent
from tailorbird.errors import ConfigError

if TYPE_CHECKING:
    from starlette.routing import BaseRoute

    from tailorbird.config import Project
    from tailorbird.serving.app import Service

LAKE_POLL_S = 0.2
log = logging.getLogger(__name__)


def serve(*, host: str | None = None, port: int | None = None, shop: bool = False) -> None:
    """Answer over HTTP: events in, recommendations out. The address is printed last, and stands in data/run/.

    Example:  tailorbird -C shop run serve --port 9000

    Parameters
    ----------
    host:
        address to bind instead of serve.host; anything but this machine needs a key
    port:
        port to bind instead of serve.port; 0 takes any
    shop:
        also show the demo shop at /shop
    """
    from tailorbird.config import open_project
    from tailorbird.serving.limits import ServerLimits
    from tailorbird.serving.logs import configure
    from tailorbird.serving.server import ServeOptions, run

    _begin()
    project = open_project(applied=True)
    settings, paths = project.settings.serve, project.paths
    configure(as_json=settings.log == "json")
    more: list[Callable[[Service], Sequence[BaseRoute]]] = []  # beside the API's own
    if settings.gorse_slot:
        from tailorbird.serving.gorse import gorse_routes

        if settings.gorse_slot not in project.slots:
            raise ConfigError(
                f"there is no slot {settings.gorse_slot!r}", where="serve.gorse_slot", fix=f"use one of {', '.join(project.slots)}"
            )
        more.append(partial(gorse_routes, slot=settings.gorse_slot))
    if shop:
        from tailorbird.console.shop import shop_routes

        slot = "front" if "front" in project.slots else project.slot().name  # the demo's page has a slot without an experiment
        more.append(partial(shop_routes, slot=slot))
    asked = port is not None or any(origin.key == "serve.port" and origin.source.startswith("environment") for origin in project.origins)
    paths.stream.mkdir(parents=True, exist_ok=True)
    options = ServeOptions(
        stream=project.stream,
        routed=project.routed,
        state=paths.state,
        copies=project.settings.store.url,
        registry=paths.registry,
        lake=paths.lake,
        run=paths.run,
        features=project.features,
        slots=project.slots,
        plan=project.plan,
        host=host or settings.host,
        port=settings.port if port is None else port,
        port_asked=asked,
        write_keys=settings.write_keys,
        read_keys=settings.read_keys,
        admin_keys=settings.admin_keys,
        keys_file=project.root / settings.keys_file,
        origins=settings.origins,
        limits=ServerLimits(
            requests_per_s=settings.requests_per_s,
            events_per_s=settings.events_per_s,
            batch_max=settings.batch_max,
            ids_per_hour=settings.ids_per_hour,
            address_events_per_s=settings.address_events_per_s,
            proxies=frozenset(settings.proxies),
        ),
        log_requests=settings.log_requests,
        pseudonyms=project.pseudonyms(),
        stopped=project.stopped(),
        body_bytes_max=settings.body_bytes_max,
        reserve_bytes=settings.disk_reserve_mb << 20,
        routes=lambda service: [each for routes in more for each in routes(service)],
    )
    run(options)


def router() -> None:
    """Decide on every event once: contract, repeats, identity, profiles, attribution.

    Where topics have several partitions, start as many of these as you like, on any machines: they share the partitions out.

    Example:  tailorbird -C shop run router
    """
    from tailorbird.config import open_project
    from tailorbird.config.schemas import active_schemas, plan_for, released
    from tailorbird.events import SECOND, SystemClock, duration
    from tailorbird.router import run

    stop = _begin()
    project = open_project(applied=True)
    project.paths.stream.mkdir(parents=True, exist_ok=True)
    plan, memory = plan_for(project, active_schemas(project)), project.settings.router.memory_mb << 20
    if not isinstance(project.stream, Path) and project.stream.count > 1:
        from tailorbird.router.group import run_member

        session_s = duration(project.settings.stream.session) / SECOND
        run_member(project.stream, plan, SystemClock(), stop, session_s=session_s, stopped=project.stopped(), memory_bytes=memory)
        return
    run(project.stream, plan, SystemClock(), stop, released=partial(released, project), stopped=project.stopped(), memory_bytes=memory)


def worker(*, schema: str = "") -> None:
    """Keep the state of every feature up to date with the routed log.

    When a schema is new, its state is built: from the lake, as far as the log was pruned, then from the log. The worker of the
    old one runs beside it, and answers are read from that, until a model of the new one is promoted. `up` starts one for each.

    Example:  tailorbird -C shop run worker

    Parameters
    ----------
    schema:
        of which schema, as `tailorbird features plan` names it; the applied one unless told otherwise
    """
    from tailorbird.config import open_project
    from tailorbird.config.schemas import find_schema, settle
    from tailorbird.events import SystemClock
    from tailorbird.features.worker import FeatureWorker

    stop = _begin()
    if schema:
        project = open_project(applied=True)
        features = find_schema(project, schema)
    else:
        settled = settle(open_project(), SystemClock())
        project, features = settled.project, settled.project.features
        if settled.said:
            log.warning("%s", settled.said)
    paths, settings = project.paths, project.settings
    entities_max, copies = settings.features.entities_max, settings.store.url
    with FeatureWorker(project.routed, paths.state, features, clock=SystemClock(), copies=copies, entities_max=entities_max) as worker:
        from_lake = False
        while not stop.is_set():
            if worker.needs_history():
                from tailorbird.features.bootstrap import build_from_lake, lake_is_ahead
                from tailorbird.lake import Lake

                from_lake = True
                reader = Lake(project.paths.lake)
                if not lake_is_ahead(worker, reader):  # events lack an attribute, and are about to be in the lake
                    stop.wait(LAKE_POLL_S)
                    continue
                build_from_lake(worker, reader, stop)
            worker.run(stop)
    if from_lake:
        from tailorbird.lake import leave

        leave(0)


def lake() -> None:
    """Archive what came in and load it into the tables; between two loads put small files together, and delete old ones.

    Once a minute it holds a few served features against the tables, and once a day is over it checks that day, as `checks run` does.

    Example:  tailorbird -C shop run lake
    """
    from tailorbird.config import open_project
    from tailorbird.config.schemas import answering
    from tailorbird.events import SystemClock, duration
    from tailorbird.features import watch
    from tailorbird.lake import leave, run

    stop = _begin()
    project = open_project(applied=True)
    settings = project.settings.lake
    every, rows, keep = duration(settings.commit_every), settings.commit_rows, duration(settings.history)
    compared = (partial(answering, project), project.paths.lake, project.paths.state, project.paths.run, SystemClock(), stop)
    threading.Thread(target=watch.run, args=compared, name="features", daemon=True).start()
    threading.Thread(target=_check_days, args=(project, stop), name="checks", daemon=True).start()
    run(
        project.stream,
        project.paths.lake,
        SystemClock(),
        stop,
        commit_every_us=every,
        rows_max=rows,
        keep_us=keep,
        sort=settings.sort,
    )
    leave(0)


def _check_days(project: "Project", stop: threading.Event) -> None:
    """Once a day is over: is its data whole, and as usual."""
    from tailorbird.cli.checks import features_check, wanted
    from tailorbird.events import SystemClock, duration
    from tailorbird.monitoring import daily

    settings, paths = project.settings.checks, project.paths
    daily.watch(
        paths.lake, paths.checks, SystemClock(), stop,
        wanted=wanted(project), after_us=duration(settings.after), target=settings.alert, further=partial(features_check, project),
    )  # fmt: skip


def trainer() -> None:
    """Watch the live figures and train anew when they fall; a new model goes live only through the gate.

    Example:  tailorbird -C shop run trainer
    """
    from tailorbird.cli.trainer import watch
    from tailorbird.config import open_project
    from tailorbird.events import SystemClock

    stop = _begin()
    watch(open_project(applied=True), SystemClock(), stop)


def _begin() -> threading.Event:
    """What every role does first: die with the supervisor, log to stderr, stop on SIGTERM."""
    die_with_parent()
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    return stop
