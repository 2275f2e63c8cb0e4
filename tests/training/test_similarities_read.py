"""A declared similarity is one value however it is read: of the sequence of stream or backfill, and by reference.

The table is the newest that was trained until the row's time, of several.
"""

import math

import numpy as np
import pyarrow as pa
from tests.features.drawn_events import ITEMS, START, Step
from tests.features.three_readings import differences, stream

from tailorbird.events import HOUR, MINUTE, ROUTED
from tailorbird.features import FeatureSet, ReadRequest, entity, reference_learned, sequence, similarity
from tailorbird.features.backfill import backfill
from tailorbird.features.sampled import requests_of
from tailorbird.ranking.encoders import fit_encoder
from tailorbird.training.coding import Codes
from tailorbird.training.dataset import Dataset
from tailorbird.training.indexes import build_series, no_items
from tailorbird.training.matrix import Featured, columns_of, encoded

USER = entity("user")
FEATURES = FeatureSet.from_declarations(
    [
        sequence("recent", USER, ["click", "purchase"], length=6),
        sequence("bought", USER, "purchase", length=4),
        similarity("near", of="recent", length=5, decay=0.7),
        similarity("near_bought", of="bought", length=4, how="max"),
    ]
)
NAMES = [one.name for one in FEATURES.similarities]
PEOPLE = ("u1", "u2", "u3")


def script(seed: int) -> list[Step]:
    """Ten batches over four hours, some events late, each followed by a request of somebody."""
    rng = np.random.default_rng(seed)
    steps = []
    for step in range(10):
        events = []
        for number in range(12):
            ts = START + int((step + rng.random()) * 24 * MINUTE) - int(rng.random() < 0.2) * HOUR
            person, kind = PEOPLE[rng.integers(3)], ("click", "purchase", "view")[rng.integers(3)]
            row = dict.fromkeys(ROUTED.names) | {"event_id": f"e{step}-{number}", "type": kind, "ts": ts, "received_at": ts}
            row |= {"counts": True, "timeless": False, "agent": "person", "raw_partition": "d1", "raw_offset": 0, "raw_row": 0}
            events.append(row | {"user_id": person, "person": person, "item_id": f"i{rng.integers(1, 6)}"})
        who = (*PEOPLE, "u9")[rng.integers(4)]
        steps.append(Step(events, False, ReadRequest(person=who, now=START + (step + 1) * 24 * MINUTE)))
    return steps


def as_dataset(asked) -> Dataset:
    """The requests as a training set has them, a row for each item."""
    items, n = Codes(pa.array(ITEMS)), len(asked)
    rows = n * len(ITEMS)
    t, p = (np.array([getattr(one.rows, name) for one in asked], np.int64) for name in ("t", "p"))
    return Dataset(
        t, p, np.zeros(n, np.int64), pa.table({}), np.arange(n + 1) * len(ITEMS), np.tile(np.arange(len(ITEMS)), n),
        np.ones(rows, np.int32), np.ones(rows), {}, np.ones(rows), Codes(pa.array(PEOPLE)), items,
    )  # fmt: skip


def plain_tables(series) -> dict[int, dict[str, dict[str, float]]]:
    tables = {}
    for moment, index in zip(series.moments.tolist(), series.indexes, strict=True):
        table = index.item_item
        ends = zip(table.indptr[:-1].tolist(), table.indptr[1:].tolist(), strict=True)
        tables[moment] = {
            of: {index.ids[table.items[at]]: float(table.weights[at]) for at in range(start, end)}
            for of, (start, end) in zip(index.ids, ends, strict=True)
        }
    return tables


def items_of(sequence) -> list[str | None]:
    from tailorbird.events import hash64

    known = {hash64(f"i{number}"): f"i{number}" for number in range(1, 6)}
    return [known.get(key) for key in sequence.item.tolist()]


def bits(values) -> list[int]:
    return [0x7FC00000 if math.isnan(value) else int(np.float32(value).view(np.uint32)) for value in values]


def test_offline_online_and_reference_are_the_same_bits_by_the_newest_table_that_is_allowed(tmp_path):
    used, found = set(), []
    for seed in range(4):
        events, asked = stream(tmp_path / str(seed), FEATURES, script(seed))
        assert differences(FEATURES, events, asked) == []  # what similarities are made of is the same, as it is logged
        series = build_series(events, no_items(), [START - HOUR, START + HOUR, START + 2 * HOUR, START + 3 * HOUR])
        tables = plain_tables(series)
        encoder = fit_encoder(
            columns_of(FEATURES), np.zeros((0, 0), np.uint64), computed=("popularity",), similarities=FEATURES.similarities
        )
        rows = backfill(FEATURES, events, requests_of(asked))
        data = as_dataset(asked)
        offline = encoded(Featured(data, rows), encoder, series)
        for number, one in enumerate(asked):
            place = int(series.place_of(np.array([one.rows.t]))[0])
            online = encoder.encode_request(one.rows, data.items.keys, series.indexes[place])
            here = offline[number * len(ITEMS) : (number + 1) * len(ITEMS)]
            for declared in FEATURES.similarities:
                recent = items_of(rows.sequences[declared.of].of(number))
                plain = [reference_learned.similarity(declared, recent, item, one.rows.t, tables) for item in ITEMS]
                at = encoder.names.index(declared.name)
                assert bits(online[:, at]) == bits(here[:, at]) == bits(plain)
                found += plain
            used.add(place)
    assert used == {0, 1, 2, 3}
    assert sum(value > 0 for value in found) > 50  # else nothing would have been compared
    assert any(math.isnan(value) for value in found)
