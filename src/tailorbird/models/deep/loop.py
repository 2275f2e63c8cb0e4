"""Training a net, read in one sitting: batch → gradients of its shards → step; after an epoch
losses, the best weights, a checkpoint.

Everything random is a function of (seed, epoch, step, shard): a run that is killed and goes on ends
in the same bits, and so does one whose shards are computed by several processes (`parallel`), since
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
from torch.nn.functional import binary_cross_entropy_with_logits, softplus

from tailorbird.models.deep.batches import Batch, Block, Blocks, Floats, Mass, batches, mass
from tailorbird.models.deep.checkpoint import Arrays, Position, load, load_weights, save, weights
from tailorbird.models.deep.nets import Net
from tailorbird.models.deep.parameters import DeepParameters

OnEpoch = Callable[[int, Mapping[str, float]], bool | None]
"""Told the epoch (from 1) and figures: `train` and `validation` (log loss, mean over heads), `train_HEAD`, `validation_HEAD` and
`rows_per_second`. True ends the training there."""

ROWS_AT_ONCE = 8_192
ROWS_OF_CURVE = 65_536  # of the training part that the curve looks at
STEPS_OF_CHECKPOINT = 500


class Peers:
    """One process alone; see `parallel` for several."""

    rank, count = 0, 1

    def gather(self, flat: Tensor) -> list[Tensor]:
        """The gradients of all processes, in order."""
        return [flat]


@dataclass(frozen=True)
class Run:
    """How a training is watched and kept.

    Attributes:
        checkpoint: folder of a run that may be killed; None keeps none.
        checkpoint_steps: between two checkpoints within an epoch.
        on_epoch: see `OnEpoch`.
        progress: called with (rows done, rows in all).
        peers: the processes that share the work.
    """

    checkpoint: Path | None = None
    checkpoint_steps: int = STEPS_OF_CHECKPOINT
    on_epoch: OnEpoch | None = None
    progress: Callable[[int, int], None] | None = None
    peers: Peers = field(default_factory=Peers)


@dataclass(frozen=True)
class Trained:
    """What came of it.

    Attributes:
        curve: name of a figure → value by epoch.
        best_epoch: of each head, from 1: whose weights the net has.
    """

    curve: dict[str, list[float]]
    best_epoch: dict[str, int]


def train_net(
    net: Net, rows: Blocks, watched: Blocks, parameters: DeepParameters, seed: int, run: Run
) -> Trained:
    """Train in place.

    Args:
        watched: validation rows, later in time; may be empty, and then nothing is watched.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    with _threads(parameters.threads), torch.random.fork_rng(devices=[]):
        return _train(net.to(device), rows, watched, parameters, seed, run, device)


def _train(
    net: Net,
    rows: Blocks,
    watched: Blocks,
    parameters: DeepParameters,
    seed: int,
    run: Run,
    device: torch.device,
) -> Trained:
    counted = mass(rows)
    positive = _positive_weight(counted, parameters)
    net.shift.copy_(
        torch.tensor(np.log(parameters.negative_share) - np.log(positive), dtype=torch.float32)
    )
    # One pass over a net on a CPU is bound by its operators, not by Python: compiling pays on a GPU
    # alone.
    forward = torch.compile(net) if device.type == "cuda" else net
    optimiser = torch.optim.AdamW(
        net.parameters(), lr=parameters.rate, weight_decay=parameters.weight_decay
    )
    digest = _digest(net, rows, parameters, seed, counted)
    groups = _groups(net)
    position, best = (
        Position(digest, best=[np.inf] * len(groups), best_epoch=[0] * len(groups)),
        weights(net),
    )
    if (
        run.checkpoint is not None
        and (found := load(run.checkpoint, net, optimiser, digest)) is not None
    ):
        position, best = found
    sampled = _sampled(rows)
    total = parameters.epochs * counted.rows
    while not position.ended and position.epoch < parameters.epochs:
        begin, done = time.monotonic(), position.step * parameters.batch
        drawn = batches(
            rows,
            seed=seed,
            epoch=position.epoch,
            size=parameters.batch,
            negative_share=parameters.negative_share,
        )
        net.train()
        for batch in islice(drawn, position.step, None):
            _step(
                forward,
                net,
                optimiser,
                batch,
                positive,
                parameters,
                (seed, position.epoch, position.step),
                run.peers,
                device,
            )
            position.step += 1
            done += len(batch.matrix)
            if position.step % 50 == 0 and run.progress is not None:
                run.progress(position.epoch * counted.rows + done, total)
            if (
                run.checkpoint is not None
                and position.step % run.checkpoint_steps == 0
                and run.peers.rank == 0
            ):
                save(run.checkpoint, net, optimiser, best, position)
        rate = done / max(time.monotonic() - begin, 1e-9)
        _judge(net, sampled, watched, counted, parameters, position, best, groups, device, rate)
        if run.progress is not None:
            run.progress(position.epoch * counted.rows, total)
        figures = {name: series[-1] for name, series in position.curve.items()}
        asked = run.on_epoch is not None and run.on_epoch(
            position.epoch, {**figures, "rows_per_second": rate}
        )
        position.ended = bool(asked) or bool(
            parameters.patience and position.stale >= parameters.patience
        )
        if run.checkpoint is not None and run.peers.rank == 0:
            save(run.checkpoint, net, optimiser, best, position)
    if parameters.patience:
        load_weights(net, best)
    net.to("cpu").eval()
    kept = [each if parameters.patience else position.epoch for each in position.best_epoch]
    by_head = dict(zip(net.heads, kept if net.apart else kept * len(net.heads), strict=True))
    return Trained(position.curve, by_head)


def _step(
    forward: Callable[[Tensor], tuple[Tensor, Tensor]],
    net: Net,
    optimiser: torch.optim.Optimizer,
    batch: Batch,
    positive: Floats,
    parameters: DeepParameters,
    at: tuple[int, int, int],
    peers: Peers,
    device: torch.device,
) -> None:
    """One step of the optimiser, from the gradients of all shards."""
    size, shards = len(batch.matrix), parameters.shards
    weight = batch.weight * np.where(batch.labels > 0, positive.astype(np.float32), np.float32(1))
    scale = 1.0 / np.maximum(
        batch.weight.sum(axis=0), 1e-6
    )  # of the whole batch, so that shards add up to it
    learned = list(net.parameters())
    total: Tensor | None = None
    for turn in range(0, shards, peers.count):
        shard = turn + peers.rank
        here = slice(size * shard // shards, size * (shard + 1) // shards)
        optimiser.zero_grad(set_to_none=True)
        if here.start < here.stop:
            torch.manual_seed(int(np.random.SeedSequence([*at, shard]).generate_state(1)[0]))
            matrix, labels, weights_ = (
                torch.from_numpy(np.ascontiguousarray(each[here]))
                for each in (batch.matrix, batch.labels, weight)
            )
            with (
                torch.autocast("cuda", torch.bfloat16)
                if device.type == "cuda"
                else contextlib.nullcontext()
            ):
                logits, squares = forward(matrix.to(device))
            losses = binary_cross_entropy_with_logits(
                logits.float(), labels.to(device), weights_.to(device), reduction="none"
            ).sum(dim=0)
            loss = (losses * torch.tensor(scale, dtype=torch.float32, device=device)).sum()
            loss = loss + parameters.embedding_l2 * squares * ((here.stop - here.start) / size)
            loss.backward()
        if shards == 1 and peers.count == 1:
            optimiser.step()
            return
        flat = torch.cat(
            [
                (each.grad if each.grad is not None else torch.zeros_like(each)).flatten()
                for each in learned
            ]
        )
        for each in peers.gather(flat):
            total = each.clone() if total is None else total.add_(each)
    assert total is not None
    at_ = 0
    for each in learned:
        each.grad = total[at_ : at_ + each.numel()].view_as(each).clone()
        at_ += each.numel()
    optimiser.step()


def _judge(
    net: Net,
    sampled: Blocks,
    watched: Blocks,
    counted: Mass,
    parameters: DeepParameters,
    position: Position,
    best: Arrays,
    groups: list[list[int]],
    device: torch.device,
    rate: float,
) -> None:
    """The end of an epoch: losses of both parts, and the best weights."""
    net.eval()
    both = {"train": _losses(net, sampled, device)}
    if sum(watched.sizes):
        both["validation"] = _losses(net, watched, device)
    for name, losses in both.items():
        told = {
            name: _mean(losses),
            **{f"{name}_{head}": float(loss) for head, loss in zip(net.heads, losses, strict=True)},
        }
        for figure, value in told.items():
            position.curve.setdefault(figure, []).append(value)
    position.curve.setdefault("rows_per_second", []).append(round(rate, 1))
    position.epoch, position.step = position.epoch + 1, 0
    position.stale += 1
    # Heads of rare targets have small losses: each counts by what it saves of the loss of always
    # the mean.
    judged = both.get("validation", both["train"]) / np.maximum(counted.chance_loss, 1e-12)
    state = weights(net)
    for place, heads in enumerate(groups):
        value = _mean(judged[heads])
        if value < position.best[place]:
            position.best[place], position.best_epoch[place], position.stale = (
                value,
                position.epoch,
                0,
            )
            prefix = f"parts.{place}." if len(groups) > 1 else ""
            best |= {name: array for name, array in state.items() if name.startswith(prefix)}


def _mean(losses: Floats) -> float:
    """Over heads that have one: NaN where none has, as in a training that diverged."""
    known = losses[~np.isnan(losses)]
    return float(known.mean()) if len(known) else float("nan")


def logits(net: Net, matrix: np.ndarray, device: torch.device | None = None) -> Tensor:
    """What the net says of rows, the prior put back, shape (n, heads)."""
    device = device or next(net.parameters()).device
    with torch.inference_mode():
        parts = [
            net(torch.tensor(matrix[start : start + ROWS_AT_ONCE], device=device))[0].float().cpu()
            for start in range(0, len(matrix), ROWS_AT_ONCE)
        ]
    return torch.cat([*parts, torch.zeros(0, len(net.heads))]) + net.shift.cpu()


def _losses(net: Net, rows: Blocks, device: torch.device) -> Floats:
    """Weighted log loss by head, shape (heads,)."""
    total, weight = np.zeros(len(net.heads)), np.zeros(len(net.heads))
    for place in range(len(rows.sizes)):
        block = rows.block(place)
        said = logits(net, block.matrix, device)
        label = torch.from_numpy((block.labels > 0).astype(np.float32))
        loss = (softplus(said) - said * label).numpy().astype(np.float64)
        known = np.where(np.isfinite(block.labels), block.weight[:, None], 0.0)
        total += (known * loss).sum(axis=0)
        weight += known.sum(axis=0)
    return np.divide(total, weight, out=np.full(total.shape, np.nan), where=weight > 0)


def _positive_weight(counted: Mass, parameters: DeepParameters) -> Floats:
    if parameters.positive_weight:
        return np.full(len(counted.positive), parameters.positive_weight)
    return np.maximum(counted.negative * parameters.negative_share, 1e-9) / np.maximum(
        counted.positive, 1e-9
    )


def _groups(net: Net) -> list[list[int]]:
    """Heads that keep their best epoch together."""
    return (
        [[place] for place in range(len(net.heads))] if net.apart else [list(range(len(net.heads)))]
    )


@dataclass(frozen=True)
class _Some:
    """Some blocks of others."""

    rows: Blocks
    places: tuple[int, ...]

    @property
    def heads(self) -> tuple[str, ...]:
        return self.rows.heads

    @property
    def sizes(self) -> tuple[int, ...]:
        return tuple(self.rows.sizes[place] for place in self.places)

    def block(self, place: int) -> Block:
        return self.rows.block(self.places[place])


def _sampled(rows: Blocks) -> Blocks:
    """Blocks evenly over the training part, for the curve."""
    count = max(1, min(len(rows.sizes), ROWS_OF_CURVE // max(max(rows.sizes, default=1), 1)))
    return _Some(rows, tuple(np.linspace(0, len(rows.sizes) - 1, count).astype(int).tolist()))


def _digest(
    net: nn.Module, rows: Blocks, parameters: DeepParameters, seed: int, counted: Mass
) -> str:
    """Of what decides the result: the net as it begins, parameters, and the rows by their first and
    last block.
    """
    digest = hashlib.blake2b(digest_size=16)
    for name, value in sorted(weights(net).items()):
        digest.update(name.encode() + np.ascontiguousarray(value).tobytes())
    for place in dict.fromkeys((0, len(rows.sizes) - 1)):
        block = rows.block(place)
        for array in (block.matrix, block.labels, block.weight):
            digest.update(np.ascontiguousarray(array).tobytes())
    digest.update(
        msgspec.json.encode(
            [
                parameters,
                seed,
                rows.heads,
                rows.sizes,
                counted.positive.tolist(),
                counted.negative.tolist(),
            ]
        )
    )
    return digest.hexdigest()


@contextlib.contextmanager
def _threads(count: int) -> Iterator[None]:
    """So many threads of torch, for as long as training takes; half the cores by default, as others
    use them too.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(count or max(1, (os.cpu_count() or 2) // 2))
    try:
        yield
    finally:
        torch.set_num_threads(before)
