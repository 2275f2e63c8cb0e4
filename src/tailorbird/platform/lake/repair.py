"""Repair of the lake: rebuild what is corrupt, or say from what it could be rebuilt."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tailorbird.config import Project
from tailorbird.errors import LockedError
from tailorbird.pages.notebook import text_html
from tailorbird.platform.progress import Progress, no_progress

if TYPE_CHECKING:
    from tailorbird.lake.rebuild import Plan


@dataclass(frozen=True, repr=False)
class RepairResult:
    """What was rebuilt, or can be, and what has no second source.

    Attributes:
        is_dry_run: True if nothing was changed.
        is_clean: True if nothing corrupt is left once the plan is done.
    """

    plan: "Plan"
    is_dry_run: bool
    is_clean: bool

    @property
    def is_intact(self) -> bool:
        """True if nothing is corrupt now."""
        return self.is_clean and not (self.is_dry_run and self.plan.rebuilds)

    def to_dict(self) -> dict[str, Any]:
        """Return what `tailorbird lake repair --json` prints."""
        return {
            "done": not self.is_dry_run,
            "rebuilt": [vars(entry) for entry in self.plan.rebuilds],
            "unrecoverable": [vars(entry) for entry in self.plan.unrecoverable],
            "clean": self.is_intact,
        }

    def __repr__(self) -> str:
        verb = "can be rebuilt" if self.is_dry_run else "rebuilt"
        lines = [
            f"{entry.where}, {entry.what}: {verb} from {entry.source}"
            for entry in self.plan.rebuilds
        ]
        lines += [
            f"{entry.where}, {entry.what}: cannot be rebuilt, {entry.lost}"
            for entry in self.plan.unrecoverable
        ]
        return "\n".join(lines) or "Nothing is corrupt."

    _repr_html_ = text_html


def repair(
    project: Project, *, dry_run: bool = True, progress: Progress = no_progress
) -> RepairResult:
    """Rebuild what is corrupt in lake, archive and logs from what is left.

    Args:
        dry_run: only say what would be rebuilt, and from what.

    Raises:
        LockedError: a role of the project is running.
    """
    from tailorbird.events import SystemClock
    from tailorbird.lake import verify
    from tailorbird.lake.rebuild import Rebuilder

    rebuilder = Rebuilder(
        project.stream,
        project.paths.lake,
        clock=SystemClock(),
        route_again=partial(open_router, project),
    )
    if dry_run:
        plan = rebuilder.plan()
        return RepairResult(plan, dry_run, not plan.unrecoverable)
    try:
        plan = rebuilder.run(lambda rebuild: progress("rebuilt", 0, None))
    except LockedError as error:
        raise LockedError(
            "a role of this project is running, and a repair needs exclusive access",
            where=error.where,
            fix="stop up",
        ) from error
    return RepairResult(
        plan, dry_run, not plan.unrecoverable and verify(project.paths.lake).is_clean
    )


@contextmanager
def open_router(project: Project, folder: Path) -> Iterator[Callable[[], None]]:
    """Open a router on the logs of a folder, with the declarations of the project."""
    from tailorbird.events import SystemClock
    from tailorbird.router import Router

    with Router(folder, project.plan, clock=SystemClock()) as router:

        def route() -> None:
            while router.step().has_more:
                pass

        yield route
