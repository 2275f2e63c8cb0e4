"""How much a model needs a column: what it loses on later data without it, and whether trees like
it more than they like chance.

*Permutation*: the column's values are exchanged and the model scores again; importance is the drop
 in the judged figure, paired by request. It is of one model, and of columns that stand for each
 other it sees each as superfluous: groups are permuted together too. Source: Breiman, Machine
 Learning 45 (2001), section 10.

*Null importance*: the gain that trees get from a column, beside what they get from it when labels
 are shuffled within requests. Trees like columns with many values even where they mean nothing;
 that liking is in both. Source: Altmann et al., Bioinformatics 26 (2010).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from tailorbird.models.gbdt import Gbdt, GbdtSettings, Sample, fit_gbdt
from tailorbird.training import metrics
from tailorbird.training.judge import K
from tailorbird.training.shuffling import among_requests, within_requests
from tailorbird.training.signal_rows import SignalRows

Floats = npt.NDArray[np.float64]
Matrix = npt.NDArray[np.float32]
Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]

SMALL = GbdtSettings(
    trees=60, rate=0.1, patience=0
)  # of null fits: the same number of trees whatever the labels are


def quality(model: Gbdt, matrix: Matrix, rows: SignalRows) -> Floats:
    """The judged figure of each request, shape (requests,); NaN where there is nothing to find."""
    ranked = metrics.rank_lists(model.score(matrix), rows.label, rows.offsets, k=K)
    return np.where(rows.found, metrics.ndcg(ranked, K), np.nan)


@dataclass(frozen=True)
class Permuter:
    """What is lost when columns of one model are permuted.

    Attributes:
        columns: places in `rows.matrix` of the model's columns.
        rows: later than what the model learned from; those without anything to find only cost time.
        of_request: shape (columns of the matrix,): never different within a request.
    """

    model: Gbdt
    columns: Sequence[int]
    rows: SignalRows
    of_request: Bools
    repeats: int
    seed: int

    def loss(self, members: Sequence[int], whole: Floats) -> Floats:
        """Mean drop of each request over the repeats when some columns (places in the matrix) are
        permuted together.

        Args:
            whole: `quality` of the model on the rows as they are.
        """
        seen = np.ascontiguousarray(self.rows.matrix[:, self.columns])
        split = self.model.booster.feature_importance("split", iteration=self.model.trees)
        used = {column for column, times in zip(self.columns, split, strict=True) if times}
        places = [
            (list(self.columns).index(member), member) for member in members if member in used
        ]
        drop = np.zeros(self.rows.requests)
        if not places:
            return np.where(np.isnan(whole), np.nan, drop)
        kept = seen.copy()
        for repeat in range(self.repeats):
            rng = np.random.default_rng((self.seed, repeat, *members))
            inside, across = (
                within_requests(self.rows.request, rng),
                among_requests(self.rows.offsets, rng),
            )
            for place, member in places:
                seen[:, place] = kept[across if self.of_request[member] else inside, place]
            drop += whole - quality(self.model, seen, self.rows)
        return drop / self.repeats


def gains(sample: Sample, columns: Sequence[str], settings: GbdtSettings) -> Floats:
    """Gain that small trees get from each column, shape (columns,)."""
    nothing = Sample(sample.matrix[:0], sample.label[:0], None, None)
    booster = fit_gbdt(sample, nothing, columns, settings).booster
    return booster.feature_importance("gain").astype(np.float64)


def null_sample(sample: Sample, request: Ints, seed: int) -> Sample:
    """The same rows with labels, and their weights, shuffled within each request."""
    taken = within_requests(request, np.random.default_rng((seed, 1)))
    weight = None if sample.weight is None else sample.weight[taken]
    return Sample(sample.matrix, sample.label[taken], sample.lengths, weight)


def gain_fits(
    sample: Sample, request: Ints, columns: Sequence[str], *, real: int, nulls: int, seed: int
) -> tuple[list[Callable[[], Floats]], list[Callable[[], Floats]]]:
    """Fits still to be done: with the labels as they are, under several seeds, and with shuffled
    ones.
    """

    def fit(number: int, shuffled: bool) -> Callable[[], Floats]:
        settings = replace(SMALL, seed=seed + number)
        return lambda: gains(
            null_sample(sample, request, seed + number) if shuffled else sample, columns, settings
        )

    return [fit(number, False) for number in range(real)], [
        fit(number, True) for number in range(nulls)
    ]
