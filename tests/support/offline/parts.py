"""Records of parts of a backfill."""

from pathlib import Path

from tailorbird.features import FeatureSet
from tailorbird.features.state.key_partition import KeyPart
from tailorbird.features.state.state import open_state


def read_records(state: Path, features: FeatureSet, part: KeyPart) -> dict[bytes, bytes]:
    """Return a state's records of entities and anonymous ids; reading records without the commit
    that it was written by.
    """
    store = open_state(state, features, part)
    with store.snapshot() as snapshot:
        record_by_key = {
            key: value for tag in (b"s", b"a", b"u") for key, value in snapshot.scan(tag)
        }
    store.close()
    return record_by_key
