"""Logged features held against the lake's events: what agrees, what differs and is named, and what
cannot be compared.
"""

import msgspec
import numpy as np
import pyarrow as pa
import pytest

from tailorbird.cli.features.parity_output import explain_command
from tailorbird.errors import DamageError
from tailorbird.events.clock import HOUR, SECOND
from tailorbird.events.contract.schema import ROUTED
from tailorbird.events.keys import hash64
from tailorbird.features import FeatureSet, attribute, count, entity, sequence, time_since
from tailorbird.features.parity.recompute import compute_parity
from tailorbird.lake.tables import RESPONSES_SCHEMA

START = 1_790_000_000 * SECOND
USER, ITEM = entity("user"), entity("item")
FEATURES = FeatureSet.from_declarations(
    [
        count("clicks", ITEM, "click", window="1h"),
        time_since("since", USER, "click"),
        attribute("category", ITEM, "category", kind="categorical"),
        sequence("recent", USER, "click", length=2),
    ]
)
NOTHING = dict.fromkeys(ROUTED.names)


def click(p, item, ts):
    row = {
        "p": p,
        "event_id": f"e{p}",
        "type": "click",
        "ts": ts,
        "user_id": "u1",
        "person": "u1",
        "item_id": item,
    }
    return NOTHING | row | {"counts": True, "timeless": False}


EVENTS = pa.Table.from_pylist(
    [
        NOTHING
        | {
            "p": 1,
            "event_id": "e1",
            "type": "item",
            "ts": START,
            "item_id": "i1",
            "properties": '{"category":"coats"}',
            "counts": True,
        },
        click(2, "i1", START + 5 * SECOND),
        click(3, "i2", START + 6 * SECOND),
        click(4, "i1", START + 7 * SECOND),  # known only to the second answer
        click(5, "i1", START + 100 * HOUR),
    ],
    schema=ROUTED,
)
FIRST = {
    "request_id": "r1",
    "ts": START + 10 * SECOND,
    "p": 3,
    "commit": 1,
    "schema_hash": FEATURES.schema_hash,
    "person": "u1",
    "items": ["i1", "i2", "i3"],
    "numeric": [1.0, 4.0, 1.0, 4.0, 0.0, 4.0],
    "categorical": [np.uint64(hash64("coats")).view(np.int64).item(), 0, 0],
    "sequences": {
        "recent": [
            [hash64("i1"), hash64("i2")],
            [hash64("click")] * 2,
            [START + 5 * SECOND, START + 6 * SECOND],
        ]
    },
}
SECOND_ONE = FIRST | {
    "request_id": "r2",
    "p": 4,
    "numeric": [2.0, 3.0, 1.0, 3.0, 0.0, 3.0],
    "sequences": {
        "recent": [
            [hash64("i2"), hash64("i1")],
            [hash64("click")] * 2,
            [START + 6 * SECOND, START + 7 * SECOND],
        ]
    },
}


def answers(*rows):
    packed = [
        dict.fromkeys(RESPONSES_SCHEMA.names)
        | row
        | {"sequences": msgspec.msgpack.encode(row["sequences"])}
        for row in rows
    ]
    return pa.Table.from_pylist(packed, schema=RESPONSES_SCHEMA)


def test_responses_that_read_the_routed_events_are_equal():
    report = compute_parity(FEATURES, EVENTS, answers(FIRST, SECOND_ONE))
    assert (report.answers, report.compared, report.unequal) == (2, 2 * (6 + 3 + 1), 0)
    assert report.by_feature == {"clicks": 0, "since": 0, "category": 0, "recent": 0}


def test_an_answer_of_several_parts_is_recomputed_by_the_position_of_each():
    """The item's part had not heard of the last click, the person's had; and how far each was is
    told of what differs.
    """
    item, person = hash64("i1") % 5, hash64("u1") % 5
    assert item != person
    positions = [4] * 5
    positions[item] = 3
    mixed = SECOND_ONE | {"positions": positions, "numeric": [1.0, 3.0, *SECOND_ONE["numeric"][2:]]}
    assert compute_parity(FEATURES, EVENTS, answers(FIRST, mixed)).unequal == 0
    report = compute_parity(FEATURES, EVENTS, answers(mixed | {"positions": None}))
    assert report.by_feature == {"clicks": 1, "since": 0, "category": 0, "recent": 0}
    wrong = compute_parity(
        FEATURES, EVENTS, answers(mixed | {"numeric": SECOND_ONE["numeric"]})
    ).examples[0]
    assert (wrong.logged, wrong.recomputed, wrong.log_positions) == (2.0, 1.0, tuple(positions))
    assert explain_command(wrong).endswith("".join(f" --known {p}" for p in positions))


def test_a_single_bit_is_noticed_and_named():
    wrong = FIRST | {
        "numeric": [1.0, 4.0, 1.0, float(np.nextafter(np.float32(4), np.float32(5))), 0.0, 4.0]
    }
    report = compute_parity(FEATURES, EVENTS, answers(SECOND_ONE, wrong))
    assert (report.unequal, report.by_feature["since"]) == (1, 1)
    (example,) = report.examples
    assert (example.feature, example.request_id, example.item, example.recomputed) == (
        "since",
        "r1",
        "i2",
        4.0,
    )


@pytest.mark.parametrize(
    ("change", "feature"),
    [
        ({"p": 4}, "clicks"),  # it says that it knew more than it read
        ({"categorical": [1, 0, 0]}, "category"),
        ({"sequences": {"recent": [[], [], []]}}, "recent"),
        ({"person": "u2"}, "since"),
    ],
)
def test_every_kind_of_value_is_compared(change, feature):
    assert compute_parity(FEATURES, EVENTS, answers(FIRST | change)).by_feature[feature] > 0


def test_missing_equals_missing():
    without_person = FIRST | {
        "person": None,
        "numeric": [1.0, np.nan, 1.0, np.nan, 0.0, np.nan],
        "sequences": {"recent": [[], [], []]},
    }
    assert compute_parity(FEATURES, EVENTS, answers(without_person)).unequal == 0


def test_answers_of_another_schema_without_features_or_ahead_of_the_lake_are_counted_apart():
    other, degraded, ahead = (
        FIRST | {"schema_hash": "0" * 12},
        FIRST | {"numeric": [], "categorical": []},
        FIRST | {"p": 6},
    )
    report = compute_parity(FEATURES, EVENTS, answers(other, degraded, ahead, FIRST))
    assert (report.answers, report.skipped, report.pending, report.unequal) == (1, 2, 1, 0)


def test_many_answers_are_compared_part_by_part(monkeypatch):
    monkeypatch.setattr("tailorbird.features.parity.recompute.ROWS_MAX", 7)
    wrong = SECOND_ONE | {"numeric": [9.0, 3.0, 1.0, 3.0, 0.0, 3.0]}
    report = compute_parity(FEATURES, EVENTS, answers(*[FIRST, SECOND_ONE, wrong] * 4))
    assert (report.answers, report.unequal, report.by_feature["clicks"]) == (12, 4, 4)


def test_values_of_another_count_than_the_schema_requires_are_damage():
    with pytest.raises(DamageError, match="answer r1: expected 3 items × 2 numeric values, got 5"):
        compute_parity(FEATURES, EVENTS, answers(FIRST | {"numeric": [1.0] * 5}))
