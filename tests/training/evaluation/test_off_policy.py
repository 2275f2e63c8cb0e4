"""Logged answers of a slot that draws whole slates give the value of rankers that it never used."""

from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest
from tests.support.shops.drawn_shop import (
    APPEAL_BY_ITEM,
    EXAMINED_SHARE_BY_PLACE,
    RESPONSE_COUNT,
    SLATE_SIZE,
    make_drawn_shop,
)

from tailorbird import Project
from tailorbird.errors import UsageError
from tailorbird.events import SystemClock
from tailorbird.lake import Lake
from tailorbird.ranking import Slot
from tailorbird.ranking.encode.live import NO_LIVE_COLUMNS
from tailorbird.training.dataset.dataset import Dataset
from tailorbird.training.dataset.indexes import build_series
from tailorbird.training.dataset.matrix import FeatureChunk
from tailorbird.training.dataset.replay import Replay
from tailorbird.training.dataset.request_choice import RowSettings
from tailorbird.training.dataset.rows import TrainingData, load_training_data
from tailorbird.training.evaluation.estimate import estimate_against_champion
from tailorbird.training.evaluation.evaluate import Scorer
from tailorbird.training.evaluation.off_policy import (
    PolicyGroup,
    evaluate_off_policy,
    read_responses,
)
from tailorbird.training.settings import TrainSettings

SLOT = Slot(
    "home",
    size=SLATE_SIZE,
    sources={"popular": 50, "new_items": 50},
    hide_seen=(),
    denominator="answer",
)


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """Return a project whose log was drawn by the code that serves."""
    return make_drawn_shop(tmp_path_factory.mktemp("off-policy"))


@pytest.fixture(scope="module")
def training_data(shop: Project) -> TrainingData:
    lake = Lake(shop.declarations.paths.lake)
    settings = RowSettings(0, SystemClock().now(), row_source="answers")
    return load_training_data(lake, shop.declarations.features, SLOT, settings)


def scorer(appeal: Callable[[np.ndarray], np.ndarray]) -> Scorer:
    """Return a ranker by item; it predicts half of the true rate."""

    def score(piece: FeatureChunk) -> tuple[dict[str, np.ndarray], np.ndarray]:
        data: Dataset = piece.data
        item = np.array([int(text[1:]) for text in data.item_vocabulary.values.to_pylist()])[
            data.item_codes
        ]
        return {"click": 0.5 * APPEAL_BY_ITEM[item]}, appeal(item.astype(np.float64))

    return score


RANKERS = {"new": scorer(lambda item: item), "old": scorer(lambda item: -item)}


def replay_of(shop: Project, training_data: TrainingData, slot: Slot = SLOT) -> Replay:
    features = shop.declarations.features
    return Replay(
        training_data.events_with_profiles,
        features,
        slot,
        training_data.item_vocabulary,
        NO_LIVE_COLUMNS,
    )


def responses(shop: Project, training_data: TrainingData) -> Dataset:
    lake = Lake(shop.declarations.paths.lake)
    return read_responses(lake, training_data, SLOT, "click", ts_from=0)


def test_the_estimate_covers_the_truth_of_both_rankers(
    shop: Project, training_data: TrainingData
) -> None:
    data = responses(shop, training_data)
    assert data.request_count > 0.95 * RESPONSE_COUNT
    series = build_series(training_data.events, training_data.item_profiles, [int(data.t[0])])
    report = evaluate_off_policy(
        training_data,
        shop.declarations.features,
        SLOT,
        data,
        [PolicyGroup(SLOT, replay_of(shop, training_data), RANKERS)],
        series,
        "click",
    )
    best, worst = (
        APPEAL_BY_ITEM[[-1, -2]] @ EXAMINED_SHARE_BY_PLACE,
        APPEAL_BY_ITEM[[0, 1]] @ EXAMINED_SHARE_BY_PLACE,
    )
    evaluation = report.evaluation
    for value, truth in ((evaluation.new, best), (evaluation.old, worst)):
        estimate = value[report.headline]
        assert estimate.low - estimate.error < truth < estimate.high + estimate.error
    assert report.headline == "dr"
    assert report.rebuilt_share > 0.95
    assert evaluation.difference["dr"].low > 0
    assert not report.is_worse
    assert "one-step reward over logged contexts" in report.summary
    encoded = msgspec.json.decode(msgspec.json.encode(report.to_dict()))
    assert encoded["difference"]["dr"]["value"] == evaluation.difference["dr"].value


def test_a_worse_ranker_is_told_to_the_gate(shop: Project, training_data: TrainingData) -> None:
    data = responses(shop, training_data)
    lake, features = Lake(shop.declarations.paths.lake), shop.declarations.features
    series = build_series(training_data.events, training_data.item_profiles, [int(data.t[0])])
    worse = estimate_against_champion(
        lake,
        training_data,
        features,
        SLOT,
        replay_of(shop, training_data),
        series,
        {"worse": RANKERS["old"], "champion": RANKERS["new"]},
        ts_from=0,
        settings=TrainSettings(test_requests=1_500),
    )
    assert worse.is_worse
    assert "of champion, a difference of -0." in worse.summary
    nothing_left = estimate_against_champion(
        lake,
        training_data,
        features,
        SLOT,
        replay_of(shop, training_data),
        series,
        RANKERS,
        ts_from=SystemClock().now(),
        settings=TrainSettings(),
    )
    assert not nothing_left.is_worse
    assert "not told, no answer is newer" in nothing_left.summary


def test_an_outcome_that_never_happened_is_refused(
    shop: Project, training_data: TrainingData
) -> None:
    lake, features = Lake(shop.declarations.paths.lake), shop.declarations.features
    data = read_responses(lake, training_data, SLOT, "clik", ts_from=0)
    series = build_series(training_data.events, training_data.item_profiles, [int(data.t[0])])
    groups = [PolicyGroup(SLOT, replay_of(shop, training_data), RANKERS)]
    with pytest.raises(UsageError, match="led to a 'clik'"):
        evaluate_off_policy(training_data, features, SLOT, data, groups, series, "clik")


def test_what_is_not_replayed_is_named(tmp_path: Path) -> None:
    from tailorbird.ranking import Boost, Pin
    from tailorbird.training.evaluation.off_policy import ignored_settings

    boost = Boost("context.device == 'phone'", 2.0)
    slot = Slot("home", rules=["item.stock > 0", "user.age > 18"], pins=[Pin("i1")], boosts=[boost])
    assert ignored_settings(slot, SLOT) == (
        "not replayed: user.age > 18, boost context.device == 'phone', pins, size 12, but that of "
        "each answer",
    )
    assert ignored_settings(SLOT, SLOT) == ()
