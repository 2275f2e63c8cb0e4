"""Makes the shop of `shop.py` importable by the tests of this package, and its bundle once for all of them."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import shop


@pytest.fixture(scope="session")
def features():
    return shop.feature_set()


@pytest.fixture(scope="session")
def bundle_folder(tmp_path_factory, features):
    return shop.write(tmp_path_factory.mktemp("bundles") / "dear", features)


@pytest.fixture(scope="session")
def bundle(bundle_folder, features):
    from tailorbird.ranking.bundle import Bundle

    return Bundle.load(bundle_folder, schema_hash=features.schema_hash)
