"""Reference = backfill = stream = a state built anew, for every kind of declaration, whatever a site goes through.

The site is `fuzz_world`, what happens to it `fuzz_machine`, its declarations `fuzz_words`. Here it runs for seconds;
`make fuzz FUZZ_MINUTES=480` goes on for a night.
"""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, Phase, find, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import run_state_machine_as_test
from tests.features import fuzz_words as words
from tests.features import kit
from tests.features.drawn_events import ITEMS
from tests.features.drawn_events import event as routed_event
from tests.features.fuzz_machine import Site, kinds_left_out
from tests.features.fuzz_world import BASE
from tests.features.three_readings import Asked, differences

from tailorbird import faults
from tailorbird.events.clock import SECOND
from tailorbird.events.schema import micros
from tailorbird.features import ReadRequest, asof, read, runs, worker
from tailorbird.features.declare import SESSION_GAP
from tailorbird.features.read import Reader
from tailorbird.features.worker import FeatureWorker

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "100"))
MUTANT_EXAMPLES = 300  # within which each is to be caught


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
    assert words.kinds() <= made, f"no call of tailorbird.features makes {words.kinds() - made}; what is to be drawn?"


@pytest.mark.parametrize("call", sorted(words.calls()))
def test_every_call_can_be_drawn(call: str) -> None:
    if call == "derived":
        drawn = find(words.declarations(), lambda lines: lines[-1].startswith("derived"), settings=profile(2_000))
        assert words.feature_set(drawn)
        return
    text = find(words.line("f", call), lambda text: text is not None, settings=profile(500))
    assert text is not None
    assert {type(one) for one in words.made(text)} <= words.made_by(words.calls()[call])


def test_whatever_happens_the_readings_are_one() -> None:
    Site.drawn.clear()
    run_state_machine_as_test(Site, settings=profile(EXAMPLES, phases=[Phase.generate]))
    assert kinds_left_out() == set()


# Of the mutants' kinds, so that not many examples are needed.
AIMED = (
    'count("f0", entity(), ("click", "view", "rating", "search"), window="1h", hop="10m")',
    'time_since("f1", entity(), ("click", "view", "rating"))',
    'sequence("f2", entity("user"), ("click", "view", "rating"), length=5)',
    'session_length("f3")',
)


def _a_tile_too_few(patch: pytest.MonkeyPatch) -> None:
    """The stream's windows reach one tile less far."""
    patch.setattr(faults, "cut", lambda site: site == "features.tile")


def _late_events_are_lost(patch: pytest.MonkeyPatch) -> None:
    """A worker drops what is older than the newest event that it has seen."""
    sound, newest = FeatureWorker._commit, {}

    def commit(self: FeatureWorker, table: pa.Table, position: object) -> int:
        ts, before = micros(table["ts"]), newest.get(id(self), 0)
        newest[id(self)] = max(before, int(ts.max(initial=0)))
        return sound(self, table.filter(pa.array((ts >= before) | (ts == 0))), position)

    patch.setattr(FeatureWorker, "_commit", commit)


def _a_session_breaks_at_exactly_its_gap(patch: pytest.MonkeyPatch) -> None:
    """>= where > is meant, in whole microseconds."""
    patch.setattr(runs, "SESSION_GAP", SESSION_GAP - 1)


def _the_backfill_counts_what_happens_at_t(patch: pytest.MonkeyPatch) -> None:
    """ts <= t where ts < t is meant."""
    sound = asof.Timeline.at
    patch.setattr(asof.Timeline, "at", lambda self, keys, t, p: sound(self, keys, t + 1, p))


def _the_backfill_does_not_know_the_newest(patch: pytest.MonkeyPatch) -> None:
    """p < where p <= is meant."""
    sound = asof.Timeline.at
    patch.setattr(asof.Timeline, "at", lambda self, keys, t, p: sound(self, keys, t, p - 1))


def _an_identify_that_came_late_wins(patch: pytest.MonkeyPatch) -> None:
    """Not the newest in time, but the last to arrive, says who an anonymous id is."""
    patch.setattr(
        worker, "_newer_aliases", lambda transaction, found: [(worker.alias_key(name), one.encode()) for name, one in found.items()]
    )


def _a_reading_record_never_runs_out(patch: pytest.MonkeyPatch) -> None:
    """What has left a window since the record was written is still counted."""
    patch.setattr(read._Moment, "_renew", lambda self, index: 0)


@pytest.mark.parametrize(
    "mutant",
    [
        _a_tile_too_few,
        _late_events_are_lost,
        _a_session_breaks_at_exactly_its_gap,
        _the_backfill_counts_what_happens_at_t,
        _the_backfill_does_not_know_the_newest,
        _an_identify_that_came_late_wins,
        _a_reading_record_never_runs_out,
    ],
    ids=lambda mutant: mutant.__name__.strip("_"),
)
def test_the_suite_fails_for_an_engine_that_is_wrong(mutant: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch) -> None:
    mutant(monkeypatch)
    monkeypatch.setattr(Site, "aimed", AIMED)
    with pytest.raises(AssertionError, match=r"reference, backfill|is taken for"):
        run_state_machine_as_test(Site, settings=profile(MUTANT_EXAMPLES, phases=[Phase.generate], report_multiple_bugs=False))


@settings(profile(int(os.environ.get("FUZZ_KILLS", "4")), phases=[Phase.generate]))
@given(
    lines=words.declarations(),
    rows=st.lists(routed_event(50 * 60 * SECOND), min_size=12, max_size=20, unique_by=lambda row: row["event_id"]),
    site=st.sampled_from(["worker.before_step", "worker.before_commit", "worker.after_commit"]),
    hit=st.integers(1, 4),
)
def test_a_worker_that_is_killed_goes_on_as_if_nothing_had_been(
    tmp_path_factory: pytest.TempPathFactory, lines: tuple[str, ...], rows: list[dict], site: str, hit: int
) -> None:
    folder = tmp_path_factory.mktemp("killed")
    (folder / "features.py").write_text(words.source(lines))
    log = kit.Log(folder)
    known = log.append([rows[start : start + 3] for start in range(0, len(rows), 3)])
    log.close()
    assert _worker(folder, f"{site}=kill@{hit}").returncode == -9
    ended = _worker(folder, "")
    assert ended.returncode == 0, ended.stderr
    features, asked = words.feature_set(lines), []
    reader = Reader(folder / "state", features)
    for request in (ReadRequest("u1", session_id="s1", now=0), ReadRequest(anonymous_id="a1", now=BASE)):
        asked.append(Asked(request, reader.read(request, list(ITEMS))))
    reader.close()
    assert asked[0].rows.p == len(rows)
    assert differences(features, kit.table(known), asked) == []


def _worker(folder: Path, armed: str) -> subprocess.CompletedProcess[str]:
    """A worker in a process of its own that takes in all that there is, a block a step."""
    program = [sys.executable, "-m", "tests.features.fuzz", "--worker", str(folder)]
    return subprocess.run(program, env={**os.environ, "TAILORBIRD_FAULTS": armed}, capture_output=True, text=True, timeout=120)
