"""The index, the candidate tables and the bundle of the sample shop in `world.py`, made once."""

import pytest
from tests.support.shops import ranking_world


@pytest.fixture(scope="session")
def index(tmp_path_factory):
    return ranking_world.make_index(tmp_path_factory.mktemp("shop") / "index")


@pytest.fixture(scope="session")
def tables():
    return ranking_world.make_tables()


@pytest.fixture(scope="session")
def bundle_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bundle") / "bundle"
    ranking_world.make_bundle(folder)
    return folder
