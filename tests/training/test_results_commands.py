"""What `make results` runs is what the page says was run, with the seeds and sizes of the figures that stand there."""

import json
import subprocess
from types import SimpleNamespace

import pytest
from benchmarks.quality import incremental, results, tuning
from benchmarks.quality.commands import commands_of

SECTIONS = results.PAGE.read_text().split("\n## ")
FIGURES = {each["benchmark"]: each for each in results.read()}


def section(name):
    return next(each for each in SECTIONS if each.startswith(f"{name}\n"))


@pytest.mark.parametrize("name", results.NAMES)
def test_a_section_names_what_is_run_for_it(name, monkeypatch):
    ran = []

    def run(command, **_):
        ran.append(command)
        return SimpleNamespace(returncode=0, stdout="{}", stderr="")

    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr(results, "take", lambda text: None)
    results.measure(name, None)
    assert [" ".join(["python", *command[1:]]).replace(" --json", "") for command in ran] == commands_of(name)
    told = FIGURES[name].get("command")
    if told is None:
        assert all(f"`{command}`" in section(name) for command in commands_of(name))
    else:
        assert f"`{told}`" in section(name)
        assert told.startswith(commands_of(name)[0])


def test_defaults_are_those_of_the_figures():
    assert FIGURES["incremental"]["command"] == incremental.command(incremental.DAYS, incremental.SEEDS)
    assert f"{incremental.SEEDS} seed(s); " in FIGURES["incremental"]["protocol"][-1]
    assert FIGURES["incremental"]["days"][-1]["day"] == incremental.DAYS - 1
    assert FIGURES["tuning"]["command"] == tuning.command(list(FIGURES["tuning"]["cases"]), tuning.BUDGET)
    assert FIGURES["tuning"]["budget"] == {"seconds": tuning.BUDGET.seconds, "trials": tuning.BUDGET.trials}


@pytest.mark.parametrize("name", ["globo", "movielens", "baskets", "simulated"])
def test_a_table_of_one_seed_says_so_in_its_command(name):
    assert (commands_of(name) == [f"python -m benchmarks.quality.{name}"]) == (len(FIGURES[name].get("seeds", "1")) == 3)


def test_peers_are_run_for_each_case_with_its_seeds():
    cases = json.loads((results.FIGURES / "peers.json").read_text())["cases"]
    assert {name.partition(",")[0] for name in cases} == {command.split()[3] for command in commands_of("peers")}
    assert len(cases) == len(commands_of("peers"))
    assert len(cases["ml-latest-small"]["results"]["rectools_sasrec"]["seeds"]) == 1
    assert len(cases["eshop-clothing, SASRec"]["results"]["rectools_sasrec"]["seeds"]) == 1
    assert len(cases["eshop-clothing"]["results"]["implicit_als"]["seeds"]) == 3
