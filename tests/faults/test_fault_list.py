"""The reliability page is made from the list of faults and the last run; its tests exist."""

import json

import pytest
from docs.reliability_page import FIGURES, PAGE, ROOT, not_played, page
from tests.faults.attack_list import ATTACKS
from tests.faults.chaos.live import LIVE
from tests.faults.chaos.mutants import names
from tests.faults.chaos.trials import KINDS
from tests.faults.fault_list import FAULTS


def test_the_page_is_fresh() -> None:
    assert PAGE.read_text() == page(json.loads(FIGURES.read_text())), (
        "stale; run: python docs/reliability_page.py"
    )


def test_every_fault_is_listed_once_with_tests_or_a_reason() -> None:
    assert [fault.number for fault in FAULTS] == [
        f"F{place}" for place in range(1, len(FAULTS) + 1)
    ]
    assert all(each.tests or each.missing for each in (*FAULTS, *ATTACKS))


@pytest.mark.parametrize(
    "named", sorted({test for each in (*FAULTS, *ATTACKS) for test in each.tests})
)
def test_a_test_that_is_named_is_there(named: str) -> None:
    if named.startswith("chaos: "):
        assert named.removeprefix("chaos: ") in {*KINDS, *(drill.name for drill in LIVE)}
        return
    path, _, name = named.partition("::")
    assert f"\ndef {name}(" in (ROOT / path).read_text()


def test_the_last_run_was_of_all_there_is_in_one_revision_and_lost_nothing() -> None:
    figures = json.loads(FIGURES.read_text())
    run = figures["run"]
    assert run["kills"] >= 500
    assert (run["lost"], run["doubled"], run["unequal"]) == (0, 0, 0)
    assert not not_played(run), (
        "make chaos, and take its figures up: docs/reliability_page.py --run"
    )
    assert not run["carried"], "one run, of one revision"
    assert len({each["revision"] for each in (*run["tried"].values(), *run["drills"])}) == 1
    assert [row["name"] for row in figures["mutants"]] == names()
    assert all(row["caught"] for row in figures["mutants"])


@pytest.mark.parametrize(
    ("silent", "expected"),
    [
        (3, "3 of them did harm that nobody was told of (lost 6, doubled 0, unequal 0)"),
        (0, "None of those did harm"),
    ],
)
def test_right_below_the_headline_stands_what_it_leaves_out(silent: int, expected: str) -> None:
    figures = json.loads(FIGURES.read_text())
    figures["run"]["swallowed_writes"] |= {
        "silent": silent,
        "silent_counts": {"lost": 2 * silent, "doubled": 0, "unequal": 0},
    }
    headline, _, below = page(figures).partition("`kills ")[2].partition("\n\n")
    assert headline.startswith(str(figures["run"]["kills"]))
    assert (
        f"leave out the {figures['run']['swallowed_writes']['tried']} writes that a disk swallowed"
        in below.partition("\n\n")[0]
    )
    assert expected in below.partition("\n\n")[0]
