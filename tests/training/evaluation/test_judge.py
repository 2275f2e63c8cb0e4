"""Judging: who counts as new, what is long tail, which columns know too much."""

import dataclasses

import numpy as np
import pyarrow as pa
import pytest

from tailorbird.models.interactions import History, Interactions
from tailorbird.training.dataset.codes import IdVocabulary
from tailorbird.training.dataset.dataset import Dataset, MissedPositives
from tailorbird.training.dataset.slates import Slates
from tailorbird.training.evaluation.judge import Evaluator, interaction_shares


def questions(people=60, items=40, seed=0):
    rng = np.random.default_rng(seed)
    n = 5
    person = np.repeat(np.arange(people), 2)
    requests = len(person)
    item = np.concatenate([rng.choice(items, n, replace=False) for _ in range(requests)])
    label = np.zeros(requests * n, bool)
    label[np.arange(requests) * n + rng.integers(0, n, requests)] = True
    context = pa.table(
        {name: [None] * requests for name in ("person", "session_id", "country", "local_hour")}
    )
    context = context.append_column("device", pa.array(["phone", "desktop"] * (requests // 2)))
    ones = np.ones(requests * n)
    codes = IdVocabulary(pa.array([f"i{code}" for code in range(items)]))
    fields = (
        np.full(requests, 100),
        np.zeros(requests, np.int64),
        person,
        context,
        np.arange(requests + 1) * n,
    )
    return Dataset(
        *fields, item, np.zeros(requests * n, np.int32), ones, {"click": label}, ones, codes, codes
    )


def history(items=40):
    # people 0 to 29 were there before; item 0 is what nearly everybody chose
    person, ts = np.arange(30), np.full(30, 50)
    item = np.where(person < 20, 0, person)
    return History(Interactions(person, item, ts, 60, items))


def test_the_truth_beats_chance_and_slices_add_up():
    data, past = questions(), history()
    judge = Evaluator(past, interaction_shares(past, 100), {"click": 1.0}, replicates=200)
    for part in data.chunks(50):
        truth = part.labels["click"].astype(float)
        judge.add(
            part,
            {"oracle": truth, "random": np.random.default_rng(1).random(part.row_count)},
            {"click": 0.1 + 0.8 * truth},
        )
    evaluation = judge.build_evaluation("oracle")
    assert evaluation.intervals["oracle"]["ndcg_10"].value == 1.0
    assert evaluation.differences["random"].low > 0
    assert evaluation.best_baseline == "random"
    assert evaluation.slices["new users"][0] == evaluation.slices["known users"][0] == 60
    assert evaluation.slices["device phone"][0] == 60
    assert evaluation.slices["long-tail items"][0] < 120  # those whose truth is not item 0
    assert evaluation.head_metrics["click"].auc.value == 1.0
    assert evaluation.user_count == 60
    fields = evaluation.to_dict()
    assert fields["results"]["oracle"]["ndcg_10_low"] == 1.0
    assert fields["results"]["oracle"]["coverage_10_low"] is None


def test_cold_start_is_a_curve_over_the_events_before_the_request():
    """Thirty of sixty people come with one event, as often as others; item 0 had twenty, ten items
    one each, the others none.
    """
    data, past = with_half_missed(questions()), history()
    judge = Evaluator(past, interaction_shares(past, 100), {"click": 1.0}, replicates=100)
    for part in data.chunks(50):
        judge.add(part, {"oracle": part.labels["click"].astype(float)})
    evaluation = judge.build_evaluation("oracle")
    people, items = (
        {step.step_label: step for step in evaluation.cold_start_curves[of]}
        for of in ("people", "items")
    )
    assert {events: step.request_count for events, step in people.items()} == {"0": 60, "1": 60}
    chosen = np.concatenate(
        [data.item_codes[data.labels["click"]], data.missed_positives.item_codes]
    )
    of_items = {
        "0": ((chosen > 0) & ~((chosen >= 20) & (chosen < 30))).sum(),
        "1": ((chosen >= 20) & (chosen < 30)).sum(),
    }
    of_items["10 and more"] = (chosen == 0).sum()
    assert {events: step.request_count for events, step in items.items()} == {
        events: int(n) for events, n in of_items.items() if n
    }
    assert sum(
        step.intervals["oracle"].value * step.request_count for step in people.values()
    ) == pytest.approx(60), "half were missed"
    assert sum(
        step.intervals["oracle"].value * step.request_count for step in items.values()
    ) == pytest.approx(60)
    assert [step["events"] for step in evaluation.to_dict()["cold_start"]["people"]] == ["0", "1"]


def with_half_missed(data):
    """The same requests, where of every second one no source gave what was chosen."""
    truth = data.labels["click"]
    unfound = truth & (np.cumsum(truth) % 2 == 0)
    is_candidate = ~unfound
    offsets = np.concatenate(
        (
            [0],
            np.cumsum(np.bincount(data.request_index[is_candidate], minlength=data.request_count)),
        )
    )
    columns = {
        name: getattr(data, name)[is_candidate]
        for name in ("item_codes", "position", "propensity", "weight")
    }
    missed = MissedPositives(data.request_index[unfound], data.item_codes[unfound])
    return dataclasses.replace(
        data,
        **columns,
        offsets=offsets,
        labels={"click": truth[is_candidate]},
        missed_positives=missed,
    )


def test_missed_items_lower_recall_but_not_calibration():
    """A server would not have been asked about it, so it would make every head look too low; a list
    that lacks it is the worse for it.
    """
    data, past = with_half_missed(questions()), history()
    judge = Evaluator(past, interaction_shares(past, 100), {"click": 1.0}, replicates=100)
    for part in data.chunks(200):
        judge.add(
            part,
            {"oracle": part.labels["click"].astype(float)},
            {"click": np.full(part.row_count, 60 / 540)},
        )
    evaluation = judge.build_evaluation("oracle")
    assert (
        evaluation.head_metrics["click"].positive_count,
        evaluation.head_metrics["click"].row_count,
    ) == (60, 540)
    assert evaluation.head_metrics["click"].calibration_error.value == pytest.approx(0, abs=1e-12)
    assert evaluation.intervals["oracle"]["ndcg_10"].value == 0.5
    assert evaluation.intervals["oracle"]["hr_20"].value == 0.5
    assert evaluation.request_count == 120
    complete = Evaluator(past, interaction_shares(past, 100), {"click": 1.0}, replicates=100)
    complete.add(questions(), {"oracle": questions().labels["click"].astype(float)})
    assert (
        evaluation.slices["long-tail items"][0]
        == complete.build_evaluation("oracle").slices["long-tail items"][0]
    ), "missed ones are of it too"


def test_a_baseline_shows_a_list_of_its_own_and_may_find_what_no_source_gave():
    data, past = with_half_missed(questions()), history()
    unfound = dict(
        zip(
            data.missed_positives.request_index.tolist(),
            data.missed_positives.item_codes.tolist(),
            strict=True,
        )
    )
    rows = {
        request: data.item_codes[low:high]
        for request, (low, high) in enumerate(zip(data.offsets, data.offsets[1:], strict=False))
    }
    slates = [
        np.array([unfound[one]]) if one in unfound else rows[one][:1]
        for one in range(data.request_count)
    ]
    first = sum(
        bool(data.labels["click"][data.offsets[one]])
        for one in range(data.request_count)
        if one not in unfound
    )
    baseline = Slates(np.arange(data.request_count + 1), np.concatenate(slates))
    judge = Evaluator(past, interaction_shares(past, 100), {"click": 1.0}, replicates=100)
    judge.add(data, {"oracle": data.labels["click"].astype(float)}, slates={"popular": baseline})
    evaluation = judge.build_evaluation("oracle")
    assert evaluation.intervals["popular"]["ndcg_10"].value == pytest.approx((60 + first) / 120)
    assert evaluation.differences["popular"].value == pytest.approx(0.5 - (60 + first) / 120)
    assert evaluation.intervals["popular"]["coverage_10"].value > 0


def test_parts_do_not_change_the_result():
    data, past = questions(), history()
    results = []
    for size in (10_000, 35):
        judge = Evaluator(past, interaction_shares(past, 100), {"click": 1.0}, replicates=100)
        for part in data.chunks(size):
            # a score that depends on the row alone
            judge.add(
                part,
                {
                    "m": (part.item_codes * 7 % 11).astype(float),
                    "o": part.labels["click"].astype(float),
                },
            )
        results.append(judge.build_evaluation("o").intervals["m"]["recall_10"])
    assert results[0] == results[1]


def test_shares_use_only_earlier_interactions():
    past = history()
    assert interaction_shares(past, 100)[0] == pytest.approx(20 / 30)
    assert interaction_shares(past, 50).sum() == 0
