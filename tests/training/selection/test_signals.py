"""Feature selection on a simulated shop's rows with planted columns."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from tests.support.training.shop import HOME, Shop

from tailorbird.errors import NotReadyError, UsageError
from tailorbird.events import DAY, HOUR, SimulatedClock
from tailorbird.events.contract.plan import EVENT_TYPES
from tailorbird.lake import Lake
from tailorbird.training.evaluation.bootstrap import Interval
from tailorbird.training.fit.resume import UnfinishedRun
from tailorbird.training.report.serving_cost import (
    count_request_bytes,
    drop_declarations,
    measure_costs,
)
from tailorbird.training.selection.binning import (
    entropy,
    learn_bins,
    mutual_information,
    population_stability,
)
from tailorbird.training.selection.column_signals import RankSettings
from tailorbird.training.selection.redundancy import find_clusters
from tailorbird.training.selection.shuffles import shuffle_across_requests, shuffle_within_requests
from tailorbird.training.selection.signal_rows import gather_signal_rows
from tailorbird.training.selection.signals import rank_loaded_columns, rank_signals
from tailorbird.training.selection.signals_page import write_signals
from tailorbird.training.selection.verdicts import (
    REQUESTS_MIN,
    Signal,
    assign_verdicts,
    mark_significant_at_fdr,
)
from tailorbird.training.settings import TrainSettings

pytestmark = pytest.mark.slow

SETTINGS = RankSettings(requests=2_000, nulls=12)
NOISE = ("noise_1", "noise_2", "noise_3", "noise_4", "noise_of_request")


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    return Shop.open(tmp_path_factory.mktemp("shop"))


@pytest.fixture(scope="module")
def ground(shop):
    settings = TrainSettings(requests=SETTINGS.requests, test_requests=SETTINGS.requests)
    return gather_signal_rows(
        shop.features, HOME, "click", Lake(shop.lake), shop.clock.now(), settings
    )


@pytest.fixture(scope="module")
def report(shop, ground, tmp_path_factory):
    unfinished = UnfinishedRun(tmp_path_factory.mktemp("out") / "unfinished", {}, shop.clock.now())
    return rank_loaded_columns(
        with_planted_columns(ground), shop.features, Lake(shop.lake), unfinished, "click", SETTINGS
    )


@pytest.fixture(scope="module")
def signals(report):
    return {one.name: one for one in report.signals}


def with_planted_columns(ground):
    """The same rows with noise, a column that tells something, its copy, one that drifts, and two
    that know the answer.
    """
    begin, span = ground.train.t[0], ground.train.t[-1] - ground.train.t[0]

    def more(rows, seed):
        rng = np.random.default_rng(seed)
        n, request = len(rows.label), rows.request_index
        columns = [
            *rng.normal(size=(3, n)),
            rng.integers(0, 5, n),
            rng.normal(size=rows.request_count)[request],
        ]
        telling = rng.normal(size=n) + 0.8 * rows.label
        columns += [telling, 2.0 * telling + 1.0]
        columns.append(rng.normal(size=n) + 3 * ((rows.t - begin) / span)[request])
        columns += [rows.label, np.where(rows.label, 1.0, np.nan)]
        return replace(
            rows, matrix=np.hstack([rows.matrix, np.stack(columns, axis=1).astype(np.float32)])
        )

    parts = {
        name: more(getattr(ground, name), seed)
        for seed, name in enumerate(("train", "validation", "selection", "test"))
    }
    return replace(
        ground,
        column_names=(
            *ground.column_names,
            *NOISE,
            "telling",
            "again",
            "drifting",
            "label_copied",
            "there_when_clicked",
        ),
        **parts,
    )


def test_noise_is_called_null_and_left_out(report, signals):
    for name in NOISE:
        assert signals[name].verdict == "null", signals[name]
        assert (
            signals[name].importance.low <= 0 <= signals[name].importance.high
            or abs(signals[name].importance.value) < 0.005
        )
        assert abs(signals[name].bits_z) < 4
    assert set(NOISE) <= set(report.subset.removed_columns)


def test_ordering_columns_carry_information(signals):
    assert signals["item_ctr_7d"].bits > 0
    assert signals["item_ctr_7d"].bits_z > 5
    assert signals["telling"].bits > signals["item_ctr_7d"].bits


def test_a_copy_is_in_its_cluster_and_one_stands_for_the_other(report, signals):
    pair = [signals["telling"], signals["again"]]
    assert pair[0].cluster == pair[1].cluster != 0
    assert sorted(one.verdict for one in pair) == ["redundant", "signal"]
    assert any(one.kept for one in pair)
    assert "redundant" in {step.reason for step in report.subset.steps}
    # Each stands for the other, so only together do they show what they are worth.
    assert pair[0].cluster_importance.value > max(one.importance.value for one in pair)


def test_a_drifting_column_is_flagged_and_steady_noise_is_not(signals):
    assert signals["drifting"].is_unstable
    assert signals["drifting"].period_drifts[-1] == max(signals["drifting"].period_drifts)
    assert not signals["drifting"].kept
    assert not any(signals[name].is_unstable for name in NOISE[:4])


def test_a_column_that_knows_the_answer_is_called_a_leak_and_no_model_sees_it(report, signals):
    for name in ("label_copied", "there_when_clicked"):
        assert signals[name].verdict == "too good: leak?"
        assert "AUC of 1.000" in signals[name].why
        assert not np.isfinite(signals[name].importance.value)
        assert name in report.subset.removed_columns
        assert any(name in note for note in report.notes)
    assert report.subset.full_metric.value < 0.95


def test_request_columns_are_distinguished_from_item_columns(signals):
    assert all(
        signals[name].is_request_level for name in ("device", "user_clicks_7d", "noise_of_request")
    )
    assert not any(
        signals[name].is_request_level
        for name in ("item_ctr_7d", "user_category_ctr_28d", "noise_1")
    )


def test_the_loss_is_measured_on_unseen_requests(report):
    parts = report.about["parts"]
    assert parts["train"]["to"] <= parts["validation"]["from"] <= parts["selection"]["from"]
    assert parts["selection"]["to"] <= parts["test"]["from"]
    subset = report.subset
    assert subset.loss.value == pytest.approx(subset.full_metric.value - subset.subset_metric.value)
    assert subset.loss.low < subset.loss.value < subset.loss.high
    assert {*subset.kept_columns, *subset.removed_columns} == {one.name for one in report.signals}
    assert subset.about["request_bytes_subset"] < subset.about["request_bytes"]
    assert subset.about["read_us"] > 0


def test_the_page_has_all_in_one_file(report, tmp_path):
    page, image = write_signals(tmp_path, report, ["tailorbird train --leave-out <noise>"])
    text = page.read_text()
    assert text.count("<svg") == 3
    assert "--leave-out &lt;noise&gt;" in text
    assert "too good: leak?" in text
    assert image.read_bytes()[:4] == b"\x89PNG"
    assert (tmp_path / "signals.json").stat().st_size > 1_000


class _Cut(Exception):
    pass


def test_an_interrupted_run_resumes_with_the_same_result(shop, tmp_path):
    settings = RankSettings(window_us=4 * DAY, requests=400, nulls=4, fits=1)

    def run(out, progress=lambda stage, done, total: None, clock=shop.clock):
        folders = {"lake": shop.lake, "clock": clock, "out": out}
        return rank_signals(shop.features, HOME, **folders, settings=settings, progress=progress)

    def cut(stage, done, total):
        if stage == "null fits" and done == 3:
            raise _Cut

    seen = []
    with pytest.raises(_Cut):
        run(tmp_path / "cut", cut)
    later = SimulatedClock(shop.clock.now() + DAY)
    resumed = run(tmp_path / "cut", lambda stage, done, total: seen.append(stage), clock=later)
    assert "read" not in seen
    uninterrupted = run(tmp_path / "whole")
    measured = {"finish_us"}
    reports = [
        [{k: v for k, v in one.to_dict().items() if k not in measured} for one in each.signals]
        for each in (resumed, uninterrupted)
    ]
    assert reports[0] == reports[1]
    assert not (tmp_path / "cut" / "unfinished").exists()


def test_too_few_outcomes_raise(shop, tmp_path):
    short = RankSettings(window_us=DAY + 4 * HOUR, rows="answers")
    for _ in range(2):  # the second try goes on with nothing of the first
        with pytest.raises(
            NotReadyError, match=r"click happened in \d+, and at least 240 are needed"
        ):
            rank_signals(
                shop.features, HOME, lake=shop.lake, clock=shop.clock, out=tmp_path, settings=short
            )
        assert [path.name for path in tmp_path.iterdir()] == ["unfinished.lock"]
    with pytest.raises(UsageError, match="'clck' is no event type"):
        rank_signals(
            shop.features, HOME, lake=shop.lake, clock=shop.clock, out=tmp_path, target="clck"
        )


def test_shuffles_keep_values_where_they_belong():
    rng = np.random.default_rng(0)
    offsets = np.array([0, 3, 4, 8])
    request = np.repeat([0, 1, 2], [3, 1, 4])
    inside = shuffle_within_requests(request, rng)
    assert sorted(inside) == list(range(8))
    assert (request[inside] == request).all()
    across = shuffle_across_requests(offsets, rng)
    assert all(len(set(across[low:high])) == 1 for low, high in pairwise(offsets))
    assert sorted(set(across)) == [0, 3, 4]


def test_bins_are_constant_and_know_what_is_missing():
    bins = learn_bins(np.array([1.0, 1, 1, 2, 3, np.nan]))
    assert bins.assign(np.array([np.nan, 0, 1, 2, 3, 9])).tolist() == [0, 1, 1, 2, 3, 3]
    codes = learn_bins(np.array([0.0, 2, 2, 3, 3, 3, 7]), is_categorical=True, bins_max=3)
    assert codes.assign(np.array([0.0, 2, 3, 7, 50])).tolist() == [0, 2, 3, 1, 1]
    constant = learn_bins(np.full(9, 5.0))
    assert len(set(constant.assign(np.array([4.0, 5.0, 6.0])).tolist())) == 3


def test_information_and_drift_match_analytic_values():
    half = np.array([0, 0, 1, 1])
    assert mutual_information(half, half, 2, 2) == pytest.approx(1.0)
    assert mutual_information(half, np.array([0, 1, 0, 1]), 2, 2) == pytest.approx(0.0)
    assert entropy(half, 2) == pytest.approx(1.0)
    same, other = np.repeat([0, 1], 500), np.repeat([0, 1], [100, 900])
    assert population_stability(same, same, 2) == pytest.approx(0.0)
    assert population_stability(same, other, 2) == pytest.approx(
        0.4 * np.log(1.8 / 0.2), rel=0.02
    )  # Σ (q − p) ln(q / p)


def test_clusters_see_through_monotone_changes_and_missing_values():
    rng = np.random.default_rng(1)
    x = rng.normal(size=4_000)
    codes = rng.integers(2, 6, 4_000)
    holes = np.where(rng.random(4_000) < 0.7, np.nan, x)
    other_names = np.array([0, 0, 5, 4, 2, 3])[codes]
    matrix = np.stack(
        [x, np.exp(-x), rng.normal(size=4_000), holes, codes, other_names], axis=1
    ).astype(np.float32)
    clusters = find_clusters(matrix, [4, 5])
    assert clusters.groups() == [[0, 1], [4, 5]]
    assert clusters.nearness[0, 3] == pytest.approx(0.3, abs=0.05)


def test_of_many_figures_few_are_beyond_chance():
    clear, border = Interval(0.010, 0.006, 0.014), Interval(0.010, 0.0001, 0.0199)
    assert mark_significant_at_fdr([clear, border]) == [True, True]
    assert mark_significant_at_fdr([clear, border, *[Interval(0.0, -0.01, 0.01)] * 20])[:2] == [
        True,
        False,
    ]


def test_few_requests_leave_columns_undecided():
    def column(name, low, high):
        importance = Interval((low + high) / 2, low, high)
        return Signal(
            name,
            "numeric",
            "item",
            "",
            False,
            importance,
            0.1,
            0.0,
            False,
            0.0,
            0.0,
            0.0,
            (),
            0.0,
            8,
            8,
            1.0,
        )

    noise = [column(f"noise_{n}", -0.002, 0.003) for n in range(20)]
    wide, clear = column("wide", 0.001, 0.060), column("clear", 0.02, 0.03)

    def verdicts(requests):
        return {
            one.name: (one.verdict, one.kept)
            for one in assign_verdicts([wide, clear, *noise], {}, requests)
        }

    undecided = ("too few requests to decide", True)
    assert verdicts(REQUESTS_MIN) == {"wide": undecided, "clear": ("signal", True)} | {
        one.name: ("null", True) for one in noise
    }
    assert verdicts(REQUESTS_MIN - 1) == {"wide": undecided, "clear": ("signal", True)} | {
        one.name: undecided for one in noise
    }


def test_what_a_column_costs_is_what_only_it_needs(shop):
    column_costs = measure_costs(shop.features, EVENT_TYPES)
    total_bytes = count_request_bytes(shop.features)
    fewer, stay = drop_declarations(shop.features, ["item_clicks_1d"], EVENT_TYPES)
    assert stay == ()
    assert (
        total_bytes - count_request_bytes(fewer) == column_costs["item_clicks_1d"].request_bytes > 0
    )
    assert column_costs["price"].request_bytes == 0  # price_to_habit is derived from it
    assert drop_declarations(shop.features, ["price"], EVENT_TYPES)[1] == ("price",)
    assert all(cost.finish_us > 0 for cost in column_costs.values())
