"""Who somebody is, beside the records in the state: anonymous ids by `identify`, users by `merge`.
The worker writes it, a reader asks.

request: user_id 41       → merge of 41 → … → 42            events.merges: the newest of each user holds
request: anonymous_id c7  → identify of c7 → 41 → merge of 41 → … → 42
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from tailorbird.events.contract import ANONYMOUS_PREFIX
from tailorbird.events.keys import hash64
from tailorbird.events.merges import Merge, survivor
from tailorbird.events.schema import micros
from tailorbird.features.idle import SWEPT_KEY, swept_of
from tailorbird.features.keypart import WHOLE, KeyPart
from tailorbird.features.request import ReadRequest
from tailorbird.features.state import (
    ANY_MERGES_KEY,
    MERGES,
    POSITION_KEY,
    Alias,
    Position,
    alias_key,
    merge_key,
    position_of,
    read_alias,
)
from tailorbird.store import Snapshot, Transaction

_KINDS = (
    ("identify", "anonymous_id", "user_id", alias_key),
    ("merge", "user_id", "person", merge_key),
)


def aliases_of(table: pa.Table, part: KeyPart = WHOLE) -> dict[bytes, Alias]:
    """By key, the newest identify of each anonymous id of the part and the newest merge of each
    user.

    Whether it counts is for features, not for who someone is.
    """
    found: dict[bytes, Alias] = {}
    for type_, of, who, key in _KINDS:
        rows = table.filter(pc.equal(table["type"], type_))
        columns = (
            rows[of].to_pylist(),
            micros(rows["ts"]).tolist(),
            rows["p"].to_pylist(),
            rows[who].to_pylist(),
        )
        for id_, ts, p, user_id in zip(*columns, strict=True):
            if (
                id_ is not None
                and user_id is not None
                and (part.is_whole or part.has_key(hash64(id_)))
            ):
                _keep(found, key(id_), Alias(ts, p, user_id))
    return found


def _keep(aliases: dict[bytes, Alias], key: bytes, alias: Alias) -> None:
    held = aliases.get(key)
    if held is None or (held.ts, held.p) < (alias.ts, alias.p):
        aliases[key] = alias


def newer(transaction: Transaction, aliases: dict[bytes, Alias]) -> Sequence[tuple[bytes, bytes]]:
    """The records of those that the state does not know, or knows something older of."""
    records = []
    for key, alias in aliases.items():
        held = read_alias(transaction, key)
        if held is None or (held.ts, held.p) < (alias.ts, alias.p):
            records.append((key, alias.encode()))
    if any(key.startswith(MERGES) for key, _ in records):
        records.append((ANY_MERGES_KEY, b"1"))
    return records


class Begun(NamedTuple):
    """What a request asks of a state before anything else.

    Attributes:
        positions: how far each part is.
        swept: up to when idle entities have expired.
        person: whom the request is about; None without any id.
        since: the newest time of what says so, microseconds.
    """

    positions: list[Position]
    swept: int
    person: str | None
    since: int


def begin(
    parts: Sequence[Snapshot], request: ReadRequest, each: Callable[..., Iterable[Any]] = map
) -> Begun:
    """How far the parts of a state are, and who asks: in one round trip, but for users who were
    merged and visitors that are one.

    Args:
        each: how the parts are asked, as in `PartedSnapshot`.
    """
    user, visitor = request.user_id, request.anonymous_id
    named = (
        b""
        if request.person is not None
        else merge_key(user)
        if user is not None
        else alias_key(visitor)
        if visitor is not None
        else b""
    )
    keys = [POSITION_KEY, SWEPT_KEY, ANY_MERGES_KEY, *([named] if named else [])]
    told = list(each(lambda part: _several(part, keys), parts))
    positions, swept = [position_of(one[0]) for one in told], max(swept_of(one[1]) for one in told)
    merged = any(one[2] for one in told)
    alias = told[_owner(named, len(parts))][3] if named else None

    def merge_of(asked: str) -> Merge | None:
        found = (
            read_alias(parts[_owner(merge_key(asked), len(parts))], merge_key(asked))
            if merged
            else None
        )
        return None if found is None else Merge(found.ts, found.p, found.user_id)

    if request.person is not None or not named:
        return Begun(positions, swept, request.person, 0)
    if user is None:
        if alias is None:
            return Begun(positions, swept, f"{ANONYMOUS_PREFIX}{visitor}", 0)
        identified = Alias.decode(alias)
        person, since = survivor(identified.user_id, merge_of)
        return Begun(positions, swept, person, max(since, identified.ts))
    return Begun(positions, swept, *(survivor(user, merge_of) if alias is not None else (user, 0)))


def _several(snapshot: Snapshot, keys: Sequence[bytes]) -> list[bytes | None]:
    joined, sizes = snapshot.get_sized(keys)
    found: list[bytes | None] = []
    start = 0
    for size in sizes:
        found.append(joined[start : start + size] if size else None)
        start += size
    return found


def _owner(key: bytes, parts: int) -> int:
    """The part that has the record of a key that ends in a hash."""
    return int.from_bytes(key[-8:], "big") % parts
