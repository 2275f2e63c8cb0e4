"""Tuning on a simulated shop: what it promises of trials, of splits, of what is taken, and of a run
that was killed.
"""

import json
import os
import re
import signal
import subprocess
import sys
import time
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tests.support.commands import (
    assert_refused,
    environment,
    make_small_shop,
    must_json,
    tailorbird,
)
from tests.support.training.shop import HOME, Shop

from tailorbird.errors import ConfigError, LockedError, NotReadyError, UsageError
from tailorbird.events import DAY, SimulatedClock
from tailorbird.models.gbdt import GbdtSettings
from tailorbird.models.space import Choices, Range
from tailorbird.ranking import Slot
from tailorbird.training.fit.resume import hold_exclusive
from tailorbird.training.settings import TrainSettings
from tailorbird.training.tuning.architectures import select_architectures, tunable_gbdt_defaults
from tailorbird.training.tuning.choose import select_finalists
from tailorbird.training.tuning.fits import FitResult, FitSpec
from tailorbird.training.tuning.page import write_tuning
from tailorbird.training.tuning.run import TuneReport, tune
from tailorbird.training.tuning.settings import TuneSettings
from tailorbird.training.tuning.space import SearchSpace, override_spaces
from tailorbird.training.tuning.study import Budget, Search, open_journal
from tailorbird.training.tuning.tuned import apply_tuned, build_tuned, write_tuned

pytestmark = pytest.mark.slow

SMALL = TrainSettings(quick=True, gbdt=GbdtSettings(trees=25))
SETTINGS = TuneSettings(train=SMALL, trials=10, splits=2, seeds=2, finalists=2, judged=400)
SPACE = {
    "gbdt": SearchSpace(
        {"leaves": Range(3, 31, log=True), "rate": Range(0.001, 0.2, log=True)},
        {},
        tunable_gbdt_defaults(),
    )
}


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    return Shop.open(tmp_path_factory.mktemp("shop"))


def tuned(shop, out, settings=SETTINGS, clock=None, *, is_extended=False):
    return tune(
        shop.features,
        HOME,
        lake=shop.lake,
        clock=clock or shop.clock,
        out=out,
        settings=settings,
        spaces=SPACE,
        extend=is_extended,
    )


@pytest.fixture(scope="module")
def report(shop, tmp_path_factory):
    return tuned(shop, tmp_path_factory.mktemp("out"))


def of_trials(report: TuneReport):
    """Return the parts of trials that do not depend on timing."""
    return [{**one, "seconds": 0} for one in report.to_dict()["trials"]]


def test_the_first_trial_is_the_defaults_and_bad_ones_are_given_up(report: TuneReport):
    trials = report.trials["gbdt"]
    assert len(trials) == 10
    assert trials[0].is_default
    assert dict(trials[0].settings) == tunable_gbdt_defaults()
    assert not any(one.is_default for one in trials[1:])
    assert {one.state for one in trials} == {"complete", "pruned"}
    for one in trials:
        assert len(one.split_scores) == (2 if one.state == "complete" else 1)
        assert one.state == "pruned" or one.value == pytest.approx(np.mean(one.split_scores))
    # given up are those that did worse on the first split than most had done that went on to the
    # end by then
    for place, one in enumerate(trials):
        if one.state == "pruned":
            assert one.split_scores[0] <= np.median(
                [other.split_scores[0] for other in trials[:place] if other.state == "complete"]
            )


def test_the_defaults_are_among_the_last_few_and_are_replaced_only_beyond_the_spread(
    report: TuneReport,
):
    choice = report.choice
    assert choice.reference.trial.is_default
    assert choice.reference.gain == pytest.approx(0)
    assert choice.reference in choice.finalists
    assert len(choice.finalists) == 3
    for one in choice.finalists:
        assert one.ndcg.shape == (2, 2)
        assert one.gain == pytest.approx(
            float((one.ndcg - choice.reference.ndcg.mean(axis=1, keepdims=True)).mean())
        )
    best = max(
        (one for one in choice.finalists if one is not choice.reference), key=lambda one: one.score
    )
    assert choice.winner is (best if best.score > 0 else choice.reference)
    assert bool(report.settings) == (choice.winner is not choice.reference)


def test_each_of_the_last_few_reports_how_it_does_for_the_long_tail(report: TuneReport, tmp_path):
    for one in report.choice.finalists:
        assert 0 < one.long_tail.low < one.long_tail.value < one.long_tail.high < 1
        fields = one.to_dict()
        assert fields["ndcg_10_long_tail"] == pytest.approx(one.long_tail.value, abs=1e-6)
        assert (
            fields["gain_long_tail_low"]
            <= fields["gain_long_tail"]
            <= fields["gain_long_tail_high"]
        )
        assert one.long_tail.value != pytest.approx(float(one.ndcg.mean()), abs=1e-4), (
            "most choices are of few items"
        )
        assert f"{one.long_tail.value:.4f}" in write_tuning(tmp_path, report, []).read_text()
    assert report.choice.reference.long_tail_gain.value == 0


def test_the_test_part_is_not_read(shop, tmp_path, report: TuneReport):
    """With what training would judge on there or not there, everything comes out the same."""
    border = shop.clock.now() - 2 * DAY
    settings_until = replace(
        SMALL, validation_from=border - DAY, test_from=border, lateness_us=0, window_us=8 * DAY
    )
    reports = []
    for name, later in (("sooner", DAY), ("later", 0)):
        train = replace(settings_until, window_us=settings_until.window_us - later)
        clock = SimulatedClock(shop.clock.now() - later)
        reports.append(
            tuned(shop, tmp_path / name, replace(SETTINGS, train=train, trials=3, seeds=1), clock)
        )
    assert of_trials(reports[0]) == of_trials(reports[1])
    for one in report.about["splits"]:
        assert (
            one["learned_until"]
            <= one["judged_from"]
            <= one["judged_to"]
            < report.about["test_from"]
        )
    origins = [one["learned_until"] for one in report.about["splits"]]
    assert origins == sorted(set(origins))


@pytest.mark.nightly
def test_the_same_seed_gives_the_same_trials_and_another_seed_does_not(
    shop, tmp_path, report: TuneReport
):
    again = tuned(shop, tmp_path / "again")
    assert of_trials(again) == of_trials(report)
    assert again.to_dict()["chosen"] == report.to_dict()["chosen"]
    other = tuned(shop, tmp_path / "other", replace(SETTINGS, seed=8, trials=2, seeds=1))
    assert other.trials["gbdt"][1].settings != report.trials["gbdt"][1].settings


def test_a_finished_study_continues_with_more_and_restarts_otherwise(shop, tmp_path):
    few = replace(SETTINGS, trials=3, seeds=1)
    with pytest.raises(UsageError, match="there is no study here"):
        tuned(shop, tmp_path, few, is_extended=True)
    first = tuned(shop, tmp_path, few)
    extended = tuned(shop, tmp_path, replace(few, trials=5), is_extended=True)
    assert extended.resumed
    assert of_trials(extended)[:3] == of_trials(first)
    assert len(extended.trials["gbdt"]) == 5
    assert not tuned(shop, tmp_path, few).resumed
    with pytest.raises(UsageError, match="of other settings"):
        tuned(shop, tmp_path, replace(few, splits=3), is_extended=True)


@pytest.mark.nightly
def test_random_and_halving_and_several_processes(shop, tmp_path):
    settings = replace(SETTINGS, sampler="random", pruner="halving", workers=2, trials=5, seeds=1)
    report = tuned(shop, tmp_path, settings)
    trials = report.trials["gbdt"]
    assert len(trials) == 5
    assert trials[0].is_default
    alone = tuned(shop, tmp_path / "alone", replace(settings, workers=1, pruner="none"))
    assert all(one.state == "complete" for one in alone.trials["gbdt"])
    # random draws do not depend on who fits, and fits do not depend on where they are done
    assert [one.settings for one in trials] == [one.settings for one in alone.trials["gbdt"]]
    assert trials[0].split_scores == alone.trials["gbdt"][0].split_scores


class Fitted:
    """Two workers; with `killed`, the first fit goes on for ever, and the run is cut short when it
    asks for the third trial.
    """

    workers = 2

    def __init__(self, killed: bool) -> None:
        self.killed, self.submitted = killed, 0

    def submit(self, fit: FitSpec) -> "Future[FitResult]":
        done: Future[FitResult] = Future()
        self.submitted += 1
        if self.killed and self.submitted > 2:
            raise KeyboardInterrupt
        if not self.killed or self.submitted > 1:
            done.set_result(
                FitResult(np.array([float(fit.settings["rate"])]), np.array([0.1]), 1.0)
            )
        return done


def test_what_several_processes_were_at_when_they_were_killed_is_drawn_again_the_defaults_above_all(
    tmp_path,
):
    def search(fits):
        (one,) = select_architectures(("gbdt",))
        return Search(
            open_journal(tmp_path),
            one,
            SPACE["gbdt"],
            {"leaves": 5, "rate": 0.03},
            [0],
            fits,
            "random",
            "none",
            7,
        )

    budget = Budget(trials=4, seconds=0.0)
    with pytest.raises(KeyboardInterrupt):
        search(Fitted(killed=True)).run(budget, lambda trials, seconds: None)
    cut = search(Fitted(killed=False))
    assert [one.is_default for one in cut.list_trials()] == [False]
    cut.run(budget, lambda trials, seconds: None)
    trials = cut.list_trials()
    assert [one.is_default for one in trials].count(True) == 1
    assert len({one.settings["rate"] for one in trials}) == len(trials) == 4, (
        "nothing was drawn twice"
    )


def test_a_budget_of_time_ends_the_search_and_the_defaults_are_always_tried(shop, tmp_path):
    report = tuned(shop, tmp_path, replace(SETTINGS, trials=0, seconds=1e-6, seeds=1))
    assert [one.is_default for one in report.trials["gbdt"]] == [True]
    assert report.settings == {}
    assert "no trial was fitted" in report.choice.why
    with pytest.raises(UsageError, match="has no end"):
        TuneSettings(trials=0)


def test_a_trial_that_cannot_be_fitted_is_reported_and_the_search_continues(shop, tmp_path):
    broken = {
        "gbdt": SearchSpace(
            {"objective": Choices(("nonsense", "binary"))}, {}, tunable_gbdt_defaults()
        )
    }
    report = tune(
        shop.features,
        HOME,
        lake=shop.lake,
        clock=shop.clock,
        out=tmp_path,
        settings=replace(SETTINGS, trials=6, seeds=1),
        spaces=broken,
    )
    failed = [one for one in report.trials["gbdt"] if one.state == "failed"]
    assert failed
    assert all("unknown objective" in one.why for one in failed)
    assert len(report.trials["gbdt"]) == 6


def test_every_architecture_is_among_the_last_few(report: TuneReport):
    mine = report.trials["gbdt"]
    other_trials = tuple(replace(one, architecture="other", value=one.value - 1) for one in mine)
    last = select_finalists({"gbdt": mine, "other": other_trials}, 3)
    assert [(one.architecture, one.is_default) for one in last] == [
        ("gbdt", True),
        ("other", True),
        ("gbdt", False),
        ("other", False),
        ("gbdt", False),
    ]


def test_one_split_under_one_seed_reports_no_spread_so_that_the_defaults_stay(shop, tmp_path):
    report = tuned(shop, tmp_path, replace(SETTINGS, trials=3, splits=1, seeds=1))
    assert len(report.choice.finalists) > 1
    assert report.choice.winner.trial.is_default
    assert (
        "on one split under one seed, which does not tell how much it varies" in report.choice.why
    )


def test_an_expected_amount_is_not_tuned_and_it_is_stated(shop, tmp_path):
    few = replace(SETTINGS, trials=1, splits=1, seeds=1, finalists=1)
    arguments = {
        "lake": shop.lake,
        "clock": shop.clock,
        "out": tmp_path / "out",
        "settings": few,
        "spaces": SPACE,
    }
    report = tune(shop.features, Slot("home", formula="click + 0.002*dwell_s"), **arguments)
    assert report.about["untuned"].startswith(
        "dwell_s: trials are ordered and judged by the rest of the formula"
    )
    assert (
        "dwell_s: trials are ordered" in write_tuning(tmp_path / "reports", report, []).read_text()
    )
    with pytest.raises(
        UsageError,
        match="slot home asks for nothing but dwell_s, an expected amount, of which nothing is "
        "tuned",
    ):
        tune(shop.features, Slot("home", formula="dwell_s"), **arguments)


def test_too_little_data_is_reported(shop, tmp_path):
    with pytest.raises(NotReadyError, match="requests with something to find to judge by"):
        tuned(shop, tmp_path, replace(SETTINGS, splits=60))


def test_the_page_has_history_importance_and_parallel_coordinates(report: TuneReport, tmp_path):
    page = write_tuning(tmp_path, report, ["Do this:", "  tailorbird train <home>"])
    text = page.read_text()
    assert "Settings of complete trials" in text
    assert "given up early" in text
    assert "10 trials" in text
    assert "tpe, median, 7" in text
    assert "<code>tailorbird train &lt;home&gt;</code>" in text
    assert set(re.findall(r"https?://([\w.]+)", text)) <= {
        "www.w3.org",
        "purl.org",
        "matplotlib.org",
        "creativecommons.org",
    }
    assert json.loads(page.with_suffix(".json").read_text())["slot"] == "home"


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    return make_small_shop(tmp_path_factory.mktemp("cli") / "shop")


WORDS = ("tune", "--quick", "--splits", 2, "--seeds", 1, "--trials", 6, "--as-of", "latest")


def test_a_run_that_was_killed_continues_to_the_same_end(project):
    journal = project / "data" / "tune" / "home" / "unfinished" / "study.log"
    command = [sys.executable, "-m", "tailorbird", "-C", str(project), *map(str, WORDS)]
    run = subprocess.Popen(
        command, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 120
    # operation 6 of the journal: a trial got its state; by the third, one is in the middle
    while not journal.exists() or journal.read_text().count('"op_code":6') < 3:
        assert run.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.kill(run.pid, signal.SIGKILL)
    run.wait()
    with journal.open("ab") as file:
        file.write(b'{"op_code":4,"worker')  # a line that was half written
    killed = must_json("-C", project, *WORDS)
    assert killed["resumed"]
    uninterrupted = must_json("-C", project, *WORDS)
    assert not uninterrupted["resumed"]

    def trials(report):
        return [
            {name: value for name, value in one.items() if name != "seconds"}
            for one in report["trials"]
        ]

    assert trials(killed) == trials(uninterrupted)
    assert {**killed["chosen"], "why": ""} == {**uninterrupted["chosen"], "why": ""}


def test_training_uses_what_was_chosen_until_it_is_removed(project):
    (project / "tune.toml").write_text("[gbdt]\nleaves = {low = 3, high = 15}\nrate = 0.11\n")
    report = must_json("-C", project, *WORDS, "--sampler", "random")
    assert {one["settings"]["rate"] for one in report["trials"][1:]} == {0.11}
    assert report["trials"][0]["settings"]["rate"] == 0.03
    (project / "tune.toml").unlink()

    path = project / "tuned.toml"
    path.write_text(
        '[home]\narchitecture = "gbdt"\nuntil = '
        '"2999-01-01T00:00:00Z"\n[home.settings]\nleaves = 3\ncolumn_share = 0.9\n'
    )
    try:
        taken = must_json("-C", project, "train", "--quick", "--as-of", "latest")
        assert any(
            "as tuned on what came before 2999" in note and "reaches into the test part" in note
            for note in taken["notes"]
        )
        untuned = must_json("-C", project, "train", "--quick", "--as-of", "latest", "--untuned")
        assert untuned["about"]["tuned"] == "no"
        assert untuned["results"]["tailorbird"] != taken["results"]["tailorbird"]
    finally:
        path.unlink()


def test_what_was_chosen_is_read_as_it_was_written(tmp_path):
    path = tmp_path / "tuned.toml"
    assert apply_tuned(SMALL, "home", path) == SMALL
    write_tuned(
        path,
        "home",
        build_tuned("gbdt", {"leaves": 3, "rate": 0.1, "objective": "lambdarank"}, DAY, "+0.01"),
    )
    write_tuned(path, 'another "slot"', build_tuned("gbdt", {"leaves": 9}, DAY, ""))
    settings_read = apply_tuned(SMALL, "home", path)
    assert (
        settings_read.gbdt.leaves,
        settings_read.gbdt.rate,
        settings_read.gbdt.objective,
        settings_read.gbdt.trees,
    ) == (3, 0.1, "lambdarank", SMALL.gbdt.trees)
    assert settings_read.tuned_until == DAY
    assert apply_tuned(SMALL, 'another "slot"', path).gbdt.leaves == 9
    text = path.read_text()
    for old, new, message in (
        ("leaves = 3", "leafs = 3", "trees have no setting 'leafs'"),
        ("leaves = 3", 'leaves = "3"', "leaves: expected a int"),
        ('architecture = "gbdt"', 'architecture = "tree"', "does not know 'tree'"),
        ("1970-01-02T00:00:00.000000Z", "yesterday", "expected a time"),
        ("[home]", "[home", "cannot be read"),
    ):
        path.write_text(text.replace(old, new))
        with pytest.raises(ConfigError, match=message):
            apply_tuned(SMALL, "home", path)


def test_nets_are_tuned_next_to_trees_with_the_same_budget(shop, tmp_path):
    pytest.importorskip("torch")
    settings = replace(
        SETTINGS,
        architecture_names=("gbdt", "dcn"),
        trials=2,
        seeds=1,
        splits=1,
        pruner="none",
        judged=200,
    )
    settings = replace(settings, train=replace(SMALL, requests=1_500))
    report = tune(
        shop.features, HOME, lake=shop.lake, clock=shop.clock, out=tmp_path, settings=settings
    )
    assert {
        name: [one.state for one in each] for name, each in report.trials.items()
    } == dict.fromkeys(("gbdt", "dcn"), ["complete"] * 2)
    assert [one.is_default for one in report.trials["dcn"]] == [True, False]
    assert {one.trial.architecture for one in report.choice.finalists} == {"gbdt", "dcn"}
    path = tmp_path / "tuned.toml"
    write_tuned(path, "home", build_tuned("dcn", report.trials["dcn"][1].settings, DAY, ""))
    taken = apply_tuned(SMALL, "home", path)
    assert taken.architecture == "dcn"
    assert taken.parameters["crosses"] == report.trials["dcn"][1].settings["crosses"]
    assert apply_tuned(replace(SMALL, architecture="mmoe"), "home", path).parameters == {}
    assert apply_tuned(SMALL, "home", path, architecture_requested=True) == SMALL, (
        "trees that were asked for stay trees"
    )
    assert (
        apply_tuned(
            replace(SMALL, architecture="dcn"), "home", path, architecture_requested=True
        ).parameters
        == taken.parameters
    )
    path.write_text(path.read_text().replace("crosses", "corsses"))
    with pytest.raises(ConfigError, match="dcn has no parameter 'corsses'"):
        apply_tuned(SMALL, "home", path)


def test_two_tunings_of_one_slot_are_refused(shop, tmp_path):
    with (
        hold_exclusive(tmp_path / "lock", ""),
        pytest.raises(LockedError, match=f"slot home is tuned by process {os.getpid()} already"),
    ):
        tuned(shop, tmp_path)


def test_a_wrong_use_is_reported(project, tmp_path):
    file = tmp_path / "space.toml"
    file.write_text("[gbdt]\n\nleafs = 3\n")
    assert_refused(
        tailorbird("-C", project, "tune", "--space", file),
        "space.toml:3",
        "gbdt has no setting 'leafs'",
        "did you mean leaves?",
        status=2,
    )
    for option, value, status, message in (
        ("--architectures", ",", 2, ("--architectures: names no architecture", "use some of gbdt")),
        ("--trials", "0", 2, ("--trials: expected at least 1, got 0", "--time 10m alone")),
        ("--time", "5x", 2, ("--time: expected a duration such as 30m",)),
        ("--window", "1x", 2, ("--window: expected a duration such as 30m",)),
        ("--as-of", "2020-01-01", 1, ("holds no event before 2020-01-01T00:00", "a later --as-of")),
    ):
        assert_refused(tailorbird("-C", project, "tune", option, value), *message, status=status)
    with pytest.raises(UsageError, match="no architecture 'gbtd'"):
        select_architectures(("gbtd",))
    with pytest.raises(UsageError, match="at least 1, got 0"):
        TuneSettings(splits=0)


def test_a_file_overrides_the_dimensions_that_it_names(tmp_path: Path):
    file = tmp_path / "tune.toml"
    assert override_spaces(file, SPACE) == SPACE
    file.write_text(
        '[gbdt]\nleaves = 7\nobjective = {choices = ["binary", "lambdarank"]}\nl2 = {low = '
        "1, high = 9}\n"
    )
    space = override_spaces(file, SPACE)["gbdt"]
    assert set(space.dimensions) == {"rate", "objective", "l2"}
    assert space.fixed == {"leaves": 7}
    assert space.clip(tunable_gbdt_defaults()) == {"rate": 0.03, "objective": "binary", "l2": 9.0}
    for text, message in (
        ("[trees]\nleaves = 3\n", "unknown architecture 'trees'"),
        ("[gbdt]\nleaves = 1.5\n", "expected a value like 0"),
        ("[gbdt]\nrate = {low = 1}\n", "missing required field"),
        ("[gbdt]\nobjective = {low = 1, high = 2}\n", "is no number"),
        ("[gbdt]\nobjective = {choices = []}\n", "nothing to choose from"),
        ("[gbdt]\nleaves = 3\nrate = 0.1\n", "nothing of gbdt is left to try"),
        ("[gbdt\n", "not valid TOML"),
    ):
        file.write_text(text)
        with pytest.raises(ConfigError, match=message):
            override_spaces(file, SPACE)


class Worsening(Fitted):
    """Later settings do well on the first split, which is easy, and badly on the second."""

    workers = 1

    def submit(self, fit: FitSpec) -> "Future[FitResult]":
        self.submitted += 1
        later = self.submitted > 12  # four trials of three splits are whole by then
        figure = (0.6, 0.5, 0.5)[fit.split_index] + later * (0.01, -0.15, 0.0)[fit.split_index]
        done: Future[FitResult] = Future()
        done.set_result(FitResult(np.array([figure]), np.array([figure]), 1.0))
        return done


def test_a_trial_whose_mean_falls_below_the_median_is_pruned_despite_a_good_first_split(tmp_path):
    (one,) = select_architectures(("gbdt",))
    first = {"leaves": 5, "rate": 0.03}
    search = Search(
        open_journal(tmp_path),
        one,
        SPACE["gbdt"],
        first,
        [0, 1, 2],
        Worsening(False),
        "random",
        "median",
        7,
    )
    search.run(Budget(trials=6, seconds=0.0), lambda trials, seconds: None)
    assert [(each.state, len(each.split_scores)) for each in search.list_trials()] == [
        ("complete", 3)
    ] * 4 + [("pruned", 2)] * 2
