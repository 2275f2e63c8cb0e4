"""`make results` runs the commands on the page, and the page shows the files in the folder."""

import json
import subprocess
from types import SimpleNamespace

import pytest
from benchmarks.quality import results
from benchmarks.quality.pages.product_page import is_product

FIGURES = results.read_figures()


@pytest.mark.parametrize("name", results.COMMANDS)
def test_a_command_is_run_as_it_stands_in_the_list(name, monkeypatch):
    ran = []

    def run(command, **_):
        ran.append(command)
        return SimpleNamespace(returncode=0, stdout="{}", stderr="")

    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr(results, "store_figures", lambda text: None)
    results.measure(name, None)
    assert [" ".join(command[1:]) for command in ran] == [f"-m benchmarks.quality.{results.COMMANDS[name]} --json"]


def test_the_page_is_what_the_figures_make():
    text = results.PAGE.read_text()
    assert results.render_page(text, FIGURES) == text


def test_each_set_names_its_command_and_its_revision():
    served = [each for each in FIGURES if is_product(each)]
    assert served
    for each in served:
        section = results.render_page("", [each])
        assert each["command"] in section
        assert each["revision"][:12] in section


def test_a_small_run_is_not_taken():
    with pytest.raises(SystemExit, match="without --small"):
        results.store_figures(json.dumps({"benchmark": "cdnow", "small": True}))
