"""Calibration of churn on past origins: within reach at any gap, for the bundle and for what the
gate judges, and told where it is not.
"""

import json
import re
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from tests.support.churn_columns import declare_habits

from tailorbird.errors import NotReadyError
from tailorbird.events import DAY, RoutePlan, SimulatedClock, micros, to_iso
from tailorbird.features import FeatureSet, entity
from tailorbird.features.declare.checks import collect_features
from tailorbird.lake import Lake, LakeRole
from tailorbird.models.gbdt import GbdtSettings
from tailorbird.ranking import Churn
from tailorbird.ranking.calibration import Identity
from tailorbird.ranking.churn.bundle import ChurnBundle
from tailorbird.router import Router
from tailorbird.stream.importer import import_files
from tailorbird.training.evaluation.metrics import log_losses
from tailorbird.training.tasks.churn.backtest import ChurnSettings, run_backtest
from tailorbird.training.tasks.churn.labels import build_activity
from tailorbird.training.tasks.churn.model_choice import VALIDATION_CUTS
from tailorbird.training.tasks.churn.report import ChurnReport
from tailorbird.training.tasks.churn.rolling_origin import (
    CUTS_MAX,
    backtest_windows,
    cuts_to_calibrate,
    required_history_us,
)
from tailorbird.training.tasks.churn.rows import needed_columns
from tailorbird.training.tasks.churn.score import score_people
from tailorbird.training.tasks.churn.train import train_churn
from tailorbird.training.tasks.churn.training_rows import FitSettings

BEGIN = 20_000 * DAY
NOW, END, CHANGE = (
    440,
    462,
    330,
)  # days: when it is trained, to where the log goes, from when on people leave
CHURN = Churn(
    window="14d",
    gap="4d",
    period="84h",
    active="56d",
    recency="since",
    frequency="bought",
    age="age",
)
SETTINGS = ChurnSettings(
    FitSettings(gbdt=GbdtSettings(trees=20, rate=0.1, patience=10), rows=3_000, half_life=0),
    grid_rows=9_000,
    lateness_us=0,
    replicates=20,
)


def day(number):
    return BEGIN + round(number * DAY)


def declared():
    with collect_features() as declarations:
        user = entity("user")
        declare_habits(user)
    return FeatureSet.from_declarations(declarations)


def purchases(people=900, seed=0):
    """(day, person), by day: nearly nobody leaves, until many do.

    What learns from all the past alike says so too late: its level is wrong.
    """
    rng, rows = np.random.default_rng(seed), []
    for number in range(people):
        at = float(rng.uniform(0, END))
        while at < END:
            rows.append((at, f"u{number}"))
            if rng.random() < (0.01 if at < CHANGE else 0.15):
                break
            at += rng.exponential(6) + 0.5
    return sorted(rows)


@dataclass(frozen=True)
class Shop:
    """A lake of such purchases."""

    folder: Path
    features: FeatureSet

    @classmethod
    def open(cls, folder):
        rows = [
            {
                "event_id": f"e{n}",
                "type": "purchase",
                "ts": to_iso(day(at)),
                "user_id": who,
                "item_id": "i",
            }
            for n, (at, who) in enumerate(purchases())
        ]
        (folder / "history.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
        plan, stream, clock = RoutePlan(), folder / "stream", SimulatedClock(day(END))
        stream.mkdir()
        import_files(stream, "tailorbird", folder / "history.jsonl", plan=plan, clock=clock)
        with Router(stream, plan, clock=clock) as router:
            while router.step().rows:
                pass
        with LakeRole(stream, folder / "lake", clock=clock) as role:
            role.drain()
        return cls(folder, declared())

    @property
    def lake(self):
        return self.folder / "lake"

    def train(self, churn, name="registry", settings=SETTINGS):
        where = {"lake": self.lake, "registry": self.folder / name}
        return train_churn(
            self.features,
            churn,
            **where,
            clock=SimulatedClock(day(NOW)),
            settings=settings,
            promote=False,
        )

    def events(self):
        return Lake(self.lake).events(needed_columns(self.features))


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    return Shop.open(tmp_path_factory.mktemp("shop"))


@pytest.fixture(scope="module")
def report(shop):
    return shop.train(CHURN)


def off(probability, churned):
    return abs(float(np.mean(probability)) - float(np.mean(churned)))


@pytest.mark.slow
def test_a_wrong_level_is_mended_in_what_the_gate_judges(report: ChurnReport):
    cut = report.last.cut
    raw = cut.scores.raw_probabilities[cut.choice.model]
    assert cut.choice.calibrator.name != "none"
    assert off(raw, cut.churned) > 0.2
    assert off(cut.probability, cut.churned) < 0.1
    assert (
        log_losses(cut.probability, cut.churned).mean() < log_losses(raw, cut.churned).mean() - 0.1
    )
    assert cut.choice.scale < 1
    assert (
        f"calibration {cut.choice.calibrator.name}, by log loss on the next of {VALIDATION_CUTS} periods"
        in report.to_dict()["origins"][-1]["choice"]
    )
    assert len(report.cut_metrics) < CUTS_MAX, "the first ones only choose and calibrate"


@pytest.mark.slow
def test_scores_of_the_bundle_are_calibrated(shop, report: ChurnReport):
    """Compare scores with outcomes after the training, which are in the same lake."""
    bundle = ChurnBundle.load(shop.folder / "registry" / report.version, schema_hash=None)
    assert bundle.calibration.name == report.choice.calibrator.name != "none"
    scores = score_people(bundle, CHURN, lake=shop.lake, now=day(NOW)).table
    raw = score_people(
        replace(bundle, calibration=Identity()), CHURN, lake=shop.lake, now=day(NOW)
    ).table
    later = build_activity(shop.events(), CHURN, day(END))
    start, stop = day(NOW) + CHURN.gap_us, day(NOW) + CHURN.gap_us + CHURN.window_us
    churned = (
        later.count_activity(later.people.encode(scores["person"].combine_chunks()), start, stop)
        == 0
    )
    assert off(raw["gone"], churned) > 0.2
    assert off(scores["gone"], churned) < 0.1
    (hazards,) = [note for note in report.notes if "within the gap" in note]
    assert hazards.endswith(
        f"; calibration on past origins ({bundle.calibration.name}) corrects the level"
    )
    assert not [note for note in report.notes if "not calibrated" in note]


@pytest.mark.slow
def test_a_history_that_is_too_short_leaves_it_uncalibrated_and_states_it(shop):
    churn = replace(CHURN, window="112d", period="28d")
    report = shop.train(churn, "short")
    assert report.choice.calibrator.name == report.last.cut.choice.calibrator.name == "none"
    (note,) = [note for note in report.notes if note.startswith("not calibrated")]
    cuts, days = (
        cuts_to_calibrate(churn, with_judged_cut=False),
        required_history_us(churn, cuts_to_calibrate(churn, with_judged_cut=False)) // DAY,
    )
    assert (
        "of the 3 origins that it takes had people enough and began when an earlier one was over"
        in note
    )
    assert f"that takes {cuts} origins, which a history of {days} days has" in note
    assert "calibration none, as " in report.to_dict()["choice"]
    assert "hazards are read as if nobody came back within the gap" in report.notes

    def walked(days):
        activity = build_activity(between(0, days), churn, day(days))
        return len(backtest_windows(activity, churn, CUTS_MAX))

    assert walked(days - 1) == cuts - 1
    assert walked(days) == cuts


@pytest.mark.slow
def test_the_report_notes_a_calibrated_bundle_with_uncalibrated_metrics(shop):
    cuts = cuts_to_calibrate(CHURN, with_judged_cut=False)
    report = shop.train(
        CHURN, "between", replace(SETTINGS, fit=replace(SETTINGS.fit, rows=1_500), cuts=cuts)
    )
    assert report.choice.calibrator.name != "none"
    assert report.last.cut.choice.calibrator.name == "none"
    (note,) = [note for note in report.notes if note.startswith("the bundle has")]
    assert note.startswith(
        f"the bundle has {report.choice.model} calibrated by {report.choice.calibrator.name}, "
        "while the gate"
    )
    assert (
        f"judge {report.last.cut.choice.model} without calibration: by the last origin 0 of "
        "the 3 origins" in note
    )
    assert f"that takes {cuts_to_calibrate(CHURN, with_judged_cut=True)} origins" in note


@pytest.mark.slow
def test_later_events_do_not_affect_the_choice(shop):
    """Half of the people are never seen again after the last origin: what became of earlier cuts
    changes, nothing that was said does.
    """
    settings = replace(SETTINGS, fit=replace(SETTINGS.fit, rows=1_500), grid_rows=5_000)
    events = shop.events()
    events = events.filter(pa.array(micros(events["ts"]) < day(NOW)))
    origin = day(NOW) - CHURN.gap_us - CHURN.window_us
    ts, person = micros(events["ts"]), events["person"].to_pylist()
    customers_before = set(np.array(person)[ts < origin].tolist())
    lost = np.array([who in customers_before and int(who[1:]) % 2 == 0 for who in person]) & (
        ts >= origin
    )
    cuts = run_backtest(shop.features, CHURN, events, now=day(NOW), settings=settings).cuts
    other_cuts = run_backtest(
        shop.features, CHURN, events.filter(pa.array(~lost)), now=day(NOW), settings=settings
    ).cuts
    assert other_cuts[-1].scores.window.origin == cuts[-1].scores.window.origin == origin
    assert other_cuts[-1].churned.sum() > cuts[-1].churned.sum()
    assert other_cuts[-2].churned.sum() > cuts[-2].churned.sum()
    assert cuts[-1].choice.calibrator.name != "none"
    for cut, other in zip(cuts, other_cuts, strict=True):
        assert cut.choice == other.choice
        np.testing.assert_array_equal(cut.probability, other.probability)


def test_the_page_reports_how_long_a_history_it_uses():
    page = (Path(__file__).parents[4] / "docs" / "how-to" / "churn.md").read_text()
    rows = re.findall(
        r"^\| window (\d+d)(?:, gap (\d+d))?[^|]*\| (\d+) days \| (\d+) days \|$",
        page,
        re.MULTILINE,
    )
    assert len(rows) >= 3
    for window, gap, *days in rows:
        churn = Churn(window=window, gap=gap)
        required = [
            required_history_us(churn, cuts_to_calibrate(churn, with_judged_cut=with_judged_cut))
            for with_judged_cut in (False, True)
        ]
        assert [int(each) for each in days] == [-(-each // DAY) for each in required]


def between(first, last):
    """A log of two purchases."""
    at = [day(first), day(last) - 1]
    table = pa.table(
        {
            "type": ["purchase"] * 2,
            "person": ["u"] * 2,
            "ts": pa.array(at, pa.timestamp("us", "UTC")),
        }
    )
    table = table.append_column("received_at", table["ts"]).append_column(
        "timeless", pa.array([False] * 2)
    )
    for name in ("user_id", "agent"):
        table = table.append_column(name, pa.array(["u" if name == "user_id" else "person"] * 2))
    return table


@pytest.mark.parametrize("window", ["14d", "28d", "90d"])
@pytest.mark.parametrize("gap", ["", "1d", "2d", "7d", "13d"])
@pytest.mark.parametrize("period", ["", "7d", "window"])
def test_proofs_are_within_reach_at_any_gap(window, gap, period):
    """Of a history as long as `history_of` says: cuts that began when an earlier one was over, and
    that are over by then.
    """
    step = window if period == "window" or (period and window == "90d") else period
    churn = Churn(window=window, gap=gap, period=step)
    for with_judged_cut in (False, True):
        cuts = cuts_to_calibrate(churn, with_judged_cut=with_judged_cut)
        assert cuts <= CUTS_MAX
        days = -(-required_history_us(churn, cuts) // DAY)
        windows = backtest_windows(
            build_activity(between(0, days), churn, day(days)), churn, CUTS_MAX
        )
        assert len(windows) == cuts
        by = windows[-1].origin if with_judged_cut else windows[-1].stop
        over = [each for each in windows if each.stop <= by]
        proofs = [each for each in over if any(other.stop <= each.origin for other in over)]
        assert len(proofs) >= VALIDATION_CUTS
    with pytest.raises(NotReadyError):
        backtest_windows(build_activity(between(0, 1), churn, day(1)), churn, CUTS_MAX)
