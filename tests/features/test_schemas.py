"""The applied schema, earlier ones, and their stored declarations."""

import pytest

from tailorbird.errors import DamageError, NotReadyError
from tailorbird.events import SimulatedClock
from tailorbird.features import FeatureSet, count, entity
from tailorbird.features.online.worker import FeatureWorker
from tailorbird.features.schemas import (
    applied_features,
    apply_schema,
    load_declarations,
    prune_states,
    read_applied,
    revert_schema,
    state_folders,
)


def declared(*names: str) -> FeatureSet:
    return FeatureSet.from_declarations(
        [count(name, entity("item"), "click", window="1h") for name in names]
    )


ONE, TWO, THREE = declared("a"), declared("a", "b"), declared("c")


def test_nothing_is_applied_at_first(tmp_path):
    assert read_applied(tmp_path / "state").schema == ""
    assert applied_features(tmp_path / "state") is None


def test_the_applied_schema_is_stored_with_earlier_ones(tmp_path):
    assert apply_schema(tmp_path, ONE, at=1)
    assert not apply_schema(tmp_path, ONE, at=2)
    assert apply_schema(tmp_path, TWO, at=3)
    applied = read_applied(tmp_path)
    assert (applied.schema, applied.applied_at, applied.earlier) == (
        TWO.schema_hash,
        3,
        (ONE.schema_hash,),
    )
    assert applied_features(tmp_path) == TWO
    assert load_declarations(tmp_path, ONE.schema_hash) == ONE


def test_going_back_is_remembered_until_it_is_applied_again(tmp_path):
    for at, features in enumerate((ONE, TWO, THREE)):
        apply_schema(tmp_path, features, at=at)
    assert revert_schema(tmp_path, at=4) == TWO.schema_hash
    assert read_applied(tmp_path).reverted == (THREE.schema_hash,)
    assert revert_schema(tmp_path, at=5) == ONE.schema_hash, "not to the one that was left"
    with pytest.raises(NotReadyError, match="no earlier schema"):
        revert_schema(tmp_path, at=6)
    assert apply_schema(tmp_path, THREE, at=7)
    assert read_applied(tmp_path).reverted == (TWO.schema_hash,)


def test_unused_states_are_removed_but_never_a_locked_or_applied_one(tmp_path):
    for features in (ONE, TWO, THREE):
        apply_schema(tmp_path, features, at=0)
        FeatureWorker(tmp_path / "routed.db", tmp_path, features, clock=SimulatedClock(0)).close()
    with FeatureWorker(tmp_path / "routed.db", tmp_path, ONE, clock=SimulatedClock(0)):
        assert list(prune_states(tmp_path, set())) == [TWO.schema_hash]
    assert state_folders(tmp_path) == sorted([ONE.schema_hash, THREE.schema_hash])
    removed = prune_states(tmp_path, {THREE.schema_hash})
    assert removed[ONE.schema_hash] > 0
    assert state_folders(tmp_path) == [THREE.schema_hash]
    with pytest.raises(NotReadyError, match="are not kept here"):
        load_declarations(tmp_path, ONE.schema_hash)


def test_a_damaged_file_is_named(tmp_path):
    apply_schema(tmp_path, ONE, at=0)
    (tmp_path / "applied.json").write_text("{")
    with pytest.raises(DamageError, match=r"applied\.json: cannot be read"):
        read_applied(tmp_path)
    (tmp_path / ONE.schema_hash / "features.json").write_text("{}")
    with pytest.raises(DamageError, match=r"features\.json: no stored declarations"):
        load_declarations(tmp_path, ONE.schema_hash)
