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
UNKNOWN_CODE = 1


def embedding_width(cardinality: int, width_max: int) -> int:
    """Return the width by cardinality, 2 · n^0.35, at most `width_max`."""
    return max(2, min(width_max, round(2 * cardinality**0.35)))


class Numbers(nn.Module):
    """Numeric columns as vectors; missing values are 0 with an indicator."""

    centre: Tensor
    scale: Tensor
    bin_edges: Tensor
    bin_widths: Tensor

    def __init__(self, columns: npt.NDArray[np.float32], parameters: DeepParameters) -> None:
        """Learn scales and cut points from the training rows (n, k)."""
        super().__init__()
        count = columns.shape[1]
        self.numeric_encoding = parameters.numeric
        self.column_count = count
        finite_columns = np.where(np.isfinite(columns), columns, np.nan).astype(np.float64)
        has_values = np.isfinite(finite_columns).any(axis=0)
        finite_columns[:, ~has_values] = 0.0
        # Logarithms put counts and prices on a common scale.
        logs = np.sign(finite_columns) * np.log1p(np.abs(finite_columns))
        centre = np.nanmean(logs, axis=0)
        scale = np.nanstd(logs, axis=0)
        self.register_buffer("centre", torch.tensor(centre, dtype=torch.float32))
        self.register_buffer(
            "scale", torch.tensor(np.where(scale < 1e-5, 1.0, scale), dtype=torch.float32)
        )
        width = parameters.width
        bins = parameters.bins
        self.width = count * (2 if self.numeric_encoding == "standardise" else width + 1)
        if self.numeric_encoding == "quantile":
            bin_edges = np.nanquantile(finite_columns, np.linspace(0, 1, bins + 1), axis=0).astype(
                np.float32
            )  # (bins + 1, k)
            bin_widths = np.diff(bin_edges, axis=0)
            self.register_buffer("bin_edges", torch.tensor(bin_edges[:-1].T.copy()))
            self.register_buffer(
                "bin_widths",
                torch.tensor(np.where(bin_widths > 0, bin_widths, 1.0).T.astype(np.float32).copy()),
            )
            self.weight = nn.Parameter(torch.randn(count, bins, width) / bins**0.5)
        elif self.numeric_encoding == "periodic":
            self.frequency = nn.Parameter(torch.randn(count, bins) * 0.3)
            self.weight = nn.Parameter(torch.randn(count, 2 * bins + 1, width) / (2 * bins) ** 0.5)
        if self.numeric_encoding != "standardise":
            self.bias = nn.Parameter(torch.zeros(count, width))

    def forward(self, x: Tensor) -> Tensor:
        is_missing = torch.isnan(x)
        x = torch.clamp(torch.where(is_missing, torch.zeros_like(x), x), -NUMBER_MAX, NUMBER_MAX)
        missing_indicator = is_missing.to(x.dtype)
        if self.numeric_encoding == "quantile":
            basis = torch.clamp(
                (x.unsqueeze(2) - self.bin_edges) / self.bin_widths, 0.0, 1.0
            )  # (n, k, bins)
        else:
            z = torch.clamp(
                (torch.sign(x) * torch.log(torch.abs(x) + 1.0) - self.centre) / self.scale,
                -CLIP,
                CLIP,
            )
            if self.numeric_encoding == "standardise":
                return torch.cat(
                    [torch.where(is_missing, torch.zeros_like(z), z), missing_indicator], dim=1
                )
            angles = 2 * torch.pi * z.unsqueeze(2) * self.frequency
            basis = torch.cat([torch.sin(angles), torch.cos(angles), z.unsqueeze(2)], dim=2)
        vectors = torch.relu((basis.unsqueeze(3) * self.weight).sum(dim=2) + self.bias)
        vectors = vectors * (1.0 - missing_indicator).unsqueeze(2)
        return torch.cat([vectors.flatten(1), missing_indicator], dim=1)


class Attention(nn.Module):
    """Scaled dot-product attention of the candidate over the newest items, biased by age.

    The result is 0 without any item.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.query = nn.Linear(width, width, bias=False)
        self.key = nn.Linear(width, width, bias=False)
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
        # The underscore tells it from `nn.Module.parameters`.
        self.layout = layout
        self.parameters_ = parameters
        width_max = parameters.embedding_max
        self.numbers = (
            Numbers(matrix[:, list(layout.numeric_indexes)], parameters)
            if layout.numeric_indexes
            else None
        )

        def build_embedding(
            column_index: int, cardinality: int, *, zero_first_row: bool = False
        ) -> nn.Embedding:
            return _new_embedding(
                cardinality,
                embedding_width(
                    layout.embedding_cardinalities.get(column_index, cardinality), width_max
                ),
                zero_first_row=zero_first_row,
            )

        self.code_embeddings = nn.ModuleList(
            build_embedding(column_index, cardinality)
            for column_index, cardinality in layout.code_cardinalities.items()
        )
        self.bag_embeddings = nn.ModuleList(
            build_embedding(bag.column_indexes[0], bag.cardinality, zero_first_row=True)
            for bag in layout.bags
        )
        widths = [
            self.numbers.width if self.numbers else 0,
            *(
                _output_width(embedding)
                for embedding in (*self.code_embeddings, *self.bag_embeddings)
            ),
        ]
        if layout.history:
            self.item_embedding = build_embedding(
                layout.history.candidate_index, layout.history.cardinality
            )
            width = self.item_embedding.embedding_dim
            self.attention = Attention(width) if parameters.attention else None
            widths += [3 * width]
        self.width = sum(widths)

    def forward(self, matrix: Tensor) -> tuple[Tensor, Tensor]:
        """Return the vectors (n, width), and the mean squared size of the looked-up embeddings.

        The second value is for a penalty in the loss.
        """
        layout = self.layout
        vectors: list[Tensor] = []
        lookups: list[Tensor] = []
        if self.numbers is not None:
            vectors.append(
                self.numbers(self._apply_position_dropout(matrix)[:, list(layout.numeric_indexes)])
            )
        for embedding, (column_index, cardinality) in zip(
            self.code_embeddings, layout.code_cardinalities.items(), strict=True
        ):
            vectors.append(embedding(self._clip_codes(matrix[:, column_index], cardinality)))
            lookups.append(vectors[-1])
        for embedding, bag in zip(self.bag_embeddings, layout.bags, strict=True):
            code = self._clip_codes(matrix[:, list(bag.column_indexes)], bag.cardinality)
            is_present = (code > 0).to(matrix.dtype).unsqueeze(2)
            bag_sum = (embedding(code) * is_present).sum(dim=1)
            vectors.append(bag_sum / torch.clamp(is_present.sum(dim=1), min=1.0).sqrt())
            lookups.append(bag_sum)
        if layout.history is not None:
            vectors.append(self._embed_history(matrix, lookups))
        square_sum = sum(
            (lookup.square().sum() for lookup in lookups), torch.zeros((), dtype=matrix.dtype)
        )
        return torch.cat(vectors, dim=1), square_sum / matrix.shape[0]

    def _embed_history(self, matrix: Tensor, lookups: list[Tensor]) -> Tensor:
        history = self.layout.history
        assert history is not None
        candidate = self.item_embedding(
            self._clip_codes(matrix[:, history.candidate_index], history.cardinality)
        )
        code = self._clip_codes(matrix[:, list(history.item_indexes)], history.cardinality)
        items = self.item_embedding(code)
        is_present = (code > 0).to(matrix.dtype)
        item_ages = matrix[:, list(history.age_indexes)]
        age = torch.log(
            torch.clamp(
                torch.where(torch.isnan(item_ages), torch.zeros_like(item_ages), item_ages),
                0.0,
                NUMBER_MAX,
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

    def _clip_codes(self, codes: Tensor, cardinality: int) -> Tensor:
        """Return codes clipped to bounds; in training, some are replaced by the unknown code."""
        clipped_codes = torch.clamp(
            torch.where(torch.isnan(codes), torch.zeros_like(codes), codes),
            0.0,
            float(cardinality - 1),
        ).to(torch.int64)
        unknown_share = self.parameters_.unknown_share
        if self.training and unknown_share and cardinality > UNKNOWN_CODE + 1:
            is_replaced = (torch.rand(clipped_codes.shape) < unknown_share).to(
                clipped_codes.device
            ) & (clipped_codes > UNKNOWN_CODE)
            clipped_codes = torch.where(
                is_replaced, torch.full_like(clipped_codes, UNKNOWN_CODE), clipped_codes
            )
        return clipped_codes

    def _apply_position_dropout(self, matrix: Tensor) -> Tensor:
        position_index = self.layout.position_index
        dropout = self.parameters_.position_dropout
        if not (self.training and dropout and position_index in self.layout.numeric_indexes):
            return matrix
        is_dropped = (torch.rand(len(matrix)) < dropout).to(matrix.device)
        matrix = matrix.clone()
        matrix[is_dropped, position_index] = 1.0
        return matrix


def _new_embedding(cardinality: int, width: int, *, zero_first_row: bool = False) -> nn.Embedding:
    embedding = nn.Embedding(cardinality, width)
    nn.init.normal_(embedding.weight, std=0.05)
    if zero_first_row:
        with torch.no_grad():
            embedding.weight[0] = 0
    return embedding


def _output_width(embedding: nn.Module) -> int:
    return cast(nn.Embedding, embedding).embedding_dim
