"""Requests with their candidates in memory: for tuning, validation and the choice of features,
which look at rows again and again.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from tailorbird.training.clicks import joined, sampled, with_candidates
from tailorbird.training.dataset import Dataset
from tailorbird.training.replaying import Replay, Slates, joined_slates
from tailorbird.training.rows import NEGATIVES, Material

Floats = npt.NDArray[np.float64]


def completed(material: Material, part: Dataset, replay: Replay) -> Dataset:
    """Return the rows that are learned from: of logged answers all, of drawn requests some
    candidates, weighted.
    """
    if material.scheme is None:
        return replace(part, live=replay.of_rows(part)[0])
    return material.labelled(sampled(part, replay, material.scheme, NEGATIVES))


@dataclass(frozen=True)
class Judged:
    """What is judged: all candidates of each request, and how baselines order them, or what they
    would show instead.
    """

    rows: Dataset
    values: Mapping[str, Floats]
    slates: Mapping[str, Slates]


def judged(material: Material, part: Dataset, replay: Replay) -> Judged:
    """Return the rows that are judged. Of logged answers baselines order what was shown; else they
    show lists of their own.
    """
    if material.scheme is None:
        live, values = replay.of_rows(part)
        return Judged(replace(part, live=live), values, {})
    drawn = list(with_candidates(part, replay, material.scheme))
    slates = joined_slates([each.slates for each in drawn])
    rows, order = joined([each.data for each in drawn])
    return Judged(
        material.labelled(rows), {}, {name: each.take(order) for name, each in slates.items()}
    )
