"""Several raw logs are routed in order of receipt, however unlike their backlogs: what follows from
an answer finds it.
"""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tailorbird.events import HOUR, SECOND, Receipt
from tailorbird.router.partitions.merge import LogBatch, merge_by_receipt
from tailorbird.stream import Block, EmbeddedReader, StoredBlock

NOW = 1_764_072_000_000_000
ROUNDS = 15


def answer(number):
    response = {"slot": "home", "arm": "model", "model": "v0001", "propensities": [0.5]}
    return {
        "event_id": f"a{number}",
        "type": "answer",
        "user_id": "u1",
        "request_id": f"r{number}",
        "items": ["i1"],
        "answer": response,
    }


def click(number):
    return {
        "event_id": f"c{number}",
        "type": "click",
        "anonymous_id": f"n{number}",
        "item_id": "i1",
        "request_id": f"r{number}",
    }


def view(event_id):
    return {"event_id": event_id, "type": "view", "user_id": "u1"}


def backlog(stream):
    """Answers, identifies and profiles in serve-2, what follows three seconds later in serve-1;
    serve-2 has ten times as much.
    """
    for number in range(ROUNDS):
        at = NOW + number * 10 * SECOND
        fillers = [view(f"f{number}-{k}") for k in range(8)]
        profile = {
            "event_id": f"p{number}",
            "type": "item",
            "item_id": "i1",
            "properties": {"price": number},
        }
        identify = {
            "event_id": f"n{number}",
            "type": "identify",
            "anonymous_id": f"n{number}",
            "user_id": f"u{number}",
        }
        stream.post(answer(number), producer="serve-2", source="server", received_at=at)
        for each in (profile, identify, *fillers):
            stream.post(each, producer="serve-2", received_at=at)
        stream.post(click(number), producer="serve-1", received_at=at + 3 * SECOND)


def received(stream):
    return [row["received_at"] for row in stream.events()]


def clicks(stream):
    click_rows = [row for row in stream.events() if row["type"] == "click"]
    return [
        (
            row["event_id"],
            row["slot"],
            row["position"],
            row["propensity"],
            row["person"],
            row["item_version"],
        )
        for row in click_rows
    ]


EXPECTED = [(f"c{number}", "home", 1, 0.5, f"u{number}", f"p{number}") for number in range(ROUNDS)]


@pytest.mark.slow
def test_with_a_backlog_what_follows_an_answer_in_another_log_comes_after_it(new_stream):
    for rows_max in (7, 20_000):
        stream = new_stream()
        backlog(stream)
        stream.route(rows_max)
        assert clicks(stream) == EXPECTED
        assert received(stream) == sorted(received(stream))
        first = stream.blocks()
        for path in stream.folder.glob("routed.db*"):
            path.unlink()
        stream.route(rows_max)
        assert stream.blocks() == first, "the same logs and steps give the same blocks"


def test_an_import_holds_nobody_up_and_is_not_held_up(stream):
    for number in range(20):
        stream.post(
            *(view(f"i{number}-{k}") for k in range(5)),
            producer="import",
            source="import",
            received_at=NOW - HOUR,
        )
    backlog(stream)
    with stream.router() as router:
        before = router.positions
        for _ in range(3):
            after = router.step(rows_max=30).positions
            assert all(after[name] > before.get(name, 0) for name in ("import", "serve-2"))
            before = after
        while router.step(rows_max=30).rows:
            pass
        assert router.positions == {"import": 100, "serve-1": ROUNDS, "serve-2": 11 * ROUNDS}
    assert clicks(stream) == EXPECTED


@pytest.mark.slow
def test_an_import_from_a_clock_ahead_holds_nobody_up_either(stream):
    stream.post(
        *(view(f"i{k}") for k in range(5)),
        producer="import",
        source="import",
        received_at=NOW + 1_000 * HOUR,
    )
    backlog(stream)
    with stream.router() as router:
        assert router.step(rows_max=30).positions["import"] == 5
        while router.step(rows_max=30).rows:
            pass
    assert clicks(stream) == EXPECTED


def test_an_answer_that_comes_while_the_logs_are_read_is_not_overtaken(stream, monkeypatch):
    """serve-1 gets an answer just after it was read, serve-2 the click on it just before it is
    read.
    """
    stream.post(view("e1"), producer="serve-1")
    stream.post(view("e2"), producer="serve-2")
    read, posted = EmbeddedReader.read, []

    def read_and_post(reader, start, *, bytes_max=8 << 20):
        blocks = read(reader, start, bytes_max=bytes_max)
        if reader.partition == "serve-1" and not posted:
            posted.append(True)
            stream.post(answer(0), producer="serve-1", source="server", received_at=NOW + SECOND)
            stream.post(click(0), producer="serve-2", received_at=NOW + 4 * SECOND)
        return blocks

    monkeypatch.setattr(EmbeddedReader, "read", read_and_post)
    stream.route()
    assert stream.events("event_id") == ["e1", "e2", "a0", "c0"]
    assert stream.event("c0")["slot"] == "home"


LOGS = st.dictionaries(
    st.sampled_from(["import", "one", "three", "two"]),
    st.lists(st.integers(1, 9), max_size=8),
    min_size=1,
    max_size=4,
)


@given(logs=LOGS, limits=st.lists(st.integers(1, 4), min_size=1, max_size=4))
def test_the_order_holds_across_steps_and_every_step_gets_on(logs, limits):
    """Each producer's clock runs forward; however much is read of each log at a time, receipts come
    in order, and all come.
    """
    stored = {}
    for producer, gaps in sorted(logs.items()):
        moments = [sum(gaps[: place + 1]) for place in range(len(gaps))]
        receipts = [msgspec.json.encode(Receipt(moment)) for moment in moments]
        stored[producer] = [
            StoredBlock(offset, Block("body", 1, b"", receipt))
            for offset, receipt in enumerate(receipts)
        ]
    positions = dict.fromkeys(stored, 0)
    routed = []
    while any(positions[producer] < len(blocks) for producer, blocks in stored.items()):
        limit = limits[len(routed) % len(limits)]
        runs = [
            LogBatch(producer, blocks[at : at + limit], len(blocks), at + limit < len(blocks))
            for (producer, blocks), at in zip(stored.items(), positions.values(), strict=True)
        ]
        step = merge_by_receipt(runs)
        assert step
        for body in step:
            assert body.stored_block.offset == positions[body.producer], (
                "a log's own order is never changed"
            )
            positions[body.producer] += 1
        routed += step
    live = [body.receipt.received_at for body in routed if body.producer != "import"]
    assert live == sorted(live)
