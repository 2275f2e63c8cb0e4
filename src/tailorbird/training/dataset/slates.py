"""Slates of baselines for past requests."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Slates:
    """Slates of a baseline: request r has item_codes[offsets[r]:offsets[r + 1]], best first."""

    offsets: Ints
    item_codes: Ints

    def take(self, request_indexes: Ints) -> "Slates":
        """Select the slates of some requests, in the given order."""
        sizes = np.diff(self.offsets)[request_indexes]
        offsets = np.concatenate(([0], np.cumsum(sizes))).astype(np.int64)
        return Slates(
            offsets,
            self.item_codes[
                np.arange(offsets[-1])
                + np.repeat(self.offsets[request_indexes] - offsets[:-1], sizes)
            ],
        )


def concat_slates(slate_parts: Sequence[Mapping[str, Slates]]) -> dict[str, Slates]:
    """Concatenate the slates of different requests, in the given order."""
    return (
        {
            name: build_slates(
                [slate for part in slate_parts for slate in _split_slates(part[name])]
            )
            for name in slate_parts[0]
        }
        if slate_parts
        else {}
    )


def build_slates(item_lists: Sequence[Ints]) -> Slates:
    offsets = np.concatenate(([0], np.cumsum([len(items) for items in item_lists]))).astype(
        np.int64
    )
    return Slates(offsets, np.concatenate([np.zeros(0, np.int64), *item_lists]))


def _split_slates(slates: Slates) -> list[Ints]:
    return np.split(slates.item_codes, slates.offsets[1:-1])
