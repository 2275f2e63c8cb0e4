"""MovieLens-1M's protocol on a made-up copy: films in a ring, so that the next one is known."""

import json
import subprocess
import sys

import pytest
from benchmarks.quality.leave_one_out import read, run

from tailorbird.errors import InputError


@pytest.fixture
def folder(tmp_path):
    lines = [f"{user}::{(user * 7 + step) % 30 + 1}::5::{1000 + step}" for user in range(1, 61) for step in range(12)]
    (tmp_path / "ratings.dat").write_text("\n".join(lines) + "\n", encoding="latin-1")
    return tmp_path


def test_the_film_after_the_last_is_found_by_what_knows_of_order(folder):
    found = run(folder, seeds=0)
    assert found["people"] == 60
    assert found["results"]["cooccurrence_forward"]["ndcg_10"] > 0.95
    assert found["results"]["popular"]["ndcg_10"] < 0.7


@pytest.mark.slow
def test_as_a_command(folder):
    command = [sys.executable, "-m", "benchmarks.quality.next_item", "--ml-1m", str(folder), "--seeds", "0", "--json"]
    told = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert set(told["published"]) >= {"SASRec with 3,000 negatives"}
    assert told["results"]["ease"]["hr_10"] > 0


@pytest.mark.slow
def test_the_help_says_where_the_data_come_from_and_how_they_look():
    command = [sys.executable, "-m", "benchmarks.quality.next_item", "--help"]
    told = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    for what in ("ratings.dat", "user::film::rating::seconds", "grouplens.org", "--ml-1m ~/data/ml-1m --seeds 0"):
        assert what in told


def test_a_line_that_is_none_is_told_by_its_place(folder):
    (folder / "ratings.dat").write_text("1::2::5::100\n1,2,5,100\n", encoding="latin-1")
    with pytest.raises(InputError, match="expected user::film::rating::seconds") as told:
        read(folder)
    assert "ratings.dat:2" in str(told.value)
    with pytest.raises(InputError, match="no ratings"):
        read(folder / "elsewhere")
