"""The serve process: a socket, one event loop, threads for answers, and a clean way to start and to stop.

It writes `<producer>.json` with its address into the run folder once it listens. SIGTERM drains: `/readyz` says no and
answers close their connections, then nothing new is accepted, what runs is finished, the log is flushed; all within a
second. What the HTTP server under us leaves open, `PatientProtocol` closes: connections that say nothing, or only half
a request.
"""

import asyncio
import errno
import gc
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import FrameType

import msgspec
import numpy as np
import uvicorn
from starlette.routing import BaseRoute
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from tailorbird.errors import StorageError, UsageError
from tailorbird.events import Clock, RoutePlan, SystemClock
from tailorbird.events.erased import StopList
from tailorbird.events.pseudonyms import Pseudonyms
from tailorbird.features import FeatureSet
from tailorbird.features.compared import read_compared
from tailorbird.features.figures import all_figures
from tailorbird.places import Place
from tailorbird.ranking import Slot
from tailorbird.ranking.bundle import Bundle
from tailorbird.registry import Registry
from tailorbird.serving.access import LOCAL_HOSTS, Perimeter, is_local, require_safe_bind
from tailorbird.serving.app import Service, create_app
from tailorbird.serving.body import BODY_BYTES_MAX
from tailorbird.serving.bundles import BundleHolder, probe_in_child
from tailorbird.serving.catalogue import Catalogue
from tailorbird.serving.door import first_free
from tailorbird.serving.keys import Keys
from tailorbird.serving.limits import Limiter, ServerLimits
from tailorbird.serving.logs import RequestLog
from tailorbird.serving.metrics import Metrics
from tailorbird.serving.pipeline import Pipeline, load_bundle
from tailorbird.serving.pruning import Pruner
from tailorbird.serving.reserve import RESERVE_BYTES
from tailorbird.serving.schemas import Schemas
from tailorbird.stream import Address, Stream
from tailorbird.stream.lag import LagMeter, LagWatch

PORT = 8642
PORTS_TRIED = 20
DRAIN_S = 0.25  # for balancers to notice, and clients to be told to close
LINGER_S = 0.3  # for those who connected before we stopped listening and have not asked yet
STOP_S = 0.3  # for answers under way
HEADER_DEADLINE_S = 10.0
CONNECTIONS_MAX = 4_096
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ServeOptions:
    """Where a serve process finds its parts, and how it may be reached.

    Attributes:
        stream, routed, state, registry, run: folders and files of a project, see `config.Paths`.
        features: the applied ones, read with as long as there is no bundle; see `serving.schemas`.
        port_asked: whether the port was named by somebody; only a default one is replaced by the next free one.
        limits: of keys that have none of their own.
        pseudonyms: hides people before anything is written; None writes ids as they come.
        stopped: of whom nothing old is taken again, since they were erased.
        log_requests: a line for every request, not only for refused and failed ones.
        reserve_bytes: of the disk, left free by events for the other roles.
        keys_file: keys with their scopes, read anew when it changes; see `serving.keyfile`.
        lake: the lake's folder, whose word lets our logs be pruned; None keeps them whole.
        probe: load each bundle in a child process first.
        threads: how many answers are made at a time.
        header_deadline_s: how long a connection may take to bring a request's head.
        copies: the address of a Valkey to read features from; "" reads the folder `state`.
        routes: more routes, given the service, such as a demo's shop page.
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
    port_asked: bool = False
    write_keys: Sequence[str] = ()
    read_keys: Sequence[str] = ()
    admin_keys: Sequence[str] = ()
    keys_file: Path | None = None
    limits: ServerLimits = field(default_factory=ServerLimits)
    log_requests: bool = False
    pseudonyms: Pseudonyms | None = None
    stopped: StopList | None = None
    origins: Sequence[str] = ()
    body_bytes_max: int = BODY_BYTES_MAX
    reserve_bytes: int = RESERVE_BYTES
    lake: Place | None = None
    probe: bool = True
    threads: int = 2
    header_deadline_s: float = HEADER_DEADLINE_S
    routes: Callable[[Service], Sequence[BaseRoute]] | None = None
    copies: str = ""


def run(options: ServeOptions, clock: Clock | None = None) -> None:
    """Serve until SIGTERM or SIGINT.

    Raises:
        ConfigError: a public address without a key. UsageError: the port is taken. LockedError, StorageError: the log.
    """
    clock = clock or SystemClock()
    keys = Keys(options.write_keys, options.read_keys, options.admin_keys, file=options.keys_file, clock=clock)
    require_safe_bind(options.host, keys)
    listener = bind(options.host, options.port, asked=options.port_asked)
    opening = partial(first_free, pseudonyms=options.pseudonyms, stopped=options.stopped, reserve_bytes=options.reserve_bytes)
    with listener, opening(options.stream, options.plan, clock) as door:
        metrics = Metrics()
        metrics.watch_features(partial(read_compared, options.run))
        metrics.watch_workers(partial(all_figures, options.state))
        watch = None if options.lake is None else LagWatch(LagMeter(options.stream, options.lake, partial(_workers, options.state)))
        if watch is not None:
            metrics.watch_lag(watch)
        schemas = Schemas(options.state, options.features, copies=options.copies)
        catalogue = Catalogue(options.routed)

        def load(folder: Path) -> Bundle:
            bundle = schemas.complete(load_bundle(folder))
            catalogue.over(bundle.index)  # here, rather than in the first request after the swap
            return bundle

        probe = probe_in_child if options.probe else None
        bundles = BundleHolder(Registry(options.registry, clock=clock), load, metrics, gate=schemas, probe=probe)
        pipeline = Pipeline(
            slots=options.slots,
            bundles=bundles,
            readings=schemas,
            catalogue=catalogue,
            answers=door,
            clock=clock,
            rng=np.random.default_rng(),
            watcher=metrics,
            pseudonyms=options.pseudonyms,
        )
        hosts = LOCAL_HOSTS if is_local(options.host) else None
        service = Service(
            pipeline,
            door,
            keys,
            Perimeter(hosts, frozenset(options.origins)),
            metrics,
            body_bytes_max=options.body_bytes_max,
            limiter=Limiter(options.limits),
            requests=RequestLog(every=options.log_requests),
            threads=options.threads,
        )
        pruner = Pruner(door, options.lake) if options.lake is not None else None
        bundles.start()
        catalogue.start()
        for thread in (pruner, watch):
            if thread is not None:
                thread.start()
        _be_prompt()
        try:
            with _address(options, listener, door.producer) as url:
                log.info("serving on %s", url)
                _Server(service, options).run([listener])
        finally:
            service.pool.shutdown(wait=True, cancel_futures=True)
            for thread in (pruner, watch):
                if thread is not None:
                    thread.stop()
            bundles.stop()
            catalogue.stop()
            schemas.close()


def _workers(state: Path) -> dict[str, int]:
    """From where on the worker of each schema reads the routed log, as it last told."""
    return {figures.schema_hash: figures.offset for figures in all_figures(state)}


def _be_prompt() -> None:
    """Keep single requests from waiting for the interpreter: long collections, and threads that hold the lock for 5 ms."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)
    sys.setswitchinterval(0.0005)


def bind(host: str, port: int, *, asked: bool) -> socket.socket:
    """A listening socket; the next free port is taken if this one is busy and nobody asked for it.

    Raises:
        UsageError: the port is taken, or the address is not ours.
    """
    ports = [port] if asked or port == 0 else range(port, min(port + PORTS_TRIED, 65_536))
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    for number in ports:
        listener = socket.socket(family, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host.strip("[]"), number))
            listener.listen(2_048)
            listener.set_inheritable(False)
            return listener
        except OSError as error:
            listener.close()
            if error.errno != errno.EADDRINUSE:
                raise UsageError(f"cannot bind {host}:{number}: {error.strerror}", where="serve.host") from None
    if len(ports) == 1:
        raise UsageError(f"port {port} is in use", where="serve.port", fix="stop what uses it, or choose another: --port 0 takes any")
    raise UsageError(f"ports {ports[0]} to {ports[-1]} are in use", where="serve.port", fix="choose another: --port 0 takes any")


@contextmanager
def _address(options: ServeOptions, listener: socket.socket, producer: str) -> Iterator[str]:
    """The address file, as long as the process serves."""
    host = f"[{options.host}]" if ":" in options.host and options.host[0] != "[" else options.host
    url = f"http://{host}:{listener.getsockname()[1]}"
    path = options.run / f"{producer}.json"
    fresh = path.with_suffix(f".{os.getpid()}")
    try:
        options.run.mkdir(parents=True, exist_ok=True)
        fresh.write_bytes(msgspec.json.encode({"url": url, "pid": os.getpid(), "producer": producer}))
        fresh.rename(path)
    except OSError as error:
        raise StorageError(f"cannot be written: {error.strerror}", where=str(path), fix="make the folder writable") from error
    try:
        yield url
    finally:
        path.unlink(missing_ok=True)


class _Server(uvicorn.Server):
    """uvicorn with our way to stop, and quiet signals: a drained server exits with status 0."""

    def __init__(self, service: Service, options: ServeOptions) -> None:
        routes = options.routes(service) if options.routes else ()
        self._protocol = type("Protocol", (PatientProtocol,), {"deadline_s": options.header_deadline_s})
        config = uvicorn.Config(
            create_app(service, routes),
            loop="uvloop",
            http=self._protocol,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,  # nobody's word is taken for who is calling
            timeout_keep_alive=15,
            timeout_graceful_shutdown=STOP_S,  # type: ignore[arg-type]
            limit_concurrency=CONNECTIONS_MAX,
        )
        super().__init__(config)
        self._service = service
        self._stop_at: float | None = None

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        held = {number: signal.signal(number, self._drain) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for number, handler in held.items():
                signal.signal(number, handler)

    def _drain(self, number: int, frame: FrameType | None) -> None:
        if self._stop_at is not None:  # asked twice: at once
            self.should_exit = self.force_exit = True
            return
        self._service.draining = True
        self._stop_at = time.monotonic() + DRAIN_S

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop listening without turning away anybody who has already knocked: a closed listener resets its queue."""
        spares = [listener.dup() for listener in sockets or []]
        for server in self.servers:
            server.close()
        for spare in spares:
            await self._accept_queued(spare)
        until = time.monotonic() + LINGER_S
        while self.server_state.connections and time.monotonic() < until:
            await asyncio.sleep(0.02)
        await super().shutdown(sockets)

    async def _accept_queued(self, spare: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        spare.setblocking(False)
        with spare:
            while True:
                try:
                    connection, _ = spare.accept()
                except OSError:
                    return
                connection.setblocking(False)
                await loop.connect_accepted_socket(partial(self._protocol, self.config, self.server_state, {}, loop), connection)

    async def on_tick(self, counter: int) -> bool:
        if self._stop_at is not None and time.monotonic() >= self._stop_at:
            self.should_exit = True
        return await super().on_tick(counter)


class PatientProtocol(HttpToolsProtocol):
    """Closes a connection that has not brought a whole request head in time; the body's deadline is in `serving.body`."""

    deadline_s = HEADER_DEADLINE_S
    _impatience: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._expect_head()

    def data_received(self, data: bytes) -> None:
        if self._impatience is None and (self.cycle is None or self.cycle.response_complete):
            self._expect_head()
        super().data_received(data)

    def on_headers_complete(self) -> None:
        self._calm()
        super().on_headers_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        self._calm()
        super().connection_lost(exc)

    def _expect_head(self) -> None:
        self._impatience = self.loop.call_later(self.deadline_s, self._give_up)

    def _calm(self) -> None:
        if self._impatience is not None:
            self._impatience.cancel()
            self._impatience = None

    def _give_up(self) -> None:
        self._impatience = None
        if not self.transport.is_closing():
            self.transport.close()
