"""The index of the small shop in `shop.py`, built once."""

import pytest
from tests.support.shops import retrieval_shop

from tailorbird.retrieval import Index, build_index


@pytest.fixture(scope="session")
def index(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shop") / "index"
    build_index(
        folder,
        retrieval_shop.make_events_table(),
        retrieval_shop.make_items_table(),
        as_of=retrieval_shop.AS_OF,
    )
    return Index.open(folder)
