"""Whether the candidates hold what the ranker would choose among all items, and what it takes to find them.

    python -m benchmarks.retrieval [--small] [--json] [--folder DIR] [--requests N] [--sources '{"popular": 500}']

The ranker that serves scores all items for people with a history, by features, vectors and formula, without rules; its own best twenty are
the truth. `recall` is the share of them among the candidates of the slot's sources, merged as in an answer, 500 in all.

    merged    that, and of a request on one thread: the person's vector, all sources and the merge, in microseconds by the clock
              (`median_us`, `p99_us`) and by the processor's time of the thread (`cpu_us`)
    gave      how many candidates came first from each source, on average; `found`: the share of the truth that it brought first
    alone     recall of each source if it were the only one, asked for as many; `without`: of all others, asked for as many
    nearest   of the vectors alone: recall of the nearest 100 by the inverted file beside all products, and the time of both

`ratios.exact` is the time of all products over the inverted file's. Site, ranker, tower and index are made once and kept in --folder
(`benchmarks.retrieval_site`); needs what training needs.
"""

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np

from benchmarks.ingest import cpu
from benchmarks.retrieval_site import SLOT, LearnedSite
from benchmarks.serving_site import Size
from benchmarks.site import START
from tailorbird.features import ReadRequest
from tailorbird.features.read import Reader
from tailorbird.ranking.bundle import Bundle
from tailorbird.ranking.tower import SequenceLike, Space
from tailorbird.retrieval import Candidates, candidates, in_order, with_sequence

TOP, NEAREST, HISTORY, REPEATS, SEED = 20, 100, 3, 5, 8


@dataclass(frozen=True)
class Asked:
    """One request: the newest items of who asks, keys of all that the person saw, and rows of the ranker's own best."""

    sequence: SequenceLike
    around: np.ndarray
    best: np.ndarray


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help="a tenth of the items, few people and requests")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout and nothing else")
    parser.add_argument("--folder", type=Path, help="where the site is kept; about a GB")
    parser.add_argument("--requests", type=int, default=200)
    parser.add_argument("--sources", type=json.loads, default=dict(SLOT.sources), help="as a slot has them, as JSON")
    given = parser.parse_args()
    size = Size(people=2_000, items=10_000, events=60_000, trees=100) if given.small else Size(people=60_000, events=1_000_000)
    with tempfile.TemporaryDirectory() as folder:
        site = LearnedSite(given.folder or Path(folder) / "site", size)
        site.make(lambda what: print(f"building {what} …", file=sys.stderr, flush=True))
        report = measured(site, given.sources, 20 if given.small else given.requests)
    report |= {
        "sizes": {"people": size.people, "items": size.items, "events": size.events, "trees": size.trees},
        "versions": {name: version(name) for name in ("numpy", "onnxruntime")} | {"python": platform.python_version()},
        "cpu": cpu(),
        "load": [round(one, 1) for one in os.getloadavg()],
    }
    json.dump(report, sys.stdout, indent=None if given.json else 2)
    print()


def measured(site: LearnedSite, sources: Mapping[str, int], count: int) -> dict:
    bundle = site.bundle()
    space = bundle.space
    assert space is not None
    assert bundle.tower is not None
    asked = list(people(site, bundle, space, count))
    sources = with_sequence(sources, bundle.tower.plan.share)
    total = sum(sources.values())
    found = [retrieved(space, one, sources) for one in asked]
    truth = [dict(zip(one.rows.tolist(), one.source_names(), strict=True)) for one in found]
    names = [known.get(row) for known, one in zip(truth, asked, strict=True) for row in one.best.tolist()]
    hits = [np.mean(np.isin(one.best, got.rows)) for one, got in zip(asked, found, strict=True)]
    merged = {
        "recall": round(float(np.mean(hits)), 4),
        "recall_p10": round(float(np.quantile(hits, 0.1)), 4),
        "candidates": round(float(np.mean([one.rows.size for one in found])), 1),
        **timed(space, asked, sources),
    }
    alone = {name: recall(space, asked, {name: total}) for name in sources}
    without = {name: recall(space, asked, {other: limit for other, limit in sources.items() if other != name}, total) for name in sources}
    results = {
        "merged": merged,
        "sources": dict(sources),
        "gave": {name: round(float(np.mean([one.contributed[name] for one in found])), 1) for name in sources},
        "found": {name: round(names.count(name) / len(names), 4) for name in (*sources, None)},
        "alone": alone,
        "without": without,
        "nearest": nearest(space, asked),
    }
    results["found"]["missed"] = results["found"].pop(None)
    return {"results": results, "ratios": {"exact": results["nearest"]["exact_over_file"]}}


def people(site: LearnedSite, bundle: Bundle, space: Space, count: int) -> Iterator[Asked]:
    """People with a history, who come as they came before, and what the ranker would show them if it could score everything."""
    reader, seen = Reader(site.state, site.features), Reader(site.state_seen, site.seen)
    for body in site.requests(4 * count, SEED):
        if not count:
            break
        request = ReadRequest(person=body["user_id"], now=START, **body["context"])
        sequence = reader.person(request).sequences[bundle.encoder.sequence]
        if sequence.item.size >= HISTORY:
            count -= 1
            around = in_order([(one.item, one.ts) for one in (seen.person(request).sequences["seen"], sequence)])
            yield Asked(sequence, around, best_of(site, bundle, space, reader, request))
    reader.close()
    seen.close()


def best_of(site: LearnedSite, bundle: Bundle, space: Space, reader: Reader, request: ReadRequest) -> np.ndarray:
    """Rows of the ranker's own best for a person; scored once and kept, for it takes a second and more."""
    kept = site.folder / "best" / f"{request.person}.npy"
    if not kept.exists():
        rows = reader.read(request, list(bundle.index.ids))
        asked = space.ask(rows.sequences[bundle.encoder.sequence])
        value = bundle.score(rows, bundle.index.keys, objective=SLOT.objective, asked=asked).value
        kept.parent.mkdir(exist_ok=True)
        np.save(kept, np.lexsort((np.arange(value.size), -value))[:TOP])
    return np.load(kept)


def retrieved(space: Space, one: Asked, sources: Mapping[str, int]) -> Candidates:
    """As an answer finds its candidates."""
    near = partial(space.nearest, space.ask(one.sequence)) if "sequence" in sources else None
    return candidates(space.index, sources, recent=one.sequence.item, around=one.around, near=near)


def recall(space: Space, asked: list[Asked], sources: Mapping[str, int], total: int = 0) -> float:
    """The share of the truth among so many candidates."""
    given = sum(sources.values())
    scaled = {name: limit * total // given for name, limit in sources.items()} if total and given else sources
    return round(float(np.mean([np.mean(np.isin(one.best, retrieved(space, one, scaled).rows)) for one in asked])), 4)


def timed(space: Space, asked: list[Asked], sources: Mapping[str, int]) -> dict[str, float]:
    passed, spent = [], []
    for place in range(REPEATS * len(asked)):
        start, own = time.perf_counter(), time.thread_time()
        retrieved(space, asked[place % len(asked)], sources)
        spent.append(time.thread_time() - own)
        passed.append(time.perf_counter() - start)
    named = {"median_us": np.median(passed), "p99_us": np.quantile(passed, 0.99)}
    named |= {"cpu_us": np.median(spent), "cpu_p99_us": np.quantile(spent, 0.99)}
    return {name: round(float(value) * 1e6, 1) for name, value in named.items()}


def nearest(space: Space, asked: list[Asked]) -> dict[str, float | int | None]:
    """The inverted file of the bundle beside all products."""
    known = space.vectors
    inverted = known.inverted or known.indexed(space.users(None, 1)).inverted
    exact = replace(space, index=replace(space.index, vectors=replace(known, inverted=None)))
    by_file = replace(space, index=replace(space.index, vectors=replace(known, inverted=inverted)))
    want, exact_us = near(exact, asked)
    if inverted is None:
        return {"file": None, "exact_us": exact_us, "exact_over_file": None}
    got, file_us = near(by_file, asked)
    hits = [len(np.intersect1d(one, other)) / NEAREST for one, other in zip(want, got, strict=True)]
    recall = {"recall_100": round(float(np.mean(hits)), 4), "recall_least": min(hits)}
    told: dict[str, float | int | None] = {**recall, "exact_us": exact_us, "file_us": file_us}
    lists = {"lists": inverted.measured.lists, "of": inverted.begin.size - 1, "looked_at": inverted.measured.share}
    return told | lists | {"exact_over_file": round(exact_us / file_us, 2)}


def near(space: Space, asked: list[Asked]) -> tuple[list[np.ndarray], float]:
    found, spent = [], []
    for one in asked:
        own = time.thread_time()
        found.append(space.nearest(space.ask(one.sequence), NEAREST).rows)
        spent.append(time.thread_time() - own)
    return found, round(float(np.median(spent)) * 1e6, 1)


if __name__ == "__main__":
    main()
