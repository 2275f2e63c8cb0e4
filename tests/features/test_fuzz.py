"""Reference = backfill = stream = a state built anew, for every kind of declaration, whatever a
site goes through.

The site is `fuzzing/world.py`, what happens to it `machine.py`, its declarations `words.py`. Here it
runs for seconds; `make fuzz FUZZ_MINUTES=480` goes on for a night.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, find, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import run_state_machine_as_test
from tests.features.fuzzing import words
from tests.features.fuzzing.machine import Site, kinds_left_out
from tests.features.fuzzing.mutants import MUTANTS, Mutant, Scene, mutated
from tests.features.fuzzing.mutants import differences as scene_differences
from tests.features.fuzzing.world import BASE
from tests.support import features as kit
from tests.support.drawn.events import ITEMS
from tests.support.drawn.events import event as routed_event
from tests.support.drawn.three_readings import SampledRead, find_differences

from tailorbird.events.clock import SECOND
from tailorbird.features import ReadRequest
from tailorbird.features.online.read import Reader

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "100"))


def profile(examples: int, **more: object) -> settings:
    return settings(
        max_examples=examples,
        stateful_step_count=14,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
        **more,
    )


def test_every_kind_of_the_vocabulary_is_made_by_a_call() -> None:
    made = {kind for call in words.calls().values() for kind in words.made_by(call)}
    assert words.kinds() <= made, (
        f"no call of tailorbird.features makes {words.kinds() - made}; what is to be drawn?"
    )


@pytest.mark.slow
@pytest.mark.parametrize("call", sorted(words.calls()))
def test_every_call_can_be_drawn(call: str) -> None:
    if call == "derived":
        drawn = find(
            words.declarations(),
            lambda lines: lines[-1].startswith("derived"),
            settings=profile(2_000, phases=[Phase.generate]),
        )
        assert words.feature_set(drawn)
        return
    text = find(
        words.line("f", call),
        lambda text: text is not None,
        settings=profile(500, phases=[Phase.generate]),
    )
    assert text is not None
    assert {type(one) for one in words.made(text)} <= words.made_by(words.calls()[call])


@pytest.mark.slow
def test_all_readings_are_equal_after_any_history() -> None:
    Site.drawn.clear()
    run_state_machine_as_test(Site, settings=profile(EXAMPLES, phases=[Phase.generate]))
    # Hypothesis draws by the constants that it finds in all loaded modules; that each call can be
    # drawn is tested above.
    assert len(kinds_left_out()) <= 2, kinds_left_out()


@pytest.mark.parametrize(
    "scene", sorted({mutant.scene for mutant in MUTANTS}, key=lambda scene: scene.__qualname__)
)
def test_a_sound_engine_plays_every_scene_without_a_difference(
    scene: Scene, tmp_path: Path
) -> None:
    assert scene_differences(scene, tmp_path / "site") == []


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_an_engine_that_is_wrong_shows_in_its_scene(mutant: Mutant, tmp_path: Path) -> None:
    with mutated(mutant):
        different = scene_differences(mutant.scene, tmp_path / "site")
    assert any("reference, backfill" in one or "is taken for" in one for one in different)


@pytest.mark.slow
@settings(profile(int(os.environ.get("FUZZ_KILLS", "4")), phases=[Phase.generate]))
@given(
    lines=words.declarations(),
    rows=st.lists(
        routed_event(50 * 60 * SECOND),
        min_size=12,
        max_size=20,
        unique_by=lambda row: row["event_id"],
    ),
    site=st.sampled_from(["worker.before_step", "worker.before_commit", "worker.after_commit"]),
    hit=st.integers(1, 4),
)
def test_a_worker_that_is_killed_resumes_without_a_trace(
    tmp_path_factory: pytest.TempPathFactory,
    lines: tuple[str, ...],
    rows: list[dict],
    site: str,
    hit: int,
) -> None:
    folder = tmp_path_factory.mktemp("killed")
    (folder / "features.py").write_text(words.source(lines))
    log = kit.Log(folder)
    routed = log.append([rows[start : start + 3] for start in range(0, len(rows), 3)])
    log.close()
    assert _worker(folder, f"{site}=kill@{hit}").returncode == -9
    ended = _worker(folder, "")
    assert ended.returncode == 0, ended.stderr
    features, reads = words.feature_set(lines), []
    reader = Reader(folder / "state", features)
    for request in (
        ReadRequest("u1", session_id="s1", now=0),
        ReadRequest(anonymous_id="a1", now=BASE),
    ):
        reads.append(SampledRead(request, ITEMS, reader.read(request, list(ITEMS))))
    reader.close()
    assert reads[0].rows.log_position == len(rows)
    assert find_differences(features, kit.table(routed), reads) == []


def _worker(folder: Path, armed: str) -> subprocess.CompletedProcess[str]:
    """A worker in a process of its own that takes in all that there is, a block a step."""
    program = [sys.executable, "-m", "tests.features.fuzzing.run", "--worker", str(folder)]
    return subprocess.run(
        program,
        env={**os.environ, "TAILORBIRD_FAULTS": armed},
        capture_output=True,
        text=True,
        timeout=120,
    )
