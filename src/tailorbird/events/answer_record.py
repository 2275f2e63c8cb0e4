"""The response log record: the features, scores and propensities behind one response.

One record is one response. A block of kind "answers" in `answers-<producer>.db` is the MessagePack
of a list of records. The lake turns them into rows of its `answers` table, whose columns are these
fields plus `producer` and `offset`. The response's event goes through the raw log; its columns are
in `events.contract.schema`.
"""

from collections.abc import Sequence

import msgspec


class ResponseRecord(
    msgspec.Struct, frozen=True, kw_only=True, array_like=True, omit_defaults=False
):
    """One response with everything needed to recompute its features and to train on it.

    `ts` is the time of the features and of the response (int64 µs, UTC). `p` is the newest routed
    position over all parts that the state had reached, `commit` the worker's number for it. Lists
    by item are in display order, best first.

    `array_like`, so that names are not repeated in each record. New fields go at the end and need a
    default.
    """

    request_id: str
    ts: int
    p: int
    commit: int
    schema_hash: str
    person: str | None = None
    user_id: str | None = None
    anonymous_id: str | None = None
    session_id: str | None = None
    slot: str = ""
    experiment: str | None = None
    arm: str | None = None
    model: str | None = None
    query: str | None = None
    device: str | None = None
    country: str | None = None
    local_hour: int | None = None
    items: list[str] = msgspec.field(default_factory=list)
    sources: list[str] = msgspec.field(default_factory=list)  # candidate source of each item
    propensities: list[float] = msgspec.field(default_factory=list)
    scores: list[float] = msgspec.field(default_factory=list)
    numeric: list[float] = msgspec.field(default_factory=list)  # row-major, items × numeric columns
    categorical: list[int] = msgspec.field(
        default_factory=list
    )  # row-major, items × categorical columns, uint64
    sequences: bytes = b""  # MessagePack: name → [items, types, times, bits of further values …]
    degraded: list[str] = msgspec.field(default_factory=list)  # names of missing components
    positions: list[int] = msgspec.field(
        default_factory=list
    )  # by part of the state, where several workers keep it: its p
    formula: str | None = (
        # the value formula, such as `1.0*click + 8.0*purchase`; null without a model
        None
    )
    formula_version: str | None = (
        # of one that was set without a new model, such as `f0003`; null where the slot's own held
        None
    )
    assigned_version: str | None = (
        None  # the version that was to answer; another than `model` where it could not
    )
    failure: str | None = None  # why it could not: error, not_finite, breaker_open
    latency_us: int = 0  # from the beginning of the answer to this record
    shadow: str | None = None  # a shadow version, scored but not shown
    shadow_scores: list[float] = msgspec.field(default_factory=list)  # its values of `items`
    candidate_sources: list[str] = msgspec.field(default_factory=list)  # that had candidates
    candidate_counts: list[int] = msgspec.field(
        default_factory=list
    )  # the number of candidates that each contributed first
    values: list[float] = msgspec.field(
        default_factory=list
    )  # of `items`, by the model and the formula, before search and boosts
    candidate_lists: list[str] = msgspec.field(default_factory=list)  # live sources that were read
    candidate_digests: list[int] = msgspec.field(
        default_factory=list
    )  # of each list: a checksum of its items in their order
    candidate_positions: list[int] = msgspec.field(
        default_factory=list
    )  # of each list: the routed position of its tables
    live: list[float] = msgspec.field(
        default_factory=list
    )  # row-major, items × columns that the model reads live
    referrer: str | None = None
    joint_propensities: list[float] = msgspec.field(
        default_factory=list
    )  # of the slate down to each position
    teams: list[str] = msgspec.field(
        default_factory=list
    )  # of an interleaved slate: the arm whose ranking picked each item; "" for neither
    click_probabilities: list[float] = msgspec.field(
        default_factory=list
    )  # of `items`, calibrated; empty if the model predicts no clicks
    shadow_us: int = 0  # that `shadow` took to score `items`
    champion_us: int = 0  # that `model` took to score them again; 0 where that was not timed
    user_vector: list[float] = msgspec.field(
        default_factory=list
    )  # along fixed directions, see `ranking.tower.sketch_vector`; empty without a tower


_ENCODER = msgspec.msgpack.Encoder()
_DECODER = msgspec.msgpack.Decoder(list[ResponseRecord])


def encode_responses(records: Sequence[ResponseRecord]) -> bytes:
    """Encode records as the payload of a block of kind "answers"."""
    return _ENCODER.encode(list(records))


def decode_responses(payload: bytes) -> list[ResponseRecord]:
    """Decode the records of a block of kind "answers".

    Raises msgspec.DecodeError if the payload is not such a block.
    """
    return _DECODER.decode(payload)
