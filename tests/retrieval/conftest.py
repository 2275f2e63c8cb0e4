"""The index of the small shop in `shop.py`, built once."""

import pytest
from tests.retrieval import shop

from tailorbird.retrieval import Index, build_index


@pytest.fixture(scope="session")
def index(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shop") / "index"
    build_index(folder, shop.events(), shop.items(), as_of=shop.AS_OF)
    return Index.open(folder)
