"""Resolution of a request's person: anonymous ids by `identify`, users by `merge`.

The worker writes the aliases beside the records of the state, and readers look them up.

    request: user_id 41       → merge of 41 → … → 42    (`events.merges`: the newest of each user)
    request: anonymous_id c7  → identify of c7 → 41 → merge of 41 → … → 42
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from tailorbird.events.contract.envelope import ANONYMOUS_PREFIX
from tailorbird.events.contract.schema import micros
from tailorbird.events.keys import hash64
from tailorbird.events.merges import Merge, resolve_merged_user
from tailorbird.features.request import ReadRequest
from tailorbird.features.state.eviction import SWEPT_KEY, decode_swept_until
from tailorbird.features.state.key_partition import ALL_KEYS, KeyPart
from tailorbird.features.state.state import (
    ANY_MERGES_KEY,
    MERGE_PREFIX,
    POSITION_KEY,
    Alias,
    Position,
    alias_key,
    decode_position,
    merge_key,
    read_alias,
)
from tailorbird.store import Snapshot, Transaction

# Event type, columns of the id and of the user it leads to, and the function of the record's key.
_ALIAS_TYPES = (
    ("identify", "anonymous_id", "user_id", alias_key),
    ("merge", "user_id", "person", merge_key),
)


def read_aliases(table: pa.Table, part: KeyPart = ALL_KEYS) -> dict[bytes, Alias]:
    """Return the newest identify of each anonymous id and the newest merge of each user, by key.

    Whether it counts is for features, not for who someone is.
    """
    aliases: dict[bytes, Alias] = {}
    for type_, id_column, target_column, make_key in _ALIAS_TYPES:
        rows = table.filter(pc.equal(table["type"], type_))
        columns = (
            rows[id_column].to_pylist(),
            micros(rows["ts"]).tolist(),
            rows["p"].to_pylist(),
            rows[target_column].to_pylist(),
        )
        for id_, ts, log_position, user_id in zip(*columns, strict=True):
            if (
                id_ is not None
                and user_id is not None
                and (part.is_complete or part.contains_key(hash64(id_)))
            ):
                _keep_newest(aliases, make_key(id_), Alias(ts, log_position, user_id))
    return aliases


def _keep_newest(aliases: dict[bytes, Alias], key: bytes, alias: Alias) -> None:
    current_alias = aliases.get(key)
    if current_alias is None or (current_alias.ts, current_alias.log_position) < (
        alias.ts,
        alias.log_position,
    ):
        aliases[key] = alias


def newer_alias_records(
    transaction: Transaction, aliases: dict[bytes, Alias]
) -> Sequence[tuple[bytes, bytes]]:
    """Return the records of aliases that the state lacks or has an older version of."""
    records = []
    for key, alias in aliases.items():
        current_alias = read_alias(transaction, key)
        if current_alias is None or (current_alias.ts, current_alias.log_position) < (
            alias.ts,
            alias.log_position,
        ):
            records.append((key, alias.encode()))
    if any(key.startswith(MERGE_PREFIX) for key, _ in records):
        records.append((ANY_MERGES_KEY, b"1"))
    return records


class ResolvedRequest(NamedTuple):
    """A request with its person resolved, and the progress of the state that answers it.

    Attributes:
        positions: the position of each part.
        swept_until: the time up to which idle entities have expired.
        person: whom the request is about; None without any id.
        alias_ts: time of the newest alias that was followed, microseconds.
    """

    positions: list[Position]
    swept_until: int
    person: str | None
    alias_ts: int


def resolve_request(
    parts: Sequence[Snapshot], request: ReadRequest, map_parts: Callable[..., Iterable[Any]] = map
) -> ResolvedRequest:
    """Read the positions of the parts of a state and resolve the person of a request.

    This takes one round trip, except for merged users and identified visitors.

    Args:
        map_parts: applies a function to each part, as `map` does; see `PartitionedSnapshot`.
    """
    user = request.user_id
    visitor = request.anonymous_id
    first_alias_key = (
        b""
        if request.person is not None
        else merge_key(user)
        if user is not None
        else alias_key(visitor)
        if visitor is not None
        else b""
    )
    keys = [
        POSITION_KEY,
        SWEPT_KEY,
        ANY_MERGES_KEY,
        *([first_alias_key] if first_alias_key else []),
    ]
    values_by_part = list(map_parts(lambda part: _get_values(part, keys), parts))
    positions = [decode_position(part_values[0]) for part_values in values_by_part]
    swept_until = max(decode_swept_until(part_values[1]) for part_values in values_by_part)
    has_merges = any(part_values[2] for part_values in values_by_part)
    alias_record = (
        values_by_part[_part_of_key(first_alias_key, len(parts))][3] if first_alias_key else None
    )

    def merge_of(user_id: str) -> Merge | None:
        record = (
            read_alias(parts[_part_of_key(merge_key(user_id), len(parts))], merge_key(user_id))
            if has_merges
            else None
        )
        return None if record is None else Merge(record.ts, record.log_position, record.user_id)

    if request.person is not None or not first_alias_key:
        return ResolvedRequest(positions, swept_until, request.person, 0)
    if user is None:
        if alias_record is None:
            return ResolvedRequest(positions, swept_until, f"{ANONYMOUS_PREFIX}{visitor}", 0)
        identify_alias = Alias.decode(alias_record)
        person, alias_ts = resolve_merged_user(identify_alias.user_id, merge_of)
        return ResolvedRequest(positions, swept_until, person, max(alias_ts, identify_alias.ts))
    return ResolvedRequest(
        positions,
        swept_until,
        *(resolve_merged_user(user, merge_of) if alias_record is not None else (user, 0)),
    )


def _get_values(snapshot: Snapshot, keys: Sequence[bytes]) -> list[bytes | None]:
    concatenated_values, sizes = snapshot.get_many_with_sizes(keys)
    values: list[bytes | None] = []
    start = 0
    for size in sizes:
        values.append(concatenated_values[start : start + size] if size else None)
        start += size
    return values


def _part_of_key(key: bytes, part_count: int) -> int:
    """Return the index of the part that has the record of a key that ends in a hash."""
    return int.from_bytes(key[-8:], "big") % part_count
