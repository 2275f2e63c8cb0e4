"""A single snapshot over the states of several workers, which reads each record from its part.

Each part is read as of its own commit, so a request knows an entity up to the p of its part;
`features.offline.positions` has these beside the response. The worker's own records (position,
entity counts) are read from each part separately.
"""

import heapq
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from tailorbird.features.state.key_partition import part_numbers
from tailorbird.store import Snapshot


class PartitionedSnapshot:
    """A `store.Snapshot` over the snapshots of all parts, for keys that end in an entity's hash.

    Args:
        map_parts: applies a function to the parts: `map` in sequence, a pool's `map` concurrently.
    """

    def __init__(
        self, parts: Sequence[Snapshot], map_parts: Callable[..., Iterable[Any]] = map
    ) -> None:
        self._parts = parts
        self._map_parts = map_parts

    @property
    def published_at(self) -> int:
        """Time at which the oldest copy was last known to be current; 0 if there is none."""
        return min((part.published_at for part in self._parts if part.published_at), default=0)

    def get(self, key: bytes) -> bytes | None:
        return self._parts[int.from_bytes(key[-8:], "big") % len(self._parts)].get(key)

    def get_many(self, keys: Sequence[bytes], *, default: bytes) -> bytes:
        """Return the values as `Snapshot` promises, or b"" if a record differs in size from the
        default.
        """
        shares = list(self._share_keys(keys))
        values = np.empty((len(keys), len(default)), np.uint8)
        for (_, indices, part_keys), part_values in zip(
            shares,
            self._map_parts(lambda share: share[0].get_many(share[2], default=default), shares),
            strict=True,
        ):
            if len(part_values) != len(part_keys) * len(default):
                return b""
            values[indices] = np.frombuffer(part_values, np.uint8).reshape(
                len(part_keys), len(default)
            )
        return values.tobytes()

    def get_many_with_sizes(self, keys: Sequence[bytes]) -> tuple[bytes, list[int]]:
        shares = list(self._share_keys(keys))
        values = [b""] * len(keys)
        sizes = [0] * len(keys)
        for (_, indices, _), (concatenated, lengths) in zip(
            shares,
            self._map_parts(lambda share: share[0].get_many_with_sizes(share[2]), shares),
            strict=True,
        ):
            start = 0
            for index, length in zip(indices.tolist(), lengths, strict=True):
                values[index] = concatenated[start : start + length]
                sizes[index] = length
                start += length
        return b"".join(values), sizes

    def scan(self, prefix: bytes, *, after: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        return heapq.merge(*(part.scan(prefix, after=after) for part in self._parts))

    def _share_keys(
        self, keys: Sequence[bytes]
    ) -> Iterator[tuple[Snapshot, npt.NDArray[np.intp], list[bytes]]]:
        """Yield the parts that own some of the keys, with the indices of these and the keys."""
        hashes = np.frombuffer(b"".join([key[-8:] for key in keys]), ">u8").astype(np.uint64)
        part_of_key = part_numbers(hashes, len(self._parts))
        for number, part in enumerate(self._parts):
            indices = np.flatnonzero(part_of_key == number)
            if len(indices):
                yield part, indices, [keys[index] for index in indices.tolist()]
