"""A calibration is chosen by the period that follows, and only where it helps there."""

import numpy as np
import pytest

from tailorbird.events import DAY
from tailorbird.training.fit.calibrate import assign_periods, choose_calibration, choose_scale


def days(bend, *, drift=lambda day: 0.0, rows=4_000, count=5, seed=0):
    """Five days of probabilities, outcomes whose log-odds are a bent form of the model's, and the
    day of each.
    """
    rng = np.random.default_rng(seed)
    z = rng.normal(-1, 1.2, rows * count)
    day = np.repeat(np.arange(count), rows)
    shift = np.array([drift(each) for each in range(count)])[day]
    label = rng.random(z.size) < 1 / (1 + np.exp(-(bend(z) + shift)))
    return 1 / (1 + np.exp(-z)), label, day


def test_a_model_that_is_right_is_left_alone():
    chosen = choose_calibration(*days(lambda z: z))
    assert chosen.mean_losses["none"] < min(
        chosen.mean_losses["isotonic"], chosen.mean_losses["platt"]
    )
    assert chosen.mean_losses[chosen.calibration.name] == min(chosen.mean_losses.values())


def test_a_model_that_is_too_sure_is_softened():
    raw, label, day = days(lambda z: z / 3)
    chosen = choose_calibration(raw, label, day)
    assert chosen.calibration.name in ("temperature", "beta")
    assert chosen.mean_losses[chosen.calibration.name] < chosen.mean_losses["none"] - 0.01
    assert chosen.evaluated_periods == 4


def test_a_table_that_only_fits_the_past_is_rejected():
    """Each day the truth jumps to the other side of what the model says: every fit on the past is
    worse than none.
    """
    chosen = choose_calibration(
        *days(lambda z: z, drift=lambda day: 0.0 if day in (1, 2, 3, 4) else 2.5)
    )
    assert chosen.calibration.name == "none"
    assert chosen.mean_losses["none"] < min(
        loss for name, loss in chosen.mean_losses.items() if name != "none"
    )


def test_a_score_that_is_no_probability_always_gets_one():
    raw, label, day = days(lambda z: z)
    score = np.log(raw / (1 - raw)) * 5
    chosen = choose_calibration(score, label, day, is_probability=False)
    assert set(chosen.mean_losses) == {"platt", "isotonic"}
    assert abs(chosen.calibration.apply(score).mean() - label.mean()) < 0.01


def test_one_period_is_too_few_to_choose():
    raw, label, _ = days(lambda z: z / 3)
    chosen = choose_calibration(raw, label, np.zeros(raw.size, int))
    assert chosen.calibration.name == "none", "what was not proven on a later day is not kept"
    assert "too little to choose by" in chosen.summary
    assert (
        choose_calibration(
            raw, label, np.zeros(raw.size, int), is_probability=False
        ).calibration.name
        == "isotonic"
    )
    assert choose_scale(raw * 9, label, np.zeros(raw.size, int)).calibration.name == "none"


@pytest.mark.slow
def test_delayed_labels_do_not_confirm_overlapping_windows():
    """Labels of neighbouring days that look a week ahead are of the same week: whatever comes, one
    bears the other out.
    """
    raw, label, day = days(lambda z: z / 3, count=10)
    t = day * DAY
    assert choose_calibration(raw, label, day).evaluated_periods == 9
    chosen = choose_calibration(
        raw, label, assign_periods(t), label_period=assign_periods(t, 7 * DAY) + 1
    )
    assert chosen.evaluated_periods == 2, "the ninth and tenth day, by the first and the first two"
    early = day < 8
    alone = choose_calibration(
        raw[early], label[early], day[early], label_period=assign_periods(t, 7 * DAY)[early] + 1
    )
    assert (alone.calibration.name, alone.mean_losses) == ("none", {})


def test_delayed_amounts_are_scaled_by_available_labels():
    """The mean doubles on the sixth day: what is summed over a week tells of it on the thirteenth
    at the earliest.
    """
    rng = np.random.default_rng(0)
    day = np.repeat(np.arange(15), 500)
    expected = rng.gamma(2.0, 2.0, day.size)
    amount = expected * np.where(day < 6, 1.0, 2.0)
    at_once = choose_scale(expected, amount, day)
    assert (at_once.evaluated_periods, at_once.calibration.name) == (14, "scale")
    later = choose_scale(expected, amount, day, label_period=day + 8)
    assert later.evaluated_periods == 7, "the ninth day to the fifteenth"
    assert later.mean_losses["scale"] > 1.5 * at_once.mean_losses["scale"], (
        "what the days before would have told was not known on any of them"
    )
    assert (
        choose_scale(
            expected[day < 8], amount[day < 8], day[day < 8], label_period=day[day < 8] + 8
        ).evaluated_periods
        == 0
    )


@pytest.mark.parametrize(("span", "periods"), [(10 * DAY, 10), (DAY // 2, 5)])
def test_periods_are_days_or_parts_of_few_days(span, periods):
    t = np.arange(0, span, span // 1_000)[:1_000]
    assigned = assign_periods(t)
    assert len(np.unique(assigned)) == periods
    assert (np.diff(assigned) >= 0).all()
