"""The experiments of a project as an object."""

from pathlib import Path
from typing import TYPE_CHECKING

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
from tailorbird.platform.experiments.estimate import estimate_policy
from tailorbird.platform.frames import Frame

if TYPE_CHECKING:
    from tailorbird.training.evaluation.off_policy import OffPolicyReport


class ExperimentView:
    """The experiments of a project: `shop.experiments`.

    Every change records who made it and why; running servers follow within a second.
    """

    def __init__(self, root: Path) -> None:
        self._root = root

    def list(self) -> Frame:
        """Return all experiments, declared and started, with their state."""
        return Frame.from_rows(list(LIST_COLUMNS), list_experiments(open_project(self._root)))

    def plan(self, name: str, *, since: str = "", drawn_shares: bool = False) -> Plan:
        """Plan an experiment from the lake's variance, see `plan_declared`."""
        project = open_project(self._root)
        return plan_declared(project, name, since=since, drawn_shares=drawn_shares)

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

    def estimate(
        self,
        bundle: str = "",
        against: str = "",
        *,
        formula: str = "",
        settings_of: str = "",
        arm: str = "",
        slot: str = "",
        since: str = "",
        outcome: str = "click",
        as_of: str = "",
    ) -> "OffPolicyReport":
        """Estimate the value of a policy from the response log, beside that of another one.

            shop.experiments.estimate("v0007")
            shop.experiments.estimate(formula="click + 8*purchase")
            shop.experiments.estimate(arm="home-model:new")

        The value is a one-step reward over logged contexts. Changes nothing.

        Args:
            bundle: version or alias; by default the champion.
            against: version, alias or EXPERIMENT:ARM; by default the champion, or the control of
                the arm's experiment.
            formula: value of an item, instead of the slot's.
            settings_of: slot whose formula, rules, sources and other settings apply.
            arm: EXPERIMENT:ARM, declared or started.
            since: length of the most recent period to replay, such as `14d`.
            outcome: event type that counts as reward.

        Raises:
            UsageError: no policy is named, there is no such version, slot or arm, or the two are
                the same.
            NotReadyError: no response is left whose outcome is known.
        """
        return estimate_policy(
            open_project(self._root),
            bundle,
            against,
            formula=formula,
            settings_of=settings_of,
            arm=arm,
            slot=slot,
            since=since,
            outcome=outcome,
            as_of=as_of,
        )

    def __repr__(self) -> str:
        return repr(self.list())

    def _repr_html_(self) -> str:
        return self.list().to_html()
