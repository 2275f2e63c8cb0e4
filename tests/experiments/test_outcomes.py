"""Attribution of impressions, clicks and purchases: rules by hand, and equality with labels."""

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tailorbird.events import MINUTE
from tailorbird.events.contract.schema import ROUTED
from tailorbird.experiments.counts import count_events
from tailorbird.training.dataset.logged_answers import dataset_from_responses

START = 1_790_000_000_000_000
WINDOW = 30 * MINUTE
ITEMS = ["a", "b", "c"]


def table(rows):
    columns = [name for name in ROUTED.names if name not in ("properties",)]
    return pa.table(
        {
            name: pa.array([row.get(name) for row in rows], ROUTED.field(name).type)
            for name in columns
        }
    )


def event(kind, ts=0, **more):
    row = {"type": kind, "ts": START + ts, "person": "u1", "agent": "person", "p": 0}
    if "request_id" in more or kind == "answer":
        row |= {"slot": "home", "experiment": "e", "arm": "model", "request_id": "r1"}
    return row | ({"items": ITEMS} if kind == "answer" else {}) | more


def totals(rows, **more):
    counts = count_events(table(rows), "home", **more)
    return tuple(
        int(getattr(counts, name).sum()) for name in ("impressions", "clicks", "purchases")
    )


def test_an_impression_of_one_item_counts_one_and_a_list_counts_its_items():
    one = event("impression", 1, request_id="r1", item_id="a", position=1)
    assert totals([event("answer"), one]) == (1, 0, 0)
    assert totals([one]) == (1, 0, 0)
    assert totals([event("answer"), event("impression", 1, request_id="r1", items=["a", "c"])]) == (
        2,
        0,
        0,
    )


def test_an_event_without_a_slot_belongs_to_the_response_that_it_names():
    rows = [
        event(kind, 1, request_id=request, item_id="a", slot=None)
        for kind in ("impression", "click")
        for request in ("r1", "of another slot")
    ]
    assert totals([event("answer"), *rows]) == (1, 1, 0)


def test_an_item_is_seen_once_however_often_it_is_reported():
    ones = [event("impression", n, request_id="r1", item_id="a", position=1) for n in (1, 2)]
    assert totals(
        [event("answer"), *ones, event("impression", 3, request_id="r1", items=["a", "b"])]
    ) == (2, 0, 0)


@pytest.mark.parametrize("kind", ["click", "purchase"])
def test_an_outcome_counts_once_for_each_answer_and_item(kind):
    rows = [
        event(kind, n, request_id=request, item_id="a", position=1)
        for n in (1, 2, 3)
        for request in ("r1", "r2")
    ]
    assert sum(totals(rows)) == 2
    assert sum(totals([event("answer"), event("answer", request_id="r2"), *rows])) == 2


def test_an_outcome_on_an_item_that_the_answer_did_not_show_does_not_count():
    click = event("click", 1, request_id="r1", item_id="z")
    assert totals([click]) == totals([event("answer"), click]) == (0, 0, 0)


def test_an_outcome_after_the_attribution_window_does_not_count():
    click = event("click", WINDOW, request_id="r1", item_id="a", position=1)
    assert totals([event("answer"), click])[1] == 0
    assert totals([event("answer"), click], attribution=WINDOW + 1)[1] == 1


def test_without_a_request_it_belongs_to_the_last_answer_with_the_item():
    rows = [
        event("answer", 0, arm="popular"),
        event("answer", 10, request_id="r2", items=["b"], arm="model"),
    ]
    counts = count_events(
        table([*rows, event("click", 20, item_id="a"), event("click", 21, item_id="b")]), "home"
    )
    clicks = {
        counts.arms[arm]: int(counts.clicks[counts.arm == arm].sum())
        for arm in set(counts.arm.tolist())
    }
    assert clicks == {"popular": 1, "model": 1}


@pytest.mark.parametrize(
    "click",
    [
        event("click", WINDOW, item_id="a"),  # too late
        event("click", 0, item_id="a"),  # not after the answer
        event("click", 1, item_id="z"),  # not shown
        event("click", 1, item_id="a", person="u2"),  # to somebody else
        event("click", 1, item_id="a", agent="bot"),
        event(
            "click", 1, item_id="a", request_id="gone", slot=None
        ),  # names an answer of which nothing is known
    ],
)
def test_what_follows_from_no_answer_does_not_count(click):
    assert totals([event("answer"), click])[1] == 0


def test_named_and_unnamed_clicks_on_one_item_are_one():
    rows = [
        event("answer"),
        event("click", 1, item_id="a"),
        event("click", 2, item_id="a", request_id="r1", position=1),
    ]
    assert totals(rows)[1] == 1


def test_it_counts_for_the_person_that_was_answered():
    rows = [
        event("answer", person="anon:x"),
        event("click", 1, request_id="r1", item_id="a", position=1, person="u9"),
    ]
    counts = count_events(table(rows), "home")
    assert {counts.persons[code] for code in counts.person.tolist()} == {"anon:x"}


answers = st.lists(
    st.tuples(
        st.integers(0, 60),
        st.sampled_from(["u1", "u2"]),
        st.lists(st.sampled_from("abcd"), min_size=1, max_size=3, unique=True),
    ),
    min_size=1,
    max_size=6,
)
outcomes = st.lists(
    st.tuples(
        st.sampled_from(["impression", "click", "purchase"]),
        st.integers(0, 120),
        st.sampled_from(["u1", "u2"]),
        st.sampled_from("abcd"),
        st.none() | st.integers(0, 5),
    ),
    max_size=12,
)


@pytest.mark.slow
@given(answers, outcomes)
@settings(max_examples=150, deadline=None)
def test_it_is_what_training_learns(given_, done):
    rows = [
        event("answer", minute * MINUTE, person=person, request_id=f"r{n}", items=list(items), p=n)
        for n, (minute, person, items) in enumerate(sorted(given_, key=lambda each: each[0]))
    ]
    for kind, minute, person, item, named in done:
        answer = rows[named % len(given_)] if named is not None else None
        if answer is None:
            rows.append(event(kind, minute * MINUTE, person=person, item_id=item))
            continue
        position = answer["items"].index(item) + 1 if item in answer["items"] else None
        # the router lets nothing come before the answer that it names
        ts = max(minute * MINUTE, answer["ts"] - START + 1)
        rows.append(
            event(
                kind,
                ts,
                person=person,
                item_id=item,
                request_id=answer["request_id"],
                position=position,
            )
        )
    span = {"ts_from": START, "complete_until": START + 1_000 * MINUTE}
    data = dataset_from_responses(table(rows), "home", ["click", "purchase"], **span)
    seen = dataset_from_responses(
        table(rows), "home", [], **span
    ).row_count  # without heads: no outcome proves that an item was seen
    assert totals(rows) == (
        seen,
        int(data.labels["click"].sum()),
        int(data.labels["purchase"].sum()),
    )
