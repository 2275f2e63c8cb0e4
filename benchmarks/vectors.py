"""Measure what vectors cost a request.

That is a user's vector, its product with all items, the nearest items, and columns of candidates.

    python -m benchmarks.vectors [--items 100000] [--small] [--json]

One thread, one request at a time, a net with random weights: the cost does not depend on what it
learned. `floor` is the bare product of all items with a vector, a lower bound for every exact
method. Needs the extra `deep`, to make the net; a server does not.
"""

import argparse
import json
import os
import time
from collections.abc import Callable

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np

from tailorbird.events import hash64s
from tailorbird.ranking.encode.rows import RaggedArrays
from tailorbird.ranking.onnx_session import start_session
from tailorbird.ranking.tower import VECTOR_COLUMNS, Space, Tower, TowerPlan
from tailorbird.ranking.tower_net import OnnxNet
from tailorbird.retrieval import Index
from tailorbird.retrieval.vectors import Content, ItemVectors

CANDIDATES, NEAREST = 500, 150
SIZES = {"narrow": (32, 20), "wide": (64, 50)}


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.vectors", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--items", type=int, default=100_000)
    parser.add_argument("--repeats", type=int, default=500)
    parser.add_argument("--small", action="store_true", help="2,000 items, a few repeats")
    parser.add_argument(
        "--json", action="store_true", help="one JSON object on stdout and nothing else"
    )
    given = parser.parse_args()
    items, repeats = (2_000, 50) if given.small else (given.items, given.repeats)
    results = {name: measure_space(items, *size, repeats) for name, size in SIZES.items()}
    if given.json:
        print(json.dumps({"benchmark": "vectors", "items": items, "results": results}))
        return
    for name, stages in results.items():
        print(f"{name}: width and length {SIZES[name]}, {items:,} items")
        for stage, figures in stages.items():
            print(
                f"  {stage:28}"
                + "".join(f"{label} {value:>9,.1f}  " for label, value in figures.items())
            )


def measure_space(items: int, width: int, length: int, repeats: int) -> dict[str, dict[str, float]]:
    """Return median and p99 in µs of each stage, and the ratio of the median to the floor's."""
    space = make_space(items, width, length)
    rng = np.random.default_rng(1)
    items_seen = rng.integers(0, items, length)
    past = RaggedArrays(
        np.array([0, length]), space.index.keys[items_seen], np.arange(length) * 60_000_000
    )
    keys = space.index.keys[rng.integers(0, items, CANDIDATES)]
    request = np.zeros(CANDIDATES, np.intp)
    query = space.query(past)
    stages: dict[str, Callable[[], object]] = {
        "floor": lambda: space.vectors.vectors @ query.user_vector,
        "a person's vector": lambda: space.user_vectors(past, 1),
        "ask: vector and products": lambda: space.query(past),
        f"nearest {NEAREST}": lambda: space.nearest(query, NEAREST),
        f"columns of {CANDIDATES}": lambda: space.vector_columns(
            tuple(VECTOR_COLUMNS), keys, request, past, 1, query
        ),
    }
    figures = {name: time_calls(work, repeats) for name, work in stages.items()}
    totals = [
        sum(figures[name][part] for name in list(stages)[2:]) for part in ("median_us", "p99_us")
    ]
    figures["a request, all together"] = {"median_us": totals[0], "p99_us": totals[1]}
    floor = figures["floor"]["median_us"]
    return {name: row | {"to_floor": row["median_us"] / floor} for name, row in figures.items()}


def time_calls(work: Callable[[], object], repeats: int) -> dict[str, float]:
    for _ in range(5):
        work()
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    median, late = np.quantile(seconds, (0.5, 0.99)) * 1e6
    return {"median_us": float(median), "p99_us": float(late)}


def make_space(items: int, width: int, length: int) -> Space:
    """Return a space with random vectors and weights."""
    import torch

    from tailorbird.models.interactions import Interactions
    from tailorbird.models.retrievers.transformer import SequenceTransformer
    from tailorbird.models.retrievers.transformer.export import tower_to_onnx
    from tailorbird.models.retrievers.transformer.net import SequenceNet
    from tailorbird.models.retrievers.transformer.vectors import SequenceVectors

    recipe = SequenceTransformer(width=width, length=length)
    net = SequenceNet(recipe, 1, torch.zeros((3, 1), dtype=torch.long), torch.ones(3))
    none = np.zeros(0, np.int64)
    data = tower_to_onnx(
        SequenceVectors.from_net(recipe, net, Interactions(none, none, none, 0, 1), [])
    )
    vectors = np.random.default_rng(0).normal(size=(items, width)).astype(np.float32)
    item_vectors = ItemVectors(
        vectors, np.zeros((1, width), np.float32), np.zeros(width, np.float32), Content()
    )
    plan = TowerPlan("recent", length, width, repeats=False, trained_until=0, share=1 / 3)
    tower = Tower(
        plan,
        np.zeros((2, width), np.float32),
        OnnxNet(start_session(data, where="drawn"), width, "drawn"),
    )
    index = Index.from_ids([f"i{number}" for number in range(items)], item_vectors)
    assert np.array_equal(index.keys, hash64s(index.ids))
    return Space(tower, index)


if __name__ == "__main__":
    main()
