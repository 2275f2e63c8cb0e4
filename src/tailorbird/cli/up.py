"""`tailorbird up`."""

import asyncio
import sys

from tailorbird.cli.output import console
from tailorbird.errors import LockedError


def up(*, port: int | None = None, train: bool = True, shop: bool = False) -> None:
    """Run all roles of the project on this machine: serve, router, worker, lake and trainer.

    A role that dies is started again. Ctrl-C stops them in order; whatever was acknowledged is safe, also after `kill -9`.

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
    from tailorbird.stream.lock import FileLock

    die_with_parent()
    project = open_project()
    if port:
        from tailorbird.serving.server import bind

        bind(project.settings.serve.host, port, asked=True).close()  # taken: said here, rather than by a role that starts again and again
    project.paths.run.mkdir(parents=True, exist_ok=True)
    try:
        lock = FileLock(project.paths.run / "up")
    except LockedError:
        raise LockedError("these roles are running already", where=str(project.root), fix="stop the other `tailorbird up`") from None
    serve = ["run", "serve", *(["--shop"] if shop else []), *([] if port is None else ["--port", str(port)])]
    roles = [Role("router", ["run", "router"]), Role("worker", ["run", "worker"]), Role("lake", ["run", "lake"]), Role("serve", serve)]
    if train:
        roles.append(Role("trainer", ["run", "trainer"]))
    out = console()

    def say(role: str, line: str) -> None:
        out.print(f"[bold]{role:<8}[/bold]", end=" ")
        out.print(line, markup=False)
        sys.stdout.flush()

    try:
        status = asyncio.run(Supervisor(project.root, roles, say).run())
    finally:
        lock.release()
    if status:
        raise SystemExit(status)
