"""Evaluation metrics of models and baselines on the same test requests, with intervals over users.

    evaluator = Evaluator(…)
    for drawn in …: evaluator.add(drawn.data, {"tailorbird": scores}, slates=drawn.slates)
    evaluation = evaluator.evaluation("tailorbird")

A model orders the candidates of a request; a baseline shows a list of its own. Chosen items that
are in neither count as missed. `gain` is the slot's value formula over the outcomes, so a purchase
weighs as much as the slot says. `training.evaluation.evaluate` decides what is evaluated on which
requests, `training.evaluation.gate` decides on promotion, and `training.report.report` has charts.
"""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

from tailorbird.models.interactions import History
from tailorbird.ranking.policy.targets import is_amount_head
from tailorbird.training.dataset.dataset import Dataset, MissedPositives
from tailorbird.training.dataset.replay import Slates
from tailorbird.training.evaluation import metrics
from tailorbird.training.evaluation.amounts import compute_amount_figures
from tailorbird.training.evaluation.bootstrap import Bootstrap, Interval
from tailorbird.training.evaluation.cold_start import (
    STEP_LABELS,
    ColdStartStep,
    assign_steps,
    cold_start_curve,
)
from tailorbird.training.evaluation.figures import (
    LISTWISE,
    PRIMARY_METRIC,
    Evaluation,
    Floats,
    Ints,
    K,
    head_figures,
)

TAIL_SHARE = 0.8  # the long tail: all items but the most popular fifth
HEAD_ROWS_MAX = 2_000_000  # rows kept for the pointwise metrics of heads
DEVICES_MAX = 4
CANDIDATE_RECALL = "candidate_recall"  # of models, where requests are drawn with candidates


class Evaluator:
    """Collects metrics part by part.

    Args:
        history: interactions, which tell who is new at a request's time.
        share: shape (items,), share of interactions of each item before the test part.
        objective: head → weight of the gain.
        seed: seed of the bootstrap and of tie breaking.
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
        self.set_popularity(share)
        self._objective = objective
        self._replicates = replicates
        self._seed = seed
        self._values: dict[str, dict[str, list[Floats]]] = defaultdict(lambda: defaultdict(list))
        self._recommended_items: dict[str, npt.NDArray[np.bool_]] = {}
        self._chosen_items = np.zeros(len(share), bool)
        self._person: list[Ints] = []
        self._person_step: list[Ints] = []
        self._devices: list[list[str | None]] = []
        self._slice_names: list[str] = []
        self._heads: dict[str, list[tuple[Floats, npt.NDArray, Ints]]] = defaultdict(list)
        self._rows = 0

    def set_popularity(self, share: Floats) -> None:
        """Set popularity, and with it the long tail and the new items, as of another moment."""
        self._share, self._is_long_tail, self._is_new_item = (
            share,
            long_tail_mask(share),
            share == 0,
        )

    def add(
        self,
        data: Dataset,
        scores: Mapping[str, Floats],
        probabilities: Mapping[str, Floats] | None = None,
        slates: Mapping[str, Slates] = MappingProxyType({}),
        *,
        slice_name: str = "",
    ) -> None:
        """Add some requests.

        Args:
            scores: scores by model, shape (rows,).
            probabilities: probabilities of the evaluated model by head, shape (rows,).
            slates: slates of these requests by baseline.
            slice_name: slice that these requests form, such as the origin that they follow; "" is
                none.
        """
        gain = data.gain(self._objective)
        for name, score in scores.items():
            ranked = self._rank(name, score, gain, data.item, data.offsets, data.missed, data.t)
            if slates:
                self._values[name][CANDIDATE_RECALL].append(ranked.candidate_recall)
        positives = _collect_positives(data, gain, self._missed_gain)
        for name, slate in slates.items():
            self._rank(
                name,
                -np.arange(len(slate.item), dtype=np.float64),
                *_score_slate(slate, positives),
                data.t,
            )
        self._chosen_items[positives.item] = True
        requests_before = sum(len(part_persons) for part_persons in self._person)
        for head, probability in (probabilities or {}).items():
            # A bundle may predict heads of other slots, which have no labels here.
            if head in data.labels and self._rows < HEAD_ROWS_MAX:
                is_labelled = np.isfinite(data.labels[head])
                if is_labelled.any():
                    self._heads[head].append(
                        (
                            probability[is_labelled],
                            data.labels[head][is_labelled],
                            data.request[is_labelled] + requests_before,
                        )
                    )
        self._person.append(data.person)
        self._person_step.append(
            assign_steps(
                self._history.by_person.count(data.person, data.t, np.arange(data.requests))
            )
        )
        self._devices.append(data.context["device"].to_pylist())
        self._slice_names += [slice_name] * data.requests
        self._rows += data.rows

    @property
    def _missed_gain(self) -> float:
        """Return the gain of a chosen item that no source gave: the weight of the first head."""
        return float(next(iter(self._objective.values()), 1.0)) or 1.0

    def _rank(
        self,
        name: str,
        score: Floats,
        gain: Floats,
        item: Ints,
        offsets: Ints,
        missed: MissedPositives,
        t: Ints,
    ) -> metrics.RankedLists:
        missed_count = np.bincount(missed.request, minlength=len(offsets) - 1)
        ranked = metrics.rank_lists(
            score,
            gain,
            offsets,
            k=K,
            seed=self._seed,
            missed=missed_count,
            missed_gain=self._missed_gain,
        )
        ranked_subsets = {}
        for figure, mask in (("tail", self._is_long_tail), ("new", self._is_new_item)):
            subset_missed = np.bincount(
                missed.request[mask[missed.item]], minlength=len(offsets) - 1
            )
            ranked_subsets[figure] = ranked.restrict(mask[item[ranked.row]], subset_missed)
        step = assign_steps(self._history.by_item.count(item[ranked.row], t, ranked.request))
        step_missed = assign_steps(self._history.by_item.count(missed.item, t, missed.request))
        for step_index, events in enumerate(STEP_LABELS):
            subset_missed = np.bincount(
                missed.request[step_missed == step_index], minlength=len(offsets) - 1
            )
            ranked_subsets[f"items {events}"] = ranked.restrict(step == step_index, subset_missed)
        for figure, value in _listwise_figures(ranked, ranked_subsets, item, self._share).items():
            self._values[name][figure].append(value)
        recommended = self._recommended_items.setdefault(name, np.zeros(len(self._share), bool))
        recommended[item[ranked.top[ranked.top >= 0]]] = True
        return ranked

    def evaluation(self, model: str) -> Evaluation:
        """Return all metrics; `model` is the one that the others are compared with."""
        person = np.concatenate(self._person)
        # Each request of an unknown user counts as a user of its own.
        _, code = np.unique(
            np.where(person < 0, -1 - np.arange(len(person)), person), return_inverse=True
        )
        bootstrap = Bootstrap(code, replicates=self._replicates, seed=self._seed)
        values = {
            name: {figure: np.concatenate(parts) for figure, parts in figures.items()}
            for name, figures in self._values.items()
        }
        figures = {
            name: self._model_figures(name, figures, bootstrap) for name, figures in values.items()
        }
        model_values = values[model][PRIMARY_METRIC]
        differences = {
            name: bootstrap.difference(model_values, figures[PRIMARY_METRIC])
            for name, figures in values.items()
            if name != model
        }
        has_positives = np.isfinite(model_values)
        people = len(np.unique(code[has_positives]))
        heads = {
            name: head_figures(*_concat_parts(parts), bootstrap, self._slice_masks)
            for name, parts in self._heads.items()
            if not is_amount_head(name)
        }
        amounts = {
            name: compute_amount_figures(*_concat_parts(parts), bootstrap)
            for name, parts in self._heads.items()
            if is_amount_head(name)
        }
        sizes = int(has_positives.sum()), people, self._rows
        slices, cold = (
            self._slice_figures(values, bootstrap),
            self._cold_start_curves(values, bootstrap),
        )
        return Evaluation(
            model, figures, differences, slices, heads, *sizes, amounts=amounts, cold=cold
        )

    def _cold_start_curves(
        self, values: Mapping[str, Mapping[str, Floats]], bootstrap: Bootstrap
    ) -> dict[str, tuple[ColdStartStep, ...]]:
        """Return the cold-start curves of users and of items."""
        step = np.concatenate(self._person_step)
        people = [
            {
                name: np.where(step == step_index, figures[PRIMARY_METRIC], np.nan)
                for name, figures in values.items()
            }
            for step_index in range(len(STEP_LABELS))
        ]
        items = [
            {name: figures[f"items {events}"] for name, figures in values.items()}
            for events in STEP_LABELS
        ]
        return {
            "people": cold_start_curve(people, bootstrap),
            "items": cold_start_curve(items, bootstrap),
        }

    def _model_figures(
        self, name: str, values: Mapping[str, Floats], bootstrap: Bootstrap
    ) -> dict[str, Interval]:
        names = [*LISTWISE, *(name for name in (CANDIDATE_RECALL,) if name in values)]
        figures = dict(
            zip(names, bootstrap.means([values[figure] for figure in names]), strict=True)
        )
        coverage = (self._recommended_items[name] & self._chosen_items).sum() / max(
            self._chosen_items.sum(), 1
        )
        return figures | {f"coverage_{K}": Interval(float(coverage), float("nan"), float("nan"))}

    @property
    def _slice_masks(self) -> dict[str, npt.NDArray[np.bool_]]:
        """Return the mask of the requests in each slice."""
        new = np.concatenate(self._person_step) == 0
        device = np.array([name or "unknown" for part in self._devices for name in part])
        names, counts = np.unique(device, return_counts=True)
        devices = names[np.argsort(-counts)][:DEVICES_MAX] if len(names) > 1 else []
        slice_names = np.array(self._slice_names)
        masks = {"new users": new, "known users": ~new} | {
            f"device {name}": device == name for name in devices
        }
        return masks | {
            name: slice_names == name for name in dict.fromkeys(self._slice_names) if name
        }

    def _slice_figures(
        self, values: Mapping[str, Mapping[str, Floats]], bootstrap: Bootstrap
    ) -> dict[str, tuple[int, dict[str, Interval]]]:
        slices: dict[str, tuple[int, dict[str, Interval]]] = {}
        for name, mask in self._slice_masks.items():
            masked_figures = [
                np.where(mask, figures[PRIMARY_METRIC], np.nan) for figures in values.values()
            ]
            count = int(np.isfinite(masked_figures[0]).sum())
            if count:
                slices[name] = (
                    count,
                    dict(zip(values, bootstrap.means(masked_figures), strict=True)),
                )
        # These slices are always reported, since an empty one matters too.
        for name, figure in (("long-tail items", "tail"), ("new items", "new")):
            figure_values = [figures[figure] for figures in values.values()]
            slices[name] = (
                int(np.isfinite(figure_values[0]).sum()),
                dict(zip(values, bootstrap.means(figure_values), strict=True)),
            )
        return slices


@dataclass(frozen=True)
class _Positives:
    """Chosen items: request, item and gain, sorted by request and item; shape (m,) each."""

    request: Ints
    item: Ints
    gain: Floats
    items: int


def _collect_positives(data: Dataset, gain: Floats, missed_gain: float) -> _Positives:
    positive_rows = np.flatnonzero(gain > 0)
    request = np.concatenate([data.request[positive_rows], data.missed.request])
    item = np.concatenate([data.item[positive_rows], data.missed.item])
    gains = np.concatenate([gain[positive_rows], np.full(len(data.missed.item), missed_gain)])
    order = np.lexsort((item, request))
    return _Positives(request[order], item[order], gains[order], max(len(data.items), 1))


def _score_slate(
    slate: Slates, positives: _Positives
) -> tuple[Floats, Ints, Ints, MissedPositives]:
    """Match a baseline's slates with the positives.

    Returns:
        Gain of each item, the items, the offsets of the requests, and the missed positives.
    """
    request = np.repeat(np.arange(len(slate.offsets) - 1), np.diff(slate.offsets))
    positive_keys, slate_keys = (
        positives.request * positives.items + positives.item,
        request * positives.items + slate.item,
    )
    index = np.minimum(np.searchsorted(positive_keys, slate_keys), max(len(positive_keys) - 1, 0))
    is_chosen = (
        positive_keys[index] == slate_keys
        if len(positive_keys)
        else np.zeros(len(slate_keys), bool)
    )
    gain = (
        np.where(is_chosen, positives.gain[index], 0.0)
        if len(positive_keys)
        else np.zeros(len(slate_keys))
    )
    is_missed = ~np.isin(positive_keys, slate_keys)
    return (
        gain,
        slate.item,
        slate.offsets,
        MissedPositives(positives.request[is_missed], positives.item[is_missed]),
    )


def interaction_shares(history: History, before: int) -> Floats:
    """Return the share of interactions of each item before a moment, shape (items,)."""
    earlier = history.interactions.before(before)
    count = np.bincount(earlier.item[earlier.item >= 0], minlength=earlier.items).astype(np.float64)
    return count / max(count.sum(), 1.0)


def _listwise_figures(
    ranked: metrics.RankedLists,
    ranked_subsets: Mapping[str, metrics.RankedLists],
    item: Ints,
    share: Floats,
) -> dict[str, Floats]:
    has_positives = ranked.has_positives
    return {
        f"ndcg_{K}": metrics.ndcg(ranked, K),
        f"recall_{K}": metrics.recall(ranked, K),
        "hr_20": metrics.hit_rate(ranked, 20),
        "mrr": metrics.reciprocal_rank(ranked),
        "list_auc": metrics.list_auc(ranked),
        f"novelty_{K}": np.where(has_positives, metrics.novelty(ranked, item, share), np.nan),
        **{name: metrics.ndcg(lists, K) for name, lists in ranked_subsets.items()},
    }


def _concat_parts(
    parts: list[tuple[Floats, npt.NDArray, Ints]],
) -> tuple[Floats, npt.NDArray, Ints]:
    """Concatenate predictions, labels and requests of all rows."""
    prediction, label, request = (np.concatenate(column) for column in zip(*parts, strict=True))
    return prediction, label, request


def long_tail_mask(share: Floats) -> npt.NDArray[np.bool_]:
    """Return the mask of items outside the most popular fifth of those that were ever chosen."""
    chosen_count = np.count_nonzero(share)
    head = np.argsort(-share, kind="stable")[: round(chosen_count * (1 - TAIL_SHARE))]
    tail = np.ones(len(share), bool)
    tail[head] = False
    return tail
