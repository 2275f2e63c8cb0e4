"""Logistic regression on the encoded matrix, and its ONNX export.

Beyond the training range a tree repeats its outermost leaf, while a line in the logarithm
extrapolates, as a hazard that is read at later and later moments needs. Each column x becomes
sign(x)·ln(1 + |x|), standardised, and 0 with an indicator if missing.
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
ITERATIONS_MAX = 500
# bound of a standardised column, which limits extrapolation
CLIP = 8.0


@dataclass(frozen=True)
class FittedLogistic:
    """A fitted regression.

    p = 1 / (1 + exp(-(slopes · z + missing_slopes · missing + intercept))), with z clipped at ±
    `CLIP`.

    Attributes:
        columns: names of the matrix's columns, in order.
        centre, scale, slopes, missing_slopes: shape (columns,), float32.
    """

    columns: tuple[str, ...]
    centre: Matrix
    scale: Matrix
    slopes: Matrix
    missing_slopes: Matrix
    intercept: float

    def score(self, matrix: Matrix) -> Floats:
        """Return the probability of each row, shape (n,)."""
        z, is_missing = _design_matrix(matrix, self.centre, self.scale)
        logits = (
            z.astype(np.float64) @ self.slopes
            + is_missing.astype(np.float64) @ self.missing_slopes
            + self.intercept
        )
        return 1.0 / (1.0 + np.exp(-logits))

    def importance(self) -> dict[str, float]:
        """Return each column's share of the absolute slopes, largest first."""
        slope_sizes = np.abs(self.slopes) + np.abs(self.missing_slopes)
        slope_shares = slope_sizes / max(float(slope_sizes.sum()), 1e-12)
        return {
            self.columns[i]: float(slope_shares[i])
            for i in np.argsort(-slope_shares, kind="stable")
        }


def fit_logistic(
    matrix: Matrix,
    label: npt.NDArray,
    columns: Sequence[str],
    *,
    weight: Floats | None = None,
    ignored_columns: Sequence[str] = (),
    penalty: float = 1.0,
) -> FittedLogistic:
    """Fit a regression with an L2 penalty by maximum likelihood.

    Args:
        label, weight: shape (n,); a label above 0 is positive, weights default to 1.
        ignored_columns: columns that are left out, such as codes, which have no linear meaning;
            their slopes are 0.
        penalty: on squared slopes of standardised columns, summed over all rows.
    Raises:
        UsageError: there is only one class.
    """
    if not 0 < np.count_nonzero(label > 0) < len(label):
        class_counts = f"{np.count_nonzero(label > 0)} positives of {len(label)} rows"
        raise UsageError(f"{class_counts}: nothing to tell apart", fix="take a longer history")
    row_weights = np.ones(len(matrix)) if weight is None else weight
    signed_logs = _signed_log(matrix)
    is_present = np.isfinite(signed_logs)
    present_weight_sums = np.maximum(row_weights @ is_present, 1e-9)
    finite_logs = np.where(is_present, signed_logs, 0.0).astype(np.float64)
    centre = row_weights @ finite_logs / present_weight_sums
    scale = np.sqrt(
        np.maximum(
            row_weights
            @ (np.where(is_present, finite_logs - centre, 0.0) ** 2)
            / present_weight_sums,
            1e-12,
        )
    )
    scale[scale < 1e-5] = 1.0
    centre = centre.astype(np.float32)
    scale = scale.astype(np.float32)
    z, is_missing = _design_matrix(matrix, centre, scale)
    is_used = np.array([name not in ignored_columns for name in columns])
    varies_in_missing = is_used & (is_missing.min(axis=0) != is_missing.max(axis=0))
    design = np.concatenate([z[:, is_used], is_missing[:, varies_in_missing]], axis=1).astype(
        np.float64
    )
    regression = LogisticRegression(C=1.0 / penalty, max_iter=ITERATIONS_MAX).fit(
        design, label > 0, sample_weight=row_weights
    )
    slopes = np.zeros(len(columns), np.float32)
    missing_slopes = np.zeros(len(columns), np.float32)
    slopes[is_used] = regression.coef_[0, : is_used.sum()]
    missing_slopes[varies_in_missing] = regression.coef_[0, is_used.sum() :]
    return FittedLogistic(
        tuple(columns), centre, scale, slopes, missing_slopes, float(regression.intercept_[0])
    )


def logistic_to_onnx(model: FittedLogistic) -> bytes:
    """Export the model as a self-contained ONNX file of standard operators."""
    tensors = {
        "centre": model.centre,
        "scale": model.scale,
        "slopes": model.slopes[:, None],
        "absent": model.missing_slopes[:, None],
        "intercept": np.array([model.intercept], np.float32),
        "one": np.array(1, np.float32),
        "none": np.array(0, np.float32),
        "low": np.array(-CLIP, np.float32),
        "high": np.array(CLIP, np.float32),
        "flat": np.array([-1], np.int64),
    }
    steps = [
        ("Abs", [INPUT], "size"),
        ("Add", ["size", "one"], "size_plus_one"),
        ("Log", ["size_plus_one"], "log"),
        ("Sign", [INPUT], "sign"),
        ("Mul", ["log", "sign"], "logs"),
        ("Sub", ["logs", "centre"], "centred"),
        ("Div", ["centred", "scale"], "z"),
        ("IsNaN", [INPUT], "is_missing"),
        ("Where", ["is_missing", "none", "z"], "filled"),
        ("Clip", ["filled", "low", "high"], "clipped"),
        ("MatMul", ["clipped", "slopes"], "slope_terms"),
        ("Cast", ["is_missing"], "missing"),
        ("MatMul", ["missing", "absent"], "absent_terms"),
        ("Add", ["slope_terms", "absent_terms"], "terms"),
        ("Add", ["terms", "intercept"], "total"),
        ("Sigmoid", ["total"], "sigmoid"),
        ("Reshape", ["sigmoid", "flat"], OUTPUT),
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
    onnx_model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION
    )
    onnx.checker.check_model(onnx_model)
    return onnx_model.SerializeToString(deterministic=True)


def _design_matrix(matrix: Matrix, centre: Matrix, scale: Matrix) -> tuple[Matrix, Matrix]:
    """Return standardised columns, 0 if missing, and missing indicators; (n, columns) each."""
    is_missing = np.isnan(matrix)
    z = np.clip(
        np.where(is_missing, np.float32(0), (_signed_log(matrix) - centre) / scale), -CLIP, CLIP
    )
    return z.astype(np.float32), is_missing.astype(np.float32)


def _signed_log(matrix: Matrix) -> Matrix:
    return np.sign(matrix) * np.log1p(np.abs(matrix))
