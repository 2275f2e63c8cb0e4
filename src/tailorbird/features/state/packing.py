"""State records as bytes: batches of arrays of 64-bit lanes, without their zeros.

    check u32         high 8 bits: PACKING_FORMAT; the rest: a sum over the lanes, to detect damage
    groups, lanes     u16 each (u32 from 65,536 lanes in a record on): counts of the following
    top               a bit for each group of 8 lanes: has it any that is not 0?
    group     u8 …    of each such group, a bit for each lane: is it not 0?
    lane      u8 …    of each such lane, a bit for each of its 8 bytes: is it not 0?
    byte      u8 …    those bytes, the lowest of a lane first

A count of 3 takes two bytes, an empty ring none, and a sketch its filled registers. Sequences are
compacted first: a time becomes an age relative to the entity's newest event, a type its number
among the declared ones, and a session becomes 1 where it is that of the previous event (1 is the
hash of no real session). `features.layout.layout` assigns the lanes.
"""

import struct
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from tailorbird.errors import DamageError
from tailorbird.events.keys import hash64
from tailorbird.features.layout.layout import NEWEST_LANE, EntityLayout
from tailorbird.features.state.tiles import FilledLanes

Int64s = npt.NDArray[np.int64]
Intps = npt.NDArray[np.intp]
Octets = npt.NDArray[np.uint8]

PACKING_FORMAT = 2
_CHECK_BITS = 24
_SECTION_COUNT = 5  # header, top, groups, lanes, bytes
_BIT_COUNTS = np.array([np.binary_repr(octet).count("1") for octet in range(256)], np.intp)
_RAW, _TIME, _TYPE, _SESSION = range(4)  # content of a lane; all but the first are in sequences
_SAME_SESSION = 1


class Packing:
    """The encoding of one entity's state records in batches: `pack` and `unpack` are inverse."""

    def __init__(self, layout: EntityLayout) -> None:
        self._name = layout.entity.name
        self.width = width = layout.state_lanes
        self._group_count = -(-width // 8)
        self._top_bytes = -(-self._group_count // 8)
        count_dtype = "<u2" if width < 1 << 16 else "<u4"
        self._header_dtype = np.dtype(
            [("check", "<u4"), ("groups", count_dtype), ("lanes", count_dtype)]
        )
        self._header_struct = struct.Struct("<IHH" if count_dtype == "<u2" else "<III")
        # The seed makes checksums of other records differ.
        self._seed = seed = np.uint64(hash64(f"{layout.entity.name}/{width}"))
        with np.errstate(over="ignore"):
            self._weights = (
                np.arange(1, width + 1).astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) + seed
            ) | np.uint64(1)
        self._lane_contents = np.zeros(width, np.uint8)
        for sequence in layout.sequences:
            for column, kind in ((0, _TIME), (3, _TYPE), (4, _SESSION)):
                self._lane_contents[
                    sequence.lane + column * sequence.length : sequence.lane
                    + (column + 1) * sequence.length
                ] = kind
        types = {name for sequence in layout.sequences for name in sequence.source.types}
        self._types = np.sort(np.array([hash64(type_) for type_ in types], np.uint64))

    def pack(self, states: Int64s, filled_lanes: FilledLanes | None = None) -> list[bytes]:
        """Return the records of states (n, lanes), whose non-zero lanes are `filled_lanes`."""
        if not len(states):
            return []
        if filled_lanes is None:
            filled_lanes = FilledLanes.from_states(states)
        record = filled_lanes.row
        lane = filled_lanes.lane
        values = filled_lanes.value.copy()
        ends = np.searchsorted(record, np.arange(len(states) + 1))
        if len(self._types):
            self._compact(values, lane, states[:, NEWEST_LANE][record])
        octets = values.astype("<i8", copy=False).view(np.uint8)
        lane_bits = np.packbits(octets != 0, bitorder="little")
        group = record * self._group_count + (lane >> 3)
        starts = _run_starts(group)
        group_bits = (
            np.bitwise_or.reduceat(np.left_shift(1, lane & 7).astype(np.uint8), starts)
            if len(starts)
            else lane_bits
        )
        distinct_groups = group[starts]
        top = np.zeros((len(states), 8 * self._top_bytes), np.bool_)
        top[record[starts], lane[starts] >> 3] = True
        group_ends = np.searchsorted(
            distinct_groups, np.arange(len(states) + 1) * self._group_count
        )
        byte_ends = np.append(0, np.cumsum(_BIT_COUNTS[lane_bits]))[ends]
        headers = np.zeros(len(states), self._header_dtype)
        headers["check"] = self._compute_checksums(values, lane, ends)
        headers["groups"] = np.diff(group_ends)
        headers["lanes"] = np.diff(ends)
        header_bytes = np.concatenate(
            [
                headers.view(np.uint8).reshape(len(states), -1),
                np.packbits(top, axis=1, bitorder="little"),
            ],
            axis=1,
        )
        sections = (
            _split_bytes(group_bits, group_ends),
            _split_bytes(lane_bits, ends),
            _split_bytes(octets[octets != 0], byte_ends),
        )
        header_size = header_bytes.shape[1]
        header = header_bytes.tobytes()
        return [
            header[start : start + header_size] + group_octets + lane_octets + value_octets
            for start, group_octets, lane_octets, value_octets in zip(
                range(0, len(header), header_size), *sections, strict=True
            )
        ]

    def unpack(self, concatenated_records: bytes, sizes: Intps) -> FilledLanes:
        """Return the states of concatenated records with the given sizes; a size of 0 is an empty
        state.

        Raises:
            DamageError: a record is cut, damaged or of another format.
        """
        if len(sizes) == 1 and concatenated_records:
            return self._unpack_one(concatenated_records)
        nonempty_records = np.flatnonzero(sizes)
        count = len(sizes)
        if not len(nonempty_records):
            return FilledLanes.empty(count)
        data = np.frombuffer(concatenated_records, np.uint8)
        sizes = sizes[nonempty_records]
        headers = self._unpack_headers(data, sizes)
        section_sizes = self._section_sizes(headers, sizes)
        top, group_bits, lane_bits, octets = _split_sections(data, section_sizes)
        filled_groups = np.flatnonzero(np.unpackbits(top, bitorder="little"))
        record = filled_groups // (8 * self._top_bytes)
        group = filled_groups - record * (8 * self._top_bytes)
        self._raise_if_invalid(
            np.bincount(record, minlength=len(nonempty_records)) != section_sizes[:, 2]
        )
        filled_lane_bits = np.flatnonzero(np.unpackbits(group_bits, bitorder="little"))
        group_index = filled_lane_bits >> 3
        record = record[group_index]
        lane = group[group_index] * 8 + (filled_lane_bits & 7)
        counts = np.bincount(record, minlength=len(nonempty_records))
        self._raise_if_invalid(counts != section_sizes[:, 3])
        self._raise_for_records(record[lane >= self.width], len(nonempty_records))
        ends = np.append(0, np.cumsum(counts))
        self._raise_if_invalid(
            np.diff(np.append(0, np.cumsum(_BIT_COUNTS[lane_bits]))[ends]) != section_sizes[:, 4]
        )
        is_filled_octet = np.unpackbits(lane_bits, bitorder="little").view(np.bool_)
        lane_octets = np.zeros(len(is_filled_octet), np.uint8)
        lane_octets[is_filled_octet] = octets
        values = lane_octets.view("<i8").astype(np.int64, copy=False)
        self._raise_if_invalid(self._compute_checksums(values, lane, ends) != headers["check"])
        if len(self._types):
            starts = ends[:-1].clip(
                max=max(0, len(values) - 1)
            )  # The first lane is the newest ts, if any.
            newest_ts = (
                np.where(lane[starts] == NEWEST_LANE, values[starts], 0)
                if len(values)
                else np.zeros(len(nonempty_records), np.int64)
            )
            self._raise_for_records(
                record[
                    (self._lane_contents[lane] == _TYPE)
                    & ((values < 1) | (values > len(self._types)))
                ],
                len(nonempty_records),
            )
            self._restore(values, lane, newest_ts[record])
        return FilledLanes(count, nonempty_records[record], lane, values)

    def _unpack_one(self, data: bytes) -> FilledLanes:
        """Unpack one record, for a waiting request, with scalar section bounds."""
        body_start = self._header_dtype.itemsize + self._top_bytes
        checksum, group_count, lane_count = (
            self._header_struct.unpack_from(data) if len(data) >= body_start else (0, 0, len(data))
        )
        self._require_valid(
            checksum >> _CHECK_BITS == PACKING_FORMAT or len(data) < body_start, "of another format"
        )
        record_octets = np.frombuffer(data, np.uint8)
        self._require_valid(body_start + group_count + lane_count <= len(data))
        lane_bits = record_octets[body_start + group_count : body_start + group_count + lane_count]
        octets = record_octets[body_start + group_count + lane_count :]
        group = np.unpackbits(
            record_octets[self._header_dtype.itemsize : body_start], bitorder="little"
        ).nonzero()[0]
        filled_lane_bits = np.unpackbits(
            record_octets[body_start : body_start + group_count], bitorder="little"
        ).nonzero()[0]
        is_filled_octet = np.unpackbits(lane_bits, bitorder="little").view(np.bool_)
        self._require_valid(
            len(group) == group_count
            and len(filled_lane_bits) == lane_count
            and np.count_nonzero(is_filled_octet) == len(octets)
        )
        lane = group[filled_lane_bits >> 3] * 8 + (filled_lane_bits & 7)
        self._require_valid(not lane_count or bool(lane[-1] < self.width))  # Lanes are ascending.
        lane_octets = np.zeros(len(is_filled_octet), np.uint8)
        lane_octets[is_filled_octet] = octets
        values = lane_octets.view("<i8").astype(np.int64, copy=False)
        total = int((values.view(np.uint64) * self._weights[lane]).sum() ^ self._seed)
        self._require_valid(total >> 64 - _CHECK_BITS | PACKING_FORMAT << _CHECK_BITS == checksum)
        if len(self._types) and lane_count:
            newest_ts = values[0] if lane[0] == NEWEST_LANE else np.int64(0)
            types = values[self._lane_contents[lane] == _TYPE]
            self._require_valid(
                not len(types) or bool(types.min() >= 1 and types.max() <= len(self._types))
            )
            self._restore(values, lane, np.broadcast_to(newest_ts, lane_count))
        return FilledLanes(1, np.zeros(lane_count, np.intp), lane, values)

    def _compact(self, values: Int64s, lane: Intps, newest_ts: Int64s) -> None:
        """Compact the lanes of sequences, in place; `newest_ts` is that of each value's record."""
        lane_content = self._lane_contents[lane]
        times, types, sessions = (
            np.flatnonzero(lane_content == content) for content in (_TIME, _TYPE, _SESSION)
        )
        # Never 0 where there is an event: none is newer than the newest.
        values[times] = newest_ts[times] - values[times] + 1
        codes = np.searchsorted(self._types, values[types].view(np.uint64)).clip(
            max=len(self._types) - 1
        )
        assert (self._types[codes] == values[types].view(np.uint64)).all(), (
            "a type that no source has"
        )
        values[types] = codes + 1
        later_in_session = sessions[1:][(np.diff(sessions) == 1) & (np.diff(lane[sessions]) == 1)]
        values[later_in_session[values[later_in_session] == values[later_in_session - 1]]] = (
            _SAME_SESSION
        )

    def _restore(self, values: Int64s, lane: Intps, newest_ts: Int64s) -> None:
        lane_content = self._lane_contents[lane]
        times, types, sessions = (
            np.flatnonzero(lane_content == content) for content in (_TIME, _TYPE, _SESSION)
        )
        values[times] = newest_ts[times] - values[times] + 1
        values[types] = self._types[values[types] - 1].view(np.int64)
        run_start = np.where(values[sessions] == _SAME_SESSION, 0, np.arange(len(sessions)))
        values[sessions] = values[sessions][np.maximum.accumulate(run_start)]

    def _unpack_headers(self, data: Octets, sizes: Intps) -> npt.NDArray:
        self._raise_if_invalid(sizes < self._header_dtype.itemsize + self._top_bytes)
        head_bytes = (np.cumsum(sizes) - sizes)[:, None] + np.arange(self._header_dtype.itemsize)
        return data[head_bytes].view(self._header_dtype).ravel()

    def _section_sizes(self, headers: npt.NDArray, sizes: Intps) -> Intps:
        """Return the size of each section of each record, shape (records, 5)."""
        self._raise_if_invalid(
            headers["check"] >> _CHECK_BITS != PACKING_FORMAT, "of another format"
        )
        section_sizes = np.empty((len(sizes), _SECTION_COUNT), np.intp)
        section_sizes[:, 0] = self._header_dtype.itemsize
        section_sizes[:, 1] = self._top_bytes
        section_sizes[:, 2] = headers["groups"]
        section_sizes[:, 3] = headers["lanes"]
        section_sizes[:, 4] = sizes - section_sizes[:, :4].sum(axis=1)
        self._raise_if_invalid(section_sizes[:, 4] < 0)
        return section_sizes

    def _compute_checksums(
        self, values: Int64s, lane: Intps, ends: Intps
    ) -> npt.NDArray[np.uint32]:
        """Return each record's check word; its values are from ends[i] to ends[i + 1]."""
        with np.errstate(over="ignore"):
            sums = np.append(np.uint64(0), np.cumsum(values.view(np.uint64) * self._weights[lane]))
            total = (sums[ends[1:]] - sums[ends[:-1]]) ^ self._seed
        return (total >> np.uint64(64 - _CHECK_BITS)).astype(np.uint32) | np.uint32(
            PACKING_FORMAT << _CHECK_BITS
        )

    def _require_valid(self, is_valid: bool, problem: str = "cut short or damaged") -> None:
        if not is_valid:
            self._raise_if_invalid(np.ones(1, np.bool_), problem)

    def _raise_for_records(self, invalid_records: Intps, count: int) -> None:
        if len(invalid_records):
            self._raise_if_invalid(np.bincount(invalid_records, minlength=count) > 0)

    def _raise_if_invalid(
        self, is_invalid: npt.NDArray[np.bool_], problem: str = "cut short or damaged"
    ) -> None:
        if is_invalid.any():
            message = (
                f"{np.count_nonzero(is_invalid):,} of {len(is_invalid):,} state records of "
                f"{self._name} are {problem}"
            )
            raise DamageError(
                message,
                fix="delete the schema's folder below state/; the worker builds it anew from the "
                "lake",
            )


def _run_starts(group: Intps) -> Intps:
    """Return where each run of equal values begins."""
    if not len(group):
        return np.zeros(0, np.intp)
    return np.flatnonzero(np.append(True, group[1:] != group[:-1]))


def _split_bytes(octets: Octets, ends: Intps) -> list[bytes]:
    data = octets.tobytes()
    bounds = ends.tolist()
    return [data[start:end] for start, end in pairwise(bounds)]


def _split_sections(data: Octets, section_sizes: Intps) -> list[Octets]:
    """Return the bytes of each section except the header, concatenated over all records."""
    if len(section_sizes) == 1:
        bounds = np.cumsum(section_sizes[0]).tolist()
        return [data[start:end] for start, end in pairwise(bounds)]
    section_of_octet = np.repeat(
        np.tile(np.arange(_SECTION_COUNT, dtype=np.uint8), len(section_sizes)),
        section_sizes.ravel(),
    )
    return [data[section_of_octet == section] for section in range(1, _SECTION_COUNT)]
