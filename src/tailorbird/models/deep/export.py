"""Export a trained net to ONNX, the only form that serving loads: one file for all heads.

    input   features     float32 (n, columns)    the matrix as trained on; n is dynamic
    output  probability  float32 (n, heads)

The file contains what the net learned of its columns (scales, cut points, embeddings); vocabularies
are in the bundle's encoder.
"""

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator, Mapping

import onnx
import torch
from torch import Tensor, nn

from tailorbird.models.deep.nets import Net
from tailorbird.models.export import INPUT, OUTPUT, refuse_external_tensors

OPSET = 18
EXAMPLE_ROWS = 3  # of the traced example; exporters treat 0 and 1 as fixed sizes


class _ServedNet(nn.Module):
    """Returns probabilities, with the prior restored."""

    def __init__(self, net: Net) -> None:
        super().__init__()
        self.net = net

    def forward(self, features: Tensor) -> Tensor:
        logits, _ = self.net(features)
        return torch.sigmoid(logits + self.net.shift)


def net_to_onnx(net: Net, column_count: int) -> bytes:
    """Export the net as a self-contained ONNX file; the same net gives the same bytes."""
    return module_to_onnx(_ServedNet(net), {INPUT: torch.zeros(EXAMPLE_ROWS, column_count)}, OUTPUT)


def module_to_onnx(module: nn.Module, inputs: Mapping[str, Tensor], output: str) -> bytes:
    """Export any module; `inputs` are named examples of `EXAMPLE_ROWS` rows.

    The batch size is dynamic.
    """
    row_dimension = torch.export.Dim("rows", min=1)
    with _silence_exporter():
        program = torch.onnx.export(
            module.eval(),
            tuple(inputs.values()),
            dynamo=True,
            opset_version=OPSET,
            input_names=list(inputs),
            output_names=[output],
            dynamic_shapes=tuple({0: row_dimension} for _ in inputs),
            optimize=True,
        )
    assert program is not None
    model = program.model_proto
    _strip_metadata(model)
    refuse_external_tensors(model)
    onnx.checker.check_model(model)
    return model.SerializeToString(deterministic=True)


def _strip_metadata(model: onnx.ModelProto) -> None:
    """Remove metadata that records source files and lines of each node."""
    del model.metadata_props[:]
    graph = model.graph
    for element in (
        graph,
        *graph.node,
        *graph.input,
        *graph.output,
        *graph.value_info,
        *graph.initializer,
        *model.functions,
    ):
        del element.metadata_props[:]
        element.doc_string = ""
    del graph.value_info[:]


@contextlib.contextmanager
def _silence_exporter() -> Iterator[None]:
    """Silence the exporter, which prints steps to stdout and warns of its own deprecations."""
    log = logging.getLogger("torch.onnx")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(level)
