"""Logistic regression on the encoded matrix, and its ONNX: the model that goes on where trees stand
still.

Beyond what was seen a tree repeats its outermost leaf; a line in the logarithm goes on. That is
what a hazard needs which is read at later and later moments. Each column x becomes sign(x)·ln(1 +
|x|), standardised, and 0 with an indicator where it is missing.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper
from sklearn.linear_model import LogisticRegression

from tailorbird.errors import UsageError
from tailorbird.models.export import INPUT, OPSET, OUTPUT

Matrix = npt.NDArray[np.float32]
Floats = npt.NDArray[np.float64]

IR_VERSION = 8
ITERATIONS = 500
# of a standardised column: far outside what was learned from, a line would promise anything
CLIP = 8.0


@dataclass(frozen=True)
class Logistic:
    """A fitted regression: p = 1 / (1 + exp(-(slopes · z + absent · missing + intercept))), z
    clipped at ± `CLIP`.

    Attributes:
        columns: names of the matrix's columns, in order.
        centre, scale, slopes, absent: shape (columns,), float32.
    """

    columns: tuple[str, ...]
    centre: Matrix
    scale: Matrix
    slopes: Matrix
    absent: Matrix
    intercept: float

    def score(self, matrix: Matrix) -> Floats:
        """Probability of each row, shape (n,)."""
        z, missing = _design(matrix, self.centre, self.scale)
        total = (
            z.astype(np.float64) @ self.slopes
            + missing.astype(np.float64) @ self.absent
            + self.intercept
        )
        return 1.0 / (1.0 + np.exp(-total))

    def importance(self) -> dict[str, float]:
        """Share of the slopes' sizes by column, largest first."""
        size = np.abs(self.slopes) + np.abs(self.absent)
        share = size / max(float(size.sum()), 1e-12)
        return {self.columns[i]: float(share[i]) for i in np.argsort(-share, kind="stable")}


def fit_logistic(
    matrix: Matrix,
    label: npt.NDArray,
    columns: Sequence[str],
    *,
    weight: Floats | None = None,
    ignore: Sequence[str] = (),
    penalty: float = 1.0,
) -> Logistic:
    """The regression of most likelihood with an L2 penalty.

    Args:
        label, weight: shape (n,); a label above 0 is positive, a weight 1 unless told.
        ignore: columns that are left out, such as those that hold codes, of which a line can make
            nothing; their slopes are 0.
        penalty: on squared slopes of standardised columns, over all rows together.
    Raises:
        UsageError: only one class.
    """
    if not 0 < np.count_nonzero(label > 0) < len(label):
        found = f"{np.count_nonzero(label > 0)} positives of {len(label)} rows"
        raise UsageError(f"{found}: nothing to tell apart", fix="take a longer history")
    mass = np.ones(len(matrix)) if weight is None else weight
    logs = _logs(matrix)
    known = np.isfinite(logs)
    count = np.maximum(mass @ known, 1e-9)
    filled = np.where(known, logs, 0.0).astype(np.float64)
    centre = mass @ filled / count
    scale = np.sqrt(np.maximum(mass @ (np.where(known, filled - centre, 0.0) ** 2) / count, 1e-12))
    scale[scale < 1e-5] = 1.0
    centre, scale = centre.astype(np.float32), scale.astype(np.float32)
    z, missing = _design(matrix, centre, scale)
    used = np.array([name not in ignore for name in columns])
    gaps = used & (missing.min(axis=0) != missing.max(axis=0))
    design = np.concatenate([z[:, used], missing[:, gaps]], axis=1).astype(np.float64)
    fitted = LogisticRegression(C=1.0 / penalty, max_iter=ITERATIONS).fit(
        design, label > 0, sample_weight=mass
    )
    slopes, absent = np.zeros(len(columns), np.float32), np.zeros(len(columns), np.float32)
    slopes[used], absent[gaps] = fitted.coef_[0, : used.sum()], fitted.coef_[0, used.sum() :]
    return Logistic(tuple(columns), centre, scale, slopes, absent, float(fitted.intercept_[0]))


def logistic_to_onnx(model: Logistic) -> bytes:
    """The model as a self-contained ONNX file of plain operators."""
    tensors = {
        "centre": model.centre,
        "scale": model.scale,
        "slopes": model.slopes[:, None],
        "absent": model.absent[:, None],
        "intercept": np.array([model.intercept], np.float32),
        "one": np.array(1, np.float32),
        "none": np.array(0, np.float32),
        "low": np.array(-CLIP, np.float32),
        "high": np.array(CLIP, np.float32),
        "flat": np.array([-1], np.int64),
    }
    steps = [
        ("Abs", [INPUT], "size"),
        ("Add", ["size", "one"], "more"),
        ("Log", ["more"], "log"),
        ("Sign", [INPUT], "sign"),
        ("Mul", ["log", "sign"], "logs"),
        ("Sub", ["logs", "centre"], "moved"),
        ("Div", ["moved", "scale"], "z"),
        ("IsNaN", [INPUT], "gap"),
        ("Where", ["gap", "none", "z"], "whole"),
        ("Clip", ["whole", "low", "high"], "clipped"),
        ("MatMul", ["clipped", "slopes"], "told"),
        ("Cast", ["gap"], "missing"),
        ("MatMul", ["missing", "absent"], "untold"),
        ("Add", ["told", "untold"], "sum"),
        ("Add", ["sum", "intercept"], "total"),
        ("Sigmoid", ["total"], "chance"),
        ("Reshape", ["chance", "flat"], OUTPUT),
    ]
    nodes = [helper.make_node(kind, inputs, [output]) for kind, inputs, output in steps]
    next(node for node in nodes if node.op_type == "Cast").attribute.append(
        helper.make_attribute("to", TensorProto.FLOAT)
    )
    graph = helper.make_graph(
        nodes,
        "head",
        [helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, [None, len(model.columns)])],
        [helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, [None])],
        [
            numpy_helper.from_array(np.ascontiguousarray(value), name)
            for name, value in tensors.items()
        ],
    )
    made = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION
    )
    onnx.checker.check_model(made)
    return made.SerializeToString(deterministic=True)


def _design(matrix: Matrix, centre: Matrix, scale: Matrix) -> tuple[Matrix, Matrix]:
    """Standardised columns, 0 where missing, and indicators of what is missing; (n, columns) each."""
    missing = np.isnan(matrix)
    z = np.clip(np.where(missing, np.float32(0), (_logs(matrix) - centre) / scale), -CLIP, CLIP)
    return z.astype(np.float32), missing.astype(np.float32)


def _logs(matrix: Matrix) -> Matrix:
    return np.sign(matrix) * np.log1p(np.abs(matrix))
