"""`tailorbird models verify` where it can compare little: it reads what it needs of the lake, and
says why nothing was compared.
"""

from pathlib import Path

import pyarrow as pa
import pytest
from deltalake import write_deltalake
from tests.support.commands import assert_refused, must, tailorbird
from tests.support.shops import serving_shop

from tailorbird.config import open_project
from tailorbird.events import SystemClock
from tailorbird.lake.tables import TABLES
from tailorbird.registry import Registry


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project with a version that serves, of which no answer was logged."""
    must("init", tmp_path / "shop")
    registry = Registry(open_project(tmp_path / "shop").paths.registry, clock=SystemClock())
    registry.promote(
        registry.add(
            serving_shop.write_shop_bundle(tmp_path / "bundle", serving_shop.feature_set())
        ),
        by="test",
        why="first",
    )
    return tmp_path / "shop"


def logged(project: Path, count: int, model: str) -> None:
    schema = TABLES["answers"].schema
    row = {
        "producer": "serve-1",
        "model": model,
        "ts": serving_shop.NOW,
        "items": ["i1"],
        "degraded": [],
        "request_id": "r",
    }
    rows = pa.Table.from_pylist([{**row, "offset": n} for n in range(count)], schema)
    write_deltalake(project / "data" / "lake" / "answers", rows)


def test_answers_of_removed_versions_are_not_compared(project: Path) -> None:
    logged(project, 3, "v0007")
    assert_refused(
        tailorbird("-C", project, "models", "verify"),
        "the lake has no answer of a model of this registry",
    )


def test_answers_without_scores_are_named_as_the_reason_for_no_comparison(project: Path) -> None:
    logged(project, 1_300, "v0001")
    result = tailorbird("-C", project, "models", "verify", "--answers", 1_200)
    assert_refused(result, "650 answers do not say what a model made of each item")
