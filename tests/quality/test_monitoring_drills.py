"""Each incident of the runbooks raises its alarm, with the right cause and page."""

import re
from pathlib import Path

import pytest
from benchmarks.quality.monitoring.drills import DRILLS, play_drills

OPERATE = Path(__file__).parents[2] / "docs/operate"


def test_each_runbook_has_a_drill():
    played = set()
    for page in sorted(OPERATE.glob("*.md")):
        if page.name != "README.md":
            drill = re.search(r"^Drill:\n\n```sh\n(.+)\n```$", page.read_text(), re.MULTILINE)
            assert drill, page
            played |= set(re.findall(r"benchmarks\.quality\.monitoring --drill (\S+)", drill[1]))
    assert played == set(DRILLS)


@pytest.mark.nightly
def test_each_incident_raises_its_alarm(tmp_path, capsys):
    failed = play_drills(list(DRILLS), tmp_path)
    assert failed == [], capsys.readouterr().out
