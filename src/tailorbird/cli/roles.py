"""The roles of a project in one process, stepped by hand: what `import` and `demo` do, and what `up` does as processes."""

import threading

from tailorbird.cli.output import Report
from tailorbird.config import Project
from tailorbird.events import Clock
from tailorbird.features.bootstrap import build_from_lake
from tailorbird.features.worker import FeatureWorker
from tailorbird.lake import Lake, LakeRole
from tailorbird.router import Router


class Roles:
    """Router, feature worker and lake of one project, each under its lock.

    Raises:
        LockedError: one of them runs elsewhere.
    """

    def __init__(self, project: Project, clock: Clock) -> None:
        paths = project.paths
        paths.stream.mkdir(parents=True, exist_ok=True)
        self.router = Router(paths.stream, project.plan, clock=clock)
        try:
            self.worker = FeatureWorker(paths.routed, paths.state, project.features, clock=clock)
        except BaseException:
            self.router.close()
            raise
        try:
            if self.worker.needs_history():  # the declarations changed, and the log was pruned since
                build_from_lake(self.worker, Lake(paths.lake), threading.Event())
            self.lake = LakeRole(paths.stream, paths.lake, clock=clock)
        except BaseException:
            self.worker.close()
            self.router.close()
            raise
        self.accepted = self.duplicates = self.quarantined = 0

    def step(self) -> int:
        """Route what came in and update the state; how many raw rows there were. The lake is stepped apart."""
        report = self.router.step()
        self.accepted += report.accepted
        self.duplicates += report.duplicates
        self.quarantined += report.quarantined
        while self.worker.step().rows:
            pass
        return report.rows

    def drain(self, progress: Report = lambda stage, done, total: None, *, label: str = "route") -> None:
        """Step until nothing is left, the lake included."""
        done = 0
        while rows := self.step():
            done += rows
            progress(label, done, None)
        self.lake.drain()

    def close(self) -> None:
        """Let go of all files."""
        self.lake.close()
        self.worker.close()
        self.router.close()

    def __enter__(self) -> "Roles":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def drain(project: Project, clock: Clock, *, progress: Report) -> dict[str, int]:
    """Bring everything that is in the raw logs into state and lake; counts by what the router decided.

    Raises:
        LockedError: the roles run elsewhere, and take it from there.
    """
    with Roles(project, clock) as roles:
        roles.drain(progress)
        return {"accepted": roles.accepted, "duplicates": roles.duplicates, "quarantined": roles.quarantined}
