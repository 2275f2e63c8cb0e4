"""A time is turned into requests and trees, never more than the settings ask for."""

import pytest

from tailorbird.errors import UsageError
from tailorbird.training.budget import measure_speed, plan_budget
from tailorbird.training.settings import TrainSettings


def test_time_and_speed_increase_the_budget_up_to_the_maximum() -> None:
    full, two, slow = plan_budget(600, 1.0), plan_budget(120, 1.0), plan_budget(120, 0.5)
    default = TrainSettings()
    assert (full.requests, full.test_requests, full.trees) == (
        default.requests,
        default.test_requests,
        default.gbdt.trees,
    )
    assert full.rate == default.gbdt.rate
    assert slow.requests < two.requests < full.requests
    assert two.trees < full.trees
    assert plan_budget(3_600, 1.0).requests == full.requests


def test_of_a_longer_log_fewer_requests_fit() -> None:
    short, long = plan_budget(120, 1.0, 200_000), plan_budget(120, 1.0, 2_000_000)
    assert short == plan_budget(120, 1.0)
    assert 0.5 < long.requests / short.requests < 0.7
    assert long.trees == short.trees


def test_a_budget_only_lowers_settings_and_learns_vectors_if_time_allows() -> None:
    settings = TrainSettings(requests=500, test_requests=0, retrieval="auto")
    short, long = plan_budget(120, 1.0).applied(settings), plan_budget(600, 1.0).applied(settings)
    assert (short.requests, short.test_requests) == (500, 1_800)
    assert (short.retrieval, long.retrieval) == ("tables", "auto")
    assert (
        plan_budget(120, 1.0).applied(TrainSettings(retrieval="sequence")).retrieval == "sequence"
    ), "asked for by name"
    assert short.budget["requests"] == 6_000


def test_too_little_time_is_refused() -> None:
    with pytest.raises(UsageError, match="at least 30s"):
        plan_budget(5, 1.0)


def test_the_speed_of_a_machine_is_one_of_few_so_that_it_gives_the_same_numbers_twice() -> None:
    assert measure_speed() in (0.25, 0.5, 1.0)
