"""The net: item vectors are an id embedding plus the mean of content embeddings.

Layers are attention and SwiGLU, each behind a gate.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from tailorbird.models.retrievers.transformer.batches import GAP_COUNT
from tailorbird.models.retrievers.transformer.settings import TransformerSettings


class Layer(nn.Module):
    """A gated residual layer as in LiGR.

    x ← x + σ(G a)·attend(a), a = norm(x); x ← x + σ(H b)·swiglu(b), b = norm(x).
    """

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.first = nn.LayerNorm(width)
        self.second = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.gate = nn.Linear(width, width)
        self.up = nn.Linear(width, 4 * width)
        self.down = nn.Linear(2 * width, width)
        self.gate_two = nn.Linear(width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, attention_mask: Tensor) -> Tensor:
        rows, length, width = x.shape
        a = self.first(x)
        q, k, v = (
            self.qkv(a)
            .view(rows, length, 3, self.heads, width // self.heads)
            .permute(2, 0, 3, 1, 4)
            .unbind(0)
        )
        attended = functional.scaled_dot_product_attention(q, k, v, attn_mask=attention_mask)
        attended = self.out(attended.transpose(1, 2).reshape(rows, length, width))
        x = x + self.dropout(attended * torch.sigmoid(self.gate(a)))
        b = self.second(x)
        gate_input, value_input = self.up(b).chunk(2, dim=-1)
        return x + self.dropout(
            self.down(functional.silu(gate_input) * value_input) * torch.sigmoid(self.gate_two(b))
        )


class SequenceNet(nn.Module):
    """Vectors of items, and of sequences at each position.

    `known` (items + 2,): 0 for items that are embedded by content alone; padding and start are
    always 1.
    """

    known: Tensor
    content: Tensor

    def __init__(
        self, recipe: TransformerSettings, item_count: int, content: Tensor, seen_mask: Tensor
    ) -> None:
        super().__init__()
        width = recipe.width
        self.id = nn.Embedding(item_count + 2, width)
        self.unknown = nn.Parameter(torch.zeros(width))
        self.token = nn.Embedding(int(content.max()) + 1, width, padding_idx=0)
        self.place = nn.Embedding(recipe.length, width)  # of the position in the window
        self.gap = nn.Embedding(GAP_COUNT, width)
        for table in (self.id, self.token, self.place, self.gap):
            nn.init.normal_(table.weight, std=0.05)
        with torch.no_grad():
            self.token.weight[0] = 0
        self.layers = nn.ModuleList(
            Layer(width, recipe.heads, recipe.dropout) for _ in range(recipe.layers)
        )
        self.last = nn.LayerNorm(width)
        self.dropout = nn.Dropout(recipe.dropout)
        self.gaps = recipe.gaps
        self.register_buffer("content", content)
        self.register_buffer("known", seen_mask)

    def items(self, code: Tensor, id_dropped: Tensor | None = None) -> Tensor:
        """Return vectors of items by code + 1, any shape.

        `id_dropped` is 1 for items that are embedded by content alone, else 0.
        """
        id_weight = self.known[code]
        if id_dropped is not None:
            id_weight = id_weight * (1 - id_dropped)
        id_vectors = self.id(code) * id_weight.unsqueeze(-1) + self.unknown * (
            1 - id_weight
        ).unsqueeze(-1)
        tokens = self.content[code]
        token_count = (tokens > 0).sum(dim=-1, keepdim=True).clamp(min=1)
        return id_vectors + self.token(tokens).sum(dim=-2) / token_count

    def forward(self, vectors: Tensor, is_item: Tensor, gap: Tensor) -> Tensor:
        """Return states (rows, length, width) from input vectors, padding mask and gaps."""
        length = is_item.shape[1]
        x = vectors + self.place.weight
        if self.gaps:
            x = x + self.gap(gap)
        causal_mask = torch.ones(length, length, dtype=torch.bool, device=is_item.device).tril()
        diagonal = torch.eye(
            length, dtype=torch.bool, device=is_item.device
        )  # padding attends to itself, which avoids NaN
        attention_mask = (causal_mask & is_item[:, None, :] | diagonal)[:, None]
        x = self.dropout(x)
        for layer in self.layers:
            x = layer(x, attention_mask)
        return self.last(x)
