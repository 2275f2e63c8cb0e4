"""One hour of the lake as cells: additive counts by minute, slot, version, arm, device and visitor.

A cell belongs to the minute of the response. What followed the response (impressions, clicks,
purchases, dwell) counts for it, matched as in experiments. Crawlers are left out. A cell holds no
id of a person; items are in it as hashes, for the number of distinct ones.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from tailorbird.events import DAY, MINUTE
from tailorbird.events.clock import ATTRIBUTION
from tailorbird.events.contract.schema import micros
from tailorbird.experiments.outcomes import (
    CLICK,
    COLUMNS,
    IMPRESSION,
    PURCHASE,
    RESPONSE,
    Outcomes,
    encode_values,
    match_outcomes,
)
from tailorbird.lake import Lake
from tailorbird.lake.lake import span
from tailorbird.monitoring.figures.delays import BUCKETS, bucket_of
from tailorbird.monitoring.figures.label_free import Scored

EVENTS = (*COLUMNS, "model", "device", "answer_query", "price", "quantity", "dwell_ms")
RESPONSES = (
    "request_id",
    "assigned_version",
    "failure",
    "latency_us",
    "degraded",
    "click_probabilities",
    "items",
)
KEYS = ("minute", "slot", "version", "arm", "device", "visitor")
SUMS = (
    "requests",
    "errors",
    "not_finite",
    "empty",
    "degraded",
    "seen",
    "clicks",
    "clicked_requests",
    "searches",
    "clicked_searches",
    "conversions",
    "revenue",
    "dwell_s",
    "dwells",
    "predicted_clicks",
    "scored_clicks",
    "items_served",
    "novelty",
)
LATENCY_BUCKETS = 96  # four an octave
LATENCY_FIRST_US = 64.0
SKETCH = 256  # smallest item hashes of a cell; fewer distinct items are counted exactly
RETURNING_DAYS = 7
_FAILURE_KINDS = ("error", "not_finite")

SCHEMA = pa.schema(
    [
        ("minute", pa.int64()),
        *((name, pa.string()) for name in KEYS[1:]),
        *((name, pa.float64()) for name in SUMS),
        ("latency", pa.list_(pa.int32())),
        ("delays", pa.list_(pa.int32())),
        ("items", pa.list_(pa.int64())),
        ("score_codes", pa.list_(pa.int16())),
        ("score_counts", pa.list_(pa.int32())),
        ("counted_at", pa.int64()),
    ]
)

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class SlotRule:
    """How a slot counts: the denominator of its CTR and its attribution window."""

    denominator: str = "impression"
    attribution: int = ATTRIBUTION


class Builder:
    """Makes cells of hours; keeps what one day shares between its hours.

    Args:
        rules: by slot; other slots count by the defaults.
    """

    def __init__(self, lake: Lake, rules: Mapping[str, SlotRule]) -> None:
        self._lake, self._rules = lake, rules
        self._day = -1
        self._known_persons: frozenset[bytes] = frozenset()
        self._popularity: dict[str, float] = {}
        self._popularity_unseen = 0.0

    @property
    def attribution(self) -> int:
        """The longest attribution window of the slots."""
        return max((rule.attribution for rule in self._rules.values()), default=ATTRIBUTION)

    def build(self, start: int, stop: int, counted_at: int) -> pa.Table:
        """Return the cells of the responses in [start, stop), with what followed until now."""
        self._load_day(start // DAY)
        events = self._lake.events(EVENTS, start, min(stop + self.attribution, counted_at))
        is_answer = pc.equal(events["type"], "answer")
        slots = pc.unique(events["slot"].filter(is_answer)).drop_null().to_pylist()
        responses = self._responses(start, stop)
        tables = [
            table
            for slot in sorted(slots)
            if (table := self._slot_cells(events, slot, responses, stop, counted_at)) is not None
        ]
        return pa.concat_tables(tables) if tables else SCHEMA.empty_table()

    def _responses(self, start: int, stop: int) -> pa.Table:
        columns = (*RESPONSES, "ts")
        if not self._lake.exists("answers"):
            return pa.table({name: pa.nulls(0, pa.string()) for name in columns})
        return self._lake.responses(columns, start, stop).combine_chunks()

    def _load_day(self, day: int) -> None:
        if day == self._day:
            return
        self._day = day
        persons: set[bytes] = set()
        for batch in self._lake.batches(
            "events", ["type", "person"], span("day", (day - RETURNING_DAYS) * DAY, day * DAY)
        ):
            rows = batch["person"].filter(pc.equal(batch["type"], "answer"))
            persons.update(_digest(person) for person in pc.unique(rows).drop_null().to_pylist())
        self._known_persons = frozenset(persons)
        before = self._lake.events(("type", "item_id"), (day - 1) * DAY, day * DAY)
        acted = before["item_id"].filter(pc.is_in(before["type"], pa.array(["click", "purchase"])))
        counts = pc.value_counts(acted.drop_null())
        total = len(acted.drop_null()) + len(counts) + 1.0
        self._popularity = {
            item: float(np.log2(total / (count + 1.0)))
            for item, count in zip(
                counts.field("values").to_pylist(), counts.field("counts").to_pylist(), strict=True
            )
        }
        self._popularity_unseen = float(np.log2(total))

    def _slot_cells(
        self, events: pa.Table, slot: str, responses: pa.Table, stop: int, counted_at: int
    ) -> pa.Table | None:
        rule = self._rules.get(slot, SlotRule())
        outcomes = match_outcomes(events, slot, rule.attribution)
        table, ts = outcomes.table, micros(outcomes.table["ts"])
        rows = np.flatnonzero((outcomes.kind == RESPONSE) & (ts < stop))
        if not len(rows):
            return None
        answers = table.take(pa.array(rows))
        record = pc.index_in(answers["request_id"], value_set=responses["request_id"])
        logged = responses.take(record)
        keys = {
            "minute": pa.array(ts[rows] // MINUTE * MINUTE),
            "slot": pa.array([slot] * len(rows)),
            "version": pc.coalesce(
                logged["assigned_version"].cast(pa.string()), answers["model"], ""
            ),
            "arm": pc.fill_null(answers["arm"], ""),
            "device": pc.fill_null(answers["device"], ""),
            "visitor": pa.array(
                [
                    "returning" if _digest(person) in self._known_persons else "new"
                    for person in answers["person"].to_pylist()
                ]
            ),
        }
        cell, table_of_keys = _cells_of(keys)
        count = table_of_keys.num_rows
        row_of = np.full(table.num_rows, -1, np.int64)
        row_of[rows] = np.arange(len(rows))
        measures = {
            **_served(answers, logged),
            **_followed(outcomes, row_of, len(rows), rule, answers),
            **_dwell(events, answers),
            **(scored := _scored(outcomes, row_of, logged)).sums(len(rows)),
        }
        delays = measures.pop("delays")
        score_codes, score_counts = scored.codes_by_cell(cell, count)
        served_items, measures["novelty"] = self._items(answers, cell, count)
        sums = {name: np.bincount(cell, measures[name], count) for name in SUMS}
        latency = logged["latency_us"].cast(pa.float64()).fill_null(0.0).to_numpy()
        has_latency, converted = latency > 0, delays >= 0
        columns = {
            **{name: table_of_keys[name] for name in KEYS},
            **sums,
            "latency": _histograms(
                cell[has_latency], latency_bucket(latency[has_latency]), count, LATENCY_BUCKETS
            ),
            "delays": _histograms(
                cell[converted], bucket_of(delays[converted].astype(np.int64)), count, BUCKETS
            ),
            "items": served_items,
            "score_codes": score_codes,
            "score_counts": score_counts,
            "counted_at": np.full(count, counted_at),
        }
        return pa.table([columns[name] for name in SCHEMA.names], names=SCHEMA.names).cast(SCHEMA)

    def _items(self, responses: pa.Table, cell: Ints, count: int) -> tuple[pa.Array, Floats]:
        """Return the smallest item hashes of each cell, and the novelty of each response."""
        parent = pc.list_parent_indices(responses["items"]).to_numpy()
        code, items = encode_values(pc.list_flatten(responses["items"]))
        hashes = np.array([int.from_bytes(_digest(item)) >> 1 for item in items], np.int64)
        surprise = np.array(
            [self._popularity.get(item, self._popularity_unseen) for item in items], np.float64
        )
        sketches: list[list[int]] = [[] for _ in range(count)]
        if len(code):
            pairs = np.unique(np.stack([cell[parent], hashes[code]], axis=1), axis=0)
            for index, part in zip(*_split_by(pairs[:, 0]), strict=True):
                sketches[index] = pairs[part, 1][:SKETCH].tolist()
        novelty = np.bincount(
            parent, surprise[code] if len(code) else None, minlength=responses.num_rows
        ).astype(np.float64)
        return pa.array(sketches, pa.list_(pa.int64())), novelty


def latency_bucket(latency_us: Floats) -> Ints:
    """Return the bucket of each latency."""
    bucket = np.floor(4.0 * np.log2(np.maximum(latency_us, LATENCY_FIRST_US) / LATENCY_FIRST_US))
    return np.minimum(bucket, LATENCY_BUCKETS - 1).astype(np.int64)


def latency_quantile(counts: Floats, q: float) -> float:
    """Return a quantile in milliseconds, from counts by bucket; NaN without any."""
    if not counts.sum():
        return float("nan")
    below = np.concatenate([[0.0], np.cumsum(counts)])
    position = np.interp(q * below[-1], below, np.arange(LATENCY_BUCKETS + 1))
    return float(LATENCY_FIRST_US * 2.0 ** (position / 4.0) / 1_000)


def _served(responses: pa.Table, logged: pa.Table) -> dict[str, Floats]:
    size = pc.fill_null(pc.list_value_length(responses["items"]), 0).to_numpy().astype(np.float64)
    failure = logged["failure"].cast(pa.string())
    degraded = pc.fill_null(_lengths(logged["degraded"]), 0).to_numpy() > 0
    return {
        "requests": np.ones(len(size)),
        "errors": _as_floats(pc.is_in(failure, pa.array(_FAILURE_KINDS))),
        "not_finite": _as_floats(pc.equal(failure, "not_finite")),
        "empty": (size == 0).astype(np.float64),
        "degraded": degraded.astype(np.float64),
        "items_served": size,
        "searches": _as_floats(pc.is_valid(responses["answer_query"])),
    }


def _followed(
    outcomes: Outcomes, row_of: Ints, count: int, rule: SlotRule, responses: pa.Table
) -> dict[str, Floats]:
    """Return impressions, clicks and purchases of each response, and the delay of the first."""
    kind, response = outcomes.kind[outcomes.row], row_of[outcomes.response]
    is_own = response >= 0
    row, kind, response = outcomes.row[is_own], kind[is_own], response[is_own]
    by_kind = {
        value: np.bincount(response[kind == value], minlength=count).astype(np.float64)
        for value in (IMPRESSION, CLICK, PURCHASE)
    }
    size = pc.fill_null(pc.list_value_length(responses["items"]), 0).to_numpy()
    purchase_rows = row[kind == PURCHASE]
    price = outcomes.table["price"].fill_null(0.0).to_numpy()[purchase_rows]
    quantity = outcomes.table["quantity"].fill_null(1.0).to_numpy()[purchase_rows]
    age = (
        micros(outcomes.table["ts"])[purchase_rows]
        - micros(responses["ts"])[response[kind == PURCHASE]]
    )
    first = np.full(count, np.iinfo(np.int64).max)
    np.minimum.at(first, response[kind == PURCHASE], age)
    converted = by_kind[PURCHASE] > 0
    clicked = by_kind[CLICK] > 0
    is_search = _as_floats(pc.is_valid(responses["answer_query"]))
    return {
        "seen": by_kind[IMPRESSION]
        if rule.denominator == "impression"
        else size.astype(np.float64),
        "clicks": by_kind[CLICK],
        "clicked_requests": clicked.astype(np.float64),
        "clicked_searches": is_search * clicked,
        "conversions": converted.astype(np.float64),
        "revenue": np.bincount(
            response[kind == PURCHASE], price * quantity, minlength=count
        ).astype(np.float64),
        "delays": np.where(converted, first, -1).astype(np.float64),
    }


def _dwell(events: pa.Table, responses: pa.Table) -> dict[str, Floats]:
    """Return the time that people spent on items of each response, and how often it is known."""
    dwell_views = events.filter(
        pc.and_(pc.is_valid(events["dwell_ms"]), pc.is_valid(events["request_id"]))
    )
    response = pc.index_in(dwell_views["request_id"], value_set=responses["request_id"])
    is_own = pc.is_valid(response)
    rows = response.filter(is_own).to_numpy().astype(np.int64)
    seconds = dwell_views["dwell_ms"].filter(is_own).to_numpy() / 1_000
    count = responses.num_rows
    return {
        "dwell_s": np.bincount(rows, seconds, count).astype(np.float64),
        "dwells": np.bincount(rows, minlength=count).astype(np.float64),
    }


def _scored(outcomes: Outcomes, row_of: Ints, logged: pa.Table) -> Scored:
    """Return the seen items that have a click probability; a click proves that it was seen."""
    lists = logged["items"].to_pylist()
    probabilities = logged["click_probabilities"].to_pylist()
    position: list[dict[str, int]] = [
        {item: index for index, item in enumerate(items or ())} if values else {}
        for items, values in zip(lists, probabilities, strict=True)
    ]
    kind, response = outcomes.kind[outcomes.row], row_of[outcomes.response]
    pair_rows = np.flatnonzero(((kind == CLICK) | (kind == IMPRESSION)) & (response >= 0))
    clicked: dict[tuple[int, int], bool] = {}
    for row, item, is_click in zip(
        response[pair_rows].tolist(),
        outcomes.item[pair_rows].tolist(),
        (kind[pair_rows] == CLICK).tolist(),
        strict=True,
    ):
        index = position[row].get(outcomes.items[item])
        if index is not None and index < len(probabilities[row]):
            clicked[row, index] = clicked.get((row, index), False) or is_click
    return Scored(
        np.array([row for row, _ in clicked], np.int64),
        np.array([probabilities[row][index] for row, index in clicked], np.float64),
        np.array(list(clicked.values()), bool),
    )


def _cells_of(keys: dict[str, pa.Array]) -> tuple[Ints, pa.Table]:
    """Return the cell of each row, and the keys of each cell."""
    table = pa.table(keys)
    code = np.zeros(table.num_rows, np.int64)
    for name in KEYS:
        encoded = table[name].combine_chunks().dictionary_encode()
        code = code * len(encoded.dictionary) + encoded.indices.to_numpy()
    _, first, cell = np.unique(code, return_index=True, return_inverse=True)
    return cell.astype(np.int64), table.take(pa.array(first))


def _histograms(cell: Ints, bucket: Ints, count: int, buckets: int) -> pa.Array:
    totals = np.bincount(cell * buckets + bucket, minlength=count * buckets).astype(np.int32)
    offsets = np.arange(count + 1, dtype=np.int32) * buckets
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(totals))


def _split_by(sorted_values: Ints) -> tuple[list[int], list[slice]]:
    values, first = np.unique(sorted_values, return_index=True)
    ends = [*first[1:].tolist(), len(sorted_values)]
    return values.tolist(), [slice(a, b) for a, b in zip(first.tolist(), ends, strict=True)]


def _lengths(column: pa.ChunkedArray) -> pa.ChunkedArray:
    is_list = pa.types.is_list(column.type)
    return (
        pc.list_value_length(column)
        if is_list
        else pa.chunked_array([pa.nulls(len(column), pa.int32())])
    )


def _as_floats(mask: pa.ChunkedArray) -> Floats:
    return pc.fill_null(mask, False).to_numpy().astype(np.float64)


def _digest(text: str) -> bytes:
    return blake2b(text.encode(), digest_size=8).digest()
