"""How `next_item` asks, fits and judges; which data sets there are stands in `next_item_cases`.

… ─ learned from ─┤ validation A: variants are taken, trees learn ┤ validation B: the default is taken ┤ test: judged ┤
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.quality.next_item_cases import Case, Data
from tailorbird.models.baselines import Interactions
from tailorbird.models.gbdt import Gbdt, GbdtSettings, Sample, fit_gbdt
from tailorbird.models.retrievers import Contexts, Recipe, Top
from tailorbird.models.retrievers.crowd import Crowd
from tailorbird.models.retrievers.pairs import Pairs, pool, scores_of
from tailorbird.training.bootstrap import Bootstrap, Interval

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Make = Callable[[], Mapping[str, npt.NDArray]]
Keep = Callable[[str, Make], Mapping[str, npt.NDArray]]

K = 10
FOUND = 100
OURS = "tailorbird"
TREES = GbdtSettings(objective="lambdarank", trees=120, patience=0, leaves=11, leaf_rows=100, rate=0.06, l2=20.0, columns=0.6, rows=0.8)
FIGURES = ("ndcg_10", "ndcg_10_debiased", "recall_10", "coverage_10")


@dataclass(frozen=True)
class Questions:
    """Questions of one stretch of time, in order of it.

    Attributes:
        contexts: all that the person did before.
        person: shape (questions,).
        truth, truth_offsets: what happened then, ragged.
    """

    contexts: Contexts
    person: Ints
    truth: Ints
    truth_offsets: Ints


@dataclass(frozen=True)
class Answers:
    """What the models list for the questions of one part, and what happened."""

    lists: dict[str, Top]
    pairs: list[tuple[Pairs, npt.NDArray[np.float32], npt.NDArray]]
    columns: list[str]
    person: Ints
    truth: Ints
    truth_offsets: Ints


def made_now(name: str, make: Make) -> Mapping[str, npt.NDArray]:
    """Keeps nothing."""
    return make()


def parts_of(case: Case, data: Data) -> tuple[int, int, int, int]:
    """Where validation A, validation B and the test begin, and the end."""
    end = int(data.ts.max()) + 1
    if case.test_us is None:
        test, b, a = (int(each) for each in np.quantile(data.ts, (0.8, 0.7, 0.6)))
    else:
        test = end - case.test_us
        a, b = test - case.test_us, test - case.test_us // 2
    return a, b, test, end


def asked(case: Case, data: Data, low: int, high: int, most: int) -> Questions:
    """At most `most` questions of a stretch, drawn evenly."""
    first = np.flatnonzero(np.concatenate(([True], data.person[1:] != data.person[:-1])))
    start = np.repeat(first, np.diff(np.concatenate((first, [len(data.person)]))))
    at = np.flatnonzero((data.ts >= low) & (data.ts < high) & (np.arange(len(start)) > start))
    if case.whole:  # the first row of each basket
        new = np.concatenate(([True], (data.sequence[1:] != data.sequence[:-1]) | (data.person[1:] != data.person[:-1])))
        at = at[new[at]]
    if len(at) > most:
        at = np.sort(np.random.default_rng(0).choice(at, most, replace=False))
    at = at[np.argsort(data.ts[at], kind="stable")]
    size = at - start[at]
    offsets = np.concatenate(([0], np.cumsum(size))).astype(np.int64)
    rows = np.arange(offsets[-1]) + np.repeat(start[at] - offsets[:-1], size)
    contexts = Contexts(data.ts[at], data.item[rows], data.ts[rows], offsets)
    if not case.whole:
        return Questions(contexts, data.person[at], data.item[at], np.arange(len(at) + 1))
    same = [data.item[i : i + _run(data.sequence, i)] for i in at.tolist()]
    sizes = np.array([len(each) for each in same], np.int64)
    return Questions(contexts, data.person[at], np.concatenate(same), np.concatenate(([0], np.cumsum(sizes))))


def _run(sequence: Ints, at: int) -> int:
    end = at + 1
    while end < len(sequence) and sequence[end] == sequence[at]:
        end += 1
    return end - at


def taken(case: Case, data: Data, low: int, high: int, keep: Keep = made_now) -> dict[str, Recipe]:
    """Of each model the variant that is best on a stretch, fitted before it."""
    questions = asked(case, data, low, high, case.questions // 4)

    def figure(name: str, recipe: Recipe) -> dict[str, npt.NDArray]:
        top = recipe.fit(seen(case, data, name, low), low).top(questions.contexts, K, repeats=case.repeats)
        return {"ndcg": ndcg(top, questions.truth, questions.truth_offsets)}

    chosen: dict[str, Recipe] = {}
    for name, variants in case.recipes_of(data).items():
        tried = variants if len(variants) > 1 else ()
        figures = [keep(f"variant {recipe}", partial(figure, name, recipe))["ndcg"].mean() for recipe in tried]
        chosen[name] = variants[int(np.argmax(figures))] if figures else variants[0]
    return chosen


def seen(case: Case, data: Data, name: str, t: int) -> Interactions:
    """What a model may learn from at t."""
    kept = data.ts < t
    owner = data.person if name in case.by_person else data.sequence
    return Interactions(owner[kept], data.item[kept], data.ts[kept], int(owner.max()) + 1, data.items)


def answered(case: Case, data: Data, recipes: Mapping[str, Recipe], low: int, high: int, origins: int, keep: Keep = made_now) -> Answers:
    """Ask all models over a stretch that is cut into `origins`, at whose beginnings they are fitted; what an origin said is kept."""
    cuts = np.linspace(low, high, origins + 1).astype(np.int64).tolist()
    by_time = np.argsort(data.ts, kind="stable")
    opening = np.concatenate(([True], data.sequence[1:] != data.sequence[:-1]))
    crowd = Crowd(data.item[by_time], data.ts[by_time], opening[by_time], {}, data.items, {}, case.windows)
    each = [
        said
        for t, stop in pairwise(cuts)
        if len((said := keep(f"origin {t}", partial(_origin, case, data, recipes, crowd, t, stop, case.questions // origins)))["person"])
    ]
    lists = {name: Top(*(np.concatenate([said[f"{what} {name}"] for said in each]) for what in ("item", "score"))) for name in recipes}
    pairs = [
        (Pairs(said["pair_question"], said["pair_item"], len(said["person"]), data.items), said["matrix"], said["pair_truth"])
        for said in each
    ]
    people, truth, sizes = (np.concatenate([said[name] for said in each]) for name in ("person", "truth", "sizes"))
    offsets = np.concatenate(([0], np.cumsum(sizes))).astype(np.int64)
    return Answers(lists, pairs, each[0]["columns"].tolist(), people, truth, offsets)


def _origin(
    case: Case, data: Data, recipes: Mapping[str, Recipe], crowd: Crowd, t: int, stop: int, most: int
) -> dict[str, npt.NDArray]:  # fmt: skip
    """What all models, fitted at t, list for the questions until `stop`, and the columns of the pairs that trees look at."""
    questions = asked(case, data, t, stop, most)
    if not len(questions.person):
        return {"person": questions.person}
    tops = {
        name: recipe.fit(seen(case, data, name, t), t).top(questions.contexts, FOUND, repeats=case.repeats)
        for name, recipe in recipes.items()
    }
    pairs = pool(tops, dict.fromkeys(tops, 60), data.items)
    made = {name: column for each, top in tops.items() for name, column in scores_of(each, top, pairs).items()}
    made |= crowd.columns(t, questions.contexts, {}, pairs)
    for name in ("minutes", "hour", "followed", "share_followed"):  # of hours, which mean nothing here
        made.pop(name)
    sizes = np.diff(questions.truth_offsets)
    owner = np.repeat(np.arange(len(questions.person)), sizes)
    hit = np.isin(pairs.question * data.items + pairs.item, owner * data.items + questions.truth)
    told = {f"{what} {name}": getattr(top, what) for name, top in tops.items() for what in ("item", "score")}
    told |= {"pair_question": pairs.question, "pair_item": pairs.item, "pair_truth": hit}
    told |= {"matrix": np.stack(list(made.values()), axis=1), "columns": np.array(list(made))}
    return {**told, "person": questions.person, "truth": questions.truth, "sizes": sizes}


def learned(answers: list[Answers], threads: int, most: int | None = None, *, seed: int = TREES.seed) -> Gbdt:
    """Trees over what the models say of each pair; of `most` questions of each part, drawn evenly."""
    columns = answers[0].columns
    matrices, labels, lengths = [], [], []
    for pairs, matrix, truth, share in ((*each, (most or len(part.person)) / len(part.person)) for part in answers for each in part.pairs):
        reached = np.bincount(pairs.question, truth, minlength=pairs.questions) > 0
        reached &= np.random.default_rng(0).random(pairs.questions) < share
        rows = reached[pairs.question]
        matrices.append(matrix[rows])
        labels.append(truth[rows])
        lengths.append(np.diff(pairs.offsets)[reached])
    nothing = Sample(np.zeros((0, len(columns)), np.float32), np.zeros(0), np.zeros(0, np.int64))
    sample = Sample(np.concatenate(matrices), np.concatenate(labels), np.concatenate(lengths))
    return fit_gbdt(sample, nothing, columns, replace(TREES, threads=threads, seed=seed))


def blended(answers: Answers, trees: Gbdt) -> Top:
    """What the trees list."""
    tops = [pairs.best(trees.score(matrix), FOUND) for pairs, matrix, _ in answers.pairs]
    return Top(np.concatenate([top.item for top in tops]), np.concatenate([top.score for top in tops]))


def ndcg(top: Top, truth: Ints, offsets: Ints, weight: Floats | None = None) -> Floats:
    """NDCG@10 of each question; `weight` (items,): what finding each item is worth."""
    questions = len(offsets) - 1
    owner = np.repeat(np.arange(questions), np.diff(offsets))
    width = int(max(truth.max(initial=0), top.item.max(initial=0))) + 1
    worth = np.ones(width) if weight is None else weight
    key = np.unique(owner * width + truth)
    listed = np.arange(questions)[:, None] * width + top.item[:, :K]
    gain = np.where((top.item[:, :K] >= 0) & np.isin(listed, key), worth[np.maximum(top.item[:, :K], 0)], 0.0)
    discount = 1 / np.log2(np.arange(K) + 2)
    owner, item = key // width, key % width
    order = np.lexsort((-worth[item], owner))
    first = np.searchsorted(owner, owner)
    nth = np.arange(len(owner)) - first
    best = np.bincount(owner, np.where(nth < K, worth[item[order]] * discount[np.minimum(nth, K - 1)], 0.0), minlength=questions)
    return (gain * discount[: gain.shape[1]]).sum(axis=1) / np.maximum(best, 1e-12)


def figures_of(answers: Answers, lists: Mapping[str, Sequence[Top]], chosen_before: Ints) -> dict[str, Any]:
    """`results`, means over the lists of each model's seeds, and `differences` to ours, with intervals over people."""
    _, person = np.unique(answers.person, return_inverse=True)
    bootstrap = Bootstrap(person.astype(np.int64))
    truth, offsets = answers.truth, answers.truth_offsets
    values = {name: _over(tops, lambda top: ndcg(top, truth, offsets)) for name, tops in lists.items()}
    # Self-normalised inverse propensities: a truth counts 1 / √(1 + how often it was chosen before).
    worth = 1 / np.sqrt(1.0 + chosen_before)
    sizes = np.diff(offsets)
    owner = np.repeat(np.arange(len(person)), sizes)
    weight = np.bincount(owner, worth[truth]) / sizes
    known = int((chosen_before > 0).sum())
    results: dict[str, Any] = {}
    for name, tops in lists.items():
        hits = _over(tops, lambda top: np.bincount(owner, [*_hit(top, owner, truth)], minlength=len(person)) / np.minimum(sizes, K))
        debiased = bootstrap.ratio(weight * _over(tops, lambda top: ndcg(top, truth, offsets, worth)), weight)
        covered = np.mean([len(np.unique(top.item[:, :K][top.item[:, :K] >= 0])) / known for top in tops])
        told = {"ndcg_10": bootstrap.mean(values[name]), "ndcg_10_debiased": debiased, "recall_10": bootstrap.mean(hits)}
        results[name] = {key: value for figure, interval in told.items() for key, value in _told(figure, interval).items()}
        results[name] |= {"coverage_10": round(float(covered), 6), "coverage_10_low": None, "coverage_10_high": None}
    others = [name for name in lists if name != OURS]
    differences = {name: _told("ndcg_10", bootstrap.difference(values[OURS], values[name])) for name in others}
    return {"results": results, "differences": differences, "requests": len(person), "people": int(person.max()) + 1}


def _over(tops: Sequence[Top], figure: Callable[[Top], Floats]) -> Floats:
    """The mean over seeds, by question."""
    return np.mean([figure(top) for top in tops], axis=0)


def _hit(top: Top, owner: Ints, truth: Ints) -> npt.NDArray[np.bool_]:
    return (top.item[owner, :K] == truth[:, None]).any(axis=1)


def _told(figure: str, interval: Interval) -> dict[str, float]:
    values = {"": interval.value, "_low": interval.low, "_high": interval.high}
    return {f"{figure}{end}": round(float(value), 6) for end, value in values.items()}
