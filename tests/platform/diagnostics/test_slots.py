"""`tailorbird doctor` says which slots' rules leave nothing to show, before there is a model
too.
"""

import json
from pathlib import Path

import pytest

from tailorbird.cli.init import init
from tailorbird.config import open_project
from tailorbird.events import SystemClock
from tailorbird.platform.diagnostics.slots import check_slot_rules
from tailorbird.platform.runtime.roles import drain
from tailorbird.stream.importer import import_files


@pytest.mark.parametrize(
    ("stock", "expected"),
    [
        (
            None,
            [
                "item.stock is asked for, and no item has it",
                "shows nothing of 3 items: no item satisfies item.stock > 0",
            ],
        ),
        (0, ["shows nothing of 3 items: no item satisfies item.stock > 0"]),
        (4, []),
    ],
)
def test_a_rule_that_hides_every_item_is_named(
    stock: int | None, expected: list[str], tmp_path: Path
) -> None:
    init(tmp_path / "shop", json=True)
    project, clock = open_project(tmp_path / "shop"), SystemClock()
    assert list(check_slot_rules(project)) == []
    attributes = {"category": "c"} | ({} if stock is None else {"stock": stock})
    older = {
        "event_id": "0",
        "type": "item",
        "item_id": "i0",
        "ts": 1_700_000_000_000_000,
        "properties": attributes | {"stock": 9},
    }
    items = [
        {
            "event_id": f"e{n}",
            "type": "item",
            "item_id": f"i{n}",
            "ts": 1_700_000_000_000_001,
            "properties": attributes,
        }
        for n in range(3)
    ]
    (tmp_path / "items.jsonl").write_text(
        "\n".join(json.dumps(one) for one in ([older] if stock == 0 else []) + items)
    )
    import_files(
        project.paths.stream, "tailorbird", tmp_path / "items.jsonl", plan=project.plan, clock=clock
    )
    drain(project, clock, progress=lambda *_: None)
    (tmp_path / "shop/lists.toml").write_text('summer = ["i1", "x1", "i0"]\nwinter = ["i2"]')
    lists = [row for row in check_slot_rules(project) if row[0].startswith("list")]
    assert lists == [
        (
            "list: summer",
            "warning",
            "1 of 3 items are not known: x1",
            "mend lists.toml, or send these items",
        )
    ]
    findings = [row for row in check_slot_rules(project) if row[0] == "rules: home"]
    assert [row[2] for row in findings] == expected
    assert {row[1] for row in findings} <= {"warning"}
