"""Training loop of a net: batch, gradients of its shards, step, and checkpoints.

Everything random is a function of (seed, epoch, step, shard). A killed run that resumes ends in the
same bits, and so does one whose shards are computed by several processes (`parallel`), because
gradients are always added in the order of the shards.
"""

import contextlib
import hashlib
import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import msgspec
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from tailorbird.models.deep.batches import Batch, epoch_batches
from tailorbird.models.deep.checkpoint import (
    Arrays,
    Position,
    copy_weights,
    load,
    load_weights,
    save,
)
from tailorbird.models.deep.losses import finite_mean, log_losses
from tailorbird.models.deep.nets import Net
from tailorbird.models.deep.parameters import DeepParameters
from tailorbird.models.deep.rows import Blocks, ClassWeights, Floats, count_classes, sample_blocks

OnEpoch = Callable[[int, Mapping[str, float]], bool | None]
"""Called with the epoch (from 1) and metrics: `train` and `validation` (log loss, mean over heads),
`train_HEAD`, `validation_HEAD` and `rows_per_second`. Training stops if it returns True.
"""

CURVE_ROWS = 65_536  # training rows that the learning curve is computed on
CHECKPOINT_STEPS = 500


class Peers:
    """The processes that share the work; this one alone. See `parallel` for several."""

    rank, count = 0, 1

    def gather(self, flat_gradient: Tensor) -> list[Tensor]:
        """Return the gradients of all processes, in order of rank."""
        return [flat_gradient]


@dataclass(frozen=True)
class Run:
    """Callbacks and checkpoints of a training.

    Attributes:
        checkpoint: folder of checkpoints; None writes none.
        checkpoint_steps: steps between two checkpoints within an epoch.
        on_epoch: see `OnEpoch`.
        progress: called with (rows done, total rows).
        peers: the processes that share the work.
    """

    checkpoint: Path | None = None
    checkpoint_steps: int = CHECKPOINT_STEPS
    on_epoch: OnEpoch | None = None
    progress: Callable[[int, int], None] | None = None
    peers: Peers = field(default_factory=Peers)


@dataclass(frozen=True)
class TrainingResult:
    """The result of a training.

    Attributes:
        curve: name of a metric → value by epoch.
        best_epoch: head → the epoch of the net's weights, from 1.
    """

    curve: dict[str, list[float]]
    best_epoch: dict[str, int]


def train_net(
    net: Net, rows: Blocks, validation: Blocks, parameters: DeepParameters, seed: int, run: Run
) -> TrainingResult:
    """Train a net in place.

    Args:
        validation: later rows; may be empty, which disables early stopping.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    with _limit_threads(parameters.threads), torch.random.fork_rng(devices=[]):
        return _train(net.to(device), rows, validation, parameters, seed, run, device)


@dataclass
class _Training:
    """A net in training: what its steps need, and how far it is.

    Attributes:
        forward: the net, compiled on a GPU.
        positive: weight of positives by head.
        best: the best weights so far.
    """

    net: Net
    forward: Callable[[Tensor], tuple[Tensor, Tensor]]
    optimiser: torch.optim.Optimizer
    rows: Blocks
    class_weights: ClassWeights
    positive: Floats
    parameters: DeepParameters
    seed: int
    run: Run
    device: torch.device
    position: Position
    best: Arrays

    def report_rows(self, rows_done: int) -> None:
        """Report the rows of this epoch that are done, on top of the earlier epochs."""
        if self.run.progress is not None:
            rows = self.class_weights.rows
            self.run.progress(self.position.epoch * rows + rows_done, self.parameters.epochs * rows)

    def save(self) -> None:
        """Write a checkpoint, where there is a place for one."""
        if self.run.checkpoint is not None and self.run.peers.rank == 0:
            save(self.run.checkpoint, self.net, self.optimiser, self.best, self.position)


def _train(
    net: Net,
    rows: Blocks,
    validation: Blocks,
    parameters: DeepParameters,
    seed: int,
    run: Run,
    device: torch.device,
) -> TrainingResult:
    training = _begin(net, rows, parameters, seed, run, device)
    position, sampled_blocks = training.position, sample_blocks(rows, CURVE_ROWS)
    while not position.ended and position.epoch < parameters.epochs:
        rate = _run_epoch(training)
        _finish_epoch(training, sampled_blocks, validation, rate)
        training.report_rows(0)
        figures = {name: series[-1] for name, series in position.curve.items()}
        stop_requested = run.on_epoch is not None and run.on_epoch(
            position.epoch, {**figures, "rows_per_second": rate}
        )
        position.ended = bool(stop_requested) or bool(
            parameters.patience and position.stale >= parameters.patience
        )
        training.save()
    if parameters.patience:
        load_weights(net, training.best)
    net.to("cpu").eval()
    best_epochs = [
        best_epoch if parameters.patience else position.epoch for best_epoch in position.best_epoch
    ]
    by_head = dict(
        zip(
            net.heads,
            best_epochs if net.separate_heads else best_epochs * len(net.heads),
            strict=True,
        )
    )
    return TrainingResult(position.curve, by_head)


def _begin(
    net: Net, rows: Blocks, parameters: DeepParameters, seed: int, run: Run, device: torch.device
) -> _Training:
    """Prepare a training, and resume it from its checkpoint if there is one."""
    class_weights = count_classes(rows)
    positive = _positive_weight(class_weights, parameters)
    net.shift.copy_(
        torch.tensor(np.log(parameters.negative_share) - np.log(positive), dtype=torch.float32)
    )
    # On a CPU, operators and not Python limit the speed, so compiling only pays on a GPU.
    forward = torch.compile(net) if device.type == "cuda" else net
    optimiser = torch.optim.AdamW(
        net.parameters(), lr=parameters.rate, weight_decay=parameters.weight_decay
    )
    digest = _hash_run(net, rows, parameters, seed, class_weights)
    groups = len(_head_groups(net))
    position = Position(digest, best=[np.inf] * groups, best_epoch=[0] * groups)
    best = copy_weights(net)
    if (
        run.checkpoint is not None
        and (restored := load(run.checkpoint, net, optimiser, digest)) is not None
    ):
        position, best = restored
    return _Training(
        net,
        forward,
        optimiser,
        rows,
        class_weights,
        positive,
        parameters,
        seed,
        run,
        device,
        position,
        best,
    )


def _run_epoch(training: _Training) -> float:
    """Do the remaining steps of an epoch, and return the rows per second."""
    parameters, position, run = training.parameters, training.position, training.run
    started, rows_done = time.monotonic(), position.step * parameters.batch
    batches = epoch_batches(
        training.rows,
        seed=training.seed,
        epoch=position.epoch,
        size=parameters.batch,
        negative_share=parameters.negative_share,
    )
    training.net.train()
    for batch in islice(batches, position.step, None):
        _step(training, batch)
        position.step += 1
        rows_done += len(batch.matrix)
        if position.step % 50 == 0:
            training.report_rows(rows_done)
        if position.step % run.checkpoint_steps == 0:
            training.save()
    return rows_done / max(time.monotonic() - started, 1e-9)


def _step(training: _Training, batch: Batch) -> None:
    """Do one optimiser step from the gradients of all shards."""
    net, optimiser, parameters = training.net, training.optimiser, training.parameters
    peers, device, positive = training.run.peers, training.device, training.positive
    at = (training.seed, training.position.epoch, training.position.step)
    size, shards = len(batch.matrix), parameters.shards
    weight = batch.weight * np.where(batch.labels > 0, positive.astype(np.float32), np.float32(1))
    scale = 1.0 / np.maximum(
        batch.weight.sum(axis=0), 1e-6
    )  # over the whole batch, so that shards add up
    trainable = list(net.parameters())
    total: Tensor | None = None
    for turn in range(0, shards, peers.count):
        shard = turn + peers.rank
        part = slice(size * shard // shards, size * (shard + 1) // shards)
        optimiser.zero_grad(set_to_none=True)
        if part.start < part.stop:
            torch.manual_seed(int(np.random.SeedSequence([*at, shard]).generate_state(1)[0]))
            matrix, labels, weights_ = (
                torch.from_numpy(np.ascontiguousarray(array[part]))
                for array in (batch.matrix, batch.labels, weight)
            )
            with (
                torch.autocast("cuda", torch.bfloat16)
                if device.type == "cuda"
                else contextlib.nullcontext()
            ):
                logits, squares = training.forward(matrix.to(device))
            losses = binary_cross_entropy_with_logits(
                logits.float(), labels.to(device), weights_.to(device), reduction="none"
            ).sum(dim=0)
            loss = (losses * torch.tensor(scale, dtype=torch.float32, device=device)).sum()
            loss = loss + parameters.embedding_l2 * squares * ((part.stop - part.start) / size)
            loss.backward()
        if shards == 1 and peers.count == 1:
            optimiser.step()
            return
        flat_gradient = torch.cat(
            [
                (
                    parameter.grad if parameter.grad is not None else torch.zeros_like(parameter)
                ).flatten()
                for parameter in trainable
            ]
        )
        for peer_gradient in peers.gather(flat_gradient):
            total = peer_gradient.clone() if total is None else total.add_(peer_gradient)
    assert total is not None
    offset = 0
    for parameter in trainable:
        parameter.grad = total[offset : offset + parameter.numel()].view_as(parameter).clone()
        offset += parameter.numel()
    optimiser.step()


def _finish_epoch(
    training: _Training, sampled_blocks: Blocks, validation: Blocks, rate: float
) -> None:
    """Compute the losses at the end of an epoch, and keep the best weights."""
    net, position, device = training.net, training.position, training.device
    net.eval()
    losses_by_part = {"train": log_losses(net, sampled_blocks, device)}
    if sum(validation.sizes):
        losses_by_part["validation"] = log_losses(net, validation, device)
    for name, losses in losses_by_part.items():
        metrics = {
            name: finite_mean(losses),
            **{f"{name}_{head}": float(loss) for head, loss in zip(net.heads, losses, strict=True)},
        }
        for figure, value in metrics.items():
            position.curve.setdefault(figure, []).append(value)
    position.curve.setdefault("rows_per_second", []).append(round(rate, 1))
    position.epoch, position.step = position.epoch + 1, 0
    position.stale += 1
    # Rare targets have small losses, so each loss is taken relative to that of the mean.
    relative_losses = losses_by_part.get("validation", losses_by_part["train"]) / np.maximum(
        training.class_weights.chance_loss, 1e-12
    )
    groups, state = _head_groups(net), copy_weights(net)
    for index, heads in enumerate(groups):
        value = finite_mean(relative_losses[heads])
        if value < position.best[index]:
            position.best[index], position.best_epoch[index], position.stale = (
                value,
                position.epoch,
                0,
            )
            prefix = f"parts.{index}." if len(groups) > 1 else ""
            training.best |= {
                name: array for name, array in state.items() if name.startswith(prefix)
            }


def _positive_weight(class_weights: ClassWeights, parameters: DeepParameters) -> Floats:
    if parameters.positive_weight:
        return np.full(len(class_weights.positive), parameters.positive_weight)
    return np.maximum(class_weights.negative * parameters.negative_share, 1e-9) / np.maximum(
        class_weights.positive, 1e-9
    )


def _head_groups(net: Net) -> list[list[int]]:
    """Return groups of heads that share their best epoch."""
    return (
        [[index] for index in range(len(net.heads))]
        if net.separate_heads
        else [list(range(len(net.heads)))]
    )


def _hash_run(
    net: nn.Module, rows: Blocks, parameters: DeepParameters, seed: int, class_weights: ClassWeights
) -> str:
    """Return a digest of what determines the result.

    It covers the initial net, the parameters, and the first and last block of rows.
    """
    digest = hashlib.blake2b(digest_size=16)
    for name, value in sorted(copy_weights(net).items()):
        digest.update(name.encode() + np.ascontiguousarray(value).tobytes())
    for index in dict.fromkeys((0, len(rows.sizes) - 1)):
        block = rows.block(index)
        for array in (block.matrix, block.labels, block.weight):
            digest.update(np.ascontiguousarray(array).tobytes())
    digest.update(
        msgspec.json.encode(
            [
                parameters,
                seed,
                rows.heads,
                rows.sizes,
                class_weights.positive.tolist(),
                class_weights.negative.tolist(),
            ]
        )
    )
    return digest.hexdigest()


@contextlib.contextmanager
def _limit_threads(count: int) -> Iterator[None]:
    """Limit torch's threads while training; by default half the cores, which others share."""
    previous = torch.get_num_threads()
    torch.set_num_threads(count or max(1, (os.cpu_count() or 2) // 2))
    try:
        yield
    finally:
        torch.set_num_threads(previous)
