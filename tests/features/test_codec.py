"""Declarations as plain data: whatever is declared comes back as it was, with its schema; whatever
was tampered with is refused.
"""

import dataclasses
import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.support.drawn.features import declarations

from tailorbird.errors import DamageError, DeclarationError
from tailorbird.events import HOUR
from tailorbird.features import FeatureSet, featureset, similarity
from tailorbird.features.codec import declaration_classes, decode_features, encode_features
from tailorbird.features.declare.declarations import EventFeature, Feature, SessionFeature
from tailorbird.features.transform_steps import Step, TableStep
from tailorbird.features.transforms import (
    clip,
    frequency,
    hashing,
    impute,
    log,
    ranks,
    standardise,
    target,
    transform,
    vectors,
    vocabulary,
)

ABSTRACT = {Feature, EventFeature, SessionFeature}
FEW = settings(
    max_examples=60, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True
)


def back(features: FeatureSet) -> FeatureSet:
    return decode_features(
        encode_features(features), where="features.json", expected_hash=features.schema_hash
    )


def same(one: FeatureSet, other: FeatureSet) -> bool:
    return (one, one.schema_hash, one.columns, one.layout) == (
        other,
        other.schema_hash,
        other.columns,
        other.layout,
    )


@FEW
@given(st.data())
def test_declarations_round_trip(data):
    features = FeatureSet.from_declarations(data.draw(declarations()))
    assert same(back(features), features)
    assert encode_features(back(features)) == encode_features(features)


def test_every_kind_round_trips(kit):
    """Fails when a kind is added to `declare` that the tests' set of every kind, and with it the
    codec, does not cover.
    """
    base_set = kit.every_kind()
    features = FeatureSet.from_declarations(
        [*base_set.features, similarity("near", of="recent", length=3, how="max")]
    )
    covered = {type(one) for one in (*features.features, *features.similarities)}
    missing = (
        {one for one in declaration_classes().values() if issubclass(one, Feature)}
        - ABSTRACT
        - covered
    )
    assert not missing
    assert same(back(features), features)
    assert back(features).similarities == features.similarities
    assert b"similarities" not in encode_features(
        base_set
    )  # what was stored before they came is read as it is


def test_locations_are_stored_without_the_folder_of_a_machine(kit):
    features = kit.every_kind()
    location = back(features).features[0].location
    assert location.startswith("features.py:")
    assert features.features[0].location.endswith(location)


def test_transforms_travel_along_and_are_no_part_of_the_schema(kit):
    steps = [log(), clip(0, quantiles=(0.1, 0.9)), standardise(), ranks(bins=7), impute("median")]
    made = [
        transform("habit", *steps, indicator=True),
        transform("category", impute("constant", "none"), frequency(), name="often"),
        transform("category", target("click", smoothing=3)),
        transform("category", vocabulary(), name="code"),
        transform("plan", hashing(16)),
        transform(
            "category", vectors({"c1": [0.5, 1], "c2": [2, -1]}, trained_until=1_700_000_000)
        ),
    ]
    base_set = kit.every_kind()
    features = FeatureSet.from_declarations(base_set.features, transforms=made)
    steps = {type(step) for one in made for step in one.steps}
    missing = (
        {one for one in declaration_classes().values() if issubclass(one, Step)}
        - {Step, TableStep}
        - steps
    )
    assert not missing
    assert same(back(features), features)
    assert back(features).transforms == features.transforms
    assert features.schema_hash == base_set.schema_hash


def change(data: bytes, path: list, value: object) -> bytes:
    content = json.loads(data)
    at = content
    for step in path[:-1]:
        at = at[step]
    at[path[-1]] = value
    return json.dumps(content).encode()


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (["features", 0, "window", "length"], 120_000_000, "its declarations are schema"),
        (["features", 0, "where", "text"], "__import__('os')", "expected one of abs, sqrt"),
        (["features", 0, "where", "text"], "agent != 'b'", "its declarations are schema"),
        (["features", 0, "where", "text"], "nobody != 'bot'", "nobody is no field"),
        (["features", 0, "where", "names"], [["agent", "number"]], "not what was stored"),
        (["features", 0, "window", "hop"], 1, "is no window"),
        (["features", 0, "types"], "click", "expected a list"),
        (["features", 0, "is"], "Window", "'Window' is no kind of Feature"),
        (["features", 0, "is"], "FeatureSet", "'FeatureSet' is no kind of Feature"),
        (["features", 0, "more"], 1, "a Count has no 'more'"),
        (["features", 0, "name"], 1, "expected str, got int"),
        (["features"], [], "expected 1 to 10,000 declarations, got 0"),
        (["schema_hash"], "0" * 12, "the file says 000000000000"),
        (["format"], 9, "expected an object of format 1"),
    ],
)
def test_what_was_tampered_with_is_refused(kit, path, value, message):
    data = change(encode_features(kit.every_kind()), path, value)
    with pytest.raises(DamageError) as caught:
        decode_features(data, where="features.json")
    assert message in str(caught.value)
    assert str(caught.value).startswith("features.json: ")


def test_another_schema_than_expected_is_refused(kit):
    with pytest.raises(DamageError, match="it is kept as 000000000000"):
        decode_features(
            encode_features(kit.every_kind()), where="features.json", expected_hash="0" * 12
        )


def test_another_session_gap_is_another_schema(kit, monkeypatch):
    before = kit.every_kind().schema_hash
    monkeypatch.setattr(featureset, "SESSION_GAP", HOUR)
    assert kit.every_kind().schema_hash != before


def test_another_engine_is_named(kit):
    data = change(encode_features(kit.every_kind()), ["engine"], 99)
    with pytest.raises(DeclarationError, match="under version 99 of the feature engine"):
        decode_features(data, where="features.json")


@FEW
@given(st.data())
def test_a_changed_byte_is_never_another_schema(kit, data):
    features = kit.every_kind()
    stored = bytearray(encode_features(features))
    location = data.draw(st.integers(0, len(stored) - 1))
    stored[location] = data.draw(st.integers(0, 255))
    try:
        decoded = decode_features(
            bytes(stored), where="features.json", expected_hash=features.schema_hash
        )
    except (DamageError, DeclarationError):
        return
    assert decoded.schema_hash == features.schema_hash


def test_later_fields_are_stored_only_where_they_are_set(kit):
    for one in declaration_classes().values():
        for field in dataclasses.fields(one):
            if "added_later" in field.metadata:
                assert field.default is not dataclasses.MISSING, (
                    f"{one.__name__}.{field.name} has no default"
                )
    assert same(back(kit.every_kind()), kit.every_kind())
