"""Who anonymous ids are, as the worker learns it from `identify` events: kept in the state beside the records."""

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc

from tailorbird.events.keys import hash64
from tailorbird.events.schema import micros
from tailorbird.features.keypart import WHOLE, KeyPart
from tailorbird.features.state import Alias, alias_key, read_alias
from tailorbird.store import Transaction


def aliases_of(table: pa.Table, part: KeyPart = WHOLE) -> dict[str, Alias]:
    """The newest identify of each anonymous id of the part. Whether it counts is for features, not for who someone is."""
    found: dict[str, Alias] = {}
    rows = table.filter(pc.equal(table["type"], "identify"))
    columns = (rows["anonymous_id"].to_pylist(), micros(rows["ts"]).tolist(), rows["p"].to_pylist(), rows["user_id"].to_pylist())
    for anonymous_id, ts, p, user_id in zip(*columns, strict=True):
        if anonymous_id is not None and user_id is not None and (part.is_whole or part.has_key(hash64(anonymous_id))):
            _keep(found, anonymous_id, Alias(ts, p, user_id))
    return found


def _keep(aliases: dict[str, Alias], anonymous_id: str, alias: Alias) -> None:
    held = aliases.get(anonymous_id)
    if held is None or (held.ts, held.p) < (alias.ts, alias.p):
        aliases[anonymous_id] = alias


def newer(transaction: Transaction, aliases: dict[str, Alias]) -> Sequence[tuple[bytes, bytes]]:
    """The records of those that the state does not know, or knows something older of."""
    records = []
    for anonymous_id, alias in aliases.items():
        held = read_alias(transaction, anonymous_id)
        if held is None or (held.ts, held.p) < (alias.ts, alias.p):
            records.append((alias_key(anonymous_id), alias.encode()))
    return records
