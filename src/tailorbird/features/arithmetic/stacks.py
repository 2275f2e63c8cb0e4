"""Batched arithmetic for steps of one operation.

At a request with some hundred rows, calls of NumPy cost more than what they compute. A lane is one
64-bit number of a record.

    entity's records (keys, lanes) → operands (lanes, rows), those of a stack contiguous → one
    arithmetic per stack → table

What a request reads of one person has one row, whatever the number of items; steps of such lanes
only are stacked separately. The arithmetic is that of `features.arithmetic.finish`, element by
element, so stacked columns have the same bits as single ones.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from tailorbird.features.arithmetic import finish
from tailorbird.features.layout.layout import Layout, RecordLane, Step

Int64s = npt.NDArray[np.int64]
Intps = npt.NDArray[np.intp]
Bools = npt.NDArray[np.bool_]
Float32s = npt.NDArray[np.float32]
Numbers = tuple[float, ...]

# Operations that are bit for bit equal to another arithmetic with a unit of 1.
_EQUIVALENT_ARITHMETIC: dict[str, tuple[str, Numbers]] = {
    "count": ("total", (1.0,)),
    "attribute": ("decayed", (1.0,)),
    "share": ("bare ratio", ()),
}


@dataclass(frozen=True)
class EntityReadings:
    """The reading records of an entity at a request: row i is `readings[row_index[i]]`.

    Without `row_index` it is `readings[i]`, and a single one where all rows are the same.
    `is_present`: which rows have the entity at all; `all_present`: whether all have.
    """

    readings: Int64s
    row_index: Intps | None
    is_present: Bools
    all_present: bool

    def lane(self, lane: int) -> Int64s:
        column = self.readings[:, lane]
        if self.row_index is not None:
            column = column[self.row_index]
        return column if self.all_present else np.where(self.is_present, column, 0)


class _StackKey(NamedTuple):
    """What the steps of a stack have in common."""

    is_one_row: bool
    arithmetic: str
    operand_count: int
    shared_numbers: Numbers


class ColumnStacks:
    """The numeric columns computed from lanes alone; `unstacked_steps` has the others, with their
    columns.
    """

    def __init__(self, layout: Layout, entity_has_one_row: Sequence[bool]) -> None:
        steps = [step for step in layout.steps if step.kind == "numeric"]
        members_by_key: dict[_StackKey, list[tuple[int, Numbers]]] = {}
        self.unstacked_steps: list[tuple[int, Step]] = []
        for column, step in enumerate(steps):
            arithmetic = finish.arithmetic_name(step)
            if arithmetic:
                arithmetic, numbers = _EQUIVALENT_ARITHMETIC.get(
                    arithmetic, (arithmetic, step.numbers if arithmetic != "bare ratio" else ())
                )
                is_one_row = all(
                    entity_has_one_row[record_lane.entity] for record_lane in step.record_lanes
                )
                # A sketch's precision chooses a table, so a stack has a single one.
                key = _StackKey(
                    is_one_row,
                    arithmetic,
                    len(step.record_lanes),
                    numbers if arithmetic == "distinct" else (),
                )
                members_by_key.setdefault(key, []).append((column, numbers))
            elif step.operation != "derived":
                self.unstacked_steps.append((column, step))
        self._column_count = len(steps)
        self._stack_groups = [
            _StackGroup(
                steps,
                {
                    key: members
                    for key, members in members_by_key.items()
                    if key.is_one_row is is_one_row
                },
            )
            for is_one_row in (True, False)
        ]

    def table(self, readings_by_entity: Sequence[EntityReadings], t: Int64s, rows: int) -> Float32s:
        """Return the table, shape (columns, rows), with the columns of the stacks."""
        table = np.empty((self._column_count, rows), np.float32)
        for group, row_count in zip(self._stack_groups, (1, rows), strict=True):
            group.fill(table, readings_by_entity, t, row_count)
        return table


@dataclass(frozen=True)
class _Stack:
    arithmetic: finish.Arithmetic
    operands: list[slice]
    numbers: list[float | npt.NDArray[np.float64]]
    columns: Intps
    entities: list[int]  # of each step


class _StackGroup:
    """The stacks whose operands have the same number of rows."""

    def __init__(
        self, steps: list[Step], members_by_key: dict[_StackKey, list[tuple[int, Numbers]]]
    ) -> None:
        record_lanes: list[RecordLane] = []
        self._stacks: list[_Stack] = []
        for (_, arithmetic, operand_count, _), members in members_by_key.items():
            columns = [column for column, _ in members]
            stack_steps = [steps[column] for column in columns]
            operand_slices = []
            for operand in range(operand_count):
                operand_slices.append(
                    slice(len(record_lanes), len(record_lanes) + len(stack_steps))
                )
                record_lanes += [step.record_lanes[operand] for step in stack_steps]
            numbers = [
                _merge_numbers(operand_numbers)
                for operand_numbers in zip(
                    *(step_numbers for _, step_numbers in members), strict=True
                )
            ]
            entities = [step.record_lanes[0].entity for step in stack_steps]
            self._stacks.append(
                _Stack(
                    finish.ARITHMETIC[arithmetic],
                    operand_slices,
                    numbers,
                    np.array(columns),
                    entities,
                )
            )
        self._operand_count = len(record_lanes)
        self._gather_plan: list[
            tuple[int, Intps, Intps]
        ] = []  # entity, its lanes, their rows among the operands
        for entity in dict.fromkeys(record_lane.entity for record_lane in record_lanes):
            operand_rows = [
                row for row, record_lane in enumerate(record_lanes) if record_lane.entity == entity
            ]
            self._gather_plan.append(
                (
                    entity,
                    np.array([record_lanes[row].lane for row in operand_rows]),
                    np.array(operand_rows),
                )
            )

    def fill(
        self,
        table: Float32s,
        readings_by_entity: Sequence[EntityReadings],
        t: Int64s,
        row_count: int,
    ) -> None:
        if not self._stacks:
            return
        operands = np.empty((self._operand_count, row_count), np.int64)
        for entity, lanes, operand_rows in self._gather_plan:
            entity_readings = readings_by_entity[entity]
            lane_values = entity_readings.readings.T[lanes]
            if entity_readings.row_index is not None:
                lane_values = lane_values.take(entity_readings.row_index, axis=1)
            operands[operand_rows] = (
                lane_values
                if entity_readings.all_present
                else np.where(entity_readings.is_present, lane_values, 0)
            )
        for stack in self._stacks:
            values = stack.arithmetic(
                [operands[operand_slice] for operand_slice in stack.operands], stack.numbers, t
            )
            if not all(readings_by_entity[entity].all_present for entity in stack.entities):
                is_present = np.stack(
                    [
                        np.broadcast_to(readings_by_entity[entity].is_present, row_count)
                        for entity in stack.entities
                    ]
                )
                values = np.where(is_present, values, np.nan)
            table[stack.columns] = values


def _merge_numbers(numbers: Numbers) -> float | npt.NDArray[np.float64]:
    """Return the number of each step, as a scalar where all are equal."""
    return numbers[0] if len(set(numbers)) == 1 else np.array(numbers)[:, None]


def find_one_row_entities(
    layout: Layout, key_part_lanes: dict[tuple[int, int], RecordLane]
) -> list[bool]:
    """Return for each entity whether all rows of a request share it: its key does not depend on the
    item.

    `key_part_lanes` is `FeatureSet.key_part_lanes`.
    """

    def has_one_row(entity: int) -> bool:
        fields = layout.entities[entity].entity.fields
        parts = (
            has_one_row(key_part_lanes[entity, part].entity) if "." in name else name != "item"
            for part, name in enumerate(fields)
        )
        return all(parts)

    return [has_one_row(entity) for entity in range(len(layout.entities))]
