"""Clusters of items: something of everything for somebody new, more of what they take up, and a
place for new items.
"""

import numpy as np
import pytest
from tests.support.shops import ranking_world

from tailorbird.errors import BundleError
from tailorbird.retrieval import Index, NewItem, with_items
from tailorbird.retrieval.arrays import array_bytes


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("clusters") / "index"
    ranking_world.make_index(path)
    return path


@pytest.fixture(scope="module")
def index(folder):
    return Index.open(folder)


def categories(index, rows):
    return [index.category.text(int(row)) for row in rows]


def cluster_matches(index, past, n):
    """Return the matches for a history, the newest item first; lower item numbers are more
    popular.
    """
    rows = index.find(ranking_world.keys_of(past))
    return index.rank_by_clusters(
        rows, 0.8 ** np.arange(len(rows)), np.arange(len(index), 0, -1), n
    )


def test_a_new_user_sees_every_cluster(index):
    matches = cluster_matches(index, [], 12)
    assert set(categories(index, matches.rows)) == {"coats", "hats", "shoes", "bags"}
    assert np.all(np.diff(matches.scores) <= 0)


def test_one_event_is_enough_to_see_more_of_it(index):
    none, one, five = (cluster_matches(index, past, 10) for past in ([], [5], [13, 9, 5, 6, 2]))
    share = [categories(index, found.rows).count("hats") / 10 for found in (none, one, five)]
    assert share[0] < share[1]
    assert share[0] < share[2]
    assert index.find_ids(["i5"])[0] not in one.rows


def test_a_new_item_has_a_cluster_at_once(index):
    grown = with_items(index, [NewItem("new", {"title": "Thing 5 felt", "category": "hats"}, 5)])
    row = int(grown.find_ids(["new"])[0])
    assert grown.item_clusters.labels[row] == index.item_clusters.labels[index.find_ids(["i5"])[0]]
    assert row in cluster_matches(grown, [5], len(grown)).rows
    bare = with_items(index, [NewItem("bare", {}, 5)])
    assert bare.item_clusters.labels[-1] == -1


def test_what_may_not_be_shown_is_left_out(index):
    shown = np.array([index.category.text(row) != "hats" for row in range(len(index))])
    matches = cluster_matches(index.restrict(shown), [5], 20)
    assert matches.rows.size
    assert "hats" not in categories(index, matches.rows)


@pytest.mark.parametrize(
    "array",
    [
        np.zeros(3, np.int16),
        np.full(ranking_world.ITEM_COUNT, 99, np.int16),
        np.zeros(ranking_world.ITEM_COUNT, np.int64),
    ],
)
def test_damaged_clusters_are_refused(folder, array):
    files = {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }
    with pytest.raises(BundleError):
        Index.load(files | {"clusters.npy": array_bytes(array)})
