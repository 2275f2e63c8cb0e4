"""The running experiments, as the registry has them, swapped under running requests.

A thread checks `experiments.json` of the registry five times a second. A file that cannot be read,
or an experiment that names a slot that this server lacks, leaves the rest in force and is logged.
An experiment whose arms name versions of the model begins here once this server has loaded them.
"""

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from tailorbird.atomic_write import FileStamp, file_stamp
from tailorbird.errors import TailorbirdError
from tailorbird.experiments.assign import INTERLEAVED, Enrolment, Experiment, assign
from tailorbird.periodic import PeriodicTask
from tailorbird.ranking import Slot
from tailorbird.ranking.policy.condition import Condition, compile_condition
from tailorbird.registry import Registry, StartedExperiment, read_experiments
from tailorbird.registry.experiments import EXPERIMENTS_FILE
from tailorbird.serving.messages import QueryError

POLL_S = 0.2
EligibilityCheck = Callable[[Condition], bool]
log = logging.getLogger(__name__)


class ArmVersions(Protocol):
    """Holds the versions that arms name, as `serving.models.arms.ArmBundles` does."""

    def hold(self, versions: Collection[str]) -> Collection[str]:
        """Hold these versions and release all others; return those that can serve now."""
        ...

    def tick(self) -> bool:
        """Load what is to be held and is not there yet; return whether anything was loaded."""
        ...


class _NoVersions:
    """Holds no version: for servers without a registry of models, and for tests."""

    def hold(self, versions: Collection[str]) -> Collection[str]:
        return ()

    def tick(self) -> bool:
        return False


@dataclass(frozen=True)
class Assignment:
    """The arm of a request; "" is none, and the slot's own policy answers.

    Attributes:
        experiment: the experiment of the arm.
        slot: the slot whose settings the arm uses; "" for the requested slot.
        version: the version of the model that serves the arm; "" for the champion.
        interleaved: the two arms that the response is drafted from, the control first.
    """

    experiment: str = ""
    arm: str = ""
    policy: str = "model"
    slot: str = ""
    version: str = ""
    is_forced: bool = False
    interleaved: tuple["Assignment", ...] = ()

    @property
    def logged_experiment(self) -> str:
        """The experiment as it is logged; "" for a forced arm, which no analysis counts."""
        return "" if self.is_forced else self.experiment

    @classmethod
    def of(cls, enrolment: Enrolment, arm: str, *, is_forced: bool = False) -> "Assignment":
        """Return the assignment to an arm; to both of an interleaved experiment unless forced."""
        experiment = enrolment.experiment
        if experiment.is_interleaved and not is_forced:
            arm_names = (experiment.control_arm, *experiment.treatments)
            arms = tuple(cls._of_arm(enrolment, arm) for arm in arm_names)
            return cls(experiment.name, INTERLEAVED, INTERLEAVED, interleaved=arms)
        return cls._of_arm(enrolment, arm, is_forced)

    @classmethod
    def _of_arm(cls, enrolment: Enrolment, arm: str, is_forced: bool = False) -> "Assignment":
        experiment = enrolment.experiment
        return cls(
            experiment.name,
            arm,
            experiment.policy_of(arm),
            experiment.slots.get(arm, ""),
            enrolment.versions.get(arm, ""),
            is_forced,
        )


_NO_ARM = Assignment()


def _is_eligible(condition: Condition) -> bool:
    """Take everybody, for callers without a request."""
    return True


class DeclaredExperiments:
    """The permanent splits of slots, for evaluation and tests."""

    def assign(
        self,
        slot: Slot,
        person: str,
        session: str,
        forced_arm: str = "",
        is_eligible: EligibilityCheck = _is_eligible,
    ) -> Assignment:
        """Return the arm of a request; raises QueryError if a forced arm does not exist."""
        enrolment = None if slot.experiment is None else Enrolment(slot.experiment)
        if forced_arm:
            return _force_arm(forced_arm, [] if enrolment is None else [enrolment], slot.name)
        arm = "" if enrolment is None else assign(enrolment.experiment, person)
        return _NO_ARM if enrolment is None or not arm else Assignment.of(enrolment, arm)


@dataclass(frozen=True)
class _RunningExperiment:
    """A running experiment of this server's slots."""

    enrolment: Enrolment
    condition: Condition | None

    @property
    def versions(self) -> frozenset[str]:
        return frozenset(self.enrolment.versions.values())


class LiveExperiments:
    """The started experiments of a registry. `assign` may be called from any thread.

    Args:
        slots: by name.
        versions: loads the versions that arms name.
    """

    def __init__(
        self,
        registry: Registry,
        slots: Mapping[str, Slot],
        *,
        versions: ArmVersions | None = None,
        poll_s: float = POLL_S,
    ) -> None:
        self._registry = registry
        self._slots = slots
        self._versions: ArmVersions = versions or _NoVersions()
        self._file_stamp: FileStamp | None = None
        self._running_experiments: Sequence[_RunningExperiment] = ()
        self._experiments_by_slot: Mapping[str, Sequence[_RunningExperiment]] = {}
        self._loaded_versions: frozenset[str] = frozenset()
        self._permanent_splits = DeclaredExperiments()
        self.periodic_task = PeriodicTask(
            "experiments", self.tick, interval_s=poll_s, run_at_start=False
        )

    def assign(
        self,
        slot: Slot,
        person: str,
        session: str,
        forced_arm: str = "",
        is_eligible: EligibilityCheck = _is_eligible,
    ) -> Assignment:
        """Return the arm of a request; raises QueryError if a forced arm does not exist.

        Args:
            is_eligible: whether a condition holds for the request.
        """
        if slot.experiment is not None:
            return self._permanent_splits.assign(slot, person, session, forced_arm)
        running_experiments = self._experiments_by_slot.get(slot.name, ())
        if forced_arm:
            return _force_arm(
                forced_arm,
                [running_experiment.enrolment for running_experiment in running_experiments],
                slot.name,
            )
        for running_experiment in running_experiments:
            experiment = running_experiment.enrolment.experiment
            arm = running_experiment.enrolment.assign(
                session if experiment.unit == "session" else person
            )
            if arm and (
                running_experiment.condition is None or is_eligible(running_experiment.condition)
            ):
                return Assignment.of(running_experiment.enrolment, arm)
        return _NO_ARM

    def start(self) -> None:
        """Load the running experiments, and follow changes."""
        self.refresh()
        self.periodic_task.start()

    def refresh(self) -> bool:
        """Load the running experiments with their versions now; return whether any changed."""
        has_changed = self.tick()
        self._versions.tick()
        return self.tick() or has_changed

    def stop(self) -> None:
        """Stop following changes."""
        self.periodic_task.stop()

    def tick(self) -> bool:
        """Follow the file and the loaded versions, and return whether anything changed."""
        has_changed = self._read_if_changed()
        needed_versions = frozenset[str]().union(
            *(running_experiment.versions for running_experiment in self._running_experiments)
        )
        if has_changed:
            # Experiments without versions begin at once, and those that ended release theirs.
            self._loaded_versions &= needed_versions
            self._publish()
        if needed_versions - self._loaded_versions or has_changed:
            loaded_versions = frozenset(self._versions.hold(needed_versions))
            if loaded_versions != self._loaded_versions:
                self._loaded_versions = loaded_versions
                has_changed = True
                self._publish()
        return has_changed

    def _read_if_changed(self) -> bool:
        stamp = file_stamp(self._registry.path / EXPERIMENTS_FILE)
        if stamp == self._file_stamp:
            return False
        self._file_stamp = stamp
        try:
            started_experiments = read_experiments(self._registry.path).running()
        except TailorbirdError as error:
            log.error("the experiments cannot be read, those before go on: %s", error)
            return False
        runnable_experiments = (self._enrol(experiment) for experiment in started_experiments)
        self._running_experiments = [
            running_experiment
            for running_experiment in runnable_experiments
            if running_experiment is not None
        ]
        return True

    def _publish(self) -> None:
        """Swap in the experiments whose versions are loaded."""
        experiments_by_slot: dict[str, list[_RunningExperiment]] = {}
        for running_experiment in self._running_experiments:
            if running_experiment.versions <= self._loaded_versions:
                experiments_by_slot.setdefault(
                    running_experiment.enrolment.experiment.slot, []
                ).append(running_experiment)
        self._experiments_by_slot = experiments_by_slot
        names = [
            running_experiment.enrolment.experiment.name
            for running_experiments in experiments_by_slot.values()
            for running_experiment in running_experiments
        ]
        log.info("experiments run: %s", ", ".join(names) or "none")

    def _enrol(self, started_experiment: StartedExperiment) -> _RunningExperiment | None:
        experiment = Experiment.from_dict(started_experiment.declaration)
        missing_slots = {started_experiment.slot, *experiment.slots.values()} - self._slots.keys()
        if missing_slots:
            log.error(
                "experiment %s does not run here: there is no slot %s",
                started_experiment.name,
                ", ".join(sorted(missing_slots)),
            )
            return None
        condition = None
        if experiment.where:
            try:
                condition = compile_condition(
                    experiment.where, where=f"experiment {started_experiment.name}"
                )
            except TailorbirdError as error:
                log.error("experiment %s does not run here: %s", started_experiment.name, error)
                return None
        enrolment = Enrolment(
            experiment,
            started_experiment.first,
            started_experiment.size,
            started_experiment.ramp,
            started_experiment.versions,
        )
        return _RunningExperiment(enrolment, condition)


def _force_arm(forced_arm: str, enrolments: Sequence[Enrolment], slot: str) -> Assignment:
    """Return the assignment to an arm given as ARM, or as EXPERIMENT:ARM where several have it."""
    enrolment_and_arm_by_name = {
        f"{enrolment.experiment.name}:{arm}": (enrolment, arm)
        for enrolment in enrolments
        for arm in enrolment.experiment.arms
    }
    names = [
        name for name, (_, arm) in enrolment_and_arm_by_name.items() if forced_arm in (arm, name)
    ]
    if len(names) == 1:
        enrolment, arm = enrolment_and_arm_by_name[names[0]]
        return Assignment.of(enrolment, arm, is_forced=True)
    problem = f"runs {len(names)} arms" if names else "runs no arm"
    raise QueryError(
        f"slot {slot} {problem} {forced_arm[:60]!r}",
        path="$.arm",
        code="unknown_arm",
        fix=f"use one of {', '.join(names or enrolment_and_arm_by_name)}"
        if enrolment_and_arm_by_name
        else "start an experiment first",
    )
