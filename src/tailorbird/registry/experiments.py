"""Started experiments: the frozen declaration, the state, the ramp, and each change.

`ROOT/experiments.json` of a registry. A server polls it five times a second and needs no other
declaration, so that an edit of experiments.py never moves a running experiment. States follow
`running → stopped → decided`. `experiments.assign` defines assignment.
"""

from pathlib import Path
from typing import Any

import msgspec

from tailorbird.errors import UsageError
from tailorbird.registry.json_files import read_json

EXPERIMENTS_FILE = "experiments.json"
BUCKET_COUNT = 10_000  # of a layer, see `experiments.assign`


class ExperimentChange(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A change: `start`, `ramp`, `stop` or `decide`, with its author, reason and time."""

    at: int
    action: str
    by: str
    why: str
    ramp: float


class StartedExperiment(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """An experiment that was started.

    Attributes:
        digest: SHA-256 of the declaration, as it was at the start.
        first, size: its buckets of the layer while it runs.
        ramp: share of these that takes part.
        versions: arm → version of the model that serves it, as resolved at the start.
        attribution: of its slot at the start, such as `30m`; "" if the start recorded none.
        decision: the arm that was chosen, once decided.
    """

    name: str
    slot: str
    layer: str
    digest: str
    declaration: dict[str, Any]
    state: str = "running"
    first: int = 0
    size: int = BUCKET_COUNT
    ramp: float = 1.0
    versions: dict[str, str] = {}
    attribution: str = ""
    started_at: int = 0
    stopped_at: int = 0
    decided_at: int = 0
    decision: str = ""
    changes: tuple[ExperimentChange, ...] = ()

    def as_of(self, now: int) -> "StartedExperiment":
        """Return the experiment as it stood at a time since its start, microseconds."""
        changes = tuple(change for change in self.changes if change.at <= now)
        if len(changes) == len(self.changes):
            return self
        is_stopped = 0 < self.stopped_at <= now
        is_decided = 0 < self.decided_at <= now
        return msgspec.structs.replace(
            self,
            state="decided" if is_decided else "stopped" if is_stopped else "running",
            stopped_at=self.stopped_at if is_stopped else 0,
            decided_at=self.decided_at if is_decided else 0,
            decision=self.decision if is_decided else "",
            changes=changes,
        )


class Experiments(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All started experiments, in the order of their start."""

    experiments: tuple[StartedExperiment, ...] = ()

    def get(self, name: str) -> StartedExperiment | None:
        """Return an experiment by its name, or None if it was never started."""
        return next(
            (experiment for experiment in self.experiments if experiment.name == name), None
        )

    def running(self, slot: str = "") -> tuple[StartedExperiment, ...]:
        """Return the running experiments, of one slot or of all."""
        return tuple(
            experiment
            for experiment in self.experiments
            if experiment.state == "running" and slot in ("", experiment.slot)
        )

    @property
    def served_versions(self) -> frozenset[str]:
        """The versions that arms of running experiments name."""
        return frozenset(
            version for experiment in self.running() for version in experiment.versions.values()
        )

    def start(
        self, new_experiment: StartedExperiment, *, by: str, why: str, at: int
    ) -> "Experiments":
        """Add a running experiment in free buckets of its layer.

        Raises:
            UsageError: the name was used, the layer has too few free buckets, or the slot runs an
                experiment of another layer.
        """
        where = f"experiment {new_experiment.name}"
        if (existing_experiment := self.get(new_experiment.name)) is not None:
            problem = f"it is {existing_experiment.state} already"
            if (
                existing_experiment.digest != new_experiment.digest
                and existing_experiment.state == "running"
            ):
                changed_fields = [
                    field
                    for field, value in new_experiment.declaration.items()
                    if msgspec.json.encode(existing_experiment.declaration.get(field))
                    != msgspec.json.encode(value)
                ]
                problem = f"its declaration changed while it runs: {', '.join(changed_fields)}"
            raise UsageError(problem, where=where, fix="declare a new one under another name")
        for other_experiment in self.running(new_experiment.slot):
            if other_experiment.layer != new_experiment.layer:
                raise UsageError(
                    f"slot {new_experiment.slot} runs {other_experiment.name} in the layer "
                    f"{other_experiment.layer!r}",
                    where=where,
                    fix=f"set layer={other_experiment.layer!r}, so that they share no units",
                )
        first_bucket = self._first_free_bucket(new_experiment)
        _require_ramp(new_experiment.ramp, where)
        started_experiment = msgspec.structs.replace(
            new_experiment, first=first_bucket, state="running", started_at=at
        )
        return Experiments(
            (*self.experiments, _with_change(started_experiment, "start", by=by, why=why, at=at))
        )

    def ramp(self, name: str, share: float, *, by: str, why: str, at: int) -> "Experiments":
        """Let another share of its units take part."""
        existing_experiment = self._require(name, "running")
        _require_ramp(share, f"experiment {name}")
        changed_experiment = msgspec.structs.replace(existing_experiment, ramp=share)
        return self._replace(_with_change(changed_experiment, "ramp", by=by, why=why, at=at))

    def stop(self, name: str, *, by: str, why: str, at: int) -> "Experiments":
        """End an experiment; its slot's own policy serves its units."""
        changed_experiment = msgspec.structs.replace(
            self._require(name, "running"), state="stopped", stopped_at=at
        )
        return self._replace(_with_change(changed_experiment, "stop", by=by, why=why, at=at))

    def decide(self, name: str, arm: str, *, by: str, why: str, at: int) -> "Experiments":
        """Record which arm was chosen."""
        existing_experiment = self._require(name, "stopped")
        arms = list(existing_experiment.declaration["arms"])
        if arm not in arms:
            raise UsageError(
                f"{arm!r} is no arm", where=f"experiment {name}", fix=f"one of {', '.join(arms)}"
            )
        changed_experiment = msgspec.structs.replace(
            existing_experiment, state="decided", decided_at=at, decision=arm
        )
        return self._replace(_with_change(changed_experiment, "decide", by=by, why=why, at=at))

    def _require(self, name: str, state: str) -> StartedExperiment:
        experiment = self.get(name)
        if experiment is None or experiment.state != state:
            problem = "was never started" if experiment is None else f"is {experiment.state}"
            raise UsageError(
                f"it {problem}, and must be {state}",
                where=f"experiment {name}",
                fix="tailorbird experiment list",
            )
        return experiment

    def _first_free_bucket(self, new_experiment: StartedExperiment) -> int:
        first_bucket = 0
        for other_experiment in sorted(
            (
                experiment
                for experiment in self.running()
                if experiment.layer == new_experiment.layer
            ),
            key=lambda experiment: experiment.first,
        ):
            if other_experiment.first - first_bucket >= new_experiment.size:
                break
            first_bucket = other_experiment.first + other_experiment.size
        if first_bucket + new_experiment.size > BUCKET_COUNT:
            running_names = ", ".join(
                experiment.name
                for experiment in self.running()
                if experiment.layer == new_experiment.layer
            )
            raise UsageError(
                f"layer {new_experiment.layer!r} has no "
                f"{new_experiment.size / BUCKET_COUNT:.0%} free; it runs "
                f"{running_names}",
                where=f"experiment {new_experiment.name}",
                fix="stop one of them, or set a smaller share",
            )
        return first_bucket

    def _replace(self, changed_experiment: StartedExperiment) -> "Experiments":
        return Experiments(
            tuple(
                changed_experiment if experiment.name == changed_experiment.name else experiment
                for experiment in self.experiments
            )
        )


def read_experiments(root: Path) -> Experiments:
    """Return the experiments of a registry. Raises DamageError if the file is damaged."""
    return read_json(root / EXPERIMENTS_FILE, Experiments, fix="restore it from a backup")


def _with_change(
    experiment: StartedExperiment, action: str, *, by: str, why: str, at: int
) -> StartedExperiment:
    change = ExperimentChange(at, action, by, why, experiment.ramp)
    return msgspec.structs.replace(experiment, changes=(*experiment.changes, change))


def _require_ramp(share: float, where: str) -> None:
    if not 1 / BUCKET_COUNT <= share <= 1:
        raise UsageError(
            f"expected a ramp from {1 / BUCKET_COUNT:g} to 1, got {share:g}",
            where=where,
            fix="such as 0.1 for a tenth of its units",
        )
