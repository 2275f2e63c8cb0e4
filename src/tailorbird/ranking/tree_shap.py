"""Exact Shapley values of a forest (path-dependent TreeSHAP), without LightGBM.

    trees/HEAD.msgpack of a bundle: `Trees`, written by `training.fit.trees` beside the head's ONNX
    file, which holds no covers

A leaf's path tests d different columns. For each, let o be 1 if the row follows the path at all of
the column's nodes, else 0, and z the share of training rows that do. Column j then gets from a leaf
of value v

    v (o_j - z_j) ∫₀¹ ∏_{k≠j} (t o_k + (1 - t) z_k) dt

since ∫ t^s (1-t)^(d-1-s) dt = s! (d-1-s)! / d!, the weight that Shapley gives a set of s columns.
The integrand is a polynomial of degree d - 1, so that ⌈d/2⌉ Gauss-Legendre nodes give the integral
exactly. All leaves and rows go at once; nothing is recursive. Definition: Lundberg et al., Nature
Machine Intelligence 2 (2020), algorithm 1; the same as LightGBM's `pred_contrib`, to rounding.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import msgspec
import numpy as np
import numpy.typing as npt

from tailorbird.errors import BundleError

Floats = npt.NDArray[np.float64]
Indices = npt.NDArray[np.intp]
Mask = npt.NDArray[np.bool_]

FOLDER = "trees"
SUFFIX = ".msgpack"
LEAF = -1
# bits of `kind`
CATEGORY_SET = 1
MISSING_LEFT = 2
NAN_MISSING = 4
ZERO_MISSING = 8
_ZERO_MAX = 1e-35  # LightGBM's kZeroThreshold: values that count as 0
_ELEMENTS_MAX = (
    2_000_000  # rows × path elements × quadrature nodes at a time: some 16 MB a temporary
)


class Trees(msgspec.Struct, frozen=True, dict=True, forbid_unknown_fields=True):
    """A forest as flat lists over all nodes, children after their parents.

    Attributes:
        columns: of the matrix.
        link: from the raw score to the head's output: `logit` (a probability), `log` (a count, an
            amount) or `identity` (an order score).
        roots: the first node of each tree.
        feature: the column that a node tests, -1 for a leaf.
        threshold: left if the value is not above it; for a node with a set, the index in `sets`.
        left, right: children.
        kind: bits, see above.
        cover: training rows that reached the node.
        value: of a leaf.
        sets: the codes that go left.
    """

    columns: int
    link: Literal["logit", "log", "identity"]
    roots: list[int]
    feature: list[int]
    threshold: list[float]
    left: list[int]
    right: list[int]
    kind: list[int]
    cover: list[float]
    value: list[float]
    sets: list[list[int]] = []

    def __post_init__(self) -> None:
        n = len(self.feature)
        lists = (self.threshold, self.left, self.right, self.kind, self.cover, self.value)
        inner_nodes = [node for node, feature in enumerate(self.feature) if feature >= 0]
        is_valid = (
            all(len(values) == n for values in lists)
            and all(0 <= root < n for root in self.roots)
            and all(
                node < self.left[node] < n and node < self.right[node] < n and self.cover[node] > 0
                for node in inner_nodes
            )
            and all(self.feature[node] < self.columns for node in inner_nodes)
            and all(
                0 <= self.threshold[node] < len(self.sets)
                for node in inner_nodes
                if self.kind[node] & CATEGORY_SET
            )
        )
        if not is_valid:
            raise BundleError("its trees are no trees", fix="tailorbird train")

    @cached_property
    def _paths(self) -> "_Paths":
        return _enumerate_paths(self)

    def raw_scores(self, matrix: npt.NDArray[np.floating]) -> Floats:
        """Return the raw score of each row, (n,), before the link."""
        paths = self._paths
        reaches_leaf = paths.reaches_leaf(_goes_left(self, paths, matrix))
        return reaches_leaf @ paths.leaf_value + paths.constant

    def contributions(self, matrix: npt.NDArray[np.floating]) -> tuple[Floats, float]:
        """Return the contributions to each row's raw score, (n, columns), and the base value.

        The contributions of a row and the base value add up to its raw score.
        """
        paths = self._paths
        values = np.zeros((len(matrix), self.columns))
        rows_per_block = max(
            1, _ELEMENTS_MAX // max(1, paths.cover_share.size * paths.quadrature_nodes.size)
        )
        for start in range(0, len(matrix), rows_per_block):
            rows = slice(start, start + rows_per_block)
            values[rows] = paths.shapley(_goes_left(self, paths, matrix[rows]), self.columns)
        return values, paths.expected

    def apply_link(self, raw: Floats) -> Floats:
        """Apply the link to raw scores."""
        if self.link == "identity":
            return raw
        return (
            np.exp(raw)
            if self.link == "log"
            else 1.0 / (1.0 + np.exp(-np.clip(raw, -700.0, 700.0)))
        )


@dataclass(frozen=True)
class _Paths:
    """All root-to-leaf paths, as elements: a leaf with one of the columns on its path.

    Attributes:
        nodes: the inner nodes, (N,).
        step_node, step_left: the index in `nodes` and the direction of each step of each path,
            sorted by element.
        element_starts: where an element's steps begin; elements are sorted by leaf.
        leaf_starts: where a leaf's elements begin.
        leaf: of each element.
        cover_share: of each element, the share of training rows that go its way.
        feature: of each element; `feature_order` sorts them, `feature_starts` says where each of
            `features` begins.
        leaf_value: (L,), of leaves below an inner root.
        constant: the sum of trees that are one leaf.
        expected: the mean over training rows.
        quadrature_nodes, quadrature_weights: Gauss-Legendre nodes over (0, 1).
    """

    nodes: Indices
    step_node: Indices
    step_left: Mask
    element_starts: Indices
    leaf_starts: Indices
    leaf: Indices
    cover_share: Floats
    feature_order: Indices
    features: Indices
    feature_starts: Indices
    leaf_value: Floats
    constant: float
    expected: float
    quadrature_nodes: Floats
    quadrature_weights: Floats

    def follows_path(self, goes_left: Mask) -> Mask:
        """Return whether each row follows each element, (n, E)."""
        steps = goes_left[:, self.step_node] == self.step_left
        return (
            np.logical_and.reduceat(steps, self.element_starts, axis=1)
            if self.cover_share.size
            else np.zeros((len(goes_left), 0), bool)
        )

    def reaches_leaf(self, goes_left: Mask) -> Mask:
        """Return whether each row ends in each leaf, (n, L)."""
        if not self.cover_share.size:
            return np.zeros((len(goes_left), 0), bool)
        return np.logical_and.reduceat(self.follows_path(goes_left), self.leaf_starts, axis=1)

    def shapley(self, goes_left: Mask, columns: int) -> Floats:
        contributions = np.zeros((len(goes_left), columns))
        if not self.cover_share.size:
            return contributions
        follows_path = self.follows_path(goes_left).astype(np.float64)
        factor = follows_path[:, :, None] * self.quadrature_nodes + self.cover_share[:, None] * (
            1.0 - self.quadrature_nodes
        )
        product_of_others = (
            np.multiply.reduceat(factor, self.leaf_starts, axis=1)[:, self.leaf] / factor
        )
        element_contributions = (
            (product_of_others @ self.quadrature_weights)
            * (follows_path - self.cover_share)
            * self.leaf_value[self.leaf]
        )
        contributions[:, self.features] = np.add.reduceat(
            element_contributions[:, self.feature_order], self.feature_starts, axis=1
        )
        return contributions


def _goes_left(trees: Trees, paths: _Paths, matrix: npt.NDArray[np.floating]) -> Mask:
    """Return whether each row goes left at each inner node, (n, N), as LightGBM decides."""
    x = matrix[:, np.array(trees.feature, np.intp)[paths.nodes]].astype(np.float64)
    kind = np.array(trees.kind, np.int64)[paths.nodes]
    threshold = np.array(trees.threshold)[paths.nodes]
    is_nan = np.isnan(x)
    is_missing = (is_nan & (kind & NAN_MISSING > 0)) | (
        (is_nan | (np.abs(x) <= _ZERO_MAX)) & (kind & ZERO_MISSING > 0)
    )
    goes_left = np.where(is_missing, kind & MISSING_LEFT > 0, np.where(is_nan, 0.0, x) <= threshold)
    for node in np.flatnonzero(kind & CATEGORY_SET).tolist():
        codes = np.where(is_nan[:, node] | (x[:, node] < 0), -1, np.nan_to_num(x[:, node])).astype(
            np.int64
        )
        goes_left[:, node] = np.isin(codes, trees.sets[int(threshold[node])])
    return goes_left


def _enumerate_paths(trees: Trees) -> _Paths:
    feature = trees.feature
    cover = np.array(trees.cover)
    nodes = np.array([node_id for node_id, column in enumerate(feature) if column >= 0], np.intp)
    index_by_node_id = {int(node_id): number for number, node_id in enumerate(nodes)}
    steps: list[tuple[int, bool]] = []
    element_starts: list[int] = []
    leaf_starts: list[int] = []
    leaf_by_element: list[int] = []
    cover_shares: list[float] = []
    element_features: list[int] = []
    leaf_values: list[float] = []
    constant = expected = 0.0
    for root in trees.roots:
        if feature[root] < 0:
            constant += trees.value[root]
            continue
        # Node id, and column → (cover share, steps) of its path.
        stack: list[tuple[int, dict[int, tuple[float, list[tuple[int, bool]]]]]] = [(root, {})]
        while stack:
            node_id, path = stack.pop()
            if feature[node_id] >= 0:
                share_before, branches = path.get(feature[node_id], (1.0, []))
                for child, is_left in ((trees.right[node_id], False), (trees.left[node_id], True)):
                    extended_path = (
                        share_before * cover[child] / cover[node_id],
                        [*branches, (index_by_node_id[node_id], is_left)],
                    )
                    stack.append((child, {**path, feature[node_id]: extended_path}))
                continue
            leaf_starts.append(len(cover_shares))
            for column, (share, path_steps) in path.items():
                element_starts.append(len(steps))
                steps += path_steps
                cover_shares.append(share)
                element_features.append(column)
                leaf_by_element.append(len(leaf_values))
            leaf_values.append(trees.value[node_id])
            expected += trees.value[node_id] * cover[node_id] / cover[root]
    elements_max = max(np.diff([*leaf_starts, len(cover_shares)]), default=1)
    x, weight = np.polynomial.legendre.leggauss(max(1, (int(elements_max) + 1) // 2))
    feature_order = np.argsort(np.array(element_features, np.intp), kind="stable")
    features, feature_starts = np.unique(
        np.array(element_features, np.intp)[feature_order], return_index=True
    )
    return _Paths(
        nodes=nodes,
        step_node=np.array([node for node, _ in steps], np.intp),
        step_left=np.array([is_left for _, is_left in steps], bool),
        element_starts=np.array(element_starts, np.intp),
        leaf_starts=np.array(leaf_starts, np.intp),
        leaf=np.array(leaf_by_element, np.intp),
        cover_share=np.maximum(np.array(cover_shares), 1e-12),
        feature_order=feature_order,
        features=features,
        feature_starts=feature_starts,
        leaf_value=np.array(leaf_values),
        constant=constant,
        expected=constant + expected,
        quadrature_nodes=(x + 1.0) / 2.0,
        quadrature_weights=weight / 2.0,
    )


def rescale_contributions(
    contributions: Floats, base: float, transform: Callable[[Floats], Floats]
) -> Floats:
    """Rescale contributions to a raw score into contributions to a function of it.

    Each keeps its share of the difference between the base and the row's score. They add up to
    `transform(score) - transform(base)`.

    Args:
        contributions: (n, columns), which with `base` add up to the raw scores.
        transform: from raw scores (n,) to the target scale.
    """
    raw_change = contributions.sum(axis=1)
    target_change = transform(base + raw_change) - transform(np.full(1, base))
    slope = np.divide(
        target_change, raw_change, out=np.zeros_like(raw_change), where=np.abs(raw_change) > 1e-12
    )
    return contributions * slope[:, None]


_DECODER = msgspec.msgpack.Decoder(Trees)


def encode_trees(trees: Trees) -> bytes:
    return msgspec.msgpack.encode(trees)


def decode_trees(data: bytes, *, where: str) -> Trees:
    """Decode trees from their file.

    Raises BundleError.
    """
    try:
        return _DECODER.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise BundleError(
            f"its trees cannot be read: {error}", where=where, fix="tailorbird train"
        ) from error
