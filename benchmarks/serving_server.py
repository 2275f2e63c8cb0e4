"""The servers of `benchmarks.serving`, each in a process of its own on the first core.

    python -m benchmarks.serving_server tailorbird|vectors|forgetful|floor FOLDER

Each prints its port once it answers. `vectors` is tailorbird with a bundle that has them;
`forgetful` keeps no stale cache of what it read.
"""

import asyncio
import os
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import uvicorn

from benchmarks.features_read import record_keys
from benchmarks.serving_site import CLOCK, SLOTS, Site, Size
from tailorbird.candidates.folder import folder_of
from tailorbird.features.state.state import open_state
from tailorbird.ranking.bundle import Bundle
from tailorbird.serving.messages import RecommendQuery, RecommendResponse
from tailorbird.serving.models.schemas import SingleSchema
from tailorbird.serving.models.state import StateReader
from tailorbird.serving.pipeline.pipeline import Pipeline
from tailorbird.serving.pipeline.protocols import FixedBundle
from tailorbird.serving.pipeline.stale_cache import StaleFeatureCache
from tailorbird.serving.server import ServeOptions, run
from tailorbird.serving.sockets import bind
from tailorbird.store import Store, open_store
from tailorbird.stream import routed_path


def run_tailorbird(site: Site, registry: Path | None = None) -> None:
    """Serve as `tailorbird run serve` does, with one thread for responses."""
    folder = site.folder / f"run-{os.getpid()}"
    options = ServeOptions(
        stream=site.stream,
        routed=routed_path(site.stream),
        state=site.state,
        registry=registry or site.registry,
        run=folder,
        features=site.features,
        slots=SLOTS,
        plan=site.plan,
        port=0,
        is_port_explicit=True,
        threads=1,
        candidates=site.candidates,
    )
    threading.Thread(target=_print_port, args=(folder,), daemon=True).start()
    run(options, CLOCK)


def run_with_vectors(site: Site) -> None:
    run_tailorbird(site, site.registry_vectors)


def run_without_cache(site: Site) -> None:
    StaleFeatureCache.store = lambda self, features, person_id, rows, keys: None
    run_tailorbird(site)


def _print_port(folder: Path) -> None:
    until = time.monotonic() + 300
    while time.monotonic() < until:
        for path in folder.glob("*.json"):
            record = msgspec.json.decode(path.read_bytes())
            if record.get("pid") == os.getpid():  # an address file, not one of those beside it
                print(record["url"].rpartition(":")[2], flush=True)
                return
        time.sleep(0.05)


@dataclass(frozen=True)
class Needs:
    """The inputs of one question: keys by read of each store, the model's matrix, the response."""

    keys: list[tuple[Store, list[list[bytes]]]]
    matrix: np.ndarray
    answer: bytes


class Floor:
    """A bare ASGI app that does only what a response cannot do without."""

    def __init__(self, site: Site) -> None:
        self._stores: tuple[Store, ...] = (
            open_state(site.state, site.features),
            open_store(folder_of(site.candidates, site.contract)),
        )
        self._bundle = site.bundle()
        self._reader = StateReader(site.state, site.features)
        self._needs: dict[bytes, Needs] = {}
        self._pipeline = Pipeline(
            slots=SLOTS,
            bundle_selector=FixedBundle(self._bundle),
            feature_provider=SingleSchema(site.features, self._reader),
            response_log=None,
            clock=CLOCK,
            rng=np.random.default_rng(1),
            table_provider=site.tables(),
        )

    async def __call__(self, scope, receive, send) -> None:
        body = (await receive())["body"]
        if scope["path"] == "/prepare":
            self._prepare(body)
        needs = self._needs[body]
        answer = str(len(needs.matrix)).encode() if scope["path"] == "/prepare" else needs.answer
        if scope["path"] == "/floor":
            await asyncio.get_running_loop().run_in_executor(None, self._work, needs)
        length = str(len(answer)).encode()
        await send(
            {"type": "http.response.start", "status": 200, "headers": [(b"content-length", length)]}
        )
        await send({"type": "http.response.body", "body": answer})

    def _work(self, needs: Needs) -> None:
        for store, key_lists in needs.keys:
            with store.snapshot() as snapshot:
                for keys in key_lists:
                    snapshot.get_many(keys, default=b"")
        for session in self._bundle.sessions.values():
            session.run(
                [session.get_outputs()[-1].name], {session.get_inputs()[0].name: needs.matrix}
            )

    def _prepare(self, body: bytes) -> None:
        matrices: list[np.ndarray] = []
        answers: list[RecommendResponse] = []
        query = msgspec.json.decode(body, type=RecommendQuery)
        raw = Bundle.raw_scores

        def record_matrix(bundle, matrix):
            matrices.append(matrix)
            return raw(bundle, matrix)

        Bundle.raw_scores = record_matrix  # type: ignore[method-assign]
        try:
            keys = record_keys(lambda: answers.append(self._pipeline.answer(query)))
        finally:
            Bundle.raw_scores = raw
        by_store = [
            (store, [keys_ for keys_ in keys if self._store_of(keys_) is store])
            for store in self._stores
        ]
        self._needs[body] = Needs(by_store, matrices[-1], msgspec.json.encode(answers[-1]))

    def _store_of(self, keys: list[bytes]) -> Store:
        """Return the store that has most of some keys, or most of the first on a tie.

        The reads are recorded without the store that they went to.
        """

        def count_values(store: Store) -> tuple[int, ...]:
            with store.snapshot() as snapshot:
                sizes = snapshot.get_many_with_sizes(keys)[1]
            return int(np.count_nonzero(sizes)), *sizes[:1]

        return max(self._stores, key=count_values)


def run_floor(site: Site) -> None:
    listener = bind("127.0.0.1", 0, is_explicit=True)
    app = Floor(site)
    print(listener.getsockname()[1], flush=True)
    config = uvicorn.Config(
        app,
        loop="uvloop",
        http="httptools",
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
    )
    uvicorn.Server(config).run([listener])


def main() -> None:
    kind, folder = sys.argv[1], Path(sys.argv[2])
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    site = Site(folder, msgspec.json.decode((folder / "done.json").read_bytes(), type=Size))
    {
        "tailorbird": run_tailorbird,
        "vectors": run_with_vectors,
        "forgetful": run_without_cache,
        "floor": run_floor,
    }[kind](site)


if __name__ == "__main__":
    main()
