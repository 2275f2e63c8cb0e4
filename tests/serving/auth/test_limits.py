"""Limits by key and by address, bodies within a budget, and a collector that pushes back before memory
grows.
"""

import asyncio
import gzip
import threading
import tracemalloc
from collections import Counter

import httpx
import msgspec
import pytest
from backports import zstd
from starlette.testclient import TestClient
from tests.support.serving.app import CLICK, PromptPipeline

from tailorbird.errors import ConfigError
from tailorbird.events import RoutePlan, SystemClock
from tailorbird.serving.auth.buckets import BURST_S, Bucket, DistinctCounter
from tailorbird.serving.auth.keyfile import Limits, create_key
from tailorbird.serving.auth.keys import Caller, Keys
from tailorbird.serving.auth.limits import Connections, Limiter, LimitError, ServerLimits
from tailorbird.serving.auth.networks import Networks, client_address
from tailorbird.serving.collector.collector import QUEUE_BYTES_MAX, EventCollector
from tailorbird.serving.http.app import create_app
from tailorbird.serving.http.body import MEMBERS_MAX, Budget
from tailorbird.serving.http.handling import Service


class Seconds:
    """A monotonic clock that moves when told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def seconds():
    return Seconds()


@pytest.fixture
def make(tmp_path, seconds):
    """A client of a server with these limits, and the headers of a key with those of its own."""
    open_collectors = []

    def make(
        server: ServerLimits | None = None,
        own: Limits | None = None,
        *,
        page: bool = False,
        queue_bytes_max: int = QUEUE_BYTES_MAX,
        **more,
    ) -> tuple[TestClient, dict]:
        file = tmp_path / "keys.json"
        origins = ["https://shop.example"] if page else []
        scopes = ["write"] if page else ["read", "write"]
        token, _ = create_key(file, "k", scopes, 1, origins=origins, limits=own or Limits())
        collector = EventCollector(
            tmp_path,
            f"serve-{len(open_collectors)}",
            RoutePlan(),
            SystemClock(),
            queue_bytes_max=queue_bytes_max,
        )
        open_collectors.append(collector)
        service = Service(
            PromptPipeline(), collector, Keys(file=file), limiter=Limiter(server, seconds), **more
        )
        headers = {"authorization": f"Bearer {token}", **({"origin": origins[0]} if page else {})}
        return TestClient(
            create_app(service), base_url="http://127.0.0.1", client=("203.0.113.7", 50_000)
        ), headers

    yield make
    for collector in open_collectors:
        collector.close()


def click(number: int, **more) -> dict:
    return {**CLICK, "event_id": f"e{number}", **more}


def refused(answer: httpx.Response, status: int, code: str) -> None:
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    if status in (429, 503):
        assert int(answer.headers["retry-after"]) >= 1


def test_a_key_may_send_so_many_events_and_then_waits_as_it_is_told(make, seconds):
    client, headers = make(ServerLimits(events_per_s=2))
    batch = [click(number) for number in range(30)]
    assert client.post("/v1/events", json=batch, headers=headers).status_code == 200
    answer = client.post("/v1/events", json=click(1), headers=headers)
    refused(answer, 429, "rate")
    assert (
        client.post("/v1/recommend", json={"slot": "home"}, headers=headers).status_code == 200
    ), "answers have a bucket of their own"
    seconds.now += int(answer.headers["retry-after"])
    assert client.post("/v1/events", json=click(1), headers=headers).status_code == 200
    assert (
        'tailorbird_limited_total{limit="events"} 1.0'
        in client.get("/metrics", headers=headers).text
    )


def test_a_key_may_ask_so_often(make, seconds):
    client, headers = make(own=Limits(requests_per_s=1))
    answers = [client.get("/v1/items/i1", headers=headers) for _ in range(int(BURST_S) + 1)]
    assert [answer.status_code for answer in answers] == [200] * int(BURST_S) + [429]
    assert client.post("/v1/events", json=click(1), headers=headers).status_code == 200
    seconds.now += 1.1
    assert client.get("/v1/items/i1", headers=headers).status_code == 200


def test_a_flood_from_one_address_does_not_stop_the_page_for_others(make):
    client, headers = make(ServerLimits(address_events_per_s=1), page=True)
    assert (
        client.post(
            "/v1/events", json=[click(number) for number in range(20)], headers=headers
        ).status_code
        == 200
    )
    refused(client.post("/v1/events", json=click(1), headers=headers), 429, "rate")
    other = TestClient(client.app, base_url="http://127.0.0.1", client=("203.0.113.8", 50_000))
    assert other.post("/v1/events", json=click(1), headers=headers).status_code == 200


def test_a_forged_forwarding_header_is_no_way_around(make):
    client, headers = make(ServerLimits(address_events_per_s=1), page=True)
    client.post("/v1/events", json=[click(number) for number in range(20)], headers=headers)
    refused(
        client.post(
            "/v1/events", json=click(1), headers={**headers, "x-forwarded-for": "198.51.100.1"}
        ),
        429,
        "rate",
    )


PROXIED = ServerLimits(address_events_per_s=1, proxies=Networks(["203.0.113.7", "10.0.0.0/8"]))


@pytest.mark.parametrize(
    "lines",
    [
        [
            "{forged}",
            "198.51.100.1",
        ],  # HAProxy's `option forwardfor`: a line of its own behind the client's
        ["{forged}, 6.6.6.6", "{forged}", "198.51.100.1, 10.0.0.2", "10.0.0.3"],
        ["{forged}, 198.51.100.1"],
        ["198.51.100.1:{port}"],
        ["{forged}", "[2001:db8::{number}]:{port}"],
        ["fe80::{number}%eth{number}"],
        ["::ffff:198.51.100.1"],
        ["unknown"],
        ["{forged}, unknown"],
        ["{forged}", "nonsense {number}"],
        ["{forged}", "198.51.100.1.{number}:80"],
    ],
)
def test_whatever_is_sent_along_behind_a_proxy_an_address_is_bounded(make, lines):
    client, headers = make(PROXIED, page=True)

    def send(number: int, events: int) -> httpx.Response:
        given = [
            line.format(forged=f"192.0.2.{number}", port=50_000 + number, number=number)
            for line in lines
        ]
        return client.post(
            "/v1/events",
            json=[click(one) for one in range(events)],
            headers=[*headers.items(), *(("x-forwarded-for", line) for line in given)],
        )

    assert send(1, 20).status_code == 200
    for number in range(2, 6):
        refused(send(number, 1), 429, "rate")
    other = client.post(
        "/v1/events", json=click(1), headers={**headers, "x-forwarded-for": "198.51.100.77"}
    )
    assert other.status_code == 200, "another visitor is not touched"


def test_a_proxy_that_is_not_named_is_said_once(make, caplog):
    client, headers = make(ServerLimits(proxies=Networks(["203.0.113.7"])))
    by_ingress = TestClient(client.app, base_url="http://127.0.0.1", client=("10.42.0.9", 50_000))
    with caplog.at_level("WARNING"):
        client.get(
            "/healthz", headers={"x-forwarded-for": "198.51.100.1"}
        )  # the proxy that is named
        by_ingress.get("/healthz")
        assert not caplog.messages
        for path in ("/readyz", "/v1/items/i1", "/healthz"):
            by_ingress.get(path, headers={**headers, "x-forwarded-for": "198.51.100.1"})
    (warning,) = [message for message in caplog.messages if "serve.trusted_proxies" in message]
    assert "10.42.0.9" in warning
    assert "198.51.100.1" not in warning


def test_a_visitor_who_forges_the_header_is_not_named_in_the_log(make, caplog):
    client, headers = make()
    visitor = TestClient(client.app, base_url="http://127.0.0.1", client=("8.8.8.8", 50_000))
    with caplog.at_level("WARNING"):
        visitor.get("/v1/items/i1", headers={**headers, "x-forwarded-for": "198.51.100.1"})
    (warning,) = caplog.messages
    assert "8.8.8.8" not in warning


def test_those_whose_address_cannot_be_told_share_one_limit(make):
    client, headers = make(ServerLimits(address_events_per_s=1), page=True)
    nowhere = [
        TestClient(client.app, base_url="http://127.0.0.1", client=(name, 1))
        for name in ("a-socket", "another")
    ]
    assert (
        nowhere[0]
        .post("/v1/events", json=[click(number) for number in range(20)], headers=headers)
        .status_code
        == 200
    )
    refused(nowhere[1].post("/v1/events", json=click(1), headers=headers), 429, "rate")
    assert client.post("/v1/events", json=click(1), headers=headers).status_code == 200


@pytest.mark.slow
def test_forged_clicks_of_one_address_are_bounded(make, seconds):
    """However it tries for a day, in small bodies and large ones, an address gets in what is
    allowed at once, and so many an hour.
    """
    per_hour, hours = 600, 24
    client, headers = make(
        ServerLimits(address_clicks_per_hour=per_hour, address_events_per_s=0), page=True
    )
    other = TestClient(client.app, base_url="http://127.0.0.1", client=("203.0.113.8", 50_000))
    kinds = ["click", "cart", "purchase", "like", "share"]
    written, number, started_at = 0, 0, seconds.now
    while (elapsed_s := seconds.now - started_at) < hours * 3_600:
        size = 1 + number * 7 % 90
        forged = [
            click(number + one, type=kinds[one % 5], request_id=f"made-up-{number}")
            for one in range(size)
        ]
        answer = client.post("/v1/events", json=forged, headers=headers)
        if answer.status_code == 200:
            written += answer.json()["accepted"]
        else:
            refused(answer, 429, "rate")
            seconds.now += int(answer.headers["retry-after"])
            assert (
                client.post("/v1/events", json=click(1, type="view"), headers=headers).status_code
                == 200
            ), "pages are told of still"
            assert other.post("/v1/events", json=click(number), headers=headers).status_code == 200
        number += size
    assert per_hour * hours < written <= per_hour * (1 + elapsed_s / 3_600) + 90, (
        "and what the last body took too much"
    )


def test_a_servers_own_key_may_send_as_many_clicks_as_it_likes(make):
    client, headers = make(ServerLimits(address_clicks_per_hour=1))
    for _ in range(3):
        assert (
            client.post(
                "/v1/events", json=[click(number) for number in range(20)], headers=headers
            ).status_code
            == 200
        )


def test_connections_are_counted_by_address():
    of = Connections(ServerLimits(address_connections=2, proxies=Networks(["10.0.0.0/8"])))
    assert [of.add("203.0.113.7") for _ in range(3)] == [False, False, True]
    assert [of.add(f"2001:db8::{number}") for number in range(3)] == [False, False, True], "one /64"
    assert not any(of.add("10.1.2.3") for _ in range(9)), "a proxy's are everybody's"
    of.remove("203.0.113.7")
    of.remove("203.0.113.7")
    assert not of.add("203.0.113.7")
    unbounded = Connections(ServerLimits(address_connections=0))
    assert not any(unbounded.add("203.0.113.7") for _ in range(5_000))


def test_two_servers_of_one_socket_allow_what_one_would():
    limits = ServerLimits(
        requests_per_s=10, address_events_per_s=4, ids_per_hour=0, address_connections=6
    )
    page = Caller("p", public=True)
    limiters = [Limiter(limits, Seconds(), servers=2) for _ in range(2)]
    requests = Counter()
    for limiter in limiters:
        for _ in range(200):
            try:
                limiter.admit_request(Caller("k"), "read", "")
                requests["key"] += 1
            except LimitError as error:
                requests[error.limit] += 1
    assert requests == {"key": 100, "requests": 300}, "ten seconds' worth of ten a second"

    events = 0
    for limiter in limiters:
        for _ in range(200):
            try:
                limiter.charge(page, "203.0.113.7", 1, 0)
                events += 1
            except LimitError:
                pass
    assert events == 40

    connections = [Connections(limits, servers=2) for _ in range(2)]
    refusals = [of.add("203.0.113.7") for of in connections for _ in range(4)]
    assert refusals.count(False) == 6


@pytest.mark.parametrize(
    ("peer", "forwarded", "expected"),
    [
        ("203.0.113.7", "198.51.100.1", "203.0.113.7"),
        ("10.0.0.1", "198.51.100.1", "198.51.100.1"),
        ("10.0.0.1", "6.6.6.6, 198.51.100.1", "198.51.100.1"),
        ("10.0.0.1", "198.51.100.1, 10.0.0.2", "198.51.100.1"),
        ("10.0.0.1", "", "10.0.0.1"),
        ("10.0.0.1", "nonsense", "10.0.0.1"),
        ("10.0.0.1", "198.51.100.1, unknown", "10.0.0.1"),
        ("10.0.0.1", "198.51.100.1, unknown, 10.0.0.2", "10.0.0.2"),
        ("10.0.0.1", " , 198.51.100.1 ,,", "198.51.100.1"),
        ("10.0.0.1", "198.51.100.1:51234", "198.51.100.1"),
        ("10.0.0.1", "198.51.100.1, 10.0.0.2:80", "198.51.100.1"),
        ("10.0.0.1", "[2001:db8:1:2::9]:51234", "2001:db8:1:2::/64"),
        ("10.0.0.1", '"[2001:db8:1:2::9]"', "2001:db8:1:2::/64"),
        ("10.0.0.1", "fe80::1%eth0", "fe80::/64"),
        ("10.0.0.1", "::ffff:198.51.100.1", "198.51.100.1"),
        ("::ffff:203.0.113.7", "", "203.0.113.7"),
        ("2001:db8:1:2:3:4:5:6", "", "2001:db8:1:2::/64"),
        ("", "198.51.100.1", "unknown"),
    ],
)
def test_whose_address_counts(peer, forwarded, expected):
    assert client_address(peer, forwarded, Networks(["10.0.0.1", "10.0.0.2"])) == expected


def test_proxies_may_be_a_network_and_what_is_none_is_named():
    pods = Networks(["10.42.0.0/16", "fd00::/8"])
    assert client_address("10.42.7.9", "198.51.100.1, 10.42.0.3", pods) == "198.51.100.1"
    assert client_address("::ffff:10.42.7.9", "198.51.100.1", pods) == "198.51.100.1"
    assert client_address("fd00::5", "198.51.100.1", pods) == "198.51.100.1"
    assert client_address("10.43.0.1", "198.51.100.1", pods) == "10.43.0.1"
    with pytest.raises(
        ConfigError, match=r"serve.trusted_proxies: '10.42.0.1/16' is no address and no network"
    ):
        Networks(["10.42.0.1/16"])


def test_a_body_holds_so_many_events(make):
    client, headers = make(ServerLimits(batch_max=3))
    assert client.post("/v1/events", json=[click(1)] * 3, headers=headers).status_code == 200
    refused(client.post("/v1/events", json=[click(1)] * 4, headers=headers), 413, "batch_too_long")
    lines = b"\n".join([b"{}"] * 4)
    refused(
        client.post(
            "/v1/events", content=lines, headers={**headers, "content-type": "application/x-ndjson"}
        ),
        413,
        "batch_too_long",
    )
    assert "tailorbird_events_accepted_total 3.0" in client.get("/metrics", headers=headers).text


NDJSON = "application/x-ndjson"
TRACK = {
    "type": "track",
    "event": "Product Viewed",
    "userId": "u",
    "messageId": "m",
    "timestamp": "2026-11-20T10:00:00Z",
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("body", "content_type", "query"),
    [
        (b"[" + b"1," * 400_000 + b"1]", "application/json", ""),
        (b"1\n" * 400_000, NDJSON, ""),
        (b'{"batch":[' + b"1," * 400_000 + b"1]}", "application/json", "?format=segment"),
        (b"[" + b"1," * 400_000 + b"1]", "application/json", "?format=segment"),
        (b"[" + b"{}," * 300_000 + b"1]", "application/json", "?format=cloudevents"),
        (b"{}\n" * 300_000, NDJSON, "?format=cloudevents"),
    ],
    ids=[
        "list",
        "lines",
        "batch",
        "list of segment",
        "list of cloudevents",
        "lines of cloudevents",
    ],
)
def test_a_body_of_very_many_rows_is_refused_before_anything_is_made_of_them(
    make, body, content_type, query
):
    client, headers = make(ServerLimits(events_per_s=20))
    tracemalloc.start()
    try:
        answer = client.post(
            "/v1/events" + query, content=body, headers={**headers, "content-type": content_type}
        )
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    refused(answer, 413, "batch_too_long")
    assert peak < 50 * len(body)
    again = client.post("/v1/events", json=click(1), headers=headers)
    refused(again, 429, "rate")
    assert int(again.headers["retry-after"]) < 10_000 / 20, "as for the longest body that is taken"


def test_what_one_message_becomes_counts_too(make):
    client, headers = make(ServerLimits(batch_max=10, events_per_s=1))
    order = {
        **TRACK,
        "event": "Order Completed",
        "properties": {"products": [{"product_id": f"i{number}"} for number in range(11)]},
    }
    refused(
        client.post("/v1/events?format=segment", json=order, headers=headers), 413, "batch_too_long"
    )
    refused(client.post("/v1/events", json=click(1), headers=headers), 429, "rate")


def test_a_message_is_charged_once_with_all_that_it_becomes(make):
    client, headers = make(ServerLimits(events_per_s=1))
    order = {
        **TRACK,
        "event": "Order Completed",
        "properties": {"products": [{"product_id": f"i{number}"} for number in range(9)]},
    }
    assert (
        client.post("/v1/events?format=segment", json=order, headers=headers).json()["accepted"]
        == 9
    )
    assert client.post("/v1/events", json=click(1), headers=headers).status_code == 200, (
        "nine of ten were charged"
    )
    refused(client.post("/v1/events", json=click(2), headers=headers), 429, "rate")


def test_who_is_beyond_its_own_limit_is_told_so_and_not_that_the_door_is_busy(make):
    """Of two bodies of a key that come at once, the second is looked at once it is whole: after the
    first was charged.
    """
    body = msgspec.json.encode([click(number) for number in range(30)])
    client, headers = make(ServerLimits(events_per_s=1), queue_bytes_max=len(body))

    async def send() -> tuple[httpx.Response, httpx.Response]:
        started, complete = asyncio.Event(), asyncio.Event()

        async def slowly():
            yield body
            started.set()
            await complete.wait()
            yield b" "  # by which it does not fit into the queue

        transport = httpx.ASGITransport(client.app)
        async with httpx.AsyncClient(
            transport=transport, base_url="http://127.0.0.1", headers=headers
        ) as sender:
            slow = asyncio.create_task(sender.post("/v1/events", content=slowly()))
            await started.wait()
            first = await sender.post("/v1/events", content=body)
            complete.set()
            return first, await slow

    first, slow = asyncio.run(send())
    assert first.status_code == 200
    refused(slow, 429, "rate")


def test_what_a_busy_door_refuses_is_not_charged(make):
    client, headers = make(ServerLimits(events_per_s=1), queue_bytes_max=1)
    for _ in range(3):
        refused(
            client.post(
                "/v1/events", json=[click(number) for number in range(30)], headers=headers
            ),
            429,
            "busy",
        )


def test_a_key_may_have_a_smaller_body_than_others(make):
    client, headers = make(own=Limits(body_bytes_max=100))
    refused(client.post("/v1/events", json=[click(1)] * 4, headers=headers), 413, "too_large")


def test_a_key_that_invents_people_is_stopped_until_the_hour_is_over(make, seconds):
    client, headers = make(own=Limits(ids_per_hour=500))
    for start in range(0, 1_000, 100):
        batch = [click(number, user_id=f"u{number}") for number in range(start, start + 100)]
        answer = client.post("/v1/events", json=batch, headers=headers)
        if answer.status_code != 200:
            break
    refused(answer, 429, "too_many_ids")
    assert 400 <= start <= 600
    assert (
        'tailorbird_limited_total{limit="ids"} 1.0' in client.get("/metrics", headers=headers).text
    )
    seconds.now += int(answer.headers["retry-after"])
    assert client.post("/v1/events", json=click(1), headers=headers).status_code == 200


@pytest.mark.parametrize("count", [1, 100, 3_000, 30_000, 200_000])
def test_the_sketch_is_near(count):
    distinct = DistinctCounter()
    for _ in range(2):
        distinct.add(f"id-{number}" for number in range(count))
    assert distinct.estimate() == pytest.approx(count, rel=0.08)


def test_a_bucket_never_holds_more_than_its_burst():
    bucket = Bucket(2.0, 0.0)
    assert bucket.wait_s(1e9) == 0
    bucket.take(21)
    assert bucket.wait_s(1e9) == pytest.approx(0.5, abs=0.01)


def test_addresses_do_not_fill_memory(monkeypatch):
    monkeypatch.setattr("tailorbird.serving.auth.limits.ADDRESSES_MAX", 100)
    limiter = Limiter()
    for number in range(1_000):
        limiter.admit_request(
            Caller("k", public=True), "write", f"198.51.{number // 250}.{number % 250}"
        )
    assert len(limiter._address_buckets) == 100


def test_limits_hold_among_threads():
    limiter = Limiter(ServerLimits(requests_per_s=10))
    passed = []

    def ask() -> None:
        for _ in range(100):
            try:
                limiter.admit_request(Caller("k"), "read", "")
                passed.append(1)
            except LimitError:
                pass

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert 100 <= len(passed) <= 130


def test_zstd_is_unpacked_within_the_limits(make):
    client, headers = make(body_bytes_max=200_000)
    packed = {**headers, "content-encoding": "zstd"}
    body = msgspec.json.encode(click(1))
    assert client.post("/v1/events", content=zstd.compress(body), headers=packed).status_code == 200
    refused(
        client.post("/v1/events", content=zstd.compress(b" " * 3_000_000), headers=packed),
        413,
        "too_large",
    )
    refused(client.post("/v1/events", content=b"no zstd", headers=packed), 400, "bad_zstd")
    refused(
        client.post("/v1/events", content=zstd.compress(body)[:-4], headers=packed), 400, "bad_zstd"
    )
    wide = zstd.ZstdCompressor(
        options={
            zstd.CompressionParameter.window_log: 27,
            zstd.CompressionParameter.content_size_flag: 0,
        }
    )
    frame = wide.compress(body) + wide.flush()
    refused(client.post("/v1/events", content=frame, headers=packed), 400, "bad_zstd")


@pytest.mark.parametrize("pack", [gzip.compress, zstd.compress], ids=["gzip", "zstd"])
def test_a_bomb_is_told_by_its_ratio_before_it_is_large(make, pack):
    client, headers = make()
    packed = {**headers, "content-encoding": pack.__module__.rpartition(".")[2]}
    packed["content-encoding"] = "gzip" if pack is gzip.compress else "zstd"
    refused(
        client.post("/v1/events", content=pack(b" " * 900_000), headers=packed), 413, "too_dense"
    )
    lines = b"\n".join(msgspec.json.encode(click(number)) for number in range(5_000))
    sent = client.post(
        "/v1/events",
        content=pack(lines),
        headers={**packed, "content-type": "application/x-ndjson"},
    )
    assert sent.json()["accepted"] == 5_000


@pytest.mark.parametrize("pack", [gzip.compress, zstd.compress], ids=["gzip", "zstd"])
def test_members_that_follow_each_other_are_one_body_within_the_same_limits(make, pack):
    client, headers = make(body_bytes_max=200_000)
    name = "gzip" if pack is gzip.compress else "zstd"
    packed = {**headers, "content-type": "application/x-ndjson", "content-encoding": name}
    lines = [msgspec.json.encode(click(number)) + b"\n" for number in range(50)]
    members = b"".join(pack(line) for line in lines)

    def send(body: bytes, size: int = 1 << 16) -> httpx.Response:
        return client.post(
            "/v1/events",
            content=(body[at : at + size] for at in range(0, len(body), size)),
            headers=packed,
        )

    for size in (1, 7, 1 << 16):
        assert send(members, size).json()["accepted"] == 50, f"in chunks of {size}"
    refused(send(pack(b" " * 30_000) * 7), 413, "too_large")
    refused(send(pack(b"") * (MEMBERS_MAX + 1)), 413, "too_many_members")
    refused(send(members[:-4]), 400, f"bad_{name}")
    refused(send(members + b"{}"), 400, f"bad_{name}")


def test_bodies_that_do_not_fit_together_are_refused_and_their_room_is_given_back(make):
    budget = Budget(1_000)
    client, headers = make(budget=budget)
    refused(client.post("/v1/events", content=b" " * 2_000, headers=headers), 503, "overloaded")
    assert budget.reserved_bytes == 0
    assert client.post("/v1/events", json=click(1), headers=headers).status_code == 200
    assert budget.reserved_bytes == 0


@pytest.mark.slow
def test_a_stalled_disk_is_felt_by_the_senders_and_not_by_memory(tmp_path, monkeypatch):
    """Many senders at once, a disk that takes nothing: what is not refused waits in a queue whose
    size is known.
    """
    stalled, free = threading.Event(), threading.Event()

    def stall(site: str) -> None:
        if site == "collector.before_append":
            stalled.set()
            free.wait(20)

    monkeypatch.setattr("tailorbird.serving.collector.writer.faults.fire_if_armed", stall)
    body = msgspec.json.encode(
        [click(number, properties={"note": "x" * 400}) for number in range(100)]
    )
    queue, bodies, senders = 4 * len(body), 8 * len(body), 200

    async def send() -> list[httpx.Response]:
        transport = httpx.ASGITransport(create_app(service))
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
            sent = [
                asyncio.create_task(client.post("/v1/events", content=body)) for _ in range(senders)
            ]
            done, waiting = await asyncio.wait(sent, timeout=3)
            assert stalled.is_set()
            assert waiting, "some wait for the disk"
            assert collector.figures().queue_bytes <= queue
            free.set()
            return await asyncio.gather(*done, *waiting)

    with EventCollector(
        tmp_path, "serve-1", RoutePlan(), SystemClock(), queue_bytes_max=queue
    ) as collector:
        service = Service(PromptPipeline(), collector, budget=Budget(bodies))
        tracemalloc.start()
        try:
            answers = asyncio.run(send())
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    statuses = {answer.status_code for answer in answers}
    assert statuses <= {200, 429, 503}
    assert 200 in statuses
    assert statuses & {429, 503}
    assert all(
        int(answer.headers["retry-after"]) >= 1 for answer in answers if answer.status_code != 200
    )
    assert collector.figures().accepted == 100 * sum(
        answer.status_code == 200 for answer in answers
    )
    assert peak < senders * len(body) / 2, "all bodies together never lay in memory"
