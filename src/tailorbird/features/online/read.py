"""Online reading: the features of one person and many items from a snapshot of the state.

    hashes → reading records of person, session, items (keys without attributes) → categories of
             the items → the rest → t = max(now, 1 + newest ts of all) → state of those whose
             reading record is out of date → columns

All records of an entity come as one array; only the look-up of bytes is done item by item.
`features.layout.layout` describes the records, `features.arithmetic.finish` the arithmetic.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from tailorbird.errors import NotReadyError
from tailorbird.events.keys import hash64s
from tailorbird.features.featureset import FeatureSet
from tailorbird.features.online.active_read import ActiveRead, Keys, ReadPlan
from tailorbird.features.online.aliases import resolve_request
from tailorbird.features.online.partitioned import PartitionedSnapshot
from tailorbird.features.request import ReadRequest, Rows
from tailorbird.features.state.key_partition import KeyPart, all_parts
from tailorbird.features.state.state import Position, open_state, read_position
from tailorbird.store import CopiedStore, CopyTarget, EmbeddedStore
from tailorbird.store.breaker import FAILURES_MAX, CircuitBreaker
from tailorbird.store.protocol import SnapshotExpiredError

ATTEMPTS_MAX = 5  # of reading copies that are being rewritten


class Reader:
    """Reads the features of a schema from its worker's state. Thread-safe.

    Args:
        state: the folder of all states; the one of this schema is below it.
        copies: a Valkey to read the worker's copies from instead.
        breaker: circuit breaker of the copies' server, shared by all its readers.
        workers: number of workers that share the entities.
    Raises:
        NotReadyError: the state, or a part of it, does not exist yet.
    """

    def __init__(
        self,
        state: Path,
        features: FeatureSet,
        *,
        copies: CopyTarget | None = None,
        breaker: CircuitBreaker | None = None,
        workers: int = 1,
    ) -> None:
        self.features = features
        self._stores: list[CopiedStore | EmbeddedStore] = []
        # Copies of several parts are read concurrently, so that a request takes no more round trips
        # than with one.
        self._pool = (
            ThreadPoolExecutor(2 * workers, "parts") if copies is not None and workers > 1 else None
        )
        breaker = breaker or make_breaker(workers)
        try:
            for part in all_parts(workers):
                if copies is None:
                    self._stores.append(open_state(state, features, part))
                else:
                    self._stores.append(
                        CopiedStore(
                            copies.open(part.copies_name(features.schema_hash), breaker=breaker)
                        )
                    )
        except BaseException:
            self.close()
            raise
        self._plan = ReadPlan(features)

    def read(
        self, request: ReadRequest, items: Sequence[str], *, item_keys: Keys | None = None
    ) -> Rows:
        """Return the features of `items` for the request, all of one commit and one time.

        Args:
            item_keys: hash64 of each item, if the caller has them.
        Raises:
            NotReadyError: the state is still being built.
            SnapshotExpiredError: copies were rewritten repeatedly while they were read.
        """
        return self._read_with_retries(request, hash64s(items) if item_keys is None else item_keys)

    def read_person(self, request: ReadRequest) -> Rows:
        """Return one row with the features of the person, where everything about items is missing.

        Raises as `read`.
        """
        return self._read_with_retries(request, None)

    def _read_with_retries(self, request: ReadRequest, keys: Keys | None) -> Rows:
        for attempt in range(ATTEMPTS_MAX):
            try:
                return self._read(request, keys)
            except SnapshotExpiredError:
                if attempt == ATTEMPTS_MAX - 1:
                    raise
        raise AssertionError

    def _read(self, request: ReadRequest, keys: Keys | None) -> Rows:
        map_parts = map if self._pool is None else self._pool.map
        with ExitStack() as stack:
            parts = list(
                map_parts(stack.enter_context, [store.snapshot() for store in self._stores])
            )
            resolution = resolve_request(parts, request, map_parts)
            if not all(position.is_ready for position in resolution.positions):
                raise NotReadyError(
                    f"the state of schema {self.features.schema_hash} is still being built"
                )
            snapshot = parts[0] if len(parts) == 1 else PartitionedSnapshot(parts, map_parts)
            resolved_request = (
                request
                if resolution.person == request.person
                else replace(request, person=resolution.person)
            )
            rows = ActiveRead(
                self._plan, snapshot, resolved_request, keys, resolution.swept_until
            ).read_rows(resolution.positions, resolution.alias_ts)
            published_at = snapshot.published_at
            return replace(rows, published_at=published_at) if published_at else rows

    def position(self) -> Position:
        """Return the position of the state that the next read would see; the oldest one of several
        parts.
        """
        positions = []
        for store in self._stores:
            with store.snapshot() as snapshot:
                positions.append(read_position(snapshot))
        return min(positions, key=lambda position: (position.is_ready, position.log_position))

    def close(self) -> None:
        if self._pool is not None:
            self._pool.shutdown()
        for store in self._stores:
            store.close()


def make_breaker(workers: int) -> CircuitBreaker:
    """Return a breaker for a server with several parts: one outage is a failure of each of them."""
    return CircuitBreaker(failures_max=FAILURES_MAX * workers)


def read_copy_position(copies: CopyTarget, schema: str, part: KeyPart) -> Position:
    """Return the position of the copy of a state or part. Raises NotReadyError, StorageError."""
    store = CopiedStore(copies.open(part.copies_name(schema)))
    try:
        with store.snapshot() as snapshot:
            return read_position(snapshot)
    finally:
        store.close()
