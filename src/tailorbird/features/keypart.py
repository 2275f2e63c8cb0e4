"""Which entities a worker keeps, where several share them: a part of all keys, by what is left when
a key is divided.

    key % count == number      of a record's key, which is a hash, and of an anonymous id's, which says who it is

Every kind of entity is cut alike, so whoever has a key knows whose it is: the shuffle, the worker,
a reader, and whoever computes an answer's features again. Up to which p each part was read is in
`features.positions`.
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
    """A part of all keys: the one with this number, of so many."""

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
        """ "" of all keys, else such as `part-0-of-3`."""
        return "" if self.is_complete else f"part-{self.number}-of-{self.count}"

    def contains(self, keys: Keys) -> Bools:
        """Which of the keys are in it."""
        return part_numbers(keys, self.count) == self.number

    def contains_key(self, key: int) -> bool:
        return key % self.count == self.number

    def folder(self, state: Path) -> Path:
        """Below which the worker has its states, in the folder of all states."""
        return state / self.name if self.name else state

    def copies(self, schema: str) -> str:
        """Under which name the copies of a schema's state stand in a Valkey."""
        return f"{schema}.{self.name}" if self.name else schema


WHOLE = KeyPart()


def part_numbers(keys: Keys, count: int) -> npt.NDArray[np.intp]:
    """In which of so many parts each key is."""
    return (keys % np.uint64(count)).astype(np.intp)


def parts_of(count: int) -> tuple[KeyPart, ...]:
    """All parts, where there are so many workers."""
    return tuple(KeyPart(number, count) for number in range(count))


def part_folders(state: Path) -> list[Path]:
    """The folders that hold states: that of all of them, and those of parts, whatever their count."""
    return [state, *sorted(path for path in state.glob("part-*-of-*") if path.is_dir())]


def part_name(folder: Path, state: Path) -> str:
    """Of a folder that `part_folders` gave, the name of its part."""
    return "" if folder == state else folder.name
