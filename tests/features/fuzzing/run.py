"""A night of `test_fuzz.py`: example after example until the time is up, and what they covered.

    python -m tests.features.fuzzing.run --minutes 480
    python -m tests.features.fuzzing.run --mutants         checks that random examples find broken engines

Each failing example is shrunk, printed, and kept in `fuzz-failures/` as it is printed; Hypothesis
keeps it in `.hypothesis/` besides and tries it first the next time. Exit status 1 if there was any.
"""

import argparse
import random
import sys
import time
import traceback
from pathlib import Path

from hypothesis import HealthCheck, Phase, settings
from hypothesis.database import DirectoryBasedExampleDatabase
from hypothesis.stateful import run_state_machine_as_test
from tests.features.fuzzing import words, world
from tests.features.fuzzing.machine import Site, as_json, kinds_left_out
from tests.features.fuzzing.mutants import AIMED, MUTANTS, mutated

from tailorbird.events import SimulatedClock
from tailorbird.features import load_features
from tailorbird.features.online.worker import FeatureWorker

ROUND = 50  # examples between two looks at the clock
HUNTED = 1_000  # examples in which a mutant is to be caught
FAILURES = Path("fuzz-failures")


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tests.features.fuzzing.run", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--minutes", type=float, default=15)
    parser.add_argument(
        "--steps", type=int, default=25, help="what happens in one example, at most"
    )
    parser.add_argument("--worker", type=Path, help="be the worker of a test that kills it")
    parser.add_argument(
        "--mutants", action="store_true", help="look for the faults of fuzz_mutants instead"
    )
    given = parser.parse_args()
    if given.worker is not None:
        be_worker(given.worker)
        return
    if given.mutants:
        hunt(given.steps)
    end, started, rounds, failures = time.monotonic() + 60 * given.minutes, time.monotonic(), 0, 0
    counted = _counting()
    while time.monotonic() < end:
        rounds += 1
        try:
            run_state_machine_as_test(
                _machine(random.getrandbits(64)), settings=_profile(given.steps)
            )
        except Exception as error:
            failures += 1
            _keep(error, failures)
        spent = (time.monotonic() - started) / 60
        print(
            f"{spent:6.1f} min  {counted[0]:7,} examples  {counted[1]:10,} values read  "
            f"{failures} failing",
            file=sys.stderr,
            flush=True,
        )
    print(
        f"{counted[0]:,} examples with {counted[1]:,} values read in {given.minutes:g} "
        f"minutes, {failures} failing"
    )
    print(f"kinds and incidents: {as_json()}")
    left_out = kinds_left_out()
    print(f"kinds never drawn: {', '.join(sorted(left_out)) or 'none'}")
    raise SystemExit(1 if failures or left_out else 0)


def hunt(steps: int) -> None:
    """Each mutant, until it is caught; exit status 1 if one was not within `HUNTED` examples."""
    spared = 0
    for mutant in MUTANTS:
        started, machine = time.monotonic(), _machine(random.getrandbits(64))
        machine.aimed = AIMED
        caught = "not caught"
        try:
            with mutated(mutant):
                run_state_machine_as_test(
                    machine,
                    settings=settings(
                        _profile(steps), max_examples=HUNTED, phases=[Phase.generate]
                    ),
                )
        except AssertionError:
            caught = "caught"
        spared += caught != "caught"
        print(f"{mutant.name}: {caught} after {time.monotonic() - started:.0f} s", flush=True)
    raise SystemExit(1 if spared else 0)


def _profile(steps: int) -> settings:
    return settings(
        max_examples=ROUND,
        stateful_step_count=steps,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        database=DirectoryBasedExampleDatabase(".hypothesis/fuzz"),
        print_blob=True,
    )


def _machine(seed: int) -> type[Site]:
    """The machine with a seed of its own: a run of Hypothesis would else begin with the same
    examples.
    """
    machine = type(
        "Site", (Site,), {"__module__": Site.__module__, "__qualname__": Site.__qualname__}
    )
    machine._hypothesis_internal_use_seed = seed
    return machine


def _counting() -> list[int]:
    """[examples, values], which grow while the machine runs."""
    counted, sound = [0, 0], world.World.differences

    def differences(self: world.World, requests: list) -> list[str]:
        different = sound(self, requests)
        counted[0] += 1
        counted[1] += sum(
            one.rows.numeric.size + one.rows.categorical.size + len(one.rows.sequences)
            for _, one in self.reads
        )
        return different

    world.World.differences = differences
    return counted


def _keep(error: Exception, number: int) -> None:
    text = "".join(traceback.format_exception(error))
    FAILURES.mkdir(exist_ok=True)
    path = FAILURES / f"{time.strftime('%Y%m%d-%H%M%S')}-{number}.txt"
    path.write_text(text)
    print(text[-6_000:], file=sys.stderr)
    print(f"kept in {path}", file=sys.stderr)


def be_worker(folder: Path) -> None:
    features = load_features(folder / "features.py")
    with FeatureWorker(
        folder / "routed.db", folder / "state", features, clock=SimulatedClock(world.BASE)
    ) as worker:
        while worker.step(rows_max=1).rows:
            pass


if __name__ == "__main__":
    assert words.calls()
    main()
