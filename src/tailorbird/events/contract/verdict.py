"""Verdicts of the contract: a receipt of a body, and accepted, refused and unread events."""

from typing import Annotated, Any

import msgspec

from tailorbird.events.contract.envelope import Event

# client with a write key, browser with a public key; see `Receipt`
COLLECTOR = "collector"
BROWSER = "browser"
BROWSER_IDENTIFY = "browser+identify"


class Origin(msgspec.Struct, frozen=True, array_like=True):
    """The original location of a replayed event: its row in the raw log."""

    partition: str
    offset: int
    row: int


class Receipt(msgspec.Struct, frozen=True, omit_defaults=True):
    """Metadata that the collector stores beside a body in the raw log.

    Attributes:
        received_at: microseconds.
        source: "collector" (a client), "browser" (a public key, which may send neither profiles nor
            `identify`), "browser+identify" (a public key that may send `identify`), "import" (an
            operator's files) or "server" (responses). Only the last two may set server-owned
            fields.
        encoding: "json" (one event or a list) or "ndjson" (one event a line).
        format: the source format of the lines; "" for native events, stored as received.
        origins: for a replay, the original row of each refused row.
    """

    received_at: int
    source: str = COLLECTOR
    encoding: str = "json"
    format: str = ""
    origins: list[Origin] = []


class Accepted(msgspec.Struct, frozen=True):
    """An event that satisfies the contract, with its times resolved."""

    row: int
    event: Event
    ts: int
    ts_original: int | None
    sent_at: int | None
    received_at: int


class Refusal(msgspec.Struct, frozen=True):
    """The reason a row was refused: a stable code, the path in the document and a sentence."""

    row: int
    code: str
    path: str
    message: str
    body: bytes


class UnreadRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A foreign record that its adapter could not read, written in place of an event.

    Only adapters write it.

    Attributes:
        place: its position, from which ids of profiles are made where the record has none.
        record: the complete record.
    """

    format: str
    place: str
    code: Annotated[str, msgspec.Meta(pattern="^[a-z_]{1,40}$")]
    path: str
    message: str
    record: Any
