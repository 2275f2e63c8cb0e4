"""Logits and log losses of a net over blocks of rows."""

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import softplus

from tailorbird.models.deep.nets import Net
from tailorbird.models.deep.rows import Blocks, Floats

ROWS_PER_CHUNK = 8_192


def finite_mean(losses: Floats) -> float:
    """Return the mean over heads with a loss, NaN if training diverged."""
    finite = losses[~np.isnan(losses)]
    return float(finite.mean()) if len(finite) else float("nan")


def restore_prior(net: Net, matrix: np.ndarray, device: torch.device | None = None) -> Tensor:
    """Return logits with the prior restored, shape (n, heads)."""
    device = device or next(net.parameters()).device
    with torch.inference_mode():
        parts = [
            net(torch.tensor(matrix[start : start + ROWS_PER_CHUNK], device=device))[0]
            .float()
            .cpu()
            for start in range(0, len(matrix), ROWS_PER_CHUNK)
        ]
    return torch.cat([*parts, torch.zeros(0, len(net.heads))]) + net.shift.cpu()


def log_losses(net: Net, rows: Blocks, device: torch.device) -> Floats:
    """Return the weighted log loss by head, shape (heads,)."""
    total, weight = np.zeros(len(net.heads)), np.zeros(len(net.heads))
    for index in range(len(rows.sizes)):
        block = rows.block(index)
        predicted = restore_prior(net, block.matrix, device)
        label = torch.from_numpy((block.labels > 0).astype(np.float32))
        loss = (softplus(predicted) - predicted * label).numpy().astype(np.float64)
        label_weight = np.where(np.isfinite(block.labels), block.weight[:, None], 0.0)
        total += (label_weight * loss).sum(axis=0)
        weight += label_weight.sum(axis=0)
    return np.divide(total, weight, out=np.full(total.shape, np.nan), where=weight > 0)
