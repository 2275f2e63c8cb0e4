"""An oracle: after an erasure no file holds an erased id in any encoding, and what is others' is as
in a twin of the project from which nobody was erased, except what the receipt calls exempt.
"""

import base64
import html
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
from tests.support.people import CLOCK, make_imported_events, make_site, read_all_files, read_values
from tests.support.privacy.events import make_click
from tests.support.roles import make_project
from tests.support.shops.evolving_shop import make_item_events, promote

import tailorbird as tb
from tailorbird.config import Project, open_project
from tailorbird.features.parity.recompute import ERASED_EXEMPTION, compute_parity
from tailorbird.lake import Lake
from tailorbird.platform.inprocess import InProcessServer
from tailorbird.platform.runtime.roles import InProcessRoles
from tailorbird.privacy import erase
from tailorbird.serving.collector.collector import EventCollector
from tailorbird.serving.messages import RecommendQuery
from tailorbird.stream.importer import import_files

pytestmark = pytest.mark.slow

LEAVER = "canary-Zoë/7 Å"
OTHERS = [f"other-user-{number:03d}" for number in range(14)]
ITEMS = [f"i{number}" for number in range(12)]


def encodings(text: str) -> Iterator[bytes]:
    """Yield a text in the encodings of programs that might have written it."""
    for one in {text, text.upper(), text.lower()}:
        raw = one.encode()
        yield from (raw, raw.hex().encode(), html.escape(one).encode())
        yield from (one.encode("utf-16-le"), one.encode("utf-16-be"))
        escaped = json.dumps(one)[1:-1]
        yield from (escaped.encode(), escaped.replace("/", "\\/").encode())
        yield from (quote(one).encode(), quote(one, safe="").encode(), quote(quote(one)).encode())
        for before in range(3):
            encoded = base64.b64encode(bytes(before) + raw)
            yield encoded[-(-before * 8 // 6) : (before + len(raw)) * 8 // 6]


@pytest.fixture(scope="module")
def twins(tmp_path_factory: pytest.TempPathFactory) -> tuple[Project, Project, dict[str, int]]:
    """A project from which a person was erased, the same without, and the counts of the receipt."""
    folder = tmp_path_factory.mktemp("oracle")
    site = make_site(folder, canaries=2)
    project = site.project
    history = folder / "more.jsonl"
    history.write_text("\n".join(json.dumps(one) for one in _said(LEAVER)))
    import_files(project.paths.stream, "tailorbird", history, plan=project.plan, clock=CLOCK)
    history.unlink()
    with (
        EventCollector(project.stream, "serve-1", project.plan, CLOCK) as collector,
        InProcessRoles(project, CLOCK) as roles,
    ):
        roles.drain()
        before = InProcessServer(project, CLOCK, collector=collector, seed=2)
        for user in OTHERS[:4]:  # before the second leaver's first event
            before.pipeline.answer(RecommendQuery(slot="home", user_id=user))
        before.close()
        late = make_click("late-1", "canary-late", "device-of-canary-late", item_id="i3")
        collector.submit(json.dumps([late]).encode())
        collector.close()
        roles.drain()
    for lock in site.root.rglob("*.lock"):
        lock.unlink()
    shutil.copytree(site.root, folder / "twin")
    receipt = erase(project, [LEAVER, *site.users], CLOCK)
    assert receipt.is_clean, receipt.searched.matches
    return project, open_project(folder / "twin"), receipt.counts["tables"]


def _said(user: str) -> Iterator[dict]:
    yield from make_imported_events([user])
    text = {"text": f"of {user}", "quoted": quote(user), "escaped": json.dumps(user)}
    yield make_click("of-a-friend", OTHERS[0], properties=text, ts=CLOCK.now() - 1_000_000)


def test_no_file_holds_the_id_in_any_encoding(twins: tuple[Project, Project, dict]) -> None:
    erased, twin, _ = twins
    needles = [needle for user in (LEAVER, *_users(2)) for needle in encodings(user)]
    assert any(needle in data for _, data in read_all_files(twin.root) for needle in needles)
    matches = {
        (name, needle)
        for name, data in read_all_files(erased.root)
        for needle in needles
        if needle in data
    }
    assert matches == set()


def _users(count: int) -> list[str]:
    return [f"canary-user-{number:03d}" for number in range(count)]


def test_others_are_as_in_the_twin(twins: tuple[Project, Project, dict]) -> None:
    erased, twin, counts = twins
    now = CLOCK.now()
    assert read_values(erased, OTHERS[1:], ITEMS, now) == read_values(twin, OTHERS[1:], ITEMS, now)
    columns = ["event_id", "type", "ts", "p", "item_id", "user_id", "person", "session_id"]
    old, new = _by_event(twin, columns), _by_event(erased, columns)
    assert len(old) == len(new), "no event is lost or doubled"
    others = {p for p, row in old.items() if (row["person"] or "").startswith("other-")}
    assert len(others) > 100
    assert {p: new[p] for p in others} == {p: old[p] for p in others}
    kept = ("type", "ts", "p", "item_id")
    assert [[row[name] for name in kept] for row in new.values()] == [
        [row[name] for name in kept] for row in old.values()
    ]
    answers = {row["request_id"]: row for row in _answers(erased)}
    exempt = sum(ERASED_EXEMPTION in (row["degraded"] or ()) for row in answers.values())
    assert exempt == counts["exempt from parity"]
    assert tb.Project.open(erased.root).features.verify(samples=20).erasure_note == (
        f"after an erasure, {counts['answers']} answers to erased people are gone, and "
        f"{exempt} others are not compared, since they may have read what was erased"
    )
    for row in _answers(twin):
        if (row["user_id"] or "") in OTHERS[1:]:
            assert answers[row["request_id"]]["items"] == row["items"]


def test_answers_of_before_are_still_compared(
    twins: tuple[Project, Project, dict], tmp_path: Path
) -> None:
    """Only what was given after the first event of the erased can have read their contribution."""
    root = Path(shutil.copytree(twins[1].root, tmp_path / "shop"))
    for lock in root.rglob("*.lock"):
        lock.unlink()
    project = open_project(root)
    receipt = erase(project, ["canary-late"], CLOCK)
    lake = Lake(project.paths.lake)
    report = compute_parity(project.features, lake.table("events"), lake.table("answers"))
    assert report.answers >= 4
    assert report.unequal == 0, report.examples
    assert report.exempt == receipt.counts["tables"].get("exempt from parity", 0)


FEATURES = """
from tailorbird.features import attribute, count, distinct, entity
user, item = entity("user"), entity("item")
item_clicks_7d = count("item_clicks_7d", item, "click", window="7d")
item_users = distinct("item_users", item, "click", of="user", window="28d", precision=8)
user_clicks_7d = count("user_clicks_7d", user, "click", window="7d")
category = attribute("category", item, "category", kind="categorical")
"""
SLOTS = """
from tailorbird.ranking import Slot
home = Slot("home", size=12, sources={"popular": 100}, objective={"click": 1.0}, hide_seen=())
"""


@pytest.mark.parametrize(("touched", "exempt"), [("i0", 4), ("i-shown-to-nobody", 0)])
def test_only_answers_with_a_touched_item_are_exempt(
    touched: str, exempt: int, tmp_path: Path
) -> None:
    """Where states of single items alone count people, all other answers are compared."""
    root = make_project(tmp_path / "shop").root
    (root / "features.py").write_text(FEATURES)
    (root / "slots.py").write_text(SLOTS)
    project = open_project(root)
    promote(project, project.features, "model")
    clicks = [
        make_click(f"c{number}", OTHERS[number % 14], item_id=f"i{number % 12}")
        for number in range(60)
    ]
    left = make_click("left", "leaver-4711", item_id=touched)
    with (
        EventCollector(project.stream, "serve-1", project.plan, CLOCK) as collector,
        InProcessRoles(project, CLOCK) as roles,
    ):
        collector.submit(json.dumps([*make_item_events(), *clicks, left]).encode())
        roles.drain()
        parts = InProcessServer(project, CLOCK, collector=collector, seed=1)
        for user in OTHERS[:4]:
            parts.pipeline.answer(RecommendQuery(slot="home", user_id=user))
        parts.close()
        collector.close()
        roles.drain()
    receipt = erase(project, ["leaver-4711"], CLOCK)
    assert receipt.is_clean, receipt.searched.matches
    lake = Lake(project.paths.lake)
    report = compute_parity(project.features, lake.table("events"), lake.table("answers"))
    assert (report.answers, report.exempt) == (4 - exempt, exempt)
    assert report.unequal == 0, report.examples


def _by_event(project: Project, columns: list[str]) -> dict[int, dict]:
    rows = Lake(project.paths.lake).events(columns).to_pylist()
    return {row["p"]: row for row in sorted(rows, key=lambda row: row["p"])}


def _answers(project: Project) -> list[dict]:
    return Lake(project.paths.lake).table("answers").to_pylist()
