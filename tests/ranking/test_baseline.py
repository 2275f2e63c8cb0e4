"""Orders by candidate sources alone: the first source that knows an item decides, a later one
breaks ties, and a name is checked.
"""

import numpy as np
import pytest
from tests.support.shops import ranking_world

from tailorbird.errors import DeclarationError
from tailorbird.ranking.baseline import Baseline, default_baselines

KEYS = ranking_world.keys_of(range(ranking_world.ITEM_COUNT))


def order_of(values):
    return KEYS[np.lexsort((KEYS, -values))].tolist()


def test_a_board_orders_by_its_share_and_leaves_out_nothing(tables):
    lists = ranking_world.lists_of(tables)
    values = Baseline.parse("popular").values(lists, KEYS)
    listed = lists.get("popular").keys.tolist()
    assert order_of(values)[: len(listed)] == listed
    assert (values[~np.isin(KEYS, lists.get("popular").keys)] == 0).all()


def test_the_first_source_that_knows_an_item_decides():
    """Items seen twice come first, then those seen once, then popular ones."""
    lists = ranking_world.lists_of(ranking_world.make_tables("popular:28d"), [30, 7, 30])
    baseline = Baseline.parse("repeat+popular:28d")
    assert str(baseline) == "repeat+popular:28d"
    popular = [
        key
        for key in lists.get("popular:28d").keys.tolist()
        if key not in ranking_world.keys_of([30, 7])
    ]
    assert order_of(baseline.values(lists, KEYS))[:12] == [
        *ranking_world.keys_of([30, 7]).tolist(),
        *popular[:10],
    ]
    top = baseline.top(lists, excluded_keys=ranking_world.keys_of([30]), limit=3).tolist()
    assert top == [*ranking_world.keys_of([7]).tolist(), *popular[:2]]


def test_without_a_past_popularity_decides(tables):
    new_user, returning_user = ranking_world.lists_of(tables), ranking_world.lists_of(tables, [4])
    combined, popular = Baseline.parse("item_knn + popular"), Baseline.parse("popular")
    assert order_of(combined.values(new_user, KEYS)) == order_of(popular.values(new_user, KEYS))
    neighbours = returning_user.get("item_knn").keys
    assert len(neighbours), "the world's people leave pairs"
    assert order_of(combined.values(returning_user, KEYS)) != order_of(
        popular.values(returning_user, KEYS)
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [("search", "orders no items"), ("popular+sequence", "orders no items"), ("populr", "popular")],
)
def test_what_orders_nothing_is_refused(text, expected):
    with pytest.raises(DeclarationError) as error:
        Baseline.parse(text)
    assert expected in f"{error.value.message} {error.value.fix}"


def test_default_baselines_are_boards_and_personal_sources_with_the_longest_board():
    assert default_baselines(["item_knn", "popular"]) == [
        "popular:1h",
        "popular:24h",
        "popular:7d",
        "item_knn+popular:7d",
    ]
    baselines = default_baselines(["repeat", "popular:30d", "trending:device", "search"])
    assert {"popular:30d", "trending:device", "item_knn+popular:30d", "repeat+popular:30d"} <= set(
        baselines
    )
    assert len(set(baselines)) == len(baselines)
