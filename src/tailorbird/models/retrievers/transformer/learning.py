"""Learning: at each place the next item against negatives that all places of a batch share.

Half of the negatives are drawn evenly from the items that anybody has met, half are the batch's own
targets, so that both rare and popular items are learned to be refused (mixed negatives, Yang et
al., WWW 2020). A negative i counts exp(s − log q), q = how often it is expected among the
negatives: an estimate of the softmax's sum over all other items (log-Q correction, Yi et al.,
RecSys 2019), and not quite an unbiased one, since a batch's targets go together and q is of items
drawn each by itself. The target itself is not sampled, so it carries no correction, and where it is
drawn as a negative it does not count. Where no more items were met than negatives would be drawn,
all of them are looked at instead, and nothing is estimated.
"""

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from tailorbird.errors import UsageError
from tailorbird.models.interactions import Interactions
from tailorbird.models.retrievers.transformer.batches import Stretches
from tailorbird.models.retrievers.transformer.net import SequenceNet
from tailorbird.models.retrievers.transformer.recipe import SequenceTransformer
from tailorbird.models.retrievers.transformer.vectors import SequenceVectors


def fit(recipe: SequenceTransformer, seen: Interactions) -> SequenceVectors:
    """Learn from scratch."""
    torch.manual_seed(recipe.seed)
    torch.set_num_threads(recipe.threads)
    data = Stretches.of(seen)
    net = SequenceNet(recipe, seen.items, _content(recipe, seen.items), _known(data))
    losses = learn(net, recipe, data, recipe.steps) if len(data.item) else []
    return SequenceVectors.of(recipe, net, seen, losses)


def go_on(model: SequenceVectors, more: Interactions) -> SequenceVectors:
    """Warm start: the same weights, new items with rows of their own, a quarter of the steps over
    all there is.
    """
    recipe = replace(model.recipe, seed=model.recipe.seed + 1)
    torch.manual_seed(recipe.seed)
    torch.set_num_threads(recipe.threads)
    data = Stretches.of(more)
    net = SequenceNet(recipe, more.items, _content(recipe, more.items), _known(data))
    old, new = model.net.state_dict(), net.state_dict()
    kept = {
        name: value
        for name, value in old.items()
        if name not in ("known", "content", "id.weight", "token.weight")
    }
    items = old["id.weight"].shape[0] - 2
    new["id.weight"][: items + 1] = old["id.weight"][: items + 1]
    new["id.weight"][-1] = old["id.weight"][-1]
    met = new["known"][: items + 1] > old["known"][: items + 1]
    new["id.weight"][: items + 1][met] = old[
        "unknown"
    ]  # so that somebody's first click does not move the item at once
    tokens = min(len(old["token.weight"]), len(new["token.weight"]))
    new["token.weight"][:tokens] = old["token.weight"][:tokens]
    net.load_state_dict(new | kept)
    losses = learn(net, recipe, data, max(recipe.steps // 4, 1)) if len(data.item) else []
    return SequenceVectors.of(recipe, net, more, [*model.losses, *losses])


def learn(
    net: SequenceNet, recipe: SequenceTransformer, data: Stretches, steps: int
) -> list[float]:
    """Adam over `steps` batches, the rate warmed up and then lowered along a cosine; the loss of
    each step.
    """
    optimiser = torch.optim.Adam(net.parameters(), lr=recipe.rate, betas=(0.9, 0.98))
    warm = max(steps // 20, 1)
    generator = torch.Generator().manual_seed(recipe.seed)
    share = torch.from_numpy(
        np.bincount(data.item, minlength=data.items) / max(len(data.item), 1)
    ).float()
    losses = []
    net.train()
    for step in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = recipe.rate * min(
                (step + 1) / warm, 0.5 * (1 + np.cos(np.pi * step / steps)) + 0.01
            )
        batch = data.batch(recipe.seed, step, recipe.batch, recipe.length)
        source, gap, target = (torch.from_numpy(each) for each in batch)
        loss = batch_loss(net, recipe, source, gap, target, share, generator)
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimiser.step()
        losses.append(float(loss.detach()))
    net.eval()
    return losses


def batch_loss(
    net: SequenceNet,
    recipe: SequenceTransformer,
    source: Tensor,
    gap: Tensor,
    target: Tensor,
    share: Tensor,
    generator: torch.Generator,
) -> Tensor:
    """Mean over places of −log of the target's corrected share of target and negatives."""

    def shown(code: Tensor) -> Tensor:
        return net.items(
            code, (torch.rand(code.shape, generator=generator) < recipe.id_dropout).float()
        )

    state = net(shown(source), source > 0, gap)
    there = target > 0
    state, wanted = state[there], target[there]
    met = torch.nonzero(share)[
        :, 0
    ]  # what nobody has met yet must not be learned to be refused: it may be what comes next
    if len(met) <= 2 * recipe.negatives:
        return functional.cross_entropy(
            state @ shown(met + 1).T, torch.searchsorted(met, wanted - 1)
        )
    uniform = met[torch.randint(0, len(met), (recipe.negatives,), generator=generator)] + 1
    own = wanted[torch.randint(0, len(wanted), (recipe.negatives,), generator=generator)]
    negative = torch.cat((uniform, own))
    expected = recipe.negatives * (1 / len(met) + share[negative - 1])
    right = (state * shown(wanted)).sum(dim=-1, keepdim=True)
    wrong = state @ shown(negative).T - torch.log(expected)
    wrong = wrong.masked_fill(negative[None, :] == wanted[:, None], float("-inf"))
    return functional.cross_entropy(
        torch.cat((right, wrong), dim=1), torch.zeros(len(wanted), dtype=torch.long)
    )


def _content(recipe: SequenceTransformer, items: int) -> Tensor:
    """Tokens by code + 1, with rows for pad and start."""
    tokens = np.zeros((items, 1), np.int64) if recipe.content is None else recipe.content
    if len(tokens) < items:
        raise UsageError(
            f"content of {len(tokens)} items for a catalogue of {items}",
            fix="give a row for each item code",
        )
    none = np.zeros((1, tokens.shape[1]), np.int64)
    return torch.from_numpy(np.concatenate((none, tokens[:items], none)))


def _known(data: Stretches) -> Tensor:
    """Which items have been seen: the others are shown by their content alone."""
    seen = np.bincount(data.item, minlength=data.items) > 0
    return torch.from_numpy(np.concatenate(([True], seen, [True]))).float()
