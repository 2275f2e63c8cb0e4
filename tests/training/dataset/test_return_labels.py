"""Labels of returning: what counts as being there again, what is not known yet, and that nothing
behind a border is.
"""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.support.training.shop import HOME, Shop

from tailorbird.errors import DeclarationError
from tailorbird.events import DAY, HOUR, MINUTE
from tailorbird.ranking import Slot
from tailorbird.ranking.bundle import Bundle
from tailorbird.ranking.policy.targets import ReturnTarget, item_heads, parse_return
from tailorbird.training.dataset.codes import IdVocabulary
from tailorbird.training.dataset.logged_answers import dataset_from_responses
from tailorbird.training.dataset.return_labels import PresenceIndex
from tailorbird.training.fit.target_encoding import LabelledRows, rates_in_time

pytestmark = pytest.mark.slow

COMPLETE_UNTIL = 30 * DAY


def dataset(events, head="return_7d", complete_until=COMPLETE_UNTIL):
    return dataset_from_responses(
        events,
        "home",
        ["click", head],
        ts_from=0,
        complete_until=complete_until,
        denominator="answer",
    )


def by_request(data, head="return_7d"):
    labels = data.labels[head]
    rows = [labels[data.request_index == request] for request in range(data.request_count)]
    assert all(np.array_equal(each, each[:1].repeat(len(each)), equal_nan=True) for each in rows)
    return [None if np.isnan(each[0]) else bool(each[0]) for each in rows]


def test_a_head_name_has_window_and_gap():
    assert parse_return("return_7d") == ReturnTarget(gap_us=DAY, until_us=7 * DAY)
    assert parse_return("return_2d_gap_12h") == ReturnTarget(gap_us=12 * HOUR, until_us=2 * DAY)
    assert parse_return("returned") is None
    assert item_heads(["return_7d", "dwell_30s", "click"]) == ["dwell_30s", "click"]
    with pytest.raises(DeclarationError, match="return_1d has nothing between its gap and its end"):
        parse_return("return_1d")
    with pytest.raises(DeclarationError, match="no head of the objective tells items apart"):
        Slot("home", objective={"return_7d": 1.0})


def test_who_is_there_again_between_gap_and_end_has_returned(routed):
    a, e = routed.answer, routed.event
    events = routed.table(
        a(0, "goes-on", ["x", "y"], "r1"),
        e("click", DAY - 1, "goes-on", "x", "r1"),  # still the same visit, or the same day
        a(1, "back", ["x", "y"], "r2"),
        e("search", 1 + DAY, "back", None),
        a(2, "late", ["x"], "r3"),
        e("click", 2 + 7 * DAY, "late", "x"),  # one moment too late
        a(3, "bot-like", ["x"], "r4"),
        e("click", 3 + 2 * DAY, "bot-like", "x", agent="bot"),
        a(4, "uncounted", ["x"], "r5"),
        e("click", 4 + 2 * DAY, "uncounted", "x", counts=False),
        a(5, "asked-only", ["x"], "r6"),
        a(5 + 2 * DAY, "asked-only", ["x"], "r7"),
        e("item", 6, None, "x"),
    )
    data = dataset(events)
    assert by_request(data) == [False, True, False, False, False, False, False]


def test_an_open_window_is_unknown(routed):
    a, e = routed.answer, routed.event
    events = routed.table(
        a(COMPLETE_UNTIL - 7 * DAY, "over", ["x"], "r1"),
        e("click", COMPLETE_UNTIL - DAY, "over", "x"),
        a(COMPLETE_UNTIL - 7 * DAY + 1, "back-already", ["x"], "r2"),
        e("click", COMPLETE_UNTIL - DAY, "back-already", "x"),
        a(COMPLETE_UNTIL - 2 * DAY, "nobody", ["x"], "r3"),
        a(DAY, None, ["x"], "r4"),
    )
    data = dataset(events)
    assert by_request(data) == [
        None,
        True,
        None,
        None,
    ]  # in order of time: nobody known, over, back-already, too young
    earlier = data.censor(COMPLETE_UNTIL - 1)
    assert by_request(earlier) == [None] * 4
    assert earlier.labels["click"] is data.labels["click"]


def test_returning_is_no_gain_and_shows_no_item_to_have_been_seen(routed):
    a, e = routed.answer, routed.event
    events = routed.table(
        a(0, "u", ["x", "y"], "r1"),
        e("impression", MINUTE, "u", "x", "r1"),
        e("click", 2 * DAY, "u", "y"),
    )
    data = dataset_from_responses(
        events,
        "home",
        ["click"],
        ts_from=0,
        complete_until=COMPLETE_UNTIL,
        denominator="impression",
        extra_heads=["return_7d"],
    )
    assert data.item_vocabulary.decode(data.item_codes) == ["x"]
    assert data.labels["return_7d"].tolist() == [1.0]
    assert data.gain({"click": 1.0, "return_7d": 5.0}).tolist() == [0.0]
    assert (
        data.digest()
        != replace(data, labels={**data.labels, "return_7d": np.float32([0])}).digest()
    )


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture]
)  # `routed` is a module, and holds nothing
@given(
    st.lists(st.tuples(st.integers(0, 2), st.integers(0, 40)), max_size=20),
    st.integers(0, 5),
    st.integers(1, 9),
    st.integers(0, 50),
)
def test_labels_follow_the_definition(routed, there, gap, length, complete_until):
    events = routed.table(*(routed.event("view", ts, f"u{who}", "x") for who, ts in there))
    people = IdVocabulary.of(
        routed.table(*(routed.event("view", 0, f"u{who}", "x") for who in range(3)))["person"]
    )
    person, t = np.repeat(np.arange(3), 20), np.tile(np.arange(20), 3)
    labels = PresenceIndex(events, people, complete_until).label(
        ReturnTarget(gap, gap + length), person, t
    )
    for who, at, label in zip(person.tolist(), t.tolist(), labels.tolist(), strict=True):
        if at + gap + length > complete_until:
            assert np.isnan(label)
        else:
            assert label == any(
                one == who and at + gap <= ts < at + gap + length for one, ts in there
            )


def test_a_target_encoding_knows_of_a_return_when_its_window_is_over():
    t = np.array([0, DAY, 7 * DAY - 1, 7 * DAY, 8 * DAY], np.int64)
    label = np.array([1, np.nan, 0, 0, 0], np.float32)
    labelled = LabelledRows(t, {"return_7d": label}, np.ones(5), 0)
    rates = rates_in_time(np.zeros(5, np.uint64), np.zeros(5, bool), "return_7d", labelled, 0.0)
    assert np.isnan(rates[:3]).all()
    assert rates[3:].tolist() == [1.0, 1.0], "the unknown one counts neither way"


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    return Shop.open(tmp_path_factory.mktemp("shop"))


@pytest.mark.parametrize("architecture", ["gbdt", pytest.param("mmoe", marks=pytest.mark.nightly)])
def test_it_is_an_ordinary_head(shop, architecture):
    if architecture != "gbdt":
        pytest.importorskip("torch", reason="needs the extra deep")
    parameters = {"epochs": 1, "hidden": [16, 8], "threads": 1} if architecture != "gbdt" else {}
    of_items = {"click": 1.0, "dwell_20s": 0.5, "cart": 2.0, "purchase": 5.0}
    slot = replace(HOME, objective={**of_items, "return_1d_gap_2h": 0.5, "return_7d": 0.5})
    some = {"requests": 2_500, "test_requests": 2_500, "lateness_us": 0, "parameters": parameters}
    report = shop.train(f"return-{architecture}", slot, architecture=architecture, **some)
    assert report.heads == (*of_items, "return_1d_gap_2h")
    assert any(
        "return_7d was left out: what it asks for is known 7 days later" in note
        for note in report.notes
    )
    figures = report.evaluation.head_metrics["return_1d_gap_2h"]
    assert (
        0
        < figures.positive_count
        < figures.row_count
        < report.evaluation.head_metrics["click"].row_count
    ), "the youngest rows are not judged"
    assert figures.auc.value > 0.55, "who comes often comes again"
    bundle = Bundle.load(
        shop.folder / f"return-{architecture}" / report.version,
        schema_hash=shop.features.schema_hash,
    )
    assert bundle.heads == report.heads
    assert bundle.manifest.metrics["parity"] < 1e-5
