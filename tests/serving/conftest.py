"""The bundle and the candidate tables of the shop in `shop.py`, made once for all tests of this
package.
"""

import pytest
from tests.support.shops import serving_shop


@pytest.fixture(scope="session")
def features():
    return serving_shop.feature_set()


@pytest.fixture(scope="session")
def bundle_folder(tmp_path_factory, features):
    return serving_shop.write_shop_bundle(tmp_path_factory.mktemp("bundles") / "dear", features)


@pytest.fixture(scope="session")
def bundle(bundle_folder, features):
    from tailorbird.ranking.bundle import Bundle

    return Bundle.load(bundle_folder, schema_hash=features.schema_hash)


@pytest.fixture(scope="session")
def live():
    return serving_shop.LiveTables()
