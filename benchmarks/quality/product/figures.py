"""Compute figures of lists beside each other, with intervals that resample people.

Of a question with truth T: DCG over the ideal DCG (`ndcg_10`, `ndcg_20`), whether any of T is among
20 (`hr_20`), 1 ÷ the place of the first of T among 20 (`mrr`). With w(i) = 1 ÷ (rows of item i in
the training part + 1), `ndcg_10_ipw` = Σ over questions of DCG@10 with gains w ÷ Σ of its ideal.
`coverage_10` is the share of the test part's items that stand in any top ten.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_matrix

from benchmarks.quality.product.baselines import SIZE
from benchmarks.quality.product.log import Ints, Log, Questions, Texts
from tailorbird.events import HOUR

Floats = npt.NDArray[np.float64]

TOP_K = 10
OURS = "tailorbird"
MEAN_METRICS = ("ndcg_10", "ndcg_20", "hr_20", "mrr", "candidate_recall")
REPLICATES, COVERAGE_REPLICATES = 1_000, 200
EARLY_HOURS, LATE_HOURS = (
    (0, 3),
    (20, 24),
)  # hours of the test part whose ratios to the best are compared
_DISCOUNT = 1 / np.log2(np.arange(2, SIZE + 2))


@dataclass(frozen=True)
class ListMetrics:
    """Figures of every question of one cut; `values`: entry → figure → shape (questions,).

    Attributes:
        person: the person of each question.
        hour: of the test part, from 0.
        ipw_ideal: the ideal of `ipw`, which is among the figures.
        top_lists: entry → top tens, shape (questions, K), of each seed.
        test_items: codes of the items of the test part.
    """

    person: Texts
    hour: Ints
    ipw_ideal: Floats
    values: dict[str, dict[str, Floats]]
    top_lists: dict[str, list[Ints]]
    test_items: Ints


def compute_list_metrics(
    log: Log,
    questions: Questions,
    lists: Mapping[str, Sequence[Ints]],
    candidate_recalls: Sequence[Floats] = (),
) -> ListMetrics:
    """Compare lists with what was chosen; an entry with lists of several seeds gets their means.

    `found` is the candidate recall of ours, of each seed.
    """
    weight = item_weights(log)
    values = {}
    for name, each in lists.items():
        by_seed = [score_lists(lists_of_seed, questions, weight) for lists_of_seed in each]
        values[name] = {
            f: np.mean([lists_of_seed[f] for lists_of_seed in by_seed], axis=0) for f in by_seed[0]
        }
    if candidate_recalls:
        values[OURS]["candidate_recall"] = np.mean(candidate_recalls, axis=0)
    test_rows = np.arange(log.test_from, len(log))
    chosen_items = np.unique(log.item[test_rows[log.valid[test_rows] & (log.item[test_rows] >= 0)]])
    hour = (questions.now + 1 - log.cut.at) // HOUR
    top = {
        name: [lists_of_seed[:, :TOP_K] for lists_of_seed in each] for name, each in lists.items()
    }
    ideal = ideal_ipw(questions, weight)
    return ListMetrics(
        person=log.people[log.person[questions.asker]],
        hour=hour,
        ipw_ideal=ideal,
        values=values,
        top_lists=top,
        test_items=chosen_items,
    )


def item_weights(log: Log) -> Floats:
    """Return 1 ÷ (rows of each item in the training part + 1)."""
    train_rows = np.arange(log.test_from)
    counted_items = log.item[train_rows[log.valid[train_rows] & (log.item[train_rows] >= 0)]]
    return 1 / (np.bincount(counted_items, minlength=len(log.items)) + 1.0)


def score_lists(lists: Ints, questions: Questions, weight: Floats) -> dict[str, Floats]:
    """Return the figures of each question's list."""
    is_hit = find_hits(lists, questions).astype(np.float64)
    truth_size = np.diff(questions.offsets)
    ideal = np.concatenate(([0.0], np.cumsum(_DISCOUNT)))
    any_hit = is_hit.max(axis=1)
    first_hit_position = is_hit.argmax(axis=1) + 1
    gain = is_hit[:, :TOP_K] * weight[np.clip(lists[:, :TOP_K], 0, len(weight) - 1)]
    return {
        "ndcg_10": (is_hit[:, :TOP_K] @ _DISCOUNT[:TOP_K]) / ideal[np.minimum(truth_size, TOP_K)],
        "ndcg_20": (is_hit @ _DISCOUNT) / ideal[np.minimum(truth_size, SIZE)],
        "hr_20": any_hit,
        "mrr": any_hit / first_hit_position,
        "ipw": gain @ _DISCOUNT[:TOP_K],
    }


def find_hits(lists: Ints, questions: Questions) -> npt.NDArray[np.bool_]:
    """Return which places of the lists hold an item of the truth."""
    stride = int(max(lists.max(initial=0), questions.truth.max(initial=0))) + 1
    number = np.arange(len(questions))
    truth_keys = np.repeat(number, np.diff(questions.offsets)) * stride + questions.truth
    list_keys = number[:, None] * stride + lists
    return np.isin(list_keys, truth_keys) & (lists >= 0)


def ideal_ipw(questions: Questions, weight: Floats) -> Floats:
    """Return the DCG@10 of the heaviest items of each truth, in order of weight."""
    number = np.repeat(np.arange(len(questions)), np.diff(questions.offsets))
    gain = weight[questions.truth]
    order = np.lexsort((-gain, number))
    position = np.arange(len(order)) - questions.offsets[number[order]]
    is_top = position < TOP_K
    gain = gain[order][is_top] * _DISCOUNT[position[is_top]]
    return np.bincount(number[order][is_top], gain, len(questions)).astype(np.float64)


@dataclass(frozen=True)
class Resampling:
    """Poisson counts of people, the same for every figure, so that differences are paired."""

    person: Ints

    @classmethod
    def of(cls, people: Texts) -> "Resampling":
        """Resample the people of some questions."""
        return cls(np.unique(people, return_inverse=True)[1].astype(np.int64))

    @cached_property
    def weights(self) -> npt.NDArray[np.float32]:
        """Return how often each person counts, shape (replicates, people)."""
        people = int(self.person.max()) + 1
        return np.random.default_rng(0).poisson(1.0, (REPLICATES, people)).astype(np.float32)

    def sums(self, values: Floats) -> Floats:
        """Return the sum over questions in each replicate."""
        return (self.weights @ np.bincount(self.person, values).astype(np.float32)).astype(float)

    def ratio(self, numerator: Floats, denominator: Floats) -> tuple[float, Floats]:
        """Return Σ over ÷ Σ under, and the same in each replicate."""
        total = self.sums(denominator)  # 0 where a replicate has nobody
        draws = np.divide(
            self.sums(numerator), total, out=np.full(len(total), np.nan), where=total > 0
        )
        return numerator.sum() / denominator.sum(), draws

    def mean(self, values: Floats) -> tuple[float, Floats]:
        """Return the mean over questions, and the same in each replicate."""
        return self.ratio(values, np.ones(len(values)))

    def coverage(self, top: Ints, chosen: Ints) -> tuple[float, Floats]:
        """Return the share of `test_items` that is listed for anybody, and draws centred on it.

        A replicate lacks a third of the people and so covers less: draws are moved by that bias.
        """
        position = np.searchsorted(chosen, top).clip(0, len(chosen) - 1)
        row, column = np.nonzero(chosen[position] == top)
        people = int(self.person.max()) + 1
        where = (self.person[row], position[row, column])
        shown = csr_matrix((np.ones(len(row), np.float32), where), (people, len(chosen)))
        is_present = self.weights[:COVERAGE_REPLICATES] > 0
        draws = np.array([(shown.T @ each > 0).mean() for each in is_present.astype(np.float32)])
        value = float((shown.sum(axis=0) > 0).mean())
        return value, np.clip(draws - draws.mean() + value, 0.0, 1.0)


def pool_metrics(parts: Sequence[ListMetrics]) -> dict[str, Any]:
    """Return `results`, `gains` and the best baseline, pooled over the questions of all cuts."""
    resampling = Resampling.of(np.concatenate([part.person for part in parts]))
    names = list(parts[0].values)
    results = {name: _entry_metrics(parts, resampling, name) for name in names}
    gains: dict[str, dict[str, float]] = {}
    for name in names:
        if name != OURS:
            draws = resampling.mean(
                pool_values(parts, OURS, "ndcg_10") - pool_values(parts, name, "ndcg_10")
            )
            gains[name] = with_interval("ndcg_10", *draws)
    best = max(gains, key=lambda name: results[name]["ndcg_10"])
    return {"results": results, "gains": gains, "best_baseline": best}


def pool_values(parts: Sequence[ListMetrics], entry: str, figure: str) -> Floats:
    """Return a figure of all questions of all cuts."""
    return np.concatenate([part.values[entry][figure] for part in parts])


def _entry_metrics(
    parts: Sequence[ListMetrics], resampling: Resampling, name: str
) -> dict[str, float]:
    figures_of_entry: dict[str, float] = {}
    for figure in MEAN_METRICS:
        if figure in parts[0].values[name]:
            figures_of_entry |= with_interval(
                figure, *resampling.mean(pool_values(parts, name, figure))
            )
    ideal = np.concatenate([part.ipw_ideal for part in parts])
    figures_of_entry |= with_interval(
        "ndcg_10_ipw", *resampling.ratio(pool_values(parts, name, "ipw"), ideal)
    )
    coverages = [
        Resampling.of(part.person).coverage(top, part.test_items)
        for part in parts
        for top in part.top_lists[name]
    ]
    value, draws = (
        np.mean([coverage[0] for coverage in coverages]),
        np.mean([coverage[1] for coverage in coverages], axis=0),
    )
    return figures_of_entry | with_interval("coverage_10", float(value), draws)


def metrics_by_hour(parts: Sequence[ListMetrics], best: str) -> dict[str, Any]:
    """Return NDCG by hour of the test part, and how ours over the best baseline ends and begins."""
    resampling = Resampling.of(np.concatenate([part.person for part in parts]))
    hour = np.concatenate([part.hour for part in parts])
    ours, baseline = pool_values(parts, OURS, "ndcg_10"), pool_values(parts, best, "ndcg_10")
    early, late = (((hour >= low) & (hour < high)) for low, high in (EARLY_HOURS, LATE_HOURS))
    end, end_draws = resampling.ratio(ours * late, baseline * late)
    start, start_draws = resampling.ratio(ours * early, baseline * early)
    figures_by_hour = [
        {"hour": hour_ + 1, "questions": int(is_hour.sum())}
        | {OURS: round(ours[is_hour].mean(), 6), best: round(baseline[is_hour].mean(), 6)}
        for hour_ in np.unique(hour).tolist()
        if (is_hour := hour == hour_).any()
    ]
    return {
        "baseline": best,
        **with_interval("early", start, start_draws),
        **with_interval("late", end, end_draws),
        **with_interval("late_over_early", end / start, end_draws / start_draws),
        "hours": figures_by_hour,
    }


def with_interval(name: str, value: float, draws: Floats) -> dict[str, float]:
    """Return a figure with the 95 % interval of its draws."""
    low, high = np.quantile(draws[np.isfinite(draws)], (0.025, 0.975))
    return {
        name: round(float(value), 6),
        f"{name}_low": round(float(low), 6),
        f"{name}_high": round(float(high), 6),
    }
