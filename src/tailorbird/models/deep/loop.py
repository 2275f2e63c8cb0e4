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
    TrainingState,
    copy_weights,
    load_checkpoint,
    load_weights,
    save_checkpoint,
)
from tailorbird.models.deep.losses import compute_log_losses, finite_mean
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

    rank = 0
    count = 1

    def gather(self, flat_gradient: Tensor) -> list[Tensor]:
        """Return the gradients of all processes, in order of rank."""
        return [flat_gradient]


@dataclass(frozen=True)
class RunOptions:
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
        best_epoch_by_head: head → the epoch of the net's weights, from 1.
    """

    curve: dict[str, list[float]]
    best_epoch_by_head: dict[str, int]


def train_net(
    net: Net,
    rows: Blocks,
    validation: Blocks,
    parameters: DeepParameters,
    seed: int,
    options: RunOptions,
) -> TrainingResult:
    """Train a net in place.

    Args:
        validation: later rows; may be empty, which disables early stopping.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    with _limit_threads(parameters.threads), torch.random.fork_rng(devices=[]):
        return _train(net.to(device), rows, validation, parameters, seed, options, device)


@dataclass
class _Training:
    """A net in training: what its steps need, and how far it is.

    Attributes:
        forward: the net, compiled on a GPU.
        positive_weights: weight of positives by head.
        best_weights: the best weights so far.
    """

    net: Net
    forward: Callable[[Tensor], tuple[Tensor, Tensor]]
    optimiser: torch.optim.Optimizer
    rows: Blocks
    class_weights: ClassWeights
    positive_weights: Floats
    parameters: DeepParameters
    seed: int
    options: RunOptions
    device: torch.device
    state: TrainingState
    best_weights: Arrays

    def report_rows(self, rows_done: int) -> None:
        """Report the rows of this epoch that are done, on top of the earlier epochs."""
        if self.options.progress is not None:
            rows = self.class_weights.rows
            self.options.progress(
                self.state.epoch * rows + rows_done, self.parameters.epochs * rows
            )

    def save_checkpoint(self) -> None:
        """Write a checkpoint, where there is a place for one."""
        if self.options.checkpoint is not None and self.options.peers.rank == 0:
            save_checkpoint(
                self.options.checkpoint, self.net, self.optimiser, self.best_weights, self.state
            )


def _train(
    net: Net,
    rows: Blocks,
    validation: Blocks,
    parameters: DeepParameters,
    seed: int,
    options: RunOptions,
    device: torch.device,
) -> TrainingResult:
    training = _prepare_training(net, rows, parameters, seed, options, device)
    state = training.state
    curve_blocks = sample_blocks(rows, CURVE_ROWS)
    while not state.ended and state.epoch < parameters.epochs:
        rows_per_second = _run_epoch(training)
        _finish_epoch(training, curve_blocks, validation, rows_per_second)
        training.report_rows(0)
        metrics = {name: series[-1] for name, series in state.curve.items()}
        stop_requested = options.on_epoch is not None and options.on_epoch(
            state.epoch, {**metrics, "rows_per_second": rows_per_second}
        )
        state.ended = bool(stop_requested) or bool(
            parameters.patience and state.stale >= parameters.patience
        )
        training.save_checkpoint()
    if parameters.patience:
        load_weights(net, training.best_weights)
    net.to("cpu").eval()
    best_epochs = [
        best_epoch if parameters.patience else state.epoch for best_epoch in state.best_epoch
    ]
    best_epoch_by_head = dict(
        zip(
            net.heads,
            best_epochs if net.has_separate_heads else best_epochs * len(net.heads),
            strict=True,
        )
    )
    return TrainingResult(state.curve, best_epoch_by_head)


def _prepare_training(
    net: Net,
    rows: Blocks,
    parameters: DeepParameters,
    seed: int,
    options: RunOptions,
    device: torch.device,
) -> _Training:
    """Prepare a training, and resume it from its checkpoint if there is one."""
    class_weights = count_classes(rows)
    positive_weights = _compute_positive_weights(class_weights, parameters)
    prior_shift = np.log(parameters.negative_share) - np.log(positive_weights)
    net.shift.copy_(torch.tensor(prior_shift, dtype=torch.float32))
    # On a CPU, operators and not Python limit the speed, so compiling only pays on a GPU.
    forward = torch.compile(net) if device.type == "cuda" else net
    optimiser = torch.optim.AdamW(
        net.parameters(), lr=parameters.rate, weight_decay=parameters.weight_decay
    )
    digest = _hash_run(net, rows, parameters, seed, class_weights)
    group_count = len(_group_heads(net))
    state = TrainingState(digest, best=[np.inf] * group_count, best_epoch=[0] * group_count)
    best_weights = copy_weights(net)
    if options.checkpoint is not None:
        checkpoint = load_checkpoint(options.checkpoint, net, optimiser, digest)
        if checkpoint is not None:
            state, best_weights = checkpoint
    return _Training(
        net,
        forward,
        optimiser,
        rows,
        class_weights,
        positive_weights,
        parameters,
        seed,
        options,
        device,
        state,
        best_weights,
    )


def _run_epoch(training: _Training) -> float:
    """Do the remaining steps of an epoch, and return the rows per second."""
    parameters = training.parameters
    state = training.state
    options = training.options
    started_at = time.monotonic()
    rows_done = state.step * parameters.batch
    batches = epoch_batches(
        training.rows,
        seed=training.seed,
        epoch=state.epoch,
        batch_rows=parameters.batch,
        negative_share=parameters.negative_share,
    )
    training.net.train()
    for batch in islice(batches, state.step, None):
        _step(training, batch)
        state.step += 1
        rows_done += len(batch.matrix)
        if state.step % 50 == 0:
            training.report_rows(rows_done)
        if state.step % options.checkpoint_steps == 0:
            training.save_checkpoint()
    return rows_done / max(time.monotonic() - started_at, 1e-9)


def _step(training: _Training, batch: Batch) -> None:
    """Do one optimiser step from the gradients of all shards."""
    net = training.net
    optimiser = training.optimiser
    parameters = training.parameters
    peers = training.options.peers
    device = training.device
    positive_weights = training.positive_weights.astype(np.float32)
    seeds = (training.seed, training.state.epoch, training.state.step)
    batch_rows = len(batch.matrix)
    shard_count = parameters.shards
    weights = batch.weight * np.where(batch.labels > 0, positive_weights, np.float32(1))
    # Losses are scaled over the whole batch, so that shards add up.
    loss_scale = 1.0 / np.maximum(batch.weight.sum(axis=0), 1e-6)
    trainable_parameters = list(net.parameters())
    gradient: Tensor | None = None
    for first_shard in range(0, shard_count, peers.count):
        shard = first_shard + peers.rank
        shard_rows = slice(
            batch_rows * shard // shard_count, batch_rows * (shard + 1) // shard_count
        )
        optimiser.zero_grad(set_to_none=True)
        if shard_rows.start < shard_rows.stop:
            torch.manual_seed(int(np.random.SeedSequence([*seeds, shard]).generate_state(1)[0]))
            matrix, labels, shard_weights = (
                torch.from_numpy(np.ascontiguousarray(array[shard_rows]))
                for array in (batch.matrix, batch.labels, weights)
            )
            with (
                torch.autocast("cuda", torch.bfloat16)
                if device.type == "cuda"
                else contextlib.nullcontext()
            ):
                logits, embedding_penalty = training.forward(matrix.to(device))
            losses = binary_cross_entropy_with_logits(
                logits.float(), labels.to(device), shard_weights.to(device), reduction="none"
            ).sum(dim=0)
            loss = (losses * torch.tensor(loss_scale, dtype=torch.float32, device=device)).sum()
            loss = loss + parameters.embedding_l2 * embedding_penalty * (
                (shard_rows.stop - shard_rows.start) / batch_rows
            )
            loss.backward()
        if shard_count == 1 and peers.count == 1:
            optimiser.step()
            return
        flat_gradient = torch.cat(
            [
                (
                    parameter.grad if parameter.grad is not None else torch.zeros_like(parameter)
                ).flatten()
                for parameter in trainable_parameters
            ]
        )
        for peer_gradient in peers.gather(flat_gradient):
            gradient = peer_gradient.clone() if gradient is None else gradient.add_(peer_gradient)
    assert gradient is not None
    offset = 0
    for parameter in trainable_parameters:
        parameter.grad = gradient[offset : offset + parameter.numel()].view_as(parameter).clone()
        offset += parameter.numel()
    optimiser.step()


def _finish_epoch(
    training: _Training, sampled_blocks: Blocks, validation: Blocks, rows_per_second: float
) -> None:
    """Compute the losses at the end of an epoch, and keep the best weights."""
    net = training.net
    state = training.state
    device = training.device
    net.eval()
    losses_by_part = {"train": compute_log_losses(net, sampled_blocks, device)}
    if sum(validation.sizes):
        losses_by_part["validation"] = compute_log_losses(net, validation, device)
    for part, losses in losses_by_part.items():
        metrics = {
            part: finite_mean(losses),
            **{f"{part}_{head}": float(loss) for head, loss in zip(net.heads, losses, strict=True)},
        }
        for metric, loss in metrics.items():
            state.curve.setdefault(metric, []).append(loss)
    state.curve.setdefault("rows_per_second", []).append(round(rows_per_second, 1))
    state.epoch = state.epoch + 1
    state.step = 0
    state.stale += 1
    # Rare targets have small losses, so each loss is taken relative to that of the mean.
    relative_losses = losses_by_part.get("validation", losses_by_part["train"]) / np.maximum(
        training.class_weights.chance_loss, 1e-12
    )
    head_groups = _group_heads(net)
    weights = copy_weights(net)
    for group_index, group_heads in enumerate(head_groups):
        group_loss = finite_mean(relative_losses[group_heads])
        if group_loss < state.best[group_index]:
            state.best[group_index] = group_loss
            state.best_epoch[group_index] = state.epoch
            state.stale = 0
            prefix = f"parts.{group_index}." if len(head_groups) > 1 else ""
            training.best_weights |= {
                name: array for name, array in weights.items() if name.startswith(prefix)
            }


def _compute_positive_weights(class_weights: ClassWeights, parameters: DeepParameters) -> Floats:
    if parameters.positive_weight:
        return np.full(len(class_weights.positive), parameters.positive_weight)
    return np.maximum(class_weights.negative * parameters.negative_share, 1e-9) / np.maximum(
        class_weights.positive, 1e-9
    )


def _group_heads(net: Net) -> list[list[int]]:
    """Return groups of heads that share their best epoch."""
    return (
        [[index] for index in range(len(net.heads))]
        if net.has_separate_heads
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
def _limit_threads(thread_count: int) -> Iterator[None]:
    """Limit torch's threads while training; by default half the cores, which others share."""
    previous_count = torch.get_num_threads()
    torch.set_num_threads(thread_count or max(1, (os.cpu_count() or 2) // 2))
    try:
        yield
    finally:
        torch.set_num_threads(previous_count)
