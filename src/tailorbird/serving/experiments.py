"""The running experiments, as the registry has them, swapped under running requests.

A thread checks `experiments.json` of the registry five times a second. A file that cannot be read,
or an experiment that names a slot that this server lacks, leaves the rest in force and is logged.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tailorbird.atomic_write import FileStamp, file_stamp
from tailorbird.errors import TailorbirdError
from tailorbird.experiments.assign import INTERLEAVED, Enrolment, Experiment, assign
from tailorbird.periodic import PeriodicTask
from tailorbird.ranking import Slot
from tailorbird.registry import Registry, StartedExperiment, read_experiments
from tailorbird.registry.experiments import FILE
from tailorbird.serving.messages import QueryError

POLL_S = 0.2
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Assignment:
    """The arm of a request; "" is none, and the slot's own policy answers.

    Attributes:
        experiment: as it is logged; "" for a forced arm, which no analysis counts.
        slot: the slot whose settings the arm uses; "" for the requested slot.
        interleaved: the two arms that the response is drafted from, the control first.
    """

    experiment: str = ""
    arm: str = ""
    policy: str = "model"
    slot: str = ""
    is_forced: bool = False
    interleaved: tuple["Assignment", ...] = ()

    @classmethod
    def of(cls, experiment: Experiment, arm: str, *, is_forced: bool = False) -> "Assignment":
        """Return the assignment to an arm; to both of an interleaved experiment unless forced."""
        if experiment.is_interleaved and not is_forced:
            pair = (experiment.control_arm, *experiment.treatments)
            arms = tuple(cls._of_arm(experiment, each, experiment.name) for each in pair)
            return cls(experiment.name, INTERLEAVED, INTERLEAVED, interleaved=arms)
        return cls._of_arm(experiment, arm, "" if is_forced else experiment.name, is_forced)

    @classmethod
    def _of_arm(
        cls, experiment: Experiment, arm: str, name: str, is_forced: bool = False
    ) -> "Assignment":
        slot = experiment.slots.get(arm, "")
        return cls(name, arm, experiment.policy_of(arm), slot, is_forced)


_NO_ARM = Assignment()


class DeclaredExperiments:
    """The permanent splits of slots, for evaluation and tests."""

    def assign(self, slot: Slot, person: str, session: str, forced_arm: str = "") -> Assignment:
        """Return the arm of a request; raises QueryError if a forced arm does not exist."""
        split = slot.experiment
        if forced_arm:
            return _force(forced_arm, [] if split is None else [split], slot.name)
        arm = assign(split, person) if split is not None else ""
        return _NO_ARM if split is None or not arm else Assignment.of(split, arm)


class LiveExperiments:
    """The started experiments of a registry. `assign` may be called from any thread.

    Args:
        slots: by name.
    """

    def __init__(
        self, registry: Registry, slots: Mapping[str, Slot], *, poll_s: float = POLL_S
    ) -> None:
        self._registry, self._slots = registry, slots
        self._file_stamp: FileStamp | None = None
        self._enrolments: Mapping[str, Sequence[Enrolment]] = {}
        self._permanent = DeclaredExperiments()
        self.loop = PeriodicTask("experiments", self.tick, interval_s=poll_s, run_at_start=False)

    def assign(self, slot: Slot, person: str, session: str, forced_arm: str = "") -> Assignment:
        """Return the arm of a request; raises QueryError if a forced arm does not exist."""
        if slot.experiment is not None:
            return self._permanent.assign(slot, person, session, forced_arm)
        enrolments = self._enrolments.get(slot.name, ())
        if forced_arm:
            return _force(forced_arm, [each.experiment for each in enrolments], slot.name)
        for enrolment in enrolments:
            experiment = enrolment.experiment
            arm = enrolment.assign(session if experiment.unit == "session" else person)
            if arm:
                return Assignment.of(experiment, arm)
        return _NO_ARM

    def start(self) -> None:
        """Load the running experiments, and follow changes."""
        self.tick()
        self.loop.start()

    def stop(self) -> None:
        """Stop following changes."""
        self.loop.stop()

    def tick(self) -> bool:
        """Load the experiments if the file changed, and return whether it did."""
        stamp = file_stamp(self._registry.path / FILE)
        if stamp == self._file_stamp:
            return False
        self._file_stamp = stamp
        try:
            running = read_experiments(self._registry.path).running()
        except TailorbirdError as error:
            log.error("the experiments cannot be read, those before go on: %s", error)
            return False
        enrolments: dict[str, list[Enrolment]] = {}
        for started in running:
            if (enrolment := self._enrol(started)) is not None:
                enrolments.setdefault(started.slot, []).append(enrolment)
        self._enrolments = enrolments
        log.info("experiments run: %s", ", ".join(each.name for each in running) or "none")
        return True

    def _enrol(self, started: StartedExperiment) -> Enrolment | None:
        experiment = Experiment.from_dict(started.declaration)
        missing = {started.slot, *experiment.slots.values()} - self._slots.keys()
        if missing:
            log.error(
                "experiment %s does not run here: there is no slot %s",
                started.name,
                ", ".join(sorted(missing)),
            )
            return None
        return Enrolment(experiment, started.first, started.size, started.ramp)


def _force(arm: str, experiments: Sequence[Experiment], slot: str) -> Assignment:
    for experiment in experiments:
        if arm in experiment.arms:
            return Assignment.of(experiment, arm, is_forced=True)
    arms = [each for experiment in experiments for each in experiment.arms]
    raise QueryError(
        f"slot {slot} runs no arm {arm[:60]!r}",
        path="$.arm",
        code="unknown_arm",
        fix=f"use one of {', '.join(arms)}" if arms else "start an experiment first",
    )
