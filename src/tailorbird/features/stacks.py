"""Steps of one operation finished together: at a request of some hundred rows, calls of NumPy cost
more than what they compute.

    entity's records (keys, lanes) → operands (places, rows), those of a stack side by side → one
    arithmetic a stack → table

What asks of one person reads has one row, whatever the number of items; steps made of nothing else
are stacked by themselves. The arithmetic is `features.finish`'s and element by element the same, so
stacked columns have the bits of single ones.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tailorbird.features import finish
from tailorbird.features.layout import Layout, Spot, Step

Int64s = npt.NDArray[np.int64]
Intps = npt.NDArray[np.intp]
Bools = npt.NDArray[np.bool_]
Float32s = npt.NDArray[np.float32]
Numbers = tuple[float, ...]

# What is the same to the bit as another arithmetic with a unit of 1, and so finished with it.
_AS: dict[str, tuple[str, Numbers]] = {
    "count": ("total", (1.0,)),
    "attribute": ("decayed", (1.0,)),
    "share": ("bare ratio", ()),
}


@dataclass(frozen=True)
class Entries:
    """The reading records of an entity at a request: those of the row i are `readings[place[i]]`,
    or `readings[i]` without a place.

    Where all rows have the same there is one. `known`: which rows have the entity at all;
    `all_known`: whether all have.
    """

    readings: Int64s
    place: Intps | None
    known: Bools
    all_known: bool

    def lane(self, lane: int) -> Int64s:
        column = self.readings[:, lane]
        if self.place is not None:
            column = column[self.place]
        return column if self.all_known else np.where(self.known, column, 0)


class Stacks:
    """The numeric columns of a layout that are made of lanes alone; `rest` has the others, with
    their columns.
    """

    def __init__(self, layout: Layout, one_row: Sequence[bool]) -> None:
        steps = [step for step in layout.steps if step.kind == "numeric"]
        groups: dict[tuple, list[tuple[int, Numbers]]] = {}
        self.rest: list[tuple[int, Step]] = []
        for column, step in enumerate(steps):
            name = finish.arithmetic_name(step)
            if name:
                name, numbers = _AS.get(name, (name, step.numbers if name != "bare ratio" else ()))
                narrow = all(one_row[spot.entity] for spot in step.spots)
                # A sketch's precision chooses a table, so it is one for all.
                groups.setdefault(
                    (narrow, name, len(step.spots), numbers if name == "distinct" else ()), []
                ).append((column, numbers))
            elif step.operation != "derived":
                self.rest.append((column, step))
        self._columns = len(steps)
        self._halves = [
            _Half(steps, {key: some for key, some in groups.items() if key[0] is narrow})
            for narrow in (True, False)
        ]

    def table(self, entries: Sequence[Entries], t: Int64s, rows: int) -> Float32s:
        """The table, shape (columns, rows), with the columns of the stacks."""
        table = np.empty((self._columns, rows), np.float32)
        for half, width in zip(self._halves, (1, rows), strict=True):
            half.fill(table, entries, t, width)
        return table


@dataclass(frozen=True)
class _Stack:
    arithmetic: finish.Arithmetic
    operands: list[slice]
    numbers: list[float | npt.NDArray[np.float64]]
    columns: Intps
    entities: list[int]  # of each step


class _Half:
    """The stacks whose operands have as many rows as one another."""

    def __init__(self, steps: list[Step], groups: dict[tuple, list[tuple[int, Numbers]]]) -> None:
        spots: list[Spot] = []
        self._stacks: list[_Stack] = []
        for (_, name, operands, _), members in groups.items():
            columns = [column for column, _ in members]
            some = [steps[column] for column in columns]
            places = []
            for operand in range(operands):
                places.append(slice(len(spots), len(spots) + len(some)))
                spots += [step.spots[operand] for step in some]
            numbers = [_together(each) for each in zip(*(each for _, each in members), strict=True)]
            entities = [step.spots[0].entity for step in some]
            self._stacks.append(
                _Stack(finish.ARITHMETIC[name], places, numbers, np.array(columns), entities)
            )
        self._operands = len(spots)
        self._gathered: list[
            tuple[int, Intps, Intps]
        ] = []  # entity, its lanes, the places of these among the operands
        for entity in dict.fromkeys(spot.entity for spot in spots):
            places_of = [place for place, spot in enumerate(spots) if spot.entity == entity]
            self._gathered.append(
                (entity, np.array([spots[place].lane for place in places_of]), np.array(places_of))
            )

    def fill(self, table: Float32s, entries: Sequence[Entries], t: Int64s, width: int) -> None:
        if not self._stacks:
            return
        operands = np.empty((self._operands, width), np.int64)
        for entity, lanes, places in self._gathered:
            one = entries[entity]
            taken = one.readings.T[lanes]
            if one.place is not None:
                taken = taken.take(one.place, axis=1)
            operands[places] = taken if one.all_known else np.where(one.known, taken, 0)
        for stack in self._stacks:
            values = stack.arithmetic([operands[some] for some in stack.operands], stack.numbers, t)
            if not all(entries[entity].all_known for entity in stack.entities):
                known = np.stack(
                    [np.broadcast_to(entries[entity].known, width) for entity in stack.entities]
                )
                values = np.where(known, values, np.nan)
            table[stack.columns] = values


def _together(numbers: Numbers) -> float | npt.NDArray[np.float64]:
    """The number of each step, as it is where all have the same."""
    return numbers[0] if len(set(numbers)) == 1 else np.array(numbers)[:, None]


def one_row(layout: Layout, composite_spots: dict[tuple[int, int], Spot]) -> list[bool]:
    """Of each entity whether all rows of a request have the same: no part of its key is the item,
    or found by it.
    """

    def same(entity: int) -> bool:
        fields = layout.entities[entity].entity.fields
        parts = (
            same(composite_spots[entity, part].entity) if "." in name else name != "item"
            for part, name in enumerate(fields)
        )
        return all(parts)

    return [same(entity) for entity in range(len(layout.entities))]
