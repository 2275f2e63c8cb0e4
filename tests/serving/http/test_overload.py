"""Questions to a server that has too much to do are refused before they are requests, and told the
same as by the long way.
"""

import asyncio
import json
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import uvicorn
from tests.support.roles import until
from tests.support.serving.app import PromptPipeline

from tailorbird.events import RoutePlan, SystemClock
from tailorbird.serving.collector.collector import EventCollector
from tailorbird.serving.http.access import Perimeter
from tailorbird.serving.http.app import create_app
from tailorbird.serving.http.handling import Service
from tailorbird.serving.http.overload import PATHS, EarlyRefusal
from tailorbird.serving.http.protocol import LimitedHttpProtocol
from tailorbird.serving.load_shedding import UNMEASURED_COST_S, AdmittedRequest
from tailorbird.serving.messages import RecommendQuery, RecommendResponse

QUERY = json.dumps({"slot": "home", "user_id": "u1"}).encode()
CLICK = json.dumps({"event_id": "e1", "type": "click", "user_id": "u1", "item_id": "i1"}).encode()
ORIGIN = b"origin: http://127.0.0.1\r\n"


def request(path: str, body: bytes = QUERY, more: bytes = b"") -> bytes:
    head = (
        f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: "
        f"application/json\r\nContent-Length: {len(body)}\r\n"
    )
    return head.encode() + more + b"\r\n" + body


class Halting(PromptPipeline):
    """A pipeline that answers once it may."""

    def __init__(self, resume: threading.Event) -> None:
        self._resume = resume

    def answer(self, query: RecommendQuery) -> RecommendResponse:
        assert self._resume.wait(20)
        return super().answer(query)


class Served:
    """A server whose work can be heaped up, and one connection to it."""

    def __init__(
        self,
        service: Service,
        early_refusal: EarlyRefusal,
        keep_alive_s: int = 15,
        unread_deadline_s: float = 30.0,
    ) -> None:
        self.service, self.refused, self.received = service, 0, 0
        self._tickets: list[AdmittedRequest] = []

        def counted(data: bytes) -> bytes | None:
            refusal = early_refusal(data)
            self.refused += refusal is not None
            return refusal

        served = self

        class Protocol(LimitedHttpProtocol):
            early_refusal = staticmethod(counted)

            def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
                self.unread_deadline_s = unread_deadline_s
                super().connection_made(transport)

            def data_received(self, data: bytes) -> None:
                super().data_received(data)
                served.received += 1

        config = uvicorn.Config(
            create_app(service),
            http=Protocol,
            log_config=None,
            lifespan="off",
            ws="none",
            server_header=False,
            timeout_keep_alive=keep_alive_s,
        )
        self._socket = socket.create_server(("127.0.0.1", 0))
        self._socket.setsockopt(
            socket.SOL_SOCKET, socket.SO_SNDBUF, 8_192
        )  # so that what is not read soon waits in the server
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(
            target=self._server.run, args=([self._socket],), daemon=True
        )
        self._thread.start()
        until(lambda: self._server.started, 30, "the server did not start")
        self._peer = socket.create_connection(self._socket.getsockname(), 20)
        self._file = self._peer.makefile("rb")

    def heap(self) -> None:
        """Let so much wait that there is room for no question."""
        while not self.service.shedder.is_full():
            self._tickets.append(self.service.shedder.admit("answer"))

    def clear(self) -> None:
        while self._tickets:
            self.service.shedder.finish(self._tickets.pop(), None)

    def send(self, path: str, body: bytes = QUERY, more: bytes = b"") -> None:
        self._peer.sendall(request(path, body, more))

    def send_bytes(self, *pieces: bytes) -> None:
        for piece in pieces:
            self._peer.sendall(piece)
            time.sleep(0.05)  # so that they come one by one

    def read(self) -> tuple[int, dict[str, str], dict]:
        """The next answer on the connection."""
        status = int(self._file.readline().split()[1])
        headers: dict[str, str] = {}
        while line := self._file.readline().strip().decode():
            name, _, value = line.partition(": ")
            headers[name.lower()] = value
        return status, headers, json.loads(self._file.read(int(headers["content-length"])))

    def another(self) -> socket.socket:
        """Another connection, whose peer takes little at a time."""
        peer = socket.socket()
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        peer.settimeout(8)
        peer.connect(self._socket.getsockname())
        return peer

    def hang_up(self) -> None:
        self._file.close()
        self._peer.close()

    def connections(self) -> int:
        return len(self._server.server_state.connections)

    def ended(self) -> bool:
        """Wait until the server closes the connection."""
        return self._file.read(1) == b""

    def close(self) -> None:
        self._peer.close()
        self._server.should_exit = True
        self._thread.join(20)
        self._socket.close()


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    with EventCollector(tmp_path, "serve-1", RoutePlan(), SystemClock()) as collector:
        service = Service(
            PromptPipeline(),
            collector,
            perimeter=Perimeter(origins=frozenset(["http://127.0.0.1"])),
        )
        made = Served(service, EarlyRefusal(service))
        yield made
        made.close()


@pytest.mark.parametrize("path", PATHS)
def test_a_question_is_told_the_same_as_by_the_long_way(served: Served, path: str) -> None:
    served.heap()
    served.send(path)
    status, headers, fault = served.read()
    assert served.refused == 1
    served.send(
        path, more=ORIGIN
    )  # what a page of another origin asks goes the long way, with its headers
    long_status, long_headers, long_fault = served.read()
    assert served.refused == 1
    assert (status, fault["code"], fault["message"], fault["fix"]) == (
        503,
        *(long_fault[name] for name in ("code", "message", "fix")),
    )
    assert long_status == 503
    of_origins = {
        name
        for name in long_headers
        if name.startswith("access-control-") or name in ("vary", "date")
    }
    assert set(headers) == set(long_headers) - of_origins
    same = set(headers) - {"x-request-id", "content-length"}
    assert {name: headers[name] for name in same} == {name: long_headers[name] for name in same}
    assert fault["request_id"] == headers["x-request-id"]
    assert served.service.shedder.refused == 2


def test_the_connection_goes_on_and_what_is_refused_is_counted(served: Served) -> None:
    served.heap()
    for _ in range(3):
        served.send("/v1/recommend", more=b"X-Request-Id: named-by-Caller\r\n")
        assert served.read()[1]["x-request-id"] == "named-by-Caller"
    assert served.refused == 3
    served.send("/v1/events", CLICK)
    assert served.read()[0] == 200, "events have a queue of their own"
    served.clear()
    served.send("/v1/recommend")
    status, _, answer = served.read()
    assert (status, bool(answer["items"])) == (200, True)
    assert (
        'tailorbird_requests_total{route="/v1/recommend",status="503"} 3.0'
        in served.service.metrics.text().decode()
    )
    assert "tailorbird_shed_total 3.0" in served.service.metrics.text().decode()


@pytest.mark.slow
def test_a_connection_that_is_turned_away_again_and_again_stays_and_one_that_asks_no_more_is_closed(
    tmp_path: Path,
) -> None:
    with EventCollector(tmp_path, "serve-1", RoutePlan(), SystemClock()) as collector:
        service = Service(PromptPipeline(), collector)
        served = Served(service, EarlyRefusal(service), keep_alive_s=1)
        served.heap()
        for _ in range(8):
            served.send("/v1/recommend")
            assert served.read()[0] == 503
            time.sleep(0.25)
        assert served.refused == 8
        assert served.ended(), "nothing was asked for a second"
        served.close()


LARGE = b"GET /openapi.json HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"


@pytest.mark.slow
@pytest.mark.parametrize(
    "request_bytes",
    [LARGE * 60, LARGE, LARGE.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")],
    ids=["many", "one", "last"],
)
def test_who_reads_no_answer_is_closed(tmp_path: Path, request_bytes: bytes) -> None:
    with EventCollector(tmp_path, "serve-1", RoutePlan(), SystemClock()) as collector:
        service = Service(PromptPipeline(), collector)
        served = Served(service, EarlyRefusal(service), keep_alive_s=1, unread_deadline_s=0.2)
        served.hang_up()
        with served.another() as peer:
            peer.sendall(request_bytes)
            until(
                lambda: 'route="/openapi.json"' in service.metrics.text().decode(),
                10,
                "it was not asked",
            )
            until(lambda: served.connections() == 0, 10, "it was not closed")
        served.close()


@pytest.mark.slow
def test_who_reads_slowly_gets_the_whole_answer(tmp_path: Path) -> None:
    with EventCollector(tmp_path, "serve-1", RoutePlan(), SystemClock()) as collector:
        service = Service(PromptPipeline(), collector)
        served = Served(service, EarlyRefusal(service), keep_alive_s=1, unread_deadline_s=0.5)
        with served.another() as peer:
            peer.sendall(LARGE * 9 + LARGE.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
            received, started_at = b"", time.monotonic()
            while more := peer.recv(4_096):
                received += more
                time.sleep(0.02)  # slower than it is told
        assert received.count(b"HTTP/1.1 200") == 10
        assert received.endswith(b"}")
        assert time.monotonic() - started_at > 0.5
        served.close()


@pytest.mark.slow
def test_who_asks_on_and_reads_nothing_is_not_told_on_and_on(tmp_path: Path) -> None:
    """Unread refusals would accumulate in the server's memory."""
    with EventCollector(tmp_path, "serve-1", RoutePlan(), SystemClock()) as collector:
        service = Service(PromptPipeline(), collector)
        served = Served(service, EarlyRefusal(service))
        served.heap()
        with served.another() as peer:
            for _ in range(3_000):
                before = served.received
                peer.sendall(request("/v1/recommend"))
                until(lambda before=before: served.received > before, 10, "it was not read")
                if served.refused < served.received:
                    break
        assert 100 < served.refused < 1_000
        served.close()


COMPLETE = request("/v1/recommend")


def test_a_burst_passes_as_far_as_there_is_room(tmp_path: Path) -> None:
    with EventCollector(tmp_path, "serve-1", RoutePlan(), SystemClock()) as collector:
        service = Service(
            PromptPipeline(), collector, threads=2, wait_s=100 * UNMEASURED_COST_S / 2
        )
        early_refusal = EarlyRefusal(service)

        async def count_passed() -> tuple[int, int]:
            """Count what passes of two bursts, of which nothing is admitted in between."""
            first = sum(early_refusal(COMPLETE) is None for _ in range(200))
            await asyncio.sleep(0)
            return first, sum(early_refusal(COMPLETE) is None for _ in range(200))

        assert asyncio.run(count_passed()) == (101, 101)


DOUBTFUL = {
    "in two pieces": [COMPLETE[:40], COMPLETE[40:]],
    "its body by itself": [COMPLETE[: -len(QUERY)], QUERY],
    "its address says more": [request("/v1/recommend?explain=true")],
    "to be closed": [request("/v1/recommend", more=b"Connection: close\r\n")],
    "from a page": [request("/v1/recommend", more=ORIGIN)],
    "something before its body": [request("/v1/recommend", more=b"Expect: 100-maybe\r\n")],
    "nothing of ours": [request("/v1/nothing")],
}


@pytest.mark.parametrize("what", DOUBTFUL)
def test_what_is_not_plain_goes_the_long_way(served: Served, what: str) -> None:
    served.heap()
    served.send_bytes(*DOUBTFUL[what])
    assert served.read()[0] == (404 if what == "nothing of ours" else 503)
    assert served.refused == 0


@pytest.mark.parametrize(
    "doubtful",
    [
        request("/v1/recommend", more=b"Transfer-Encoding: chunked\r\n"),
        request("/v1/recommend", more=b"Content-Length: 3\r\n"),
        request("/v1/recommend", more=b"X-A: b\nTransfer-Encoding: chunked\r\n"),
        request("/v1/recommend", more=b"X-A: b\rTransfer-Encoding: chunked\r\n"),
        COMPLETE.replace(b"Content-Length: ", b"Content-Length : "),
        COMPLETE.replace(b"Content-Length: ", b"Content-Length: +"),
        COMPLETE.replace(b"HTTP/1.1", b"HTTP/1.0"),
        COMPLETE + b"P",
        COMPLETE[:-1],
    ],
)
def test_what_two_programs_might_read_differently_is_left_to_the_parser(
    tmp_path: Path, doubtful: bytes
) -> None:
    with EventCollector(tmp_path, "serve-1", RoutePlan(), SystemClock()) as collector:
        service = Service(PromptPipeline(), collector)
        while not service.shedder.is_full():
            service.shedder.admit("answer")
        early_refusal = EarlyRefusal(service)
        assert early_refusal(COMPLETE) is not None
        assert early_refusal(doubtful) is None


def test_several_at_once_are_answered_in_order(served: Served) -> None:
    served.heap()
    served.send_bytes(COMPLETE + COMPLETE + COMPLETE)
    assert [served.read()[0] for _ in range(3)] == [503] * 3


def test_where_a_request_runs_on_the_connection_the_next_waits_for_it(served: Served) -> None:
    resume = threading.Event()
    served.service.pipeline = Halting(resume)
    served.send("/v1/recommend", more=b"X-Request-Id: the-first\r\n")
    until(lambda: served.service.shedder.waiting == 1, 20, "the first request did not run")
    served.heap()
    served.send("/v1/recommend", more=b"X-Request-Id: the-second\r\n")
    until(lambda: served.received == 2, 20, "the second request did not come in")
    resume.set()
    (first, first_headers, _), (second, second_headers, _) = served.read(), served.read()
    assert (first, first_headers["x-request-id"], second_headers["x-request-id"]) == (
        200,
        "the-first",
        "the-second",
    )
    assert second in (200, 503), (
        "whether there is room once the first is done is the shedder's to say"
    )
    assert served.refused == 0


def test_a_server_that_stops_says_so_the_long_way(served: Served) -> None:
    served.heap()
    served.service.drain()
    served.send("/v1/recommend")
    status, headers, _ = served.read()
    assert (status, headers["connection"], served.refused) == (503, "close", 0)
