"""Data as people have it becomes a project and a list, without an edit.

The commands are `init --from`, `import`, `train` and `recommend`. Each layout is read with the
right times, people, items and types, or `init` stops with one question that one option answers.
"""

import json
import shlex
from datetime import datetime
from pathlib import Path

import pytest
from tests.first_hour.layouts import LAYOUTS, Layout
from tests.support.commands import each, tailorbird

SIZE = 12


@pytest.mark.slow
@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_a_layout_becomes_a_list_without_an_edit(layout: Layout, tmp_path: Path) -> None:
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
    (tmp_path / "said").mkdir()
    shop = ["-C", "shop"]
    imported, first, kinds, trained, listed = each(
        [
            [*steps[1], "--json"],
            [*shop, "sql", select, "--json"],
            [
                *shop,
                "sql",
                "SELECT type, count(*) AS n FROM events WHERE type NOT IN ('item', 'user') "
                "GROUP BY type",
                "--json",
            ],
            [*steps[2], "--json"],
            [*steps[3], "--json"],
        ],
        tmp_path / "said",
        cwd=tmp_path,
    )
    for process in (imported, first, kinds, trained, listed):
        assert process.returncode == 0, process.stderr
    (event,) = json.loads(first.stdout)["rows"]
    assert datetime.fromisoformat(event["ts"]).replace(microsecond=0) == layout.first
    assert layout.user in (event["user_id"], event["anonymous_id"])
    assert event["item_id"] == layout.item
    counts = {row["type"]: row["n"] for row in json.loads(kinds.stdout)["rows"]}
    assert set(counts) == layout.types
    assert (
        sum(counts.values()) >= 0.97 * layout.events
    )  # a few are duplicates, on one day or by chance
    items = json.loads(listed.stdout)["items"]
    assert len({item["item_id"] for item in items}) == SIZE
