"""The sequence transformer in the tables of `next_item`: learned once before each part, several seeds, never refitted within the part."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from benchmarks.quality.next_item_cases import Case, Data
from benchmarks.quality.next_item_run import FOUND, asked, seen
from tailorbird.models.retrievers import Top
from tailorbird.models.retrievers.transformer import SequenceTransformer
from tailorbird.models.retrievers.transformer.vectors import SequenceVectors

NAME = "transformer"


def learned_vectors(case: Case, data: Data, t: int, seed: int) -> SequenceVectors:
    """A transformer that knows what came before t."""
    recipe = SequenceTransformer(steps=case.steps, length=case.length, batch=case.batch, content=data.content, seed=seed, gaps=case.gaps)
    return recipe.fit(seen(case, data, case.by_person[0], t), t)


def listed(case: Case, data: Data, model: SequenceVectors, low: int, high: int, origins: int) -> Top:
    """Its lists for the very questions that the other models were asked."""
    cuts = np.linspace(low, high, origins + 1).astype(np.int64).tolist()
    tops: Sequence[Top] = [
        model.top(questions.contexts, FOUND, repeats=case.repeats)
        for t, stop in pairwise(cuts)
        if len((questions := asked(case, data, t, stop, case.questions // origins)).person)
    ]
    return Top(np.concatenate([top.item for top in tops]), np.concatenate([top.score for top in tops]))


def spread(values: Sequence[float]) -> float:
    """How far the seeds lie apart: largest less smallest."""
    return float(max(values) - min(values))
