"""The many-request scores are those of the index, and no table answers for a moment before it was trained."""

import numpy as np
import pyarrow as pa
import pytest

from tailorbird.events import DAY, ROUTED
from tailorbird.models.baselines import History, Interactions, Questions
from tailorbird.retrieval import Index, build_index
from tailorbird.training.item_to_item import roll


def interactions(people=40, items=30, n=1_500, seed=0):
    rng = np.random.default_rng(seed)
    person, item = rng.integers(0, people, n), np.minimum(rng.geometric(0.1, n), items) - 1
    return History(Interactions(person, item, np.sort(rng.choice(5 * DAY, n, replace=False)), people, items))


def test_scores_are_those_of_the_index(tmp_path):
    history = interactions()
    i = history.interactions
    ids = [f"i{code}" for code in range(i.items)]
    events = pa.table(
        {
            "type": ["click"] * len(i.ts),
            "ts": pa.array(i.ts).cast(ROUTED.field("ts").type),
            "person": [f"u{code}" for code in i.person],
            "item_id": [ids[code] for code in i.item],
        }
    )
    empty = pa.table(
        {"id": pa.array([], pa.string()), "valid_from": pa.array([], ROUTED.field("ts").type), "attributes": pa.array([], pa.string())}
    )
    moment = 4 * DAY
    build_index(tmp_path / "index", events, empty, as_of=moment)
    index = Index.open(tmp_path / "index")
    rolling = roll(history, [moment])
    person = np.arange(10)
    t = np.full(10, moment)
    questions = Questions(t, person, np.repeat(person, i.items), np.tile(np.arange(i.items), 10))
    scores = rolling.score(history, questions).reshape(10, i.items)
    recent, offsets = history.recent(person, t, 10)
    for p in range(10):
        mine = recent[offsets[p] : offsets[p + 1]]
        found = index.item_to_item(index.keys[index.find_ids([ids[code] for code in mine])], i.items)
        by_id = dict(zip([index.ids[row] for row in found.rows], found.scores, strict=True))
        for code in set(range(i.items)) - set(mine.tolist()):
            assert scores[p, code] == pytest.approx(by_id.get(ids[code], 0.0), rel=1e-6)
    request, item = rolling.best(history, t, person, 5)
    for p in range(10):
        assert scores[p, item[request == p]].tolist() == pytest.approx(np.sort(scores[p])[::-1][:5].tolist())


def test_a_moment_before_the_first_table_has_no_score():
    history = interactions()
    rolling = roll(history, [2 * DAY, 4 * DAY])
    assert rolling.slot_of(np.array([2 * DAY - 1, 2 * DAY, 4 * DAY - 1, 4 * DAY])).tolist() == [-1, 0, 0, 1]
    questions = Questions(np.array([2 * DAY - 1]), np.array([0]), np.zeros(30, np.int64), np.arange(30))
    assert not rolling.score(history, questions).any()


def test_a_table_does_not_know_what_came_after_it():
    history = interactions()
    i = history.interactions
    changed = np.where(i.ts >= 3 * DAY, (i.item + 7) % i.items, i.item)
    other = History(Interactions(i.person, changed, i.ts, i.people, i.items))
    before, after = roll(history, [3 * DAY]).tables[0], roll(other, [3 * DAY]).tables[0]
    assert np.array_equal(before.weights, after.weights)
    assert np.array_equal(before.items, after.items)
