"""Makes the small shop of `shop.py` importable, and builds its index once."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import shop

from tailorbird.retrieval import Index, build_index


@pytest.fixture(scope="session")
def index(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shop") / "index"
    build_index(folder, shop.events(), shop.items(), as_of=shop.AS_OF)
    return Index.open(folder)
