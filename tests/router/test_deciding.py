"""A replay beside a router that was started before the declarations were mended sends nothing, and
says what to do.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from tests.support.commands import tailorbird
from tests.support.roles import make_project, until

from tailorbird.config import open_project
from tailorbird.events import RoutePlan
from tailorbird.router.declarations import find_outdated_routers, register_router


def test_a_router_is_known_while_it_runs_and_by_what_it_refuses(tmp_path: Path) -> None:
    plan = RoutePlan()
    more = msgspec.structs.replace(plan, event_types=(*plan.event_types, "video_played"))
    with register_router(tmp_path, plan):
        assert find_outdated_routers(tmp_path, more) == [os.getpid()]
        assert (
            find_outdated_routers(
                tmp_path, msgspec.structs.replace(plan, item_attributes=("price",))
            )
            == []
        )
    assert find_outdated_routers(tmp_path, more) == []
    assert list(tmp_path.iterdir()) == []


def test_one_that_was_killed_counts_no_more(tmp_path: Path) -> None:
    program = (
        "import sys, time, pathlib; from tailorbird.events import RoutePlan; from "
        "tailorbird.router.declarations import register_router\n"
    )
    program += "with register_router(pathlib.Path(sys.argv[1]), RoutePlan()):\n    time.sleep(60)"
    router = subprocess.Popen([sys.executable, "-c", program, str(tmp_path)])
    other = RoutePlan(skew_us=1)
    until(
        lambda: find_outdated_routers(tmp_path, other) == [router.pid],
        20,
        "the router was not seen",
    )
    router.kill()
    router.wait()
    assert find_outdated_routers(tmp_path, other) == []


@pytest.mark.slow
def test_nothing_is_sent_to_be_refused_again(tmp_path: Path) -> None:
    project = make_project(tmp_path / "shop")
    event = {
        "event_id": "e1",
        "type": "video_played",
        "ts": "2025-01-01T00:00:00Z",
        "user_id": "u",
        "item_id": "i",
    }
    click = {**event, "event_id": "e2", "type": "click"}
    (tmp_path / "e.jsonl").write_text(f"{json.dumps(event)}\n{json.dumps(click)}\n")
    before = project.plan
    assert (
        tailorbird("-C", project.root, "import", "tailorbird", tmp_path / "e.jsonl").returncode == 0
    )
    toml = project.root / "tailorbird.toml"
    toml.write_text(re.sub(r"(?m)^types = .*$", 'types = ["video_played"]', toml.read_text()))
    replay = ("-C", project.root, "lake", "replay", "--reason", "unknown_type")
    with register_router(project.paths.run, before):
        refused = tailorbird(*replay)
        assert refused.returncode != 0
        assert "stop `tailorbird up`, start it again" in refused.stderr
    with register_router(project.paths.run, open_project(project.root).plan):
        assert tailorbird(*replay).returncode == 0
