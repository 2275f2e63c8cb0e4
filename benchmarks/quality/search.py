"""Benchmark search on graded queries: BM25 as served, vectors, both fused, and re-ranked.

    python -m benchmarks.quality.search [--data PATH] [--wands FOLDER] [--encoder FOLDER] [--json]
    [--small]

    tailorbird  BM25: `retrieval.text`, as /v1/search calls it: fields weighted by hand, stems, one
                typing error where little is found
    vectors     latent semantic analysis (TF-IDF of words, 128 components) of the same texts, by
                cosine
    fused       reciprocal ranks of both (k = 60), equal weights: the usual recommendation, untuned
    blended     BM25, as a share of the best hit's, + 0.1 · cosine, among the hits of BM25
    meaning     with --encoder: as a project with `search.encoder` serves it, see
                `retrieval.meaning`; the weight of each fifth of the queries is chosen on the other
                four, out of WEIGHTS. `meaning_default` has the default weight
    reranked    the first 200 of BM25 and the first 50 by vectors, ordered by LightGBM's lambdarank;
                learned on four fifths of the queries, evaluated on the other, five times. Unjudged
                products are learned as grade 0, as they count below; learned from the judged alone,
                the first attempt, it lifts unjudged products and falls behind BM25
                (`reranked_judged`)

NDCG@10 has gain 2^grade − 1 and discount 1/log2(rank + 1), with the ideal of the judged products.
Unjudged products have gain 0, so figures are lower bounds, and `judged_10` is the judged share of
the top ten. `judged_alone_ndcg_10` ranks the judged products alone. Intervals and differences are
bootstrapped over queries. `ms` is the CPU time of one query from its words to its order, on one
thread, with models and indexes in memory.

`--wands` takes a copy of github.com/wayfair/WANDS (its folder `dataset`) in place of the data set,
and adds `public_ndcg_10`, the variant of its public figures: gain 2^grade − 1 (exact 3, partial 1,
else 0), discount 1/rank, ideal of ten exact hits however many a query has, the mean over all
queries, as github.com/softwaredoug/cheat-at-search computes it (`idcg_max`, `grade_results`). In it
BM25 is quoted with .541, and the best published, which uses a large language model, with .617.
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

from benchmarks.quality.parts.search_shops import (
    GRADES,
    WANDS,
    GradeByRow,
    Shop,
    read_chorus,
    read_wands,
)
from benchmarks.quality.running import default_data, environment, require_data_set
from tailorbird.config.training_settings import SearchSection
from tailorbird.retrieval.index import RERANKED_MIN
from tailorbird.retrieval.meaning import (
    TextVectors,
    TextVectorSettings,
    texts_to_encode,
    write_text_vectors,
)
from tailorbird.retrieval.text import FIELD_WEIGHTS, TextIndex, write_text_index

TOP_K = 10
BM25_HITS, NEAREST_COUNT = 200, 50
FOLDS, SEED, RESAMPLES = 5, 7, 2_000
COMPONENTS = 128
BLEND_WEIGHT = 0.1
TIE = 1e-9
OUR_METHOD = "tailorbird"
COSINE_WEIGHTS = (0.0, 0.1, 0.2, 0.3, 0.5, 0.8, 1.2, 2.0)  # of the cosine, see `retrieval.meaning`


class Searcher:
    """Our index of one shop, over all fields and over each, and vectors."""

    def __init__(self, shop: Shop) -> None:
        self.meaning: TextVectors | None = None
        started = time.process_time()
        self._all_fields_index = _open_index(shop.documents)
        self.index_s = time.process_time() - started
        self._index_by_field = {
            name: _open_index({name: shop.documents[name]}) for name in FIELD_WEIGHTS
        }
        texts = [
            " ".join((title, title, title, category, brand, brand, text[:600]))
            for title, category, brand, text in _document_rows(shop)
        ]
        self._vectoriser = TfidfVectorizer(
            min_df=2, sublinear_tf=True, max_features=60_000, token_pattern=r"\w+"
        )
        words = self._vectoriser.fit_transform(texts)
        components = TruncatedSVD(min(COMPONENTS, words.shape[1] - 1), random_state=SEED)
        self._vectors = _normalise(components.fit_transform(words)).astype(np.float32)
        self._word_vectors = np.ascontiguousarray(
            components.components_.T
        )  # a vector for each word, so that a query reads only those of its words
        self._title_words = [set(title.lower().split()) for title in shop.documents["title"]]
        self._log_price = np.log1p(shop.price)

    def load_meaning(self, shop: Shop, encoder: Path, cache: Path) -> None:
        """Encode the products, as an index is built in a project with `search.encoder`."""
        with tempfile.TemporaryDirectory() as folder:
            texts = texts_to_encode(shop.documents)
            write_text_vectors(Path(folder), TextVectorSettings(encoder, 1.0, cache), texts)
            files = {
                path.relative_to(folder).as_posix(): path.read_bytes()
                for path in Path(folder).rglob("*")
                if path.is_file()
            }
        self.meaning = TextVectors.read(files, len(texts))

    def rank_by_meaning(self, query: str, weight: float) -> np.ndarray:
        """Rank products by words and meaning, best first, as `Index.search` orders them."""
        assert self.meaning is not None
        rows, scores = self._all_fields_index.search(query, RERANKED_MIN)
        rows, scores = replace(self.meaning, weight=weight).combine_with_cosines(
            query, rows, scores, None
        )
        return rows[np.lexsort((rows, -scores))]

    def search_bm25(self, query: str) -> tuple[np.ndarray, np.ndarray]:
        return self._all_fields_index.search(query, BM25_HITS)

    def find_nearest(self, query: str) -> tuple[np.ndarray, np.ndarray]:
        """Return the cosine of each product, and the nearest products, best first."""
        words = csr_matrix(self._vectoriser.transform([query]))
        cosines = self._vectors @ _normalise(
            (words.data @ self._word_vectors[words.indices])[None]
        )[0].astype(np.float32)
        near = np.argpartition(-cosines, min(BM25_HITS, len(cosines)) - 1)[:BM25_HITS]
        return cosines, near[np.lexsort((near, -cosines[near]))]

    def compute_features(self, query: str, rows: np.ndarray, cosines: np.ndarray) -> np.ndarray:
        """Return the re-ranking model's features of some products, given all cosines."""
        columns = [
            _scores_of_rows(index, query, rows)
            for index in (self._all_fields_index, *self._index_by_field.values())
        ]
        columns.append(cosines[rows])
        words = query.lower().split()
        titles = [self._title_words[row] for row in rows.tolist()]
        columns.append(
            np.array(
                [sum(word in title for word in words) / max(len(words), 1) for title in titles]
            )
        )
        columns.append(np.array([len(title) for title in titles], float))
        return np.column_stack([*columns, self._log_price[rows]])


def _document_rows(shop: Shop) -> Iterable[tuple[str, ...]]:
    return zip(
        *(shop.documents[name] for name in ("title", "category", "brand", "text")), strict=True
    )


def _open_index(documents: Mapping[str, Sequence[str]]) -> TextIndex:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "text"
        write_text_index(path, documents)
        return TextIndex.load({file.name: file.read_bytes() for file in path.iterdir()})


def _normalise(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9)


def _scores_of_rows(index: TextIndex, query: str, rows: np.ndarray) -> np.ndarray:
    hits, scores = index.search(query, 2_000)
    if not len(hits):
        return np.zeros(len(rows))
    order = np.argsort(hits)
    position = np.minimum(np.searchsorted(hits[order], rows), len(hits) - 1)
    return np.where(hits[order][position] == rows, scores[order][position], 0.0)


def rank_products(
    shop: Shop, searcher: Searcher
) -> tuple[dict[str, dict[str, np.ndarray]], dict[str, list[float]]]:
    """Rank products for each method and query; also return CPU seconds of each ranking."""
    rankings: dict[str, dict[str, np.ndarray]] = {
        name: {} for name in (OUR_METHOD, "vectors", "fused", "blended")
    }
    seconds: dict[str, list[float]] = {name: [] for name in rankings}
    pools: dict[str, np.ndarray] = {}
    cosines_by_query: dict[str, np.ndarray] = {}
    pool_seconds: dict[str, float] = {}
    for query in shop.queries:
        rows, scores, by_words = _time_call(lambda query=query: searcher.search_bm25(query))
        cosines, near, by_vectors = _time_call(lambda query=query: searcher.find_nearest(query))
        fused, fusing_s = _time_call(lambda rows=rows, near=near: (_fuse(rows, near),))
        blended, blending_s = _time_call(
            lambda rows=rows, scores=scores, cosines=cosines: (_blend(rows, scores, cosines),)
        )
        for name, ranking, seconds_taken in (
            (OUR_METHOD, rows, by_words),
            ("vectors", near, by_vectors),
            ("fused", fused, by_words + by_vectors + fusing_s),
            ("blended", blended, by_words + by_vectors + blending_s),
        ):
            rankings[name][query] = ranking
            seconds[name].append(seconds_taken)
        pools[query], cosines_by_query[query] = (
            np.unique(np.concatenate([rows, near[:NEAREST_COUNT]])),
            cosines,
        )
        pool_seconds[query] = by_words + by_vectors
    for name, learned_pools in (("reranked", pools), ("reranked_judged", {})):
        rankings[name], seconds_taken = _rerank(
            shop, searcher, pools, cosines_by_query, learned_pools
        )
        seconds[name] = [pool_seconds[query] + seconds_taken[query] for query in shop.queries]
    if searcher.meaning is not None:
        for name, weights in _choose_weights(shop, searcher).items():
            timed_rankings = {
                query: _time_call(
                    lambda query=query, w=weights[query]: (searcher.rank_by_meaning(query, w),)
                )
                for query in shop.queries
            }
            rankings[name] = {query: rows for query, (rows, _) in timed_rankings.items()}
            seconds[name] = [seconds_taken for _, seconds_taken in timed_rankings.values()]
    return rankings, seconds


def _choose_weights(shop: Shop, searcher: Searcher) -> dict[str, dict[str, float]]:
    """Return the weight of the cosine for each query: the default, and chosen on other queries."""
    queries = list(shop.queries)
    fold_by_query = np.random.default_rng(SEED).permutation(len(queries)) % FOLDS
    ndcg_by_weight = np.array(
        [
            [
                ndcg(searcher.rank_by_meaning(query, weight), shop.grades_by_query[query])
                for query in queries
            ]
            for weight in COSINE_WEIGHTS
        ]
    )
    best_weights = [
        COSINE_WEIGHTS[np.nanmean(ndcg_by_weight[:, fold_by_query != k], axis=1).argmax()]
        for k in range(FOLDS)
    ]
    default = SearchSection().weight
    return {
        "meaning": {
            query: best_weights[k] for query, k in zip(queries, fold_by_query.tolist(), strict=True)
        },
        "meaning_default": dict.fromkeys(queries, default),
    }


def _time_call(call: Callable[[], tuple[np.ndarray, ...]]) -> tuple[Any, ...]:
    """Call a function; return its values and the CPU seconds that it took."""
    started = time.process_time()
    values = call()
    return *values, time.process_time() - started


def _blend(rows: np.ndarray, scores: np.ndarray, cosines: np.ndarray) -> np.ndarray:
    share = scores / max(float(scores.max(initial=0.0)), 1e-9)
    return rows[np.argsort(-(share + BLEND_WEIGHT * cosines[rows]), kind="stable")]


def _fuse(*lists: np.ndarray) -> np.ndarray:
    score: dict[int, float] = {}
    for rows in lists:
        for rank, row in enumerate(rows.tolist(), 1):
            score[row] = score.get(row, 0.0) + 1 / (60 + rank)
    return np.array(sorted(score, key=lambda row: -score[row]), np.int64)


def _rerank(
    shop: Shop,
    searcher: Searcher,
    pools: Mapping[str, np.ndarray],
    cosines_by_query: Mapping[str, np.ndarray],
    extra_rows: Mapping[str, np.ndarray],
) -> tuple[dict[str, np.ndarray], dict[str, float]]:
    """Rank the pools by a model trained on other queries; also return CPU seconds.

    It learns from the judged products, and from `extra_rows` with grade 0.
    """
    fold_by_query = dict(
        zip(
            shop.queries,
            np.random.default_rng(SEED).permutation(len(shop.queries)) % FOLDS,
            strict=True,
        )
    )
    rows = {
        query: np.union1d(
            extra_rows.get(query, np.zeros(0, np.int64)), sorted(shop.grades_by_query[query])
        ).astype(np.int64)
        for query in fold_by_query
    }
    columns = {
        query: searcher.compute_features(query, rows[query], cosines_by_query[query])
        for query in fold_by_query
    }
    grades = {
        query: [shop.grades_by_query[query].get(row, 0.0) for row in rows[query].tolist()]
        for query in fold_by_query
    }
    parameters = {
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
    rankings: dict[str, np.ndarray] = {}
    seconds: dict[str, float] = {}
    for number in range(FOLDS):
        train_queries = [query for query in fold_by_query if fold_by_query[query] != number]
        groups = [len(grades[query]) for query in train_queries]
        data = lightgbm.Dataset(
            np.concatenate([columns[query] for query in train_queries]),
            np.concatenate([grades[query] for query in train_queries]),
            group=groups,
        )
        model = lightgbm.train(parameters, data, 150)
        for query in fold_by_query:
            if fold_by_query[query] == number:
                started = time.process_time()
                scores = np.asarray(
                    model.predict(
                        searcher.compute_features(query, pools[query], cosines_by_query[query]),
                        num_threads=1,
                    )
                )
                rankings[query] = pools[query][np.argsort(-scores, kind="stable")]
                seconds[query] = time.process_time() - started
    return rankings, seconds


def ndcg(rows: np.ndarray, judged: GradeByRow) -> float:
    gain, ideal = (
        _gains(rows, judged),
        np.sort([2**grade - 1 for grade in judged.values()])[::-1][:TOP_K],
    )
    discount = 1 / np.log2(np.arange(2, TOP_K + 2))
    ideal_dcg = float(ideal @ discount[: len(ideal)])
    return float(gain @ discount[: len(gain)]) / ideal_dcg if ideal_dcg > 0 else float("nan")


def public_ndcg(rows: np.ndarray, judged: GradeByRow) -> float:
    """Return NDCG as public figures on WANDS define it (see above); `judged` is by `GRADES`."""
    gain, discount = _gains(rows, judged), 1 / np.arange(1, TOP_K + 1)
    return float(gain @ discount[: len(gain)] / ((2 ** max(GRADES.values()) - 1) * discount.sum()))


def _gains(rows: np.ndarray, judged: GradeByRow) -> np.ndarray:
    return np.array([2 ** judged.get(row, 0.0) - 1 for row in rows[:TOP_K].tolist()])


def measure_shop(
    shop: Shop, encoder: Path | None = None, cache: Path | None = None
) -> dict[str, Any]:
    """Measure all figures of a shop."""
    searcher = Searcher(shop)
    if encoder is not None and cache is not None:
        searcher.load_meaning(shop, encoder, cache)
    with threadpool_limits(1):  # times are of one thread, as servers answer
        rankings, seconds = rank_products(shop, searcher)
    ndcg_by_method = {
        name: np.array([ndcg(rows[query], shop.grades_by_query[query]) for query in shop.queries])
        for name, rows in rankings.items()
    }
    resamples = np.random.default_rng(SEED).integers(
        0, len(shop.queries), (RESAMPLES, len(shop.queries))
    )
    results, differences = {}, {}
    for name, ndcg_by_query in ndcg_by_method.items():
        gain = ndcg_by_query - ndcg_by_method[OUR_METHOD]
        judged_alone = np.array(
            [
                _judged_alone(rankings[name][query], shop.grades_by_query[query])
                for query in shop.queries
            ]
        )
        judged = [
            _judged_share(rankings[name][query], shop.grades_by_query[query])
            for query in shop.queries
        ]
        results[name] = {
            **_mean_with_interval("ndcg_10", ndcg_by_query, resamples),
            "judged_10": round(float(np.mean(judged)), 4),
            **_mean_with_interval("judged_alone_ndcg_10", judged_alone, resamples),
            "ms": _latency_quantiles(seconds[name]),
        }
        if shop.name == WANDS:
            public = np.array(
                [
                    public_ndcg(rankings[name][query], shop.grades_by_query[query])
                    for query in shop.queries
                ]
            )
            results[name] |= _mean_with_interval("public_ndcg_10", public, resamples)
        if name != OUR_METHOD:
            differences[name] = {
                **_mean_with_interval("ndcg_10", gain, resamples),
                "wins": int((gain > TIE).sum()),
                "losses": int((gain < -TIE).sum()),
            }
    by_query = [
        {
            "query": query,
            "judged": len(shop.grades_by_query[query]),
            **{
                name: _round_or_none(ndcg_by_query[query_index])
                for name, ndcg_by_query in ndcg_by_method.items()
            },
        }
        for query_index, query in enumerate(shop.queries)
    ]
    sizes = {
        "products": len(shop.price),
        "queries": len(shop.queries),
        "judged": sum(map(len, shop.grades_by_query.values())),
    }
    return {
        "results": results,
        "differences": differences,
        "queries": by_query,
        "sizes": sizes,
        "index_s": round(searcher.index_s, 2),
    }


def _judged_alone(rows: np.ndarray, judged: GradeByRow) -> float:
    """Return NDCG@10 of the judged products alone, in the order in which they were found."""
    return ndcg(np.array([row for row in rows.tolist() if row in judged], np.int64), judged)


def _judged_share(rows: np.ndarray, judged: GradeByRow) -> float:
    """Return the share of the top ten that was judged."""
    return float(np.mean([row in judged for row in rows[:TOP_K].tolist()] or [0.0]))


def _latency_quantiles(seconds: Sequence[float]) -> dict[str, float]:
    return {
        "p50": round(float(np.median(seconds)) * 1e3, 2),
        "p99": round(float(np.quantile(seconds, 0.99)) * 1e3, 2),
    }


def _mean_with_interval(name: str, values: np.ndarray, resamples: np.ndarray) -> dict[str, float]:
    """Return the mean with its interval; queries without a judged hit have no NDCG."""
    low, high = np.nanquantile(np.nanmean(values[resamples], axis=1), [0.025, 0.975])
    return {
        name: round(float(np.nanmean(values)), 4),
        f"{name}_low": round(float(low), 4),
        f"{name}_high": round(float(high), 4),
    }


def _round_or_none(value: float) -> float | None:
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
    arguments = parser.parse_args()
    try:
        shop = (
            read_wands(arguments.wands)
            if arguments.wands
            else read_chorus(require_data_set("chorus-electronics", arguments.data))
        )
    except (OSError, ValueError) as error:
        parser.error(str(error))
    if arguments.small:
        shop = Shop(
            shop.name,
            shop.documents,
            shop.price,
            {query: shop.grades_by_query[query] for query in shop.queries[::5]},
        )
    report = {
        "benchmark": "search",
        "kind": "search",
        "title": __doc__.splitlines()[0],
        "small": arguments.small,
    }
    report |= {
        "cases": {shop.name: measure_shop(shop, arguments.encoder, arguments.cache)},
        "environment": environment(),
    }
    json.dump(report, sys.stdout, indent=None if arguments.json else 2, ensure_ascii=False)
    print()


if __name__ == "__main__":
    main()
