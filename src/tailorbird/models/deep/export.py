"""From a trained net to ONNX, the only form in which serving loads it: one file for all heads, the
matrix in, probabilities out.

    input   features     float32 (n, columns)    the same matrix that was trained on; n is free
    output  probability  float32 (n, heads)

What the net learned of its columns (scales, cut points, embeddings) is inside; vocabularies are in
the bundle's encoder.
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
from tailorbird.models.export import INPUT, OUTPUT, refuse_external

OPSET = 18
ROWS = 3  # of the example that is traced; not 0 or 1, which an exporter takes as fixed


class _Served(nn.Module):
    """Probabilities, the prior put back."""

    def __init__(self, net: Net) -> None:
        super().__init__()
        self.net = net

    def forward(self, features: Tensor) -> Tensor:
        logits, _ = self.net(features)
        return torch.sigmoid(logits + self.net.shift)


def net_to_onnx(net: Net, columns: int) -> bytes:
    """The net as a self-contained ONNX file of standard operators; the same net gives the same
    bytes.
    """
    return module_to_onnx(_Served(net), {INPUT: torch.zeros(ROWS, columns)}, OUTPUT)


def module_to_onnx(module: nn.Module, inputs: Mapping[str, Tensor], output: str) -> bytes:
    """Any module as such a file: `inputs` are examples of `ROWS` rows, of which the number is free,
    by their names.
    """
    rows = torch.export.Dim("rows", min=1)
    with _quietly():
        made = torch.onnx.export(
            module.eval(),
            tuple(inputs.values()),
            dynamo=True,
            opset_version=OPSET,
            input_names=list(inputs),
            output_names=[output],
            dynamic_shapes=tuple({0: rows} for _ in inputs),
            optimize=True,
        )
    assert made is not None
    model = made.model_proto
    _without_traces(model)
    refuse_external(model)
    onnx.checker.check_model(model)
    return model.SerializeToString(deterministic=True)


def _without_traces(model: onnx.ModelProto) -> None:
    """Take off what says where in whose files each node came from."""
    del model.metadata_props[:]
    graph = model.graph
    for each in (
        graph,
        *graph.node,
        *graph.input,
        *graph.output,
        *graph.value_info,
        *graph.initializer,
        *model.functions,
    ):
        del each.metadata_props[:]
        each.doc_string = ""
    del graph.value_info[:]


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """The exporter tells its steps on stdout, and of deprecations inside itself."""
    log = logging.getLogger("torch.onnx")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(level)
