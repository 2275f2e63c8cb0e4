"""Training: predict the next item at each position, against negatives that a batch shares.

Half of the negatives are drawn uniformly from the items that anybody has interacted with, half are
the batch's own targets, so that both rare and popular items are learned as negatives (mixed
negatives, Yang et al., WWW 2020). A negative i counts exp(s − log q), with q its expected count
among the negatives: an estimate of the softmax's sum over all other items (log-Q correction, Yi et
al., RecSys 2019). It is not quite unbiased, because a batch's targets are correlated while q
assumes independent draws. The target itself is not sampled, so it carries no correction, and is
ignored as a negative. If there are no more seen items than negatives, all of them are used, and
nothing is estimated.
"""

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from tailorbird.errors import UsageError
from tailorbird.models.retrievers.transformer.batches import SequenceWindows
from tailorbird.models.retrievers.transformer.net import SequenceNet
from tailorbird.models.retrievers.transformer.settings import TransformerSettings


def train_net(
    net: SequenceNet, recipe: TransformerSettings, windows: SequenceWindows, steps: int
) -> list[float]:
    """Run Adam over `steps` batches with warm-up and cosine decay, and return the losses."""
    # One pass over all weights: the table of items makes the plain loop a tenth of a training.
    optimiser = torch.optim.Adam(net.parameters(), lr=recipe.rate, betas=(0.9, 0.98), fused=True)
    warm_up_steps = max(steps // 20, 1)
    generator = torch.Generator().manual_seed(recipe.seed)
    item_shares = torch.from_numpy(
        np.bincount(windows.item, minlength=windows.item_count) / max(len(windows.item), 1)
    ).float()
    losses = []
    net.train()
    for step in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = recipe.rate * min(
                (step + 1) / warm_up_steps, 0.5 * (1 + np.cos(np.pi * step / steps)) + 0.01
            )
        batch = windows.draw_batch(recipe.seed, step, recipe.batch, recipe.length)
        input_code, gap, target = (torch.from_numpy(array) for array in batch)
        loss = compute_batch_loss(net, recipe, input_code, gap, target, item_shares, generator)
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimiser.step()
        losses.append(float(loss.detach()))
    net.eval()
    return losses


def compute_batch_loss(
    net: SequenceNet,
    recipe: TransformerSettings,
    input_code: Tensor,
    gap: Tensor,
    target: Tensor,
    item_shares: Tensor,
    generator: torch.Generator,
) -> Tensor:
    """Return the mean over positions of −log of the target's corrected softmax share."""

    def item_vectors(code: Tensor) -> Tensor:
        return net.items(
            code, (torch.rand(code.shape, generator=generator) < recipe.id_dropout).float()
        )

    hidden_states = net(item_vectors(input_code), input_code > 0, gap)
    has_target = target > 0
    hidden_states = hidden_states[has_target]
    target_code = target[has_target]
    seen_items = torch.nonzero(item_shares)[
        :, 0
    ]  # unseen items are no negatives, as they may be what comes next
    if len(seen_items) <= 2 * recipe.negatives:
        return functional.cross_entropy(
            hidden_states @ item_vectors(seen_items + 1).T,
            torch.searchsorted(seen_items, target_code - 1),
        )
    uniform_codes = (
        seen_items[torch.randint(0, len(seen_items), (recipe.negatives,), generator=generator)] + 1
    )
    batch_codes = target_code[
        torch.randint(0, len(target_code), (recipe.negatives,), generator=generator)
    ]
    negatives = torch.cat((uniform_codes, batch_codes))
    expected_counts = recipe.negatives * (1 / len(seen_items) + item_shares[negatives - 1])
    target_logits = (hidden_states * item_vectors(target_code)).sum(dim=-1, keepdim=True)
    negative_logits = hidden_states @ item_vectors(negatives).T - torch.log(expected_counts)
    negative_logits = negative_logits.masked_fill(
        negatives[None, :] == target_code[:, None], float("-inf")
    )
    return functional.cross_entropy(
        torch.cat((target_logits, negative_logits), dim=1),
        torch.zeros(len(target_code), dtype=torch.long),
    )


def build_content_tokens(recipe: TransformerSettings, item_count: int) -> Tensor:
    """Return tokens by code + 1, with rows for padding and start."""
    tokens = np.zeros((item_count, 1), np.int64) if recipe.content is None else recipe.content
    if len(tokens) < item_count:
        raise UsageError(
            f"content of {len(tokens)} items for a catalogue of {item_count}",
            fix="give a row for each item code",
        )
    no_tokens = np.zeros((1, tokens.shape[1]), np.int64)
    return torch.from_numpy(np.concatenate((no_tokens, tokens[:item_count], no_tokens)))


def seen_mask(windows: SequenceWindows) -> Tensor:
    """Return which items have been seen; the others are embedded by content alone."""
    is_seen = np.bincount(windows.item, minlength=windows.item_count) > 0
    return torch.from_numpy(np.concatenate(([True], is_seen, [True]))).float()
