"""Settings of a transformer's net and its training, without torch."""

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class TransformerSettings:
    """Settings of a causal self-attention model that predicts the next item at every position.

    It is SASRec's shifted sequence with the additions of eSASRec (Tikhonovich et al., RecSys 2025):
    gated layers with SwiGLU, sampled softmax, mixed negatives. Gaps between interactions are
    embedded, and items also have content embeddings, so that new items have vectors. The defaults
    are small: some minutes on two cores for 100,000 interactions.

    Attributes:
        width, layers, heads, length: of the net; `length` is the number of recent items.
        dropout: of activations.
        id_dropout: share of items embedded by content alone in training, so that the same net
            scores without ids.
        negatives: uniform negatives per batch, and as many from the batch.
        steps, batch, rate: of training; a step takes `batch` windows of `length` interactions.
        seed: the same seed gives the same weights on the same number of threads.
        gaps: whether to use the time between interactions.
        content: shape (items, tokens): codes from 1 of each item's content, 0 for none; hash open
            vocabularies.
        threads: of torch while training.
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
