"""The net. Items: a vector for which it is plus the mean of vectors for what it is; layers:
attention and SwiGLU, each behind a gate.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from tailorbird.models.retrievers.transformer.batches import GAPS
from tailorbird.models.retrievers.transformer.recipe import SequenceTransformer


class Layer(nn.Module):
    """x ← x + σ(G a)·attend(a), a = norm(x); x ← x + σ(H b)·swiglu(b), b = norm(x) (LiGR's gated
    residuals).
    """

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.first, self.second = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out, self.gate = (
            nn.Linear(width, 3 * width),
            nn.Linear(width, width),
            nn.Linear(width, width),
        )
        self.up, self.down, self.gate_two = (
            nn.Linear(width, 4 * width),
            nn.Linear(2 * width, width),
            nn.Linear(width, width),
        )
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, allowed: Tensor) -> Tensor:
        rows, length, width = x.shape
        a = self.first(x)
        q, k, v = (
            self.qkv(a)
            .view(rows, length, 3, self.heads, width // self.heads)
            .permute(2, 0, 3, 1, 4)
            .unbind(0)
        )
        seen = functional.scaled_dot_product_attention(q, k, v, attn_mask=allowed)
        seen = self.out(seen.transpose(1, 2).reshape(rows, length, width))
        x = x + self.dropout(seen * torch.sigmoid(self.gate(a)))
        b = self.second(x)
        one, two = self.up(b).chunk(2, dim=-1)
        return x + self.dropout(
            self.down(functional.silu(one) * two) * torch.sigmoid(self.gate_two(b))
        )


class SequenceNet(nn.Module):
    """Vectors of items, and of sequences at each place.

    `known` (items + 2,): 0 for items that are shown by their content alone; pad and start are
    always known.
    """

    known: Tensor
    content: Tensor

    def __init__(
        self, recipe: SequenceTransformer, items: int, content: Tensor, known: Tensor
    ) -> None:
        super().__init__()
        width = recipe.width
        self.id = nn.Embedding(items + 2, width)
        self.unknown = nn.Parameter(torch.zeros(width))
        self.token = nn.Embedding(int(content.max()) + 1, width, padding_idx=0)
        self.place = nn.Embedding(recipe.length, width)
        self.gap = nn.Embedding(GAPS, width)
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
        self.register_buffer("known", known)

    def items(self, code: Tensor, drop: Tensor | None = None) -> Tensor:
        """Vectors of items by code + 1, any shape; `drop`: which are shown by their content alone."""
        known = self.known[code]
        if drop is not None:
            known = known * (1 - drop)
        own = self.id(code) * known.unsqueeze(-1) + self.unknown * (1 - known).unsqueeze(-1)
        tokens = self.content[code]
        count = (tokens > 0).sum(dim=-1, keepdim=True).clamp(min=1)
        return own + self.token(tokens).sum(dim=-2) / count

    def forward(self, vectors: Tensor, there: Tensor, gap: Tensor) -> Tensor:
        """States (rows, length, width) from vectors of the inputs, which of them are no padding,
        and their gaps.
        """
        length = there.shape[1]
        x = vectors + self.place.weight
        if self.gaps:
            x = x + self.gap(gap)
        causal = torch.ones(length, length, dtype=torch.bool, device=there.device).tril()
        itself = torch.eye(
            length, dtype=torch.bool, device=there.device
        )  # so that padding looks at something
        allowed = (causal & there[:, None, :] | itself)[:, None]
        x = self.dropout(x)
        for layer in self.layers:
            x = layer(x, allowed)
        return self.last(x)
