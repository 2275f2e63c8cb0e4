"""An inverted file over the vectors of items: the nearest of very many, without a product with
each.

    inverted_rows.npy    int32 (n,): the items of the index, list by list
    inverted_begin.npy   int64 (k + 1,): where each list begins among them
    inverted.json        `Measured`: how many lists are looked into, and what that was measured to find

Items whose vectors point alike share a list (`directions.centres`), k = 2 √n of them. Lists are
looked into in the order of

    reach of a list = user · mean of its vectors + 2 · |user| · their deviation by coordinate

so that a long or a wide list, which holds more than its mean says, comes earlier. How many are
looked into is measured when the index is built: as many as find `RECALL` of the nearest `NEAREST`
of people that the tower knows. Where that saves nothing, as among vectors without any order, there
is no inverted file, and all items are looked at.

log Σ exp over all items, which `vector_score` is told from, is exact over the lists that are looked
into; each of the others counts as if its products were normally distributed: size · exp(user · mean
+ |user|² · variance ÷ 2). Items that are newer than the file, or have changed, are looked at beside
the lists.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import msgspec
import numpy as np
import numpy.typing as npt

from tailorbird.retrieval.arrays import array_bytes, read_array
from tailorbird.retrieval.directions import nearest_of, spherical_kmeans

Matrix = npt.NDArray[np.float32]
Rows = npt.NDArray[np.intp]

FILES = ("inverted_rows.npy", "inverted_begin.npy", "inverted.json")
RECALL, NEAREST = 0.99, 100  # what a new file must find, of so many of the nearest
SAVED = 0.65  # of the items, that it must spare to look at
LEARNED_FROM = 50  # items a list
ROUNDS = 8
_WIDER = 2.0


class Measured(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`inverted.json`: lists that are looked into, and the recall of the nearest 100 and the share
    of all items that this was.
    """

    lists: int
    recall: float
    share: float


@dataclass(frozen=True)
class ProbeResult:
    """What was found near one person so far: rows and products (m,), the lists in their order, how
    many of these were looked into, and log Σ exp of the products of all items.
    """

    rows: Rows
    products: Matrix
    order: Rows
    lists: int
    total: float


@dataclass(frozen=True)
class Inverted:
    """The file over its vectors. It never changes.

    Attributes:
        vectors: float32 (n, width), list by list.
        rows: of the index, int32 (n,).
        begin: int64 (k + 1,).
        stale: bool (rows of the index,): what is looked at beside the lists; None is nothing.
    """

    vectors: Matrix
    rows: npt.NDArray[np.int32]
    begin: npt.NDArray[np.int64]
    measured: Measured
    stale: npt.NDArray[np.bool_] | None = None

    @cached_property
    def _means(self) -> tuple[Matrix, Matrix]:
        """The mean of each list, (k, width), and its deviation by coordinate, (k,)."""
        size = np.maximum(np.diff(self.begin), 1)[:, None]
        means = (_sums(self.vectors, self.begin) / size).astype(np.float32)
        squares = (
            _sums(np.einsum("ij,ij->i", self.vectors, self.vectors)[:, None], self.begin)[:, 0]
            / size[:, 0]
        )
        left = np.maximum(squares - np.einsum("ij,ij->i", means, means), 0.0)
        return means, np.sqrt(left / self.vectors.shape[1]).astype(np.float32)

    @cached_property
    def _beside(self) -> Rows:
        return np.flatnonzero(self.stale) if self.stale is not None else np.zeros(0, np.intp)

    def look(self, user: Matrix, among: Matrix) -> ProbeResult:
        """Look into as many lists as was measured to be enough.

        Args:
            among: the vectors of all items as they are now, for those that are looked at beside the
                lists.
        """
        means, deviation = self._means
        middle, length = means @ user, np.float32(np.linalg.norm(user))
        order = np.argsort(-(middle + _WIDER * length * deviation), kind="stable")
        rows, products = self._of(order[: self.measured.lists], user)
        rows, products = (
            np.concatenate([rows, self._beside]),
            np.concatenate([products, among[self._beside] @ user]),
        )
        rest = order[self.measured.lists :]
        size = np.diff(self.begin)[rest]
        told = np.where(
            size > 0,
            np.log(np.maximum(size, 1)) + middle[rest] + (length * deviation[rest]) ** 2 / 2,
            -np.inf,
        )
        most = max(float(products.max(initial=-np.inf)), float(told.max(initial=-np.inf)))
        total = (
            most
            + float(np.log(np.exp(products - np.float32(most)).sum() + np.exp(told - most).sum()))
            if np.isfinite(most)
            else 0.0
        )
        return ProbeResult(rows, products, order, self.measured.lists, total)

    def further(self, looked: ProbeResult, user: Matrix) -> ProbeResult | None:
        """As many lists again; None where all were looked into."""
        more = looked.order[looked.lists : 2 * looked.lists]
        if not more.size:
            return None
        rows, products = self._of(more, user)
        rows, products = (
            np.concatenate([looked.rows, rows]),
            np.concatenate([looked.products, products]),
        )
        return replace(looked, rows=rows, products=products, lists=looked.lists + more.size)

    def extended(self, changed: Rows, total: int) -> "Inverted":
        """Over an index of `total` rows, of which these changed and the last are new."""
        stale = np.zeros(total, np.bool_)
        if self.stale is not None:
            stale[: self.stale.size] = self.stale
        stale[len(self.rows) :] = True
        stale[changed] = True
        made = replace(self, stale=stale)
        made.__dict__["_means"] = self._means
        return made

    def _of(self, lists: Rows, user: Matrix) -> tuple[Rows, Matrix]:
        """The items of some lists and their products."""
        begins, ends = self.begin[lists], self.begin[lists + 1]
        places = np.concatenate([[0], np.cumsum(ends - begins)]).tolist()
        products, rows = np.empty(places[-1], np.float32), np.empty(places[-1], np.intp)
        for begin, end, low, high in zip(
            begins.tolist(), ends.tolist(), places, places[1:], strict=False
        ):
            np.dot(self.vectors[begin:end], user, out=products[low:high])
            rows[low:high] = self.rows[begin:end]
        if self.stale is None:
            return rows, products
        kept = ~self.stale[rows]
        return rows[kept], products[kept]

    # Files of an index

    def files(self) -> dict[str, bytes]:
        """File → bytes; what is looked at beside the lists is not among them."""
        return dict(
            zip(
                FILES,
                (
                    array_bytes(self.rows),
                    array_bytes(self.begin),
                    msgspec.json.encode(self.measured),
                ),
                strict=True,
            )
        )

    @classmethod
    def read(cls, files: Mapping[str, bytes], vectors: Matrix) -> "Inverted | None":
        """From the files of an index, None where it has none. Raises ValueError, KeyError or
        DecodeError if they are damaged.
        """
        if not any(name in files for name in FILES):
            return None
        rows, begin = (read_array(files[name]) for name in FILES[:2])
        measured = msgspec.json.decode(files[FILES[2]], type=Measured)
        n = len(vectors)
        if (
            rows.dtype != np.int32
            or rows.shape != (n,)
            or begin.dtype != np.int64
            or begin.ndim != 1
            or begin.size < 2
        ):
            raise ValueError("the lists of the inverted file have another shape than the items")
        if (
            begin[0] != 0
            or begin[-1] != n
            or (np.diff(begin) < 0).any()
            or not 1 <= measured.lists < begin.size
        ):
            raise ValueError("the lists of the inverted file do not follow each other")
        there = np.zeros(n, np.bool_)
        there[rows[(rows >= 0) & (rows < n)]] = True
        if not there.all():
            raise ValueError("the lists of the inverted file leave items out")
        made = cls(vectors[rows], rows, begin, measured)
        _ = made._means
        return made


def build_inverted(vectors: Matrix, users: Matrix, *, seed: int = 0) -> Inverted | None:
    """An inverted file, or None where it would spare too little.

    Args:
        vectors: of items, (n, width).
        users: of some people, (m, width), by whom is measured how many lists it takes.
    """
    n = len(vectors)
    k = int(2 * np.sqrt(n))
    if k < 2 or not len(users):
        return None
    rng = np.random.default_rng(seed)
    some = _units(vectors[np.sort(rng.choice(n, min(n, LEARNED_FROM * k), replace=False))])
    at = spherical_kmeans(some, some[rng.choice(len(some), k, replace=False)], ROUNDS)
    of = nearest_of(_units(vectors), at)
    rows = np.argsort(of, kind="stable").astype(np.int32)
    begin = np.concatenate([[0], np.cumsum(np.bincount(of, minlength=k))]).astype(np.int64)
    bare = Inverted(vectors[rows], rows, begin, Measured(1, 0.0, 0.0))
    measured = _measured(bare, vectors, of, users)
    return replace(bare, measured=measured) if measured.share <= 1 - SAVED else None


def _measured(made: Inverted, vectors: Matrix, of: Rows, users: Matrix) -> Measured:
    """How many lists hold enough of the nearest of some people."""
    size = np.diff(made.begin)
    needed, passed = [], []
    for user in users:
        order = made.look(user, vectors).order
        rank = np.empty(order.size, np.intp)
        rank[order] = np.arange(order.size)
        products = vectors @ user
        nearest = np.argpartition(-products, min(NEAREST, products.size) - 1)[:NEAREST]
        needed.append(rank[of[nearest]])
        passed.append(np.cumsum(size[order]))
    lists = int(np.quantile(np.concatenate(needed), RECALL, method="higher")) + 1
    recall = float(np.mean(np.concatenate(needed) < lists))
    share = float(np.mean([one[lists - 1] for one in passed])) / max(len(vectors), 1)
    return Measured(lists, round(recall, 4), round(share, 4))


def _units(vectors: Matrix) -> Matrix:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), np.float32(1e-12))


def _sums(values: Matrix, begin: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """The sum of each list's rows, (k, width)."""
    sums = np.zeros((begin.size - 1, values.shape[1]))
    filled = np.flatnonzero(np.diff(begin) > 0)
    if filled.size:
        sums[filled] = np.add.reduceat(values, begin[:-1][filled], axis=0, dtype=np.float64)
    return sums
