"""The benchmark of architectures on the simulated site: its truth is the site's, and what it concludes follows from its figures."""

import json
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from benchmarks.quality import results
from benchmarks.quality.architectures import joined, on_front
from benchmarks.quality.architectures_reward import ORACLES, REWARD, oracle_scores, worth_of

from tailorbird.events import DAY
from tailorbird.simulator import Site

FIGURES = results.FIGURES / "architectures.json"


@pytest.fixture(scope="module")
def site():
    return Site(3, users=40, items=60, days=6)


def asked(site, at_day=4.3, people=12):
    there = site.items.available(at_day)
    user, day = np.arange(people), np.full(people, at_day)
    return user, np.tile(there, people), day, np.arange(people + 1) * len(there)


def test_a_list_is_worth_what_the_sites_truth_says(site):
    user, item, day, offsets = asked(site)
    score = np.random.default_rng(0).random(len(item))
    found = worth_of(site, user, item, day, offsets, score)
    lists = []
    for low, high in pairwise(offsets.tolist()):
        best = np.argsort(-score[low:high])[: REWARD.size]
        lists.append([f"i{number:05d}" for number in item[low:high][best].tolist()])
    told = site.truth.expected(user.tolist(), lists, [site.start + round(4.3 * DAY)] * len(user)).reward({"click": 1.0, "purchase": 5.0})
    np.testing.assert_allclose(found, told, rtol=1e-6)


def test_who_knows_more_shows_better_lists_and_nobody_beats_the_oracle(site):
    user, item, day, offsets = asked(site)
    worth = {name: worth_of(site, user, item, day, offsets, score) for name, score in oracle_scores(site, user, item, day, offsets).items()}
    chance = worth_of(site, user, item, day, offsets, np.random.default_rng(1).random(len(item)))
    means = [worth[name].mean() for name in ORACLES]
    assert means == sorted(means, reverse=True)
    assert means[-1] > chance.mean()
    assert (worth["oracle"] >= np.maximum.reduce([*worth.values(), chance]) - 1e-12).all()


def test_the_front_holds_what_nothing_else_is_as_good_and_as_cheap_as():
    figures = {
        "cheap": {"ndcg_10": 0.2, "us": 1.0},
        "as cheap and worse": {"ndcg_10": 0.1, "us": 1.0},
        "best": {"ndcg_10": 0.5, "us": 9.0},
        "dearer than the best": {"ndcg_10": 0.5, "us": 10.0},
        "not priced": {"ndcg_10": 0.9},
    }
    assert on_front(figures) == ["cheap", "best"]


def told(names: list[str], oracle: float = 2.0, us: float = 9.0) -> dict[str, Any]:
    figures = {name: {"reward": 1.0, "ndcg_10": 0.5, "us": us} for name in names}
    known = {"oracle": {"reward": oracle}, "oracle_lasting": {"reward": 1.8}, "oracle_common": {"reward": 1.5}, "popular": {"reward": 1.1}}
    parts = {part: dict.fromkeys(names, len(names)) for part in ("heads", "shares", "spread", "seconds")}
    reliability = {"click": {}} if "gbdt" in names else {}
    return {**parts, "results": figures | known, "popular": "popular", "some": names, "reliability": reliability, "protocol": []}


def test_some_architectures_take_their_place_beside_what_was_measured_of_the_others():
    whole = joined(told(["gbdt", "dcn", "mmoe"]), told(["mmoe"], us=90.0))
    assert whole["spread"] == {"gbdt": 3, "dcn": 3, "mmoe": 1}
    assert whole["results"]["mmoe"]["us"] == 9.0, "times of two runs do not compare"
    assert whole["seconds"]["mmoe"] == 3
    assert "mmoe were trained in a later run" in whole["protocol"][-1]
    assert whole["reliability"] == {"click": {}}
    assert (whole["some"], whole["default_on_front"]) == ([], True)
    with pytest.raises(ValueError, match=r"oracle has a reward of 2.0 before and 2.5 now"):
        joined(told(["gbdt"]), told(["mmoe"], oracle=2.5))


def test_figures_of_another_log_are_refused_in_a_sentence_and_change_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(results, "FIGURES", tmp_path)
    file, other = tmp_path / "architectures.json", json.dumps({"benchmark": "architectures", **told(["mmoe"], oracle=2.5)})
    with pytest.raises(SystemExit, match="architectures: figures of mmoe alone, and none of the others"):
        results.take(other)
    file.write_text(json.dumps(told(["gbdt"])))
    with pytest.raises(SystemExit, match=r"architectures: oracle has a reward of 2.0 before and 2.5 now"):
        results.take(other)
    assert json.loads(file.read_text()) == told(["gbdt"])


@pytest.mark.skipif(not FIGURES.exists(), reason="not measured yet")
def test_what_train_takes_by_itself_lies_on_the_front():
    found = json.loads(FIGURES.read_text())
    assert found["default"] in on_front(found["results"])


def test_the_page_of_results_is_made_of_the_figures_that_commands_wrote():
    text = results.PAGE.read_text()
    assert results.page(text, results.read()) == text
