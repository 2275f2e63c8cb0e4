"""State records as bytes: many at once, without their zeros. A record is an array of 64-bit lanes, of which few are filled.

    check u32         high 8 bits: FORMAT; the rest: a sum over the lanes, so that what is cut or damaged is not misread
    groups, lanes     u16 each (u32 where a record has 65,536 lanes or more): how many there are of what follows
    top               a bit for each group of 8 lanes: has it any that is not 0?
    group     u8 …    of each such group, a bit for each lane: is it not 0?
    lane      u8 …    of each such lane, a bit for each of its 8 bytes: is it not 0?
    byte      u8 …    those bytes, the lowest of a lane first

A count of 3 takes two bytes, an empty ring none, and a sketch its filled registers. Before, the columns of sequences are
made small: times become ages before the entity's newest, types become their number among those declared, and a session
becomes 0 where it is that of the event before. Which lane is what stands in `features.layout`.
"""

import numpy as np
import numpy.typing as npt

from tailorbird.errors import DamageError
from tailorbird.events.keys import hash64
from tailorbird.features.layout import NEWEST, EntityLayout, LastEvents

Int64s = npt.NDArray[np.int64]
UInt64s = npt.NDArray[np.uint64]
Intps = npt.NDArray[np.intp]
Octets = npt.NDArray[np.uint8]

FORMAT = 2
_CHECK_BITS = 24
_SECTIONS = 5  # head, top, groups, lanes, bytes
_BITS = np.array([np.binary_repr(octet).count("1") for octet in range(256)], np.intp)


class Packing:
    """The encoding of one entity's state records: `pack` and `unpack` are each other's inverse, on whole batches."""

    def __init__(self, layout: EntityLayout) -> None:
        self._name = layout.entity.name
        self._width = width = layout.state_lanes
        self._groups = -(-width // 8)
        self._top = -(-self._groups // 8)
        self._head = np.dtype([("check", "<u4"), ("groups", "<u2"), ("lanes", "<u2")])
        if width >= 1 << 16:
            self._head = np.dtype([("check", "<u4"), ("groups", "<u4"), ("lanes", "<u4")])
        self._sequences = [_SequenceColumns(one) for one in layout.sequences]
        # Of lanes of another record the sum is another.
        seed = np.uint64(hash64(f"{layout.entity.name}/{width}"))
        with np.errstate(over="ignore"):
            self._weights = (np.arange(1, width + 1).astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) + seed) | np.uint64(1)
        self._seed = seed

    def pack(self, states: Int64s) -> list[bytes]:
        """The records of states (n, lanes)."""
        count = len(states)
        if not count:
            return []
        lanes = states
        if self._sequences:
            lanes = states.copy()
            for one in self._sequences:
                one.shrink(lanes)
        flat = np.flatnonzero(lanes)
        values = lanes.ravel()[flat]
        octets = values.astype("<i8", copy=False).view(np.uint8).reshape(-1, 8)
        filled = octets != 0
        lane_bits = np.packbits(filled, axis=1, bitorder="little").ravel()
        record, lane = np.divmod(flat, self._width)
        group = record * self._groups + (lane >> 3)
        starts = _starts(group)
        group_bits = np.bitwise_or.reduceat(np.left_shift(1, lane & 7).astype(np.uint8), starts) if len(starts) else np.zeros(0, np.uint8)
        top = np.zeros((count, 8 * self._top), np.bool_)
        top_record, top_group = np.divmod(group[starts], self._groups)
        top[top_record, top_group] = True
        counts = np.zeros((count, 3), np.intp)  # groups, lanes, bytes
        counts[:, 0] = np.bincount(top_record, minlength=count)
        counts[:, 1] = np.bincount(record, minlength=count)
        ends = np.zeros((count + 1, 3), np.intp)
        np.cumsum(counts[:, :2], axis=0, out=ends[1:, :2])
        bytes_before = np.append(0, np.cumsum(_BITS[lane_bits]))
        ends[:, 2] = bytes_before[ends[:, 1]]
        heads = np.zeros(count, self._head)
        heads["check"] = self._check(values, lane, ends[:, 1])
        heads["groups"], heads["lanes"] = counts[:, 0], counts[:, 1]
        first = np.concatenate([heads.view(np.uint8).reshape(count, -1), np.packbits(top, axis=1, bitorder="little")], axis=1)
        width, head = first.shape[1], first.tobytes()
        parts = (group_bits.tobytes(), lane_bits.tobytes(), octets[filled].tobytes())
        (groups, masks, rest), edges = parts, ends.tolist()
        return [
            head[at : at + width] + groups[a[0] : b[0]] + masks[a[1] : b[1]] + rest[a[2] : b[2]]
            for at, a, b in zip(range(0, len(head), width), edges, edges[1:], strict=False)
        ]

    def unpack(self, joined: bytes, sizes: Intps) -> Int64s:
        """The states (n, lanes) of records that lie one after another, each of so many bytes; zeros where one has none.

        Raises:
            DamageError: a record is cut, damaged or of another format.
        """
        states = np.zeros((len(sizes), self._width), np.int64)
        held = np.flatnonzero(sizes)
        if not len(held):
            return states
        data, sizes = np.frombuffer(joined, np.uint8), sizes[held]
        sections = self._section_sizes(data, sizes)
        _, top, group_bits, lane_bits, octets = _cut(data, sections)
        bits = np.unpackbits(top.reshape(-1, self._top), axis=1, bitorder="little")
        in_groups = np.flatnonzero(bits)
        record, group = np.divmod(in_groups, bits.shape[1])
        self._refuse(np.bincount(record, minlength=len(held)) != sections[:, 2])
        in_lanes = np.flatnonzero(np.unpackbits(group_bits, bitorder="little"))
        place, bit = in_lanes >> 3, in_lanes & 7
        record, lane = record[place], group[place] * 8 + bit
        counts = np.bincount(record, minlength=len(held))
        self._refuse(counts != sections[:, 3])
        self._refuse_lanes(record, lane, len(held))
        ends = np.append(0, np.cumsum(counts))
        before = np.append(0, np.cumsum(_BITS[lane_bits]))
        self._refuse(np.diff(before[ends]) != sections[:, 4])
        values = np.zeros((len(lane_bits), 8), np.uint8)
        values[np.unpackbits(lane_bits, bitorder="little").reshape(-1, 8).view(np.bool_)] = octets
        found = values.view("<i8").ravel().astype(np.int64, copy=False)
        self._refuse(self._check(found, lane, ends) != self._heads(data, sizes)["check"])
        states[held[record], lane] = found
        for one in self._sequences:
            one.restore(states)
        return states

    def _section_sizes(self, data: Octets, sizes: Intps) -> Intps:
        """How long each section of each record is, shape (records, 5); they have been looked at."""
        self._refuse(sizes < self._head.itemsize + self._top)
        heads = self._heads(data, sizes)
        self._refuse(heads["check"] >> _CHECK_BITS != FORMAT, "of another format")
        sections = np.empty((len(sizes), _SECTIONS), np.intp)
        sections[:, 0], sections[:, 1] = self._head.itemsize, self._top
        sections[:, 2], sections[:, 3] = heads["groups"], heads["lanes"]
        sections[:, 4] = sizes - sections[:, :4].sum(axis=1)
        self._refuse(sections[:, 4] < 0)
        return sections

    def _heads(self, data: Octets, sizes: Intps) -> npt.NDArray:
        places = (np.cumsum(sizes) - sizes)[:, None] + np.arange(self._head.itemsize)
        return data[places].view(self._head).ravel()

    def _check(self, values: Int64s, lane: Intps, ends: Intps) -> npt.NDArray[np.uint32]:
        """What stands first in each record; its values are those from ends[i] to ends[i + 1]."""
        with np.errstate(over="ignore"):
            sums = np.append(np.uint64(0), np.cumsum(values.view(np.uint64) * self._weights[lane]))
            total = (sums[ends[1:]] - sums[ends[:-1]]) ^ self._seed
        return (total >> np.uint64(64 - _CHECK_BITS)).astype(np.uint32) | np.uint32(FORMAT << _CHECK_BITS)

    def _refuse_lanes(self, record: Intps, lane: Intps, count: int) -> None:
        beyond = np.zeros(count, np.bool_)
        beyond[record[lane >= self._width]] = True
        self._refuse(beyond)

    def _refuse(self, wrong: npt.NDArray[np.bool_], what: str = "cut short or damaged") -> None:
        if wrong.any():
            message = f"{np.count_nonzero(wrong):,} of {len(wrong):,} state records of {self._name} are {what}"
            raise DamageError(message, fix="delete the schema's folder below state/; the worker builds it anew from the lake")


class _SequenceColumns:
    """Makes the lanes of a sequence small, and back. An empty place is one whose ts is 0; its other lanes are 0 too."""

    def __init__(self, spot: LastEvents) -> None:
        self._lane, self._length = spot.lane, spot.length
        self._types = np.array([hash64(one) for one in spot.source.types], np.uint64)
        self._order = np.argsort(self._types)

    def shrink(self, lanes: Int64s) -> None:
        ts, types, sessions = (self._column(lanes, place) for place in (0, 3, 4))
        filled = ts != 0
        # Never 0 where there is an event: no event is newer than the newest.
        np.copyto(ts, np.where(filled, lanes[:, NEWEST, None] - ts + 1, 0))
        found = self._order[np.searchsorted(self._types[self._order], types.view(np.uint64)).clip(max=len(self._types) - 1)]
        assert (self._types[found[filled]] == types.view(np.uint64)[filled]).all(), "a type that the source does not have"
        np.copyto(types, np.where(filled, found + 1, 0))
        sessions[:, 1:] ^= sessions[:, :-1].copy()

    def restore(self, lanes: Int64s) -> None:
        ts, types, sessions = (self._column(lanes, place) for place in (0, 3, 4))
        filled = ts != 0
        np.copyto(ts, np.where(filled, lanes[:, NEWEST, None] - ts + 1, 0))
        np.copyto(types, np.where(filled, self._types[(types - 1).clip(0, len(self._types) - 1)].view(np.int64), 0))
        np.copyto(sessions, np.bitwise_xor.accumulate(sessions, axis=1))

    def _column(self, lanes: Int64s, place: int) -> Int64s:
        start = self._lane + place * self._length
        return lanes[:, start : start + self._length]


def _starts(group: Intps) -> Intps:
    """Where each run of equal values begins."""
    if not len(group):
        return np.zeros(0, np.intp)
    return np.flatnonzero(np.append(True, group[1:] != group[:-1]))


def _cut(data: Octets, sections: Intps) -> list[Octets]:
    """The bytes of each section, of all records one after another."""
    kind = np.repeat(np.tile(np.arange(_SECTIONS, dtype=np.uint8), len(sections)), sections.ravel())
    return [data[kind == one] for one in range(_SECTIONS)]
