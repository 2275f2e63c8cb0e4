"""A trained transformer as vectors of queries (recent interactions) and of items."""

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch

from tailorbird.models.interactions import Interactions
from tailorbird.models.retrievers.protocol import (
    Contexts,
    Scores,
    TopItems,
    concatenate_interactions,
    top_items,
)
from tailorbird.models.retrievers.transformer.batches import SequenceWindows, build_inputs
from tailorbird.models.retrievers.transformer.learning import (
    build_content_tokens,
    seen_mask,
    train_net,
)
from tailorbird.models.retrievers.transformer.net import SequenceNet
from tailorbird.models.retrievers.transformer.settings import TransformerSettings

QUERIES_PER_CHUNK = 512


@dataclass(frozen=True)
class SequenceVectors:
    """Vectors of items as an array, vectors of people by the net.

    Attributes:
        item_vectors: float32 (items, width): score = user vector · item vector, of any sign.
        input_vectors: float32 (items + 2, width): item vectors with padding first and the start
            of a sequence last.
        losses: of each training step.
    """

    recipe: TransformerSettings
    net: SequenceNet
    item_vectors: Scores
    input_vectors: Scores
    interactions: Interactions
    losses: list[float]

    @classmethod
    def from_net(
        cls,
        recipe: TransformerSettings,
        net: SequenceNet,
        interactions: Interactions,
        losses: list[float],
    ) -> "SequenceVectors":
        net.eval()
        with torch.no_grad():
            inputs = net.items(torch.arange(interactions.item_count + 2)).numpy()
        return cls(recipe, net, np.ascontiguousarray(inputs[1:-1]), inputs, interactions, losses)

    @property
    def items(self) -> int:
        return len(self.item_vectors)

    def user_vectors(self, contexts: Contexts) -> Scores:
        """Return a vector for each query, float32 (queries, width).

        A query without interactions gets the vector of a sequence start.
        """
        user_vectors = np.zeros((len(contexts), self.recipe.width), np.float32)
        for start in range(0, len(contexts), QUERIES_PER_CHUNK):
            chunk = contexts.slice_queries(
                start, min(start + QUERIES_PER_CHUNK, len(contexts))
            ).truncate(self.recipe.length)
            input_code, gap = build_inputs(chunk, self.items, self.recipe.length)
            user_vectors[start : start + len(chunk)] = self.run(
                self.input_vectors[input_code], input_code > 0, gap
            )
        return user_vectors

    def run(
        self, vectors: Scores, is_present: npt.NDArray[np.bool_], gap: npt.NDArray[np.int64]
    ) -> Scores:
        """Run the net alone on windows of vectors, as exported.

        See `transformer.export` for the shapes.
        """
        with torch.no_grad():
            return self.net(
                torch.from_numpy(vectors), torch.from_numpy(is_present), torch.from_numpy(gap)
            )[:, -1].numpy()

    def top(self, contexts: Contexts, n: int, *, repeats: bool = False) -> TopItems:
        """Return the best items; scores are e^(score − the query's best), so above 0."""
        item = np.full((len(contexts), n), -1, np.int32)
        score = np.zeros((len(contexts), n), np.float32)
        vectors = self.user_vectors(contexts)
        for start in range(0, len(contexts), QUERIES_PER_CHUNK):
            chunk = contexts.slice_queries(start, min(start + QUERIES_PER_CHUNK, len(contexts)))
            scores = vectors[start : start + len(chunk)] @ self.item_vectors.T
            scores = np.exp(np.maximum(scores - scores.max(axis=1, keepdims=True), -80))
            is_in_catalogue = (chunk.item >= 0) & (chunk.item < self.items)
            offsets = np.concatenate(
                (
                    [0],
                    np.cumsum(
                        np.bincount(chunk.query_index[is_in_catalogue], minlength=len(chunk))
                    ),
                )
            ).astype(np.int64)
            own_contexts = Contexts(
                chunk.t, chunk.item[is_in_catalogue], chunk.ts[is_in_catalogue], offsets
            )
            top = top_items(scores, own_contexts, n, repeats=repeats)
            item[start : start + len(chunk)] = top.item
            score[start : start + len(chunk)] = top.score
        return TopItems(item, score)

    def updated(self, new_interactions: Interactions, t: int) -> "SequenceVectors":
        """Continue training from these weights; the result differs from a new fit."""
        return warm_start(self, concatenate_interactions(self.interactions, new_interactions))

    def without_ids(self) -> "SequenceVectors":
        """Return the same net with all items embedded by content alone.

        It measures the quality if the whole catalogue were new.
        """
        with torch.no_grad():
            code = torch.arange(self.items + 2)
            id_dropped = torch.ones(self.items + 2)
            id_dropped[0] = id_dropped[-1] = 0
            inputs = self.net.items(code, id_dropped).numpy()
        return replace(self, item_vectors=np.ascontiguousarray(inputs[1:-1]), input_vectors=inputs)


def fit(recipe: TransformerSettings, interactions: Interactions) -> SequenceVectors:
    """Train from scratch."""
    torch.manual_seed(recipe.seed)
    torch.set_num_threads(recipe.threads)
    windows = SequenceWindows.from_interactions(interactions)
    net = SequenceNet(
        recipe,
        interactions.item_count,
        build_content_tokens(recipe, interactions.item_count),
        seen_mask(windows),
    )
    losses = train_net(net, recipe, windows, recipe.steps) if len(windows.item) else []
    return SequenceVectors.from_net(recipe, net, interactions, losses)


def warm_start(model: SequenceVectors, interactions: Interactions) -> SequenceVectors:
    """Continue from a model's weights for a quarter of the steps, with rows for new items."""
    recipe = replace(model.recipe, seed=model.recipe.seed + 1)
    torch.manual_seed(recipe.seed)
    torch.set_num_threads(recipe.threads)
    windows = SequenceWindows.from_interactions(interactions)
    net = SequenceNet(
        recipe,
        interactions.item_count,
        build_content_tokens(recipe, interactions.item_count),
        seen_mask(windows),
    )
    old_state = model.net.state_dict()
    new_state = net.state_dict()
    shared_weights = {
        name: value
        for name, value in old_state.items()
        if name not in ("known", "content", "id.weight", "token.weight")
    }
    old_item_count = old_state["id.weight"].shape[0] - 2
    new_state["id.weight"][: old_item_count + 1] = old_state["id.weight"][: old_item_count + 1]
    new_state["id.weight"][-1] = old_state["id.weight"][-1]
    is_newly_seen = (
        new_state["known"][: old_item_count + 1] > old_state["known"][: old_item_count + 1]
    )
    new_state["id.weight"][: old_item_count + 1][is_newly_seen] = old_state[
        "unknown"
    ]  # the vector of an item does not jump at its first click
    shared_token_count = min(len(old_state["token.weight"]), len(new_state["token.weight"]))
    new_state["token.weight"][:shared_token_count] = old_state["token.weight"][:shared_token_count]
    net.load_state_dict(new_state | shared_weights)
    losses = train_net(net, recipe, windows, max(recipe.steps // 4, 1)) if len(windows.item) else []
    return SequenceVectors.from_net(recipe, net, interactions, [*model.losses, *losses])
