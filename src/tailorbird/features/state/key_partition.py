"""Partition of keys between the workers that share a state.

    key % count == number      of a record's key, which is a hash, and of an anonymous id's hash

Every kind of entity is partitioned the same way, so the shuffle, the worker, a reader and the
recomputation of a response all agree on the owner of a key. `features.offline.positions` has the p
up to which each part was read.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from tailorbird.errors import UsageError

Keys = npt.NDArray[np.uint64]
Bools = npt.NDArray[np.bool_]

WORKERS_MAX = 64


@dataclass(frozen=True)
class KeyPart:
    """One of `count` parts of all keys."""

    number: int = 0
    count: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.number < self.count <= WORKERS_MAX:
            message = f"there is no part {self.number} of {self.count}"
            raise UsageError(
                message,
                where="--part",
                fix=f"with features.workers = {self.count} they are 0 to {self.count - 1}",
            )

    @property
    def is_complete(self) -> bool:
        return self.count == 1

    @property
    def name(self) -> str:
        """`part-0-of-3`, or "" for all keys."""
        return "" if self.is_complete else f"part-{self.number}-of-{self.count}"

    def contains(self, keys: Keys) -> Bools:
        """Return which of the keys belong to the part."""
        return part_numbers(keys, self.count) == self.number

    def contains_key(self, key: int) -> bool:
        return key % self.count == self.number

    def folder(self, state: Path) -> Path:
        """Return the folder that holds the worker's states, below the folder of all states."""
        return state / self.name if self.name else state

    def copies_name(self, schema: str) -> str:
        """Return the name of the copies of a schema's state in a Valkey."""
        return f"{schema}.{self.name}" if self.name else schema


ALL_KEYS = KeyPart()


def part_numbers(keys: Keys, count: int) -> npt.NDArray[np.intp]:
    """Return the part of each key, of `count` parts."""
    return (keys % np.uint64(count)).astype(np.intp)


def all_parts(count: int) -> tuple[KeyPart, ...]:
    """Return all parts for `count` workers."""
    return tuple(KeyPart(number, count) for number in range(count))


def part_folders(state: Path) -> list[Path]:
    """Return the folders that hold states: the common one, and those of parts, whatever their
    count.
    """
    return [state, *sorted(path for path in state.glob("part-*-of-*") if path.is_dir())]


def part_name(folder: Path, state: Path) -> str:
    """Return the name of the part of a folder from `part_folders`."""
    return "" if folder == state else folder.name
