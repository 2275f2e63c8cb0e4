"""Segments of people to act on: groups that a marketer can name, by what contacting all of them is
expected to bring.

A group is a value of a column, a quarter of its range, or people whose vectors lie together. Of
each: how many people, how likely they leave, and Σ P(gone)·success·value − cost, by `Contact`. It
ranks groups and proves nothing: only an experiment says what a contact keeps.
"""

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from tailorbird.ranking.churn import Contact
from tailorbird.ranking.churn_reasons import told_value
from tailorbird.ranking.tower import Space
from tailorbird.retrieval.directions import centres
from tailorbird.retrieval.vectors import largest

Floats = npt.NDArray[np.float64]
SEGMENTS_MAX = 10
LEAST_PEOPLE = 30  # fewer say little, and may say who they are
QUARTERS = 4
DIGITS_MAX = 6  # more than are usual, to tell two edges apart
TASTES, ROUNDS, NAMED = (
    6,
    25,
    3,
)  # groups by vectors, how often their centres move at most, and items that name one


@dataclass(frozen=True)
class Segment:
    """A group of people: how many, the mean P(gone), its ratio to everybody's, and what contacting
    all of them is expected to bring.
    """

    column: str
    range: str
    people: int
    gone: float
    lift: float
    expected: float

    def plain(self) -> dict[str, Any]:
        return asdict(self)


def segments(
    names: tuple[str, ...],
    columns: Floats,
    gone: Floats,
    contact: Contact,
    taste: Mapping[str, npt.NDArray[np.bool_]] | None = None,
    seconds: Collection[str] = (),
) -> list[Segment]:
    """The groups from which contacting a person brings most, best first; none that is expected to
    cost more than it brings.

    Args:
        names: of the columns.
        columns: (n, len(names)): numbers, NaN missing.
        gone: (n,): P(gone).
        taste: groups by what people choose, see `tastes`.
        seconds: columns that hold a span of time.
    """
    worth = gone * contact.success * contact.value - contact.cost
    found = []
    groups = [
        (name, _groups(column, seconds=name in seconds))
        for name, column in zip(names, columns.T, strict=True)
    ]
    for name, each in [*groups, ("taste", list((taste or {}).items()))]:
        for text, members in each:
            if members.sum() >= LEAST_PEOPLE and members.sum() < len(gone):
                mean = float(gone[members].mean())
                found.append(
                    Segment(
                        name,
                        text,
                        int(members.sum()),
                        mean,
                        mean / float(gone.mean()),
                        float(worth[members].sum()),
                    )
                )
    useful = [segment for segment in found if segment.expected > 0 and segment.lift > 1]
    return sorted(useful, key=lambda segment: -segment.expected / segment.people)[:SEGMENTS_MAX]


def tastes(
    space: Space, users: npt.NDArray[np.float32], *, seed: int = 0
) -> dict[str, npt.NDArray[np.bool_]]:
    """Groups of people whose vectors lie together, (n,) each, named by the items that each is
    nearer to than the others are.

    k-means on directions (`retrieval.directions.centres`), from centres drawn one after the other,
    the likelier the farther they are from those before.
    """
    units = users / np.maximum(np.linalg.norm(users, axis=1, keepdims=True), 1e-12)
    if len(units) < TASTES * LEAST_PEOPLE or not len(space.index):
        return {}
    rng = np.random.default_rng(seed)
    drawn = units[rng.integers(0, len(units), 1)]
    while len(drawn) < TASTES:
        far = np.maximum(1 - (units @ drawn.T).max(axis=1), 0).astype(np.float64) + 1e-12
        drawn = np.concatenate([drawn, units[rng.choice(len(units), 1, p=far / far.sum())]])
    at = centres(units, drawn, ROUNDS)
    nearest = np.argmax(units @ at.T, axis=1)
    liked = space.vectors.vectors @ at.T
    beyond = liked - liked.mean(axis=1, keepdims=True)
    found: dict[str, npt.NDArray[np.bool_]] = {}
    for group in range(TASTES):
        items = sorted(space.index.ids[row] for row in largest(beyond[:, group], NAMED).tolist())
        name = f"like those who choose {', '.join(items)}"
        found[name] = found.get(name, np.zeros(len(users), bool)) | (
            nearest == group
        )  # what cannot be told apart by name is one
    return found


def _groups(column: Floats, *, seconds: bool) -> list[tuple[str, npt.NDArray[np.bool_]]]:
    """Quarters of a column, or its values where there are few; those without a value are a group of
    their own.
    """
    there = ~np.isnan(column)
    groups = [("missing", ~there)]
    values = np.unique(column[there])
    if len(values) <= QUARTERS:
        return [
            *(
                (text, column == value)
                for text, value in zip(_told(values, seconds=seconds), values, strict=True)
            ),
            *groups,
        ]
    edges = np.unique(np.quantile(column[there], np.linspace(0, 1, QUARTERS + 1)))
    told = _told(edges, seconds=seconds)
    for place, (low, high) in enumerate(pairwise(edges.tolist())):
        last = high == edges[-1]
        groups.append(
            (
                f"{told[place]} to {told[place + 1]}",
                (column >= low) & ((column <= high) if last else (column < high)),
            )
        )
    return groups


def _told(values: Floats, *, seconds: bool) -> list[str]:
    """Different values in words, with as many digits as it takes to tell them apart."""
    told: list[str] = []
    for digits in range(DIGITS_MAX):
        told = [told_value(value, seconds=seconds, digits=digits) for value in values.tolist()]
        if len(set(told)) == len(told):
            break
    return told
