"""The experiments of a project as an object."""

from pathlib import Path

from tailorbird.config import open_project
from tailorbird.experiments.interleaving import InterleavingReport
from tailorbird.experiments.plan import Plan
from tailorbird.experiments.report import Report
from tailorbird.experiments.trial import TrialReport
from tailorbird.platform.experiments.commands import (
    LIST_COLUMNS,
    change_experiment,
    list_experiments,
    plan_declared,
    report_experiment,
    start_experiment,
)
from tailorbird.platform.frames import Frame


class ExperimentView:
    """The experiments of a project: `shop.experiments`.

    Every change records who made it and why; running servers follow within a second.
    """

    def __init__(self, root: Path) -> None:
        self._root = root

    def list(self) -> Frame:
        """Return all experiments, declared and started, with their state."""
        return Frame.from_rows(list(LIST_COLUMNS), list_experiments(open_project(self._root)))

    def plan(self, name: str, *, since: str = "") -> Plan:
        """Plan an experiment from the lake's variance, see `plan_declared`."""
        return plan_declared(open_project(self._root), name, since=since)

    def start(self, name: str, *, reason: str, ramp: float = 1.0, by: str = "") -> None:
        """Freeze a declaration and run it, see `start_experiment`."""
        start_experiment(open_project(self._root), name, ramp=ramp, by=by, why=reason)

    def ramp(self, name: str, share: float, *, reason: str, by: str = "") -> None:
        """Let another share of its units take part; units keep their arm."""
        change_experiment(open_project(self._root), "ramp", name, share, by=by, why=reason)

    def stop(self, name: str, *, reason: str, by: str = "") -> None:
        """End an experiment; the slot's own policy serves all units again."""
        change_experiment(open_project(self._root), "stop", name, by=by, why=reason)

    def decide(self, name: str, arm: str, *, reason: str, by: str = "") -> None:
        """Record which arm of a stopped experiment was chosen."""
        change_experiment(open_project(self._root), "decide", name, arm, by=by, why=reason)

    def report(
        self, name: str = "", *, since: str = "", as_of: str = ""
    ) -> Report | TrialReport | InterleavingReport:
        """Report on a started experiment by its name, or on the split of a slot.

        Args:
            name: an experiment or a slot; "" is `train.slot`.
            since: only the last while of a slot's split, such as `14d`.
            as_of: a time to report at instead of now, or `latest`.
        """
        return report_experiment(open_project(self._root), name, since=since, as_of=as_of)

    def __repr__(self) -> str:
        return repr(self.list())

    def _repr_html_(self) -> str:
        return self.list().to_html()
