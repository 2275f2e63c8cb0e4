"""The benchmark of freshness: that it times from the acknowledgement to the first answer that
knows, and all of it over real servers.
"""

import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from benchmarks.freshness import Latencies, clicked, measured

REFLECTED_AFTER_S = 0.3


class Shop(BaseHTTPRequestHandler):
    """Shows a person's items but those clicked some time ago; while it reads no features, it shows
    none of them and says so.
    """

    protocol_version = "HTTP/1.1"
    seen: dict[tuple[str, str], float] = {}
    blind_s = 0.0

    def log_message(self, *_: object) -> None:
        pass

    def do_POST(self) -> None:
        query = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        user, now = query["user_id"], time.monotonic()
        if self.path == "/v1/events":
            self.seen[user, query["item_id"]] = now
            reply: dict = {"accepted": 1}
        else:
            clicks = [at for (who, _), at in self.seen.items() if who == user]
            blind = any(now - at < self.blind_s for at in clicks)
            hidden = {
                item
                for (who, item), at in self.seen.items()
                if who == user and now - at >= REFLECTED_AFTER_S
            }
            items = (
                []
                if blind
                else [{"item_id": item} for item in ("a", "b", "c", "d") if item not in hidden]
            )
            reply = {"request_id": "r", "items": items, "degraded": ["features"] if blind else []}
        data = json.dumps(reply).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


@pytest.fixture
def port() -> Iterator[int]:
    Shop.seen, Shop.blind_s = {}, 0.0
    server = ThreadingHTTPServer(("127.0.0.1", 0), Shop)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_port
    server.shutdown()
    server.server_close()


def test_it_times_from_the_acknowledgement_to_the_first_answer_that_knows(port: int) -> None:
    report = clicked(port, ["u1", "u2"], 4)
    assert report.unseen == 0
    assert len(report.ms) == 4
    assert all(ms >= REFLECTED_AFTER_S * 1_000 / 2 for ms in report.ms)
    assert report.degraded == {}
    assert report.plain()["clicks"] == 4


def test_an_answer_that_only_lacks_what_it_knows_of_people_does_not_count(port: int) -> None:
    Shop.blind_s = 0.1
    report = clicked(port, ["u1"], 1)
    assert report.degraded["features"] > 0
    assert report.ms[0] >= REFLECTED_AFTER_S * 1_000 / 2


def test_the_share_of_the_worst_is_told() -> None:
    summary = Latencies(ms=[float(n) for n in range(1, 101)], asked=[2] * 100).plain()
    assert (summary["p50_ms"], summary["p99_ms"], summary["max_ms"]) == (50.5, 99.0, 100.0)


@pytest.mark.slow
@pytest.mark.parametrize(
    "kind", ["embedded", pytest.param("distributed", marks=pytest.mark.nightly)]
)
def test_a_click_is_in_a_later_answer_of_real_processes(kind: str) -> None:
    try:
        report = measured(kind, 5, small=True)
    except LookupError as error:
        pytest.skip(str(error))
    assert report.unseen == 0
    assert len(report.ms) == 5
