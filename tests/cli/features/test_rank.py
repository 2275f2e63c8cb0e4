"""`tailorbird features rank` and `train --leave-out`, on small shops."""

import json
import shlex
import subprocess
from pathlib import Path

import pytest
from tests.support.commands import assert_refused, must, must_json, tailorbird
from tests.support.shops.fixed_history import write_fixed_history

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A shop with enough answers to tell something."""
    project = tmp_path_factory.mktemp("rank") / "shop"
    must("init", project)
    # A history that ends today is another one each day: on some, no column was left to remove.
    write_fixed_history(project / "history.jsonl", days=7, users=1_200, items=120)
    must("-C", project, "import", "tailorbird", project / "history.jsonl")
    return project


def test_it_ranks_every_column_and_prints_commands(shop: Path, tmp_path: Path) -> None:
    shown = must("-C", shop, "features", "rank", "--requests", 1_000, "--out", tmp_path / "out")
    for name in (
        "item_ctr_7d",
        "device",
        "popular_24h_score",
        "requests that had no say in the choice",
    ):
        assert name in shown
    assert (tmp_path / "out" / "signals.html").is_file()
    assert (tmp_path / "out" / "signals.png").is_file()
    command = next(line for line in shown.splitlines() if "--leave-out" in line)
    left_out = shlex.split(command)[-1].split(",")
    declared = (shop / "features.py").read_text().splitlines()
    places = [
        line.split() for line in shown.splitlines() if line.startswith(f"  {shop / 'features.py'}:")
    ]
    assert places
    for place, name in places:
        assert name in declared[int(place.rpartition(":")[2]) - 1]
        assert name in left_out

    words = shlex.split(command)[1:]
    report = must_json(*words, "--quick")
    encoder = json.loads(
        (shop / "data" / "registry" / report["version"] / "encoder.json").read_bytes()
    )
    assert encoder["numeric"], "some were proposed to stay"
    assert not set(left_out) & {
        *encoder["numeric"],
        *(one["name"] for one in encoder["vocabularies"]),
    }


def test_json_has_figures_with_intervals(shop: Path, tmp_path: Path) -> None:
    words = (
        "features",
        "rank",
        "--requests",
        500,
        "--seed",
        3,
        "--window",
        "7d",
        "--as-of",
        "latest",
        "--out",
        tmp_path,
    )
    report = must_json("-C", shop, *words)
    assert report["target"] == "click"
    names = {one["name"] for one in report["signals"]}
    assert {"item_ctr_7d", "user_last_category", "item_knn_score"} <= names
    for one in report["signals"]:
        assert one["importance_low"] <= one["importance"] <= one["importance_high"]
        assert one["verdict"] in (
            "signal",
            "null",
            "redundant",
            "unstable",
            "too good: leak?",
            "too few requests to decide",
        )
    assert set(report["subset"]["keep"]) | set(report["subset"]["remove"]) == names
    assert Path(report["report"]).is_file()


def _call(shop: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Call a command on the shop, without the note that its log ended long ago."""
    completed = tailorbird("-C", shop, *arguments)
    note, _, rest = completed.stderr.partition("\n")
    if note.startswith("The log ended on 2025-05-31"):
        completed.stderr = rest
    return completed


def test_too_little_is_told(shop: Path, fresh: Path, tmp_path: Path) -> None:
    assert_refused(
        tailorbird("-C", fresh, "features", "rank"), "there is nothing in the lake yet", status=1
    )
    few = _call(shop, "features", "rank", "--target", "purchase", "--out", tmp_path)
    assert_refused(few, "purchase happened in", "are needed to tell a signal from chance")


def test_a_wrong_use_is_told(shop: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert_refused(
        _call(shop, "features", "rank", "--target", "clck"), "'clck' is no event type", status=2
    )
    assert_refused(_call(shop, "features", "rank", "--requests", 0), "--requests", status=2)
    assert_refused(
        _call(shop, "features", "rank", "--out", tmp_path / "file"), "is a file", status=2
    )
    assert_refused(
        _call(shop, "train", "--leave-out", "devize"), "'devize'", "did you mean device?", status=2
    )
