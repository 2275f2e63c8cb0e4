"""The registry of a project, for notebooks."""

import getpass
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tailorbird.config import Project, open_project
from tailorbird.config.experiments import find_objection
from tailorbird.errors import UsageError, suggest_name
from tailorbird.events import SystemClock, to_iso
from tailorbird.pages.notebook import notebook_html
from tailorbird.platform.frames import Frame
from tailorbird.registry import Registry, read_experiments

if TYPE_CHECKING:
    from tailorbird.platform.runtime.retention import PruneResult
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

        project = open_project(self._root, applied=True)
        return prune_models(project, SystemClock(), dry_run=dry_run)

    def audit(self) -> Frame:
        """Return who changed what, when and why, the newest entry first."""
        return Frame.from_rows(
            ["at", "action", "version", "by", "reason"],
            [
                (to_iso(entry.at)[:19], entry.action, entry.version, entry.by, entry.why)
                for entry in reversed(self._registry().audit())
            ],
        )

    def _registry(self) -> Registry:
        return Registry(open_project(self._root).paths.registry, clock=SystemClock())

    def __repr__(self) -> str:
        return repr(self.versions())

    def _repr_html_(self) -> str:
        return self.versions()._repr_html_()


def _ndcg(metrics: dict) -> float | None:
    figures = metrics.get("results", {}).get("tailorbird", {})
    return figures.get("ndcg_10") if isinstance(figures, dict) else None


def promote_because(
    project: Project, version: str, name: str, *, by: str = "", why: str = "", despite: str = ""
) -> str:
    """Promote the version that an experiment decided for, with its verdict in the audit log.

    Args:
        name: a decided experiment.
        despite: why to promote though the experiment did not decide for this version.

    Returns:
        The reason as logged.

    Raises:
        UsageError: the experiment did not decide for this version, and `despite` is "".
    """
    from tailorbird.platform.experiments import report_experiment

    registry = Registry(project.paths.registry, clock=SystemClock())
    version = registry.resolve(version).name
    experiments = read_experiments(project.paths.registry)
    if (started := experiments.get(name)) is None:
        names = [each.name for each in experiments.experiments]
        fix = suggest_name(name, names, "tailorbird experiment list")
        raise UsageError(f"no experiment {name!r} was started", where="because", fix=fix)
    problem = find_objection(started, version)
    if problem and not despite:
        raise UsageError(
            problem,
            where=f"experiment {name}",
            fix='promote what it decided for, or give the reason: --despite "…"',
        )
    reason = f"experiment {name}: {problem or f'it decided for {started.decision}'}. "
    reason += report_experiment(project, name).verdict
    reason += f" Promoted despite that: {despite}." if problem else ""
    reason += f" {why}" if why else ""
    registry.promote(version, by=by or getpass.getuser(), why=reason)
    return reason
