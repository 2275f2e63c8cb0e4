"""Find segments of people to act on, by what contacting all of them is expected to bring.

A group is a value of a column, a quarter of its range, or people with similar vectors. For each it
gives size, mean P(gone) and Σ P(gone)·success·value − cost, by `Contact`. The ranking proves
nothing about retention: only an experiment shows what a contact retains.
"""

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from tailorbird.ranking.churn.declaration import Contact
from tailorbird.ranking.churn.reasons import format_column_value
from tailorbird.ranking.tower import Space
from tailorbird.retrieval.directions import spherical_kmeans
from tailorbird.retrieval.vectors import largest_indexes

Floats = npt.NDArray[np.float64]
SEGMENTS_MAX = 10
SEGMENT_PEOPLE_MIN = 30  # smaller groups are noisy and may identify people
QUARTERS = 4
DIGITS_MAX = 6  # enough to tell two edges apart
# groups by vectors, k-means iterations, and items in a group's name
TASTE_GROUPS = 6
KMEANS_ROUNDS = 25
NAMING_ITEMS = 3


@dataclass(frozen=True)
class Segment:
    """A group of people: size, mean P(gone), its ratio to the overall mean, and expected value."""

    column: str
    range: str
    people: int
    gone: float
    lift: float
    expected: float

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def find_segments(
    column_names: tuple[str, ...],
    columns: Floats,
    probability: Floats,
    contact: Contact,
    taste: Mapping[str, npt.NDArray[np.bool_]] | None = None,
    durations: Collection[str] = (),
) -> list[Segment]:
    """Return the groups with the greatest expected value per person, best first.

    Groups that are expected to cost more than they bring are left out.

    Args:
        column_names: of the columns.
        columns: (n, len(names)): numbers, NaN missing.
        probability: (n,), P(gone).
        taste: groups by what people choose, see `group_by_taste`.
        durations: columns that hold a duration.
    """
    expected_value = probability * contact.success * contact.value - contact.cost
    candidates = []
    groups_by_column = [
        (name, _group_by_value(column, is_duration=name in durations))
        for name, column in zip(column_names, columns.T, strict=True)
    ]
    for name, members_by_text in [*groups_by_column, ("taste", list((taste or {}).items()))]:
        for text, members in members_by_text:
            if members.sum() >= SEGMENT_PEOPLE_MIN and members.sum() < len(probability):
                mean_probability = float(probability[members].mean())
                candidates.append(
                    Segment(
                        name,
                        text,
                        int(members.sum()),
                        mean_probability,
                        mean_probability / float(probability.mean()),
                        float(expected_value[members].sum()),
                    )
                )
    useful_segments = [
        segment for segment in candidates if segment.expected > 0 and segment.lift > 1
    ]
    return sorted(useful_segments, key=lambda segment: -segment.expected / segment.people)[
        :SEGMENTS_MAX
    ]


def group_by_taste(
    space: Space, users: npt.NDArray[np.float32], *, seed: int = 0
) -> dict[str, npt.NDArray[np.bool_]]:
    """Return groups of people with similar vectors, (n,) each, named by their typical items.

    The groups are k-means clusters on directions (`retrieval.directions.spherical_kmeans`), seeded
    as in k-means++.
    """
    unit_vectors = users / np.maximum(np.linalg.norm(users, axis=1, keepdims=True), 1e-12)
    if len(unit_vectors) < TASTE_GROUPS * SEGMENT_PEOPLE_MIN or not len(space.index):
        return {}
    rng = np.random.default_rng(seed)
    initial_centroids = unit_vectors[rng.integers(0, len(unit_vectors), 1)]
    while len(initial_centroids) < TASTE_GROUPS:
        distance = (
            np.maximum(1 - (unit_vectors @ initial_centroids.T).max(axis=1), 0).astype(np.float64)
            + 1e-12
        )
        initial_centroids = np.concatenate(
            [
                initial_centroids,
                unit_vectors[rng.choice(len(unit_vectors), 1, p=distance / distance.sum())],
            ]
        )
    centroids = spherical_kmeans(unit_vectors, initial_centroids, KMEANS_ROUNDS)
    nearest_centroid = np.argmax(unit_vectors @ centroids.T, axis=1)
    affinity = space.vectors.vectors @ centroids.T
    excess_affinity = affinity - affinity.mean(axis=1, keepdims=True)
    groups: dict[str, npt.NDArray[np.bool_]] = {}
    for group in range(TASTE_GROUPS):
        items = sorted(
            space.index.ids[row]
            for row in largest_indexes(excess_affinity[:, group], NAMING_ITEMS).tolist()
        )
        name = f"like those who choose {', '.join(items)}"
        groups[name] = groups.get(name, np.zeros(len(users), bool)) | (
            nearest_centroid == group
        )  # groups with the same name are merged
    return groups


def _group_by_value(
    column: Floats, *, is_duration: bool
) -> list[tuple[str, npt.NDArray[np.bool_]]]:
    """Return the quarters of a column, or its values if they are few, and the missing rows."""
    is_present = ~np.isnan(column)
    groups = [("missing", ~is_present)]
    values = np.unique(column[is_present])
    if len(values) <= QUARTERS:
        return [
            *(
                (text, column == value)
                for text, value in zip(
                    _format_values(values, is_duration=is_duration), values, strict=True
                )
            ),
            *groups,
        ]
    edges = np.unique(np.quantile(column[is_present], np.linspace(0, 1, QUARTERS + 1)))
    texts = _format_values(edges, is_duration=is_duration)
    for index, (low, high) in enumerate(pairwise(edges.tolist())):
        is_last = high == edges[-1]
        groups.append(
            (
                f"{texts[index]} to {texts[index + 1]}",
                (column >= low) & ((column <= high) if is_last else (column < high)),
            )
        )
    return groups


def _format_values(values: Floats, *, is_duration: bool) -> list[str]:
    """Format values with as many digits as it takes to tell them apart."""
    texts: list[str] = []
    for digits in range(DIGITS_MAX):
        texts = [
            format_column_value(value, is_duration=is_duration, digits=digits)
            for value in values.tolist()
        ]
        if len(set(texts)) == len(texts):
            break
    return texts
