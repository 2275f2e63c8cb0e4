"""Events and receipts of blocks in the routed log and in the logs of the shuffle.

A receipt lists the profile attributes that a block's events store. A block routed before an
attribute was declared lacks it; the lake's versions of profiles have it, see
`features.offline.profile_join`.

    kind "events"      the router's: row i has p = offset + i
    kind "chosen"      the shuffle's: the events of one part among a range of rows, each with its p
    kind "left-out"    rows that the shuffle did not have, or that lack an attribute: read the lake
"""

import msgspec
import pyarrow as pa
import pyarrow.compute as pc

from tailorbird.errors import InputError
from tailorbird.events.contract.schema import number_rows
from tailorbird.features.featureset import FeatureSet
from tailorbird.stream import Address, Block, StoredBlock

SELECTED = "chosen"
LAKE_ONLY = "left-out"


class BlockReceipt(msgspec.Struct, frozen=True):
    """The attributes of users and items that a block's events store; None if not stated."""

    user_attributes: tuple[str, ...] | None = None
    item_attributes: tuple[str, ...] | None = None


_decode_receipt = msgspec.json.Decoder(BlockReceipt).decode


def lacks_attributes(receipt: bytes, features: FeatureSet) -> bool:
    """Return whether a receipt states that events lack an attribute that features need."""
    if not receipt:
        return False
    receipt_attributes = _decode_receipt(receipt)
    needed_attributes = features.event_attributes
    stored_and_needed = (
        (receipt_attributes.user_attributes, needed_attributes["user"]),
        (receipt_attributes.item_attributes, needed_attributes["item"]),
    )
    return any(
        stored_names is not None and not set(needed_names) <= set(stored_names)
        for stored_names, needed_names in stored_and_needed
    )


def is_only_in_lake(block: Block, features: FeatureSet) -> bool:
    """Return whether a block stands for events that have to be read from the lake."""
    return block.kind == LAKE_ONLY or (
        block.kind == "events" and lacks_attributes(block.receipt, features)
    )


def read_block_events(stored_block: StoredBlock, start: int, log: Address) -> pa.Table | None:
    """Return the events of a block from row `start` on, each with its p, or None. Raises
    InputError.
    """
    if stored_block.block.kind not in ("events", SELECTED) or not stored_block.block.payload:
        return None
    try:
        with pa.ipc.open_stream(stored_block.block.payload) as stream:
            table = stream.read_all()
    except (pa.ArrowInvalid, OSError) as error:
        raise InputError(
            f"the block at {stored_block.offset} is no table of events: {error}", where=str(log)
        ) from error
    table = (
        table if stored_block.block.kind == SELECTED else number_rows(table, stored_block.offset)
    )
    return (
        table.filter(pc.greater_equal(table["p"], start)) if stored_block.offset < start else table
    )
