"""Items that are new since training are told by what the net learned of unknown ones."""

from types import SimpleNamespace

import numpy as np
import pytest
from tests.support.shops import ranking_world

from tailorbird.events import hash64s
from tailorbird.features.transforms import hashing, transform
from tailorbird.models.deep.layout import build_layout as build_deep_layout
from tailorbird.models.deep.parameters import resolve_parameters
from tailorbird.models.deep.rows import Rows
from tailorbird.ranking.encode.encoder import Encoder
from tailorbird.ranking.encode.rows import RaggedArrays
from tailorbird.training.fit.net_columns import add_net_columns, build_layout
from tailorbird.training.fit.target_encoding import LabelledRows
from tailorbird.training.fit.transforms import fit_transforms

pytestmark = pytest.mark.slow

fit_deep = pytest.importorskip(
    "tailorbird.models.deep.model", reason="needs the extra deep"
).fit_deep

FREQUENT, RARE, NEW = 200, 100, 300
ROWS, LATER = 16_000, 4_000


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    return ranking_world.make_index(tmp_path_factory.mktemp("shop") / "index")


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


def log_loss(p, truth):
    return float(-(truth * np.log(p) + (1 - truth) * np.log1p(-p)).mean())


class Shop:
    """Items are clicked at rates of their own; a rare one has two rows or so, a new one none."""

    def __init__(self, rare):
        self.rng = np.random.default_rng(1)
        self.keys = hash64s(f"item {number}" for number in range(FREQUENT + RARE + NEW))
        self.worth = self.rng.normal(size=len(self.keys))
        self.rare = rare
        self.encoder = Encoder(ranking_world.COLUMNS, ("clicks",), (), (), "recent")

    def drawn(self, n):
        item = self.rng.integers(0, FREQUENT, n)
        if self.rare:
            places = self.rng.choice(n, 2 * RARE, replace=False)
            item[places] = FREQUENT + self.rng.integers(0, RARE, len(places))
        return item

    def with_codes(self, item, index):
        """The encoder as training makes it of the items of its rows."""
        rows = SimpleNamespace(item_vocabulary=SimpleNamespace(keys=self.keys), item_codes=item)
        return add_net_columns(self.encoder, rows, SimpleNamespace(indexes=(index,)))

    def rows(self, encoder, index, item):
        """The matrix, and how probable a click truly is."""
        n = len(item)
        x = self.rng.normal(size=n)
        numeric = np.stack([x, np.zeros(n)], axis=1).astype(np.float32)
        past = RaggedArrays(
            np.arange(n + 1) * 2,
            self.keys[self.rng.integers(0, FREQUENT, 2 * n)],
            np.full(2 * n, ranking_world.T0),
        )
        t = np.full(n, ranking_world.T0 + 3_600_000_000)
        keys, categorical = self.keys[item], np.zeros((n, 2), np.uint64)
        matrix = encoder.encode(
            numeric, categorical, keys, np.arange(n), {"recent": past}, t, index
        )
        return matrix, sigmoid(self.worth[item] + 0.5 * x - 2)


@pytest.mark.parametrize("rare", [False, True], ids=["frequent items alone", "and rare ones"])
@pytest.mark.parametrize("architecture", ["dcn", "mlp"])
def test_items_unseen_in_training_get_the_unknown_code(architecture, rare, index):
    shop = Shop(rare)
    items, watched = shop.drawn(ROWS), shop.drawn(LATER)
    encoder = shop.with_codes(items, index)
    (matrix, truth), (validation, validation_truth) = (
        shop.rows(encoder, index, items),
        shop.rows(encoder, index, watched),
    )
    labels = {"click": (shop.rng.random(ROWS) < truth).astype(np.float32)}
    validation_labels = {"click": (shop.rng.random(LATER) < validation_truth).astype(np.float32)}
    parameters = resolve_parameters(architecture, {"threads": 1, "epochs": 4, "hidden": [32, 16]})
    net = fit_deep(
        architecture,
        parameters,
        build_layout(encoder),
        Rows(matrix, labels),
        Rows(validation, validation_labels),
        seed=1,
    )

    new, new_truth = shop.rows(encoder, index, FREQUENT + RARE + shop.rng.integers(0, NEW, LATER))
    unknown = new.copy()
    unknown[:, encoder.names.index("item_code")] = 1
    scores = net.score(new)["click"]
    assert log_loss(scores, new_truth) < log_loss(np.full(LATER, new_truth.mean()), new_truth)
    np.testing.assert_array_equal(scores, net.score(unknown)["click"])
    seen_items, seen_truth = shop.rows(encoder, index, shop.rng.integers(0, FREQUENT, LATER))
    assert (
        log_loss(net.score(seen_items)["click"], seen_truth) < log_loss(scores, new_truth) - 0.02
    ), "what was seen is told apart all the same"


def test_values_of_rare_hash_buckets_get_the_unknown_code():
    """Of a thousand buckets training fills some fifty: a new value falls into one that was never
    learned.
    """
    rng = np.random.default_rng(2)
    keys = hash64s(f"maker {number}" for number in range(350))
    worth = rng.normal(size=len(keys))
    maker = rng.integers(0, 50, ROWS)
    labels = (rng.random(ROWS) < sigmoid(worth[maker] - 2)).astype(np.float32)
    nothing = LabelledRows(np.arange(ROWS), {"click": np.zeros(ROWS, bool)}, np.ones(ROWS), 0)
    (output,) = fit_transforms(
        [transform("maker", hashing(1_024))], {"maker": keys[maker]}, nothing
    ).outputs
    rows = Rows(output.apply(keys[maker])[:, None].astype(np.float32), {"click": labels})
    net = fit_deep(
        "dcn",
        resolve_parameters("dcn", {"threads": 1, "epochs": 3, "hidden": [32, 16]}),
        build_deep_layout(["maker"], {"maker": output.code_count}),
        rows,
        Rows(rows.matrix[:0], {"click": labels[:0]}),
        seed=1,
    )
    new = 50 + np.arange(300)
    scores = net.score(output.apply(keys[new])[:, None].astype(np.float32))["click"]
    alone = ~np.isin(keys[new] % 1_024, keys[:50] % 1_024)
    assert alone.mean() > 0.9
    assert len(np.unique(scores[alone])) == 1, "all alike"
    assert abs(scores[alone][0] - labels.mean()) < 0.02
