"""`tailorbird run ROLE`: one role as a process, until SIGTERM; `up` runs all of them."""

import logging
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from tailorbird.cli.output import HealthHost, HealthPort
from tailorbird.cli.roles.probes import serve_probes
from tailorbird.errors import UsageError
from tailorbird.periodic import PeriodicTask, exit_process
from tailorbird.platform.runtime.supervisor import die_with_parent
from tailorbird.probes import ProgressEvent

if TYPE_CHECKING:
    from prometheus_client.registry import Collector
    from starlette.routing import BaseRoute

    from tailorbird.config import Project
    from tailorbird.features import FeatureSet
    from tailorbird.serving.http.handling import Service

LAKE_POLL_S = 0.2
log = logging.getLogger(__name__)


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
    from tailorbird.cli.roles.serve_options import serve_options
    from tailorbird.config import open_project
    from tailorbird.config.erasures import apply_remote_erasures
    from tailorbird.config.roles import read_roles
    from tailorbird.console.home import home_routes
    from tailorbird.console.overview import overview
    from tailorbird.platform.runtime.listeners import is_port_explicit
    from tailorbird.serving.http.access import require_origins
    from tailorbird.serving.http.logs import configure
    from tailorbird.serving.server import run
    from tailorbird.serving.sockets import inherited_listener

    listener = inherited_listener()
    # Under `up` it outlives the supervisor, and the next one takes its place.
    stop = _start_role(outlives_up=listener is not None)
    project = open_project(applied=True)
    apply_remote_erasures(project)
    settings = project.settings.serve
    configure(as_json=settings.log == "json")
    require_origins(settings.origins)
    # In addition to the routes of the API.
    route_factories: list[Callable[[Service], Sequence[BaseRoute]]] = []
    slots = project.slots
    if settings.gorse_slot:
        from tailorbird.cli.check import require_gorse_slot
        from tailorbird.serving.http.gorse import gorse_routes, with_hidden_rule

        require_gorse_slot(project)
        route_factories.append(partial(gorse_routes, slot=settings.gorse_slot))
        slots = with_hidden_rule(slots, settings.gorse_slot)
    route_factories.append(
        partial(
            home_routes,
            read_overview=partial(overview, project, shop=shop),
            reports=project.paths.reports,
        )
    )
    if shop:
        from tailorbird.console.shop import shop_routes

        # The demo's page has a slot without an experiment.
        slot = "front" if "front" in project.slots else project.slot().name
        route_factories.append(partial(shop_routes, slot=slot))
    project.paths.stream.mkdir(parents=True, exist_ok=True)
    options = replace(
        serve_options(project),
        slots=slots,
        host=host or settings.host,
        port=settings.port if port is None else port,
        is_port_explicit=is_port_explicit(project, port),
        processes=1 if listener is None else settings.processes,
        roles=partial(read_roles, project.paths.run),
        routes=lambda service: [route for factory in route_factories for route in factory(service)],
    )
    run(options, stop=stop, log_clock=project.clock(), listener=listener)


def router(*, health_port: HealthPort = 0, health_host: HealthHost = "127.0.0.1") -> None:
    """Route every event once: validate, deduplicate, identify, enrich with profiles, attribute.

    If topics have several partitions, start any number of routers on any machines: they share the
    partitions.

    Example:  tailorbird -C shop run router
    """
    from tailorbird.config import open_project
    from tailorbird.config.erasures import apply_remote_erasures
    from tailorbird.config.schemas import active_schemas, releasable_offset, route_plan_for
    from tailorbird.events import SECOND, parse_duration
    from tailorbird.router import run_router
    from tailorbird.router.declarations import register_router

    stop = _start_role()
    project = open_project(applied=True)
    apply_remote_erasures(project)
    project.paths.stream.mkdir(parents=True, exist_ok=True)
    plan, memory = (
        route_plan_for(project, active_schemas(project)),
        project.settings.router.memory_mb << 20,
    )
    if (topics := project.stream.topics) is not None and topics.count > 1:
        from tailorbird.router.partitions.group import run_member

        session_s = parse_duration(project.settings.stream.session) / SECOND
        with (
            register_router(project.paths.run, plan),
            serve_probes("router", project, stop, host=health_host, port=health_port),
        ):
            run_member(
                topics,
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
        serve_probes("router", project, stop, host=health_host, port=health_port),
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
    """Keep the feature state up to date with the routed log.

    The state of a new schema is built from the lake, as far as the log was pruned, and then from
    the log. The worker of the old schema runs next to it and serves answers until a model of the
    new schema is promoted. `up` starts one worker for each. If features.workers is more than 1,
    start one worker for each part of the entities.

    Example:  tailorbird -C shop run worker --part 0

    Parameters
    ----------
    schema:
        hash of the schema, as `tailorbird features plan` shows it; by default the applied one
    part:
        number of the part of the entities, from 0, if there are several workers
    """
    from tailorbird.config.schemas import worker_log
    from tailorbird.features.online.worker import FeatureWorker
    from tailorbird.features.state.key_partition import KeyPart

    stop = _start_role()
    project, features = _open_schema(schema)
    if part is None and project.workers > 1:
        last = project.workers - 1
        raise UsageError(
            f"{project.workers} workers share the entities",
            where="--part",
            fix=f"say which this one is: --part 0 to {last}",
        )
    key_part = KeyPart(part or 0, project.workers)
    paths, settings = project.paths, project.settings
    entities_max, copies = settings.features.entities_max, project.copy_target()
    log_address = worker_log(project, features, key_part)
    with (
        serve_probes(
            "worker",
            project,
            stop,
            host=health_host,
            port=health_port,
            extra_collectors=partial(_worker_collectors, project),
        ),
        FeatureWorker(
            log_address,
            paths.state,
            features,
            clock=project.clock(),
            copies=copies,
            entities_max=entities_max,
            part=key_part,
        ) as worker,
    ):
        from_lake = False
        while not stop.is_set():
            if worker.needs_history():
                from tailorbird.features.migration.bootstrap import build_from_lake, is_lake_ahead
                from tailorbird.lake import Lake

                from_lake = True
                reader = Lake(project.paths.lake)
                # Events lack an attribute and will soon be in the lake.
                if not is_lake_ahead(worker, reader):
                    stop.wait(LAKE_POLL_S)
                    continue
                build_from_lake(worker, reader, stop)
            worker.run(stop)
    if from_lake:
        exit_process(0)


def shuffle(
    *, schema: str = "", health_port: HealthPort = 0, health_host: HealthHost = "127.0.0.1"
) -> None:
    """Write a log per worker with the routed events of its part of the entities.

    It is useful with Kafka and features.workers above 1, since the routed log is then read once for
    all workers. Each schema needs one shuffle; `up` starts it. A second one takes over, and the
    first ends.

    Example:  tailorbird -C shop run shuffle

    Parameters
    ----------
    schema:
        hash of the schema, as `tailorbird features plan` shows it; by default the applied one
    """
    from tailorbird.config.schemas import required_offsets, shuffled_logs
    from tailorbird.features.online.shuffle import Shuffle
    from tailorbird.stream import read_released

    stop = _start_role()
    project, features = _open_schema(schema)
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
        serve_probes("shuffle", project, stop, host=health_host, port=health_port),
        Shuffle(project.routed, logs, features, first=first) as role,
    ):
        role.run(
            stop,
            needed_from=partial(required_offsets, project, features),
            state=project.paths.state,
            clock=project.clock(),
        )


def _open_schema(schema: str) -> "tuple[Project, FeatureSet]":
    """Return the project with the features of a schema.

    Without a hash it is the applied schema, after features.py was applied.
    """
    from tailorbird.config import open_project
    from tailorbird.config.erasures import apply_remote_erasures
    from tailorbird.config.schemas import apply_declared, find_schema
    from tailorbird.events import SystemClock

    if schema:
        project = open_project(applied=True)
        apply_remote_erasures(project)
        return project, find_schema(project, schema)
    decision = apply_declared(open_project(), SystemClock())
    apply_remote_erasures(decision.project)
    if decision.notice:
        log.warning("%s", decision.notice)
    return decision.project, decision.project.features


def score(*, health_port: HealthPort = 0, health_host: HealthHost = "127.0.0.1") -> None:
    """Score people as their events arrive, as scores.py declares, into a log of scores.

    Read the log with `scores tail` or `GET /v1/scores`. Features are read as by a server: from the
    state of this machine, or from the Valkey of `store.url`. `up` starts this role if the project
    has a scores.py.

    Example:  tailorbird -C shop run score
    """
    from tailorbird.cli.roles.scoring import Models
    from tailorbird.config import open_project
    from tailorbird.config.erasures import apply_remote_erasures
    from tailorbird.events import parse_duration
    from tailorbird.features.state.progress import Figures, write_score_figures
    from tailorbird.serving.metric_collectors import ScoresCollector
    from tailorbird.serving.scores.role import ScoreRole

    stop = _start_role()
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

    def record_position(position: int) -> None:
        write_score_figures(
            project.paths.state, Figures(schema_hash="", at=clock.now(), offset=position)
        )

    models, declared = Models(project, clock), list(project.scores.values())
    try:
        with ScoreRole(
            project.routed, project.stream.scores, declared, models, clock, keep_us=keep
        ) as role:

            def collectors() -> "list[Collector]":
                return [ScoresCollector(lambda: role.figures)]

            with serve_probes(
                "score",
                project,
                stop,
                host=health_host,
                port=health_port,
                extra_collectors=collectors,
            ):
                role.run(stop, report=record_position)
    finally:
        models.close()


def candidates(
    *, contract: str = "", health_port: HealthPort = 0, health_host: HealthHost = "127.0.0.1"
) -> None:
    """Keep the tables of candidate sources up to date with the routed log.

    Servers read them for each request, so a click counts in `trending` within a second. If slots or
    bundles need other sources, their tables are built from the lake next to the current ones.

    Example:  tailorbird -C shop run candidates

    Parameters
    ----------
    contract:
        hash of the contract of the tables; by default that of slots and bundles
    """
    from tailorbird.candidates.role import CandidatesRole
    from tailorbird.config import open_project
    from tailorbird.config.candidates import maintained_contracts
    from tailorbird.config.erasures import apply_remote_erasures

    stop = _start_role()
    project = open_project(applied=True)
    apply_remote_erasures(project)
    contracts = {contract.hash: contract for contract in maintained_contracts(project)}
    if contract and contract not in contracts:
        raise UsageError(
            f"no slot and no bundle asks for the tables {contract}",
            where="--contract",
            fix=f"use {' or '.join(contracts)}",
        )
    selected = contracts[contract] if contract else list(contracts.values())[-1]
    project.paths.candidates.mkdir(parents=True, exist_ok=True)
    from_lake = False
    with (
        serve_probes("candidates", project, stop, host=health_host, port=health_port),
        CandidatesRole(
            project.routed,
            project.paths.candidates,
            selected,
            clock=project.clock(),
            copies=project.copy_target(),
        ) as role,
    ):
        while not stop.is_set():
            if role.needs_history():
                from tailorbird.candidates.history import build_from_lake, lake_is_ahead
                from tailorbird.lake import Lake

                from_lake, tables = True, Lake(project.paths.lake)
                # The topics were recreated, and the lake is not past the lost rows.
                if not lake_is_ahead(role, tables):
                    stop.wait(LAKE_POLL_S)
                    continue
                build_from_lake(role, tables, stop)
            role.run(stop)
    if from_lake:
        exit_process(0)


def lake(*, health_port: HealthPort = 0, health_host: HealthHost = "127.0.0.1") -> None:
    """Archive events and load them into the lake's tables; compact and delete files between loads.

    Once a minute it compares some served features with the tables. After each day it checks that
    day, as `checks run` does.

    Example:  tailorbird -C shop run lake
    """
    from tailorbird.config import open_project
    from tailorbird.config.erasures import apply_remote_erasures
    from tailorbird.config.schemas import champion_features
    from tailorbird.events import parse_duration
    from tailorbird.features.parity import watch
    from tailorbird.lake import run

    stop = _start_role()
    project = open_project(applied=True)
    apply_remote_erasures(project)
    settings = project.settings.lake
    every, rows, keep = (
        parse_duration(settings.commit_every),
        settings.commit_rows,
        parse_duration(settings.history),
    )
    parity_arguments = (
        partial(champion_features, project),
        project.paths.lake,
        project.paths.state,
        project.paths.run,
        project.clock(),
        stop,
    )
    tasks = [
        PeriodicTask(
            "features",
            partial(watch.run, *parity_arguments, workers=project.workers),
            interval_s=60.0,
        ),
        PeriodicTask("checks", partial(_check_days, project, stop), interval_s=60.0),
    ]
    if (topics := project.stream.topics) is not None:
        from tailorbird.config.schemas import releasable_offset
        from tailorbird.router.routed_log.retention import EVERY_S, Retention

        tasks.append(
            PeriodicTask(
                "retention",
                Retention(topics, partial(releasable_offset, project)).tick,
                interval_s=EVERY_S,
                run_at_start=False,
            )
        )
    for task in tasks:
        task.start()
    with serve_probes("lake", project, stop, host=health_host, port=health_port, tasks=tasks):
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


def _worker_collectors(project: "Project") -> "list[Collector]":
    from tailorbird.features.state.progress import figures_by_schema
    from tailorbird.serving.feature_metrics import WorkersCollector

    return [WorkersCollector(partial(figures_by_schema, project.paths.state, project.workers))]


def _check_days(project: "Project", stop: threading.Event) -> None:
    """Check the data of a day once it is over."""
    from tailorbird.cli.checks import day_expectations, features_check
    from tailorbird.events import parse_duration
    from tailorbird.monitoring import daily

    settings, paths = project.settings.checks, project.paths
    daily.watch(
        paths.lake,
        paths.checks,
        project.clock(),
        stop,
        expectations=day_expectations(project),
        after_us=parse_duration(settings.after),
        target=settings.alert,
        extra_checks=partial(features_check, project),
    )


def trainer(*, health_port: HealthPort = 0, health_host: HealthHost = "127.0.0.1") -> None:
    """Watch live metrics and retrain when they fall; the gate decides about promotion.

    Example:  tailorbird -C shop run trainer
    """
    from tailorbird.config import open_project
    from tailorbird.monitoring.figures.collector import FiguresCollector, RolloutCollector
    from tailorbird.monitoring.notify.collector import NotifyCollector
    from tailorbird.platform.monitoring import FiguresTask
    from tailorbird.platform.notify import NotifyTask
    from tailorbird.platform.runtime.trainer import run_trainer

    stop = _start_role()
    project = open_project(applied=True)
    figures = FiguresTask(project, project.clock())
    notify = NotifyTask(project, project.clock(), figures.newest)
    with serve_probes(
        "trainer",
        project,
        stop,
        host=health_host,
        port=health_port,
        extra_collectors=lambda: [
            FiguresCollector(figures.newest),
            RolloutCollector(figures.causes, figures.actions),
            NotifyCollector(notify.counts, notify.failing),
        ],
    ):
        run_trainer(project, project.clock(), stop, figures, notify)


def _start_role(*, outlives_up: bool = False) -> ProgressEvent:
    """Prepare a role: end with the supervisor, log to stderr, and stop on SIGTERM."""
    if not outlives_up:
        die_with_parent()
    logging.basicConfig(
        level=logging.INFO, format="%(levelname)s %(name)s: %(message)s", stream=sys.stderr
    )
    stop = ProgressEvent()
    stop.set_on_signals(signal.SIGTERM, signal.SIGINT)
    return stop
