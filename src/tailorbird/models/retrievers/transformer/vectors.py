"""A learned transformer as vectors: of questions (what somebody did so far) and of items. The one
user-vector API.
"""

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch

from tailorbird.models.interactions import Interactions
from tailorbird.models.retrievers.protocol import Contexts, Scores, Top, best_of, joined
from tailorbird.models.retrievers.transformer.batches import inputs_of
from tailorbird.models.retrievers.transformer.net import SequenceNet
from tailorbird.models.retrievers.transformer.recipe import SequenceTransformer

ROWS = 512  # questions at once


@dataclass(frozen=True)
class SequenceVectors:
    """Vectors of items as an array, vectors of people by the net.

    Attributes:
        item_vectors: float32 (items, width): score = user vector · item vector, of any sign.
        input_vectors: float32 (items + 2, width): the same with padding first and the start of a
            sequence last.
        losses: of each step of learning.
    """

    recipe: SequenceTransformer
    net: SequenceNet
    item_vectors: Scores
    input_vectors: Scores
    seen: Interactions
    losses: list[float]

    @classmethod
    def of(
        cls, recipe: SequenceTransformer, net: SequenceNet, seen: Interactions, losses: list[float]
    ) -> "SequenceVectors":
        net.eval()
        with torch.no_grad():
            inputs = net.items(torch.arange(seen.items + 2)).numpy()
        return cls(recipe, net, np.ascontiguousarray(inputs[1:-1]), inputs, seen, losses)

    @property
    def items(self) -> int:
        return len(self.item_vectors)

    def vectors(self, contexts: Contexts) -> Scores:
        """A vector for each question, float32 (questions, width). One without any past has that of
        a beginning: what is first done.
        """
        found = np.zeros((len(contexts), self.recipe.width), np.float32)
        for low in range(0, len(contexts), ROWS):
            some = contexts.part(low, min(low + ROWS, len(contexts))).newest(self.recipe.length)
            source, gap = inputs_of(some, self.items, self.recipe.length)
            found[low : low + len(some)] = self.run(self.input_vectors[source], source > 0, gap)
        return found

    def run(
        self, vectors: Scores, there: npt.NDArray[np.bool_], gap: npt.NDArray[np.int64]
    ) -> Scores:
        """The net alone, on windows of vectors: what is exported. See `transformer.export` for the
        shapes.
        """
        with torch.no_grad():
            return self.net(
                torch.from_numpy(vectors), torch.from_numpy(there), torch.from_numpy(gap)
            )[:, -1].numpy()

    def top(self, contexts: Contexts, n: int, *, repeats: bool = False) -> Top:
        """As all retrievers; the scores listed are e^(score − the question's best), so that they
        are above 0.
        """
        item, score = (
            np.full((len(contexts), n), -1, np.int32),
            np.zeros((len(contexts), n), np.float32),
        )
        vectors = self.vectors(contexts)
        for low in range(0, len(contexts), ROWS):
            some = contexts.part(low, min(low + ROWS, len(contexts)))
            product = vectors[low : low + len(some)] @ self.item_vectors.T
            product = np.exp(np.maximum(product - product.max(axis=1, keepdims=True), -80))
            known = (some.item >= 0) & (some.item < self.items)
            offsets = np.concatenate(
                ([0], np.cumsum(np.bincount(some.owner[known], minlength=len(some))))
            ).astype(np.int64)
            own = Contexts(some.t, some.item[known], some.ts[known], offsets)
            found = best_of(product, own, n, repeats=repeats)
            item[low : low + len(some)], score[low : low + len(some)] = found.item, found.score
        return Top(item, score)

    def updated(self, more: Interactions, t: int) -> "SequenceVectors":
        """A warm start, and so not what `fit` would give: the weights go on from here."""
        from tailorbird.models.retrievers.transformer.learning import go_on

        return go_on(self, joined(self.seen, more))

    def without_ids(self) -> "SequenceVectors":
        """The same net where all items are shown by their content alone: how it would do if the
        whole catalogue were new.
        """
        with torch.no_grad():
            code = torch.arange(self.items + 2)
            drop = torch.ones(self.items + 2)
            drop[0] = drop[-1] = 0
            inputs = self.net.items(code, drop).numpy()
        return replace(self, item_vectors=np.ascontiguousarray(inputs[1:-1]), input_vectors=inputs)
