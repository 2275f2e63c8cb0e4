"""The net of a tower as ONNX, read and checked."""

from collections.abc import Mapping
from dataclasses import dataclass

import msgspec
import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from tailorbird.errors import BundleError
from tailorbird.ranking.encode.computed import Times
from tailorbird.ranking.onnx_session import start_session
from tailorbird.ranking.tower import Matrix, Tower, TowerPlan
from tailorbird.retrieval.arrays import read_array
from tailorbird.retrieval.sequences import START_ROW
from tailorbird.retrieval.vectors import ItemVectors

TOLERANCE = 1e-4  # between the trained tower, its export and a server


def read_tower(
    files: Mapping[str, bytes | memoryview], vectors: ItemVectors | None, *, where: str
) -> Tower | None:
    """Read the tower of a bundle, or return None.

    Args:
        files: below `tower/`.
        vectors: of the bundle's index.
    Raises:
        BundleError: it is damaged, or gives other vectors than when it was written.
    """
    if not files:
        return None
    try:
        plan = msgspec.json.decode(files["plan.json"], type=TowerPlan)
        edge_vectors, golden_rows, golden_gaps, golden_user_vectors = (
            read_array(files[f"{name}.npy"])
            for name in ("edges", "golden_row", "golden_gap", "golden_user")
        )
        session = start_session(bytes(files["user.onnx"]), where=where)
    except KeyError as error:
        raise BundleError(
            f"{error.args[0]} is missing", where=where, fix="tailorbird train"
        ) from error
    except (ValueError, msgspec.DecodeError) as error:
        raise BundleError(
            f"cannot be read: {error}", where=where, fix="tailorbird train"
        ) from error
    if (
        vectors is None
        or vectors.width != plan.width
        or edge_vectors.shape != (2, plan.width)
        or edge_vectors.dtype != np.float32
    ):
        raise BundleError(
            "its tower and the vectors of its index do not belong together",
            where=where,
            fix="tailorbird train",
        )
    tower = Tower(plan, edge_vectors, OnnxNet(session, plan.width, where))
    if (
        golden_rows.shape != golden_gaps.shape
        or golden_rows.shape[1:] != (plan.length,)
        or golden_rows.dtype != np.int64
        or golden_gaps.dtype != np.int64
    ):
        raise BundleError(
            "its golden windows have another shape than its tower",
            where=where,
            fix="tailorbird train",
        )
    if (
        golden_rows.min(initial=START_ROW) < START_ROW
        or golden_rows.max(initial=START_ROW) >= len(vectors.vectors)
        or golden_gaps.min(initial=0) < 0
    ):
        raise BundleError(
            "its golden windows name items that do not exist", where=where, fix="tailorbird train"
        )
    if not np.allclose(
        tower.encode_windows(vectors, golden_rows, golden_gaps),
        golden_user_vectors,
        rtol=0,
        atol=TOLERANCE,
    ):
        raise BundleError(
            "its tower answers its golden windows differently here",
            where=where,
            fix="tailorbird train",
        )
    return tower


@dataclass(frozen=True)
class OnnxNet:
    """A tower's net in ONNX Runtime."""

    session: ort.InferenceSession
    width: int
    where: str

    def __call__(self, vectors: Matrix, is_present: npt.NDArray[np.bool_], gap: Times) -> Matrix:
        """Run the network, and return user vectors (rows, width).

        Raises:
            BundleError: it returns anything but finite vectors.
        """
        try:
            (user_vectors,) = self.session.run(
                None, {"vectors": vectors, "there": is_present, "gap": gap}
            )
        except Exception as error:  # as in `onnx_session`
            raise BundleError(
                f"the tower failed to run ({type(error).__name__})", where=self.where
            ) from error
        user_vectors = np.asarray(user_vectors)
        if (
            user_vectors.shape != (len(vectors), self.width)
            or user_vectors.dtype != np.float32
            or not np.isfinite(user_vectors).all()
        ):
            raise BundleError(
                "the tower gave something that is no vector",
                where=self.where,
                fix="tailorbird models rollback",
            )
        return user_vectors
