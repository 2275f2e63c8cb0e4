"""A fitted net: what it says, what it looks at, and its export."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch

from tailorbird.errors import UsageError
from tailorbird.models.deep.batches import Blocks, mass, nothing_to_tell_apart
from tailorbird.models.deep.checkpoint import load_weights
from tailorbird.models.deep.export import net_to_onnx
from tailorbird.models.deep.layout import Layout
from tailorbird.models.deep.loop import Run, logits, train_net
from tailorbird.models.deep.nets import Net
from tailorbird.models.deep.parameters import DeepParameters

Matrix = npt.NDArray[np.float32]
Floats = npt.NDArray[np.float64]

ROWS_OF_SCALES = 65_536  # that scales and cut points of numbers are learned from


@dataclass(frozen=True)
class Deep:
    """A fitted net of one or several heads.

    Attributes:
        curve: name of a figure → value by epoch.
        best_epoch: head → the epoch that its weights are of, from 1.
    """

    architecture: str
    net: Net
    layout: Layout
    parameters: DeepParameters
    curve: dict[str, list[float]] = field(default_factory=dict)
    best_epoch: dict[str, int] = field(default_factory=dict)

    @property
    def heads(self) -> tuple[str, ...]:
        return self.net.heads

    @property
    def broken(self) -> bool:
        """Whether training came apart: a weight is no number, or a head never had a loss that is
        one.
        """
        return (
            not all(bool(torch.isfinite(each).all()) for each in self.net.parameters())
            or 0 in self.best_epoch.values()
        )

    def worthless(self, watched: Blocks) -> dict[str, tuple[float, float]]:
        """Heads that tell no more of the watched rows than their mean does: the log loss, and that
        of always the mean.
        """
        means = dict(zip(watched.heads, mass(watched).chance_loss.tolist(), strict=True))
        losses = {
            head: series[self.best_epoch[head] - 1]
            for head in self.heads
            if (series := self.curve.get(f"validation_{head}"))
        }
        return {
            head: (loss, means[head]) for head, loss in losses.items() if not loss < means[head]
        }

    def score(self, matrix: Matrix) -> dict[str, Floats]:
        """Probability of each head, shape (n,) each."""
        said = torch.sigmoid(logits(self.net, matrix)).numpy().astype(np.float64)
        return {head: said[:, place] for place, head in enumerate(self.heads)}

    def export(self) -> bytes:
        """One ONNX file; the heads are the columns of its output, in order."""
        return net_to_onnx(self.net, len(self.layout.columns))


def fit_deep(
    architecture: str,
    parameters: DeepParameters,
    layout: Layout,
    rows: Blocks,
    validation: Blocks,
    *,
    seed: int,
    run: Run | None = None,
    begin: Mapping[str, npt.NDArray] | None = None,
) -> Deep:
    """Train a net for all heads of the rows.

    Args:
        begin: weights to begin with, by name, as `checkpoint.weights` gives them; see `warm`.
    Raises:
        UsageError: a head has one class only.
    """
    if found := nothing_to_tell_apart(rows):
        raise UsageError(
            f"{found} in the training part: nothing to tell apart",
            fix="take a longer window, or leave that head out",
        )
    net = new_net(layout, rows, rows.heads, parameters, seed)
    if begin is not None:
        load_weights(net, begin)
    trained = train_net(net, rows, validation, parameters, seed, run or Run())
    return Deep(architecture, net, layout, parameters, trained.curve, trained.best_epoch)


def new_net(
    layout: Layout, rows: Blocks, heads: Sequence[str], parameters: DeepParameters, seed: int
) -> Net:
    """A net as it begins: weights drawn by the seed, scales learned from rows evenly over the
    training part.
    """
    matrix = np.concatenate([rows.block(place).matrix for place in _spread(rows.sizes)])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Net(layout, matrix, heads, parameters)


def _spread(sizes: Sequence[int]) -> list[int]:
    """Blocks evenly over all, of some `ROWS_OF_SCALES` rows."""
    count = max(1, min(len(sizes), ROWS_OF_SCALES // max(sizes, default=1)))
    return np.linspace(0, len(sizes) - 1, count).astype(int).tolist()
