"""Each retriever against the same in plain Python, over drawn logs: lists, scores, updates, batches, what is left out."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.models.retrievers import slow

from tailorbird.models.baselines import Interactions
from tailorbird.models.retrievers import EASE, STAN, Contexts, OfItsKind, Popular, VSkNN, WhatGoesWith

ITEMS, PEOPLE, T = 7, 5, 1_000
TOKENS = np.array([[1, 2], [1, 0], [2, 3], [0, 0], [3, 0], [1, 3], [4, 0]])
RECIPES = {
    "popular": Popular(),
    "popular_window": Popular(window_us=300),
    "what_goes_with": WhatGoesWith(),
    "vsknn": VSkNN(),
    "vsknn_few": VSkNN(k=2, sample=3, weighting="quadratic", weighting_score="quadratic", idf_weight=2.0),
    "vsknn_linear": VSkNN(k=3, weighting="linear", weighting_score="linear"),
    "vsknn_log": VSkNN(sample=2, weighting="log", weighting_score="log"),
    "vsknn_same": VSkNN(k=3, weighting="same", weighting_score="same"),
    "stan": STAN(recency_us=500.0),
    "stan_few": STAN(k=2, sample=3, position=0.7, recency_us=90.0, closeness=0.7),
    "same_kind": OfItsKind(TOKENS, window_us=400),
    "ease": EASE(regularisation=1.5, half_life_us=None),
    "ease_decayed": EASE(regularisation=0.5, half_life_us=200),
}
SETTINGS = settings(deadline=None, max_examples=20)


def interactions(events):
    person, item, ts = (np.array([event[at] for event in events], np.int64) for at in range(3))
    return Interactions(person, item, ts, PEOPLE, ITEMS)


def contexts(each, t=T):
    pairs = [pair for context in each for pair in context]
    offsets = np.cumsum([0, *(len(context) for context in each)]).astype(np.int64)
    columns = (np.array([pair[at] for pair in pairs], np.int64) for at in range(2))
    return Contexts(np.full(len(each), t, np.int64), *columns, offsets)


def slowly(name, events, context):
    recipe = RECIPES[name]
    if isinstance(recipe, Popular):
        return slow.popular(events, T, recipe.window_us)
    if isinstance(recipe, WhatGoesWith):
        return slow.what_goes_with(events, context, ITEMS)
    if isinstance(recipe, VSkNN):
        return slow.vsknn(events, context, recipe)
    if isinstance(recipe, STAN):
        return slow.stan(events, context, T, recipe)
    if isinstance(recipe, OfItsKind):
        return slow.same_kind(events, context, T, ITEMS, recipe)
    return slow.ease(events, context, T, ITEMS, recipe)


@st.composite
def logs(draw, least=0):
    # Times differ: which of two sequences that end in the same microsecond is the newer is nobody's promise.
    times = draw(st.lists(st.integers(0, T - 1), min_size=least, max_size=25, unique=True))
    return [(draw(st.integers(0, PEOPLE - 1)), draw(st.integers(0, ITEMS - 1)), ts) for ts in times]


asked = st.lists(
    st.lists(st.tuples(st.integers(0, ITEMS - 1), st.integers(0, T - 1)), max_size=12).map(lambda c: sorted(c, key=lambda pair: pair[1])),
    min_size=1,
    max_size=4,
)


@pytest.mark.parametrize("name", RECIPES)
@SETTINGS
@given(logs(), asked, st.integers(1, 9), st.booleans())
def test_against_plain_python(name, events, each, n, repeats):
    top = RECIPES[name].fit(interactions(events), T).top(contexts(each), n, repeats=repeats)
    assert top.item.shape == top.score.shape == (len(each), n)
    for context, items, scores in zip(each, top.item.tolist(), top.score.tolist(), strict=True):
        expected = slow.listed(slowly(name, events, context), context, ITEMS, repeats=repeats) if events or name == "same_kind" else []
        expected = [(item, score) for item, score in expected if score > 1e-6]
        found = [(item, score) for item, score in zip(items, scores, strict=True) if score > 1e-6]
        # Rounding may swap what is as good as equal: scores must agree place by place, and each item must have its own.
        np.testing.assert_allclose([score for _, score in found], [score for _, score in expected][:n], rtol=2e-4, atol=1e-6)
        own = dict(expected)
        np.testing.assert_allclose([own[item] for item, _ in found], [score for _, score in found], rtol=2e-4, atol=1e-6)
        assert len({item for item, _ in found}) == len(found)
        if not repeats:
            assert not {item for item, _ in found} & {item for item, _ in context}


@pytest.mark.parametrize("name", RECIPES)
@SETTINGS
@given(logs(least=1), asked, st.integers(0, T))
def test_an_update_is_as_good_as_a_fit(name, events, each, border):
    recipe, early, late = RECIPES[name], [e for e in events if e[2] < border], [e for e in events if e[2] >= border]
    updated = recipe.fit(interactions(early), border).updated(interactions(late), T).top(contexts(each), 5)
    fitted = recipe.fit(interactions(sorted(events, key=lambda event: event[2])), T).top(contexts(each), 5)
    np.testing.assert_array_equal(updated.item, fitted.item)
    np.testing.assert_array_equal(updated.score, fitted.score)


@pytest.mark.parametrize("name", RECIPES)
@SETTINGS
@given(logs(), asked, st.integers(1, 9))
def test_a_batch_is_as_good_as_single_questions(name, events, each, n):
    model = RECIPES[name].fit(interactions(events), T)
    together = model.top(contexts(each), n)
    for q, context in enumerate(each):
        alone = model.top(contexts([context]), n)
        np.testing.assert_allclose(alone.score[0], together.score[q], rtol=1e-5)
        if name not in ("ease", "ease_decayed", "same_kind"):  # a matrix product rounds by its shape
            np.testing.assert_array_equal(alone.item[0], together.item[q])


@pytest.mark.parametrize("name", RECIPES)
def test_items_that_a_model_never_saw_are_skipped_and_found_after_an_update(name):
    log = [(person, item, 10 * person + item) for person in range(4) for item in (0, 1, 2)]
    seen = Interactions(*(np.array([e[at] for e in log], np.int64) for at in range(3)), PEOPLE, 3)
    model = RECIPES[name].fit(seen, 900)
    assert model.items == 3
    question = contexts([[(6, 5), (0, 8)]])
    assert set(model.top(question, 3).item[0].tolist()) - {-1} <= {1, 2}
    later = [(4, 0, 950), (4, 6, 960), (3, 0, 970), (3, 6, 980)]
    wider = model.updated(Interactions(*(np.array([e[at] for e in later], np.int64) for at in range(3)), PEOPLE, ITEMS), T)
    assert wider.items == ITEMS
    assert 6 in wider.top(contexts([[(0, 8)]]), 6).item[0]


def test_the_catalogue_of_ease_is_bounded_by_the_most_chosen():
    log = [(person, item, 100 * person + item) for person in range(5) for item in range(6) if item != 3 or person == 0]
    model = EASE(regularisation=1.0, catalogue=5, half_life_us=None).fit(interactions(log), T)
    assert 3 not in model.chosen
    assert 3 not in model.top(contexts([[(0, 1), (1, 2)]]), 9, repeats=True).item


def test_the_same_table_as_the_index_serves(tmp_path):
    from tests.retrieval import shop

    from tailorbird.retrieval import Index, build_index

    build_index(tmp_path / "index", shop.events(), shop.items(), as_of=shop.AS_OF)
    index = Index.open(tmp_path / "index")
    chosen = shop.events().filter(pc_interest(shop.events()))
    rows = index.find_ids(chosen["item_id"].to_pylist()).astype(np.int64)
    people = {name: code for code, name in enumerate(sorted(set(chosen["person"].to_pylist())))}
    person = np.array([people[name] for name in chosen["person"].to_pylist()], np.int64)
    seen = Interactions(person, rows, chosen["ts"].cast("int64").to_numpy(), len(people), len(index))
    model = WhatGoesWith().fit(seen, shop.AS_OF)
    for item in range(len(index)):
        served = index.item_to_item(index.keys[[item]], 3)
        found = model.top(Contexts(np.array([shop.AS_OF]), np.array([item]), np.array([0]), np.array([0, 1])), 3)
        assert [code for code in found.item[0].tolist() if code >= 0] == served.rows.tolist()
        np.testing.assert_allclose(found.score[0][: served.scores.size], served.scores, rtol=1e-6)


def pc_interest(events):
    import pyarrow as pa
    import pyarrow.compute as pc

    kept = pc.and_(pc.is_in(events["type"], pa.array(["click", "view"])), pc.not_equal(events["agent"], "bot"))
    return pc.and_(pc.and_(kept, events["counts"]), pc.less(events["ts"].cast(pa.int64()), _as_of()))


def _as_of():
    from tests.retrieval import shop

    return shop.AS_OF
