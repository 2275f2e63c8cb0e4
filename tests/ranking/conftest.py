"""The index, the candidate tables and the bundle of the sample shop in `world.py`, made once."""

import pytest
from tests.ranking import world


@pytest.fixture(scope="session")
def index(tmp_path_factory):
    return world.make_index(tmp_path_factory.mktemp("shop") / "index")


@pytest.fixture(scope="session")
def tables():
    return world.make_tables()


@pytest.fixture(scope="session")
def bundle_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bundle") / "bundle"
    world.make_bundle(folder)
    return folder
