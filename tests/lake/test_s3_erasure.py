"""An erasure leaves nothing of a person in any object of a bucket."""

from pathlib import Path

import pytest
from tests.support.people import (
    CANARY,
    CLOCK,
    find_in_files,
    make_site,
    read_impersonal_states,
    rebuild_impersonal_states,
)
from tests.support.shops.bucket_shop import copy_bucket

from tailorbird.lake import verify
from tailorbird.lake.files import append_only
from tailorbird.privacy import erase

pytestmark = pytest.mark.slow


def test_nothing_is_left_in_a_bucket(tmp_path: Path, bucket, monkeypatch) -> None:
    monkeypatch.setattr(
        append_only, "TAIL_BYTES_MAX", 2_000
    )  # so that the manifest's and the ledger's ends are closed now and then
    site = make_site(tmp_path, canaries=3, others=24, settings=f'\n[lake]\nurl = "{bucket}"\n')
    assert find_in_files(copy_bucket(bucket, tmp_path / "before"), CANARY)
    done = erase(site.project, site.users, CLOCK)
    assert done.is_clean, done.searched.matches
    assert done.counts["archive"]["files"] > 0
    assert (
        find_in_files(
            copy_bucket(bucket, tmp_path / "after"),
            CANARY,
            *site.hashes,
            *(one.encode() for one in site.requests),
        )
        == []
    )
    assert find_in_files(site.root, CANARY) == []
    assert read_impersonal_states(site.project) == rebuild_impersonal_states(site.project)
    assert verify(bucket).is_clean
