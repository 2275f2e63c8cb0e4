"""What a sequence transformer is made of, without torch."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from tailorbird.models.interactions import Interactions

if TYPE_CHECKING:
    from tailorbird.models.retrievers.transformer.vectors import SequenceVectors


@dataclass(frozen=True)
class SequenceTransformer:
    """Causal self-attention over the last items, learned to name the next one at every place
    (SASRec's shifted sequence), with what eSASRec adds (Tikhonovich et al., RecSys 2025): gated
    layers with SwiGLU, sampled softmax, mixed negatives. Also: gaps between interactions as
    embeddings, and what an item is (`content`) beside which it is, so that new items have vectors.

    Small defaults: some minutes on two cores for 100,000 interactions.

    Attributes:
        width, layers, heads, length: of the net; `length` items are looked back at.
        dropout: of activations.
        id_dropout: how often an item is shown by its content alone, so that the same net scores
            without ids.
        negatives: so many uniform ones, and as many from the batch, for each batch. steps, batch,
        rate: of learning; a step takes `batch` stretches of `length` interactions.
        seed: the same seed gives the same weights on the same number of threads.
        gaps: whether to look at the time between interactions.
        content: shape (items, tokens): codes from 1 of what each item is, 0 for none; hash open
            vocabularies.
        threads: of torch while it learns.
    """

    width: int = 64
    layers: int = 2
    heads: int = 2
    length: int = 50
    dropout: float = 0.2
    id_dropout: float = 0.1
    negatives: int = 256
    steps: int = 1_000
    batch: int = 64
    rate: float = 2e-3
    seed: int = 0
    gaps: bool = True
    content: npt.NDArray[np.int64] | None = field(default=None, repr=False, compare=False)
    threads: int = 1

    def fit(self, seen: Interactions, t: int) -> "SequenceVectors":
        from tailorbird.models.retrievers.transformer.learning import fit

        return fit(self, seen.before(t))
