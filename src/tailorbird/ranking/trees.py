"""Trees of a bundle: written, and read with a check of their values."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from tailorbird.errors import BundleError
from tailorbird.ranking.encode.rows import Matrix
from tailorbird.ranking.tree_shap import FOLDER as TREES
from tailorbird.ranking.tree_shap import SUFFIX, Trees, decode_trees, encode_trees
from tailorbird.registry import Head

Floats = npt.NDArray[np.float64]

TREES_TOLERANCE = (
    1e-4  # of trees in float64 against their export in float32: tells one model from another
)


def write_trees(folder: Path, trees: Mapping[str, Trees]) -> None:
    """Write the files that `read_trees` reads."""
    for head, forest in trees.items():
        (folder / TREES).mkdir(exist_ok=True)
        (folder / f"{TREES}/{head}{SUFFIX}").write_bytes(encode_trees(forest))


def read_trees(
    files: Mapping[str, bytes | memoryview],
    heads: Sequence[Head],
    width: int,
    golden: tuple[Matrix, Floats],
    *,
    where: str,
) -> dict[str, Trees]:
    """Read the trees of a bundle, which must reproduce its golden rows."""
    forests: dict[str, Trees] = {}
    for index, head in enumerate(heads):
        name = f"{TREES}/{head.name}{SUFFIX}"
        if name not in files:
            continue
        trees = decode_trees(bytes(files[name]), where=f"{where}/{name}")
        matrix, raw = golden
        if (
            trees.columns != width
            or raw.ndim != 2
            or raw.shape[1] <= index
            or matrix.ndim != 2
            or matrix.shape[1] != width
        ):
            raise BundleError(
                "its trees were made for other columns than its model",
                where=where,
                fix="tailorbird train",
            )
        if not np.allclose(
            trees.apply_link(trees.raw_scores(matrix)),
            raw[:, index],
            rtol=TREES_TOLERANCE,
            atol=TREES_TOLERANCE,
        ):
            raise BundleError(
                f"the trees of head {head.name} are not those of its model",
                where=where,
                fix="tailorbird train",
            )
        forests[head.name] = trees
    return forests
