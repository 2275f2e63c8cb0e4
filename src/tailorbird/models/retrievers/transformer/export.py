"""Export the user tower as ONNX with a dynamic batch size.

    input   vectors  float32 (n, length, width)   of the newest items, the newest last; of the
                                                  start and of padding if there are fewer
            there    bool (n, length)             not padding
            gap      int64 (n, length)            see `retrieval.sequences`
    output  vector   float32 (n, width)

Item vectors are separate arrays, so the file does not depend on the catalogue.
"""

import torch
from torch import Tensor, nn

from tailorbird.models.deep.export import EXAMPLE_ROWS, module_to_onnx
from tailorbird.models.retrievers.transformer.net import SequenceNet
from tailorbird.models.retrievers.transformer.vectors import SequenceVectors


class _Tower(nn.Module):
    """The user tower: the net's vector at the newest position."""

    def __init__(self, net: SequenceNet) -> None:
        super().__init__()
        self.net = net

    def forward(self, vectors: Tensor, is_item: Tensor, gap: Tensor) -> Tensor:
        return self.net(vectors, is_item, gap)[:, -1]


def tower_to_onnx(model: SequenceVectors) -> bytes:
    """Export a self-contained file of standard operators, equal to `model.run` within 1e-4."""
    shape = (EXAMPLE_ROWS, model.recipe.length)
    example = {
        "vectors": torch.zeros((*shape, model.recipe.width)),
        "there": torch.ones(shape, dtype=torch.bool),
        "gap": torch.zeros(shape, dtype=torch.long),
    }
    return module_to_onnx(_Tower(model.net), example, "vector")
