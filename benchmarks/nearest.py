"""The nearest of many vectors: exact, and by the inverted file of `retrieval.inverted`. Where does
the file begin to be worth it?

python -m benchmarks.nearest [--sizes 50000,100000] [--small] [--json]

A question is what a request asks of vectors when the person's is there: the nearest 100, and log Σ
exp over all. Items are drawn around 500 kinds, with lengths of their own and coordinates of falling
weight (1/√i), as learned vectors have; `even` has no order at all, of which an inverted file can
make nothing: it is not taken. People are drawn as items are; those who say how many lists it takes
are others than those who ask. One thread, one question at a time, microseconds by the processor's
time of the thread, since others use the machine; `p99_us` is by the clock. `ratios`: exact over the
file.
"""

import argparse
import json
import os
import sys
import time
from functools import partial
from importlib.metadata import version
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np

from benchmarks.ingest import cpu
from tailorbird.ranking.encoders import Ragged
from tailorbird.ranking.tower import Space, Tower, TowerPlan
from tailorbird.retrieval import Index
from tailorbird.retrieval.inverted import NEAREST, find_inverted
from tailorbird.retrieval.vectors import Content, ItemVectors

WIDTH, KINDS, PEOPLE = 64, 500, 200
SIZES = (25_000, 50_000, 100_000, 200_000, 500_000, 1_000_000)
NOBODY = Ragged(np.zeros(2, np.int64), np.zeros(0, np.uint64), np.zeros(0, np.int64))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--small", action="store_true", help="25,000 and 50,000 items")
    parser.add_argument(
        "--json", action="store_true", help="one JSON object on stdout and nothing else"
    )
    parser.add_argument(
        "--sizes", default=",".join(map(str, SIZES)), help="of items, apart by commas"
    )
    given = parser.parse_args()
    sizes = SIZES[:2] if given.small else tuple(int(one) for one in given.sizes.split(","))
    results, ratios = {}, {}
    for size in sizes:
        print(f"{size:,} items …", file=sys.stderr, flush=True)
        results[str(size)] = measured(size, kinds=KINDS)
        ratios[str(size)] = results[str(size)]["exact_over_file"]
    results["even"] = measured(min(max(sizes), 200_000), kinds=0)
    versions = {name: version(name) for name in ("numpy",)}
    report: dict[str, Any] = {
        "results": results,
        "ratios": ratios,
        "width": WIDTH,
        "nearest": NEAREST,
        "versions": versions,
        "cpu": cpu(),
    }
    report["load"] = [round(one, 1) for one in os.getloadavg()]
    json.dump(report, sys.stdout, indent=None if given.json else 2)
    print()


def measured(size: int, *, kinds: int) -> dict:
    rng = np.random.default_rng(size)
    at = rng.normal(size=(max(kinds, 1), WIDTH)).astype(np.float32)
    draw = partial(drawn, rng, at if kinds else None)
    vectors = (
        draw(size)
        * np.exp(0.25 * rng.normal(size=(size, 1)).astype(np.float32))
        / np.float32(np.sqrt(WIDTH))
    )
    vectors = vectors.astype(np.float32, copy=False)
    learned, asking = draw(300), draw(PEOPLE)
    began = time.process_time()
    made = find_inverted(vectors, learned)
    build_s = time.process_time() - began
    exact = spaced(vectors, None, asking)
    want, taken = asked(exact, NEAREST)
    found: dict = {"exact": taken, "build_s": round(build_s, 2)}
    if made is None:
        return found | {"file": None, "exact_over_file": None}
    by_file = spaced(vectors, made, asking)
    got, taken = asked(by_file, NEAREST)
    recall = [
        len(np.intersect1d(one[0], other[0])) / NEAREST
        for one, other in zip(want, got, strict=True)
    ]
    wrong = [abs(one[1] - other[1]) for one, other in zip(want, got, strict=True)]
    taken |= {
        "recall": round(float(np.mean(recall)), 4),
        "recall_least": min(recall),
        "log_sum_off": round(float(np.mean(wrong)), 4),
    }
    taken |= {
        "lists": made.measured.lists,
        "of": len(made.begin) - 1,
        "looked_at": made.measured.share,
    }
    ratio = found["exact"]["median_us"] / taken["median_us"]
    return found | {"file": taken, "exact_over_file": round(ratio, 2)}


def drawn(rng: np.random.Generator, at: np.ndarray | None, count: int) -> np.ndarray:
    even = rng.normal(size=(count, WIDTH)).astype(np.float32)
    weight = np.arange(1, WIDTH + 1, dtype=np.float32) ** np.float32(-0.5)
    return (
        even
        if at is None
        else (at[rng.integers(0, len(at), count)] + np.float32(0.7) * even) * weight
    )


def spaced(vectors: np.ndarray, inverted, users: np.ndarray) -> Space:
    """A space in which whoever asks gets the next of some vectors."""
    known = ItemVectors(
        vectors, np.zeros((1, WIDTH), np.float32), np.zeros(WIDTH, np.float32), Content(), inverted
    )
    given = iter(users)
    plan = TowerPlan("recent", 1, WIDTH, repeats=False, trained_until=0, share=1 / 3)
    index = Index.bare([str(one) for one in range(len(vectors))], known)

    def net(vectors: np.ndarray, there: np.ndarray, gap: np.ndarray) -> np.ndarray:
        return next(given)[None]

    return Space(Tower(plan, np.zeros((2, WIDTH), np.float32), net), index)


def asked(space: Space, n: int) -> tuple[list[tuple[np.ndarray, float]], dict[str, float]]:
    """What each found, and what it took."""
    told, spent, passed = [], [], []
    for _ in range(PEOPLE):
        start, own = time.perf_counter(), time.thread_time()
        one = space.ask(NOBODY)
        rows = space.nearest(one, n).rows
        spent.append(time.thread_time() - own)
        passed.append(time.perf_counter() - start)
        told.append((rows, one.total))
    return told, {
        "median_us": round(float(np.median(spent)) * 1e6, 1),
        "p99_us": round(float(np.quantile(passed, 0.99)) * 1e6, 1),
    }


if __name__ == "__main__":
    main()
