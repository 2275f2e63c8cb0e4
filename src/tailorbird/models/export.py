"""Export fitted models to ONNX, the only form that serving loads, and verify the export.

    input   features     float32 (n, columns)
    output  probability  float32 (n,)    probability of a binary head, raw score of `lambdarank`,
                                         expected value of `poisson` and `tweedie`

The converter's own outputs (a label, a table of both classes) are dropped: nothing reads them, and
ONNX Runtime warns of the label's shape at each run. A model contains all its tensors; one that
refers to another file is rejected here and again by the loader.
"""

import re
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper
from onnxmltools.convert import convert_lightgbm
from onnxmltools.convert.common.data_types import FloatTensorType

from tailorbird.errors import BundleError
from tailorbird.models.gbdt import Gbdt, Matrix

INPUT = "features"
OUTPUT = "probability"
TOLERANCE = 1e-5  # for a probability; measured differences are below 1e-6
OPSET = 15
_THRESHOLDS = re.compile(r"^threshold=(.*)$", re.MULTILINE)
_TREE_SIZES = re.compile(
    r"^tree_sizes=.*\n", re.MULTILINE
)  # byte lengths that no longer match; LightGBM does not need them


def gbdt_to_onnx(model: Gbdt) -> bytes:
    """Export the model as a self-contained ONNX file; the same model gives the same bytes."""
    # The converter exports all trees, so those after the best iteration are removed first.
    model_text = model.booster.model_to_string(
        num_iteration=model.trees if model.booster.best_iteration > 0 else None
    )
    model_text = _TREE_SIZES.sub("", _THRESHOLDS.sub(_round_thresholds_down, model_text))
    booster = type(model.booster)(model_str=model_text)
    features = (INPUT, FloatTensorType([None, len(model.columns)]))
    onnx_model = convert_lightgbm(
        booster, name="head", initial_types=[features], zipmap=False, target_opset=OPSET
    )
    _keep_one_output(onnx_model, is_binary=model.settings.objective == "binary")
    refuse_external_tensors(onnx_model)
    onnx.checker.check_model(onnx_model)
    return onnx_model.SerializeToString(deterministic=True)


def _round_thresholds_down(line: re.Match[str]) -> str:
    """Round thresholds to the largest float32 that is not above them.

    LightGBM compares with a double, ONNX with a float32. A threshold between two neighbouring
    float32 values may be rounded up onto the upper one, which then falls on the other side. For
    float32 features x, x <= t is the same as x <= (t rounded down).
    """
    exact_thresholds = np.array(line[1].split(), np.float64)
    nearest_thresholds = exact_thresholds.astype(np.float32)
    lower_thresholds = np.where(
        nearest_thresholds.astype(np.float64) > exact_thresholds,
        np.nextafter(nearest_thresholds, np.float32(-np.inf)),
        nearest_thresholds,
    )
    return "threshold=" + " ".join(repr(float(value)) for value in lower_thresholds)


def refuse_external_tensors(onnx_model: onnx.ModelProto) -> None:
    """Raise BundleError if any tensor of the model lies in another file."""
    for tensor in onnx_model.graph.initializer:
        if tensor.data_location == TensorProto.EXTERNAL or tensor.external_data:
            raise BundleError(
                f"tensor {tensor.name!r} lies outside the model",
                fix="export with all tensors inside",
            )


def score_onnx(model: bytes | Path, matrix: Matrix) -> npt.NDArray[np.float64]:
    """Score a matrix with ONNX Runtime in one thread, as in serving; (n,) or (n, heads)."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    session = ort.InferenceSession(
        model if isinstance(model, bytes) else model.read_bytes(),
        options,
        providers=["CPUExecutionProvider"],
    )
    return np.asarray(session.run([OUTPUT], {INPUT: matrix})[0], np.float64)


class HeadModel(Protocol):
    """A model of one head."""

    def score(self, matrix: Matrix) -> npt.NDArray[np.float64]: ...


def largest_difference(
    model: HeadModel, exported: bytes, matrix: Matrix, column: int = -1
) -> float:
    """Return the largest difference between model and export over a matrix.

    Args:
        column: column of the export's output with the model's head, if it has several.
    Raises:
        BundleError: it exceeds TOLERANCE, relative to the score for unbounded scores.
    """
    exported_scores = score_onnx(exported, matrix)
    exported_scores = exported_scores[:, column] if exported_scores.ndim == 2 else exported_scores
    return compare_scores(model.score(matrix), exported_scores)


def compare_scores(
    model_scores: npt.NDArray[np.float64], exported_scores: npt.NDArray[np.float64]
) -> float:
    """Return the largest difference between a model's scores and its export's.

    Raises:
        BundleError: it exceeds TOLERANCE, relative to the score for unbounded scores.
    """
    difference = np.abs(model_scores - exported_scores) / np.maximum(1.0, np.abs(model_scores))
    max_difference = float(difference.max(initial=0.0))
    if not max_difference <= TOLERANCE:
        raise BundleError(
            f"the exported model differs from the trained one by {max_difference:.2g} (at most "
            f"{TOLERANCE:g} is allowed)"
        )
    return max_difference


def _keep_one_output(onnx_model: onnx.ModelProto, *, is_binary: bool) -> None:
    """Make `OUTPUT` of shape (n,) the only output, and drop nodes that only others need."""
    graph = onnx_model.graph
    source_output = (
        next(o.name for o in graph.output if o.name != "label")
        if is_binary
        else graph.output[0].name
    )
    if is_binary:
        graph.initializer.append(numpy_helper.from_array(np.array(1, np.int64), "positive_class"))
        graph.node.append(
            helper.make_node("Gather", [source_output, "positive_class"], [OUTPUT], axis=1)
        )
    else:
        graph.initializer.append(numpy_helper.from_array(np.array([-1], np.int64), "flat"))
        graph.node.append(helper.make_node("Reshape", [source_output, "flat"], [OUTPUT]))
    del graph.output[:]
    graph.output.append(helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, [None]))
    needed_names = {OUTPUT}
    needed_nodes = []
    for node in reversed(graph.node):
        if needed_names & set(node.output):
            needed_nodes.append(node)
            needed_names |= set(node.input)
    del graph.node[:]
    graph.node.extend(reversed(needed_nodes))
