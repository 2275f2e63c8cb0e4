"""Measure a response from socket to socket, beside a floor of unavoidable work, and under load.

    python -m benchmarks.serving [--small] [--json] [--folder DIR] [--requests N] [--seconds S]
    [--plot docs/images/serving.png]

A server process on one core serves a site of 1M people and 100,000 items: retrieval, 500
candidates, the forty features, 300 trees, choice, log. The client has the other core.

    service   one request in flight: from sending to the last byte of the response
    degraded  what these responses lacked, and how often
    floor     the same for a bare server of the same kind on the same core: for each question it
              reads the same records from the same state, runs the same matrix through the same
              model, and sends as many bytes; in turns with ours
    load      requests at random moments (Poisson), each timed from when it was due; shares are of
              the sequential rate. `refused` is the share that was shed, since it would have
              waited too long
    variants  the same questions in turns with ours: of a bundle `with vectors` (the inverted file
              or all products, and two more columns), and of a server `without last known`, which
              has no stale cache for the time when the store is gone
    queue     p99 of a queue of one server, simulated with the same arrivals and our own service
              times
    peers     LightGBM behind FastAPI with Feast's online store, after `make peers` (see
              `benchmarks.serving_peers`): the same people, candidates, columns and trees, one
              request in flight, in turns with ours; if it cannot run, `missing` says why

`ratios.floor` is our median over the floor's, `ratios.queue` at half of the capacity our p99 over
the simulated one's. `cpu_ms` is the server process's CPU time per response, which other load on the
machine disturbs least. A peer's ratio is its median over ours. `/v1/rank` orders 100 items of the
caller, `/v1/search` finds and orders items by words. The site is built once and kept in --folder.
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
from benchmarks.ingest import cpu_name
from benchmarks.serving_site import CATEGORIES, Site, Size, item

SHARES = (0.2, 0.4, 0.5, 0.6, 0.7, 0.8)
VARIANTS = {"with vectors": "vectors", "without last known": "forgetful"}
PAIRED = 400  # people whose records and matrices the floor keeps
PEERED = 200  # people whom the peers know
WARM = 200
CONNECTIONS = 64
# The server closes connections that were idle for longer, so the client replaces them first.
IDLE_MAX_S = 10.0
HERE = Path(__file__).parents[1]


class Server:
    """A process of `benchmarks.serving_server` on the first core, with its port."""

    def __init__(self, kind: str, site: Site) -> None:
        command = [sys.executable, "-m", "benchmarks.serving_server", kind, str(site.folder)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        self._process = subprocess.Popen(
            command, cwd=HERE, env=environment, stdout=subprocess.PIPE, text=True
        )
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, f"the {kind} server did not start"
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
def serving(kind: str, site: Site) -> Iterator[Server]:
    server = Server(kind, site)
    try:
        yield server
    finally:
        server.stop()


class Connection:
    """One connection that is kept open, with as little as possible between it and the clock."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=60)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def exchange(self, request: bytes) -> tuple[float, bytes]:
        """Send a request; return the seconds taken and the body of the response."""
        started = time.perf_counter()
        self._socket.sendall(request)
        answer = b""
        while (end := answer.find(b"\r\n\r\n")) < 0 or len(answer) < end + 4 + _length(
            answer[:end]
        ):
            chunk = self._socket.recv(1 << 18)
            assert chunk, "the server closed the connection"
            answer += chunk
        taken = time.perf_counter() - started
        assert answer.startswith(b"HTTP/1.1 200"), answer[:300]
        return taken, answer[end + 4 :]

    def close(self) -> None:
        self._socket.close()


def _length(head: bytes) -> int:
    return int(head.lower().partition(b"content-length:")[2].split(b"\r\n")[0])


def to_request(path: str, body: object) -> bytes:
    data = json.dumps(body).encode()
    head = (
        f"POST {path} HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: "
        f"application/json\r\ncontent-length: {len(data)}\r\n\r\n"
    )
    return head.encode() + data


def summary(seconds: Sequence[float]) -> dict[str, float]:
    percentiles = np.percentile(np.asarray(seconds) * 1_000, [50, 90, 99, 99.9])
    by_name = dict(
        zip(("p50_ms", "p90_ms", "p99_ms", "p999_ms"), percentiles.tolist(), strict=True)
    )
    return {
        name: round(value, 3)
        for name, value in (by_name | {"mean_ms": float(np.mean(seconds)) * 1_000}).items()
    }


def time_requests(server: Server, requests: Sequence[bytes]) -> tuple[list[float], float]:
    """Return seconds of each request, one in flight, and the server's CPU seconds per request."""
    connection = Connection(server.port)
    for request in requests[:WARM]:
        connection.exchange(request)
    started = server.cpu_s()
    taken = [connection.exchange(request)[0] for request in requests]
    spent = (server.cpu_s() - started) / len(requests)
    connection.close()
    return taken, spent


def count_degraded(server: Server, requests: Sequence[bytes]) -> dict[str, int]:
    """Count the parts that responses lacked."""
    connection, degraded = Connection(server.port), Counter[str]()
    for request in requests:
        degraded.update(json.loads(connection.exchange(request)[1])["degraded"])
    connection.close()
    return dict(degraded)


def time_beside_floor(
    ours: Server, floor: Server, requests: Sequence[bytes], rounds: int
) -> dict[str, list[float]]:
    """Return seconds of the same requests by ours, by the floor and by its echo, in turns."""
    our_connection, floor_connection = Connection(ours.port), Connection(floor.port)
    seconds: dict[str, list[float]] = {"service": [], "floor": [], "echo": []}
    seconds["candidates"] = []
    for request in requests:  # the floor records what each needs
        seconds["candidates"].append(
            float(floor_connection.exchange(request.replace(b"/v1/recommend", b"/prepare", 1))[1])
        )
        our_connection.exchange(request)
    for _ in range(rounds):
        for request in requests:
            seconds["service"].append(our_connection.exchange(request)[0])
            seconds["floor"].append(
                floor_connection.exchange(request.replace(b"/v1/recommend", b"/floor", 1))[0]
            )
            seconds["echo"].append(
                floor_connection.exchange(request.replace(b"/v1/recommend", b"/echo", 1))[0]
            )
    our_connection.close()
    floor_connection.close()
    return seconds


def time_beside_peers(
    ours: Server, site: Site, bodies: Sequence[dict], rounds: int
) -> tuple[dict[str, list[float]], dict[str, str]]:
    """Return seconds of the same questions by ours and by each peer that runs here, in turns.

    Also returns the reason for each peer that does not run.
    """
    problems = serving_peers.store_problems()
    missing = {kind: reason for kind, reason in problems.items() if reason}
    if len(missing) == len(problems):
        return {}, missing
    folder = site.folder / "peers"
    questions = serving_peers.prepare_peers(site, bodies, folder)
    with ExitStack() as stack:
        ports = {}
        for kind in problems.keys() - missing.keys():
            try:
                ports[kind] = stack.enter_context(serving_peers.run_peer(kind, folder))
            except RuntimeError as error:
                missing[kind] = str(error)
        peer_requests = [to_request("/recommend", one.body) for one in questions]
        requests_by_name = {
            "tailorbird": (ours.port, [to_request("/v1/recommend", body) for body in bodies])
        }
        requests_by_name |= {kind: (port, peer_requests) for kind, port in ports.items()}
        taken: dict[str, list[float]] = {name: [] for name in requests_by_name}
        for turn in range(rounds + 1):
            for index, question in enumerate(questions):
                for name, (port, requests) in requests_by_name.items():
                    connection = Connection(
                        port
                    )  # a new one, outside the timing: servers close idle connections
                    seconds, answer = connection.exchange(requests[index])
                    connection.close()
                    if name != "tailorbird":
                        serving_peers.check_scores(answer, question)
                    if turn:  # the first is for warming up
                        taken[name].append(seconds)
    return taken, missing


def time_in_turns(ours: Server, other: Server, requests: Sequence[bytes]) -> dict[str, float]:
    """Return median and CPU milliseconds of the same requests by another server and by ours."""
    servers = {"": other, "ours_": ours}
    connections = {name: Connection(server.port) for name, server in servers.items()}
    for request in requests[:WARM]:
        for connection in connections.values():
            connection.exchange(request)
    started = {name: server.cpu_s() for name, server in servers.items()}
    taken: dict[str, list[float]] = {name: [] for name in servers}
    for request in requests:
        for name, connection in connections.items():
            taken[name].append(connection.exchange(request)[0])
    figures: dict[str, float] = {}
    for name, server in servers.items():
        connections[name].close()
        p50, p99 = np.percentile(np.asarray(taken[name]) * 1_000, [50, 99]).tolist()
        spent = (server.cpu_s() - started[name]) / len(requests) * 1_000
        figures |= {
            f"{name}p50_ms": round(p50, 3),
            f"{name}p99_ms": round(p99, 3),
            f"{name}cpu_ms": round(spent, 3),
        }
    return figures


async def _send_at_times(port: int, requests: Sequence[bytes], due_s: np.ndarray) -> list[float]:
    """Return seconds from when each request was due to its complete response; NaN if refused."""
    free: asyncio.LifoQueue = asyncio.LifoQueue()
    for _ in range(CONNECTIONS):
        free.put_nowait((*await asyncio.open_connection("127.0.0.1", port), time.perf_counter()))
    taken = [0.0] * len(due_s)
    started = time.perf_counter() + 0.2

    async def send(index: int) -> None:
        reader, writer, used = await free.get()
        if time.perf_counter() - used > IDLE_MAX_S:
            writer.close()
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(requests[index % len(requests)])
        head = await reader.readuntil(b"\r\n\r\n")
        await reader.readexactly(_length(head[:-4]))
        taken[index] = time.perf_counter() - started - due_s[index]
        assert head.startswith((b"HTTP/1.1 200", b"HTTP/1.1 503")), head
        if head.startswith(b"HTTP/1.1 503"):
            taken[index] = float("nan")
        free.put_nowait((reader, writer, time.perf_counter()))

    tasks = []
    for place, due in enumerate(due_s.tolist()):
        await asyncio.sleep(max(0.0, started + due - time.perf_counter()))
        tasks.append(asyncio.create_task(send(place)))
    await asyncio.gather(*tasks)
    while not free.empty():
        free.get_nowait()[1].close()
    return taken


def simulate_queue(due_s: np.ndarray, service: np.ndarray) -> np.ndarray:
    """Simulate a first-come-first-served queue of one server; return seconds in the system."""
    done, taken = 0.0, np.empty(len(due_s))
    for index, (arrival, service_s) in enumerate(
        zip(due_s.tolist(), service.tolist(), strict=True)
    ):
        done = max(done, arrival) + service_s
        taken[index] = done - arrival
    return taken


def measure_load(
    server: Server, requests: Sequence[bytes], service: Sequence[float], seconds: float
) -> list[dict[str, float]]:
    """Return the curve: measured latencies for each share of the capacity, and the queue's p99."""
    rng = np.random.default_rng(3)
    per_s = 1 / float(np.mean(service))
    curve = []
    for share in SHARES:
        due_s = np.cumsum(
            rng.exponential(1 / (share * per_s), max(int(share * per_s * seconds), 50))
        )
        taken = asyncio.run(_send_at_times(server.port, requests, due_s))
        queue = [
            float(np.percentile(simulate_queue(due_s, rng.choice(service, len(due_s))), 99))
            for _ in range(20)
        ]
        answered = [seconds_taken for seconds_taken in taken if seconds_taken == seconds_taken]
        figures = {
            "share": share,
            "per_s": round(share * per_s, 1),
            "refused": round(1 - len(answered) / len(taken), 4),
        }
        curve.append(
            {
                **figures,
                **summary(answered),
                "queue_p99_ms": round(float(np.median(queue)) * 1_000, 3),
            }
        )
    return curve


def plot(curve: Sequence[dict[str, float]], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axis = pyplot.subplots(figsize=(7, 4), layout="constrained")
    per_s = [point["per_s"] for point in curve]
    for name, label in (
        ("p50_ms", "p50"),
        ("p99_ms", "p99"),
        ("queue_p99_ms", "p99 of a simulated queue"),
    ):
        axis.plot(
            per_s,
            [point[name] for point in curve],
            marker="o",
            linestyle="--" if name.startswith("queue") else "-",
            label=label,
        )
    axis.set_xlabel("answers a second, one process on one core")
    axis.set_ylabel("ms from when it was meant to be sent")
    axis.set_ylim(bottom=0)
    axis.legend()
    figure.savefig(path, dpi=110)


def measure_site(site: Site, count: int, seconds: float, to: Path | None) -> dict:
    bodies = site.requests(count)
    requests = [to_request("/v1/recommend", body) for body in bodies]
    rng = np.random.default_rng(5)
    rank_requests = [
        to_request(
            "/v1/rank",
            {
                **body,
                "items": [
                    item(seconds_of)
                    for seconds_of in rng.integers(0, site.size.items, 100).tolist()
                ],
            },
        )
        for body in bodies[: count // 4]
    ]
    search_requests = [
        to_request(
            "/v1/search",
            {
                "slot": "search",
                "query": f"thing c{rng.integers(CATEGORIES)}",
                "user_id": body["user_id"],
            },
        )
        for body in bodies[: count // 4]
    ]
    with serving("tailorbird", site) as ours:
        with serving("floor", site) as floor:
            paired = time_beside_floor(ours, floor, requests[: min(PAIRED, count // 4)], 4)
        peer_seconds, missing = time_beside_peers(ours, site, bodies[: min(PEERED, count // 8)], 3)
        variants = {}
        for name, what in VARIANTS.items():
            with serving(what, site) as other:
                variants[name] = time_in_turns(ours, other, requests[: max(count // 2, 100)])
        service, spent = time_requests(ours, requests)
        degraded = count_degraded(ours, requests)
        ranked, rank_spent = time_requests(ours, rank_requests)
        searched, search_spent = time_requests(ours, search_requests)
        curve = measure_load(ours, requests, service, seconds)
        memory = ours.rss_mib()
    if to is not None:
        plot(curve, to)
    half_load = next(body for body in curve if body["share"] == 0.5)
    candidates = round(float(np.mean(paired.pop("candidates"))))
    medians = {name: float(np.median(seconds_of)) for name, seconds_of in paired.items()}
    results = {
        "service": summary(service) | {"cpu_ms": round(spent * 1_000, 3)},
        "degraded": degraded,
        "rank": summary(ranked) | {"cpu_ms": round(rank_spent * 1_000, 3)},
        "search": summary(searched) | {"cpu_ms": round(search_spent * 1_000, 3)},
        "beside the floor": {name: round(value * 1_000, 3) for name, value in medians.items()},
        "beside peers": {name: summary(seconds_of) for name, seconds_of in peer_seconds.items()},
        "variants": variants,
        "load": curve,
        "p99_ms": summary(service)["p99_ms"],
        "own_mib": round(memory, 1),
        "candidates": candidates,
    }
    ratios = {
        "floor": round(medians["service"] / medians["floor"], 2),
        "queue": round(half_load["p99_ms"] / half_load["queue_p99_ms"], 2),
    }
    ours_s = float(np.median(peer_seconds.pop("tailorbird"))) if peer_seconds else 0.0
    ratios |= {
        name: round(float(np.median(seconds_of)) / ours_s, 2)
        for name, seconds_of in peer_seconds.items()
    }
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
        report = measure_site(site, count, seconds, arguments.plot)
    report |= {
        "sizes": {"people": size.people, "items": size.items, "features": 40, "trees": size.trees},
        "versions": {name: version(name) for name in ("lmdb", "numpy", "onnxruntime", "uvicorn")}
        | {"python": platform.python_version()},
        "cpu": cpu_name(),
        "load": [round(one, 1) for one in os.getloadavg()],
        "client_mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1_024, 1),
    }
    json.dump(report, sys.stdout, indent=None if arguments.json else 2)
    print()


if __name__ == "__main__":
    main()
