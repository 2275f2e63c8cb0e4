"""The sequence transformer: what it learns, what it must not see, the same again by its seed, and
its tower as ONNX.
"""

from dataclasses import replace

import numpy as np
import pytest

from tailorbird.events import SECOND
from tailorbird.models.interactions import Interactions
from tailorbird.models.retrievers import Contexts
from tailorbird.models.retrievers.transformer import SequenceTransformer
from tailorbird.models.retrievers.transformer.batches import (
    NO_GAP,
    SequenceWindows,
    build_inputs,
    gap_bucket,
)

torch = pytest.importorskip("torch", reason="needs the extra `deep`")

from tailorbird.models.retrievers.transformer.learning import compute_batch_loss  # noqa: E402

ITEMS = 12
KINDS = (np.arange(ITEMS) % 3 + 1)[:, None]  # an item goes on to one of the next kind
SMALL = SequenceTransformer(
    width=16,
    heads=2,
    layers=1,
    length=6,
    steps=150,
    batch=32,
    rate=1e-2,
    negatives=5,
    dropout=0.0,
    content=KINDS,
)


def log(people=60, length=8, seed=0, items=ITEMS):
    """Each person walks a ring of items, in steps of one."""
    start = np.random.default_rng(seed).integers(0, items, people)
    person = np.repeat(np.arange(people), length)
    item = (start[person] + np.tile(np.arange(length), people)) % items
    return Interactions(person, item, np.arange(len(person)) * SECOND, people, ITEMS)


def contexts_of(*pasts):
    offsets = np.cumsum([0, *(len(past) for past in pasts)]).astype(np.int64)
    item = np.array([item for past in pasts for item in past], np.int64)
    return Contexts(np.full(len(pasts), 10**12), item, np.arange(len(item)) * SECOND, offsets)


@pytest.fixture(scope="module")
def model():
    return SMALL.fit(log(), 10**12)


@pytest.mark.slow
def test_it_learns_what_follows(model):
    top = model.top(contexts_of([3, 4, 5], [11], [9, 10, 11, 0, 1, 2, 3, 4]), 1)
    assert top.item[:, 0].tolist() == [6, 0, 5]
    assert np.mean(model.losses[-20:]) < 0.6 * np.mean(model.losses[:5])


@pytest.mark.slow
def test_the_same_seed_gives_the_same_weights(model):
    again = SMALL.fit(log(), 10**12)
    np.testing.assert_array_equal(again.item_vectors, model.item_vectors)
    np.testing.assert_array_equal(
        again.user_vectors(contexts_of([1, 2])), model.user_vectors(contexts_of([1, 2]))
    )


def test_one_vector_per_query_regardless_of_its_length(model):
    vectors = model.user_vectors(contexts_of([], [1], [1] * 30, [ITEMS + 5, 1]))
    assert vectors.shape == (4, 16)
    assert vectors.dtype == np.float32
    assert np.isfinite(vectors).all()
    np.testing.assert_array_equal(
        vectors[3], vectors[1]
    )  # an item that it does not know is skipped
    for repeats in (False, True):
        assert (1 in model.top(contexts_of([1, 2]), ITEMS, repeats=repeats).item) == repeats


def test_no_position_sees_later_items(model):
    source, gap, _ = (
        torch.from_numpy(each)
        for each in SequenceWindows.from_interactions(log()).draw_batch(0, 0, 8, 6)
    )
    changed = source.clone()
    changed[:, 4:] = 1
    with torch.no_grad():
        states = [model.net(model.net.items(codes), codes > 0, gap) for codes in (source, changed)]
    torch.testing.assert_close(states[0][:, :4], states[1][:, :4])
    assert not torch.allclose(states[0][:, 5], states[1][:, 5])


def test_a_stretch_is_shifted_by_one_and_begins_with_the_start():
    seen = Interactions(
        np.array([0, 0, 0]), np.array([5, 6, 7]), np.array([0, 3, 10]) * SECOND, 1, ITEMS
    )
    stretches = SequenceWindows.from_interactions(seen)
    batches = [stretches.draw_batch(0, step, 4, 4) for step in range(8)]
    rows = {
        tuple(map(tuple, (source, gap, target)))
        for batch in batches
        for source, gap, target in zip(*batch, strict=True)
    }
    none, start = NO_GAP, ITEMS + 1
    assert ((0, start, 6, 7), (none, none, none, 2), (0, 6, 7, 8)) in rows
    assert ((0, 0, 0, start), (none,) * 4, (0, 0, 0, 6)) in rows
    query_source, query_gap = build_inputs(
        Contexts(np.array([99]), seen.item[:2], seen.ts[:2], np.array([0, 2])), ITEMS, 4
    )
    assert query_source.tolist() == [[0, start, 6, 7]]
    assert query_gap.tolist() == [[none, none, none, 2]]
    assert gap_bucket(np.array([0, SECOND, -5, 1 << 62])).tolist() == [0, 1, 0, 31]


def test_queries_equal_training_windows_for_long_histories_too():
    """The window of a question is the stretch that its answer ended, whether what lies before the
    window is at hand or not.
    """
    seen = log(people=40, seed=5)
    stretches, length, longer = SequenceWindows.from_interactions(seen), 4, 0
    for step in range(20):
        source, gap, _ = stretches.draw_batch(1, step, 16, length)
        for row, last in enumerate(
            np.random.default_rng((1, step)).integers(0, len(stretches.item), 16)
        ):
            before = slice(stretches.sequence_start[last], last)
            past = Contexts(
                stretches.ts[[last]],
                stretches.item[before],
                stretches.ts[before],
                np.array([0, last - stretches.sequence_start[last]]),
            )
            longer += len(past.item) > length
            for context in (past, past.truncate(length)):
                query_source, query_gap = build_inputs(context, ITEMS, length)
                assert query_source[0].tolist() == source[row].tolist()
                assert query_gap[0].tolist() == gap[row].tolist()
    assert longer > 20


def test_items_without_any_event_are_retrieved_by_content():
    recipe = SequenceTransformer(
        width=16,
        heads=2,
        layers=1,
        length=4,
        steps=250,
        batch=32,
        rate=1e-2,
        negatives=16,
        dropout=0.0,
        id_dropout=0.4,
        content=KINDS,
    )
    rng = np.random.default_rng(0)
    kinds = (rng.integers(0, 3, (120, 1)) + np.arange(6)) % 3
    item = kinds + 3 * rng.integers(0, 3, kinds.shape)  # 9, 10 and 11 never happen
    people = np.repeat(np.arange(120), 6)
    model = recipe.fit(
        Interactions(people, item.ravel(), np.arange(720) * SECOND, 120, ITEMS), 10**12
    )
    scores = model.user_vectors(contexts_of([0, 4], [1, 5], [2, 3])) @ model.item_vectors[9:].T
    assert scores.argmax(axis=1).tolist() == [2, 0, 1]
    scores = (
        model.without_ids().user_vectors(contexts_of([0, 4], [1, 5], [2, 3]))
        @ model.without_ids().item_vectors[9:].T
    )
    assert scores.argmax(axis=1).tolist() == [2, 0, 1]


def test_few_items_are_all_negatives_without_sampling(model):
    """The loss is that of the softmax over all items that were met: here all but the last."""
    source, gap, target = (
        torch.from_numpy(each)
        for each in SequenceWindows.from_interactions(log(items=ITEMS - 1)).draw_batch(0, 0, 8, 6)
    )
    share = torch.full((ITEMS,), 1 / (ITEMS - 1))
    share[-1] = 0
    recipe = replace(SMALL, negatives=ITEMS // 2, id_dropout=0.0)
    with torch.no_grad():
        losses = [
            compute_batch_loss(
                model.net, recipe, source, gap, target, share, torch.Generator().manual_seed(seed)
            )
            for seed in (1, 2)
        ]
        state = model.net(model.net.items(source), source > 0, gap)[target > 0]
        chance = torch.softmax(state @ model.net.items(torch.arange(1, ITEMS)).T, dim=1)
        target_chance = chance.gather(1, target[target > 0][:, None] - 1)
    assert losses[0] == losses[1]
    assert losses[0] == pytest.approx(float(-torch.log(target_chance).mean()), abs=1e-5)


def test_an_update_continues_from_the_weights(model):
    more = log(people=5, seed=3)
    updated = model.updated(
        Interactions(more.person, more.item, more.ts + 10**9, more.person_count, ITEMS), 10**12
    )
    assert len(updated.losses) > len(model.losses)
    assert np.mean(updated.losses[len(model.losses) :][:10]) < np.mean(model.losses[:10])
    assert updated.top(contexts_of([3, 4, 5]), 1).item[0, 0] == 6


@pytest.mark.slow
def test_the_tower_as_onnx_gives_the_same_vectors(model):
    pytest.importorskip("onnxscript", reason="needs the extra `deep`")
    onnxruntime = pytest.importorskip("onnxruntime")
    from tailorbird.models.retrievers.transformer.export import tower_to_onnx

    session = onnxruntime.InferenceSession(tower_to_onnx(model), providers=["CPUExecutionProvider"])
    rng = np.random.default_rng(1)
    for rows in (1, 2, 500):
        questions = contexts_of(
            *(rng.integers(0, ITEMS, rng.integers(0, 9)).tolist() for _ in range(rows))
        )
        item, gap = build_inputs(questions.truncate(6), ITEMS, 6)
        (vectors,) = session.run(
            None, {"vectors": model.input_vectors[item], "there": item > 0, "gap": gap}
        )
        np.testing.assert_allclose(vectors, model.user_vectors(questions), atol=1e-4)
