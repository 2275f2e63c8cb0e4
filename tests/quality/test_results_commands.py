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
    monkeypatch.setattr(results, "revision", lambda: "a" * 40)
    monkeypatch.setattr(results, "store_figures", lambda text, run: None)
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


def test_each_row_of_a_summary_names_its_revision_or_that_it_is_unknown():
    generated = results.render_page("", FIGURES)
    rows = [line for line in generated.splitlines() if line.startswith("| [")]
    assert len(rows) > len([each for each in FIGURES if is_product(each)])
    assert all("revision" in row for row in rows)


def test_a_run_that_was_cut_short_leaves_out_what_is_of_this_revision(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(results, "FIGURES", tmp_path)
    monkeypatch.setattr(results, "PAGE", tmp_path / "results.md")
    monkeypatch.setattr(results, "COMMANDS", {"cdnow": "cdnow", "retail": "retail"})
    monkeypatch.setattr("sys.argv", ["results"])
    monkeypatch.setattr(results, "render_page", lambda text, figures: text)
    ran = []

    def run(command, **_):
        name = command[2].rpartition(".")[2]
        ran.append(name)
        if ran == ["cdnow", "retail"]:
            raise KeyboardInterrupt
        return SimpleNamespace(returncode=0, stdout=json.dumps({"benchmark": name}))

    monkeypatch.setattr(results.subprocess, "run", run)
    monkeypatch.setattr(results, "revision", lambda: "a" * 40)
    with pytest.raises(KeyboardInterrupt):
        results.main()
    results.main()
    assert ran == ["cdnow", "retail", "retail"]
    monkeypatch.setattr(results, "revision", lambda: "b" * 40)
    results.main()
    assert ran[3:] == ["cdnow", "retail"], "figures of an older revision are measured again"
    assert "2 of 2: about 0 minutes left" in capsys.readouterr().err


def test_a_small_run_is_not_taken():
    with pytest.raises(SystemExit, match="without --small"):
        results.store_figures(json.dumps({"benchmark": "cdnow", "small": True}))
