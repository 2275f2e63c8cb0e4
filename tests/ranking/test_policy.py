"""From values to an order: diversity and quotas by attributes of the index."""

import numpy as np

from tailorbird.ranking import Diversity, Quota
from tailorbird.ranking.policy.policy import SlateSpec, arrange_slate, attribute_codes


def test_a_quota_holds_in_the_answer_and_leaves_nothing_out(index):
    rows = np.arange(len(index))
    first = index.category.codes[0]
    values = -100.0 * (index.category.codes != first) - rows  # all of one category first
    order = arrange_slate(values, 8, SlateSpec(index, rows, quotas=[Quota("category", 3)]))
    assert np.unique(index.category.codes[order[:8]], return_counts=True)[1].max() <= 3
    assert sorted(order.tolist()) == rows.tolist()
    window = arrange_slate(
        values, 8, SlateSpec(index, rows, quotas=[Quota("category", 1, window=2)])
    )[:8]
    assert (np.diff(index.category.codes[window]) != 0).all()
    top = arrange_slate(values, 8, SlateSpec(index, rows, quotas=[Quota("category", 1, first=3)]))
    assert len(set(index.category.codes[top[:3]].tolist())) == 3
    assert index.category.codes[top[3:8]].tolist() == [first] * 5


def test_a_quota_by_numbers_and_by_what_items_lack(index):
    stock = index.attributes["stock"]
    rows = np.array([*np.flatnonzero(stock == 0)[:3], np.flatnonzero(stock == 1)[0], -1, -1])
    assert attribute_codes(index, rows, "stock").tolist() == [0, 0, 0, 1, -1, -1]
    assert arrange_slate(
        -np.arange(6.0), 4, SlateSpec(index, rows, quotas=[Quota("stock", 1)])
    ).tolist()[:4] == [0, 3, 4, 5]
    assert arrange_slate(
        -np.arange(6.0), 4, SlateSpec(index, rows, quotas=[Quota("nothing", 1)])
    ).tolist() == list(range(6))


def test_diversity_mixes_categories_and_value_alone_does_not(index):
    rows = np.arange(len(index))
    first = index.category.codes[0]
    values = 1.0 - (index.category.codes != first) * 0.05 - rows * 1e-4
    alone = arrange_slate(
        values, 6, SlateSpec(index, rows, diversity=Diversity(by=["category"], balance=1.0))
    )
    assert index.category.codes[alone[:6]].tolist() == [first] * 6
    for method in ("mmr", "dpp"):
        mixed = arrange_slate(
            values,
            6,
            SlateSpec(
                index, rows, diversity=Diversity(by=["category"], method=method, balance=0.5)
            ),
        )
        assert len(set(index.category.codes[mixed[:4]].tolist())) == 4
        assert mixed[0] == 0
        assert sorted(mixed.tolist()) == rows.tolist()
