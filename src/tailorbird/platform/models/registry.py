"""The registry of a project, for notebooks."""

import getpass
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tailorbird.config import Project, open_project
from tailorbird.config.experiments import find_objection
from tailorbird.errors import UsageError, suggest_name
from tailorbird.events import SystemClock, parse_duration, to_iso
from tailorbird.pages.notebook import notebook_html
from tailorbird.platform.frames import Frame
from tailorbird.platform.progress import Progress, no_progress
from tailorbird.registry import Registry, read_experiments

if TYPE_CHECKING:
    from tailorbird.platform.models.canary import CanaryState
    from tailorbird.platform.models.verify import ScoreCheck
    from tailorbird.platform.runtime.retention import PruneResult
    from tailorbird.registry.manifest import Manifest
    from tailorbird.training.comparison import Comparison


@dataclass(frozen=True, repr=False)
class RegisteredVersion:
    """A version of the registry."""

    version: str
    registry: "RegistryView"

    def promote(self, *, reason: str, by: str = "") -> "RegisteredVersion":
        """Make it the champion; `reason` stands in the audit log."""
        self.registry.promote(self.version, reason=reason, by=by)
        return self

    @property
    def is_champion(self) -> bool:
        """True if it answers requests."""
        return self.registry.champion == self.version

    def __repr__(self) -> str:
        return f"{self.version}{', the champion' if self.is_champion else ''}"

    def _repr_html_(self) -> str:
        return notebook_html([repr(self)])


class RegistryView:
    """Versions of the ranking model; every change records its author and a reason."""

    def __init__(self, root: Path) -> None:
        self._root = root

    @property
    def champion(self) -> str:
        """The version that answers requests; "" without one."""
        return self._registry().aliases().champion

    def versions(self) -> Frame:
        """Return all versions, the newest first, with their time, heads, aliases and metrics."""
        return Frame.from_rows(
            ["version", "created_at", "alias", "heads", "baseline", "ndcg_10"],
            [
                (
                    info.version,
                    to_iso(info.created_at)[:19],
                    ", ".join(info.aliases),
                    ", ".join(info.heads),
                    info.baseline,
                    _ndcg(info.metrics),
                )
                for info in reversed(self._registry().versions())
            ],
        )

    def add(self, model: Any, report: "Comparison", *, by: str = "") -> "RegisteredVersion":
        """Add a model as a version, with the figures of its evaluation; promotes nothing.

        Args:
            model: one of the models of the report.
            report: what `tb.training.evaluate` returned.
            by: author in the registry; by default the name of this account.

        Raises:
            UsageError: the model is not in the report.
        """
        from tailorbird.training.publish import add_version

        registry = self._registry()
        version = add_version(model, report, registry, by=by or getpass.getuser())
        return RegisteredVersion(version, self)

    def promote(
        self, version: str, *, reason: str = "", by: str = "", because: str = "", despite: str = ""
    ) -> None:
        """Make a version the champion; servers switch to it within a second.

        Args:
            reason: reason in the audit log.
            by: who decided; by default the name of this account.
            because: an experiment that decided for this version; its verdict goes into the audit
                log.
            despite: why to promote though that experiment did not decide for it.

        Raises:
            UsageError: there is no reason, or the experiment did not decide for this version.
        """
        if because:
            project = open_project(self._root)
            promote_because(project, version, because, by=by, why=reason, despite=despite)
            return
        if not reason:
            raise UsageError("a promotion needs a reason", where="promote", fix="give reason=")
        self._registry().promote(version, by=by or getpass.getuser(), why=reason)

    def rollback(self, *, reason: str, by: str = "") -> str:
        """Make the previous champion answer again and return its version."""
        return self._registry().rollback(by=by or getpass.getuser(), why=reason)

    def prune(self, *, dry_run: bool = False) -> "PruneResult":
        """Remove old versions, checkpoints and states by `registry.keep` and `registry.days`.

        What an alias, a roll-back, a report or an experiment refers to stays.

        Args:
            dry_run: only say what would be removed.
        """
        from tailorbird.platform.runtime.retention import prune_models

        project = open_project(self._root, use_applied=True)
        return prune_models(project, SystemClock(), dry_run=dry_run)

    def show(self, version: str = "champion") -> "Manifest":
        """Return the manifest of a version, with its metrics and model card; verifies its files.

        Args:
            version: a version or an alias.

        Raises:
            BundleError: a file is damaged.
        """
        registry = self._registry()
        return registry.verify(registry.resolve(version).name)

    def verify(
        self, version: str = "", *, answers: int = 2_000, progress: Progress = no_progress
    ) -> "ScoreCheck":
        """Recompute served scores from the logged features, and compare them with the logged ones.

        Args:
            version: a version or an alias; "" takes all stored versions that answered.
            answers: number of logged answers of each version.

        Raises:
            NotReadyError: nothing can be compared yet.
        """
        from tailorbird.platform.models.verify import verify

        project = open_project(self._root)
        registry = self._registry()
        return verify(project, registry, version, answers=answers, progress=progress)

    def shadow(self, version: str, *, reason: str, by: str = "") -> None:
        """Let a version score the shown items for the log only; "" ends it."""
        self._registry().set_shadow(version, by=by or getpass.getuser(), why=reason)

    def canary(
        self, version: str, *, share: float = 0.01, reason: str, by: str = "", manual: bool = False
    ) -> None:
        """Let a version answer a fixed share of the people.

        Args:
            manual: the trainer neither advances nor ends it.
        """
        author = by or getpass.getuser()
        is_automatic = not manual
        self._registry().set_canary(version, share, by=author, why=reason, automatic=is_automatic)

    def end_canary(self, *, reason: str, by: str = "") -> str:
        """Let the champion answer all requests again; return the version that was the canary."""
        return self._registry().end_canary(by=by or getpass.getuser(), why=reason)

    def canary_state(self) -> "CanaryState":
        """Return how the canary does.

        Raises:
            NotReadyError: there is no canary.
        """
        from tailorbird.platform.models.canary import read_canary

        return read_canary(open_project(self._root), self._registry())

    def audit(self, *, since: str = "", churn: str = "") -> Frame:
        """Return who changed what, when and why, the newest entry first.

        Args:
            since: length of the most recent period, such as `7d`; "" is all of it.
            churn: of this churn model instead of the ranker.
        """
        project = open_project(self._root)
        registry = self._registry()
        if churn:
            folder = project.paths.churn(project.churn_model(churn).name)
            registry = Registry(folder, clock=SystemClock())
        return read_recent_audit(project, registry, since)

    def _registry(self) -> Registry:
        return Registry(open_project(self._root).paths.registry, clock=SystemClock())

    def __repr__(self) -> str:
        return repr(self.versions())

    def _repr_html_(self) -> str:
        return self.versions()._repr_html_()


def _ndcg(metrics: dict) -> float | None:
    model_metrics = metrics.get("results", {}).get("tailorbird", {})
    return model_metrics.get("ndcg_10") if isinstance(model_metrics, dict) else None


def read_recent_audit(project: Project, registry: Registry, since: str = "") -> Frame:
    """Return the entries of an audit log, the newest first; see `RegistryView.audit`.

    The period ends where the project's time is, such as the end of an imported log.
    """
    since_us = 0
    if since:
        from tailorbird.platform.clocks import clock_as_of  # loads the lake

        since_us = clock_as_of("", project).now() - parse_duration(since)
    return Frame.from_rows(
        ["at", "action", "version", "by", "reason"],
        [
            (to_iso(entry.at)[:19] + "Z", entry.action, entry.version, entry.by, entry.why)
            for entry in reversed(registry.audit())
            if entry.at >= since_us
        ],
    )


def promote_because(
    project: Project,
    version: str,
    experiment_name: str,
    *,
    by: str = "",
    why: str = "",
    despite: str = "",
) -> str:
    """Promote the version that an experiment decided for, with its verdict in the audit log.

    Args:
        experiment_name: a decided experiment.
        despite: why to promote though the experiment did not decide for this version.

    Returns:
        The reason as logged.

    Raises:
        UsageError: the experiment did not decide for this version, and `despite` is "".
    """
    from tailorbird.platform.experiments.commands import report_experiment

    registry = Registry(project.paths.registry, clock=SystemClock())
    version = registry.resolve(version).name
    experiments = read_experiments(project.paths.registry)
    if (started_experiment := experiments.get(experiment_name)) is None:
        experiment_names = [experiment.name for experiment in experiments.experiments]
        fix = suggest_name(experiment_name, experiment_names, "tailorbird experiment list")
        raise UsageError(f"no experiment {experiment_name!r} was started", where="because", fix=fix)
    problem = find_objection(project, started_experiment, version)
    if problem and not despite:
        raise UsageError(
            problem,
            where=f"experiment {experiment_name}",
            fix='promote what it decided for, or give the reason: --despite "…"',
        )
    outcome = problem or f"it decided for {started_experiment.decision}"
    reason = f"experiment {experiment_name}: {outcome}. "
    reason += report_experiment(project, experiment_name).verdict
    reason += f" Promoted despite that: {despite}." if problem else ""
    reason += f" {why}" if why else ""
    registry.promote(version, by=by or getpass.getuser(), why=reason)
    return reason
