"""Judging: the same test requests, every model and baseline, figures with intervals over people, by
slice, and paired differences.

    judge = Judge(…)
    for drawn in …: judge.add(drawn.data, {"tailorbird": scores}, slates=drawn.slates)
    evaluation = judge.result("tailorbird")

A model orders the candidates of a request; a baseline shows a list of its own. What people chose
that is in neither counts as missed. `gain` is the slot's value formula over what happened, so that
a purchase weighs as much as the slot says. Who is judged on what is decided in `training.evaluate`;
what decides on promotion is in `training.gate`; pictures are in `training.report`.
"""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

from tailorbird.models.interactions import History
from tailorbird.ranking.targets import is_amount
from tailorbird.training import metrics
from tailorbird.training.amounts import AmountFigures, amount_figures
from tailorbird.training.bootstrap import Bootstrap, Interval, flat, rounded
from tailorbird.training.cold import STEPS, Step, curve, step_of
from tailorbird.training.dataset import Dataset, Missed
from tailorbird.training.replaying import Slates

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

K = 10
TAIL_SHARE = 0.8  # the long tail: all items but the fifth that is most popular
ROWS_OF_HEADS_MAX = 2_000_000  # rows kept for the pointwise figures of the model's heads
DEVICES_MAX = 4
LISTWISE = (f"ndcg_{K}", f"recall_{K}", "hr_20", "mrr", "list_auc", f"novelty_{K}")
PRIMARY = f"ndcg_{K}"
CANDIDATE_RECALL = "candidate_recall"  # of models, where requests were asked for their candidates


@dataclass(frozen=True)
class HeadFigures:
    """How good a head's probabilities are: AUC, log loss (and that of always saying the mean),
    calibration, also of each slice.
    """

    auc: Interval
    log_loss: Interval
    log_loss_mean: float
    calibration_error: Interval
    calibration: metrics.Calibration
    positives: int
    rows: int
    slices: dict[str, metrics.Calibration] = field(default_factory=dict)

    @property
    def mean_ratio(self) -> float:
        """Mean of the predictions ÷ mean of what happened."""
        rows = self.calibration.count
        predicted, observed = (
            float(np.nansum(rows * each))
            for each in (self.calibration.predicted, self.calibration.observed)
        )
        return predicted / max(observed, 1e-12)


@dataclass(frozen=True)
class Evaluation:
    """What came of it.

    Attributes:
        figures: model or baseline → figure → interval.
        differences: baseline → paired interval of (judged model − baseline) in `PRIMARY`.
        slices: slice → (requests, model → interval of `PRIMARY`).
        cold: by how many events of the person, and of the item, there were before the request; keys
            `people` and `items`.
        heads: head → figures of the judged model's probabilities; of the amounts that it expects,
            in `amounts`.
        model: the name of the judged model. requests, people, rows: sizes of the test part; people
        with a positive.
    """

    model: str
    figures: dict[str, dict[str, Interval]]
    differences: dict[str, Interval]
    slices: dict[str, tuple[int, dict[str, Interval]]]
    heads: dict[str, HeadFigures]
    requests: int
    people: int
    rows: int
    about: dict[str, Any] = field(default_factory=dict)
    amounts: dict[str, AmountFigures] = field(default_factory=dict)
    cold: dict[str, tuple[Step, ...]] = field(default_factory=dict)

    @property
    def best_baseline(self) -> str:
        """The other with the best `PRIMARY`, "" without any."""
        others = {
            name: figures[PRIMARY].value
            for name, figures in self.figures.items()
            if name != self.model
        }
        return max(others, key=lambda name: others[name]) if others else ""

    def plain(self) -> dict[str, Any]:
        """As JSON: each figure with `_low` and `_high` beside it."""
        return {
            "results": {name: flat(figures) for name, figures in self.figures.items()},
            "differences": {name: flat({PRIMARY: gain}) for name, gain in self.differences.items()},
            "slices": {
                name: {
                    "requests": count,
                    **{model: flat({PRIMARY: figure}) for model, figure in figures.items()},
                }
                for name, (count, figures) in self.slices.items()
            },
            "cold_start": {
                name: [step.plain() for step in steps] for name, steps in self.cold.items()
            },
            "heads": {name: _plain_head(head) for name, head in self.heads.items()},
            "amounts": {name: each.plain() for name, each in self.amounts.items()},
            "requests": self.requests,
            "people": self.people,
            "rows": self.rows,
        }


class Judge:
    """Collects, part by part, what figures are made of.

    Args:
        history: interactions; tells who is new at a request's time.
        share: shape (items,), share of interactions of each item before the test part.
        objective: head → weight of the gain.
        seed: of the bootstrap and of chance.
    """

    def __init__(
        self,
        history: History,
        share: Floats,
        objective: Mapping[str, float],
        *,
        replicates: int = 1_000,
        seed: int = 0,
    ) -> None:
        self._history = history
        self.as_of(share)
        self._objective = objective
        self._replicates = replicates
        self._seed = seed
        self._values: dict[str, dict[str, list[Floats]]] = defaultdict(lambda: defaultdict(list))
        self._shown: dict[str, npt.NDArray[np.bool_]] = {}
        self._chosen = np.zeros(len(share), bool)
        self._person: list[Ints] = []
        self._step: list[Ints] = []
        self._device: list[list[str | None]] = []
        self._named: list[str] = []
        self._heads: dict[str, list[tuple[Floats, npt.NDArray, Ints]]] = defaultdict(list)
        self._rows = 0

    def as_of(self, share: Floats) -> None:
        """Take popularity, and with it the long tail and which items are new, as of another moment
        from here on.
        """
        self._share, self._tail, self._unseen = share, long_tail(share), share == 0

    def add(
        self,
        part: Dataset,
        scores: Mapping[str, Floats],
        probabilities: Mapping[str, Floats] | None = None,
        slates: Mapping[str, Slates] = MappingProxyType({}),
        *,
        named: str = "",
    ) -> None:
        """Judge some requests: scores by model, shape (rows,) each, and the judged model's
        probability by head.

        Args:
            slates: by baseline, what it would show to these requests.
            named: a slice that these requests are, such as the origin that they follow; "" is none.
        """
        gain = part.gain(self._objective)
        for name, score in scores.items():
            ranked = self._rank(name, score, gain, part.item, part.offsets, part.missed, part.t)
            if slates:
                self._values[name][CANDIDATE_RECALL].append(ranked.found)
        truths = _truths(part, gain, self._missed_gain)
        for name, slate in slates.items():
            self._rank(
                name,
                -np.arange(len(slate.item), dtype=np.float64),
                *_on_slate(slate, truths),
                part.t,
            )
        self._chosen[truths.item] = True
        done = sum(len(each) for each in self._person)
        for head, probability in (probabilities or {}).items():
            if (
                head in part.labels and self._rows < ROWS_OF_HEADS_MAX
            ):  # a bundle may predict for other slots what nobody labelled here
                known = np.isfinite(part.labels[head])
                if known.any():
                    self._heads[head].append(
                        (probability[known], part.labels[head][known], part.request[known] + done)
                    )
        self._person.append(part.person)
        self._step.append(
            step_of(self._history.by_person.count(part.person, part.t, np.arange(part.requests)))
        )
        self._device.append(part.context["device"].to_pylist())
        self._named += [named] * part.requests
        self._rows += part.rows

    @property
    def _missed_gain(self) -> float:
        """What something that no source gave would have been worth: as much as the first target."""
        return float(next(iter(self._objective.values()), 1.0)) or 1.0

    def _rank(
        self,
        name: str,
        score: Floats,
        gain: Floats,
        item: Ints,
        offsets: Ints,
        missed: Missed,
        t: Ints,
    ) -> metrics.Ranked:
        count = np.bincount(missed.request, minlength=len(offsets) - 1)
        ranked = metrics.rank_lists(
            score, gain, offsets, k=K, seed=self._seed, missed=count, missed_gain=self._missed_gain
        )
        some = {}
        for figure, mask in (("tail", self._tail), ("new", self._unseen)):
            gone = np.bincount(missed.request[mask[missed.item]], minlength=len(offsets) - 1)
            some[figure] = ranked.only(mask[item[ranked.row]], gone)
        step = step_of(self._history.by_item.count(item[ranked.row], t, ranked.request))
        step_missed = step_of(self._history.by_item.count(missed.item, t, missed.request))
        for place, events in enumerate(STEPS):
            gone = np.bincount(missed.request[step_missed == place], minlength=len(offsets) - 1)
            some[f"items {events}"] = ranked.only(step == place, gone)
        for figure, value in _listwise(ranked, some, item, self._share).items():
            self._values[name][figure].append(value)
        shown = self._shown.setdefault(name, np.zeros(len(self._share), bool))
        shown[item[ranked.top[ranked.top >= 0]]] = True
        return ranked

    def result(self, model: str) -> Evaluation:
        """All figures; `model` is the one that the others are compared with."""
        person = np.concatenate(self._person)
        _, code = np.unique(
            np.where(person < 0, -1 - np.arange(len(person)), person), return_inverse=True
        )  # nobody known: each alone
        bootstrap = Bootstrap(code, replicates=self._replicates, seed=self._seed)
        values = {
            name: {figure: np.concatenate(parts) for figure, parts in figures.items()}
            for name, figures in self._values.items()
        }
        figures = {name: self._figures(name, each, bootstrap) for name, each in values.items()}
        ours = values[model][PRIMARY]
        differences = {
            name: bootstrap.difference(ours, each[PRIMARY])
            for name, each in values.items()
            if name != model
        }
        judged = np.isfinite(ours)
        people = len(np.unique(code[judged]))
        heads = {
            name: _head(*_joined(parts), bootstrap, self._masks)
            for name, parts in self._heads.items()
            if not is_amount(name)
        }
        amounts = {
            name: amount_figures(*_joined(parts), bootstrap)
            for name, parts in self._heads.items()
            if is_amount(name)
        }
        sizes = int(judged.sum()), people, self._rows
        slices, cold = self._slices(values, bootstrap), self._cold(values, bootstrap)
        return Evaluation(
            model, figures, differences, slices, heads, *sizes, amounts=amounts, cold=cold
        )

    def _cold(
        self, values: Mapping[str, Mapping[str, Floats]], bootstrap: Bootstrap
    ) -> dict[str, tuple[Step, ...]]:
        """The curves of people and of items."""
        step = np.concatenate(self._step)
        people = [
            {name: np.where(step == place, each[PRIMARY], np.nan) for name, each in values.items()}
            for place in range(len(STEPS))
        ]
        items = [
            {name: each[f"items {events}"] for name, each in values.items()} for events in STEPS
        ]
        return {"people": curve(people, bootstrap), "items": curve(items, bootstrap)}

    def _figures(
        self, name: str, values: Mapping[str, Floats], bootstrap: Bootstrap
    ) -> dict[str, Interval]:
        names = [*LISTWISE, *(name for name in (CANDIDATE_RECALL,) if name in values)]
        found = dict(zip(names, bootstrap.means([values[figure] for figure in names]), strict=True))
        covered = (self._shown[name] & self._chosen).sum() / max(self._chosen.sum(), 1)
        return found | {f"coverage_{K}": Interval(float(covered), float("nan"), float("nan"))}

    @property
    def _masks(self) -> dict[str, npt.NDArray[np.bool_]]:
        """Which requests are in each slice."""
        new = np.concatenate(self._step) == 0
        device = np.array([each or "unknown" for part in self._device for each in part])
        names, counts = np.unique(device, return_counts=True)
        devices = names[np.argsort(-counts)][:DEVICES_MAX] if len(names) > 1 else []
        named = np.array(self._named)
        masks = {"new users": new, "known users": ~new} | {
            f"device {name}": device == name for name in devices
        }
        return masks | {name: named == name for name in dict.fromkeys(self._named) if name}

    def _slices(
        self, values: Mapping[str, Mapping[str, Floats]], bootstrap: Bootstrap
    ) -> dict[str, tuple[int, dict[str, Interval]]]:
        slices: dict[str, tuple[int, dict[str, Interval]]] = {}
        for name, mask in self._masks.items():
            masked = [np.where(mask, each[PRIMARY], np.nan) for each in values.values()]
            count = int(np.isfinite(masked[0]).sum())
            if count:
                slices[name] = (count, dict(zip(values, bootstrap.means(masked), strict=True)))
        for name, figure in (
            ("long-tail items", "tail"),
            ("new items", "new"),
        ):  # told in any case: that there are none is news too
            found = [each[figure] for each in values.values()]
            slices[name] = (
                int(np.isfinite(found[0]).sum()),
                dict(zip(values, bootstrap.means(found), strict=True)),
            )
        return slices


@dataclass(frozen=True)
class _Truths:
    """What people chose: request, item and gain of each, in order of request and item; shape (m,)
    each.
    """

    request: Ints
    item: Ints
    gain: Floats
    items: int


def _truths(part: Dataset, gain: Floats, missed_gain: float) -> _Truths:
    at = np.flatnonzero(gain > 0)
    request = np.concatenate([part.request[at], part.missed.request])
    item = np.concatenate([part.item[at], part.missed.item])
    worth = np.concatenate([gain[at], np.full(len(part.missed.item), missed_gain)])
    order = np.lexsort((item, request))
    return _Truths(request[order], item[order], worth[order], max(len(part.items), 1))


def _on_slate(slate: Slates, truths: _Truths) -> tuple[Floats, Ints, Ints, Missed]:
    """The gain of each item of a slate, the items, where each request's begin, and what people
    chose that is not on it.
    """
    request = np.repeat(np.arange(len(slate.offsets) - 1), np.diff(slate.offsets))
    wanted, there = truths.request * truths.items + truths.item, request * truths.items + slate.item
    at = np.minimum(np.searchsorted(wanted, there), max(len(wanted) - 1, 0))
    hit = wanted[at] == there if len(wanted) else np.zeros(len(there), bool)
    gain = np.where(hit, truths.gain[at], 0.0) if len(wanted) else np.zeros(len(there))
    gone = ~np.isin(wanted, there)
    return gain, slate.item, slate.offsets, Missed(truths.request[gone], truths.item[gone])


def shares(history: History, before: int) -> Floats:
    """Share of interactions of each item before a moment, shape (items,)."""
    seen = history.interactions.before(before)
    count = np.bincount(seen.item[seen.item >= 0], minlength=seen.items).astype(np.float64)
    return count / max(count.sum(), 1.0)


def _listwise(
    ranked: metrics.Ranked, some: Mapping[str, metrics.Ranked], item: Ints, share: Floats
) -> dict[str, Floats]:
    judged = ranked.judged
    return {
        f"ndcg_{K}": metrics.ndcg(ranked, K),
        f"recall_{K}": metrics.recall(ranked, K),
        "hr_20": metrics.hit_rate(ranked, 20),
        "mrr": metrics.reciprocal_rank(ranked),
        "list_auc": metrics.list_auc(ranked),
        f"novelty_{K}": np.where(judged, metrics.novelty(ranked, item, share), np.nan),
        **{name: metrics.ndcg(each, K) for name, each in some.items()},
    }


def _joined(parts: list[tuple[Floats, npt.NDArray, Ints]]) -> tuple[Floats, npt.NDArray, Ints]:
    """What was said, the label and the request of all rows."""
    said, label, request = (np.concatenate(column) for column in zip(*parts, strict=True))
    return said, label, request


def _head(
    probability: Floats,
    label: npt.NDArray,
    request: Ints,
    bootstrap: Bootstrap,
    masks: Mapping[str, npt.NDArray[np.bool_]],
) -> HeadFigures:
    losses = metrics.log_losses(probability, label)
    size = len(bootstrap.person)
    rate = float(np.mean(label > 0))
    # the mean over rows as a ratio of sums over requests
    loss = bootstrap.ratio(
        metrics.totals(request, losses, size), metrics.totals(request, np.ones(len(request)), size)
    )
    area = bootstrap.auc(
        metrics.auc(probability, label), metrics.auc_influence(probability, label), request
    )
    calibration = metrics.calibration(probability, label)
    error = bootstrap.calibration_error(calibration, probability, label, request)
    mean = metrics.log_loss(np.full(len(label), rate), label)
    chosen = {name: mask[request] for name, mask in masks.items()}
    slices = {
        name: metrics.calibration(probability[rows], label[rows])
        for name, rows in chosen.items()
        if rows.any()
    }
    return HeadFigures(
        area, loss, mean, error, calibration, int(np.count_nonzero(label)), len(label), slices
    )


def _plain_head(head: HeadFigures) -> dict[str, Any]:
    figures = flat(
        {"auc": head.auc, "log_loss": head.log_loss, "calibration_error": head.calibration_error}
    )
    more = {
        "log_loss_mean": rounded(head.log_loss_mean),
        "calibration_error_debiased": rounded(head.calibration.debiased),
    }
    slices = {name: _plain_calibration(each) for name, each in head.slices.items()}
    return {
        **figures,
        **more,
        "positives": head.positives,
        "rows": head.rows,
        "calibration_slices": slices,
    }


def _plain_calibration(each: metrics.Calibration) -> dict[str, Any]:
    """Of a slice: how many rows, what was said and what happened on average, and the error without
    the noise's part.
    """
    rows = each.count.sum()
    means = {
        name: rounded(float(np.nansum(each.count * value) / rows)) for name, value in _of_bins(each)
    }
    return {"rows": int(rows), **means, "calibration_error_debiased": rounded(each.debiased)}


def _of_bins(each: metrics.Calibration) -> tuple[tuple[str, Floats], ...]:
    return ("predicted", each.predicted), ("observed", each.observed)


def long_tail(share: Floats) -> npt.NDArray[np.bool_]:
    """Items outside the most popular fifth of those that were ever chosen."""
    chosen = np.count_nonzero(share)
    head = np.argsort(-share, kind="stable")[: round(chosen * (1 - TAIL_SHARE))]
    tail = np.ones(len(share), bool)
    tail[head] = False
    return tail
