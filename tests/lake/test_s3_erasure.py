"""An erasure leaves nothing of a person in any object of a bucket."""

from pathlib import Path

import pytest
from tests.lake.test_s3_project import copied
from tests.privacy.kit import CANARY, CLOCK, left_of, make_site, states, without_flats

from tailorbird.lake import tails, verify
from tailorbird.privacy import erase

pytestmark = pytest.mark.slow


def test_nothing_is_left_in_a_bucket(tmp_path: Path, bucket, monkeypatch) -> None:
    monkeypatch.setattr(
        tails, "END_BYTES", 2_000
    )  # so that the manifest's and the ledger's ends are closed now and then
    site = make_site(tmp_path, canaries=3, others=24, settings=f'\n[lake]\nurl = "{bucket}"\n')
    assert left_of(copied(bucket, tmp_path / "before"), CANARY)
    before = states(site.project)
    done = erase(site.project, site.users, CLOCK)
    assert done.clean, done.searched.found
    assert done.counts["archive"]["files"] > 0
    assert (
        left_of(
            copied(bucket, tmp_path / "after"),
            CANARY,
            *site.hashes,
            *(one.encode() for one in site.requests),
        )
        == []
    )
    assert left_of(site.root, CANARY) == []
    assert without_flats(states(site.project)) == without_flats(
        before
    )  # their sellers were canaries
    assert verify(bucket).clean
