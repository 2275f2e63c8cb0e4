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
    finite_losses = losses[~np.isnan(losses)]
    return float(finite_losses.mean()) if len(finite_losses) else float("nan")


def compute_logits(net: Net, matrix: np.ndarray, device: torch.device | None = None) -> Tensor:
    """Return logits with the prior restored, shape (n, heads)."""
    device = device or next(net.parameters()).device
    with torch.inference_mode():
        logit_chunks = [
            net(torch.tensor(matrix[start : start + ROWS_PER_CHUNK], device=device))[0]
            .float()
            .cpu()
            for start in range(0, len(matrix), ROWS_PER_CHUNK)
        ]
    return torch.cat([*logit_chunks, torch.zeros(0, len(net.heads))]) + net.shift.cpu()


def compute_log_losses(net: Net, rows: Blocks, device: torch.device) -> Floats:
    """Return the weighted log loss by head, shape (heads,)."""
    loss_sums = np.zeros(len(net.heads))
    weight_sums = np.zeros(len(net.heads))
    for index in range(len(rows.sizes)):
        block = rows.block(index)
        logits = compute_logits(net, block.matrix, device)
        labels = torch.from_numpy((block.labels > 0).astype(np.float32))
        losses = (softplus(logits) - logits * labels).numpy().astype(np.float64)
        label_weights = np.where(np.isfinite(block.labels), block.weight[:, None], 0.0)
        loss_sums += (label_weights * losses).sum(axis=0)
        weight_sums += label_weights.sum(axis=0)
    return np.divide(
        loss_sums, weight_sums, out=np.full(loss_sums.shape, np.nan), where=weight_sums > 0
    )
