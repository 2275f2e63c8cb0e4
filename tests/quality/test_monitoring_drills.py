"""Each incident of the runbooks raises its alarm, with the right cause and page."""

from pathlib import Path

import pytest
from benchmarks.quality.monitoring.drills import DRILLS, play_drills

OPERATE = Path(__file__).parents[2] / "docs/operate"


def test_each_runbook_has_a_drill():
    pages = {page.stem: page.read_text() for page in OPERATE.glob("*.md")}
    assert "python -m benchmarks.quality.monitoring --drill PAGE" in pages.pop("README")
    others = {name for name, text in pages.items() if "\nDrill:\n\n```sh\n" in text}
    assert others | set(DRILLS) == set(pages)
    assert not others & set(DRILLS)


@pytest.mark.nightly
def test_each_incident_raises_its_alarm(tmp_path, capsys):
    failed = play_drills(list(DRILLS), tmp_path)
    assert failed == [], capsys.readouterr().out
