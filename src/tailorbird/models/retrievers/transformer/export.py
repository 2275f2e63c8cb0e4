"""The user tower as ONNX, with a free batch; the vectors of items are arrays beside it, so that it
knows of no catalogue.

input   vectors  float32 (n, length, width)   of the newest items, the newest last; of the start and of padding where there are fewer
        there    bool (n, length)             what is no padding
        gap      int64 (n, length)            see `retrieval.sequences`
output  vector   float32 (n, width)
"""

import torch
from torch import Tensor, nn

from tailorbird.models.deep.export import ROWS, module_to_onnx
from tailorbird.models.retrievers.transformer.net import SequenceNet
from tailorbird.models.retrievers.transformer.vectors import SequenceVectors


class _Tower(nn.Module):
    def __init__(self, net: SequenceNet) -> None:
        super().__init__()
        self.net = net

    def forward(self, vectors: Tensor, there: Tensor, gap: Tensor) -> Tensor:
        return self.net(vectors, there, gap)[:, -1]


def tower_to_onnx(model: SequenceVectors) -> bytes:
    """A self-contained file of standard operators. Equal to `model.run` within 1e-4."""
    shape = (ROWS, model.recipe.length)
    example = {
        "vectors": torch.zeros((*shape, model.recipe.width)),
        "there": torch.ones(shape, dtype=torch.bool),
        "gap": torch.zeros(shape, dtype=torch.long),
    }
    return module_to_onnx(_Tower(model.net), example, "vector")
