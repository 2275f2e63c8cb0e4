"""Deep verify reports archived rows that differ from the tables, even if all checksums match."""

from pathlib import Path

import msgspec
import pytest
from tests.faults.chaos.site import CLOCK, Site, make_site, submit

from tailorbird.lake import deep_verify, verify
from tailorbird.lake.files.archive import Archive
from tailorbird.platform.runtime.roles import InProcessRoles


@pytest.fixture
def site(tmp_path: Path) -> Site:
    made = make_site(tmp_path / "site", 5)
    for first in (0, 6):  # two files of the archive
        with made.collector() as collector:
            for number in range(first, first + 6):
                submit(collector, 5, number)
            collector.submit(b'[{"event_id": "n1", "type": "nonsense"}, {"broken": ')
            collector.submit(b'{"event_id": "n2", "type": "nonsense", "user_id": "u1"}')
        with InProcessRoles(made.project, CLOCK) as roles:
            roles.drain()
    return made


def change_one(site: Site, old: bytes, new: bytes) -> None:
    """Write the archive anew, with checksums, but with another text in its last body that holds
    this one.
    """
    archive = Archive(site.project.paths.lake / "archive", clock=CLOCK, for_writing=True)
    holding = [
        (file.file, stored.offset)
        for file in archive.files
        for stored in archive.read(file)
        if old in stored.block.payload
    ]

    def change(file, stored):
        if (file.file, stored.offset) != holding[-1]:
            return None
        return msgspec.structs.replace(stored.block, payload=stored.block.payload.replace(old, new))

    assert archive.rewrite(change) == 1


@pytest.mark.parametrize("piece", [1, deep_verify.GROUP_ROWS])
@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'"t5-10-0"', b'"t5-10-X"'),
        (b'"event_id": "n2"', b'"event_id": "n3"'),
        (b'"broken": ', b'"BROKEN": '),
    ],
)
def test_a_row_with_other_content_is_reported(
    site: Site, monkeypatch: pytest.MonkeyPatch, old: bytes, new: bytes, piece: int
) -> None:
    monkeypatch.setattr(deep_verify, "GROUP_ROWS", piece)
    lake = site.project.paths.lake
    report = verify(lake, deep=True)
    account = report.partitions["serve-1"]
    assert report.is_clean, str(report)
    assert min(account.events, account.quarantine, account.duplicates) > 0
    change_one(site, old, new)
    assert verify(lake).is_clean, "sums and numbers of rows do not tell"
    (fault,) = verify(lake, deep=True).faults
    assert fault.where == "raw rows of serve-1"
    assert "1 are in the tables with another content than in the archive, such as" in fault.what
