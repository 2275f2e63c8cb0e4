"""With a lake in a bucket, commands, training and backfill work as on a disk."""

from pathlib import Path

import pytest
from tests.support.commands import assert_refused, must, must_json, tailorbird
from tests.support.network.bucket import SECRET
from tests.support.shops.bucket_shop import copy_bucket

from tailorbird.config import open_project
from tailorbird.events import SystemClock
from tailorbird.lake import Lake
from tailorbird.training.dataset.rows import load_training_data
from tailorbird.training.settings import TrainSettings

pytestmark = pytest.mark.slow


@pytest.fixture
def empty(tmp_path: Path, bucket) -> Path:
    """A project whose lake is in a bucket."""
    folder = tmp_path / "shop"
    must("init", folder)
    settings = (folder / "tailorbird.toml").read_text()
    (folder / "tailorbird.toml").write_text(f'{settings}\n[lake]\nurl = "{bucket}"\n')
    return folder


@pytest.fixture
def shop(empty: Path) -> Path:
    """A project with six days of history in a bucket."""
    folder = empty
    must(
        "-C",
        folder,
        "simulate",
        "--days",
        6,
        "--users",
        150,
        "--items",
        60,
        "--out",
        folder / "history.jsonl",
    )
    must("-C", folder, "import", "tailorbird", folder / "history.jsonl")
    return folder


def test_a_project_with_its_lake_in_a_bucket(shop: Path, bucket, tmp_path: Path) -> None:
    project = open_project(shop)
    assert not (shop / "data" / "lake").exists()
    assert must_json("-C", shop, "lake", "verify")["faults"] == []
    rows = must_json("-C", shop, "sql", "SELECT count(*) AS n FROM events")
    assert rows["rows"][0]["n"] == Lake(bucket).count("events") > 1_000
    must_json("-C", shop, "train", "--quick")
    shown = must("-C", shop, "config", "show") + tailorbird("-C", shop, "doctor").stdout
    assert str(bucket) in shown
    assert SECRET not in shown

    local = Lake(copy_bucket(bucket, tmp_path / "copy"))
    now, slot = SystemClock().now(), project.slot()
    expected = TrainSettings(quick=True).row_settings(now)
    assert (
        load_training_data(Lake(bucket), project.features, slot, expected).dataset.digest()
        == load_training_data(local, project.features, slot, expected).dataset.digest()
    )


def test_a_bucket_that_does_not_answer_is_named(empty: Path, bucket) -> None:
    done = tailorbird(
        "-C", empty, "sql", "SELECT 1", env={"AWS_ENDPOINT_URL": "http://127.0.0.1:9"}
    )
    assert_refused(done, str(bucket), "AWS_ENDPOINT_URL")
    assert SECRET not in done.stderr
