"""One hour of the lake as cells: additive counts by minute, slot, version, arm, device and visitor.

A cell belongs to the minute of the response. What followed the response (impressions, clicks,
purchases, dwell) counts for it, matched as in experiments. Crawlers are left out. A cell holds no
id of a person; items are in it as hashes, for the number of distinct ones.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import blake2b
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from tailorbird.events import DAY, MINUTE
from tailorbird.events.clock import ATTRIBUTION_WINDOW
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
from tailorbird.lake.lake import time_filter
from tailorbird.monitoring.figures.delays import BUCKETS, delay_buckets
from tailorbird.monitoring.figures.label_free import ScoredImpressions

EVENT_COLUMNS = (*COLUMNS, "model", "device", "answer_query", "price", "quantity", "dwell_ms")
RESPONSE_COLUMNS = (
    "request_id",
    "assigned_version",
    "failure",
    "latency_us",
    "degraded",
    "click_probabilities",
    "items",
)
KEY_COLUMNS = ("minute", "slot", "version", "arm", "device", "visitor")
SUM_COLUMNS = (
    "requests",
    "errors",
    "not_finite",  # responses with a score that was no finite number
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
    "dwells",  # events whose dwell is known
    "predicted_clicks",  # sum of click probabilities of the seen items that have one
    "scored_clicks",  # clicks on these items
    "items_served",
    "novelty",  # sum of −log2 of each served item's share of yesterday's clicks, purchases
)
LATENCY_BUCKETS = 96  # four an octave
LATENCY_FIRST_US = 64.0
SKETCH_SIZE = 256  # smallest item hashes of a cell; fewer distinct items are counted exactly
RETURNING_DAYS = 7
_FAILURE_KINDS = ("error", "not_finite")

CELL_SCHEMA = pa.schema(
    [
        ("minute", pa.int64()),
        *((name, pa.string()) for name in KEY_COLUMNS[1:]),
        *((name, pa.float64()) for name in SUM_COLUMNS),
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
    attribution: int = ATTRIBUTION_WINDOW


class CellBuilder:
    """Makes cells of hours; keeps what one day shares between its hours.

    Args:
        rules: by slot; other slots count by the defaults.
    """

    def __init__(self, lake: Lake, rules: Mapping[str, SlotRule]) -> None:
        self._lake = lake
        self._rules = rules
        self._day = -1
        self._known_persons: frozenset[bytes] = frozenset()
        self._surprise_by_item: dict[str, float] = {}
        self._unseen_surprise = 0.0

    @property
    def attribution(self) -> int:
        """The longest attribution window of the slots."""
        return max((rule.attribution for rule in self._rules.values()), default=ATTRIBUTION_WINDOW)

    def build(self, start: int, stop: int, counted_at: int) -> pa.Table:
        """Return the cells of the responses in [start, stop), with what followed until now."""
        self._load_day(start // DAY)
        events = self._lake.events(EVENT_COLUMNS, start, min(stop + self.attribution, counted_at))
        is_answer = pc.equal(events["type"], "answer")
        slots = pc.unique(events["slot"].filter(is_answer)).drop_null().to_pylist()
        responses = self._responses(start, stop)
        tables = [
            table
            for slot in sorted(slots)
            if (table := self._slot_cells(events, slot, responses, stop, counted_at)) is not None
        ]
        return pa.concat_tables(tables) if tables else CELL_SCHEMA.empty_table()

    def _responses(self, start: int, stop: int) -> pa.Table:
        columns = (*RESPONSE_COLUMNS, "ts")
        if not self._lake.exists("answers"):
            return pa.table({name: pa.nulls(0, pa.string()) for name in columns})
        return self._lake.responses(columns, start, stop).combine_chunks()

    def _load_day(self, day: int) -> None:
        if day == self._day:
            return
        self._day = day
        persons: set[bytes] = set()
        for batch in self._lake.batches(
            "events",
            ["type", "person"],
            time_filter("day", (day - RETURNING_DAYS) * DAY, day * DAY),
        ):
            answer_persons = batch["person"].filter(pc.equal(batch["type"], "answer")).unique()
            persons.update(_hash_text(person) for person in answer_persons.drop_null().to_pylist())
        self._known_persons = frozenset(persons)
        yesterday_events = self._lake.events(("type", "item_id"), (day - 1) * DAY, day * DAY)
        is_action = pc.is_in(yesterday_events["type"], pa.array(["click", "purchase"]))
        acted_items = yesterday_events["item_id"].filter(is_action)
        counts = pc.value_counts(acted_items.drop_null())
        total = len(acted_items.drop_null()) + len(counts) + 1.0
        self._surprise_by_item = {
            item: float(np.log2(total / (count + 1.0)))
            for item, count in zip(
                counts.field("values").to_pylist(), counts.field("counts").to_pylist(), strict=True
            )
        }
        self._unseen_surprise = float(np.log2(total))

    def _slot_cells(
        self, events: pa.Table, slot: str, responses: pa.Table, stop: int, counted_at: int
    ) -> pa.Table | None:
        rule = self._rules.get(slot, SlotRule())
        outcomes = match_outcomes(events, slot, rule.attribution)
        table = outcomes.table
        ts = micros(outcomes.table["ts"])
        answer_rows = np.flatnonzero((outcomes.kind == RESPONSE) & (ts < stop))
        if not len(answer_rows):
            return None
        answers = table.take(pa.array(answer_rows))
        record_index = pc.index_in(answers["request_id"], value_set=responses["request_id"])
        records = responses.take(record_index)
        assigned_version = records["assigned_version"].cast(pa.string())
        key_columns = {
            "minute": pa.array(ts[answer_rows] // MINUTE * MINUTE),
            "slot": pa.array([slot] * len(answer_rows)),
            "version": pc.coalesce(assigned_version, answers["model"], ""),
            "arm": pc.fill_null(answers["arm"], ""),
            "device": pc.fill_null(answers["device"], ""),
            "visitor": pa.array(
                [
                    "returning" if _hash_text(person) in self._known_persons else "new"
                    for person in answers["person"].to_pylist()
                ]
            ),
        }
        cell_ids, table_of_keys = _assign_cells(key_columns)
        cell_count = table_of_keys.num_rows
        answer_of_row = np.full(table.num_rows, -1, np.int64)
        answer_of_row[answer_rows] = np.arange(len(answer_rows))
        scored_impressions = _find_scored(outcomes, answer_of_row, records)
        measures = {
            **_service_sums(answers, records),
            **_outcome_sums(outcomes, answer_of_row, rule, answers),
            **_dwell_sums(events, answers),
            **scored_impressions.click_sums(len(answer_rows)),
        }
        delays = measures.pop("delays")
        score_codes, score_counts = scored_impressions.codes_by_cell(cell_ids, cell_count)
        served_items, measures["novelty"] = self._item_sketches(answers, cell_ids, cell_count)
        sums = {name: np.bincount(cell_ids, measures[name], cell_count) for name in SUM_COLUMNS}
        latency = records["latency_us"].cast(pa.float64()).fill_null(0.0).to_numpy()
        has_latency = latency > 0
        has_conversion = delays >= 0
        latency_buckets = latency_bucket(latency[has_latency])
        known_delays = delays[has_conversion].astype(np.int64)
        columns = {
            **{name: table_of_keys[name] for name in KEY_COLUMNS},
            **sums,
            "latency": _histograms(
                cell_ids[has_latency], latency_buckets, cell_count, LATENCY_BUCKETS
            ),
            "delays": _histograms(
                cell_ids[has_conversion], delay_buckets(known_delays), cell_count, BUCKETS
            ),
            "items": served_items,
            "score_codes": score_codes,
            "score_counts": score_counts,
            "counted_at": np.full(cell_count, counted_at),
        }
        ordered_columns = [columns[name] for name in CELL_SCHEMA.names]
        return pa.table(ordered_columns, names=CELL_SCHEMA.names).cast(CELL_SCHEMA)

    def _item_sketches(
        self, responses: pa.Table, cell_ids: Ints, cell_count: int
    ) -> tuple[pa.Array, Floats]:
        """Return the smallest item hashes of each cell, and the novelty of each response."""
        response_of_item = pc.list_parent_indices(responses["items"]).to_numpy()
        item_codes, items = encode_values(pc.list_flatten(responses["items"]))
        hashes = np.array([int.from_bytes(_hash_text(item)) >> 1 for item in items], np.int64)
        surprise = np.array(
            [self._surprise_by_item.get(item, self._unseen_surprise) for item in items], np.float64
        )
        sketches: list[list[int]] = [[] for _ in range(cell_count)]
        if len(item_codes):
            pair_columns = (cell_ids[response_of_item], hashes[item_codes])
            pairs = np.unique(np.stack(pair_columns, axis=1), axis=0)  # (pairs, 2)
            for index, pair_slice in zip(*_split_runs(pairs[:, 0]), strict=True):
                sketches[index] = pairs[pair_slice, 1][:SKETCH_SIZE].tolist()
        item_surprise = surprise[item_codes] if len(item_codes) else None
        novelty = np.bincount(response_of_item, item_surprise, responses.num_rows).astype(
            np.float64
        )
        return pa.array(sketches, pa.list_(pa.int64())), novelty


def latency_bucket(latency_us: Floats) -> Ints:
    """Return the bucket of each latency."""
    bucket = np.floor(4.0 * np.log2(np.maximum(latency_us, LATENCY_FIRST_US) / LATENCY_FIRST_US))
    return np.minimum(bucket, LATENCY_BUCKETS - 1).astype(np.int64)


def latency_quantile(counts: Floats, q: float) -> float:
    """Return a quantile in milliseconds, from counts by bucket; NaN without any."""
    if not counts.sum():
        return float("nan")
    cumulative = np.concatenate([[0.0], np.cumsum(counts)])
    position = np.interp(q * cumulative[-1], cumulative, np.arange(LATENCY_BUCKETS + 1))
    return float(LATENCY_FIRST_US * 2.0 ** (position / 4.0) / 1_000)


def _service_sums(responses: pa.Table, records: pa.Table) -> dict[str, Floats]:
    slate_size = (
        pc.fill_null(pc.list_value_length(responses["items"]), 0).to_numpy().astype(np.float64)
    )
    failure = records["failure"].cast(pa.string())
    degraded = pc.fill_null(_lengths(records["degraded"]), 0).to_numpy() > 0
    return {
        "requests": np.ones(len(slate_size)),
        "errors": _as_floats(pc.is_in(failure, pa.array(_FAILURE_KINDS))),
        "not_finite": _as_floats(pc.equal(failure, "not_finite")),
        "empty": (slate_size == 0).astype(np.float64),
        "degraded": degraded.astype(np.float64),
        "items_served": slate_size,
        "searches": _as_floats(pc.is_valid(responses["answer_query"])),
    }


def _outcome_sums(
    outcomes: Outcomes, answer_of_row: Ints, rule: SlotRule, responses: pa.Table
) -> dict[str, Floats]:
    """Return impressions, clicks and purchases of each response, and the delay of the first."""
    response_count = responses.num_rows
    kind = outcomes.kind[outcomes.event_row]
    response_index = answer_of_row[outcomes.response_row]
    is_of_response = response_index >= 0
    event_row = outcomes.event_row[is_of_response]
    kind = kind[is_of_response]
    response_index = response_index[is_of_response]
    counts_by_kind = {
        code: np.bincount(response_index[kind == code], minlength=response_count).astype(np.float64)
        for code in (IMPRESSION, CLICK, PURCHASE)
    }
    slate_size = pc.fill_null(pc.list_value_length(responses["items"]), 0).to_numpy()
    is_purchase = kind == PURCHASE
    purchase_rows = event_row[is_purchase]
    purchase_responses = response_index[is_purchase]
    price = outcomes.table["price"].fill_null(0.0).to_numpy()[purchase_rows]
    quantity = outcomes.table["quantity"].fill_null(1.0).to_numpy()[purchase_rows]
    purchase_ts = micros(outcomes.table["ts"])[purchase_rows]
    delay = purchase_ts - micros(responses["ts"])[purchase_responses]
    first_delay = np.full(response_count, np.iinfo(np.int64).max)
    np.minimum.at(first_delay, purchase_responses, delay)
    has_conversion = counts_by_kind[PURCHASE] > 0
    has_click = counts_by_kind[CLICK] > 0
    is_search = _as_floats(pc.is_valid(responses["answer_query"]))
    return {
        "seen": counts_by_kind[IMPRESSION]
        if rule.denominator == "impression"
        else slate_size.astype(np.float64),
        "clicks": counts_by_kind[CLICK],
        "clicked_requests": has_click.astype(np.float64),
        "clicked_searches": is_search * has_click,
        "conversions": has_conversion.astype(np.float64),
        "revenue": np.bincount(purchase_responses, price * quantity, response_count).astype(float),
        "delays": np.where(has_conversion, first_delay, -1).astype(np.float64),
    }


def _dwell_sums(events: pa.Table, responses: pa.Table) -> dict[str, Floats]:
    """Return the time that people spent on items of each response, and how often it is known."""
    dwell_views = events.filter(
        pc.and_(pc.is_valid(events["dwell_ms"]), pc.is_valid(events["request_id"]))
    )
    response_index = pc.index_in(dwell_views["request_id"], value_set=responses["request_id"])
    is_of_response = pc.is_valid(response_index)
    response_rows = response_index.filter(is_of_response).to_numpy().astype(np.int64)
    seconds = dwell_views["dwell_ms"].filter(is_of_response).to_numpy() / 1_000
    count = responses.num_rows
    return {
        "dwell_s": np.bincount(response_rows, seconds, count).astype(np.float64),
        "dwells": np.bincount(response_rows, minlength=count).astype(np.float64),
    }


def _find_scored(outcomes: Outcomes, answer_of_row: Ints, records: pa.Table) -> ScoredImpressions:
    """Return the seen items that have a click probability; a click proves that it was seen."""
    item_lists = records["items"].to_pylist()
    probabilities = records["click_probabilities"].to_pylist()
    index_by_item: list[dict[str, int]] = [
        {item: index for index, item in enumerate(items or ())} if values else {}
        for items, values in zip(item_lists, probabilities, strict=True)
    ]
    kind = outcomes.kind[outcomes.event_row]
    response_index = answer_of_row[outcomes.response_row]
    pair_rows = np.flatnonzero(((kind == CLICK) | (kind == IMPRESSION)) & (response_index >= 0))
    is_clicked_by_pair: dict[tuple[int, int], bool] = {}
    for row, item, is_click in zip(
        response_index[pair_rows].tolist(),
        outcomes.item[pair_rows].tolist(),
        (kind[pair_rows] == CLICK).tolist(),
        strict=True,
    ):
        index = index_by_item[row].get(outcomes.items[item])
        if index is not None and index < len(probabilities[row]):
            is_clicked_by_pair[row, index] = is_clicked_by_pair.get((row, index), False) or is_click
    return ScoredImpressions(
        np.array([row for row, _ in is_clicked_by_pair], np.int64),
        np.array([probabilities[row][index] for row, index in is_clicked_by_pair], np.float64),
        np.array(list(is_clicked_by_pair.values()), bool),
    )


def _assign_cells(keys: dict[str, pa.Array]) -> tuple[Ints, pa.Table]:
    """Return the cell of each row, and the keys of each cell."""
    table = pa.table(keys)
    key_code = np.zeros(table.num_rows, np.int64)
    for name in KEY_COLUMNS:
        encoded = table[name].combine_chunks().dictionary_encode()
        key_code = key_code * len(encoded.dictionary) + encoded.indices.to_numpy()
    _, first_rows, cell_ids = np.unique(key_code, return_index=True, return_inverse=True)
    return cell_ids.astype(np.int64), table.take(pa.array(first_rows))


def _histograms(cell_ids: Ints, buckets: Ints, cell_count: int, bucket_count: int) -> pa.Array:
    codes = cell_ids * bucket_count + buckets
    totals = np.bincount(codes, minlength=cell_count * bucket_count).astype(np.int32)
    offsets = np.arange(cell_count + 1, dtype=np.int32) * bucket_count
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(totals))


def _split_runs(sorted_values: Ints) -> tuple[list[int], list[slice]]:
    values, first_indexes = np.unique(sorted_values, return_index=True)
    bounds = [*first_indexes.tolist(), len(sorted_values)]
    return values.tolist(), [slice(start, stop) for start, stop in pairwise(bounds)]


def _lengths(column: pa.ChunkedArray) -> pa.ChunkedArray:
    is_list = pa.types.is_list(column.type)
    return (
        pc.list_value_length(column)
        if is_list
        else pa.chunked_array([pa.nulls(len(column), pa.int32())])
    )


def _as_floats(mask: pa.ChunkedArray) -> Floats:
    return pc.fill_null(mask, False).to_numpy().astype(np.float64)


def _hash_text(text: str) -> bytes:
    return blake2b(text.encode(), digest_size=8).digest()
