"""Nets through the whole of training: the same bundle, gate and serving as trees, over columns that
the stream gives alike.
"""

import os
import re
import subprocess
import sys
from dataclasses import replace
from shutil import copytree

import pytest
from tests.support.training.shop import HOME, Shop

from tailorbird.errors import LockedError, NotReadyError, UsageError
from tailorbird.events import DAY, HOUR, MINUTE, SimulatedClock, SystemClock
from tailorbird.models.deep import fitting
from tailorbird.ranking.bundle import Bundle
from tailorbird.registry import Registry
from tailorbird.training.fit import inputs
from tailorbird.training.fit.incremental import open_working_folder
from tailorbird.training.fit.resume import hold_exclusive
from tailorbird.training.pipeline import train
from tailorbird.training.settings import TrainSettings

pytestmark = pytest.mark.slow

QUICK = TrainSettings(
    quick=True,
    requests=2_500,
    test_requests=2_500,
    parameters={"epochs": 1, "hidden": [16, 8], "threads": 1},
)


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    return Shop.open(tmp_path_factory.mktemp("shop"))


def trained(shop, registry, page=False, **changes):
    settings = replace(QUICK, **changes)
    return train(
        shop.features,
        HOME,
        lake=shop.lake,
        registry=registry,
        clock=shop.clock,
        reports_folder=registry.parent if page else None,
        settings=settings,
    )


def test_a_net_is_bundled_and_serves_as_trained(shop, tmp_path):
    pytest.importorskip("torch", reason="needs the extra deep")
    report = trained(shop, tmp_path / "registry", page=True, architecture="mmoe")
    bundle = Bundle.load(
        tmp_path / "registry" / report.version, schema_hash=shop.features.schema_hash
    )
    assert bundle.heads == ("click", "purchase")
    assert {head.file for head in bundle.manifest.heads} == {"model/mmoe.onnx"}
    assert [head.column for head in bundle.manifest.heads] == [0, 1]
    assert bundle.manifest.metrics["parity"] < 1e-5
    assert bundle.encoder.history is not None
    assert bundle.encoder.names[-1] == "title_word_8"
    assert "mmoe" in bundle.manifest.card
    page = report.page_path.read_text()
    assert "epochs kept" in page
    assert "newest items" in page
    assert report.evaluation.head_metrics["click"].auc.value > 0.5
    code = f"""import sys; from pathlib import Path; from tailorbird.ranking.bundle import Bundle
Bundle.load(Path({str(tmp_path / "registry" / report.version)!r}), schema_hash=None)
print('torch' in sys.modules)"""
    assert (
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        ).stdout
        == "False\n"
    )


@pytest.mark.nightly
def test_rows_in_files_end_in_the_bits_of_rows_in_memory(shop, tmp_path, monkeypatch):
    pytest.importorskip("torch", reason="needs the extra deep")
    monkeypatch.setattr(inputs, "CHUNK_ROWS", 2_000)
    settings = {"architecture": "shared", "requests": 600, "test_requests": 600}
    made = {}
    for name, most in (("memory", TrainSettings.rows_in_memory), ("files", 1_000)):
        report = trained(shop, tmp_path / name, rows_in_memory=most, **settings)
        bundle = tmp_path / name / report.version
        made[name] = (bundle / "model" / "shared.onnx").read_bytes(), report.evaluation.to_dict()
        notes = [note for note in report.notes if "lay in files" in note]
        assert bool(notes) == (name == "files")
    assert report.row_counts["train"] > 2 * 2_000, "in several pieces"
    assert made["memory"] == made["files"]


@pytest.mark.nightly
def test_trees_see_none_of_the_columns_for_nets_and_win_where_no_net_is_better(shop, tmp_path):
    pytest.importorskip("torch", reason="needs the extra deep")
    report = trained(shop, tmp_path / "plain")
    auto = trained(
        shop, tmp_path / "auto", architecture="auto", parameters={**QUICK.parameters, "rate": 1e-9}
    )
    assert auto.about["architecture"] == "gbdt"
    assert any(
        note.startswith("gbdt was chosen: ndcg_10 on the validation part -") for note in auto.notes
    )
    for name in ("plain", "auto"):
        bundle = Bundle.load(
            Registry(tmp_path / name, clock=shop.clock).versions()[0].path, schema_hash=None
        )
        assert bundle.encoder.history is None
    assert (
        report.evaluation.to_dict()["results"]["tailorbird"]
        == auto.evaluation.to_dict()["results"]["tailorbird"]
    )


def test_without_torch_a_net_raises_and_auto_uses_trees(shop, tmp_path, monkeypatch):
    monkeypatch.setattr(fitting, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"dcn needs torch.*\n.*pip install 'tailorbird\[deep\]'"):
        trained(shop, tmp_path / "registry", architecture="dcn")
    few = {"requests": 600, "test_requests": 600}
    report = trained(shop, tmp_path / "registry", architecture="auto", **few)
    assert report.about["architecture"] == "gbdt"
    assert any("torch is not installed" in note for note in report.notes)


def test_an_unknown_architecture_is_named(shop, tmp_path):
    with pytest.raises(UsageError, match="no architecture 'forest'"):
        trained(shop, tmp_path / "registry", architecture="forest")


def test_concurrent_net_trainings_of_a_slot_raise_but_trees_may_run(shop, tmp_path):
    pytest.importorskip("torch", reason="needs the extra deep")
    work = tmp_path / "work"
    settings = replace(QUICK, architecture="mlp", requests=600, test_requests=600)
    folders = {"lake": shop.lake, "registry": tmp_path / "registry", "working_folder": work}
    with hold_exclusive(work / "home.lock", ""):
        with pytest.raises(
            LockedError, match=f"a net for slot home is trained by process {os.getpid()} already"
        ):
            train(shop.features, HOME, **folders, clock=shop.clock, settings=settings)
        assert not (work / "unfinished").exists(), "nothing of the other's was touched"
        train(
            shop.features,
            HOME,
            **folders,
            clock=shop.clock,
            settings=replace(settings, architecture="gbdt", parameters={}),
        )
    train(shop.features, HOME, **folders, clock=shop.clock, settings=settings)


LEARNING = {
    **QUICK.parameters,
    "rate": 0.01,
}  # so fast that a few requests take it far from where it began: else nothing goes on from it


def incremental(shop, folder, clock):
    settings = replace(
        QUICK,
        architecture="shared",
        parameters=LEARNING,
        incremental=True,
        requests=600,
        test_requests=600,
    )
    folders = {
        "lake": shop.lake,
        "registry": folder / "registry",
        "working_folder": folder / "work",
    }
    return train(shop.features, HOME, **folders, clock=clock, settings=settings)


def test_an_incremental_training_continues_the_last_one(shop, tmp_path):
    pytest.importorskip("torch", reason="needs the extra deep")
    first = incremental(shop, tmp_path, SimulatedClock(shop.clock.now() - DAY))
    assert any(
        "--incremental was asked for: there was no training before" in note for note in first.notes
    )
    second = incremental(shop, tmp_path, shop.clock)
    assert any(
        note.startswith("went on from the weights of the last training") for note in second.notes
    ), second.notes
    (series,) = (tmp_path / "work" / "warm" / "home").iterdir()
    assert len(list(series.iterdir())) == 2
    assert not (tmp_path / "work" / "unfinished" / "home").exists()
    assert len(list((tmp_path / "work" / "logs").rglob("events.out.tfevents.*"))) == 2


def test_a_diverged_net_raises_a_clear_error(shop, tmp_path):
    pytest.importorskip("torch", reason="needs the extra deep")
    broken = {
        "architecture": "shared",
        "parameters": {**QUICK.parameters, "rate": 1e6},
        "requests": 300,
        "test_requests": 300,
    }
    with pytest.raises(
        UsageError,
        match=r"the net diverged at a rate of 1e\+06: its weights are no numbers\n.*a lower rate",
    ):
        trained(shop, tmp_path / "registry", **broken)


def test_a_net_no_better_than_the_mean_is_reported_and_not_continued(shop, tmp_path):
    pytest.importorskip("torch", reason="needs the extra deep")
    parameters = {**QUICK.parameters, "rate": 1e3}
    settings = replace(
        QUICK, architecture="shared", parameters=parameters, requests=300, test_requests=300
    )
    folders = {
        "lake": shop.lake,
        "registry": tmp_path / "registry",
        "working_folder": tmp_path / "work",
    }
    report = train(shop.features, HOME, **folders, clock=shop.clock, settings=settings)
    (note,) = (
        note
        for note in report.notes
        if note.startswith("the net tells no more of the validation part than its mean does")
    )
    assert note.endswith("no later training goes on from it")
    assert not report.promoted
    assert (
        note in Bundle.load(tmp_path / "registry" / report.version, schema_hash=None).manifest.card
    )
    assert not (tmp_path / "work" / "warm").exists()


@pytest.mark.nightly
def test_an_incremental_training_killed_after_saving_weights_is_bit_identical(
    shop, tmp_path, monkeypatch
):
    pytest.importorskip("torch", reason="needs the extra deep")
    incremental(shop, tmp_path / "whole", SimulatedClock(shop.clock.now() - DAY))
    copytree(tmp_path / "whole", tmp_path / "killed")
    uninterrupted = incremental(shop, tmp_path / "whole", shop.clock)

    def kill(site):
        raise KeyboardInterrupt(site)

    with monkeypatch.context() as armed:
        armed.setattr("tailorbird.faults.fire_if_armed", kill)
        with pytest.raises(KeyboardInterrupt, match="before_add"):
            incremental(shop, tmp_path / "killed", shop.clock)
    again = incremental(shop, tmp_path / "killed", shop.clock)
    assert any(
        note.startswith("went on from the weights of the last training") for note in again.notes
    ), again.notes
    assert any(
        note.startswith("went on with the training that was begun at") for note in again.notes
    ), again.notes
    ended = {"whole": uninterrupted.version, "killed": again.version}
    made = [
        (tmp_path / name / "registry" / version / "model" / "shared.onnx").read_bytes()
        for name, version in ended.items()
    ]
    assert made[0] == made[1]
    assert uninterrupted.evaluation.to_dict() == again.evaluation.to_dict()


@pytest.mark.nightly
def test_a_net_continues_its_own_weights_despite_other_trainings(shop, tmp_path):
    """Also where all of them end at the same moment: one must not take the place of another."""
    pytest.importorskip("torch", reason="needs the extra deep")

    def at(clock, **changes):
        settings = replace(
            QUICK,
            **{"parameters": LEARNING, **changes},
            incremental=True,
            requests=600,
            test_requests=600,
        )
        folders = {
            "lake": shop.lake,
            "registry": tmp_path / "registry",
            "working_folder": tmp_path / "work",
        }
        report = train(shop.features, HOME, **folders, clock=clock, settings=settings)
        return next(
            note
            for note in report.notes
            if "went on from the weights" in note or "trained from scratch" in note
        )

    earlier = SimulatedClock(shop.clock.now() - DAY)
    narrow = {"parameters": {**LEARNING, "hidden": [8]}}
    at(earlier, architecture="shared")
    assert "asked for: there was no training of mmoe before" in at(earlier, architecture="mmoe")
    assert "the training of shared before it had other parameters (hidden)" in at(
        earlier, architecture="shared", **narrow
    )
    assert at(shop.clock, architecture="shared").startswith(
        "went on from the weights of the last training"
    )
    assert at(shop.clock, architecture="mmoe").startswith(
        "went on from the weights of the last training"
    )


@pytest.mark.nightly
def test_a_head_that_is_now_too_rare_causes_a_reported_fresh_start(shop, tmp_path, monkeypatch):
    pytest.importorskip("torch", reason="needs the extra deep")
    first = incremental(shop, tmp_path, SimulatedClock(shop.clock.now() - DAY))
    monkeypatch.setattr("tailorbird.training.fit.inputs.POSITIVES_MIN", 120)
    report = incremental(shop, tmp_path, shop.clock)
    (rare,) = set(first.heads) - set(report.heads)
    (message,) = (
        note
        for note in report.notes
        if note.startswith("trained from scratch, though --incremental was asked for")
    )
    assert (
        f"the training of shared before it learned {rare} too, which this one cannot or is "
        "not asked to" in message
    )
    assert any(note.startswith(f"head {rare} was left out: ") for note in report.notes), (
        "why stands beside it"
    )


@pytest.mark.nightly
def test_a_head_without_new_events_causes_a_fresh_start(shop, tmp_path):
    pytest.importorskip("torch", reason="needs the extra deep")
    incremental(shop, tmp_path, SimulatedClock(shop.clock.now() - 10 * MINUTE))
    report = incremental(shop, tmp_path, shop.clock)
    (message,) = (
        note
        for note in report.notes
        if note.startswith("trained from scratch, though --incremental was asked for")
    )
    assert re.search(r"since then there were 0 positives and \d+ negatives of \w+", message), (
        message
    )


def test_a_training_that_had_nothing_to_learn_from_is_as_of_its_own_time_when_it_is_tried_again(
    shop, tmp_path
):
    pytest.importorskip("torch", reason="needs the extra deep")

    class Machine(SystemClock):
        def __init__(self, now):
            self.at = now

        def now(self):
            return self.at

    nowhere, settings = (
        replace(HOME, name="nowhere"),
        replace(QUICK, architecture="shared", rows="answers"),
    )
    early, later = (Machine(shop.clock.now() - hours * HOUR) for hours in (12, 0))
    with pytest.raises(NotReadyError):
        train(
            shop.features,
            nowhere,
            lake=shop.lake,
            registry=tmp_path / "registry",
            clock=early,
            working_folder=tmp_path,
            settings=settings,
        )
    with open_working_folder(tmp_path, shop.features, nowhere, settings, later) as (unfinished, _):
        assert (unfinished.started_at, unfinished.is_resumed) == (later.now(), False)


@pytest.mark.nightly
def test_two_processes_share_a_training_with_bit_identical_results(shop, tmp_path):
    pytest.importorskip("torch", reason="needs the extra deep")
    calls: list[tuple[str, int, int]] = []
    made, logs = {}, {}
    for count in (1, 2):
        work = tmp_path / f"work {count}"
        settings = replace(
            QUICK,
            architecture="shared",
            processes=count,
            parameters={**QUICK.parameters, "shards": 2},
            requests=600,
            test_requests=600,
        )
        folders = {
            "lake": shop.lake,
            "registry": tmp_path / f"registry {count}",
            "working_folder": work,
        }
        report = train(
            shop.features,
            HOME,
            **folders,
            clock=shop.clock,
            settings=settings,
            progress=lambda *each: calls.append(each),
        )
        made[count] = (
            tmp_path / f"registry {count}" / report.version / "model" / "shared.onnx"
        ).read_bytes()
        logs[count] = len(list((work / "logs").rglob("events.out.tfevents.*")))
        assert any(stage.startswith("net shared") for stage, _, _ in calls)
        calls.clear()
        assert not (work / "unfinished" / "home").exists(), (
            "what the processes shared goes with the run"
        )
    assert made[1] == made[2]
    assert logs == {1: 1, 2: 1}


def test_clicks_weigh_by_their_place_where_lists_were_drawn(shop, tmp_path):
    report = train(
        shop.features,
        replace(HOME, denominator="answer"),
        lake=shop.lake,
        registry=tmp_path / "registry",
        clock=shop.clock,
        settings=replace(QUICK, position="weights"),
    )
    (message,) = (note for note in report.notes if note.startswith("positives weigh by"))
    chances = [float(each) for each in message.partition(": ")[2].split(", ")]
    assert chances[0] == 1.0
    assert 0.1 < chances[-1] < 0.7, (
        "the site's visitors see the end of a list half as often, and look there less"
    )
    bundle = Bundle.load(tmp_path / "registry" / report.version, schema_hash=None)
    assert "position" not in bundle.encoder.names


@pytest.mark.nightly
def test_clicks_on_what_was_seen_weigh_by_their_place_too(shop, tmp_path):
    folders = {"lake": shop.lake, "registry": tmp_path / "registry", "clock": shop.clock}
    settings = replace(QUICK, position="weights", architecture="gbdt")
    report = train(shop.features, HOME, **folders, settings=settings)
    (message,) = (note for note in report.notes if note.startswith("positives weigh by"))
    chances = [float(each) for each in message.partition(": ")[2].split(", ")]
    assert chances[0] == 1.0
    assert 0.35 < chances[-1] < 0.75, (
        "the site's visitors look at the twelfth of what they have on the screen half as often"
    )
    unweighted = train(shop.features, HOME, **folders, settings=replace(settings, position="none"))
    trees = [
        (tmp_path / "registry" / each.version / "model" / "click.onnx").read_bytes()
        for each in (report, unweighted)
    ]
    assert trees[0] != trees[1]
    with pytest.raises(UsageError, match="stood at no place") as refused:
        train(shop.features, HOME, **folders, settings=replace(settings, rows="clicks"))
    assert "--rows answers" in refused.value.fix
