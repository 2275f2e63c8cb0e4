"""The report, from a table of routed events to a verdict and a picture."""

import itertools
import math
import xml.etree.ElementTree as ElementTree

import numpy as np
import pyarrow as pa
import pytest

from tailorbird.events import MINUTE
from tailorbird.events.contract.schema import ROUTED, TIME_TYPE
from tailorbird.experiments import Experiment
from tailorbird.experiments.counts import COLUMNS
from tailorbird.experiments.drawing import report_svg
from tailorbird.experiments.report import experiment_report, report_from_events

TEST = Experiment("home-model", arms={"popular": 0.5, "model": 0.5})
START = 1_790_000_000_000_000
ITEMS = ["a", "b", "c", "d"]
REQUESTS = itertools.count()


def table(rows):
    return pa.table(
        {
            name: pa.array([row.get(name) for row in rows], ROUTED.field(name).type)
            for name in COLUMNS
        }
    )


def event(kind, person, arm, ts=START, **more):
    row = {
        "type": kind,
        "ts": ts,
        "person": person,
        "agent": "person",
        "slot": "home",
        "experiment": TEST.name,
        "arm": arm,
    }
    return row | ({"items": ITEMS} if kind in ("answer", "impression") else {"item_id": "a"}) | more


def visits(person, arm, clicks, lists=5, **more):
    """Answers, each seen whole, and clicks on as many of their items."""
    requests = [f"r{next(REQUESTS)}" for _ in range(lists)]
    rows = [
        event(kind, person, arm, request_id=request, **more)
        for request in requests
        for kind in ("answer", "impression")
    ]
    places = list(itertools.product(requests, enumerate(ITEMS, 1)))
    return rows + [
        event("click", person, arm, request_id=request, item_id=item, position=position, **more)
        for request, (position, item) in places[:clicks]
    ]


def experiment(rates, people=400, seed=0):
    rng = np.random.default_rng(seed)
    rows = []
    for arm, rate in rates.items():
        for person in range(people):
            lists = int(rng.integers(1, 8))
            rows += visits(
                f"{arm}-{person}", arm, int(rng.binomial(lists * len(ITEMS), rate)), lists
            )
    return rows


def test_figures_of_the_arms():
    rows = (
        visits("u1", "popular", 2)
        + visits("u2", "popular", 0)
        + visits("u3", "model", 3)
        + [event("purchase", "u3", "model", START + 1)]
    )
    popular, model = report_from_events(table(rows), TEST, "home").arms
    assert (popular.arm, popular.users, popular.impressions, popular.clicks, popular.ctr) == (
        "popular",
        2,
        40,
        2,
        0.05,
    )
    assert (
        model.arm,
        model.users,
        model.impressions,
        model.clicks,
        model.purchases,
        model.conversion,
    ) == ("model", 1, 20, 3, 1, 1.0)


def test_answers_as_denominator():
    rows = [
        event(kind, "u1", "popular", request_id="r", position=1) for kind in ("answer", "click")
    ]
    assert report_from_events(table(rows), TEST, "home", denominator="answer").arms[0].ctr == 0.25


def test_a_better_arm_is_called_better():
    report = report_from_events(table(experiment({"popular": 0.05, "model": 0.08})), TEST, "home")
    assert report.low > 0
    assert report.low < 0.6 < report.high
    assert report.p < 0.001
    assert report.verdict.startswith("model beats popular: +")
    assert report.comparisons[0].always_low < report.low


@pytest.mark.parametrize(("level", "z"), [(0.8, 1.281552), (0.95, 1.959964), (0.99, 2.575829)])
def test_the_interval_of_an_arm_has_the_level_that_was_requested(level, z):
    popular = report_from_events(
        table(experiment({"popular": 0.05, "model": 0.08})), TEST, "home", level=level
    ).arms[0]
    usual = report_from_events(
        table(experiment({"popular": 0.05, "model": 0.08})), TEST, "home"
    ).arms[0]
    assert popular.ctr_high - popular.ctr == pytest.approx(
        (usual.ctr_high - usual.ctr) * z / 1.959964, rel=1e-5
    )
    assert popular.ctr - popular.ctr_low == pytest.approx(popular.ctr_high - popular.ctr)


def test_no_difference_is_not_called_one():
    report = report_from_events(table(experiment({"popular": 0.05, "model": 0.05})), TEST, "home")
    assert report.low < 0 < report.high
    assert "No difference between model and popular is shown" in report.verdict


def test_a_broken_split_is_first_in_the_verdict():
    rows = experiment({"popular": 0.05, "model": 0.08}, people=300) + experiment(
        {"model": 0.08}, people=420, seed=1
    )
    report = report_from_events(table(rows), TEST, "home")
    assert report.srm_p < 0.001
    assert report.verdict.startswith("Do not trust this yet: the split of users (300 and 420)")


def test_persons_in_both_arms_are_reported_and_left_out():
    rows = experiment({"popular": 0.05, "model": 0.08}, people=50)
    both = visits("both", "popular", 20) + visits("both", "model", 0)
    with_them, without = (
        report_from_events(table(rows + both), TEST, "home"),
        report_from_events(table(rows), TEST, "home"),
    )
    assert with_them.multiple_exposures == 1
    assert with_them.uplift == without.uplift
    assert with_them.persons == without.persons + 1


def test_crawlers_other_slots_and_other_experiments_do_not_count():
    rows = visits("u1", "popular", 1)
    noise = visits("bot", "popular", 9, agent="bot") + visits("u2", "popular", 9, slot="search")
    noise += visits("u3", "popular", 9, experiment="another") + visits(
        "u4", None, 9, slot=None, experiment=None
    )
    assert report_from_events(table(rows + noise), TEST, "home").arms[0].clicks == 1


def test_the_lake_is_queried_for_the_time_and_rows_outside_it_are_dropped():
    class Days:  # a lake that prunes by whole days, as partitions do
        def events(self, columns=None, ts_from=None, ts_to=None):
            self.asked = (ts_from, ts_to)
            return table(
                visits("u1", "popular", 1) + visits("u1", "popular", 5, ts=START + 10)
            ).select(list(columns))

    lake = Days()
    report = experiment_report(lake, TEST, "home", START, START + 10)
    assert lake.asked == (
        START - 30 * MINUTE,
        START + 10,
    )  # with the answers that the first clicks belong to
    assert report.arms[0].clicks == 1


def test_an_empty_experiment_states_what_to_do():
    report = report_from_events(table([]), TEST, "home")
    assert math.isnan(report.uplift)
    assert "Nobody has been in this experiment yet" in report.verdict
    ElementTree.fromstring(report_svg(report))


def test_several_treatments_get_wider_intervals():
    three = Experiment(TEST.name, arms={"popular": 0.4, "model": 0.3, "recent": 0.3})
    rows = experiment({"popular": 0.05, "model": 0.08, "recent": 0.05})
    alone, among = (
        report_from_events(table(rows), TEST, "home"),
        report_from_events(table(rows), three, "home"),
    )
    assert [comparison.arm for comparison in among.comparisons] == ["model", "recent"]
    assert among.low < alone.low


@pytest.mark.parametrize("name", ["model", '<img src=x onerror="alert(1)">'])
def test_pictures_are_well_formed_and_escape_names(name):
    odd = Experiment(TEST.name, arms={"popular": 0.5, name: 0.5})
    report = report_from_events(
        table(experiment({"popular": 0.05, name: 0.08}, people=100)), odd, "home"
    )
    ElementTree.fromstring(report_svg(report))
    ElementTree.fromstring(report._repr_html_())
    assert "<img" not in report._repr_html_()


def test_times_are_those_of_the_schema():
    assert table(visits("u1", "popular", 1)).schema.field("ts").type == TIME_TYPE
