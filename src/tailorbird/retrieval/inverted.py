"""An inverted file over item vectors: approximate nearest neighbours in large catalogues.

    inverted_rows.npy    int32 (n,): the items of the index, list by list
    inverted_begin.npy   int64 (k + 1,): where each list begins among them
    inverted.json        `Calibration`: number of lists to probe, and the measured recall

Items whose vectors have similar directions share a list (`directions.spherical_kmeans`), with k = 2
√n lists. Lists are probed in the order of

    reach of a list = user · mean of its vectors + 2 · |user| · their deviation by coordinate

so that a long or wide list, which holds more than its mean suggests, comes earlier. The number of
lists to probe is calibrated when the index is built: as many as find `RECALL_MIN` of the nearest
`NEAREST_COUNT` items of people that the tower knows. If that saves too little, as with vectors
without structure, there is no inverted file, and all items are compared.

`vector_score` needs log Σ exp over all items. It is exact over the probed lists. Each of the others
counts as if its products were normally distributed: size · exp(user · mean + |user|² · variance ÷
2). Items that are newer than the file, or have changed, are compared in addition to the lists.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import msgspec
import numpy as np
import numpy.typing as npt

from tailorbird.retrieval.arrays import array_bytes, read_array
from tailorbird.retrieval.directions import nearest_centroids, spherical_kmeans

Matrix = npt.NDArray[np.float32]
Rows = npt.NDArray[np.intp]

FILE_NAMES = ("inverted_rows.npy", "inverted_begin.npy", "inverted.json")
# Share of so many nearest items that a new file must find.
RECALL_MIN = 0.99
NEAREST_COUNT = 100
SAVINGS_MIN = 0.65  # Minimum share of the items that it must save comparing.
SAMPLES_PER_LIST = 50  # Items per list to learn the centroids from.
KMEANS_ROUNDS = 8
_DEVIATION_WEIGHT = 2.0


class Calibration(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The content of `inverted.json`: lists to probe, with the measured recall and cost.

    `recall` is that of the nearest 100, and `share` the share of all items that are compared.
    """

    lists: int
    recall: float
    share: float


@dataclass(frozen=True)
class ProbeResult:
    """The items found near one person so far.

    `rows` and `products` (m,) are the items and their scores, `list_order` the lists by reach,
    `probed_lists` the number of probed lists, and `log_sum_exp` log Σ exp of the products of all
    items.
    """

    rows: Rows
    products: Matrix
    list_order: Rows
    probed_lists: int
    log_sum_exp: float


@dataclass(frozen=True)
class InvertedFile:
    """An inverted file with its vectors. Immutable.

    Attributes:
        vectors: float32 (n, width), list by list.
        rows: rows of the index, int32 (n,).
        offsets: int64 (k + 1,): where each list begins.
        is_stale: bool (rows of the index,): items to compare in addition to the lists.
    """

    vectors: Matrix
    rows: npt.NDArray[np.int32]
    offsets: npt.NDArray[np.int64]
    calibration: Calibration
    is_stale: npt.NDArray[np.bool_] | None = None

    @cached_property
    def _list_moments(self) -> tuple[Matrix, Matrix]:
        """Return the mean of each list, (k, width), and its deviation by coordinate, (k,)."""
        sizes = np.maximum(np.diff(self.offsets), 1)[:, None]
        means = (_sum_lists(self.vectors, self.offsets) / sizes).astype(np.float32)
        mean_squares = (
            _sum_lists(np.einsum("ij,ij->i", self.vectors, self.vectors)[:, None], self.offsets)[
                :, 0
            ]
            / sizes[:, 0]
        )
        variances = np.maximum(mean_squares - np.einsum("ij,ij->i", means, means), 0.0)
        return means, np.sqrt(variances / self.vectors.shape[1]).astype(np.float32)

    @cached_property
    def _stale_rows(self) -> Rows:
        return np.flatnonzero(self.is_stale) if self.is_stale is not None else np.zeros(0, np.intp)

    def probe_lists(self, user_vector: Matrix, all_vectors: Matrix) -> ProbeResult:
        """Probe as many lists as the calibration requires.

        Args:
            all_vectors: the current vectors of all items, for those that are compared in addition
                to the lists.
        """
        means, deviation = self._list_moments
        mean_products = means @ user_vector
        user_norm = np.float32(np.linalg.norm(user_vector))
        list_order = np.argsort(
            -(mean_products + _DEVIATION_WEIGHT * user_norm * deviation), kind="stable"
        )
        rows, products = self._compare_lists(list_order[: self.calibration.lists], user_vector)
        rows = np.concatenate([rows, self._stale_rows])
        products = np.concatenate([products, all_vectors[self._stale_rows] @ user_vector])
        other_lists = list_order[self.calibration.lists :]
        sizes = np.diff(self.offsets)[other_lists]
        other_log_sums = np.where(
            sizes > 0,
            np.log(np.maximum(sizes, 1))
            + mean_products[other_lists]
            + (user_norm * deviation[other_lists]) ** 2 / 2,
            -np.inf,
        )
        maximum = max(
            float(products.max(initial=-np.inf)), float(other_log_sums.max(initial=-np.inf))
        )
        log_sum_exp = (
            maximum
            + float(
                np.log(
                    np.exp(products - np.float32(maximum)).sum()
                    + np.exp(other_log_sums - maximum).sum()
                )
            )
            if np.isfinite(maximum)
            else 0.0
        )
        return ProbeResult(rows, products, list_order, self.calibration.lists, log_sum_exp)

    def probe_more(self, result: ProbeResult, user_vector: Matrix) -> ProbeResult | None:
        """Probe as many lists again; return None if all were probed."""
        next_lists = result.list_order[result.probed_lists : 2 * result.probed_lists]
        if not next_lists.size:
            return None
        rows, products = self._compare_lists(next_lists, user_vector)
        rows = np.concatenate([result.rows, rows])
        products = np.concatenate([result.products, products])
        return replace(
            result, rows=rows, products=products, probed_lists=result.probed_lists + next_lists.size
        )

    def extended(self, changed_rows: Rows, item_count: int) -> "InvertedFile":
        """Return the file for `item_count` rows, with changed rows and new ones at the end."""
        is_stale = np.zeros(item_count, np.bool_)
        if self.is_stale is not None:
            is_stale[: self.is_stale.size] = self.is_stale
        is_stale[len(self.rows) :] = True
        is_stale[changed_rows] = True
        extended_file = replace(self, is_stale=is_stale)
        extended_file.__dict__["_list_moments"] = self._list_moments
        return extended_file

    def _compare_lists(self, lists: Rows, user_vector: Matrix) -> tuple[Rows, Matrix]:
        """Return the items of some lists and their products."""
        starts = self.offsets[lists]
        stops = self.offsets[lists + 1]
        positions = np.concatenate([[0], np.cumsum(stops - starts)]).tolist()
        products = np.empty(positions[-1], np.float32)
        rows = np.empty(positions[-1], np.intp)
        for start, stop, output_start, output_stop in zip(
            starts.tolist(), stops.tolist(), positions, positions[1:], strict=False
        ):
            np.dot(self.vectors[start:stop], user_vector, out=products[output_start:output_stop])
            rows[output_start:output_stop] = self.rows[start:stop]
        if self.is_stale is None:
            return rows, products
        is_current = ~self.is_stale[rows]
        return rows[is_current], products[is_current]

    # Files of an index

    def files(self) -> dict[str, bytes]:
        """Return file name → bytes; stale items are not stored."""
        return dict(
            zip(
                FILE_NAMES,
                (
                    array_bytes(self.rows),
                    array_bytes(self.offsets),
                    msgspec.json.encode(self.calibration),
                ),
                strict=True,
            )
        )

    @classmethod
    def read(
        cls, files: Mapping[str, bytes | memoryview], vectors: Matrix
    ) -> "InvertedFile | None":
        """Read the inverted file of an index; None if it has none.

        Raises ValueError, KeyError or DecodeError if the files are damaged.
        """
        if not any(name in files for name in FILE_NAMES):
            return None
        rows, offsets = (read_array(files[name]) for name in FILE_NAMES[:2])
        calibration = msgspec.json.decode(files[FILE_NAMES[2]], type=Calibration)
        n = len(vectors)
        if (
            rows.dtype != np.int32
            or rows.shape != (n,)
            or offsets.dtype != np.int64
            or offsets.ndim != 1
            or offsets.size < 2
        ):
            raise ValueError("the lists of the inverted file have another shape than the items")
        if (
            offsets[0] != 0
            or offsets[-1] != n
            or (np.diff(offsets) < 0).any()
            or not 1 <= calibration.lists < offsets.size
        ):
            raise ValueError("the lists of the inverted file do not follow each other")
        is_listed = np.zeros(n, np.bool_)
        is_listed[rows[(rows >= 0) & (rows < n)]] = True
        if not is_listed.all():
            raise ValueError("the lists of the inverted file leave items out")
        inverted = cls(vectors[rows], rows, offsets, calibration)
        _ = inverted._list_moments
        return inverted


def build_inverted(vectors: Matrix, user_vectors: Matrix, *, seed: int = 0) -> InvertedFile | None:
    """Build an inverted file; return None if it would save too little.

    Args:
        vectors: vectors of items, (n, width).
        user_vectors: vectors of some people, (m, width), to calibrate the number of lists by.
    """
    n = len(vectors)
    list_count = int(2 * np.sqrt(n))
    if list_count < 2 or not len(user_vectors):
        return None
    rng = np.random.default_rng(seed)
    sample = _unit_vectors(
        vectors[np.sort(rng.choice(n, min(n, SAMPLES_PER_LIST * list_count), replace=False))]
    )
    centroids = spherical_kmeans(
        sample, sample[rng.choice(len(sample), list_count, replace=False)], KMEANS_ROUNDS
    )
    list_labels = nearest_centroids(_unit_vectors(vectors), centroids)
    rows = np.argsort(list_labels, kind="stable").astype(np.int32)
    offsets = np.concatenate(
        [[0], np.cumsum(np.bincount(list_labels, minlength=list_count))]
    ).astype(np.int64)
    uncalibrated = InvertedFile(vectors[rows], rows, offsets, Calibration(1, 0.0, 0.0))
    calibration = _calibrate_probes(uncalibrated, vectors, list_labels, user_vectors)
    return (
        replace(uncalibrated, calibration=calibration)
        if calibration.share <= 1 - SAVINGS_MIN
        else None
    )


def _calibrate_probes(
    inverted: InvertedFile, vectors: Matrix, list_labels: Rows, user_vectors: Matrix
) -> Calibration:
    """Measure how many lists find enough of the nearest items of some people."""
    sizes = np.diff(inverted.offsets)
    nearest_ranks = []
    compared_counts = []
    for user_vector in user_vectors:
        list_order = inverted.probe_lists(user_vector, vectors).list_order
        list_rank = np.empty(list_order.size, np.intp)
        list_rank[list_order] = np.arange(list_order.size)
        products = vectors @ user_vector
        nearest_rows = np.argpartition(-products, min(NEAREST_COUNT, products.size) - 1)[
            :NEAREST_COUNT
        ]
        nearest_ranks.append(list_rank[list_labels[nearest_rows]])
        compared_counts.append(np.cumsum(sizes[list_order]))
    list_count = int(np.quantile(np.concatenate(nearest_ranks), RECALL_MIN, method="higher")) + 1
    recall = float(np.mean(np.concatenate(nearest_ranks) < list_count))
    share = float(np.mean([counts[list_count - 1] for counts in compared_counts])) / max(
        len(vectors), 1
    )
    return Calibration(list_count, round(recall, 4), round(share, 4))


def _unit_vectors(vectors: Matrix) -> Matrix:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), np.float32(1e-12))


def _sum_lists(values: Matrix, offsets: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Return the sum of each list's rows, (k, width)."""
    sums = np.zeros((offsets.size - 1, values.shape[1]))
    nonempty = np.flatnonzero(np.diff(offsets) > 0)
    if nonempty.size:
        sums[nonempty] = np.add.reduceat(values, offsets[:-1][nonempty], axis=0, dtype=np.float64)
    return sums
