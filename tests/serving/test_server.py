"""The serve process as a whole: it starts, takes events, swaps bundles under load, stops cleanly,
and stays light.
"""

import contextlib
import json
import math
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import msgspec
import pytest
from tests.support.network.smuggling import COMPLETE, POST, SMUGGLED
from tests.support.serving.server import CHILD_PROGRAM, Server, wait_for
from tests.support.shops import serving_shop

from tailorbird.config.serve_settings import ServeSection
from tailorbird.errors import UsageError
from tailorbird.events import SECOND, Event, SystemClock, parse_duration
from tailorbird.registry import Registry
from tailorbird.serving.sockets import bind
from tailorbird.stream import open_reader, raw_path

NEVER = {
    "torch",
    "numba",
    "deltalake",
    "duckdb",
    "pandas",
    "lightgbm",
    "sklearn",
    "scipy",
    "matplotlib",
    "pickle5",
    "joblib",
}


@pytest.mark.slow
def test_who_was_told_to_stop_while_it_started_stops(tmp_path):
    """As the role's own handler notes it, before the server has its own; at once, since no balancer
    has heard of it.
    """
    command = [
        sys.executable,
        "-c",
        CHILD_PROGRAM,
        str(Path(__file__).parents[2]),
        str(tmp_path),
        "trust",
        "10",
        "10",
        "10",
        '{"drain_s": 600}',
        "told",
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert not list((tmp_path / "run").glob("*serve-*.json"))


@pytest.fixture
def start(tmp_path):
    servers = []

    def start(**more) -> Server:
        servers.append(Server(tmp_path, **more))
        return servers[-1]

    yield start
    for server in servers:
        server.kill()


@pytest.fixture
def registry(tmp_path):
    return Registry(tmp_path / "registry", clock=SystemClock())


CLICK = {"event_id": "e1", "type": "click", "user_id": "u1", "item_id": "i1"}


def test_it_serves_stays_light_and_stops_within_a_second(start, registry, bundle_folder, tmp_path):
    registry.promote(registry.add(bundle_folder), by="test", why="first")
    server = start()
    assert server.recommend()["model"] == "v0001"
    assert server.http.post("/v1/events", json=CLICK).json()["accepted"] == 1
    wait_for(lambda: server.http.get("/readyz").status_code == 200)  # it is warm
    assert server.http.get("/readyz").text == "degraded\n"  # there is no state here
    stop_requested_at = time.monotonic()
    status, printed = server.stop()
    assert time.monotonic() - stop_requested_at < 10.0, "a second, with air for a busy machine"
    assert status == 0
    assert not NEVER & set(printed.split())
    assert not (tmp_path / "run" / "serve-1.json").exists()


def test_an_answer_stands_in_the_log_before_its_click(start, registry, bundle_folder, tmp_path):
    registry.promote(registry.add(bundle_folder), by="test", why="first")
    server = start()
    for number in range(10):
        answer = server.recommend()
        click = CLICK | {
            "event_id": f"e{number}",
            "request_id": answer["request_id"],
            "item_id": answer["items"][0]["item_id"],
        }
        assert server.http.post("/v1/events", json=click).status_code == 200
    server.process.kill()
    with open_reader(raw_path(tmp_path / "stream", "serve-1")) as reader:
        events = [
            msgspec.json.decode(stored.block.payload, type=Event) for stored in reader.read(0)
        ]
    assert [event.type for event in events] == ["answer", "click"] * 10
    assert all(
        one.request_id == two.request_id for one, two in zip(events[::2], events[1::2], strict=True)
    )


def test_a_promoted_bundle_is_swapped_in_without_a_failed_request(
    start, registry, features, bundle_folder, tmp_path
):
    registry.promote(registry.add(bundle_folder), by="test", why="first")
    cheap = registry.add(
        serving_shop.write_shop_bundle(tmp_path / "cheap", features, weights={"price": -0.05})
    )
    server = start()
    answers: list[tuple[str, str]] = []
    stop = threading.Event()

    def ask() -> None:
        with httpx.Client(base_url=server.url, timeout=10) as http:
            while not stop.is_set():
                answer = http.post("/v1/recommend", json={"slot": "home"})
                assert answer.status_code == 200, answer.text
                fields = answer.json()
                answers.append(
                    (
                        fields["model"],
                        fields["items"][0]["item_id"] if not fields["degraded"] else "degraded",
                    )
                )

    with ThreadPoolExecutor(3) as pool:
        asking = [pool.submit(ask) for _ in range(3)]
        try:
            wait_for(lambda: len(answers) > 30)
            registry.promote(cheap, by="test", why="cheaper")
            wait_for(lambda: any(model == "v0002" for model, _ in answers[-20:]))
            registry.rollback(by="test", why="dearer after all")
            wait_for(lambda: answers[-1][0] == "v0001")
        finally:
            stop.set()
        for one in asking:
            one.result()
    assert {model for model, _ in answers} == {"v0001", "v0002"}


@pytest.mark.slow
def test_a_bundle_that_cannot_be_loaded_leaves_the_previous_one(
    start, registry, features, bundle_folder, tmp_path
):
    registry.promote(registry.add(bundle_folder), by="test", why="first")
    server = start(probe=True)
    other = registry.add(
        serving_shop.write_shop_bundle(tmp_path / "other", features, schema_hash="0" * 12)
    )
    registry.promote(other, by="test", why="made for other features")
    wait_for(
        lambda: "tailorbird_bundle_load_failures_total 1.0" in server.http.get("/metrics").text, 20
    )
    assert server.recommend()["model"] == "v0001"
    third = registry.add(serving_shop.write_shop_bundle(tmp_path / "third", features))
    registry.promote(third, by="test", why="good again")
    wait_for(lambda: server.recommend()["model"] == "v0003", 20)


def test_without_bundle_and_state_it_answers_and_says_so(start):
    answer = start().recommend()
    assert answer["items"] == []
    assert set(answer["degraded"]) == {"model", "features", "index"}


@pytest.mark.slow
def test_what_was_acknowledged_survives_kill_9_and_the_name_is_taken_again(start, tmp_path):
    acknowledged = []
    server = start()
    killer = threading.Timer(0.7, server.process.kill)
    killer.start()
    try:
        for number in range(100_000):
            server.http.post(
                "/v1/events", json=CLICK | {"event_id": f"e{number}"}
            ).raise_for_status()
            acknowledged.append(f"e{number}")
    except httpx.TransportError:
        pass
    killer.join()
    server.process.wait()
    (tmp_path / "run" / "serve-1.json").unlink()
    with open_reader(raw_path(tmp_path / "stream", "serve-1")) as reader:
        stored = {
            msgspec.json.decode(stored.block.payload)["event_id"]
            for stored in reader.read(0, bytes_max=1 << 30)
        }
    assert acknowledged
    assert set(acknowledged) <= stored
    assert start().http.post("/v1/events", json=CLICK).status_code == 200


def test_a_drain_fails_no_request(start):
    """Within the drain nobody finds the collector shut; afterwards a balancer has had the time to ask
    its other servers.
    """
    drain_s = 2.0
    server = start(drain_s=drain_s)
    failed, served = [], []
    signalled_at = math.inf

    def ask() -> None:
        with httpx.Client(base_url=server.url, timeout=10) as http:
            while True:
                asked_at = time.monotonic()
                try:
                    answer = http.post("/v1/events", json=CLICK)
                except httpx.TransportError as error:
                    # Whoever asks as the socket closes may find its connection reset.
                    if asked_at < signalled_at + drain_s - 0.5:
                        failed.append(repr(error))
                    return
                (served if answer.status_code == 200 else failed).append(answer.status_code)

    with ThreadPoolExecutor(3) as pool:
        asking = [pool.submit(ask) for _ in range(3)]
        wait_for(lambda: len(served) > 50)
        signalled_at = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        for one in asking:
            one.result(timeout=30)
    assert failed == []


@pytest.mark.slow
def test_a_server_that_is_told_to_stop_goes_on_answering_while_balancers_find_out(start):
    drain_s = 4.0
    server = start(drain_s=drain_s)
    wait_for(lambda: server.http.get("/readyz").status_code == 200, 30)
    signalled_at = time.monotonic()
    server.process.send_signal(signal.SIGTERM)
    wait_for(lambda: httpx.get(f"{server.url}/readyz", timeout=10).status_code == 503)
    answered = 0
    while time.monotonic() < signalled_at + drain_s - 1:
        with httpx.Client(base_url=server.url, timeout=10) as newcomer:
            assert newcomer.get("/readyz").text == "not ready\n"
            answer = newcomer.post("/v1/events", json=CLICK)
        assert (answer.status_code, answer.headers["connection"]) == (200, "close")
        answered += 1
    assert answered > 0
    assert server.process.wait(30) == 0
    assert time.monotonic() >= signalled_at + drain_s
    with pytest.raises(httpx.ConnectError):
        httpx.get(server.url)


HALF = b"POST /v1/events HTTP/1.1\r\nHost: 127.0.0.1\r\nConte"


@pytest.mark.slow
@pytest.mark.parametrize(
    "sent",
    [[b""], [HALF], [COMPLETE, HALF], [COMPLETE + HALF]],
    ids=["nothing", "half", "half after a whole", "and at once"],
)
def test_a_silent_and_a_half_said_connection_are_closed(start, sent):
    server = start(header_deadline_s=0.5)
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as peer:
        peer.settimeout(8)
        for part in sent:
            peer.sendall(part)
            if part.startswith(COMPLETE):
                received = b""
                while not received.endswith(b"ok\n"):
                    received += peer.recv(1_000)
        assert peer.recv(1_000) == b"", "closed by the server"
    assert server.http.get("/healthz").text == "ok\n"


def test_ambiguous_requests_are_refused_and_closed(start):
    server = start(header_deadline_s=0.5)
    host, port = server.url.removeprefix("http://").split(":")
    for sent in SMUGGLED:
        with socket.create_connection((host, int(port))) as peer:
            peer.sendall(sent)
            peer.settimeout(8)
            received = b""
            while more := peer.recv(10_000):
                received += more
        assert received.startswith(b"HTTP/1.1 4"), (sent, received)
        assert received.count(b"HTTP/1.1") == 1, (sent, received)
    assert server.http.get("/healthz").text == "ok\n"


def test_a_body_over_the_limit_gets_its_413_before_the_connection_closes(start):
    """The whole body is sent first, and the answer read then, as simple clients do."""
    server = start()
    host, port = server.url.removeprefix("http://").split(":")
    body = b"[" + b" " * (8 << 20) + b"]"
    for _ in range(5):
        with socket.create_connection((host, int(port)), timeout=8) as peer:
            peer.sendall(POST + b"Content-Length: %d\r\n\r\n" % len(body) + body)
            received = b""
            while more := peer.recv(10_000):
                received += more
        assert received.startswith(b"HTTP/1.1 413"), received[:200]
    assert server.http.get("/healthz").text == "ok\n"


def offering(body: bytes, *, chunked: bool = False, to: bytes = b"h2c") -> bytes:
    """A request as Java's client makes its first one over plain HTTP; `to`: what it offers to go on
    with.
    """
    length = b"Transfer-Encoding: chunked" if chunked else b"Content-Length: %d" % len(body)
    head = (
        b"Connection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: AAEAAEAAAAIAAAABAAMAAABk\r\nUpgrade: %s\r\n"
        % to
    )
    return (
        POST
        + length
        + b"\r\n"
        + head
        + b"\r\n"
        + (b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body) if chunked else body)
    )


@pytest.mark.slow
@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("to", [b"h2c", b"websocket"])
def test_an_offer_to_upgrade_is_not_taken_up_and_its_body_is_read_as_that(start, chunked, to):
    server = start()
    host, port = server.url.removeprefix("http://").split(":")
    sent = offering(json.dumps(CLICK).encode(), chunked=chunked, to=to)
    after_head = sent.index(b"\r\n\r\n") + 4
    for pieces in (
        [sent + sent + COMPLETE],
        [sent[:after_head], sent[after_head:] + sent[:30], sent[30:], COMPLETE],
    ):
        with socket.create_connection((host, int(port))) as peer:
            peer.settimeout(8)
            for piece in pieces:
                peer.sendall(piece)
                time.sleep(0.05)  # so that they come one by one
            received = receive_up_to(peer, b"ok\n")
        assert received.count(b"HTTP/1.1 200") == 3, received
        assert received.count(b'"accepted":true') == 2, received
    with socket.create_connection((host, int(port))) as peer:
        peer.settimeout(8)
        peer.sendall(offering(COMPLETE, chunked=chunked, to=to) + COMPLETE)
        received = receive_up_to(peer, b"ok\n")
        assert received.startswith(b"HTTP/1.1 400"), "a body is no request, whatever stands in it"
        assert received.count(b"HTTP/1.1") == 2, received
    with socket.create_connection((host, int(port))) as peer:
        peer.settimeout(8)
        peer.sendall(b"CONNECT localhost:80 HTTP/1.1\r\nHost: localhost\r\n\r\n" + COMPLETE)
        received = receive_up_to(peer, b"received.")
        assert (received[:12], received.count(b"HTTP/1.1")) == (b"HTTP/1.1 400", 1)
        assert peer.recv(10_000) == b""


def test_what_is_behind_the_last_request_of_a_connection_is_not_looked_at_whatever_it_offers(start):
    server = start()
    host, port = server.url.removeprefix("http://").split(":")
    body = json.dumps(CLICK).encode()
    for connection in (
        b"close",
        b"close, Upgrade\r\nUpgrade: h2c",
        b"Upgrade, close\r\nUpgrade: websocket",
    ):
        for trailing in (b"", COMPLETE, b"xx"):
            with socket.create_connection((host, int(port))) as peer:
                peer.settimeout(8)
                peer.sendall(
                    POST
                    + b"Content-Length: %d\r\nConnection: %s\r\n\r\n" % (len(body), connection)
                    + body
                    + trailing
                )
                received = b""
                while more := peer.recv(10_000):
                    received += more
            assert (received[:12], received.count(b"HTTP/1.1")) == (b"HTTP/1.1 200", 1), (
                connection,
                trailing,
                received,
            )


@pytest.mark.slow
@pytest.mark.parametrize("good", [1, 3])
@pytest.mark.parametrize(
    "bad",
    [
        b"garbage\r\n\r\n",
        b"\x00\x01",
        COMPLETE[:-2] + b"x: a\r\n" * 250 + b"\r\n",
        POST + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nabcdef",
        POST + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
        POST + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\nzz\r\n",
    ],
    ids=[
        "garbage",
        "zeros",
        "a large head",
        "two lengths",
        "a bad chunk",
        "a bad chunk behind a good one",
    ],
)
def test_what_is_no_request_is_refused_after_the_answers_to_what_came_before_it(start, good, bad):
    server = start()
    host, port = server.url.removeprefix("http://").split(":")
    body = json.dumps(CLICK).encode()
    taken = POST + b"Content-Length: %d\r\n\r\n" % len(body) + body
    with socket.create_connection((host, int(port))) as peer:
        peer.settimeout(8)
        peer.sendall(taken * good + bad + COMPLETE)
        received = b""
        while more := peer.recv(10_000):
            received += more
    assert re.findall(rb"HTTP/1\.1 (\d+)", received) == [b"200"] * good + [b"400"], received
    assert received.count(b'"accepted":true') == good
    server.process.send_signal(signal.SIGTERM)
    _, output = server.process.communicate(timeout=20)
    assert "Exception" not in output


@pytest.mark.slow
@pytest.mark.parametrize(
    "head",
    [
        COMPLETE[:-2] + b"x: a\r\n" * 300_000,
        COMPLETE[:-2] + b"x: " + b"a" * 3_000_000,  # without an end
        b"GET /" + b"a" * 3_000_000,
        COMPLETE[:-2]
        + b"".join(b"x%d: %s\r\n" % (number, b"a" * 1_000) for number in range(100))
        + b"\r\n",
        COMPLETE[:-2] + b"x: a\r\n" * 250 + b"\r\n" + COMPLETE,
    ],
    ids=["many lines", "a long line", "a long address", "large", "a few too many"],
)
def test_a_head_of_a_request_is_no_larger_than_that_of_honest_ones(start, head):
    server = start()
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as peer:
        peer.settimeout(8)
        with contextlib.suppress(OSError):  # closed while we send
            peer.sendall(head)
        received = b""
        with contextlib.suppress(ConnectionResetError):
            while more := peer.recv(10_000):
                received += more
    assert received.startswith(b"HTTP/1.1 400") or not received, received
    assert received.count(b"HTTP/1.1") <= 1, received
    assert server.http.get("/healthz", headers={"cookie": "a" * 30_000, "x": "b"}).text == "ok\n"


def test_a_body_that_nobody_waits_for_is_no_head_of_the_next_request(start):
    server = start()
    host, port = server.url.removeprefix("http://").split(":")
    head = b"POST /nowhere HTTP/1.1\r\nHost: localhost\r\nContent-Length: 800000\r\n\r\n"
    with socket.create_connection((host, int(port))) as peer:
        peer.settimeout(20)
        peer.sendall(head)
        received = receive_up_to(peer, b"}")  # Answered before a byte of the body.
        for _ in range(8):
            peer.sendall(b"a" * 100_000)
        peer.sendall(COMPLETE)
        received += receive_up_to(peer, b"ok\n")
    assert re.findall(rb"HTTP/1\.1 (\d+)", received) == [b"404", b"200"], received


def test_few_requests_of_a_connection_wait_for_the_answers_before_theirs(start):
    server = start()
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as peer:
        peer.settimeout(20)
        peer.sendall(offering(b"{}") * 60 + COMPLETE)
        received = receive_up_to(peer, b"ok\n")
    assert (received.count(b"HTTP/1.1 400"), received.count(b"HTTP/1.1")) == (60, 61)
    for sent in (COMPLETE, offering(b"{}")):
        with socket.create_connection((host, int(port))) as peer:
            peer.settimeout(20)
            with contextlib.suppress(OSError):  # closed while we send
                peer.sendall(sent * 3_000)
            received = b""
            with contextlib.suppress(ConnectionResetError):
                while more := peer.recv(100_000):
                    received += more
        assert received.count(b"HTTP/1.1") < 200, "the connection is closed"
    assert server.http.get("/healthz").text == "ok\n"


def receive_up_to(peer: socket.socket, ending: bytes) -> bytes:
    received = b""
    while not received.endswith(ending):
        more = peer.recv(10_000)
        assert more, received
        received += more
    return received


def test_whoever_comes_while_all_connections_are_taken_is_told_when_to_come_again(start):
    server = start(connections_max=2)
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))), socket.create_connection((host, int(port))):
        with socket.create_connection((host, int(port))) as third:
            third.settimeout(8)
            third.sendall(COMPLETE)
            received = b""
            while more := third.recv(10_000):
                received += more
        assert received.startswith(b"HTTP/1.1 503"), received
        assert b"retry-after: 1\r\n" in received
    wait_for(lambda: server.http.get("/healthz").status_code == 200)


def ask_again(peer: socket.socket) -> bytes:
    """Send one more request on a connection, and return the start of its answer; empty if it is
    closed.
    """
    peer.settimeout(8)
    received = b""
    with contextlib.suppress(ConnectionError):
        peer.sendall(COMPLETE)
        while not received.endswith((b"ok\n", b"connections\n")) and (more := peer.recv(10_000)):
            received += more
    return received[:12]


def test_where_all_places_are_taken_whoever_asks_gets_that_of_the_longest_idle(start):
    server = start(connections_max=3)
    host, port = server.url.removeprefix("http://").split(":")
    with contextlib.ExitStack() as stack:
        silent, first, second, third, fourth = (
            stack.enter_context(socket.create_connection((host, int(port)))) for _ in range(5)
        )
        # Those who say nothing displace nobody: of the first three one does so, and so do the last
        # two until they ask.
        assert [ask_again(first), ask_again(second), ask_again(first)] == [b"HTTP/1.1 200"] * 3
        assert ask_again(third) == b"HTTP/1.1 200"
        assert ask_again(second) == b"", "the longest idle"
        assert [ask_again(first), ask_again(third)] == [b"HTTP/1.1 200"] * 2
        assert ask_again(fourth) == b"HTTP/1.1 200"
        assert [ask_again(first), ask_again(third)] == [b"", b"HTTP/1.1 200"]
        third.sendall(HALF)
        fourth.sendall(HALF)
        with socket.create_connection((host, int(port))) as last:
            assert ask_again(last) == b"HTTP/1.1 503"
        assert ask_again(silent) == b"HTTP/1.1 200"


@pytest.mark.slow
def test_a_connection_that_asks_nothing_is_kept_so_long(start):
    keep_alive_s = 1.0
    server = start(keep_alive_s=keep_alive_s)
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as peer:
        for _ in range(2):
            assert ask_again(peer) == b"HTTP/1.1 200"
        requested_at = time.monotonic()
        assert peer.recv(10_000) == b"", "closed by the server"
        assert time.monotonic() > requested_at + keep_alive_s - 0.1
    assert parse_duration(ServeSection().keep_alive) > 60 * SECOND, (
        "longer than pools of proxies keep theirs"
    )


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has all of 127.0.0.0/8")
def test_one_address_cannot_take_all_connections(start):
    """Twice as many as the server has places come from one address; another's are not touched, and
    places given back count again.
    """
    server = start(connections_max=30, address_connections=20)
    host, port = server.url.removeprefix("http://").split(":")

    def come() -> socket.socket:
        return socket.create_connection(
            (host, int(port)), timeout=8, source_address=("127.0.0.2", 0)
        )

    silent = [come() for _ in range(20)]
    for sent, expected in ((HALF, b""), (COMPLETE, b"HTTP/1.1 503")):
        for _ in range(20):
            with come() as over:
                over.sendall(sent)
                received = b""
                while more := over.recv(10_000):
                    received += more
                assert received.startswith(expected), received
                assert bool(received) == bool(expected), (
                    "who says nothing whole within a second is closed"
                )
            if sent is HALF:
                break
    assert b"retry-after: 1\r\n" in received
    assert all(server.http.get("/healthz").text == "ok\n" for _ in range(20)), "the other address"
    silent.pop().close()

    def taken() -> bool:
        with come() as again:
            again.sendall(COMPLETE)
            return again.recv(10_000).startswith(b"HTTP/1.1 200")

    wait_for(taken)
    for peer in silent:
        peer.close()


def test_a_taken_port_is_one_sentence_or_the_next_one():
    with bind("127.0.0.1", 0, is_explicit=True) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UsageError, match=f"port {port} is in use"):
            bind("127.0.0.1", port, is_explicit=True)
        with bind("127.0.0.1", port, is_explicit=False) as other:
            assert other.getsockname()[1] > port
    with pytest.raises(UsageError, match="cannot bind"):
        bind("192.0.2.1", 0, is_explicit=True)
