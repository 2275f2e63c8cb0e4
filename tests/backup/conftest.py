"""A small project whose roles ran in this process, and a server of S3's protocol."""

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.network.bucket import BUCKET, s3_server
from tests.support.roles import make_project
from tests.support.shops.backup_shop import collect_events, make_clicks

from tailorbird.config import Project, open_project


@pytest.fixture
def shop(tmp_path: Path) -> Project:
    """A project with the clicks of three people in its lake."""
    project = open_project(make_project(tmp_path / "shop").root)
    collect_events(
        project, [event for user in ("ann", "ben", "cyd") for event in make_clicks(user, 20)]
    )
    return project


@pytest.fixture
def bucket_uri() -> Iterator[str]:
    with s3_server():
        yield f"s3://{BUCKET}/{uuid.uuid4().hex}"
