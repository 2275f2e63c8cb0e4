"""A fitted net: scores, diagnostics and export."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch

from tailorbird.errors import UsageError
from tailorbird.models.deep.checkpoint import load_weights
from tailorbird.models.deep.export import net_to_onnx
from tailorbird.models.deep.layout import Layout
from tailorbird.models.deep.loop import RunOptions, train_net
from tailorbird.models.deep.losses import compute_logits
from tailorbird.models.deep.nets import Net
from tailorbird.models.deep.parameters import DeepParameters
from tailorbird.models.deep.rows import Blocks, count_classes, describe_single_class

Matrix = npt.NDArray[np.float32]
Floats = npt.NDArray[np.float64]

SCALE_ROWS = 65_536  # rows from which scales and cut points are learned


@dataclass(frozen=True)
class DeepModel:
    """A fitted net of one or several heads.

    Attributes:
        curve: name of a metric → value by epoch.
        best_epoch_by_head: head → the epoch of its weights, from 1.
    """

    architecture: str
    net: Net
    layout: Layout
    parameters: DeepParameters
    curve: dict[str, list[float]] = field(default_factory=dict)
    best_epoch_by_head: dict[str, int] = field(default_factory=dict)

    @property
    def heads(self) -> tuple[str, ...]:
        return self.net.heads

    @property
    def has_diverged(self) -> bool:
        """True if a weight is not finite, or a head never had a finite loss."""
        return (
            not all(bool(torch.isfinite(parameter).all()) for parameter in self.net.parameters())
            or 0 in self.best_epoch_by_head.values()
        )

    def find_heads_without_skill(self, validation: Blocks) -> dict[str, tuple[float, float]]:
        """Return heads whose log loss is no better than that of the mean, with both losses."""
        chance_losses = dict(
            zip(validation.heads, count_classes(validation).chance_loss.tolist(), strict=True)
        )
        losses = {
            head: series[self.best_epoch_by_head[head] - 1]
            for head in self.heads
            if (series := self.curve.get(f"validation_{head}"))
        }
        return {
            head: (loss, chance_losses[head])
            for head, loss in losses.items()
            if not loss < chance_losses[head]
        }

    def score(self, matrix: Matrix) -> dict[str, Floats]:
        """Return the probability of each head, shape (n,) each."""
        probabilities = torch.sigmoid(compute_logits(self.net, matrix)).numpy().astype(np.float64)
        return {head: probabilities[:, index] for index, head in enumerate(self.heads)}

    def export(self) -> bytes:
        """Return one ONNX file; the heads are the columns of its output, in order."""
        return net_to_onnx(self.net, len(self.layout.columns))


def fit_deep(
    architecture: str,
    parameters: DeepParameters,
    layout: Layout,
    rows: Blocks,
    validation: Blocks,
    *,
    seed: int,
    run_options: RunOptions | None = None,
    initial_weights: Mapping[str, npt.NDArray] | None = None,
) -> DeepModel:
    """Train a net for all heads of the rows.

    Args:
        initial_weights: by name, as from `checkpoint.copy_weights`; see `warm`.
    Raises:
        UsageError: a head has one class only.
    """
    if problem := describe_single_class(rows):
        raise UsageError(
            f"{problem} in the training part: nothing to tell apart",
            fix="take a longer window, or leave that head out",
        )
    net = initialise_net(layout, rows, rows.heads, parameters, seed)
    if initial_weights is not None:
        load_weights(net, initial_weights)
    result = train_net(net, rows, validation, parameters, seed, run_options or RunOptions())
    return DeepModel(architecture, net, layout, parameters, result.curve, result.best_epoch_by_head)


def initialise_net(
    layout: Layout, rows: Blocks, heads: Sequence[str], parameters: DeepParameters, seed: int
) -> Net:
    """Return a new net: weights drawn by the seed, scales learned from sampled blocks."""
    matrix = np.concatenate(
        [rows.block(block_index).matrix for block_index in _sample_blocks(rows.sizes)]
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Net(layout, matrix, heads, parameters)


def _sample_blocks(sizes: Sequence[int]) -> list[int]:
    """Return indices of evenly spaced blocks with about `SCALE_ROWS` rows."""
    count = max(1, min(len(sizes), SCALE_ROWS // max(sizes, default=1)))
    return np.linspace(0, len(sizes) - 1, count).astype(int).tolist()
