"""What an answer takes, from the socket to the socket, beside what it cannot do without; and how
that holds under load.

    python -m benchmarks.serving [--small] [--json] [--folder DIR] [--requests N] [--seconds S]
    [--plot docs/images/serving.png]

A server process on one core answers for a site of 1M people and 100,000 items: retrieval, 500
candidates, the forty features, 300 trees, choice, log. The client has the other core.

    service   one request in flight: from sending to the last byte of the answer
    degraded  what these answers lacked, and how often
    floor     the same, of a bare server of the same kind on the same core, which for each question reads the very records from the very
              state that our answer needed, runs the very matrix through the very model, and sends as many bytes; in turns with ours
    load      requests at random moments (Poisson), each timed from when it was meant to be sent; shares of what one after another gives.
              `refused` is the share that was told to come again, since it would have waited too long
    variants  the same questions in turns with ours: of a bundle `with vectors` (the inverted file or all products, and two more columns),
              and of a server `without last known`, which does not keep what it read for when the store is gone
    queue     p99 of a queue of one server, simulated with the same arrivals and our own service times
    peers     LightGBM behind FastAPI with Feast's online store, after `make peers` (see `benchmarks.serving_peers`): the same people,
              candidates, columns and trees, one request in flight, in turns with ours; where it is not there, `missing` says why

`ratios.floor` is our median over the floor's, `ratios.queue` at half of the capacity our p99 over
the simulated one's. `cpu_ms` is what the server's process used for an answer, which other work on
the machine disturbs least. A peer's ratio is its median over ours. `/v1/rank` orders 100 items of
the caller, `/v1/search` finds and orders items by words. The site is built once and kept in
--folder.
"""

import argparse
import asyncio
import json
import os
import platform
import resource
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from importlib.metadata import version
from pathlib import Path

import numpy as np

from benchmarks import serving_peers
from benchmarks.ingest import cpu
from benchmarks.serving_site import CATEGORIES, Site, Size, item

SHARES = (0.2, 0.4, 0.5, 0.6, 0.7, 0.8)
VARIANTS = {"with vectors": "vectors", "without last known": "forgetful"}
PAIRED = 400  # people whose records and matrices the floor keeps
PEERED = 200  # people whom the peers know
WARM = 200
CONNECTIONS = 64
# the server closes a connection that nothing came on for longer; a client has to put it away first
IDLE_MAX_S = 10.0
HERE = Path(__file__).parents[1]


class Server:
    """A process of `benchmarks.serving_server` on the first core, by its address."""

    def __init__(self, what: str, site: Site) -> None:
        command = [sys.executable, "-m", "benchmarks.serving_server", what, str(site.folder)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        self._process = subprocess.Popen(
            command, cwd=HERE, env=environment, stdout=subprocess.PIPE, text=True
        )
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, f"the {what} server did not start"
        self.port = int(line)

    def cpu_s(self) -> float:
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def rss_mib(self) -> float:
        lines = Path(f"/proc/{self._process.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) / 1_024

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait(30)


@contextmanager
def serving(what: str, site: Site) -> Iterator[Server]:
    server = Server(what, site)
    try:
        yield server
    finally:
        server.stop()


class Connection:
    """One connection that is kept open, and nothing between it and the clock."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=60)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def ask(self, request: bytes) -> tuple[float, bytes]:
        """Seconds, and the answer's body."""
        began = time.perf_counter()
        self._socket.sendall(request)
        answer = b""
        while (end := answer.find(b"\r\n\r\n")) < 0 or len(answer) < end + 4 + _length(
            answer[:end]
        ):
            more = self._socket.recv(1 << 18)
            assert more, "the server closed the connection"
            answer += more
        taken = time.perf_counter() - began
        assert answer.startswith(b"HTTP/1.1 200"), answer[:300]
        return taken, answer[end + 4 :]

    def close(self) -> None:
        self._socket.close()


def _length(head: bytes) -> int:
    return int(head.lower().partition(b"content-length:")[2].split(b"\r\n")[0])


def posted(path: str, body: object) -> bytes:
    data = json.dumps(body).encode()
    head = (
        f"POST {path} HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: "
        f"application/json\r\ncontent-length: {len(data)}\r\n\r\n"
    )
    return head.encode() + data


def summary(seconds: Sequence[float]) -> dict[str, float]:
    at = np.percentile(np.asarray(seconds) * 1_000, [50, 90, 99, 99.9])
    named = dict(zip(("p50_ms", "p90_ms", "p99_ms", "p999_ms"), at.tolist(), strict=True))
    return {
        name: round(value, 3)
        for name, value in (named | {"mean_ms": float(np.mean(seconds)) * 1_000}).items()
    }


def one_by_one(server: Server, requests: Sequence[bytes]) -> tuple[list[float], float]:
    """Seconds of each, one in flight, and CPU seconds of the server for each."""
    connection = Connection(server.port)
    for request in requests[:WARM]:
        connection.ask(request)
    began = server.cpu_s()
    taken = [connection.ask(request)[0] for request in requests]
    spent = (server.cpu_s() - began) / len(requests)
    connection.close()
    return taken, spent


def lacking(server: Server, requests: Sequence[bytes]) -> dict[str, int]:
    """What answers lacked, and how often."""
    connection, found = Connection(server.port), Counter[str]()
    for request in requests:
        found.update(json.loads(connection.ask(request)[1])["degraded"])
    connection.close()
    return dict(found)


def beside_floor(
    ours: Server, floor: Server, requests: Sequence[bytes], rounds: int
) -> dict[str, list[float]]:
    """Seconds of the same requests by ours, by the floor, and by its echo alone, in turns."""
    mine, theirs = Connection(ours.port), Connection(floor.port)
    taken: dict[str, list[float]] = {"service": [], "floor": [], "echo": []}
    taken["candidates"] = []
    for request in requests:  # the floor gets to know what each needs
        taken["candidates"].append(
            float(theirs.ask(request.replace(b"/v1/recommend", b"/prepare", 1))[1])
        )
        mine.ask(request)
    for _ in range(rounds):
        for request in requests:
            taken["service"].append(mine.ask(request)[0])
            taken["floor"].append(theirs.ask(request.replace(b"/v1/recommend", b"/floor", 1))[0])
            taken["echo"].append(theirs.ask(request.replace(b"/v1/recommend", b"/echo", 1))[0])
    mine.close()
    theirs.close()
    return taken


def beside_peers(
    ours: Server, site: Site, bodies: Sequence[dict], rounds: int
) -> tuple[dict[str, list[float]], dict[str, str]]:
    """Seconds of the same questions by ours and by each peer that is here, in turns; and why the
    others are not.
    """
    wanted = serving_peers.stores()
    missing = {kind: why for kind, why in wanted.items() if why}
    if len(missing) == len(wanted):
        return {}, missing
    folder = site.folder / "peers"
    questions = serving_peers.prepared(site, bodies, folder)
    with ExitStack() as stack:
        ports = {}
        for kind in wanted.keys() - missing.keys():
            try:
                ports[kind] = stack.enter_context(serving_peers.answering(kind, folder))
            except RuntimeError as error:
                missing[kind] = str(error)
        theirs = [posted("/recommend", one.body) for one in questions]
        asked = {"tailorbird": (ours.port, [posted("/v1/recommend", body) for body in bodies])}
        asked |= {kind: (port, theirs) for kind, port in ports.items()}
        taken: dict[str, list[float]] = {name: [] for name in asked}
        for turn in range(rounds + 1):
            for place, question in enumerate(questions):
                for name, (port, requests) in asked.items():
                    connection = Connection(
                        port
                    )  # a new one, outside the time: servers close what is idle while others answer
                    seconds, answer = connection.ask(requests[place])
                    connection.close()
                    if name != "tailorbird":
                        serving_peers.checked(answer, question)
                    if turn:  # the first is for warming up
                        taken[name].append(seconds)
    return taken, missing


def in_turns(ours: Server, other: Server, requests: Sequence[bytes]) -> dict[str, float]:
    """Milliseconds of the same requests, median and CPU time, by another server and by ours."""
    both = {"": other, "ours_": ours}
    open_ = {name: Connection(server.port) for name, server in both.items()}
    for request in requests[:WARM]:
        for connection in open_.values():
            connection.ask(request)
    began = {name: server.cpu_s() for name, server in both.items()}
    taken: dict[str, list[float]] = {name: [] for name in both}
    for request in requests:
        for name, connection in open_.items():
            taken[name].append(connection.ask(request)[0])
    told: dict[str, float] = {}
    for name, server in both.items():
        open_[name].close()
        p50, p99 = np.percentile(np.asarray(taken[name]) * 1_000, [50, 99]).tolist()
        spent = (server.cpu_s() - began[name]) / len(requests) * 1_000
        told |= {
            f"{name}p50_ms": round(p50, 3),
            f"{name}p99_ms": round(p99, 3),
            f"{name}cpu_ms": round(spent, 3),
        }
    return told


async def _under_load(port: int, requests: Sequence[bytes], meant: np.ndarray) -> list[float]:
    """Seconds from when each request was meant to be sent to its whole answer; NaN of one that was
    told to come again.
    """
    free: asyncio.LifoQueue = asyncio.LifoQueue()
    for _ in range(CONNECTIONS):
        free.put_nowait((*await asyncio.open_connection("127.0.0.1", port), time.perf_counter()))
    taken = [0.0] * len(meant)
    began = time.perf_counter() + 0.2

    async def ask(place: int) -> None:
        reader, writer, used = await free.get()
        if time.perf_counter() - used > IDLE_MAX_S:
            writer.close()
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(requests[place % len(requests)])
        head = await reader.readuntil(b"\r\n\r\n")
        await reader.readexactly(_length(head[:-4]))
        taken[place] = time.perf_counter() - began - meant[place]
        assert head.startswith((b"HTTP/1.1 200", b"HTTP/1.1 503")), head
        if head.startswith(b"HTTP/1.1 503"):
            taken[place] = float("nan")
        free.put_nowait((reader, writer, time.perf_counter()))

    asked = []
    for place, moment in enumerate(meant.tolist()):
        await asyncio.sleep(max(0.0, began + moment - time.perf_counter()))
        asked.append(asyncio.create_task(ask(place)))
    await asyncio.gather(*asked)
    while not free.empty():
        free.get_nowait()[1].close()
    return taken


def simulated(meant: np.ndarray, service: np.ndarray) -> np.ndarray:
    """Seconds from arrival to the end, of a queue of one server, first come first served."""
    done, taken = 0.0, np.empty(len(meant))
    for place, (arrival, needed) in enumerate(zip(meant.tolist(), service.tolist(), strict=True)):
        done = max(done, arrival) + needed
        taken[place] = done - arrival
    return taken


def loaded(
    server: Server, requests: Sequence[bytes], service: Sequence[float], seconds: float
) -> list[dict[str, float]]:
    """The curve: for each share of the capacity what was measured, and the p99 of the simulated
    queue.
    """
    rng = np.random.default_rng(3)
    per_s = 1 / float(np.mean(service))
    curve = []
    for share in SHARES:
        meant = np.cumsum(
            rng.exponential(1 / (share * per_s), max(int(share * per_s * seconds), 50))
        )
        taken = asyncio.run(_under_load(server.port, requests, meant))
        queue = [
            float(np.percentile(simulated(meant, rng.choice(service, len(meant))), 99))
            for _ in range(20)
        ]
        answered = [one for one in taken if one == one]
        told = {
            "share": share,
            "per_s": round(share * per_s, 1),
            "refused": round(1 - len(answered) / len(taken), 4),
        }
        curve.append(
            {**told, **summary(answered), "queue_p99_ms": round(float(np.median(queue)) * 1_000, 3)}
        )
    return curve


def plot(curve: Sequence[dict[str, float]], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axis = pyplot.subplots(figsize=(7, 4), layout="constrained")
    per_s = [one["per_s"] for one in curve]
    for name, told in (
        ("p50_ms", "p50"),
        ("p99_ms", "p99"),
        ("queue_p99_ms", "p99 of a simulated queue"),
    ):
        axis.plot(
            per_s,
            [one[name] for one in curve],
            marker="o",
            linestyle="--" if name.startswith("queue") else "-",
            label=told,
        )
    axis.set_xlabel("answers a second, one process on one core")
    axis.set_ylabel("ms from when it was meant to be sent")
    axis.set_ylim(bottom=0)
    axis.legend()
    figure.savefig(path, dpi=110)


def measured(site: Site, count: int, seconds: float, to: Path | None) -> dict:
    bodies = site.requests(count)
    requests = [posted("/v1/recommend", one) for one in bodies]
    rng = np.random.default_rng(5)
    given = [
        posted(
            "/v1/rank",
            {
                **one,
                "items": [item(some) for some in rng.integers(0, site.size.items, 100).tolist()],
            },
        )
        for one in bodies[: count // 4]
    ]
    words = [
        posted(
            "/v1/search",
            {
                "slot": "search",
                "query": f"thing c{rng.integers(CATEGORIES)}",
                "user_id": one["user_id"],
            },
        )
        for one in bodies[: count // 4]
    ]
    with serving("tailorbird", site) as ours:
        with serving("floor", site) as floor:
            paired = beside_floor(ours, floor, requests[: min(PAIRED, count // 4)], 4)
        others, missing = beside_peers(ours, site, bodies[: min(PEERED, count // 8)], 3)
        variants = {}
        for name, what in VARIANTS.items():
            with serving(what, site) as other:
                variants[name] = in_turns(ours, other, requests[: max(count // 2, 100)])
        service, spent = one_by_one(ours, requests)
        lacked = lacking(ours, requests)
        ranked, rank_spent = one_by_one(ours, given)
        found, search_spent = one_by_one(ours, words)
        curve = loaded(ours, requests, service, seconds)
        memory = ours.rss_mib()
    if to is not None:
        plot(curve, to)
    half = next(one for one in curve if one["share"] == 0.5)
    candidates = round(float(np.mean(paired.pop("candidates"))))
    middle = {name: float(np.median(some)) for name, some in paired.items()}
    results = {
        "service": summary(service) | {"cpu_ms": round(spent * 1_000, 3)},
        "degraded": lacked,
        "rank": summary(ranked) | {"cpu_ms": round(rank_spent * 1_000, 3)},
        "search": summary(found) | {"cpu_ms": round(search_spent * 1_000, 3)},
        "beside the floor": {name: round(value * 1_000, 3) for name, value in middle.items()},
        "beside peers": {name: summary(some) for name, some in others.items()},
        "variants": variants,
        "load": curve,
        "p99_ms": summary(service)["p99_ms"],
        "own_mib": round(memory, 1),
        "candidates": candidates,
    }
    ratios = {
        "floor": round(middle["service"] / middle["floor"], 2),
        "queue": round(half["p99_ms"] / half["queue_p99_ms"], 2),
    }
    ours_s = float(np.median(others.pop("tailorbird"))) if others else 0.0
    ratios |= {name: round(float(np.median(some)) / ours_s, 2) for name, some in others.items()}
    return {"results": results, "ratios": ratios, "missing": missing}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--small",
        action="store_true",
        help="a fiftieth of the people, a tenth of the items, few requests",
    )
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--folder", type=Path, help="where the site is kept; some GB")
    parser.add_argument("--requests", type=int, default=4_000)
    parser.add_argument("--seconds", type=float, default=30.0, help="of load for each share")
    parser.add_argument("--plot", type=Path)
    arguments = parser.parse_args()
    size = Size(people=20_000, items=10_000, events=100_000) if arguments.small else Size()
    count, seconds = (400, 3.0) if arguments.small else (arguments.requests, arguments.seconds)
    cores = sorted(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory() as folder:
        site = Site(arguments.folder or Path(folder) / "site", size)
        site.make(lambda what: print(f"building {what} …", file=sys.stderr, flush=True))
        os.sched_setaffinity(0, cores[1:] or cores)
        report = measured(site, count, seconds, arguments.plot)
    report |= {
        "sizes": {"people": size.people, "items": size.items, "features": 40, "trees": size.trees},
        "versions": {name: version(name) for name in ("lmdb", "numpy", "onnxruntime", "uvicorn")}
        | {"python": platform.python_version()},
        "cpu": cpu(),
        "load": [round(one, 1) for one in os.getloadavg()],
        "client_mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1_024, 1),
    }
    json.dump(report, sys.stdout, indent=None if arguments.json else 2)
    print()


if __name__ == "__main__":
    main()
