"""The benchmark beside other libraries: what it says where they are not, how a pair is judged, and all of it where they are."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from benchmarks.peers.install import interpreter, last_error, name_of, requirements
from benchmarks.quality.peers_page import section, summary
from benchmarks.quality.running import default_data

PAIR = {"ours": "mmoe", "peer": "fuxictr_mmoe", "quality": 1.01, "gain": 0.004, "gain_low": 0.001, "gain_high": 0.007, "time": 0.8}


def command(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "benchmarks.quality.peers", *words]
    return subprocess.run(line, capture_output=True, text=True, env={**os.environ, **environment})


def page_of(**pair: float) -> str:
    case = {"pairs": [{**PAIR, **pair}]}
    return summary([{"cases": {"kuairand": case}}]).splitlines()[-1]


@pytest.mark.slow
def test_without_an_environment_it_says_how_to_make_one(tmp_path: Path) -> None:
    done = command(TAILORBIRD_PEERS=str(tmp_path / "none"))
    assert done.returncode == 3
    assert "skipped: no peer is installed; make peers (implicit: error: " in done.stderr


def test_a_peer_that_cannot_be_installed_is_told_with_its_error() -> None:
    assert [name_of(each) for each in requirements()] == ["implicit", "rectools", "fuxictr"]
    assert all("==" in each for each in requirements()), "pinned"
    assert last_error("building\nERROR: no wheel for cp399\nnotice: a new pip\n") == "ERROR: no wheel for cp399"


def test_a_pair_is_won_by_quality_that_is_not_behind_in_no_more_time() -> None:
    assert page_of().endswith("| yes: ahead |")
    assert page_of(gain_low=-0.001).endswith("| yes: level |")
    assert page_of(time=1.2).endswith("| no: ahead, **slower** |")
    assert page_of(gain=-0.004, gain_low=-0.007, gain_high=-0.001).endswith("| no: **behind**, no slower |")


@pytest.mark.slow
@pytest.mark.skipif(not interpreter().exists(), reason="needs the environment of make peers")
@pytest.mark.skipif(default_data() is None, reason="needs the optional folder of data")
def test_all_of_it_runs_beside_the_peers_that_are_installed() -> None:
    done = command("--small", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert not [case["failed"] for case in found["cases"].values() if case["failed"]]
    text = section(found)
    for name in found["versions"]:
        assert name in text
    for case in found["cases"].values():
        assert case["pairs"]
        for each in case["results"].values():
            assert each[f"{case['figure']}_low"] <= each[case["figure"]] <= each[f"{case['figure']}_high"]
