"""The page about reliability is made from the list of faults and the last run, and every test that it names is there."""

import json

import pytest
from docs.reliability_page import FOUND, PAGE, ROOT, page
from tests.faults.chaos.live import LIVE
from tests.faults.chaos.mutants import names
from tests.faults.chaos.scenes import SCENES
from tests.faults.chaos.trials import KINDS
from tests.faults.fault_list import FAULTS


def test_the_page_is_fresh() -> None:
    assert PAGE.read_text() == page(json.loads(FOUND.read_text())), "stale; run: python docs/reliability_page.py"


def test_every_fault_is_there_once_and_says_what_is_shown_or_why_not() -> None:
    assert [fault.number for fault in FAULTS] == [f"F{number}" for number in range(1, 25)]
    assert all(fault.tests or fault.missing for fault in FAULTS)


@pytest.mark.parametrize("named", sorted({test for fault in FAULTS for test in fault.tests}))
def test_a_test_that_is_named_is_there(named: str) -> None:
    if named.startswith("chaos: "):
        assert named.removeprefix("chaos: ") in {*KINDS, *(drill.name for drill in LIVE)}
        return
    path, _, name = named.partition("::")
    assert f"\ndef {name}(" in (ROOT / path).read_text()


def test_the_last_run_was_of_all_scenes_and_drills_and_lost_nothing() -> None:
    found = json.loads(FOUND.read_text())
    run = found["run"]
    assert run["kills"] >= 500
    assert (run["lost"], run["doubled"], run["unequal"]) == (0, 0, 0)
    assert {scene.name for scene in SCENES} <= run["by_kind"]["kill"].keys()
    assert [drill["name"] for drill in run["drills"]] == [drill.name for drill in LIVE]
    assert [row["name"] for row in found["mutants"]] == names()
    assert all(row["caught"] for row in found["mutants"])


@pytest.mark.parametrize(
    ("silent", "told"), [(3, "3 of them did harm that nobody was told of (lost 6, doubled 0, unequal 0)"), (0, "None of those did harm")]
)
def test_right_below_the_headline_stands_what_it_leaves_out(silent: int, told: str) -> None:
    found = json.loads(FOUND.read_text())
    found["run"]["swallowed_writes"] |= {"silent": silent, "silent_counts": {"lost": 2 * silent, "doubled": 0, "unequal": 0}}
    headline, _, below = page(found).partition("`kills ")[2].partition("\n\n")
    assert headline.startswith(str(found["run"]["kills"]))
    assert f"leave out the {found['run']['swallowed_writes']['tried']} writes that a disk swallowed" in below.partition("\n\n")[0]
    assert told in below.partition("\n\n")[0]
