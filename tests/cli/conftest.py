import shutil
from pathlib import Path

import pytest
from tests.support.commands import make_shop, must


@pytest.fixture(scope="session")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained shop; tests only read it."""
    return make_shop(tmp_path_factory.mktemp("cli") / "shop")


@pytest.fixture(scope="session")
def untouched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project as `init` makes it, to be copied."""
    folder = tmp_path_factory.mktemp("untouched") / "fresh"
    must("init", folder)
    return folder


@pytest.fixture
def fresh(untouched: Path, tmp_path: Path) -> Path:
    """A project that nothing has happened to yet."""
    return Path(shutil.copytree(untouched, tmp_path / "fresh"))
