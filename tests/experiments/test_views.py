"""Effects by weekday and age, strata, the timeline, and a notebook that computes the report again."""

import ast
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from tests.support.commands import must
from tests.support.monitored import write_events

import tailorbird
from tailorbird.errors import UsageError
from tailorbird.events import DAY, MINUTE, ROUTED, SystemClock, to_iso
from tailorbird.experiments import Experiment
from tailorbird.experiments.drawing import stages_svg
from tailorbird.experiments.measure import measure
from tailorbird.experiments.trial import TrialReport, trial_report
from tailorbird.experiments.units import UNIT_COLUMNS, load_units
from tailorbird.experiments.views.effects import BY_AGE, BY_WEEKDAY
from tailorbird.experiments.views.timeline import TimelineEvent
from tailorbird.registry import Registry, StartedExperiment

START = 20_000 * DAY  # a Friday
DAYS = 10
EXPERIMENT = Experiment(
    "fresh",
    {"old": 0.5, "new": 0.5},
    policies={"old": "popular", "new": "recent"},
    slot="home",
    effect=0.2,
    duration="10d",
)


def draw_rows(users: int = 700) -> list[dict[str, Any]]:
    """Draw users who come first on the first day; `new` doubles the clicks of that day alone."""
    rng, rows = np.random.default_rng(3), []
    for number in range(users):
        arm = "new" if number % 2 else "old"
        device = "phone" if rng.random() < 0.5 else "desktop"
        rate = 0.3 if device == "phone" else 0.1
        for day in [0, *(1 + np.flatnonzero(rng.random(DAYS - 1) < 0.6)).tolist()]:
            request = f"u{number}-{day}"
            base = {"person": f"u{number}", "agent": "person", "slot": "home"}
            base |= {"request_id": request, "experiment": "fresh", "arm": arm, "device": device}
            ts = START + day * DAY + int(rng.integers(60, 600)) * MINUTE
            items = [f"i{n}" for n in range(5)]
            rows.append(base | {"type": "answer", "ts": ts, "items": items})
            clicked = rng.random(5) < rate * (2.0 if arm == "new" and day == 0 else 1.0)
            for item, click in zip(items, clicked.tolist(), strict=True):
                rows.append(base | {"type": "impression", "ts": ts + 1, "item_id": item})
                if click:
                    rows.append(base | {"type": "click", "ts": ts + MINUTE, "item_id": item})
    return rows


@pytest.fixture(scope="module")
def rows() -> list[dict[str, Any]]:
    return draw_rows()


@pytest.fixture(scope="module")
def events(rows: list[dict[str, Any]]) -> pa.Table:
    return pa.Table.from_pylist(
        rows, schema=pa.schema([ROUTED.field(name) for name in UNIT_COLUMNS])
    )


@pytest.fixture(scope="module")
def report(events: pa.Table) -> TrialReport:
    timeline = [
        TimelineEvent(START - DAY, "model", "promote v1: before"),
        TimelineEvent(START + 4 * DAY, "model", "promote v2: <better>"),
        TimelineEvent(START + 2 * DAY, "incident", "outage upstream: nothing arrives"),
    ]
    return trial_report(
        events,
        EXPERIMENT,
        started_at=START,
        now=START + DAYS * DAY,
        attribution=30 * MINUTE,
        timeline=timeline,
    )


def test_a_novelty_shows_in_the_effect_by_age_and_by_weekday(report: TrialReport) -> None:
    views = {view.by: view for view in report.views}
    ages = views[BY_AGE].rows
    assert [row.name for row in ages] == ["0", "1", "2 to 3", "4 to 6", "7 to 13"]
    assert ages[0].units == 700
    assert ages[0].low > 0.3  # age 0 also holds the visits of the next day before the same hour
    assert all(row.low < 0 < row.high for row in ages[1:])
    weekdays = {row.name: row for row in views[BY_WEEKDAY].rows}
    assert list(weekdays) == [
        "Monday",
        "Tuesday",
        "Wednesday",
        "Thursday",
        "Friday",
        "Saturday",
        "Sunday",
    ]
    assert weekdays["Friday"].low > 0.2  # the first day was one
    assert weekdays["Monday"].low < 0 < weekdays["Monday"].high


def test_strata_reduce_the_variance_of_units_without_a_history(events: pa.Table) -> None:
    ratios = []
    for segments in ((), ("device",)):
        table = load_units(
            events,
            "home",
            ("old", "new"),
            experiment="fresh",
            start=START,
            stop=START + DAYS * DAY,
            attribution=30 * MINUTE,
            segments=segments,
        )
        ratios.append(measure(table, EXPERIMENT.metric, 1, START + DAYS * DAY).variance_ratio)
    assert ratios[0] == pytest.approx(1.0, abs=1e-6)
    assert ratios[1] < 0.75


def test_the_page_draws_the_crossing_and_what_else_changed(report: TrialReport) -> None:
    assert [event.kind for event in report.timeline] == ["incident", "model"]
    picture, page = stages_svg(report, "new"), report._repr_html_()
    assert "crossed on day 1<" in picture
    assert re.findall(r'fill="#9ca3af">(\d)<', picture) == ["1", "2"]
    assert "promote v2: &lt;better&gt;" in page
    assert "promote v1" not in page
    assert "By day of the week: new" in page
    first = page.partition("<strong>")[2].partition("</strong>")[0]
    assert first == report.summary.replace("<", "&lt;")
    assert first.startswith("new beats old: +")
    assert "; in the worst case" in first
    assert report.to_dict()["views"][0]["rows"]


def run_cell(source: str, names: dict[str, Any]) -> Any:
    """Run a cell as a notebook does, and return the value of its last expression."""
    body = ast.parse(source).body
    last = body.pop() if body and isinstance(body[-1], ast.Expr) else None
    exec(compile(ast.Module(body, []), "cell", "exec"), names)
    return eval(compile(ast.Expression(last.value), "cell", "eval"), names) if last else None


def test_the_notebook_computes_the_report_again(
    rows: list[dict[str, Any]], tmp_path: Path, report: TrialReport
) -> None:
    root = tmp_path / "shop"
    shop = tailorbird.Project.create(root)
    write_events(shop.declarations.paths.lake, [row | {"p": p} for p, row in enumerate(rows, 1)])
    start_and_stop(shop.declarations.paths.registry)
    file = tmp_path / "report.ipynb"
    assert "promote" not in must("-C", root, "experiment", "report", "fresh", "--notebook", file)
    names: dict[str, Any] = {}
    shown = [
        run_cell("".join(cell["source"]), names)
        for cell in json.loads(file.read_text())["cells"]
        if cell["cell_type"] == "code"
    ]
    assert shown[0].primary[0].uplift == pytest.approx(report.primary[0].uplift)
    assert len(shown[1]) == 4
    assert all(shown[1].values())
    assert len(shown[2]) == len(report.stages["new"])

    earlier = [to_iso(START + int(days * DAY)) for days in (0.5, -1)]
    page = tmp_path / "report.html"
    text = must("-C", root, "experiment", "report", "fresh", "--as-of", earlier[0], "--html", page)
    assert "Not decided yet (9.5 of 10d left" in text
    assert "stop by ada" not in text
    assert "Not decided yet (9.5 of 10d left" in page.read_text()
    with pytest.raises(UsageError, match="was started at 2024-10-04"):
        shop.experiments.report("fresh", as_of=earlier[1])


def start_and_stop(folder: Path) -> None:
    """Register the experiment as started at START and stopped at its planned end."""
    registry = Registry(folder, clock=SystemClock())
    new = StartedExperiment(
        name=EXPERIMENT.name,
        slot="home",
        layer=EXPERIMENT.layer_name,
        digest=EXPERIMENT.digest,
        declaration=EXPERIMENT.to_dict(),
    )
    for action, change in (
        ("start", lambda e: e.start(new, by="ada", why="try", at=START)),
        ("stop", lambda e: e.stop("fresh", by="ada", why="done", at=START + DAYS * DAY)),
    ):
        registry.change_experiments(action, "fresh", change, by="ada", why="try")
