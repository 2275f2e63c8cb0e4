"""From the columns of a matrix to one vector per row: the first layer of every net.

Statistics learned from data are buffers. All operators exist in ONNX: the exported file takes the
same matrix as LightGBM, NaN included.
"""

from typing import cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from tailorbird.models.deep.layout import Layout
from tailorbird.models.deep.parameters import DeepParameters

NUMBER_MAX = 1e30  # absolute bound of a number; infinities are clipped to it
CLIP = 8.0  # bound of a standardised number
UNKNOWN = 1


def embedding_width(size: int, width_max: int) -> int:
    """Return the width by cardinality, 2 · n^0.35, at most `width_max`."""
    return max(2, min(width_max, round(2 * size**0.35)))


class Numbers(nn.Module):
    """Numeric columns as vectors; missing values are 0 with an indicator."""

    centre: Tensor
    scale: Tensor
    cuts: Tensor
    spans: Tensor

    def __init__(self, columns: npt.NDArray[np.float32], parameters: DeepParameters) -> None:
        """Learn scales and cut points from the training rows (n, k)."""
        super().__init__()
        count = columns.shape[1]
        self.numeric, self.count = parameters.numeric, count
        finite_columns = np.where(np.isfinite(columns), columns, np.nan).astype(np.float64)
        has_values = np.isfinite(finite_columns).any(axis=0)
        finite_columns[:, ~has_values] = 0.0
        # Logarithms put counts and prices on a common scale.
        logs = np.sign(finite_columns) * np.log1p(np.abs(finite_columns))
        centre, scale = np.nanmean(logs, axis=0), np.nanstd(logs, axis=0)
        self.register_buffer("centre", torch.tensor(centre, dtype=torch.float32))
        self.register_buffer(
            "scale", torch.tensor(np.where(scale < 1e-5, 1.0, scale), dtype=torch.float32)
        )
        width, bins = parameters.width, parameters.bins
        self.width = count * (2 if self.numeric == "standardise" else width + 1)
        if self.numeric == "quantile":
            cuts = np.nanquantile(finite_columns, np.linspace(0, 1, bins + 1), axis=0).astype(
                np.float32
            )  # (bins + 1, k)
            spans = np.diff(cuts, axis=0)
            self.register_buffer("cuts", torch.tensor(cuts[:-1].T.copy()))
            self.register_buffer(
                "spans", torch.tensor(np.where(spans > 0, spans, 1.0).T.astype(np.float32).copy())
            )
            self.weight = nn.Parameter(torch.randn(count, bins, width) / bins**0.5)
        elif self.numeric == "periodic":
            self.frequency = nn.Parameter(torch.randn(count, bins) * 0.3)
            self.weight = nn.Parameter(torch.randn(count, 2 * bins + 1, width) / (2 * bins) ** 0.5)
        if self.numeric != "standardise":
            self.bias = nn.Parameter(torch.zeros(count, width))

    def forward(self, x: Tensor) -> Tensor:
        missing = torch.isnan(x)
        x = torch.clamp(torch.where(missing, torch.zeros_like(x), x), -NUMBER_MAX, NUMBER_MAX)
        gaps = missing.to(x.dtype)
        if self.numeric == "quantile":
            parts = torch.clamp((x.unsqueeze(2) - self.cuts) / self.spans, 0.0, 1.0)  # (n, k, bins)
        else:
            z = torch.clamp(
                (torch.sign(x) * torch.log(torch.abs(x) + 1.0) - self.centre) / self.scale,
                -CLIP,
                CLIP,
            )
            if self.numeric == "standardise":
                return torch.cat([torch.where(missing, torch.zeros_like(z), z), gaps], dim=1)
            angle = 2 * torch.pi * z.unsqueeze(2) * self.frequency
            parts = torch.cat([torch.sin(angle), torch.cos(angle), z.unsqueeze(2)], dim=2)
        vectors = torch.relu((parts.unsqueeze(3) * self.weight).sum(dim=2) + self.bias)
        vectors = vectors * (1.0 - gaps).unsqueeze(2)
        return torch.cat([vectors.flatten(1), gaps], dim=1)


class Attention(nn.Module):
    """Scaled dot-product attention of the candidate over the newest items, biased by age.

    The result is 0 without any item.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.query, self.key = (
            nn.Linear(width, width, bias=False),
            nn.Linear(width, width, bias=False),
        )
        self.recency = nn.Parameter(torch.tensor([-0.1]))
        self.scale = float(width) ** -0.5

    def forward(self, candidate: Tensor, items: Tensor, is_present: Tensor, age: Tensor) -> Tensor:
        score = (self.key(items) * self.query(candidate).unsqueeze(1)).sum(
            dim=2
        ) * self.scale + self.recency * age
        weight = (
            torch.softmax(torch.where(is_present > 0, score, torch.full_like(score, -1e9)), dim=1)
            * is_present
        )
        return (weight.unsqueeze(2) * items).sum(dim=1)


class Fields(nn.Module):
    """All columns of a row as one vector of `width`."""

    def __init__(
        self, layout: Layout, matrix: npt.NDArray[np.float32], parameters: DeepParameters
    ) -> None:
        """Learn the scales of numbers from training rows `matrix` (n, columns).

        Some ten thousand rows are enough.
        """
        super().__init__()
        self.layout, self.parameters_ = layout, parameters
        width_max = parameters.embedding_max
        self.numbers = (
            Numbers(matrix[:, list(layout.numbers)], parameters) if layout.numbers else None
        )

        def embedding(column_index: int, size: int, *, empty: bool = False) -> nn.Embedding:
            return _new_embedding(
                size,
                embedding_width(layout.nominal.get(column_index, size), width_max),
                empty=empty,
            )

        self.codes = nn.ModuleList(
            embedding(column_index, size) for column_index, size in layout.codes.items()
        )
        self.bags = nn.ModuleList(
            embedding(bag.places[0], bag.size, empty=True) for bag in layout.bags
        )
        widths = [
            self.numbers.width if self.numbers else 0,
            *(_embedding_width(code) for code in (*self.codes, *self.bags)),
        ]
        if layout.history:
            self.items = embedding(layout.history.candidate, layout.history.size)
            width = self.items.embedding_dim
            self.attention = Attention(width) if parameters.attention else None
            widths += [3 * width]
        self.width = sum(widths)

    def forward(self, matrix: Tensor) -> tuple[Tensor, Tensor]:
        """Return the vectors (n, width), and the mean squared size of the looked-up embeddings.

        The second value is for a penalty in the loss.
        """
        layout = self.layout
        parts: list[Tensor] = []
        lookups: list[Tensor] = []
        if self.numbers is not None:
            parts.append(
                self.numbers(self._apply_position_dropout(matrix)[:, list(layout.numbers)])
            )
        for embedding, (column_index, size) in zip(self.codes, layout.codes.items(), strict=True):
            parts.append(embedding(self._clip_codes(matrix[:, column_index], size)))
            lookups.append(parts[-1])
        for embedding, bag in zip(self.bags, layout.bags, strict=True):
            code = self._clip_codes(matrix[:, list(bag.places)], bag.size)
            is_present = (code > 0).to(matrix.dtype).unsqueeze(2)
            summed = (embedding(code) * is_present).sum(dim=1)
            parts.append(summed / torch.clamp(is_present.sum(dim=1), min=1.0).sqrt())
            lookups.append(summed)
        if layout.history is not None:
            parts.append(self._embed_history(matrix, lookups))
        squares = sum(
            (lookup.square().sum() for lookup in lookups), torch.zeros((), dtype=matrix.dtype)
        )
        return torch.cat(parts, dim=1), squares / matrix.shape[0]

    def _embed_history(self, matrix: Tensor, lookups: list[Tensor]) -> Tensor:
        history = self.layout.history
        assert history is not None
        candidate = self.items(self._clip_codes(matrix[:, history.candidate], history.size))
        code = self._clip_codes(matrix[:, list(history.items)], history.size)
        items = self.items(code)
        is_present = (code > 0).to(matrix.dtype)
        gaps = matrix[:, list(history.gaps)]
        age = torch.log(
            torch.clamp(
                torch.where(torch.isnan(gaps), torch.zeros_like(gaps), gaps), 0.0, NUMBER_MAX
            )
            + 1.0
        )
        if self.attention is not None:
            history_vector = self.attention(candidate, items, is_present, age)
        else:
            history_vector = (items * is_present.unsqueeze(2)).sum(dim=1) / torch.clamp(
                is_present.sum(dim=1, keepdim=True), min=1.0
            )
        lookups += [candidate, history_vector]
        return torch.cat([candidate, history_vector, candidate * history_vector], dim=1)

    def _clip_codes(self, column: Tensor, size: int) -> Tensor:
        """Return codes clipped to bounds; in training, some are replaced by the unknown code."""
        code = torch.clamp(
            torch.where(torch.isnan(column), torch.zeros_like(column), column), 0.0, float(size - 1)
        ).to(torch.int64)
        share = self.parameters_.unknown_share
        if self.training and share and size > UNKNOWN + 1:
            drawn = (torch.rand(code.shape) < share).to(code.device) & (code > UNKNOWN)
            code = torch.where(drawn, torch.full_like(code, UNKNOWN), code)
        return code

    def _apply_position_dropout(self, matrix: Tensor) -> Tensor:
        column, share = self.layout.position, self.parameters_.position_dropout
        if not (self.training and share and column in self.layout.numbers):
            return matrix
        is_dropped = (torch.rand(len(matrix)) < share).to(matrix.device)
        matrix = matrix.clone()
        matrix[is_dropped, column] = 1.0
        return matrix


def _new_embedding(size: int, width: int, *, empty: bool = False) -> nn.Embedding:
    embedding = nn.Embedding(size, width)
    nn.init.normal_(embedding.weight, std=0.05)
    if empty:
        with torch.no_grad():
            embedding.weight[0] = 0
    return embedding


def _embedding_width(embedding: nn.Module) -> int:
    return cast(nn.Embedding, embedding).embedding_dim
