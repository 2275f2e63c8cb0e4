"""A site for drills: two serve processes, one registry, a routed log of clicks, and a Valkey.

Servers write to files, or to a broker. Nothing routes it: drills look at responses, and that no
event is lost.
"""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from pathlib import Path

import httpx
import numpy as np
from tests.faults.drills.child import Part, open_stream
from tests.support import features as kit
from tests.support.network.stores import ValkeyServer as Valkey
from tests.support.roles import until
from tests.support.shops import serving_shop, shop_plan

from tailorbird.candidates.role import CandidatesRole
from tailorbird.errors import StorageError
from tailorbird.events import SECOND, SystemClock
from tailorbird.features.online.worker import FeatureWorker
from tailorbird.registry import Registry
from tailorbird.store import CopyTarget
from tailorbird.stream import log_set, open_reader

ROOT = Path(__file__).parents[3]
RATE = 150.0  # requests a second
DRILL_TIMEOUT_S = 1_800.0  # within which a drill must be over


class Serving:
    """A serve process that can be killed and started again on its port."""

    def __init__(self, part: Part, number: int, *, faults: str = "") -> None:
        data = Path(part.data)
        self._part, self._faults = part, faults
        self._run, self._log = data / "run", data / f"serve-{number}.log"
        self.start()

    def start(self) -> None:
        environment = {
            **os.environ,
            **({"TAILORBIRD_FAULTS": self._faults} if self._faults else {}),
        }
        with self._log.open("ab") as log:
            command = [
                sys.executable,
                "-m",
                "tests.faults.drills.child",
                json.dumps(asdict(self._part)),
            ]
            self.process = subprocess.Popen(
                command, stdout=log, stderr=log, env=environment, cwd=ROOT
            )
        try:
            until(
                lambda: bool(self._addresses()) or self.process.poll() is not None,
                90,
                "it did not start",
            )
            assert self.process.poll() is None, self._log.read_text()[-3_000:]
        except BaseException:
            self.kill()
            raise
        (self.url,) = self._addresses()
        self._part = replace(self._part, port=int(self.url.rpartition(":")[2]))

    def _addresses(self) -> list[str]:
        addresses = [json.loads(file.read_bytes()) for file in self._run.glob("*serve-*.json")]
        return [each["url"] for each in addresses if each["pid"] == self.process.pid]

    def kill(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()


class Site:
    """Everything that a drill breaks.

    Args:
        kafka: brokers to which servers write events and responses; "" is files.
        cpu: the only one that servers may use.
    """

    def __init__(
        self,
        folder: Path,
        *,
        servers: int = 2,
        faults: str = "",
        kafka: str = "",
        cpu: int | None = None,
    ) -> None:
        self.folder, self.kafka, self.features = folder, kafka, serving_shop.feature_set()
        folder.mkdir(parents=True, exist_ok=True)
        self.registry = Registry(folder / "registry", clock=SystemClock())
        self.registry.add(serving_shop.write_shop_bundle(folder / "dear", self.features))
        self.registry.add(
            serving_shop.write_shop_bundle(
                folder / "cheap", self.features, weights={"price": -0.05}
            )
        )
        for version in ("v0001", "v0002"):
            self.registry.promote(version, by="drill", why="first")
        self.valkey = Valkey(folder / "valkey")
        self._fill()
        copies = CopyTarget(self.valkey.url, "drill")
        self.worker = FeatureWorker(
            folder / "routed.db",
            folder / "state",
            self.features,
            clock=SystemClock(),
            copies=copies,
        )
        self.worker.step()
        clock, tables = SystemClock(), folder / "candidates"
        self.candidates = CandidatesRole(
            folder / "routed.db", tables, shop_plan.contract(), clock=clock, copies=copies
        )
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()
        self._http = httpx.Client(timeout=20)
        part = Part(str(folder), valkey=self.valkey.url, kafka=kafka, cpu=cpu)
        self.servers: list[Serving] = []
        try:
            for number in range(servers):
                self.servers.append(Serving(part, number + 1, faults=faults))
            until(self.ready, 60, f"the site does not get ready; see {folder}")
        except BaseException:
            self.close()
            raise

    @property
    def urls(self) -> list[str]:
        return [server.url for server in self.servers]

    def ready(self) -> bool:
        """Return True if no response of any server lacks anything."""
        return all(self.ask(url)["degraded"] == [] for url in self.urls)

    def ask(self, url: str) -> dict:
        """Return a response; one without items if there is none, as while a server starts."""
        response = self._post(f"{url}/v1/recommend", {"slot": "home", "user_id": "u1"})
        return (
            response.json()
            if response is not None and response.status_code == 200
            else {"items": [], "degraded": ["all"], "model": ""}
        )

    def serves(self, version: str) -> bool:
        """Return True if each server answers with this model."""
        return all(self.ask(url)["model"] == version for url in self.urls)

    def accepts_events(self) -> bool:
        """Return True if each server accepts a click now."""
        return all(
            response is not None and response.status_code == 200 for response in self._clicks()
        )

    def refuses_events(self) -> bool:
        """Return True if each server refuses a click now and says when to retry."""
        return all(
            response is not None
            and response.status_code == 503
            and "retry-after" in response.headers
            for response in self._clicks()
        )

    def _clicks(self) -> list[httpx.Response | None]:
        click = {"type": "click", "user_id": "u1", "item_id": "i1"}
        return [
            self._post(f"{url}/v1/events", {**click, "event_id": f"probe-{time.monotonic_ns()}"})
            for url in self.urls
        ]

    def metric(self, name: str) -> float:
        """Return a metric, summed over servers and labels."""
        total = 0.0
        for url in self.urls:
            for line in self._http.get(f"{url}/metrics").text.splitlines():
                if line.partition("{")[0].partition(" ")[0] == name:
                    total += float(line.rpartition(" ")[2])
        return total

    def events(self) -> set[str]:
        """Return the ids of all events in the raw logs."""
        event_ids: set[str] = set()
        for address in log_set(open_stream(self.folder, self.kafka)).raw_logs().values():
            with open_reader(address) as reader:
                position = reader.start()
                while blocks := reader.read(position):
                    position = blocks[-1].end
                    for stored in blocks:
                        body = json.loads(stored.block.payload)
                        event_ids.update(
                            event["event_id"]
                            for event in (body if isinstance(body, list) else [body])
                        )
        return event_ids

    def close(self) -> None:
        for server in self.servers:
            server.kill()
        self._stop.set()
        self._thread.join(20)
        for role in (self.worker, self.candidates):
            with suppress(StorageError):
                role.close()
        self.valkey.kill()
        self._http.close()

    def _post(self, url: str, content: dict) -> httpx.Response | None:
        try:
            return self._http.post(url, json=content)
        except httpx.HTTPError:
            return None

    def _fill(self) -> None:
        log, now = kit.Log(self.folder), SystemClock().now() - 3_600 * SECOND
        draw = np.random.default_rng(3)
        events = [
            kit.event(
                "item",
                now + n,
                item_id=f"i{n}",
                properties=json.dumps(serving_shop.item_profile(n)),
            )
            for n in range(serving_shop.ITEM_COUNT)
        ]
        for n in range(2_000):
            person, item = (
                f"u{int(draw.integers(200))}",
                f"i{int(draw.integers(serving_shop.ITEM_COUNT))}",
            )
            events.append(kit.event("click", now + SECOND + n, user_id=person, item_id=item))
        log.append([kit.routed(events)])
        log.close()

    def _work(self) -> None:
        while not self._stop.wait(0.1):
            self.worker.step()
            self.candidates.step()
            self.candidates.publish()


@contextmanager
def site(folder: Path, **options) -> Iterator[Site]:
    site_ = Site(folder, **options)
    try:
        yield site_
    finally:
        site_.close()


class Asking:
    """The client process, and its tally."""

    def __init__(self, site: Site, requests: int, *, rate: float = RATE) -> None:
        self._out = site.folder / f"asked-{time.monotonic_ns()}.json"
        command = [
            sys.executable,
            "-m",
            "tests.faults.drills.asking",
            *site.urls,
            "--requests",
            str(requests),
        ]
        self._process = subprocess.Popen(
            [*command, "--rate", str(rate), "--out", str(self._out)], cwd=ROOT
        )

    def over(self) -> bool:
        return self._process.poll() is not None

    def tally(self) -> dict:
        assert self._process.wait(DRILL_TIMEOUT_S) == 0
        return json.loads(self._out.read_text())


def pause(seconds: float, unless: Callable[[], bool]) -> None:
    """Wait, as long as the client runs."""
    over = time.monotonic() + seconds
    while time.monotonic() < over and not unless():
        time.sleep(0.02)
