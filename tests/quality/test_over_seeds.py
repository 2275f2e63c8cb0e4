"""Tables of the quality benchmarks over several seeds: means of what trainings say."""

import pytest
from benchmarks.quality.over_seeds import mean_over


def figures(model: float, baseline: float) -> dict[str, float | None]:
    return {
        "results": {"tailorbird": {"ndcg_10": model, "coverage_10_low": None}, "popular": {"ndcg_10": baseline, "coverage_10_low": None}},
        "differences": {"popular": {"ndcg_10": model - baseline}},
        "requests": 10,
    }


def test_figures_are_means_and_what_is_none_stays_none():
    means = mean_over([figures(0.3, 0.2), figures(0.5, 0.2), figures(0.4, 0.2)])
    assert means["results"]["tailorbird"] == {"ndcg_10": pytest.approx(0.4), "coverage_10_low": None}
    assert means["differences"]["popular"]["ndcg_10"] == pytest.approx(0.2)
    assert means["requests"] == 10


def test_what_only_some_seeds_have_is_left_out():
    assert mean_over([{"a": 1.0, "device 5": 2.0}, {"a": 3.0}]) == {"a": 2.0}


def test_no_seed_is_no_table():
    with pytest.raises(ValueError, match="no seed"):
        mean_over([])
