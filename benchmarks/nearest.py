"""Compare exact nearest neighbours with the inverted file of `retrieval.inverted`, by size.

    python -m benchmarks.nearest [--sizes 50000,100000] [--small] [--json]

A query is what a request asks of vectors once the user is there: the nearest 100, and log Σ exp
over all. Items are drawn around 500 centers, with lengths of their own and coordinates of falling
weight (1/√i), as learned vectors have. `even` has no structure at all, so an inverted file gains
nothing and is not used. Users are drawn as items are; those who set the number of lists are not
those who query. One thread, one query at a time, in microseconds of the thread's CPU time, since
others use the machine; `p99_us` is wall time. `ratios`: exact over the file.
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

from benchmarks.ingest import cpu_name
from tailorbird.ranking.encode.rows import RaggedArrays
from tailorbird.ranking.tower import Space, Tower, TowerPlan
from tailorbird.retrieval import Index
from tailorbird.retrieval.inverted import NEAREST_COUNT, build_inverted
from tailorbird.retrieval.vectors import Content, ItemVectors

WIDTH, KINDS, PEOPLE = 64, 500, 200
SIZES = (25_000, 50_000, 100_000, 200_000, 500_000, 1_000_000)
EMPTY_HISTORY = RaggedArrays(np.zeros(2, np.int64), np.zeros(0, np.uint64), np.zeros(0, np.int64))


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
    arguments = parser.parse_args()
    sizes = SIZES[:2] if arguments.small else tuple(int(one) for one in arguments.sizes.split(","))
    results, ratios = {}, {}
    for size in sizes:
        print(f"{size:,} items …", file=sys.stderr, flush=True)
        results[str(size)] = measure_size(size, kinds=KINDS)
        ratios[str(size)] = results[str(size)]["exact_over_file"]
    results["even"] = measure_size(min(max(sizes), 200_000), kinds=0)
    versions = {name: version(name) for name in ("numpy",)}
    report: dict[str, Any] = {
        "results": results,
        "ratios": ratios,
        "width": WIDTH,
        "nearest": NEAREST_COUNT,
        "versions": versions,
        "cpu": cpu_name(),
    }
    report["load"] = [round(one, 1) for one in os.getloadavg()]
    json.dump(report, sys.stdout, indent=None if arguments.json else 2)
    print()


def measure_size(size: int, *, kinds: int) -> dict:
    rng = np.random.default_rng(size)
    centers = rng.normal(size=(max(kinds, 1), WIDTH)).astype(np.float32)
    draw = partial(draw_vectors, rng, centers if kinds else None)
    vectors = (
        draw(size)
        * np.exp(0.25 * rng.normal(size=(size, 1)).astype(np.float32))
        / np.float32(np.sqrt(WIDTH))
    )
    vectors = vectors.astype(np.float32, copy=False)
    sample, queries = draw(300), draw(PEOPLE)
    started = time.process_time()
    inverted_file = build_inverted(vectors, sample)
    build_s = time.process_time() - started
    exact = make_space(vectors, None, queries)
    exact_answers, taken = query_space(exact, NEAREST_COUNT)
    result: dict = {"exact": taken, "build_s": round(build_s, 2)}
    if inverted_file is None:
        return result | {"file": None, "exact_over_file": None}
    file_space = make_space(vectors, inverted_file, queries)
    file_answers, taken = query_space(file_space, NEAREST_COUNT)
    recall = [
        len(np.intersect1d(exact_answer[0], file_answer[0])) / NEAREST_COUNT
        for exact_answer, file_answer in zip(exact_answers, file_answers, strict=True)
    ]
    log_sum_errors = [
        abs(exact_answer[1] - file_answer[1])
        for exact_answer, file_answer in zip(exact_answers, file_answers, strict=True)
    ]
    taken |= {
        "recall": round(float(np.mean(recall)), 4),
        "recall_least": min(recall),
        "log_sum_off": round(float(np.mean(log_sum_errors)), 4),
    }
    taken |= {
        "lists": inverted_file.calibration.lists,
        "of": len(inverted_file.offsets) - 1,
        "looked_at": inverted_file.calibration.share,
    }
    ratio = result["exact"]["median_us"] / taken["median_us"]
    return result | {"file": taken, "exact_over_file": round(ratio, 2)}


def draw_vectors(rng: np.random.Generator, centers: np.ndarray | None, count: int) -> np.ndarray:
    noise = rng.normal(size=(count, WIDTH)).astype(np.float32)
    decay = np.arange(1, WIDTH + 1, dtype=np.float32) ** np.float32(-0.5)
    return (
        noise
        if centers is None
        else (centers[rng.integers(0, len(centers), count)] + np.float32(0.7) * noise) * decay
    )


def make_space(vectors: np.ndarray, inverted, users: np.ndarray) -> Space:
    """Return a space in which each query gets the next of some user vectors."""
    item_vectors = ItemVectors(
        vectors, np.zeros((1, WIDTH), np.float32), np.zeros(WIDTH, np.float32), Content(), inverted
    )
    user_vectors = iter(users)
    plan = TowerPlan("recent", 1, WIDTH, repeats=False, trained_until=0, share=1 / 3)
    index = Index.from_ids([str(one) for one in range(len(vectors))], item_vectors)

    def net(vectors: np.ndarray, is_present: np.ndarray, gap: np.ndarray) -> np.ndarray:
        return next(user_vectors)[None]

    return Space(Tower(plan, np.zeros((2, WIDTH), np.float32), net), index)


def query_space(space: Space, n: int) -> tuple[list[tuple[np.ndarray, float]], dict[str, float]]:
    """Query a space `PEOPLE` times; return rows and log sum of each query, and the time taken."""
    answers, cpu_seconds, wall_seconds = [], [], []
    for _ in range(PEOPLE):
        start, own = time.perf_counter(), time.thread_time()
        query = space.query(EMPTY_HISTORY)
        rows = space.nearest(query, n).rows
        cpu_seconds.append(time.thread_time() - own)
        wall_seconds.append(time.perf_counter() - start)
        answers.append((rows, query.log_sum))
    return answers, {
        "median_us": round(float(np.median(cpu_seconds)) * 1e6, 1),
        "p99_us": round(float(np.quantile(wall_seconds, 0.99)) * 1e6, 1),
    }


if __name__ == "__main__":
    main()
