"""Provide `tests/support/features.py` to the tests, whose modules are imported one by one."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope="session")
def kit() -> ModuleType:
    path = Path(__file__).parents[1] / "support" / "features.py"
    spec = importlib.util.spec_from_file_location("features_kit", path)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules["features_kit"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
