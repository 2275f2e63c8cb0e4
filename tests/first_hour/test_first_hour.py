"""Data as people have it becomes a project and a list, without an edit.

The commands are `init --from`, `import`, `train` and `recommend`. Each layout is read with the
right times, people, items and types, or `init` stops with one question that one option answers.
"""

import json
import shlex
import subprocess
from datetime import datetime
from pathlib import Path

import pytest
from tests.first_hour.layouts import LAYOUTS, Layout
from tests.support.commands import must_json, run_each, tailorbird

SIZE = 12


# Layouts that `make test` takes to a list: a table, nested lines, one that asks, several tables.
LISTED = ("german", "nested", "american", "instacart")
LISTS = [
    pytest.param(layout, id=name, marks=() if name in LISTED else pytest.mark.nightly)
    for name, layout in LAYOUTS.items()
]
READS = [pytest.param(LAYOUTS[name], id=name) for name in LAYOUTS if name not in LISTED]


@pytest.mark.slow
@pytest.mark.parametrize("layout", LISTS)
def test_a_layout_becomes_a_list_without_an_edit(layout: Layout, tmp_path: Path) -> None:
    _, trained, listed = run_steps(layout, tmp_path, 3)
    assert trained.returncode == 0, trained.stderr
    assert listed.returncode == 0, listed.stderr
    items = json.loads(listed.stdout)["items"]
    assert len({item["item_id"] for item in items}) == SIZE


@pytest.mark.slow
@pytest.mark.parametrize("layout", READS)
def test_a_layout_is_read_without_an_edit(layout: Layout, tmp_path: Path) -> None:
    run_steps(layout, tmp_path, 1)


def run_steps(layout: Layout, tmp_path: Path, count: int) -> list[subprocess.CompletedProcess[str]]:
    """Run the first steps that `init` prints after `check`, and assert that the layout was read."""
    data = tmp_path / "files"
    data.mkdir()
    layout.write(data)
    if layout.question:
        questioned = tailorbird("init", "shop", "--from", data, cwd=tmp_path)
        assert questioned.returncode != 0
        assert layout.question in questioned.stderr
        assert layout.options[0] in questioned.stderr
        assert not (tmp_path / "shop").exists()
    init = tailorbird("init", "shop", "--from", data, *layout.options, "--json", cwd=tmp_path)
    assert init.returncode == 0, init.stderr
    steps = [shlex.split(step)[1:] for step in json.loads(init.stdout)["next"]]
    assert [step[2] for step in steps] == ["check", "import", "train", "recommend", "up"]
    written = tmp_path / "shop" / "mapping.toml"
    mapping = written.read_text() if written.exists() else ""
    assert [line for line in layout.mapping if line not in mapping] == []
    select = (
        "SELECT ts, user_id, anonymous_id, item_id FROM events WHERE type NOT IN ('item', "
        "'user') AND item_id IS NOT NULL"
    )
    select += " ORDER BY ts, event_id LIMIT 1"
    kinds = (
        "SELECT type, count(*) AS n FROM events WHERE type NOT IN ('item', 'user') GROUP BY type"
    )
    done = run_each([[*step, "--json"] for step in steps[1 : 1 + count]], cwd=tmp_path)
    assert done[0].returncode == 0, done[0].stderr
    (event,) = must_json("-C", "shop", "sql", select, cwd=tmp_path)["rows"]
    assert datetime.fromisoformat(event["ts"]).replace(microsecond=0) == layout.first
    assert layout.user in (event["user_id"], event["anonymous_id"])
    assert event["item_id"] == layout.item
    rows = must_json("-C", "shop", "sql", kinds, cwd=tmp_path)["rows"]
    counts = {row["type"]: row["n"] for row in rows}
    assert set(counts) == layout.types
    assert (
        sum(counts.values()) >= 0.97 * layout.events
    )  # a few are duplicates, on one day or by chance
    return done
