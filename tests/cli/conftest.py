from pathlib import Path

import pytest
from tests.cli.kit import make_shop, must


@pytest.fixture(scope="session")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained shop; tests only read it."""
    return make_shop(tmp_path_factory.mktemp("cli") / "shop")


@pytest.fixture
def fresh(tmp_path: Path) -> Path:
    """A project that nothing has happened to yet."""
    must("init", tmp_path / "fresh")
    return tmp_path / "fresh"
