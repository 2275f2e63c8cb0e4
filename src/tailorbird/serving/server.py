"""The serve process: a socket, one event loop, threads for answers, and an orderly start and stop.

It writes `<producer>.json` with its address into the run folder once it listens. SIGTERM drains,
see `serving.http.listener`: `/readyz` fails while everything else is still answered, and at the end the
log is flushed.
"""

import gc
import logging
import socket
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Protocol

import numpy as np
from starlette.routing import BaseRoute
from threadpoolctl import threadpool_limits

from tailorbird.candidates.contract import Contract
from tailorbird.candidates.query import select_live_sources
from tailorbird.events import Clock, RoutePlan, SystemClock
from tailorbird.events.log_clock import LogClock
from tailorbird.events.pseudonyms import Pseudonyms
from tailorbird.events.suppression import SuppressionList
from tailorbird.features import FeatureSet
from tailorbird.features.parity.totals import read_parity_totals
from tailorbird.features.state.progress import read_schemas_progress, routed_log_offsets
from tailorbird.ranking import Slot
from tailorbird.ranking.bundle import Bundle
from tailorbird.registry import Registry
from tailorbird.serving.auth.keys import Keys
from tailorbird.serving.auth.limits import Connections, Limiter, ServerLimits
from tailorbird.serving.collector.collector import EventCollector
from tailorbird.serving.collector.naming import open_collector
from tailorbird.serving.collector.pruning import Pruner
from tailorbird.serving.collector.queue import RESERVE_BYTES
from tailorbird.serving.experiments import LiveExperiments
from tailorbird.serving.handover import HandoverSocket, request_metrics
from tailorbird.serving.http.access import LOCAL_HOSTS, Perimeter, is_local, require_safe_bind
from tailorbird.serving.http.app import create_app
from tailorbird.serving.http.body import BODY_BYTES_MAX
from tailorbird.serving.http.handling import WAIT_S, Service
from tailorbird.serving.http.listener import DRAIN_S, KEEP_ALIVE_S, HttpServer
from tailorbird.serving.http.logs import RequestLog
from tailorbird.serving.http.overload import EarlyRefusal
from tailorbird.serving.http.protocol import CONNECTIONS_MAX, HEADER_DEADLINE_S
from tailorbird.serving.metric_collectors import RoleCounts
from tailorbird.serving.metrics import Metrics
from tailorbird.serving.models.bundles import probe_in_child
from tailorbird.serving.models.candidates import LiveTables
from tailorbird.serving.models.catalogue import Catalogue
from tailorbird.serving.models.churn import ChurnModels
from tailorbird.serving.models.rollout import Rollout
from tailorbird.serving.models.schemas import LiveFeatureProvider
from tailorbird.serving.models.warm_up import WarmUp, wait_until_warm, warm_up_model
from tailorbird.serving.pipeline.deadlines import Budgets
from tailorbird.serving.pipeline.editorial import LiveEditorialLists
from tailorbird.serving.pipeline.formulas import LiveFormulas
from tailorbird.serving.pipeline.pipeline import STALE_AFTER_US, Pipeline
from tailorbird.serving.probed_bundles import ProbedBundles
from tailorbird.serving.scores.log import ScoreFeed
from tailorbird.serving.sockets import address_file, bind
from tailorbird.storage_paths import StoragePath
from tailorbird.store import CopyTarget
from tailorbird.stream import Address, Stream, log_set
from tailorbird.stream.lag import LagMeter, LagWatch

PORT = 8642
# Several times the 99th percentile of each stage: one that needs as long is broken, not slow.
BUDGETS = Budgets(retrieval_s=0.05, features_s=0.1, ranking_s=0.1, policy_s=0.05, log_s=0.05)
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ServeOptions:
    """The parts of a serve process, and its address and limits.

    Attributes:
        stream, routed, state, registry, run: folders and files of a project, see `config.Paths`.
        features: the applied ones, read while there is no bundle; see `serving.models.schemas`.
        is_port_explicit: whether the port was named; only a default one is replaced by the next
            free one.
        limits: of keys that have none of their own.
        pseudonyms: hides people before anything is written; None writes ids as they are.
        suppression_list: erased people, whose old events are not taken again.
        log_requests: a line for every request, not only for refused and failed ones.
        reserve_bytes: disk space that events leave free for the other roles.
        keys_file: keys with their scopes, reloaded when it changes; see `serving.auth.keyfile`.
        lake: the lake's folder, whose released offsets let our logs be pruned; None never prunes.
        probe: load each bundle in a child process first.
        threads: how many answers are made at a time.
        header_deadline_s: how long a connection may take to send a request's head.
        connections_max: open at a time; further requests replace an idle connection, or are refused
            with Retry-After.
        drain_s: how long it still answers after it was told to stop.
        keep_alive_s: how long an idle connection is kept.
        copies: a Valkey to read features from; None reads the folder `state`.
        stale_us: age of the copies beyond which answers name `freshness` as missing.
        workers: how many share the entities of each schema.
        churn: the registries of churn models, by name.
        holdout: share of the people whom the previous champion answers.
        budgets: how long each stage of an answer may take.
        candidates: the folder of candidate tables.
        contract: returns which tables to read, where only copies are available.
        wait_s: how long a request may have to wait for its turn; longer waits are refused at once.
        scores: the log of the score role; None where nothing is declared.
        processes: how many servers `up` runs. If several, metrics name the process, and each
            allows its part of `limits`.
        roles: returns how often `up` restarted each role.
        routes: creates additional routes, such as a demo's shop page.
    """

    stream: Stream
    routed: Address
    state: Path
    registry: Path
    run: Path
    features: FeatureSet
    slots: Mapping[str, Slot]
    plan: RoutePlan
    host: str = "127.0.0.1"
    port: int = PORT
    is_port_explicit: bool = False
    write_keys: Sequence[str] = ()
    read_keys: Sequence[str] = ()
    admin_keys: Sequence[str] = ()
    keys_file: Path | None = None
    lists_file: Path | None = None
    limits: ServerLimits = field(default_factory=ServerLimits)
    holdout: float = 0.0
    log_requests: bool = False
    pseudonyms: Pseudonyms | None = None
    suppression_list: SuppressionList | None = None
    origins: Sequence[str] = ()
    body_bytes_max: int = BODY_BYTES_MAX
    reserve_bytes: int = RESERVE_BYTES
    lake: StoragePath | None = None
    probe: bool = True
    threads: int = 2
    header_deadline_s: float = HEADER_DEADLINE_S
    connections_max: int = CONNECTIONS_MAX
    drain_s: float = DRAIN_S
    keep_alive_s: float = KEEP_ALIVE_S
    routes: Callable[[Service], Sequence[BaseRoute]] | None = None
    copies: CopyTarget | None = None
    stale_us: int = STALE_AFTER_US
    workers: int = 1
    churn: Mapping[str, Path] = field(default_factory=dict)
    scores: "Address | None" = None
    budgets: Budgets = BUDGETS
    wait_s: float = WAIT_S
    candidates: Path = Path("candidates")
    contract: Callable[[], Contract] | None = None
    processes: int = 1
    roles: Callable[[], Sequence[RoleCounts]] | None = None


class BackgroundTask(Protocol):
    """Work that runs beside answers."""

    def start(self) -> None: ...
    def stop(self) -> None: ...


def run(
    options: ServeOptions,
    clock: Clock | None = None,
    stop: threading.Event | None = None,
    *,
    log_clock: LogClock | None = None,
    listener: socket.socket | None = None,
) -> None:
    """Serve until SIGTERM or SIGINT.

    Args:
        clock: instead of the machine's.
        log_clock: the same, where the first event of today ends a time in the past.
        stop: set if a stop was requested before the server handles signals itself.
        listener: the socket to accept from; None opens one.
    Raises:
        ConfigError: a public address without a key.
        UsageError: the port is taken.
        LockedError: another process writes the log.
        StorageError: the log cannot be opened.
    """
    key_settings = options.write_keys, options.read_keys, options.admin_keys
    keys = Keys(*key_settings, file=options.keys_file, clock=clock)  # keys expire by the real time
    clock = clock or log_clock or SystemClock()
    require_safe_bind(options.host, keys)
    with ExitStack() as stack:
        collector = stack.enter_context(
            open_collector(
                options.stream,
                options.plan,
                clock,
                pseudonyms=options.pseudonyms,
                suppression_list=options.suppression_list,
                reserve_bytes=options.reserve_bytes,
                lake=options.lake,
                log_clock=log_clock,
            )
        )
        service, tasks = _build_service(options, collector, keys, clock, stack)
        for task in tasks:
            task.start()
            stack.callback(task.stop)
        _tune_interpreter()
        if listener is not None:
            wait_until_warm(service.is_warming)
        # Listen only once requests can be answered: a client that connects to a starting server
        # waits, while another server would answer at once.
        listener = stack.enter_context(
            listener or bind(options.host, options.port, is_explicit=options.is_port_explicit)
        )
        handover = HandoverSocket(
            options.run / f"{collector.producer}.sock", listener, service.metrics.encode
        )
        handover.start()
        stack.callback(handover.stop)
        url = stack.enter_context(
            address_file(options.run, options.host, listener, collector.producer)
        )
        stack.callback(service.pool.shutdown, wait=True, cancel_futures=True)
        log.info("serving on %s", url)
        protocol_attributes = {
            "deadline_s": options.header_deadline_s,
            "connections_max": options.connections_max,
            "connection_counts": Connections(options.limits, servers=options.processes),
            "early_refusal": EarlyRefusal(service),
        }
        app = create_app(service, options.routes(service) if options.routes else ())
        server = HttpServer(
            app,
            drain=service.drain,
            drain_s=options.drain_s,
            keep_alive_s=options.keep_alive_s,
            protocol_attributes=protocol_attributes,
            stop_requested=stop,
        )
        server.run([listener])


def _build_service(
    options: ServeOptions, collector: EventCollector, keys: Keys, clock: Clock, stack: ExitStack
) -> tuple[Service, list[BackgroundTask]]:
    """Create the service and its background tasks, to be started in this order.

    `stack` closes what must be closed after they have ended.
    """
    metrics, lag_watch = _build_metrics(options, collector)
    feature_provider = LiveFeatureProvider(
        options.state, options.features, copies=options.copies, workers=options.workers
    )
    stack.callback(feature_provider.close)
    metrics.watch_copies(feature_provider.published_at)
    catalogue = Catalogue(options.routed)
    tables = LiveTables(
        options.candidates, clock, copies=options.copies, read_expected_contract=options.contract
    )
    sources = select_live_sources(
        dict.fromkeys(name for slot in options.slots.values() for name in slot.sources)
    )
    metrics.watch_candidates(tables.ages, sources)

    def load_bundle(folder: Path) -> Bundle:
        bundle = feature_provider.attach_schema(Bundle.load(folder))
        catalogue.overlay_for(bundle.index)  # so that the first request after the swap need not
        warm_up_model(bundle)
        return bundle

    probe = ProbedBundles(options.run, probe_in_child) if options.probe else None
    registry = Registry(options.registry, clock=clock)
    rollout = Rollout(
        registry,
        load_bundle,
        metrics,
        feature_provider,
        probe=probe,
        tables=tables,
        holdout_share=options.holdout,
    )
    formulas = LiveFormulas(registry, options.slots)
    experiments = LiveExperiments(registry, options.slots, versions=rollout.arms)
    editorial_lists = None if options.lists_file is None else LiveEditorialLists(options.lists_file)
    build_pipeline = partial(
        Pipeline,
        slots=options.slots,
        bundle_selector=rollout,
        feature_provider=feature_provider,
        index_overlay=catalogue,
        clock=clock,
        editorial_lists=editorial_lists,
        table_provider=tables,
    )
    pipeline = build_pipeline(
        response_log=collector,
        rng=np.random.default_rng(),
        metrics=metrics,
        pseudonyms=options.pseudonyms,
        formula_provider=formulas,
        arm_assigner=experiments,
        stale_after_us=options.stale_us,
        budgets=options.budgets,
    )
    catalogue.warm_index = pipeline.prepare_views
    metrics.watch_breakers(pipeline.breakers.states)
    metrics.watch_rollout(rollout.versions)
    churn_models = ChurnModels(
        options.churn, feature_provider, clock, metrics, pseudonyms=options.pseudonyms, probe=probe
    )
    warm_up = WarmUp(
        build_pipeline(response_log=None, rng=np.random.default_rng()), catalogue, options.slots
    )
    service = _create_service(options, pipeline, collector, keys, metrics, churn_models, formulas)
    service.is_warming = warm_up.is_warming
    if lag_watch is not None:
        service.lags = lambda: lag_watch.lags
    pruner = None if options.lake is None else Pruner(collector, options.lake)
    background_tasks = [task for task in (pruner, lag_watch, editorial_lists) if task is not None]
    periodic_tasks = [
        *rollout.periodic_tasks,
        formulas.periodic_task,
        experiments.periodic_task,
        catalogue.periodic_task,
        tables.periodic_task,
        *(task.periodic_task for task in background_tasks),
    ]
    metrics.watch_threads(lambda: periodic_tasks)
    registry_tasks = [tables, rollout, formulas, experiments, churn_models]
    return service, [*registry_tasks, catalogue, *background_tasks, warm_up]


def _create_service(
    options: ServeOptions,
    pipeline: Pipeline,
    collector: EventCollector,
    keys: Keys,
    metrics: Metrics,
    churn: ChurnModels,
    formulas: LiveFormulas,
) -> Service:
    return Service(
        pipeline,
        collector,
        keys,
        Perimeter(LOCAL_HOSTS if is_local(options.host) else None, frozenset(options.origins)),
        metrics,
        body_bytes_max=options.body_bytes_max,
        limiter=Limiter(options.limits, servers=options.processes),
        request_log=RequestLog(log_all=options.log_requests),
        churn=churn,
        formulas=formulas,
        scores=None if options.scores is None else ScoreFeed(options.scores),
        threads=options.threads,
        wait_s=options.wait_s,
    )


def _build_metrics(
    options: ServeOptions, collector: EventCollector
) -> tuple[Metrics, LagWatch | None]:
    """Create the metrics, and the watch of log readers' lag.

    None without a lake, whose position is part of the lag.
    """
    metrics = Metrics()
    if options.processes > 1:
        metrics.name_process(
            collector.producer, partial(request_metrics, options.run, collector.producer)
        )
    if options.roles is not None:
        metrics.watch_roles(options.roles)
    metrics.watch_features(partial(read_parity_totals, options.run))
    metrics.watch_workers(partial(read_schemas_progress, options.state, options.workers))
    if options.copies is not None and options.copies.hedge is not None:
        metrics.watch_hedge(options.copies.hedge)
    if options.lake is None:
        return metrics, None
    read_reader_offsets = partial(routed_log_offsets, options.state, options.workers)
    lag_watch = LagWatch(
        LagMeter(options.stream, options.lake, read_reader_offsets, producer=collector.producer)
    )
    metrics.watch_lag(lag_watch, is_of_project=not log_set(options.stream).is_remote)
    return metrics, lag_watch


def _tune_interpreter() -> None:
    """Avoid pauses of single requests: by garbage collections, by threads that hold the lock for
    5 ms, and by threads of matrix products, which wait for each other on busy cores.
    """
    threadpool_limits(1, user_api="blas")
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)
    sys.setswitchinterval(0.0005)
