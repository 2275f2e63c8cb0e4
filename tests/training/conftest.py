"""Builders of small routed tables, as fixtures: the tests are imported one by one, not as a
package.
"""

import importlib.util
from pathlib import Path

import pytest

_spec = importlib.util.spec_from_file_location(
    "routed_tables", Path(__file__).parents[1] / "support" / "routed.py"
)
_routed = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_routed)


@pytest.fixture
def routed():
    return _routed
