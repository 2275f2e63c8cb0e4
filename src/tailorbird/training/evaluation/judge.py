"""Evaluation metrics of models and baselines on the same test requests, with intervals over users.

    evaluator = Evaluator(…)
    for drawn in …: evaluator.add(drawn.data, {"tailorbird": scores}, slates=drawn.slates)
    evaluation = evaluator.build_evaluation("tailorbird")

A model orders the candidates of a request; a baseline shows a list of its own. Chosen items that
are in neither count as missed. `gain` is the slot's value formula over the outcomes, so a purchase
weighs as much as the slot says. `training.evaluation.evaluate` decides what is evaluated on which
requests, `training.evaluation.gate` decides on promotion, and `training.report.report` has charts.
"""

from collections import defaultdict
from collections.abc import Mapping
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

from tailorbird.models.interactions import History
from tailorbird.ranking.policy.targets import is_amount_head
from tailorbird.training.dataset.dataset import Dataset, MissedPositives
from tailorbird.training.dataset.slates import Slates
from tailorbird.training.evaluation import metrics
from tailorbird.training.evaluation.amounts import compute_amount_metrics
from tailorbird.training.evaluation.bootstrap import Bootstrap, Interval
from tailorbird.training.evaluation.cold_start import (
    STEP_LABELS,
    ColdStartStep,
    assign_steps,
    cold_start_curve,
)
from tailorbird.training.evaluation.figures import (
    LISTWISE_METRICS,
    PRIMARY_METRIC,
    TOP_K,
    Evaluation,
    Floats,
    Ints,
    SliceIntervals,
    compute_head_metrics,
)
from tailorbird.training.evaluation.positives import collect_chosen_items, score_slate

TAIL_SHARE = 0.8  # the long tail: all items but the most popular fifth
POINTWISE_ROWS_MAX = 2_000_000  # rows kept for the pointwise metrics of heads
DEVICES_MAX = 4
CANDIDATE_RECALL = "candidate_recall"  # of models, where requests are drawn with candidates


class Evaluator:
    """Collects metrics part by part.

    Args:
        history: interactions, which tell who is new at a request's time.
        item_shares: shape (items,), share of interactions of each item before the test part.
        objective: head → weight of the gain.
        seed: seed of the bootstrap and of tie breaking.
    """

    def __init__(
        self,
        history: History,
        item_shares: Floats,
        objective: Mapping[str, float],
        *,
        replicates: int = 1_000,
        seed: int = 0,
    ) -> None:
        self._history = history
        self.set_popularity(item_shares)
        self._objective = objective
        self._replicates = replicates
        self._seed = seed
        self._metric_parts: dict[str, dict[str, list[Floats]]] = defaultdict(
            lambda: defaultdict(list)
        )
        self._is_recommended: dict[str, npt.NDArray[np.bool_]] = {}
        self._is_chosen = np.zeros(len(item_shares), bool)
        self._person_parts: list[Ints] = []
        # Cold-start step of each request's user, see `cold_start`.
        self._person_step_parts: list[Ints] = []
        self._device_parts: list[list[str | None]] = []
        self._slice_names: list[str] = []
        self._head_parts: dict[str, list[tuple[Floats, npt.NDArray, Ints]]] = defaultdict(list)
        self._row_count = 0

    def set_popularity(self, item_shares: Floats) -> None:
        """Set popularity, and with it the long tail and the new items, as of another moment."""
        self._item_shares = item_shares
        self._is_long_tail = long_tail_mask(item_shares)
        self._is_new_item = item_shares == 0

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
            ranked_lists = self._rank_and_record(
                name, score, gain, data.item_codes, data.offsets, data.missed_positives, data.t
            )
            if slates:
                self._metric_parts[name][CANDIDATE_RECALL].append(ranked_lists.candidate_recall)
        chosen_items = collect_chosen_items(data, gain, self._missed_gain)
        for name, slate in slates.items():
            self._rank_and_record(
                name,
                -np.arange(len(slate.item_codes), dtype=np.float64),
                *score_slate(slate, chosen_items),
                data.t,
            )
        self._is_chosen[chosen_items.item_codes] = True
        requests_before = sum(len(part_persons) for part_persons in self._person_parts)
        for head, probability in (probabilities or {}).items():
            # A bundle may predict heads of other slots, which have no labels here.
            if head in data.labels and self._row_count < POINTWISE_ROWS_MAX:
                is_labelled = np.isfinite(data.labels[head])
                if is_labelled.any():
                    self._head_parts[head].append(
                        (
                            probability[is_labelled],
                            data.labels[head][is_labelled],
                            data.request_index[is_labelled] + requests_before,
                        )
                    )
        self._person_parts.append(data.person_codes)
        self._person_step_parts.append(
            assign_steps(
                self._history.person_counter.count(
                    data.person_codes, data.t, np.arange(data.request_count)
                )
            )
        )
        self._device_parts.append(data.context["device"].to_pylist())
        self._slice_names += [slice_name] * data.request_count
        self._row_count += data.row_count

    @property
    def _missed_gain(self) -> float:
        """Return the gain of a chosen item that no source gave: the weight of the first head."""
        return float(next(iter(self._objective.values()), 1.0)) or 1.0

    def _rank_and_record(
        self,
        model_name: str,
        score: Floats,
        gain: Floats,
        item_codes: Ints,
        offsets: Ints,
        missed_positives: MissedPositives,
        t: Ints,
    ) -> metrics.RankedLists:
        missed_counts = np.bincount(missed_positives.request_index, minlength=len(offsets) - 1)
        ranked_lists = metrics.rank_lists(
            score,
            gain,
            offsets,
            k=TOP_K,
            seed=self._seed,
            missed_counts=missed_counts,
            missed_gain=self._missed_gain,
        )
        ranked_subsets = {}
        for metric_name, mask in (("tail", self._is_long_tail), ("new", self._is_new_item)):
            subset_missed_counts = np.bincount(
                missed_positives.request_index[mask[missed_positives.item_codes]],
                minlength=len(offsets) - 1,
            )
            ranked_subsets[metric_name] = ranked_lists.restrict(
                mask[item_codes[ranked_lists.row]], subset_missed_counts
            )
        steps = assign_steps(
            self._history.item_counter.count(
                item_codes[ranked_lists.row], t, ranked_lists.list_index
            )
        )
        missed_steps = assign_steps(
            self._history.item_counter.count(
                missed_positives.item_codes, t, missed_positives.request_index
            )
        )
        for step_index, step_label in enumerate(STEP_LABELS):
            subset_missed_counts = np.bincount(
                missed_positives.request_index[missed_steps == step_index],
                minlength=len(offsets) - 1,
            )
            ranked_subsets[f"items {step_label}"] = ranked_lists.restrict(
                steps == step_index, subset_missed_counts
            )
        for metric_name, value in _listwise_values(
            ranked_lists, ranked_subsets, item_codes, self._item_shares
        ).items():
            self._metric_parts[model_name][metric_name].append(value)
        is_recommended = self._is_recommended.setdefault(
            model_name, np.zeros(len(self._item_shares), bool)
        )
        is_recommended[item_codes[ranked_lists.top_rows[ranked_lists.top_rows >= 0]]] = True
        return ranked_lists

    def build_evaluation(self, model_name: str) -> Evaluation:
        """Return all metrics; `model_name` is the one that the others are compared with."""
        person_codes = np.concatenate(self._person_parts)
        # Each request of an unknown user counts as a user of its own.
        _, user_codes = np.unique(
            np.where(person_codes < 0, -1 - np.arange(len(person_codes)), person_codes),
            return_inverse=True,
        )
        bootstrap = Bootstrap(user_codes, replicates=self._replicates, seed=self._seed)
        values_by_model = {
            name: {
                metric_name: np.concatenate(parts) for metric_name, parts in metric_parts.items()
            }
            for name, metric_parts in self._metric_parts.items()
        }
        model_values = values_by_model[model_name][PRIMARY_METRIC]
        has_positives = np.isfinite(model_values)
        return Evaluation(
            model_name,
            intervals={
                name: self._model_intervals(name, values, bootstrap)
                for name, values in values_by_model.items()
            },
            differences={
                name: bootstrap.difference(model_values, values[PRIMARY_METRIC])
                for name, values in values_by_model.items()
                if name != model_name
            },
            slices=self._slice_intervals(values_by_model, bootstrap),
            head_metrics={
                head: compute_head_metrics(*_concat_parts(parts), bootstrap, self._slice_masks)
                for head, parts in self._head_parts.items()
                if not is_amount_head(head)
            },
            request_count=int(has_positives.sum()),
            user_count=len(np.unique(user_codes[has_positives])),
            row_count=self._row_count,
            amount_metrics={
                head: compute_amount_metrics(*_concat_parts(parts), bootstrap)
                for head, parts in self._head_parts.items()
                if is_amount_head(head)
            },
            cold_start_curves=self._cold_start_curves(values_by_model, bootstrap),
        )

    def _cold_start_curves(
        self, values_by_model: Mapping[str, Mapping[str, Floats]], bootstrap: Bootstrap
    ) -> dict[str, tuple[ColdStartStep, ...]]:
        """Return the cold-start curves of users and of items."""
        steps = np.concatenate(self._person_step_parts)
        user_values = [
            {
                name: np.where(steps == step_index, values[PRIMARY_METRIC], np.nan)
                for name, values in values_by_model.items()
            }
            for step_index in range(len(STEP_LABELS))
        ]
        item_values = [
            {name: values[f"items {step_label}"] for name, values in values_by_model.items()}
            for step_label in STEP_LABELS
        ]
        return {
            "people": cold_start_curve(user_values, bootstrap),
            "items": cold_start_curve(item_values, bootstrap),
        }

    def _model_intervals(
        self, model_name: str, values: Mapping[str, Floats], bootstrap: Bootstrap
    ) -> dict[str, Interval]:
        metric_names = [
            *LISTWISE_METRICS,
            *((CANDIDATE_RECALL,) if CANDIDATE_RECALL in values else ()),
        ]
        intervals = dict(
            zip(
                metric_names,
                bootstrap.means([values[metric_name] for metric_name in metric_names]),
                strict=True,
            )
        )
        coverage = (self._is_recommended[model_name] & self._is_chosen).sum() / max(
            self._is_chosen.sum(), 1
        )
        return intervals | {
            f"coverage_{TOP_K}": Interval(float(coverage), float("nan"), float("nan"))
        }

    @property
    def _slice_masks(self) -> dict[str, npt.NDArray[np.bool_]]:
        """Return the mask of the requests in each slice."""
        is_new = np.concatenate(self._person_step_parts) == 0
        request_devices = np.array(
            [name or "unknown" for part in self._device_parts for name in part]
        )
        names, counts = np.unique(request_devices, return_counts=True)
        top_devices = names[np.argsort(-counts)][:DEVICES_MAX] if len(names) > 1 else []
        slice_names = np.array(self._slice_names)
        masks = {"new users": is_new, "known users": ~is_new} | {
            f"device {name}": request_devices == name for name in top_devices
        }
        return masks | {
            name: slice_names == name for name in dict.fromkeys(self._slice_names) if name
        }

    def _slice_intervals(
        self, values_by_model: Mapping[str, Mapping[str, Floats]], bootstrap: Bootstrap
    ) -> dict[str, SliceIntervals]:
        slices: dict[str, SliceIntervals] = {}
        for name, mask in self._slice_masks.items():
            masked_values = [
                np.where(mask, values[PRIMARY_METRIC], np.nan)
                for values in values_by_model.values()
            ]
            request_count = int(np.isfinite(masked_values[0]).sum())
            if request_count:
                slices[name] = SliceIntervals(
                    request_count,
                    dict(zip(values_by_model, bootstrap.means(masked_values), strict=True)),
                )
        # These slices are always reported, since an empty one matters too.
        for name, subset_name in (("long-tail items", "tail"), ("new items", "new")):
            subset_values = [values[subset_name] for values in values_by_model.values()]
            slices[name] = SliceIntervals(
                int(np.isfinite(subset_values[0]).sum()),
                dict(zip(values_by_model, bootstrap.means(subset_values), strict=True)),
            )
        return slices


def interaction_shares(history: History, as_of: int) -> Floats:
    """Return the share of interactions of each item before `as_of`, shape (items,)."""
    earlier_interactions = history.interactions.before(as_of)
    counts = np.bincount(
        earlier_interactions.item[earlier_interactions.item >= 0],
        minlength=earlier_interactions.item_count,
    ).astype(np.float64)
    return counts / max(counts.sum(), 1.0)


def _listwise_values(
    ranked_lists: metrics.RankedLists,
    ranked_subsets: Mapping[str, metrics.RankedLists],
    item_codes: Ints,
    item_shares: Floats,
) -> dict[str, Floats]:
    has_positives = ranked_lists.has_positives
    return {
        f"ndcg_{TOP_K}": metrics.ndcg(ranked_lists, TOP_K),
        f"recall_{TOP_K}": metrics.recall(ranked_lists, TOP_K),
        "hr_20": metrics.hit_rate(ranked_lists, 20),
        "mrr": metrics.reciprocal_rank(ranked_lists),
        "list_auc": metrics.list_auc(ranked_lists),
        f"novelty_{TOP_K}": np.where(
            has_positives, metrics.novelty(ranked_lists, item_codes, item_shares), np.nan
        ),
        **{name: metrics.ndcg(subset, TOP_K) for name, subset in ranked_subsets.items()},
    }


def _concat_parts(
    parts: list[tuple[Floats, npt.NDArray, Ints]],
) -> tuple[Floats, npt.NDArray, Ints]:
    """Concatenate predictions, labels and requests of all rows."""
    prediction, label, request = (np.concatenate(column) for column in zip(*parts, strict=True))
    return prediction, label, request


def long_tail_mask(item_shares: Floats) -> npt.NDArray[np.bool_]:
    """Return the mask of items outside the most popular fifth of those that were ever chosen."""
    chosen_count = np.count_nonzero(item_shares)
    head_items = np.argsort(-item_shares, kind="stable")[: round(chosen_count * (1 - TAIL_SHARE))]
    is_tail = np.ones(len(item_shares), bool)
    is_tail[head_items] = False
    return is_tail
