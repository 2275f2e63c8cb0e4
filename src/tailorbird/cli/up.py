"""`tailorbird up`."""

import asyncio
import sys
from typing import TYPE_CHECKING

from tailorbird.cli.output import console
from tailorbird.errors import LockedError

if TYPE_CHECKING:
    from tailorbird.config import Project


def up(*, port: int | None = None, train: bool = True, shop: bool = False) -> None:
    """Run all roles of the project on this machine: serve, router, worker, lake and trainer.

    A role that dies is started again. Ctrl-C stops them in order; whatever was acknowledged is safe, also after `kill -9`.

    Where features.py has changed since, it is applied: its state is built beside the old one, which answers until a model of the
    new features is promoted. While this runs, `tailorbird features apply` does the same without a restart.

    Example:  tailorbird -C shop up

    Parameters
    ----------
    port:
        where to serve instead of serve.port
    train:
        also watch the live figures and train anew when they fall
    shop:
        also show the demo shop at /shop
    """
    from tailorbird.cli.supervisor import Role, Supervisor, die_with_parent
    from tailorbird.config import open_project
    from tailorbird.config.schemas import ActiveWatch, active_schemas, plan_for, settle
    from tailorbird.events import SystemClock
    from tailorbird.events.erased import require_finished
    from tailorbird.stream.lock import FileLock

    die_with_parent()
    project = open_project()
    require_finished(project.paths.data)
    if port:
        from tailorbird.serving.server import bind

        bind(project.settings.serve.host, port, asked=True).close()  # taken: said here, rather than by a role that starts again and again
    project.paths.run.mkdir(parents=True, exist_ok=True)
    try:
        lock = FileLock(project.paths.run / "up")
    except LockedError:
        raise LockedError("these roles are running already", where=str(project.root), fix="stop the other `tailorbird up`") from None
    serve = ["run", "serve", *(["--shop"] if shop else []), *([] if port is None else ["--port", str(port)])]
    watch = ActiveWatch(project)

    def wanted() -> list[Role] | None:
        """A worker for each active schema; the router anew where it is to keep other attributes with the events."""
        if not watch.changed():
            return None
        schemas = active_schemas(project)
        plan = plan_for(project, schemas)
        kept = ",".join([*plan.user_attributes, "", *plan.item_attributes])
        names = ["worker", *(f"worker {features.schema_hash[:4]}" for features in schemas[1:])]
        workers = [Role(name, ["run", "worker", "--schema", features.schema_hash]) for name, features in zip(names, schemas, strict=True)]
        trainer = [Role("trainer", ["run", "trainer"])] if train else []
        routers = [Role("router" if not n else f"router {n + 1}", ["run", "router"], made_for=kept) for n in range(_routers(project))]
        return [*routers, *workers, Role("lake", ["run", "lake"]), Role("serve", serve), *trainer]

    out = console()

    def say(role: str, line: str) -> None:
        out.print(f"[bold]{role:<8}[/bold]", end=" ")
        out.print(line, markup=False)
        sys.stdout.flush()

    try:
        if said := settle(project, SystemClock()).said:
            say("up", said)
        status = asyncio.run(Supervisor(project.root, wanted() or [], say, wanted).run())
    finally:
        lock.release()
    if status:
        raise SystemExit(status)


def _routers(project: "Project") -> int:
    """How many router processes to run here: one, unless they can share partitions."""
    section = project.settings.stream
    return min(section.routers, section.partitions)
