"""Trees of a bundle: written, and read with a check of their values."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from tailorbird.errors import BundleError
from tailorbird.ranking.encode.rows import Matrix
from tailorbird.ranking.tree_shap import FOLDER as TREES_FOLDER
from tailorbird.ranking.tree_shap import SUFFIX, Trees, decode_trees, encode_trees
from tailorbird.registry import Head

Floats = npt.NDArray[np.float64]

TREES_TOLERANCE = (
    1e-4  # of trees in float64 against their export in float32: tells one model from another
)


def write_trees(folder: Path, trees_by_head: Mapping[str, Trees]) -> None:
    """Write the files that `read_trees` reads."""
    for head, trees in trees_by_head.items():
        (folder / TREES_FOLDER).mkdir(exist_ok=True)
        (folder / f"{TREES_FOLDER}/{head}{SUFFIX}").write_bytes(encode_trees(trees))


def read_trees(
    files: Mapping[str, bytes | memoryview],
    heads: Sequence[Head],
    width: int,
    golden: tuple[Matrix, Floats],
    *,
    where: str,
) -> dict[str, Trees]:
    """Read the trees of a bundle, which must reproduce its golden rows."""
    trees_by_head: dict[str, Trees] = {}
    for index, head in enumerate(heads):
        path = f"{TREES_FOLDER}/{head.name}{SUFFIX}"
        if path not in files:
            continue
        trees = decode_trees(bytes(files[path]), where=f"{where}/{path}")
        golden_matrix, golden_scores = golden
        if (
            trees.columns != width
            or golden_scores.ndim != 2
            or golden_scores.shape[1] <= index
            or golden_matrix.ndim != 2
            or golden_matrix.shape[1] != width
        ):
            raise BundleError(
                "its trees were made for other columns than its model",
                where=where,
                fix="tailorbird train",
            )
        if not np.allclose(
            trees.apply_link(trees.raw_scores(golden_matrix)),
            golden_scores[:, index],
            rtol=TREES_TOLERANCE,
            atol=TREES_TOLERANCE,
        ):
            raise BundleError(
                f"the trees of head {head.name} are not those of its model",
                where=where,
                fix="tailorbird train",
            )
        trees_by_head[head.name] = trees
    return trees_by_head
