"""The tutorial notebook runs from its first cell to its last, and shows what it promises."""

import ast
import json
import re
from pathlib import Path
from typing import Any

import pytest

TUTORIALS = Path(__file__).parents[1] / "docs" / "tutorials"
NOTEBOOK, PAGE = TUTORIALS / "notebook.ipynb", TUTORIALS / "python.md"

pytestmark = pytest.mark.slow


def run_cell(source: str, names: dict[str, Any]) -> Any:
    """Run a cell as a notebook does, and return the value of its last expression."""
    body = ast.parse(source).body
    last = body.pop() if body and isinstance(body[-1], ast.Expr) else None
    exec(compile(ast.Module(body, []), "cell", "exec"), names)
    return eval(compile(ast.Expression(last.value), "cell", "eval"), names) if last else None


def test_the_notebook_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    cells = [
        "".join(cell["source"])
        for cell in json.loads(NOTEBOOK.read_text())["cells"]
        if cell["cell_type"] == "code"
    ]
    assert len(cells) <= 10
    names: dict[str, Any] = {}
    shown = [run_cell(cell, names) for cell in cells]

    clicks = names["shop"].lake.sql("SELECT count(*) AS n FROM events WHERE type = 'click'")
    assert clicks["n"][0].as_py() >= 24_000
    html = [value._repr_html_() or "" for value in shown if hasattr(value, "_repr_html_")]
    assert sum("<table>" in text for text in html) >= 5
    result, slate = names["result"], names["slate"]
    assert result.results["tailorbird"]["ndcg_10"] > result.results["popular:7d"]["ndcg_10"]
    assert len(slate) == 5
    assert len(names["answer"].items) == 5

    # The page shows the same shop: its first block creates it, as the notebook did.
    _, *blocks = re.findall(r"^```py\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    assert len(blocks) == 3
    for block in blocks:
        exec(compile(block, str(PAGE), "exec"), names)
    assert len(names["answer"].items) > 0
