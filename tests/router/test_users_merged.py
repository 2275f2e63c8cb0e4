"""Two users who are one: whose events are whose from a merge on, as the merges alone say."""

import itertools

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.router.stream import NOW

from tailorbird.events import HOUR
from tailorbird.events.merges import Merge, resolve_merged_user


def merge(user, into, ts, number=0):
    return {
        "event_id": f"m-{user}-{ts}-{number}",
        "type": "merge",
        "user_id": user,
        "ts": ts,
        "properties": {"merged_into": into},
    }


def view(user, ts, **more):
    return {
        "event_id": f"v-{user}-{ts}",
        "type": "view",
        "user_id": user,
        "item_id": "i1",
        "ts": ts,
    } | more


def persons(stream, type_="view"):
    return [row["person"] for row in stream.events() if row["type"] == type_]


def test_from_a_merge_on_events_are_the_survivors_and_the_past_stays(stream):
    stream.post(
        view("41", NOW - 3),
        merge("41", "42", NOW - 2),
        view("41", NOW - 1),
        view("42", NOW - 1),
        view("41", NOW - 4),
    )
    stream.route()
    assert persons(stream) == ["41", "42", "42", "41"]
    assert persons(stream, "merge") == ["42"]
    stream.post(merge("42", "43", NOW), view("41", NOW + 1), view("42", NOW + 1))
    stream.route()
    assert persons(stream)[4:] == ["43", "43"]


def test_a_visitor_identified_as_a_user_who_was_merged_is_the_survivor(stream):
    login = {
        "event_id": "n",
        "type": "identify",
        "user_id": "41",
        "anonymous_id": "c7",
        "ts": NOW - 9,
    }
    visit = {"type": "view", "anonymous_id": "c7", "item_id": "i1"}
    stream.post(
        login,
        {**visit, "event_id": "a", "ts": NOW - 8},
        merge("41", "42", NOW - 7),
        {**visit, "event_id": "b", "ts": NOW - 6},
    )
    stream.route(rows_max=1)
    assert persons(stream) == ["41", "42"]


def test_a_merge_is_taken_back_by_one_into_itself_and_a_circle_goes_to_the_newest(stream):
    stream.post(
        merge("1", "2", NOW),
        view("1", NOW + 1),
        merge("1", "1", NOW + 2),
        view("1", NOW + 3),
        view("1", NOW + 1, event_id="again"),
    )
    stream.post(
        merge("a", "b", NOW),
        merge("b", "a", NOW + 5),
        view("a", NOW + 2),
        view("b", NOW + 6),
        view("a", NOW + 7),
    )
    stream.route()
    assert persons(stream) == ["2", "1", "2", "b", "a", "a"]


def test_what_is_attached_is_the_survivors_profile_and_a_profile_is_its_own_users(stream):
    profiles = [
        {
            "event_id": f"p{user}",
            "type": "user",
            "user_id": user,
            "ts": NOW - 9,
            "properties": {"plan": user},
        }
        for user in "12"
    ]
    stream.post(
        *profiles,
        merge("1", "2", NOW - 5),
        view("1", NOW),
        {**profiles[0], "event_id": "later", "ts": NOW + 1},
    )
    stream.route()
    assert [row["user_version"] for row in stream.events() if row["type"] == "view"] == ["p2"]
    assert persons(stream, "user") == ["1", "2", "1"]


def test_merges_hold_after_a_restart_and_when_memory_has_let_go_of_them(stream):
    stream.post(*[merge("41", f"u{number}", NOW - HOUR + number, number) for number in range(20)])
    stream.route(rows_max=3)
    stream.post(view("41", NOW), view("41", NOW - HOUR + 3), view("41", NOW - HOUR - 1))
    stream.route()
    assert persons(stream) == ["u19", "u3", "41"]


def test_repeats_of_a_merge_and_refused_ones_merge_nobody(stream):
    wrong = [
        {"event_id": "x1", "type": "merge", "user_id": "41", "ts": NOW},
        {
            "event_id": "x2",
            "type": "merge",
            "anonymous_id": "41",
            "ts": NOW,
            "properties": {"merged_into": "42"},
        },
        *[
            merge("41", into, NOW, number)
            for number, into in enumerate(["anon:42", 42, "", "x" * 257, "a\0b"])
        ],
    ]
    stream.post(*wrong, view("41", NOW + 1))
    stream.post(merge("5", "6", NOW), merge("5", "6", NOW))
    assert stream.route()[:3] == (2, 1, len(wrong))
    assert persons(stream) == ["41"]
    refusals = [(row["code"], row["path"]) for row in stream.rows("quarantine")]
    at = "$.properties.merged_into"
    expected = [
        ("missing", at),
        ("missing", "$.user_id"),
        ("reserved_prefix", at),
        ("wrong_type", at),
        *[("bad_id", at)] * 3,
    ]
    assert refusals == expected


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from("abcd"), st.integers(0, 3), st.sampled_from("abcd")), max_size=8
    ),
    st.data(),
)
def test_who_survives_depends_on_the_merges_and_not_on_how_one_comes_to_them(told, data):
    edges = {user: Merge(ts, p, into) for p, (user, ts, into) in enumerate(told)}
    survivors = {user: resolve_merged_user(user, edges.get)[0] for user in "abcd"}
    for user in "abcd":
        assert survivors[survivors[user]] == survivors[user]  # who survives is nobody else
        if user in edges:
            assert (
                survivors[user] == survivors[edges[user].merged_into]
            )  # merged into somebody: who that is
    for circle in _circles(edges):
        newest = max(edges[user] for user in circle)
        assert {survivors[user] for user in circle} == {newest.merged_into}


def _circles(edges):
    for size in range(1, 5):
        for path in itertools.permutations(edges, size):
            if all(
                edges[user].merged_into == after
                for user, after in zip(path, (*path[1:], path[0]), strict=True)
            ):
                yield path
