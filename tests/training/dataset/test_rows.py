"""Choice between logged responses and drawn requests, and its description."""

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from tests.support.training.rows import Lake

from tailorbird.errors import NotReadyError
from tailorbird.events import DAY, HOUR, MINUTE
from tailorbird.features import load_features
from tailorbird.ranking import Slot
from tailorbird.training.dataset.clicks import SamplingScheme
from tailorbird.training.dataset.request_choice import RESPONSES_MIN, RowSettings
from tailorbird.training.dataset.rows import load_training_data

NOW = 20 * DAY
HOME = Slot("home", denominator="answer")


@pytest.fixture(scope="module")
def features(tmp_path_factory):
    path = tmp_path_factory.mktemp("declared") / "features.py"
    path.write_text(
        'from tailorbird.features import count, entity\n\nclicks = count("clicks", '
        'entity("item"), "click", window="7d")\n'
    )
    return load_features(path)


def clicks(routed, count):
    return [routed.event("click", n * MINUTE, f"u{n % 50}", f"i{n % 7}") for n in range(count)]


def answers(routed, count, start=10 * DAY):
    rows = []
    for n in range(count):
        t, request = start + n * MINUTE, f"r{n}"
        rows += [
            routed.answer(t, f"u{n % 50}", ["i1", "i2"], request),
            routed.event("click", t + 1, f"u{n % 50}", "i1", request),
        ]
    return rows


def load(features, *rows, routed, slot=HOME, ends=NOW - 1, **more):
    """Load the training data of some events; the log continues until `ends`."""
    going_on = [routed.event("search", ends, "somebody", None)] if ends else []
    return load_training_data(
        Lake(routed.table(*rows, *going_on)),
        features,
        slot,
        RowSettings(**({"ts_from": 0, "as_of": NOW} | more)),
    )


def test_a_handful_of_answers_does_not_make_a_history_of_clicks_forgotten(routed, features):
    training_data = load(features, *clicks(routed, 900), *answers(routed, 5), routed=routed)
    assert not training_data.is_logged
    assert training_data.dataset.request_count == 905
    assert (
        "only 5 answers of slot 'home' have an outcome that is known by now, and "
        f"{RESPONSES_MIN} are needed" in training_data.source_note
    )


def test_answers_too_young_to_learn_from_do_not_either(routed, features):
    training_data = load(
        features, *clicks(routed, 900), *answers(routed, 5, start=NOW - DAY // 2), routed=routed
    )
    assert not training_data.is_logged


def test_enough_responses_are_used_regardless_of_clicks(routed, features):
    training_data = load(
        features, *clicks(routed, 900), *answers(routed, RESPONSES_MIN), routed=routed
    )
    assert training_data.is_logged
    assert training_data.dataset.request_count == RESPONSES_MIN
    assert training_data.source_note == (
        f"rows are logged answers: {RESPONSES_MIN} answers of slot 'home' have an outcome that "
        "is known by now"
    )


def test_answers_without_outcomes_are_not_enough(routed, features):
    shown = [
        routed.answer(10 * DAY + n, f"u{n % 50}", ["i1"], f"r{n}") for n in range(2 * RESPONSES_MIN)
    ]
    assert not load(features, *clicks(routed, 900), *shown, routed=routed).is_logged


def test_few_answers_are_learned_from_where_the_log_holds_nothing_else(routed, features):
    training_data = load(features, *answers(routed, 40), routed=routed)
    assert training_data.is_logged
    assert "hardly any click beside them" in training_data.source_note


def test_clicks_outside_the_window_are_none(routed, features):
    assert load(
        features, *clicks(routed, 900), *answers(routed, 5), routed=routed, ts_from=9 * DAY
    ).is_logged


def test_one_may_choose(routed, features):
    rows = [*clicks(routed, 900), *answers(routed, 5)]
    assert load(features, *rows, routed=routed, row_source="answers").dataset.request_count == 5
    many = [*clicks(routed, 10), *answers(routed, RESPONSES_MIN)]
    assert not load(features, *many, routed=routed, row_source="clicks").is_logged
    with pytest.raises(NotReadyError, match="slot 'cart' has no answer"):
        load(features, *rows, routed=routed, slot=Slot("cart"), row_source="answers")


def test_choices_are_of_the_first_target_that_happened(routed, features):
    slot = Slot("cart", objective={"purchase": 5.0, "click": 1.0})
    training_data = load(features, *clicks(routed, 900), routed=routed, slot=slot)
    assert isinstance(training_data.events, pa.Table)
    assert training_data.sampling_scheme.type == "click"


def test_drawn_rows_have_labels_of_all_targets(routed, features):
    bought = [
        routed.event("purchase", n * MINUTE + 1, f"u{n % 50}", f"i{n % 7}")
        for n in range(0, 900, 3)
    ]
    rows = [*clicks(routed, 900), *bought]
    slot = Slot("cart", objective={"click": 1.0})
    alone = load(features, *rows, routed=routed, slot=slot)
    assert alone.heads == ("click",)
    assert alone.label_window_us == 0
    more = load(features, *rows, routed=routed, slot=slot, extra_heads=("purchase", "click"))
    assert more.heads == ("click", "purchase")
    assert more.label_window_us == 30 * MINUTE


def test_outcomes_of_the_last_responses_are_unknown_at_the_end_of_the_log(routed, features):
    """An import that ended long before now: its last half hour of answers may have been clicked
    behind its end.
    """
    rows = answers(routed, 400)
    newest = rows[-1]["ts"]
    training_data = load(features, *rows, routed=routed, ends=0)
    assert training_data.complete_until == newest + 1
    assert training_data.dataset.t.max() == max(
        row["ts"]
        for row in rows
        if row["type"] == "answer" and row["ts"] + 30 * MINUTE <= newest + 1
    )
    assert load(features, *rows, routed=routed).dataset.request_count == 400, (
        "where the log went on, nothing came of the others"
    )


def test_no_one_churns_after_the_end_of_the_log(routed, features):
    slot = Slot("home", objective={"click": 1.0, "return_7d": 1.0}, denominator="answer")
    rows = answers(routed, 400)
    cut, complete = (
        load(features, *rows, routed=routed, slot=slot, ends=ends).dataset.labels["return_7d"]
        for ends in (0, NOW - 1)
    )
    assert np.isnan(cut).all()
    assert np.isfinite(complete).all()


def test_drawn_requests_with_open_labels_are_left_out(routed, features):
    """Each choice is bought 20 minutes later, those of the log's last 20 minutes behind its end."""
    chosen = clicks(routed, 900)
    bought = [
        routed.event("purchase", row["ts"] + 20 * MINUTE, row["person"], row["item_id"])
        for row in chosen[:-20]
    ]
    slot = Slot("cart", objective={"click": 1.0, "purchase": 5.0})
    training_data = load(features, *chosen, *bought, routed=routed, slot=slot, ends=0)
    assert training_data.dataset.t.max() == 869 * MINUTE + 1
    assert load(features, *chosen, routed=routed, ends=0).dataset.t.max() == 899 * MINUTE + 1, (
        "a choice itself is known at once"
    )
    with pytest.raises(
        NotReadyError, match="what came of the 900 choices in the window is not known yet"
    ):
        load(
            features, *chosen, *bought, routed=routed, slot=replace(slot, attribution="2d"), ends=0
        )


def test_drawn_requests_wait_for_late_events_as_answers_do(routed, features):
    """Outcomes of the last day may still arrive while the log continues."""
    chosen = clicks(routed, 900)
    bought = [
        routed.event("purchase", row["ts"] + MINUTE, row["person"], row["item_id"])
        for row in chosen
    ]
    slot, now = Slot("cart", objective={"click": 1.0, "purchase": 5.0}), 900 * MINUTE
    training_data = load(
        features,
        *chosen,
        *bought,
        routed=routed,
        slot=slot,
        ends=now - 1,
        as_of=now,
        lateness_us=300 * MINUTE,
    )
    assert training_data.complete_until == 600 * MINUTE
    assert training_data.dataset.t.max() == 569 * MINUTE + 1


def test_requests_are_moved_before_the_visit_to_the_item(routed, features):
    """Each purchase follows two looks, 20 and 5 minutes before it; in between the person looks at
    something else.
    """
    rows = []
    for n in range(0, 900, 3):
        person, item, t = f"u{n % 50}", f"i{n % 7}", n * HOUR // 2 + HOUR
        rows += [
            routed.event("click", t - 20 * MINUTE, person, item),
            routed.event("view", t - 5 * MINUTE, person, item),
        ]
        rows += [
            routed.event("click", t - 10 * MINUTE, person, "other"),
            routed.event("purchase", t, person, item, session_id=f"s{n}"),
        ]
    slot = replace(HOME, objective={"purchase": 1.0})
    training_data = load(features, *rows, routed=routed, slot=slot)
    assert (
        "before 100% of these the person had looked at the very item within 30 min, so each "
        "is asked just before that look" in training_data.source_note
    )
    first = [
        p for p, row in enumerate(rows, 1) if row["type"] == "click" and row["item_id"] != "other"
    ]
    assert training_data.dataset.t.tolist() == [rows[p - 1]["ts"] + 1 for p in first]
    assert training_data.dataset.log_position.tolist() == [p - 1 for p in first], (
        "the look itself is not known yet"
    )
    assert training_data.dataset.item_vocabulary.decode(training_data.dataset.item_codes) == [
        rows[p - 1]["item_id"] for p in first
    ]
    assert training_data.dataset.context["session_id"].null_count == len(first), (
        "as it was at the look"
    )
    assert training_data.label_window_us == 30 * MINUTE, "the purchase is known that much later"
    as_before = load(
        features,
        *rows,
        routed=routed,
        slot=slot,
        sampling_scheme=SamplingScheme(type="purchase", moves_before_visit=False),
    )
    assert (as_before.dataset.t - training_data.dataset.t == 20 * MINUTE).all()
    assert "looked at the very item" not in as_before.source_note


def test_a_simultaneous_view_is_not_part_of_the_visit(routed, features):
    """It may stand behind the choice in the log: a request before it would know the choice."""
    rows = []
    for n in range(0, 900, 3):
        person, item, t = f"u{n % 50}", f"i{n % 7}", n * HOUR // 2 + HOUR
        rows += [routed.event("purchase", t, person, item), routed.event("view", t, person, item)]
    training_data = load(
        features, *rows, routed=routed, slot=replace(HOME, objective={"purchase": 1.0})
    )
    assert "looked at the very item" not in training_data.source_note
    assert training_data.dataset.log_position.tolist() == [
        p - 1 for p, row in enumerate(rows, 1) if row["type"] == "purchase"
    ]


def test_a_choice_with_a_visit_before_the_attribution_window_is_dropped(routed, features):
    views = clicks(routed, 900)
    bought = [
        routed.event(
            "purchase", n * MINUTE + (1 if n % 2 else 12 * MINUTE), f"u{n % 50}", f"i{n % 7}"
        )
        for n in range(0, 900, 3)
    ]
    slot = replace(HOME, objective={"purchase": 1.0}, attribution="10m")
    training_data = load(features, *views, *bought, routed=routed, slot=slot)
    assert (
        "150 whose looks began longer before than the slot's attribution are left out"
        in training_data.source_note
    )
    assert training_data.dataset.request_count == 150
    with pytest.raises(NotReadyError, match="longer before than the slot's attribution, 1m"):
        load(features, *views, *bought[::2], routed=routed, slot=replace(slot, attribution="1m"))


def test_requests_stay_if_most_choices_follow_no_visit(routed, features):
    views = clicks(routed, 900)
    assert "looked at the very item" not in load(features, *views, routed=routed).source_note, (
        "of clicks nothing comes before"
    )
    later = [
        routed.event("purchase", n * MINUTE + DAY, f"u{n % 50}", f"i{(n + 1) % 7}")
        for n in range(0, 900, 3)
    ]
    apart = load(
        features, *views, *later, routed=routed, slot=replace(HOME, objective={"purchase": 1.0})
    )
    assert "looked at the very item" not in apart.source_note
    assert apart.dataset.t.tolist() == [row["ts"] + 1 for row in later]
    assert apart.label_window_us == 0
