"""A replay of past events makes the same state as the lake's events."""

import json
from pathlib import Path

import msgspec
from tests.support.oracle import find_unequal_state
from tests.support.roles import make_project

from tailorbird.config import open_project
from tailorbird.events import DAY, HOUR, SystemClock, to_iso
from tailorbird.events.contract.plan import EVENT_TYPES
from tailorbird.features import ReadRequest
from tailorbird.features.online.read import Reader
from tailorbird.lake import verify
from tailorbird.lake.quarantine import QuarantineFilter
from tailorbird.lake.write.replay import replay
from tailorbird.platform.runtime.roles import InProcessRoles
from tailorbird.router import Router
from tailorbird.stream.importer import import_files

CLOCK = SystemClock()
FEATURES = """
from tailorbird.features import count, decayed, entity, last, sequence
wishes_3d = count("wishes_3d", entity("user"), "wish", window="3d")
wishes_28d = count("wishes_28d", entity("item"), "wish", window="28d")
wish_rate = decayed("wish_rate", entity("user"), "wish", half_life="2d")
"""


def _history(file: Path, first: int, days: int) -> Path:
    """Write clicks of some people on some days, and a wish at every third."""
    start = CLOCK.now() // DAY * DAY - 40 * DAY
    rows = []
    for day in range(first, first + days):
        for number in range(9):
            rows.append(
                {
                    "event_id": f"t{day}-{number}",
                    "type": "click" if (day + number) % 3 else "wish",
                    "user_id": f"u{number % 4}",
                    "item_id": f"i{day * number % 7}",
                    "ts": to_iso(start + day * DAY + number * HOUR),
                }
            )
    file.write_text("\n".join(map(json.dumps, rows)))
    return file


def test_the_state_is_that_of_the_lake_after_a_replay(tmp_path: Path) -> None:
    folder = make_project(tmp_path / "shop").root
    (folder / "features.py").write_text((folder / "features.py").read_text() + FEATURES)
    settings = (folder / "tailorbird.toml").read_text()
    (folder / "tailorbird.toml").write_text(settings.replace("types = []", 'types = ["wish"]'))
    project = open_project(folder)
    assert "wish" in project.plan.event_types
    old = msgspec.structs.replace(project.plan, event_types=EVENT_TYPES)
    for first in (0, 12):
        import_files(
            project.paths.stream,
            "tailorbird",
            _history(tmp_path / f"{first}.jsonl", first, 12),
            plan=old,
            clock=CLOCK,
        )
        with Router(project.paths.stream, old, clock=CLOCK) as router:
            while router.step().rows:
                pass
        with InProcessRoles(project, CLOCK) as roles:
            roles.drain()
    report = replay(
        project.paths.lake,
        project.paths.stream,
        QuarantineFilter(("unknown_type",)),
        plan=project.plan,
        clock=CLOCK,
    )
    assert (report.sent, report.refused) == (72, {})
    with InProcessRoles(project, CLOCK) as roles:
        roles.drain()
        assert (roles.accepted, roles.duplicates, roles.quarantined) == (72, 0, 0)
    assert find_unequal_state(project) == []
    assert verify(project.paths.lake, deep=True).is_clean
    reader = Reader(project.paths.state, project.features)
    rows = reader.read(ReadRequest("u0", None, None, None, None, 0, CLOCK.now()), ["i0"])
    values = dict(zip(project.features.numeric, rows.numeric[0].tolist(), strict=True))
    reader.close()
    assert values["wishes_28d"] > 0
