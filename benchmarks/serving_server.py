"""The servers of `benchmarks.serving`, each in a process of its own on the first core; it prints
its port once it answers.

python -m benchmarks.serving_server tailorbird|vectors|forgetful|floor FOLDER

`vectors` is tailorbird with a bundle that has them; `forgetful` keeps nothing of what it read for
the time when the store does not answer.
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

from benchmarks.features_read import keys_read
from benchmarks.serving_site import CLOCK, SLOTS, Site, Size
from tailorbird.candidates.folder import folder_of
from tailorbird.features.state import open_state
from tailorbird.ranking.bundle import Bundle
from tailorbird.serving.lastknown import LastKnown
from tailorbird.serving.listening import bind
from tailorbird.serving.messages import Answer, RecommendQuery
from tailorbird.serving.parts import Fixed
from tailorbird.serving.pipeline import Pipeline
from tailorbird.serving.schemas import OneSchema
from tailorbird.serving.server import ServeOptions, run
from tailorbird.serving.state import StateReader
from tailorbird.store import Store, open_store
from tailorbird.stream import routed_path


def tailorbird(site: Site, registry: Path | None = None) -> None:
    """As `tailorbird run serve` does, with one thread for answers."""
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
        port_asked=True,
        threads=1,
        candidates=site.candidates,
    )
    threading.Thread(target=_tell_address, args=(folder,), daemon=True).start()
    run(options, CLOCK)


def vectors(site: Site) -> None:
    tailorbird(site, site.registry_vectors)


def forgetful(site: Site) -> None:
    LastKnown.keep = lambda self, features, person_id, rows, keys: None
    tailorbird(site)


def _tell_address(folder: Path) -> None:
    until = time.monotonic() + 300
    while time.monotonic() < until:
        for path in folder.glob("*.json"):
            told = msgspec.json.decode(path.read_bytes())
            if told["pid"] == os.getpid():
                print(told["url"].rpartition(":")[2], flush=True)
                return
        time.sleep(0.05)


@dataclass(frozen=True)
class Needs:
    """Of one question: keys by read of each store, the matrix of the model, the answer's bytes."""

    keys: list[tuple[Store, list[list[bytes]]]]
    matrix: np.ndarray
    answer: bytes


class Floor:
    """A bare ASGI app: what an answer cannot do without."""

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
            bundles=Fixed(self._bundle),
            readings=OneSchema(site.features, self._reader),
            answers=None,
            clock=CLOCK,
            rng=np.random.default_rng(1),
            tables=site.tables(),
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
        for store, asked in needs.keys:
            with store.snapshot() as snapshot:
                for keys in asked:
                    snapshot.get_many(keys, default=b"")
        for session in self._bundle.sessions.values():
            session.run(
                [session.get_outputs()[-1].name], {session.get_inputs()[0].name: needs.matrix}
            )

    def _prepare(self, body: bytes) -> None:
        seen: list[np.ndarray] = []
        answers: list[Answer] = []
        query = msgspec.json.decode(body, type=RecommendQuery)
        raw = Bundle.raw

        def noted(bundle, matrix):
            seen.append(matrix)
            return raw(bundle, matrix)

        Bundle.raw = noted  # type: ignore[method-assign]
        try:
            keys = keys_read(lambda: answers.append(self._pipeline.answer(query)))
        finally:
            Bundle.raw = raw
        by_store = [
            (store, [one for one in keys if self._store_of(one) is store]) for store in self._stores
        ]
        self._needs[body] = Needs(by_store, seen[-1], msgspec.json.encode(answers[-1]))

    def _store_of(self, keys: list[bytes]) -> Store:
        """The store that has most of some keys, or most of the first where both have as many: which
        one was asked is not noted.
        """

        def has(store: Store) -> tuple[int, ...]:
            with store.snapshot() as snapshot:
                sizes = snapshot.get_sized(keys)[1]
            return int(np.count_nonzero(sizes)), *sizes[:1]

        return max(self._stores, key=has)


def floor(site: Site) -> None:
    listener = bind("127.0.0.1", 0, asked=True)
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
    what, folder = sys.argv[1], Path(sys.argv[2])
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    site = Site(folder, msgspec.json.decode((folder / "done.json").read_bytes(), type=Size))
    {"tailorbird": tailorbird, "vectors": vectors, "forgetful": forgetful, "floor": floor}[what](
        site
    )


if __name__ == "__main__":
    main()
