"""The client against real servers that die, break off and refuse: what is sent counts once, and
what is asked is answered.
"""

import asyncio
import inspect
import json
import os
import random
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import get_type_hints

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.network.servers import RunningServer, serving
from tests.support.network.waiting import until

import tailorbird
from tailorbird.client import (
    AsyncClient,
    Client,
    ClosedError,
    Context,
    OutboxFullError,
    RefusedError,
    UnreachableError,
    retries,
)
from tailorbird.client.parameters import (
    ClientSettings,
    ContextFields,
    EventFields,
    QueryOptions,
    SearchOptions,
)
from tailorbird.client.retries import BUDGET_MAX, RetryBudget, Throttle, backoff_s
from tailorbird.errors import StorageError, UsageError
from tailorbird.events import Event
from tailorbird.serving.auth.keys import Keys
from tailorbird.serving.messages import Query, RankQuery, RecommendQuery, SearchQuery

WRITE, READ = "write-key-0123456789", "read-key-0123456789"
NOWHERE = "http://127.0.0.1:1"  # nothing listens there


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RunningServer]:
    with serving(tmp_path / "stream") as served:
        yield served


def click(number: int) -> dict[str, str]:
    return {"type": "click", "user_id": "u1", "item_id": f"i{number}"}


def test_all_questions_are_answered_in_types(server: RunningServer) -> None:
    with Client(server.url) as client:
        answer = client.recommend(
            "home", user_id="u1", size=5, context={"device": "phone", "country": "NO"}
        )
        assert (answer.request_id, answer.items[0].item_id) == ("r1", "i1")
        assert client.rank("home", ["i1", "i2"], user_id="u1").model == "v0001"
        assert client.search("rain coat", user_id=None).slot == "search"
        similar, item = client.similar("i1"), client.item("i1")
        assert similar is not None
        assert item is not None
        assert (similar.items[0].item_id, item.attributes) == ("i1", {"title": "Rain coat"})
        assert client.similar("no/such item?") is None
        with pytest.raises(
            UnreachableError, match=r"503"
        ):  # the question arrived: this server has no churn model
            client.churn("u1", explain=True)
        assert client.item("gone") is None


def test_filters_and_context_take_every_form(server: RunningServer) -> None:
    with Client(server.url) as client:
        filters = {
            "category": "coats",
            "brand": ["Nord", "Sud"],
            "price": {"min": 10, "max": 50.5},
            "new": True,
        }
        for context in (Context(device="phone"), {"device": "phone"}, None):
            assert client.recommend(
                "home", user_id="u1", context=context, filters=filters, exclude=("i9",)
            ).items


def names(*kinds: type) -> set[str]:
    return {name for kind in kinds for name in get_type_hints(kind)}


def test_what_calls_take_is_what_the_server_takes() -> None:
    assert (
        names(QueryOptions)
        == names(Query)
        == names(RecommendQuery) - {"slot"}
        == names(RankQuery) - {"slot", "items"}
    )
    assert names(SearchOptions) == names(SearchQuery) - {"query"}
    assert names(ContextFields) == names(Context)
    assert names(EventFields) == names(Event) - {
        "type",
        "answer",
        "received_at",
    }  # those two are the server's own
    settings = inspect.signature(AsyncClient).parameters
    assert names(ClientSettings) == set(settings) - {"urls"}


def test_both_clients_take_and_give_the_same() -> None:
    for name, method in inspect.getmembers(AsyncClient, inspect.isfunction):
        if not name.startswith("_"):
            assert inspect.signature(method) == inspect.signature(getattr(Client, name)), name


WRONG = """
import tailorbird
from tailorbird.client import AsyncClient, Client

async def ask(client: AsyncClient, other: Client) -> None:
    await client.recommend("home", user_id="u1", size=5, context={"device": "phone"}, filters={"price": {"min": 1}, "brand": ["a"]})
    other.search("coat", facets=["brand"], slot="home")
    other.track("click", user_id="u1", item_id="i1", properties={"price": 3})
    await client.recommend("home", sise=5)
    await client.recommend("home", size="5")
    other.recommend("home", context={"devise": "phone"})
    other.rank("home", ["i1"], filters={"price": {"least": 1}})
    other.search("coat", facets="brand", explain="yes")
    other.track("click", item=3)
    Client("http://127.0.0.1:8642", timeout="2")
"""


def test_a_type_checker_sees_a_wrong_call(tmp_path: Path) -> None:
    pytest.importorskip("pyrefly")
    file = tmp_path / "wrong.py"
    file.write_text(WRONG)
    source = Path(tailorbird.__file__).parents[1]
    command = [
        sys.executable,
        "-m",
        "pyrefly",
        "check",
        str(file),
        "--python-interpreter-path",
        # else it asks whichever Python is first on the path, which may lack what the source imports
        sys.executable,
        "--search-path",
        str(source),
        "--preset",
        "default",
        "--output-format",
        "json",
    ]
    diagnostics = json.loads(
        subprocess.run(command, capture_output=True, check=False, cwd=tmp_path).stdout
    )
    first = next(number for number, line in enumerate(WRONG.splitlines(), 1) if "sise" in line)
    assert {error["line"] for error in diagnostics["errors"]} == set(range(first, first + 7))


@pytest.mark.parametrize(
    ("query", "path"),
    [({"size": 0}, "size"), ({"sise": 3}, "sise"), ({"context": {"device": 1}}, "device")],
)
def test_a_wrong_question_is_told_before_it_is_sent(
    server: RunningServer, query: dict, path: str
) -> None:
    with Client(server.url) as client, pytest.raises(UsageError, match=path):
        client.recommend("home", **query)
    assert server.trouble.requests == 0


def test_the_servers_refusal_says_why(server: RunningServer) -> None:
    with Client(server.url) as client, pytest.raises(RefusedError) as refused:
        client.recommend("no_such_slot")
    assert (refused.value.status, refused.value.code, refused.value.path) == (
        400,
        "unknown_slot",
        "$.slot",
    )


def test_keys_are_sent_and_a_wrong_one_is_told(tmp_path: Path) -> None:
    with serving(tmp_path, keys=Keys(write=[WRITE], read=[READ])) as served:
        with Client(served.url, key=READ) as client:
            assert client.recommend("home").items
            with pytest.raises(RefusedError, match="no write scope"):
                client.send([click(1)])
        with Client(served.url, key=WRITE) as client:
            assert client.send([click(1)]).accepted == 1


def test_each_event_is_decided_in_order_over_several_bodies(server: RunningServer) -> None:
    events = [
        click(number) if number % 3 else {"type": "click", "user_id": "u1"} for number in range(25)
    ]
    with Client(server.url, batch_max=10) as client:
        receipts = client.send(events)
    assert [each.accepted for each in receipts.events] == [number % 3 != 0 for number in range(25)]
    assert (receipts.accepted, receipts.refused) == (16, 9)
    assert {each.code for each in receipts.events if not each.accepted} == {"missing"}
    assert len(server.bodies()) == 3


@pytest.mark.parametrize("trouble", ["lost", "busy", "silent"])
def test_what_is_sent_again_has_the_same_ids(server: RunningServer, trouble: str) -> None:
    server.trouble.next = [trouble]
    with Client(server.url, timeout_s=1.5) as client:
        assert client.send([click(1), click(2)]).accepted == 2
        assert client.retry_count == 1
    events = server.events()
    assert len(events) == (
        4 if trouble == "lost" else 2
    )  # it stands in the log twice, and counts once by its id
    assert len({event["event_id"] for event in events}) == 2


def test_where_nobody_answers_the_caller_is_told_in_time(server: RunningServer) -> None:
    server.trouble.next = ["silent"] * 9
    with Client(server.url, timeout_s=0.3) as client:
        started_at = time.monotonic()
        with pytest.raises(UnreachableError, match="took too long"):
            client.recommend("home")
        assert time.monotonic() - started_at < 20
    with Client(NOWHERE, timeout_s=0.5) as client, pytest.raises(UnreachableError, match="2 tries"):
        client.recommend("home")


def test_of_two_servers_the_other_one_answers(tmp_path: Path) -> None:
    with (
        serving(tmp_path / "b", producer="serve-2") as second,
        serving(tmp_path / "a") as first,
        Client([first.url, second.url], timeout_s=30) as client,
    ):
        assert client.recommend("home").items
        assert second.trouble.requests == 0
        first.trouble.next = ["busy"] * 100
        for _ in range(20):
            assert client.recommend("home").items
        assert client.retry_count == 1  # the one that answers is asked from then on
        assert second.trouble.requests == 20


def test_many_requests_that_fail_at_one_server_at_once_all_go_to_the_other(
    server: RunningServer,
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        dead = f"http://127.0.0.1:{free.getsockname()[1]}"

    async def ask() -> list:
        async with AsyncClient([dead, server.url], attempts=2, timeout_s=10) as client:
            return await asyncio.gather(
                *(client.recommend("home", user_id=f"u{number}") for number in range(8))
            )

    assert all(answer.items for answer in asyncio.run(ask()))


def test_a_busy_server_sends_nobody_to_a_dead_one(server: RunningServer) -> None:
    with Client([NOWHERE, server.url], attempts=2, timeout_s=30) as client:
        assert client.recommend("home").items, "the first does not listen, the second answers"
        server.trouble.next = ["busy"]
        assert client.recommend("home").items
        assert client.retry_count == 2


def test_who_is_sent_on_to_a_dead_server_comes_back_to_the_busy_one(server: RunningServer) -> None:
    with Client([server.url, NOWHERE], attempts=2, timeout_s=30) as client:
        server.trouble.next = ["busy"]
        assert client.recommend("home").items
        assert server.trouble.requests == 2


def test_tracked_events_come_in_few_bodies_and_all(server: RunningServer) -> None:
    with Client(server.url, gather_s=0.05) as client:
        ids = [client.track("click", user_id="u1", item_id=f"i{number}") for number in range(1_200)]
        assert client.flush(30)
        assert client.waiting_count == 0
    assert sorted(event["event_id"] for event in server.events()) == sorted(ids)
    assert len(server.bodies()) < 60


def test_many_threads_track_at_once(server: RunningServer) -> None:
    with Client(server.url, gather_s=0.01) as client:
        threads = [
            threading.Thread(
                target=lambda: [client.track(**click(number)) for number in range(100)]
            )
            for _ in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(server.events()) == 800


def test_what_waits_is_sent_though_the_server_took_nothing_for_long(
    server: RunningServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retries, "BACKOFF_MAX_S", 0.05)  # else a minute and a half
    monkeypatch.setattr(
        Throttle, "allow", lambda *_: False
    )  # as after so many refusals it nearly always says
    server.trouble.next = ["busy"] * 12
    with Client(server.url, gather_s=0.01) as client:
        client.track(**click(1))
        assert client.flush(120)
    assert len(server.events()) == 1


def test_tracked_events_wait_for_a_server_that_comes_back(tmp_path: Path) -> None:
    with serving(tmp_path / "stream") as served:
        url = served.url
    with Client(url, gather_s=0.01, timeout_s=0.5) as client:
        ids = [client.track("click", user_id="u1", item_id=f"i{number}") for number in range(50)]
        assert not client.flush(0.2)
        assert client.waiting_count == 50
        with serving(tmp_path / "stream", port=int(url.rpartition(":")[2])) as served:
            assert client.flush(60)
            assert sorted(event["event_id"] for event in served.events()) == sorted(ids)


def test_a_full_outbox_says_so_and_keeps_what_is_older() -> None:
    client = Client(NOWHERE, queue_max=3, timeout_s=0.2)
    for number in range(3):
        client.track(**click(number))
    with pytest.raises(OutboxFullError, match="3 events wait"):
        client.track(**click(4))
    assert client.close(0.1) == 3  # lost, and told
    assert client.close() == 0


def test_the_spool_outlives_the_process(server: RunningServer, tmp_path: Path) -> None:
    spool = tmp_path / "spool"
    client = Client(NOWHERE, spool=spool, timeout_s=0.2)
    ids = [client.track(**click(number)) for number in range(30)]
    assert client.close(0.1) == 0
    assert [path.suffix for path in spool.iterdir()] == [".ndjson"]
    with Client(server.url, spool=spool, gather_s=0.01) as again:
        until(lambda: not list(spool.iterdir()))
        again.track(**click(31))
    assert len(server.events()) == 31
    assert set(ids) <= {event["event_id"] for event in server.events()}


def test_a_wrong_key_empties_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The spool of another process, and waiting events, survive until the key is right."""
    spool = tmp_path / "spool"
    Client(NOWHERE, spool=spool, timeout_s=0.2).close(0.1)
    with serving(tmp_path / "stream", keys=Keys(write=[WRITE], read=[READ])) as served:
        wrong = Client(served.url, key=READ, gather_s=0.01, spool=spool)
        ids = [wrong.track(**click(number)) for number in range(20)]
        assert not wrong.flush(1)
        assert wrong.waiting_count == 20
        assert wrong.close(0.1) == 0
        assert served.bodies() == []
        assert caplog.text.count("events wait") == 1
        with Client(served.url, key=WRITE, gather_s=0.01, spool=spool) as right:
            until(lambda: right.waiting_count == 0)
        assert sorted(event["event_id"] for event in served.events()) == sorted(ids)


@pytest.mark.parametrize("trouble", ["foreign", "moved"])
def test_what_is_no_answer_of_ours_decides_nothing(server: RunningServer, trouble: str) -> None:
    server.trouble.next = [trouble] * 3
    with Client(server.url, gather_s=0.01) as client:
        client.track(**click(1))
        assert client.flush(60)
    assert len(server.events()) == 1
    server.trouble.next = [trouble]
    with Client(server.url) as client, pytest.raises(RefusedError, match="not as Tailorbird does"):
        client.send([click(2)])


def test_a_body_that_is_too_large_is_halved_and_an_event_that_is_kept_apart(tmp_path: Path) -> None:
    spool = tmp_path / "spool"
    with serving(tmp_path / "stream", body_bytes_max=4_000) as served:
        with Client(served.url, gather_s=0.05, spool=spool) as client:
            ids = [client.track(**click(number)) for number in range(100)]
            large = client.track("view", user_id="u1", properties={"text": "x" * 5_000})
            assert client.flush(60)
        assert sorted(event["event_id"] for event in served.events()) == sorted(ids)
    [refused_file] = (spool / "refused").iterdir()
    assert large in refused_file.read_text()
    with (
        serving(tmp_path / "other", body_bytes_max=1_000) as served,
        Client(served.url, gather_s=0.01) as client,
    ):
        client.track("view", user_id="u1", properties={"text": "x" * 5_000})
        assert client.flush(60)
        assert client.close() == 1  # there was no folder for it


def test_the_spool_survives_a_kill(server: RunningServer, tmp_path: Path) -> None:
    spool = tmp_path / "spool"
    script = (
        "import sys, time\nfrom pathlib import Path\nfrom tailorbird.client import Client\n"
        f"client = Client({NOWHERE!r}, spool=Path(sys.argv[1]), timeout_s=0.2, gather_s=0.01)\n"
        "for number in range(500):\n    client.track('click', user_id='u1', item_id=f'i{number}')\n"
        "time.sleep(600)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", script, str(spool)])
    until(
        lambda: (
            spool.is_dir()
            and sum(path.read_bytes().count(b"\n") for path in spool.glob("*.ndjson")) == 500
        ),
        60,
    )
    process.kill()
    process.wait()
    with Client(server.url, spool=spool, gather_s=0.01) as client:
        until(lambda: client.waiting_count == 0)
    assert len({event["event_id"] for event in server.events()}) == 500


def test_a_closed_client_says_so(server: RunningServer) -> None:
    client = Client(server.url)
    client.close()
    calls: list[Callable[[], object]] = [
        lambda: client.recommend("home"),
        lambda: client.rank("home", ["i1"]),
        lambda: client.search("coat"),
        lambda: client.similar("i1"),
        lambda: client.item("i1"),
        lambda: client.churn("u1"),
        lambda: client.send([click(1)]),
        lambda: client.track(**click(1)),
        lambda: client.flush(),
    ]
    for call in calls:
        with pytest.raises(ClosedError, match="the client is closed"):
            call()
    assert server.trouble.requests == 0


def test_a_closed_client_of_a_loop_says_so(server: RunningServer) -> None:
    async def run() -> None:
        client = AsyncClient(server.url)
        await client.close()
        assert await client.close() == 0
        for call in (
            client.recommend("home"),
            client.item("i1"),
            client.send([click(1)]),
            client.flush(),
        ):
            with pytest.raises(ClosedError):
                await call
        with pytest.raises(ClosedError):
            client.track(**click(1))

    asyncio.run(run())
    assert server.trouble.requests == 0


def test_who_waits_for_an_answer_while_the_client_is_closed_hears_of_it(
    server: RunningServer,
) -> None:
    server.trouble.next = ["silent"] * 99
    client, errors = Client(server.url, timeout_s=60), []

    def ask() -> None:
        try:
            client.recommend("home")
        except ClosedError as error:
            errors.append(error)

    thread = threading.Thread(target=ask)
    thread.start()
    until(lambda: server.trouble.requests == 1)
    client.close()
    thread.join(20)
    assert [error.code for error in errors] == ["closed"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="has no fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_client_from_before_a_fork_says_so(server: RunningServer) -> None:
    with Client(server.url) as client:
        child = os.fork()
        if not child:
            try:
                client.recommend("home")
            except UsageError as error:
                os._exit(7 if "before a fork" in error.message else 1)
            os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7


def test_a_spool_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot be made"):
        Client(NOWHERE, spool=tmp_path / "file" / "spool")


def test_a_loop_of_ones_own(server: RunningServer) -> None:
    async def run() -> list[str]:
        async with AsyncClient(
            server.url, timeout_s=30
        ) as client:  # what stands still here is the machine
            client.track("view", user_id="u1", properties={"dwell_ms": 10})
            answers = await asyncio.gather(
                *(client.recommend("home", user_id=f"u{number}") for number in range(20))
            )
            assert (await client.send([click(1)])).accepted == 1
            return [answer.request_id for answer in answers]

    assert asyncio.run(run()) == ["r1"] * 20
    assert len(server.events()) == 2


@pytest.mark.parametrize("url", ["", "127.0.0.1:8642", "ftp://x"])
def test_an_address_that_is_none(url: str) -> None:
    with pytest.raises(UsageError, match="address of a server"):
        Client(url)


def test_what_is_no_json_is_told(server: RunningServer) -> None:
    with Client(server.url) as client, pytest.raises(UsageError, match="cannot be written as JSON"):
        client.track("click", user_id="u1", properties={"x": object()})
    with (
        Client(server.url) as client,
        pytest.raises(UsageError, match="a question cannot be written as JSON"),
    ):
        client.search("lamp \ud83d")


def test_one_event_that_is_nested_too_deeply_takes_no_other_along(server: RunningServer) -> None:
    """At some depth a client can still write what a server cannot take apart any more, and refuses
    as a whole.
    """
    codes = []
    with Client(server.url) as client:
        for depth in range(900, 1_100, 5):
            deep: dict = {}
            for _ in range(depth):
                deep = {"deep": deep}
            try:
                receipts = client.send(
                    [click(1), click(2), {**click(3), "properties": deep}, click(4), click(5)]
                )
            except UsageError:
                break
            assert [each.accepted for each in receipts.events] == [True, True, False, True, True]
            assert (receipts.accepted, receipts.refused) == (4, 1)
            codes.append(receipts.events[2].code)
    assert codes[0] == "too_large"
    assert depth < 1_095, "too deep for a client is told before it is sent"


@given(st.lists(st.booleans(), max_size=400))
def test_retries_are_at_most_a_tenth_and_ten(wants: list[bool]) -> None:
    budget, spent = RetryBudget(), 0
    for number, want in enumerate(wants, 1):
        budget.earn()
        spent += want and budget.spend()
        assert spent <= BUDGET_MAX + number / 10


def test_a_server_that_takes_nothing_is_asked_less_and_less() -> None:
    throttle, sent = Throttle(random.Random(1)), 0
    for number in range(1_000):
        if throttle.allow(number * 0.01):
            sent += 1
            throttle.record(False, number * 0.01)
    assert sent < 30
    assert throttle.allow(1_000.0)  # two minutes later all is forgotten


def test_a_server_that_takes_half_is_asked_without_bound() -> None:
    throttle = Throttle(random.Random(1))
    for number in range(1_000):
        assert throttle.allow(number * 0.01)
        throttle.record(number % 2 == 0, number * 0.01)


def test_waits_double_and_differ() -> None:
    draw = random.Random(1)
    waits = [backoff_s(attempt, draw) for attempt in range(1, 30)]
    assert all(0.025 * 2 ** min(number, 9) <= wait * 1.2 for number, wait in enumerate(waits[:9]))
    assert max(waits) <= 30
    assert len(set(waits)) == len(waits)
