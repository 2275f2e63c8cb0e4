"""Does search find? Graded queries over the products of a shop: BM25 as the product serves it,
vectors, both fused, and re-ranked.

    python -m benchmarks.quality.search [--data PATH] [--wands FOLDER] [--encoder FOLDER] [--json]
    [--small]

    tailorbird  BM25: `retrieval.text`, as /v1/search asks it: fields weighed by hand, stems, one typing error where little is found
    vectors     latent semantic analysis (TF-IDF of words, 128 components) of the same texts, by cosine
    fused       reciprocal ranks of both (k = 60), equal weights: what is usually recommended, untuned
    blended     BM25, as a share of the best hit's, + 0.1 · cosine, among the hits of BM25
    meaning     with --encoder: as a project with `search.encoder` serves it, see `retrieval.meaning`; the weight of each
                fifth of the queries is chosen on the other four, out of WEIGHTS. `meaning_default` has the default weight
    reranked    the first 200 of BM25 and the first 50 by vectors, ordered by LightGBM's lambdarank; learned on four fifths of the queries,
                judged on the other, five times. What was not judged is learned as grade 0, as it is counted below; learned from the
                judged alone, the first way that was tried, it lifts what nobody judged and falls behind BM25 (`reranked_judged`)

NDCG@10 with gain 2^grade − 1 and discount 1/log2(rank + 1), ideal of the judged products; what was
not judged has gain 0, so figures are lower bounds, and `judged_10` says how much of the top was
judged. `judged_alone_ndcg_10` ranks the judged products alone. Intervals and differences are
bootstrapped over queries. `ms` is what one query takes from its words to its order, of the
processor, one thread, models and indexes in memory.

`--wands` takes a copy of github.com/wayfair/WANDS (its folder `dataset`) in place of the data set,
and adds `public_ndcg_10`, the variant of its public figures: gain 2^grade − 1 (exact 3, partial 1,
else 0), discount 1/rank, ideal of ten exact hits however many a query has, the mean over all
queries, as github.com/softwaredoug/cheat-at-search computes it (`idcg_max`, `grade_results`). In it
BM25 is quoted with .541, and the best published, which asks a large language model, with .617.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightgbm
import numpy as np
from scipy.sparse import csr_matrix
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer
from threadpoolctl import threadpool_limits

from benchmarks.quality.running import default_data, environment, folder_or_skip
from benchmarks.quality.search_shops import GRADES, WANDS, Judged, Shop, chorus, wands
from tailorbird.config.settings import SearchSection
from tailorbird.retrieval.index import RERANKED_MIN
from tailorbird.retrieval.meaning import Meaning, MeaningSettings, texts_to_encode, write_meaning
from tailorbird.retrieval.text import FIELDS, TextIndex, write_text_index

TOP = 10
HITS, NEAR = 200, 50
FOLDS, SEED, RESAMPLES = 5, 7, 2_000
COMPONENTS = 128
BLEND = 0.1
TIE = 1e-9
OURS = "tailorbird"
WEIGHTS = (0.0, 0.1, 0.2, 0.3, 0.5, 0.8, 1.2, 2.0)  # of the cosine, see `retrieval.meaning`


class Searcher:
    """Our index, by all fields and by each, and vectors, of one shop."""

    def __init__(self, shop: Shop) -> None:
        self.meaning: Meaning | None = None
        began = time.process_time()
        self._whole = _opened(shop.documents)
        self.index_s = time.process_time() - began
        self._fields = {name: _opened({name: shop.documents[name]}) for name in FIELDS}
        texts = [
            " ".join((title, title, title, category, brand, brand, text[:600]))
            for title, category, brand, text in _rows(shop)
        ]
        self._words = TfidfVectorizer(
            min_df=2, sublinear_tf=True, max_features=60_000, token_pattern=r"\w+"
        )
        words = self._words.fit_transform(texts)
        components = TruncatedSVD(min(COMPONENTS, words.shape[1] - 1), random_state=SEED)
        self._vectors = _unit(components.fit_transform(words)).astype(np.float32)
        self._lifted = np.ascontiguousarray(
            components.components_.T
        )  # a vector for each word: a query reads its own alone
        self._title = [set(title.lower().split()) for title in shop.documents["title"]]
        self._price = np.log1p(shop.price)

    def read_meaning(self, shop: Shop, encoder: Path, cache: Path) -> None:
        """Encode the products, as an index is built in a project with `search.encoder`."""
        with tempfile.TemporaryDirectory() as folder:
            texts = texts_to_encode(shop.documents)
            write_meaning(Path(folder), MeaningSettings(encoder, 1.0, cache), texts)
            files = {
                path.relative_to(folder).as_posix(): path.read_bytes()
                for path in Path(folder).rglob("*")
                if path.is_file()
            }
        self.meaning = Meaning.read(files, len(texts))

    def by_meaning(self, query: str, weight: float) -> np.ndarray:
        """Products by words and meaning, best first, as `Index.search` orders them."""
        assert self.meaning is not None
        rows, scores = self._whole.search(query, RERANKED_MIN)
        rows, scores = replace(self.meaning, weight=weight).mix(query, rows, scores, None)
        return rows[np.lexsort((rows, -scores))]

    def bm25(self, query: str) -> tuple[np.ndarray, np.ndarray]:
        return self._whole.search(query, HITS)

    def near(self, query: str) -> tuple[np.ndarray, np.ndarray]:
        """The cosine of each product, and the nearest, best first."""
        words = csr_matrix(self._words.transform([query]))
        cosines = self._vectors @ _unit((words.data @ self._lifted[words.indices])[None])[0].astype(
            np.float32
        )
        near = np.argpartition(-cosines, min(HITS, len(cosines)) - 1)[:HITS]
        return cosines, near[np.lexsort((near, -cosines[near]))]

    def columns(self, query: str, rows: np.ndarray, cosines: np.ndarray) -> np.ndarray:
        """What the re-ranking model sees of some products, given the cosine of each."""
        found = [_scores(one, query, rows) for one in (self._whole, *self._fields.values())]
        found.append(cosines[rows])
        words = query.lower().split()
        titles = [self._title[row] for row in rows.tolist()]
        found.append(
            np.array(
                [sum(word in title for word in words) / max(len(words), 1) for title in titles]
            )
        )
        found.append(np.array([len(title) for title in titles], float))
        return np.column_stack([*found, self._price[rows]])


def _rows(shop: Shop) -> Iterable[tuple[str, ...]]:
    return zip(
        *(shop.documents[name] for name in ("title", "category", "brand", "text")), strict=True
    )


def _opened(documents: Mapping[str, Sequence[str]]) -> TextIndex:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "text"
        write_text_index(path, documents)
        return TextIndex.load({one.name: one.read_bytes() for one in path.iterdir()})


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9)


def _scores(index: TextIndex, query: str, rows: np.ndarray) -> np.ndarray:
    found, scores = index.search(query, 2_000)
    if not len(found):
        return np.zeros(len(rows))
    order = np.argsort(found)
    at = np.minimum(np.searchsorted(found[order], rows), len(found) - 1)
    return np.where(found[order][at] == rows, scores[order][at], 0.0)


def orders(
    shop: Shop, searcher: Searcher
) -> tuple[dict[str, dict[str, np.ndarray]], dict[str, list[float]]]:
    """Of each method and query the products, best first; and the seconds of the processor that each
    answer took.
    """
    found: dict[str, dict[str, np.ndarray]] = {
        name: {} for name in (OURS, "vectors", "fused", "blended")
    }
    taken: dict[str, list[float]] = {name: [] for name in found}
    pools: dict[str, np.ndarray] = {}
    angles: dict[str, np.ndarray] = {}
    pooled: dict[str, float] = {}
    for query in shop.queries:
        rows, scores, by_words = _timed(lambda query=query: searcher.bm25(query))
        cosines, near, by_vectors = _timed(lambda query=query: searcher.near(query))
        fused, together = _timed(lambda rows=rows, near=near: (_fused(rows, near),))
        blended, added = _timed(
            lambda rows=rows, scores=scores, cosines=cosines: (_blended(rows, scores, cosines),)
        )
        for name, some, spent in (
            (OURS, rows, by_words),
            ("vectors", near, by_vectors),
            ("fused", fused, by_words + by_vectors + together),
            ("blended", blended, by_words + by_vectors + added),
        ):
            found[name][query] = some
            taken[name].append(spent)
        pools[query], angles[query] = np.unique(np.concatenate([rows, near[:NEAR]])), cosines
        pooled[query] = by_words + by_vectors
    for name, learned in (("reranked", pools), ("reranked_judged", {})):
        found[name], spent = _reranked(shop, searcher, pools, angles, learned)
        taken[name] = [pooled[query] + spent[query] for query in shop.queries]
    if searcher.meaning is not None:
        for name, weights in _weights(shop, searcher).items():
            timed = {
                query: _timed(
                    lambda query=query, w=weights[query]: (searcher.by_meaning(query, w),)
                )
                for query in shop.queries
            }
            found[name] = {query: rows for query, (rows, _) in timed.items()}
            taken[name] = [spent for _, spent in timed.values()]
    return found, taken


def _weights(shop: Shop, searcher: Searcher) -> dict[str, dict[str, float]]:
    """Return the weight of the cosine for each query: the default, and chosen on other queries."""
    queries = list(shop.queries)
    fold = np.random.default_rng(SEED).permutation(len(queries)) % FOLDS
    figures = np.array(
        [
            [ndcg(searcher.by_meaning(query, weight), shop.judged[query]) for query in queries]
            for weight in WEIGHTS
        ]
    )
    best = [WEIGHTS[np.nanmean(figures[:, fold != k], axis=1).argmax()] for k in range(FOLDS)]
    default = SearchSection().weight
    return {
        "meaning": {query: best[k] for query, k in zip(queries, fold.tolist(), strict=True)},
        "meaning_default": dict.fromkeys(queries, default),
    }


def _timed(call: Callable[[], tuple[np.ndarray, ...]]) -> tuple[Any, ...]:
    """What it gives, and the seconds of the processor that it took."""
    began = time.process_time()
    found = call()
    return *found, time.process_time() - began


def _blended(rows: np.ndarray, scores: np.ndarray, cosines: np.ndarray) -> np.ndarray:
    share = scores / max(float(scores.max(initial=0.0)), 1e-9)
    return rows[np.argsort(-(share + BLEND * cosines[rows]), kind="stable")]


def _fused(*lists: np.ndarray) -> np.ndarray:
    score: dict[int, float] = {}
    for rows in lists:
        for rank, row in enumerate(rows.tolist(), 1):
            score[row] = score.get(row, 0.0) + 1 / (60 + rank)
    return np.array(sorted(score, key=lambda row: -score[row]), np.int64)


def _reranked(
    shop: Shop,
    searcher: Searcher,
    pools: Mapping[str, np.ndarray],
    angles: Mapping[str, np.ndarray],
    beside: Mapping[str, np.ndarray],
) -> tuple[dict[str, np.ndarray], dict[str, float]]:
    """The pools in order of a model that saw other queries: their judged products, and those
    `beside` with grade 0; and its seconds.
    """
    fold = dict(
        zip(
            shop.queries,
            np.random.default_rng(SEED).permutation(len(shop.queries)) % FOLDS,
            strict=True,
        )
    )
    rows = {
        query: np.union1d(
            beside.get(query, np.zeros(0, np.int64)), sorted(shop.judged[query])
        ).astype(np.int64)
        for query in fold
    }
    columns = {query: searcher.columns(query, rows[query], angles[query]) for query in fold}
    grades = {
        query: [shop.judged[query].get(row, 0.0) for row in rows[query].tolist()] for query in fold
    }
    told = {
        "objective": "lambdarank",
        "num_leaves": 7,
        "learning_rate": 0.05,
        "min_data_in_leaf": 30,
        "lambda_l2": 10.0,
        "verbose": -1,
        "seed": SEED,
        "deterministic": True,
        "num_threads": 1,
    }
    found: dict[str, np.ndarray] = {}
    taken: dict[str, float] = {}
    for number in range(FOLDS):
        learned = [query for query in fold if fold[query] != number]
        groups = [len(grades[query]) for query in learned]
        data = lightgbm.Dataset(
            np.concatenate([columns[query] for query in learned]),
            np.concatenate([grades[query] for query in learned]),
            group=groups,
        )
        model = lightgbm.train(told, data, 150)
        for query in fold:
            if fold[query] == number:
                began = time.process_time()
                scores = np.asarray(
                    model.predict(
                        searcher.columns(query, pools[query], angles[query]), num_threads=1
                    )
                )
                found[query] = pools[query][np.argsort(-scores, kind="stable")]
                taken[query] = time.process_time() - began
    return found, taken


def ndcg(rows: np.ndarray, judged: Judged) -> float:
    gain, ideal = _gains(rows, judged), np.sort([2**one - 1 for one in judged.values()])[::-1][:TOP]
    discount = 1 / np.log2(np.arange(2, TOP + 2))
    best = float(ideal @ discount[: len(ideal)])
    return float(gain @ discount[: len(gain)]) / best if best > 0 else float("nan")


def public_ndcg(rows: np.ndarray, judged: Judged) -> float:
    """As public figures on WANDS are given, see above; `judged` by `GRADES`."""
    gain, discount = _gains(rows, judged), 1 / np.arange(1, TOP + 1)
    return float(gain @ discount[: len(gain)] / ((2 ** max(GRADES.values()) - 1) * discount.sum()))


def _gains(rows: np.ndarray, judged: Judged) -> np.ndarray:
    return np.array([2 ** judged.get(row, 0.0) - 1 for row in rows[:TOP].tolist()])


def case(shop: Shop, encoder: Path | None = None, cache: Path | None = None) -> dict[str, Any]:
    """All figures of a shop."""
    searcher = Searcher(shop)
    if encoder is not None and cache is not None:
        searcher.read_meaning(shop, encoder, cache)
    with threadpool_limits(1):  # what a query takes is told of one thread, as servers answer
        found, taken = orders(shop, searcher)
    value = {
        name: np.array([ndcg(rows[query], shop.judged[query]) for query in shop.queries])
        for name, rows in found.items()
    }
    drawn = np.random.default_rng(SEED).integers(
        0, len(shop.queries), (RESAMPLES, len(shop.queries))
    )
    results, differences = {}, {}
    for name, some in value.items():
        gain = some - value[OURS]
        alone = np.array(
            [_judged_alone(found[name][query], shop.judged[query]) for query in shop.queries]
        )
        judged = [_known(found[name][query], shop.judged[query]) for query in shop.queries]
        results[name] = {
            **_mean("ndcg_10", some, drawn),
            "judged_10": round(float(np.mean(judged)), 4),
            **_mean("judged_alone_ndcg_10", alone, drawn),
            "ms": _times(taken[name]),
        }
        if shop.name == WANDS:
            public = np.array(
                [public_ndcg(found[name][query], shop.judged[query]) for query in shop.queries]
            )
            results[name] |= _mean("public_ndcg_10", public, drawn)
        if name != OURS:
            differences[name] = {
                **_mean("ndcg_10", gain, drawn),
                "wins": int((gain > TIE).sum()),
                "losses": int((gain < -TIE).sum()),
            }
    by_query = [
        {
            "query": query,
            "judged": len(shop.judged[query]),
            **{name: _plain(some[place]) for name, some in value.items()},
        }
        for place, query in enumerate(shop.queries)
    ]
    sizes = {
        "products": len(shop.price),
        "queries": len(shop.queries),
        "judged": sum(map(len, shop.judged.values())),
    }
    return {
        "results": results,
        "differences": differences,
        "queries": by_query,
        "sizes": sizes,
        "index_s": round(searcher.index_s, 2),
    }


def _judged_alone(rows: np.ndarray, judged: Judged) -> float:
    """Return NDCG@10 of the judged products alone, in the order in which they were found."""
    return ndcg(np.array([row for row in rows.tolist() if row in judged], np.int64), judged)


def _known(rows: np.ndarray, judged: Judged) -> float:
    """The share of the top that was judged."""
    return float(np.mean([row in judged for row in rows[:TOP].tolist()] or [0.0]))


def _times(seconds: Sequence[float]) -> dict[str, float]:
    return {
        "p50": round(float(np.median(seconds)) * 1e3, 2),
        "p99": round(float(np.quantile(seconds, 0.99)) * 1e3, 2),
    }


def _mean(name: str, values: np.ndarray, drawn: np.ndarray) -> dict[str, float]:
    """The mean with its interval; queries without a judged hit have no NDCG."""
    low, high = np.nanquantile(np.nanmean(values[drawn], axis=1), [0.025, 0.975])
    return {
        name: round(float(np.nanmean(values)), 4),
        f"{name}_low": round(float(low), 4),
        f"{name}_high": round(float(high), 4),
    }


def _plain(value: float) -> float | None:
    return None if np.isnan(value) else round(float(value), 3)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--data", type=Path, default=default_data(), help="the folder that holds the data sets"
    )
    parser.add_argument(
        "--wands", type=Path, help="one's own copy of WANDS' folder `dataset`, instead"
    )
    parser.add_argument(
        "--encoder", type=Path, help="folder of a sentence encoder: search by meaning too"
    )
    parser.add_argument(
        "--cache",
        type=Path,
        default=Path(tempfile.gettempdir()) / "tailorbird-text-vectors.arrow",
        help="keeps the vectors of texts between runs",
    )
    parser.add_argument("--small", action="store_true", help="every fifth query")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    try:
        shop = (
            wands(given.wands)
            if given.wands
            else chorus(folder_or_skip("chorus-electronics", given.data))
        )
    except (OSError, ValueError) as error:
        parser.error(str(error))
    if given.small:
        shop = Shop(
            shop.name,
            shop.documents,
            shop.price,
            {query: shop.judged[query] for query in shop.queries[::5]},
        )
    report = {
        "benchmark": "search",
        "kind": "search",
        "title": __doc__.splitlines()[0],
        "small": given.small,
    }
    report |= {
        "cases": {shop.name: case(shop, given.encoder, given.cache)},
        "environment": environment(),
    }
    json.dump(report, sys.stdout, indent=None if given.json else 2, ensure_ascii=False)
    print()


if __name__ == "__main__":
    main()
