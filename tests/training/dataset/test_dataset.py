"""Rows of logged responses: which row gets an outcome, which rows exist, and no future leaks in."""

import pyarrow as pa
import pytest

from tailorbird.errors import NotReadyError
from tailorbird.events import MINUTE
from tailorbird.training.dataset.logged_answers import dataset_from_responses

NOW = 1_000 * MINUTE


def dataset(events, heads=("click", "purchase"), **more):
    return dataset_from_responses(
        events,
        "home",
        heads,
        ts_from=0,
        **({"complete_until": NOW, "denominator": "answer"} | more),
    )


def labelled(data, head="click"):
    rows = zip(
        data.request_index,
        data.item_vocabulary.decode(data.item_codes),
        data.labels[head],
        strict=True,
    )
    return [(int(request), item) for request, item, hit in rows if hit]


def test_an_outcome_belongs_to_the_answer_that_it_names(routed):
    a, e = routed.answer, routed.event
    events = routed.table(
        a(1 * MINUTE, "u1", ["x", "y"], "r1"),
        a(2 * MINUTE, "u1", ["y", "z"], "r2"),
        e("click", 3 * MINUTE, "u1", "y", "r1"),  # though r2 showed y later
        e("purchase", 5 * MINUTE, "u1", "z", "r2"),
    )
    data = dataset(events)
    assert labelled(data) == [(0, "y")]
    assert labelled(data, "purchase") == [(1, "z")]
    assert data.position.tolist() == [1, 2, 1, 2]
    assert data.gain({"click": 1.0, "purchase": 8.0}).tolist() == [0, 1, 0, 8]


def test_the_log_of_an_arm_has_the_answers_of_that_arm_alone(routed):
    a, e = routed.answer, routed.event
    events = routed.table(
        a(1 * MINUTE, "u1", ["x", "y"], "r1", experiment="e", arm="new"),
        a(2 * MINUTE, "u2", ["x", "y"], "r2", experiment="e", arm="old"),
        a(3 * MINUTE, "u1", ["y", "z"], "r3"),
        e("click", 4 * MINUTE, "u1", "y", "r1"),
        e("click", 4 * MINUTE, "u1", "y", "r3"),
    )
    data = dataset(events, arm="e:new")
    assert (data.request_count, data.provenance["arm"]) == (1, "e:new")
    assert labelled(data) == [(0, "y")]
    with pytest.raises(NotReadyError, match="the arm e:other has no answer"):
        dataset(events, arm="e:other")


def test_a_head_by_dwell_is_a_view_of_at_least_so_long(routed):
    a, e = routed.answer, routed.event
    events = routed.table(
        a(1 * MINUTE, "u1", ["x", "y", "z"], "r1"),
        e("view", 2 * MINUTE, "u1", "x", "r1", dwell_ms=29_999.0),
        e("view", 3 * MINUTE, "u1", "y", "r1", dwell_ms=30_000.0),
        e("view", 4 * MINUTE, "u1", "z", "r1"),
        e("click", 5 * MINUTE, "u1", "z", "r1", dwell_ms=90_000.0),
    )
    data = dataset(events, ("click", "dwell_30s", "view"))
    assert labelled(data, "dwell_30s") == [(0, "y")]
    assert labelled(data, "view") == [(0, "x"), (0, "y"), (0, "z")]


def test_without_a_name_it_belongs_to_the_last_answer_with_the_item_within_the_window(routed):
    a, e = routed.answer, routed.event
    events = routed.table(
        a(1 * MINUTE, "u1", ["x"], "r1"),
        a(10 * MINUTE, "u1", ["x"], "r2"),
        a(20 * MINUTE, "u1", ["y"], "r3"),
        a(20 * MINUTE, "u2", ["x"], "r4"),
        e("click", 25 * MINUTE, "u1", "x"),
        e("click", 60 * MINUTE, "u1", "y"),  # 40 minutes after: nobody's
    )
    assert labelled(dataset(events)) == [(1, "x")]


def test_an_outcome_before_its_answer_or_of_another_item_or_slot_is_nobodys(routed):
    a, e = routed.answer, routed.event
    events = routed.table(
        e("click", 1 * MINUTE, "u1", "x"),
        a(2 * MINUTE, "u1", ["x"], "r1"),
        a(2 * MINUTE, "u1", ["x"], "r2", slot="cart"),
        e("click", 3 * MINUTE, "u1", "w", "r1"),
        e("click", 3 * MINUTE, "u1", "x", "r2"),
        e("click", 3 * MINUTE, "u1", "x", "r9"),
        e("click", 40 * MINUTE, "u1", "x", "r1"),
    )
    assert labelled(dataset(events)) == []


def test_only_seen_positions_are_rows_where_impressions_are_the_denominator(routed):
    a, e = routed.answer, routed.event
    events = routed.table(
        a(1 * MINUTE, "u1", ["x", "y", "z", "w"], "r1"),
        a(2 * MINUTE, "u2", ["x", "y"], "r2"),
        a(3 * MINUTE, "u3", ["x", "y"], "r3"),
        {
            "type": "impression",
            "ts": 2 * MINUTE,
            "person": "u1",
            "items": ["x", "y"],
            "request_id": "r1",
        },
        e("impression", 3 * MINUTE, "u2", "x", "r2"),
        e("click", 3 * MINUTE, "u1", "w", "r1"),
    )
    data = dataset(events, denominator="impression")
    assert data.request_count == 2
    assert data.item_vocabulary.decode(data.item_codes) == ["x", "y", "w", "x"]
    assert data.position.tolist() == [1, 2, 4, 1]
    assert labelled(data) == [(0, "w")]


def test_an_impression_of_another_slots_answer_shows_nothing_of_ours(routed):
    a, e = routed.answer, routed.event
    events = routed.table(
        a(1 * MINUTE, "u1", ["x", "y"], "r1"),
        a(1 * MINUTE, "u1", ["x", "y"], "r2", slot="cart"),
        e("impression", 2 * MINUTE, "u1", "x", "r1"),
        e("impression", 2 * MINUTE, "u1", "y", "r2"),
        {
            "type": "impression",
            "ts": 3 * MINUTE,
            "person": "u1",
            "items": ["x", "y"],
            "request_id": "r2",
        },
    )
    data = dataset(events, denominator="impression")
    assert data.item_vocabulary.decode(data.item_codes) == ["x"]


def test_an_outcome_without_a_name_belongs_to_the_last_answer_over_all_slots(routed):
    a, e = routed.answer, routed.event
    events = routed.table(
        a(1 * MINUTE, "u1", ["x", "y"], "r1"),
        a(2 * MINUTE, "u1", ["x"], "r2", slot="cart"),
        a(2 * MINUTE, "u2", ["y"], "r3", slot="cart"),  # somebody else's
        e("click", 3 * MINUTE, "u1", "x"),
        e("click", 3 * MINUTE, "u1", "y"),
    )
    assert labelled(dataset(events)) == [(0, "y")]
    cart = dataset_from_responses(
        events, "cart", ["click"], ts_from=0, complete_until=NOW, denominator="answer"
    )
    assert labelled(cart) == [(0, "x")]


def test_an_outcome_without_a_name_may_belong_to_an_answer_that_is_no_row_yet(routed):
    a, e = routed.answer, routed.event
    events = routed.table(
        a(1 * MINUTE, "u1", ["x"], "r1"),
        a(20 * MINUTE, "u1", ["x"], "r2"),
        e("click", 25 * MINUTE, "u1", "x"),
    )
    data = dataset(events, complete_until=40 * MINUTE)
    assert data.request_count == 1
    assert labelled(data) == []


def test_targets_of_other_slots_get_labels_and_make_no_rows(routed):
    a, e = routed.answer, routed.event
    events = routed.table(
        a(1 * MINUTE, "u1", ["x", "y"], "r1"),
        e("impression", 2 * MINUTE, "u1", "x", "r1"),
        e("cart", 3 * MINUTE, "u1", "x", "r1"),
        e("cart", 3 * MINUTE, "u1", "y", "r1"),
    )
    data = dataset(events, denominator="impression", extra_heads=["cart"])
    assert data.item_vocabulary.decode(data.item_codes) == ["x"]
    assert labelled(data, "cart") == [(0, "x")]


def test_immature_responses_are_left_out(routed):
    events = routed.table(
        routed.answer(1 * MINUTE, "u1", ["x"], "r1"), routed.answer(71 * MINUTE, "u1", ["x"], "r2")
    )
    data = dataset(events, complete_until=100 * MINUTE)
    assert data.t.tolist() == [1 * MINUTE]


def test_bots_are_no_readers(routed):
    events = routed.table(
        routed.answer(1 * MINUTE, "u1", ["x"], "r1"),
        routed.answer(1 * MINUTE, "u2", ["x"], "r2", agent="bot"),
    )
    assert dataset(events).request_count == 1


def test_a_logged_answer_has_the_position_that_its_features_were_read_at(routed):
    events = routed.table(
        routed.answer(1 * MINUTE, "u1", ["x"], "r1"), routed.answer(2 * MINUTE, "u1", ["x"], "r2")
    )
    answers = pa.table({"request_id": ["r2"], "p": pa.array([7], pa.int64())})
    assert dataset(events, response_log=answers).log_position.tolist() == [1, 7]
    by_part = answers.append_column("positions", pa.array([[7, 5]], pa.list_(pa.int64())))
    assert dataset(events, response_log=by_part).log_position.tolist() == [[1, 1], [7, 5]]


def test_missing_responses_raise_with_a_fix(routed):
    with pytest.raises(NotReadyError, match="attribution window"):
        dataset(routed.table(routed.event("click", 1, "u1", "x")))


def test_taking_and_cutting_keep_rows_with_their_requests(routed):
    a, e = routed.answer, routed.event
    events = routed.table(
        *(a(n * MINUTE, f"u{n}", ["x", "y", "z"][: 1 + n % 3], f"r{n}") for n in range(1, 9)),
        e("click", 5 * MINUTE, "u4", "y", "r4"),
    )
    data = dataset(events)
    last = data.take(data.t.argsort()[::-1][:3])
    assert last.context["person"].to_pylist() == ["u8", "u7", "u6"]
    assert last.item_vocabulary.decode(last.item_codes) == ["x", "y", "z", "x", "y", "x"]
    parts = list(data.chunks(4))
    assert sum(part.row_count for part in parts) == data.row_count
    assert all(part.row_count <= 4 for part in parts)
    assert [t for part in parts for t in part.t] == data.t.tolist()
    assert sum(part.labels["click"].sum() for part in parts) == 1
