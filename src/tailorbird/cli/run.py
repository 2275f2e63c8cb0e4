"""`tailorbird run ROLE`: one role as a process, until SIGTERM; `up` runs all of them."""

import logging
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from tailorbird.cli.output import HealthHost, HealthPort
from tailorbird.cli.probes import probes
from tailorbird.errors import UsageError
from tailorbird.health import ProgressEvent
from tailorbird.loops import PeriodicTask, exit_process
from tailorbird.platform.supervisor import die_with_parent

if TYPE_CHECKING:
    from prometheus_client.registry import Collector
    from starlette.routing import BaseRoute

    from tailorbird.config import Project
    from tailorbird.features import FeatureSet
    from tailorbird.serving.handling import Service

LAKE_POLL_S = 0.2
log = logging.getLogger(__name__)


def serve(*, host: str | None = None, port: int | None = None, shop: bool = False) -> None:
    """Answer over HTTP: events in, recommendations out. The address is printed last, and stands in
    data/run/.

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
    from tailorbird.cli.serve_options import serve_options
    from tailorbird.config import open_project
    from tailorbird.config.erasures import apply_remote_erasures
    from tailorbird.console.home import home_routes
    from tailorbird.console.overview import overview
    from tailorbird.serving.access import require_origins
    from tailorbird.serving.logs import configure
    from tailorbird.serving.server import run

    stop = _begin()
    project = open_project(applied=True)
    apply_remote_erasures(project)
    settings = project.settings.serve
    configure(as_json=settings.log == "json")
    require_origins(settings.origins)
    more: list[Callable[[Service], Sequence[BaseRoute]]] = []  # beside the API's own
    slots = project.slots
    if settings.gorse_slot:
        from tailorbird.cli.check import require_gorse_slot
        from tailorbird.serving.gorse import gorse_routes, with_hidden_rule

        require_gorse_slot(project)
        more.append(partial(gorse_routes, slot=settings.gorse_slot))
        slots = with_hidden_rule(slots, settings.gorse_slot)
    more.append(
        partial(
            home_routes,
            read_overview=partial(overview, project, shop=shop),
            reports=project.paths.reports,
        )
    )
    if shop:
        from tailorbird.console.shop import shop_routes

        slot = (
            "front" if "front" in project.slots else project.slot().name
        )  # the demo's page has a slot without an experiment
        more.append(partial(shop_routes, slot=slot))
    project.paths.stream.mkdir(parents=True, exist_ok=True)
    asked = port is not None or any(
        origin.key == "serve.port" and origin.source.startswith("environment")
        for origin in project.origins
    )
    options = replace(
        serve_options(project),
        slots=slots,
        host=host or settings.host,
        port=settings.port if port is None else port,
        is_port_explicit=asked,
        routes=lambda service: [each for routes in more for each in routes(service)],
    )
    run(options, stop=stop, log_clock=project.clock())


def router(*, health_port: HealthPort = 0, health_host: HealthHost = "127.0.0.1") -> None:
    """Decide on every event once: contract, repeats, identity, profiles, attribution.

    Where topics have several partitions, start as many of these as you like, on any machines: they
    share the partitions out.

    Example:  tailorbird -C shop run router
    """
    from tailorbird.config import open_project
    from tailorbird.config.erasures import apply_remote_erasures
    from tailorbird.config.schemas import active_schemas, releasable_offset, route_plan_for
    from tailorbird.events import SECOND, parse_duration
    from tailorbird.router import run_router
    from tailorbird.router.deciding import register_router

    stop = _begin()
    project = open_project(applied=True)
    apply_remote_erasures(project)
    project.paths.stream.mkdir(parents=True, exist_ok=True)
    plan, memory = (
        route_plan_for(project, active_schemas(project)),
        project.settings.router.memory_mb << 20,
    )
    if not isinstance(project.stream, Path) and project.stream.count > 1:
        from tailorbird.router.group import run_member

        session_s = parse_duration(project.settings.stream.session) / SECOND
        with (
            register_router(project.paths.run, plan),
            probes("router", project, stop, host=health_host, port=health_port),
        ):
            run_member(
                project.stream,
                plan,
                project.clock(),
                stop,
                session_s=session_s,
                suppression_list=project.suppression_list(),
                memory_bytes=memory,
            )
        return
    with (
        register_router(project.paths.run, plan),
        probes("router", project, stop, host=health_host, port=health_port),
    ):
        run_router(
            project.stream,
            plan,
            project.clock(),
            stop,
            released=partial(releasable_offset, project),
            suppression_list=project.suppression_list(),
            memory_bytes=memory,
        )


def worker(
    *,
    schema: str = "",
    part: int | None = None,
    health_port: HealthPort = 0,
    health_host: HealthHost = "127.0.0.1",
) -> None:
    """Keep the state of every feature up to date with the routed log.

    When a schema is new, its state is built: from the lake, as far as the log was pruned, then from
    the log. The worker of the old one runs beside it, and answers are read from that, until a model
    of the new one is promoted. `up` starts one for each.

    Where features.workers is more than 1, as many share the entities of a schema, each with a part
    of its own: start one for each.

    Example:  tailorbird -C shop run worker --part 0

    Parameters
    ----------
    schema:
        of which schema, as `tailorbird features plan` names it; the applied one unless told
            otherwise
    part:
        which part of the entities, from 0, where several workers share them
    """
    from tailorbird.config.schemas import worker_log
    from tailorbird.features.keypart import KeyPart
    from tailorbird.features.worker import FeatureWorker

    stop = _begin()
    project, features = _schema(schema)
    if part is None and project.workers > 1:
        last = project.workers - 1
        raise UsageError(
            f"{project.workers} workers share the entities",
            where="--part",
            fix=f"say which this one is: --part 0 to {last}",
        )
    mine = KeyPart(part or 0, project.workers)
    paths, settings = project.paths, project.settings
    entities_max, copies = settings.features.entities_max, project.copy_target()
    routed = worker_log(project, features, mine)
    with (
        probes(
            "worker",
            project,
            stop,
            host=health_host,
            port=health_port,
            more=partial(_figures, project),
        ),
        FeatureWorker(
            routed,
            paths.state,
            features,
            clock=project.clock(),
            copies=copies,
            entities_max=entities_max,
            part=mine,
        ) as worker,
    ):
        from_lake = False
        while not stop.is_set():
            if worker.needs_history():
                from tailorbird.features.bootstrap import build_from_lake, is_lake_ahead
                from tailorbird.lake import Lake

                from_lake = True
                reader = Lake(project.paths.lake)
                if not is_lake_ahead(
                    worker, reader
                ):  # events lack an attribute, and are about to be in the lake
                    stop.wait(LAKE_POLL_S)
                    continue
                build_from_lake(worker, reader, stop)
            worker.run(stop)
    if from_lake:
        exit_process(0)


def shuffle(
    *, schema: str = "", health_port: HealthPort = 0, health_host: HealthHost = "127.0.0.1"
) -> None:
    """Write for each of several workers a log of the routed events that concern its part of the
    entities.

    Of use with Kafka, where features.workers is more than 1: the routed log is then read once for
    all of them. One a schema; `up` starts it. A second one takes over, and the first is told so and
    ends.

    Example:  tailorbird -C shop run shuffle

    Parameters
    ----------
    schema:
        of which schema, as `tailorbird features plan` names it; the applied one unless told
            otherwise
    """
    from tailorbird.config.schemas import required_offsets, shuffled_logs
    from tailorbird.features.shuffle import Shuffle
    from tailorbird.stream import read_released

    stop = _begin()
    project, features = _schema(schema)
    logs = shuffled_logs(project, features)
    if not logs:
        if project.workers == 1:
            raise UsageError(
                "one worker has all entities: nothing to shuffle",
                where="features.workers",
                fix="set it to 2 or more",
            )
        raise UsageError(
            "workers read the router's file themselves",
            where="stream.url",
            fix="run the workers; they need no shuffle",
        )
    first = read_released(project.paths.lake).routed_position()
    with (
        probes("shuffle", project, stop, host=health_host, port=health_port),
        Shuffle(project.routed, logs, features, first=first) as role,
    ):
        role.run(
            stop,
            needed_from=partial(required_offsets, project, features),
            state=project.paths.state,
            clock=project.clock(),
        )


def _schema(schema: str) -> "tuple[Project, FeatureSet]":
    """The project and the declarations of a schema; without its hash, of the applied one, once
    features.py is applied.
    """
    from tailorbird.config import open_project
    from tailorbird.config.erasures import apply_remote_erasures
    from tailorbird.config.schemas import apply_declared, find_schema
    from tailorbird.events import SystemClock

    if schema:
        project = open_project(applied=True)
        apply_remote_erasures(project)
        return project, find_schema(project, schema)
    settled = apply_declared(open_project(), SystemClock())
    apply_remote_erasures(settled.project)
    if settled.notice:
        log.warning("%s", settled.notice)
    return settled.project, settled.project.features


def score(*, health_port: HealthPort = 0, health_host: HealthHost = "127.0.0.1") -> None:
    """Score people as their events arrive, by what scores.py declares, into a log of its own:
    scores tail, GET /v1/scores.

    Reads features as a server does: from the state of this machine, or where `store.url` is set
    what the worker copied there. `up` starts it in a project that has a scores.py.

    Example:  tailorbird -C shop run score
    """
    from tailorbird.cli.scoring import Models
    from tailorbird.config import open_project
    from tailorbird.config.erasures import apply_remote_erasures
    from tailorbird.events import parse_duration
    from tailorbird.features.figures import Figures, write_score_figures
    from tailorbird.serving.collectors import ScoresCollector
    from tailorbird.serving.score_log import scores_address
    from tailorbird.serving.scoring import ScoreRole

    stop = _begin()
    project = open_project(applied=True)
    apply_remote_erasures(project)
    if not project.scores:
        raise UsageError(
            "scores.py declares nothing to score",
            where=str(project.root),
            fix="see docs/how-to/scores.md",
        )
    clock, keep = project.clock(), parse_duration(project.settings.score.keep)
    project.paths.state.mkdir(parents=True, exist_ok=True)

    def tell(position: int) -> None:
        write_score_figures(
            project.paths.state, Figures(schema_hash="", at=clock.now(), offset=position)
        )

    models, declared = Models(project, clock), list(project.scores.values())
    try:
        with ScoreRole(
            project.routed, scores_address(project.stream), declared, models, clock, keep_us=keep
        ) as role:

            def more() -> "list[Collector]":
                return [ScoresCollector(lambda: role.figures)]

            with probes("score", project, stop, host=health_host, port=health_port, more=more):
                role.run(stop, report=tell)
    finally:
        models.close()


def candidates(
    *, contract: str = "", health_port: HealthPort = 0, health_host: HealthHost = "127.0.0.1"
) -> None:
    """Keep the tables of candidate sources up with the routed log: what is popular, what goes with
    what, what is new.

    Servers read them at the request's time, so a click counts in `trending` within a second. Where
    slots or bundles ask for other sources, their tables are built from the lake, beside the current
    ones.

    Example:  tailorbird -C shop run candidates

    Parameters
    ----------
    contract:
        which tables, by the hash of their contract; those that slots and bundles ask for unless
            told otherwise
    """
    from tailorbird.candidates.role import CandidatesRole
    from tailorbird.config import open_project
    from tailorbird.config.candidates import kept_contracts
    from tailorbird.config.erasures import apply_remote_erasures

    stop = _begin()
    project = open_project(applied=True)
    apply_remote_erasures(project)
    known = {each.hash: each for each in kept_contracts(project)}
    if contract and contract not in known:
        raise UsageError(
            f"no slot and no bundle asks for the tables {contract}",
            where="--contract",
            fix=f"use {' or '.join(known)}",
        )
    chosen = known[contract] if contract else list(known.values())[-1]
    project.paths.candidates.mkdir(parents=True, exist_ok=True)
    from_lake = False
    with (
        probes("candidates", project, stop, host=health_host, port=health_port),
        CandidatesRole(
            project.routed,
            project.paths.candidates,
            chosen,
            clock=project.clock(),
            copies=project.copy_target(),
        ) as role,
    ):
        while not stop.is_set():
            if role.needs_history():
                from tailorbird.candidates.history import build_from_lake, lake_is_ahead
                from tailorbird.lake import Lake

                from_lake, tables = True, Lake(project.paths.lake)
                if not lake_is_ahead(
                    role, tables
                ):  # topics were begun anew, and the lake is not past what was lost
                    stop.wait(LAKE_POLL_S)
                    continue
                build_from_lake(role, tables, stop)
            role.run(stop)
    if from_lake:
        exit_process(0)


def lake(*, health_port: HealthPort = 0, health_host: HealthHost = "127.0.0.1") -> None:
    """Archive what came in and load it into the tables; between two loads put small files together,
    and delete old ones.

    Once a minute it holds a few served features against the tables, and once a day is over it
    checks that day, as `checks run` does.

    Example:  tailorbird -C shop run lake
    """
    from tailorbird.config import open_project
    from tailorbird.config.erasures import apply_remote_erasures
    from tailorbird.config.schemas import champion_features
    from tailorbird.events import parse_duration
    from tailorbird.features import watch
    from tailorbird.lake import run

    stop = _begin()
    project = open_project(applied=True)
    apply_remote_erasures(project)
    settings = project.settings.lake
    every, rows, keep = (
        parse_duration(settings.commit_every),
        settings.commit_rows,
        parse_duration(settings.history),
    )
    compared = (
        partial(champion_features, project),
        project.paths.lake,
        project.paths.state,
        project.paths.run,
        project.clock(),
        stop,
    )
    loops = [
        PeriodicTask(
            "features", partial(watch.run, *compared, workers=project.workers), interval_s=60.0
        ),
        PeriodicTask("checks", partial(_check_days, project, stop), interval_s=60.0),
    ]
    if not isinstance(project.stream, Path):
        from tailorbird.config.schemas import releasable_offset
        from tailorbird.router.retention import EVERY_S, Retention

        loops.append(
            PeriodicTask(
                "retention",
                Retention(project.stream, partial(releasable_offset, project)).tick,
                interval_s=EVERY_S,
                run_at_start=False,
            )
        )
    for loop in loops:
        loop.start()
    with probes("lake", project, stop, host=health_host, port=health_port, loops=loops):
        run(
            project.stream,
            project.paths.lake,
            project.clock(),
            stop,
            commit_every_us=every,
            rows_max=rows,
            keep_us=keep,
            sort=settings.sort,
        )
    exit_process(0)


def _figures(project: "Project") -> "list[Collector]":
    from tailorbird.features.figures import figures_by_schema
    from tailorbird.serving.collectors import WorkersCollector

    return [WorkersCollector(partial(figures_by_schema, project.paths.state, project.workers))]


def _check_days(project: "Project", stop: threading.Event) -> None:
    """Once a day is over: is its data whole, and as usual."""
    from tailorbird.cli.checks import features_check, wanted
    from tailorbird.events import parse_duration
    from tailorbird.monitoring import daily

    settings, paths = project.settings.checks, project.paths
    daily.watch(
        paths.lake,
        paths.checks,
        project.clock(),
        stop,
        expectations=wanted(project),
        after_us=parse_duration(settings.after),
        target=settings.alert,
        extra_checks=partial(features_check, project),
    )


def trainer(*, health_port: HealthPort = 0, health_host: HealthHost = "127.0.0.1") -> None:
    """Watch the live figures and train anew when they fall; a new model goes live only through the
    gate.

    Example:  tailorbird -C shop run trainer
    """
    from tailorbird.config import open_project
    from tailorbird.platform.trainer import watch

    stop = _begin()
    project = open_project(applied=True)
    with probes("trainer", project, stop, host=health_host, port=health_port):
        watch(project, project.clock(), stop)


def _begin() -> ProgressEvent:
    """What every role does first: die with the supervisor, log to stderr, stop on SIGTERM."""
    die_with_parent()
    logging.basicConfig(
        level=logging.INFO, format="%(levelname)s %(name)s: %(message)s", stream=sys.stderr
    )
    stop = ProgressEvent()
    stop.on_signals(signal.SIGTERM, signal.SIGINT)
    return stop
