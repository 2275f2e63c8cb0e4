"""A notebook that computes an experiment's report again from the lake."""

import json
import math
from pathlib import Path
from pprint import pformat
from typing import TYPE_CHECKING, Any

from tailorbird.events import to_iso

if TYPE_CHECKING:
    from tailorbird.experiments.trial import TrialReport

RECORDED_PARTS = ("summary", "arms", "primary", "guardrails")
TOLERANCE = 1e-9  # relative; sums of floats depend on the order of the rows

_CELL_TEMPLATES = (
    ("markdown", "# {name}\n\n{summary}"),
    (
        "code",
        "import tailorbird as tb\n\n"
        "shop = tb.Project.open({root!r})\n"
        "report = shop.experiments.report({name!r}, as_of={as_of!r})\n"
        "report",
    ),
    (
        "markdown",
        "The figures when this notebook was written. `True` says that they are the same now; late "
        "events and erasures may have changed the lake.",
    ),
    (
        "code",
        "from tailorbird.experiments.views.notebook import compare_figures\n\n"
        "recorded = {recorded}\n\n"
        "compare_figures(recorded, report)",
    ),
    ("markdown", "Each analysis: time, units, uplift with its interval, statistic and boundary."),
    (
        "code",
        "tb.Frame.from_rows(\n"
        '    ["arm", "at", "units", "uplift", "low", "high", "z", "bound"],\n'
        "    [\n"
        "        (arm, stage.at, stage.units, stage.uplift, stage.low, stage.high, stage.z, stage.bound)\n"
        "        for arm, stages in report.stages.items()\n"
        "        for stage in stages\n"
        "    ],\n"
        ")",
    ),
)


def report_notebook(report: "TrialReport", root: Path) -> str:
    """Return the notebook as JSON (nbformat 4.5).

    Args:
        root: of the project that the notebook opens.
    """
    report_values = report.to_dict()
    template_values = {
        "name": report.experiment,
        "summary": report.summary,
        "root": str(root.resolve()),
        "as_of": to_iso(report.until),
        "recorded": pformat(
            {part: report_values[part] for part in RECORDED_PARTS}, sort_dicts=False
        ),
    }
    cells = [
        _make_cell(number, kind, text.format(**template_values))
        for number, (kind, text) in enumerate(_CELL_TEMPLATES)
    ]
    metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    notebook = {"cells": cells, "metadata": metadata, "nbformat": 4, "nbformat_minor": 5}
    return json.dumps(notebook, indent=1, ensure_ascii=False) + "\n"


def compare_figures(recorded: dict[str, Any], report: "TrialReport") -> dict[str, bool]:
    """Return for each recorded part of a report whether it is the same now."""
    current_values = report.to_dict()
    return {
        part: _is_same(recorded_values, current_values[part])
        for part, recorded_values in recorded.items()
    }


def _is_same(old: Any, new: Any) -> bool:
    match old, new:
        case dict(), dict():
            return old.keys() == new.keys() and all(_is_same(old[k], new[k]) for k in old)
        case list(), list():
            return len(old) == len(new) and all(map(_is_same, old, new))
        case float(), float():
            return math.isclose(old, new, rel_tol=TOLERANCE, abs_tol=1e-12)
    return old == new


def _make_cell(number: int, kind: str, text: str) -> dict[str, Any]:
    cell = {
        "cell_type": kind,
        "id": f"cell-{number}",
        "metadata": {},
        "source": text.splitlines(keepends=True),
    }
    return cell | ({"execution_count": None, "outputs": []} if kind == "code" else {})
