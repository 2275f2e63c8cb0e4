"""The nets: one for each head, or several heads on shared experts. All give logits (n, heads).

    mlp       fields → layers → logit, for each head separately
    dcn       fields → cross layers and layers → logit, for each head separately
              (DCN-v2, Wang et al., WWW 2021)
    shared    fields → cross layers → one expert → a tower for each head
    mmoe      fields → cross layers → experts, mixed by a gate for each head → a tower for each
              head (Ma et al., KDD 2018)

Separate heads share no weight, so training them in one loop equals training each alone. Each keeps
its own best epoch.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from tailorbird.models.deep.fields import Fields
from tailorbird.models.deep.layout import Layout
from tailorbird.models.deep.parameters import DeepParameters


class Crosses(nn.Module):
    """Cross layers, x ← x₀ · (W x + b) + x: each layer adds one degree of interactions."""

    def __init__(self, width: int, layers: int, rank: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.Sequential(nn.Linear(width, rank, bias=False), nn.Linear(rank, width))
            if 0 < rank < width
            else nn.Linear(width, width)
            for _ in range(layers)
        )

    def forward(self, x0: Tensor) -> Tensor:
        x = x0
        for layer in self.layers:
            x = x0 * layer(x) + x
        return x


class SingleHeadNet(nn.Module):
    """One head: layers, and cross layers in parallel if any."""

    def __init__(
        self, layout: Layout, matrix: npt.NDArray[np.float32], parameters: DeepParameters
    ) -> None:
        super().__init__()
        self.fields = Fields(layout, matrix, parameters)
        width = self.fields.width
        self.crosses = (
            Crosses(width, parameters.crosses, parameters.rank) if parameters.crosses else None
        )
        self.layers = build_dense_layers(width, parameters.hidden, parameters.dropout)
        self.out = nn.Linear(parameters.hidden[-1] + (width if self.crosses is not None else 0), 1)

    def forward(self, matrix: Tensor) -> tuple[Tensor, Tensor]:
        x, embedding_penalty = self.fields(matrix)
        hidden = self.layers(x)
        if self.crosses is not None:
            hidden = torch.cat([hidden, self.crosses(x)], dim=1)
        return self.out(hidden), embedding_penalty


class Mixture(nn.Module):
    """Several heads on shared experts; with one expert it is a shared bottom."""

    def __init__(
        self,
        layout: Layout,
        matrix: npt.NDArray[np.float32],
        parameters: DeepParameters,
        head_count: int,
    ) -> None:
        super().__init__()
        self.fields = Fields(layout, matrix, parameters)
        width = self.fields.width
        self.crosses = Crosses(width, parameters.crosses, parameters.rank)
        hidden_widths = parameters.hidden if parameters.experts == 1 else parameters.expert_hidden
        self.experts = nn.ModuleList(
            build_dense_layers(width, hidden_widths, parameters.dropout, dropout_after_last=True)
            for _ in range(parameters.experts)
        )
        self.gates = nn.ModuleList(
            nn.Linear(width, parameters.experts)
            for _ in range(head_count if parameters.experts > 1 else 0)
        )
        tower_widths = (*parameters.tower,)
        self.towers = nn.ModuleList(
            nn.Sequential(
                build_dense_layers(hidden_widths[-1], tower_widths, parameters.dropout),
                nn.Linear((hidden_widths[-1], *tower_widths)[-1], 1),
            )
            for _ in range(head_count)
        )

    def forward(self, matrix: Tensor) -> tuple[Tensor, Tensor]:
        x, embedding_penalty = self.fields(matrix)
        crossed = self.crosses(x)
        expert_outputs = torch.stack(
            [expert(crossed) for expert in self.experts], dim=1
        )  # (n, experts, width)
        if len(self.experts) == 1:
            return torch.cat(
                [tower(expert_outputs[:, 0]) for tower in self.towers], dim=1
            ), embedding_penalty
        logits = []
        for gate, tower in zip(self.gates, self.towers, strict=True):
            mixed = (torch.softmax(gate(x), dim=1).unsqueeze(2) * expert_outputs).sum(dim=1)
            logits.append(tower(mixed))
        return torch.cat(logits, dim=1), embedding_penalty


class Net(nn.Module):
    """All heads of a model.

    Attributes:
        shift: added to each head's logit outside of training. It restores the prior that class
            weights and drawn negatives removed.
    """

    shift: Tensor

    def __init__(
        self,
        layout: Layout,
        matrix: npt.NDArray[np.float32],
        heads: Sequence[str],
        parameters: DeepParameters,
    ) -> None:
        super().__init__()
        self.heads = tuple(heads)
        self.has_separate_heads = parameters.experts == 0
        parts = (
            [SingleHeadNet(layout, matrix, parameters) for _ in heads]
            if self.has_separate_heads
            else [Mixture(layout, matrix, parameters, len(self.heads))]
        )
        self.parts = nn.ModuleList(parts)
        self.register_buffer("shift", torch.zeros(len(self.heads)))

    def forward(self, matrix: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits (n, heads) as trained, and the embedding penalty."""
        outputs = [part(matrix) for part in self.parts]
        logits = torch.cat([logits for logits, _ in outputs], dim=1)
        return logits, torch.stack([embedding_penalty for _, embedding_penalty in outputs]).sum()


def build_dense_layers(
    input_width: int,
    hidden_widths: Sequence[int],
    dropout: float,
    *,
    dropout_after_last: bool = False,
) -> nn.Sequential:
    """Return layers with ReLU and dropout between them.

    With `dropout_after_last`, dropout follows the last layer too.
    """
    layers: list[nn.Module] = []
    for index, layer_width in enumerate(hidden_widths):
        layers += [nn.Linear(input_width, layer_width), nn.ReLU()]
        if dropout and (dropout_after_last or index + 1 < len(hidden_widths)):
            layers.append(nn.Dropout(dropout))
        input_width = layer_width
    return nn.Sequential(*layers)
