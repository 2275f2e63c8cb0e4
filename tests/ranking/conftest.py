"""Makes the sample shop of `world.py` importable by the tests of this package."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import world


@pytest.fixture(scope="session")
def index(tmp_path_factory):
    return world.make_index(tmp_path_factory.mktemp("shop") / "index")


@pytest.fixture(scope="session")
def bundle_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bundle") / "bundle"
    world.make_bundle(folder)
    return folder
