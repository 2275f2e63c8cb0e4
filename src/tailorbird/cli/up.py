"""`tailorbird up`."""

import asyncio
import sys
import time
from functools import partial
from typing import TYPE_CHECKING

from tailorbird.cli.output import console
from tailorbird.errors import DamageError, LockedError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tailorbird.config import Project
    from tailorbird.features import FeatureSet
    from tailorbird.platform.supervisor import Role


def up(
    *, port: int | None = None, train: bool = True, shop: bool = False, live: bool = False
) -> None:
    """Run all roles of the project on this machine: serve, router, worker, candidates, lake and
    trainer; score too, where scores.py declares any.

    A role that dies is started again. Ctrl-C stops them in order; whatever was acknowledged is
    safe, also after `kill -9`.

    Where features.py has changed since, it is applied: its state is built beside the old one, which
    answers until a model of the new features is promoted. While this runs, `tailorbird features
    apply` does the same without a restart.

    A log that was imported and ended long ago goes on from its end: clicks and answers are dated as
    if no time had passed, until an event of today comes in from the site, or `--live` says so.

    Example:  tailorbird -C shop up

    Parameters
    ----------
    port:
        where to serve instead of serve.port
    train:
        also watch the live figures and train anew when they fall
    shop:
        also show the demo shop at /shop
    live:
        go by today's time from now on, whenever the log ended
    """
    from tailorbird.cli.check import check_slots
    from tailorbird.config import open_project
    from tailorbird.config.erasures import apply_remote_erasures
    from tailorbird.config.roles import forget_roles
    from tailorbird.config.schemas import ActiveWatch
    from tailorbird.events import SECOND, parse_duration
    from tailorbird.lock import FileLock
    from tailorbird.platform.supervisor import Role, Supervisor, die_with_parent

    die_with_parent()
    project = open_project()
    check_slots(project)
    apply_remote_erasures(project)
    if port:
        from tailorbird.serving.listening import bind

        bind(
            project.settings.serve.host, port, is_explicit=True
        ).close()  # taken: said here, rather than by a role that starts again and again
    project.paths.run.mkdir(parents=True, exist_ok=True)
    try:
        lock = FileLock(project.paths.run / "up")
    except LockedError:
        raise LockedError(
            "these roles are running already",
            where=str(project.root),
            fix="stop the other `tailorbird up`",
        ) from None
    arguments = [
        "run",
        "serve",
        *(["--shop"] if shop else []),
        *([] if port is None else ["--port", str(port)]),
    ]
    serve = partial(
        Role, "serve", arguments, drain_s=parse_duration(project.settings.serve.drain) / SECOND
    )
    watch = ActiveWatch(project)

    announce = _Announcement(project.paths.run)

    def wanted() -> list[Role] | None:
        announce.once()
        return _roles(project, serve(), train=train) if watch.changed() else None

    try:
        first = _first_roles(project, wanted, serve, live=live)
        status = asyncio.run(
            Supervisor(project.root, first, _say, wanted, partial(_note, project.paths.run)).run()
        )
    finally:
        forget_roles(project.paths.run)
        lock.release()
    if status:
        raise SystemExit(status)


def _roles(project: "Project", serve: "Role", *, train: bool) -> "list[Role]":
    """Return the roles that there should be: a worker for each active schema, and a router that
    keeps the attributes that they need.
    """
    from tailorbird.config.candidates import kept_contracts
    from tailorbird.config.schemas import active_schemas, route_plan_for
    from tailorbird.platform.supervisor import Role

    schemas = active_schemas(project)
    plan = route_plan_for(project, schemas)
    kept = ",".join([*plan.user_attributes, "", *plan.item_attributes])
    workers = [role for features in schemas for role in _workers(project, features, of=schemas[0])]
    trainer = [Role("trainer", ["run", "trainer"])] if train else []
    routers = [
        Role("router" if not n else f"router {n + 1}", ["run", "router"], made_for=kept)
        for n in range(_routers(project))
    ]
    score = [Role("score", ["run", "score"])] if project.scores else []
    contracts = kept_contracts(project)
    tables = [
        Role(
            "candidates" if each is contracts[-1] else f"candidates {each.hash[:4]}",
            ["run", "candidates", "--contract", each.hash],
        )
        for each in contracts
    ]
    return [*routers, *workers, *tables, Role("lake", ["run", "lake"]), serve, *score, *trainer]


def _first_roles(
    project: "Project",
    wanted: "Callable[[], list[Role] | None]",
    serve: "Callable[[], Role]",
    *,
    live: bool,
) -> "list[Role]":
    """Return those to begin with: where it cannot be known which, `serve`, since answers without a
    model are better than none.
    """
    from tailorbird.config.log_end import settle_clock
    from tailorbird.config.schemas import apply_declared
    from tailorbird.events import SystemClock

    try:
        if said := apply_declared(project, SystemClock()).notice:
            _say("up", said)
        if said := settle_clock(project, SystemClock(), live=live):
            _say("up", said)
        return wanted() or []
    except DamageError as error:
        _say(
            "up",
            f"{error}\nonly `serve` is started, and answers without a model; the other roles "
            "follow once this is mended",
        )
        return [serve()]


class _Announcement:
    """Says once where the page is, when a server answers."""

    def __init__(self, run: "Path") -> None:
        self._run, self._since_s, self._said = run, time.time(), False

    def once(self) -> None:
        if self._said:
            return
        from tailorbird.platform.servers import addresses

        url = next(addresses(self._run, since_s=self._since_s), "")
        if url:
            self._said = True
            _say(
                "up",
                f"Open {url}/ to see roles, events and models, and a list for anybody. "
                "Ctrl-C stops all.",
            )


def _say(role: str, line: str) -> None:
    out = console()
    out.print(f"{role:<8}", style="bold", end=" ")
    out.print(line)
    sys.stdout.flush()


def _note(run: "Path", roles: "list[Role]") -> None:
    """Tell the page which roles run."""
    from tailorbird.config.roles import RoleState, note_roles

    try:
        note_roles(
            run, [RoleState(role.name, role.pid, role.since_s, role.restarts) for role in roles]
        )
    except OSError as error:
        _say("up", f"the page cannot be told which roles run: {error}")


def _workers(project: "Project", features: "FeatureSet", of: "FeatureSet") -> "list[Role]":
    """The workers of a schema, and the shuffle that writes for them where there is one; those of
    `of` have short names.
    """
    from tailorbird.config.schemas import shuffled_logs
    from tailorbird.platform.supervisor import Role

    schema, told = (
        ["--schema", features.schema_hash],
        [] if features is of else [features.schema_hash[:4]],
    )

    def role(name: str, number: str = "") -> Role:
        part = ["--part", number] if number else []
        return Role(" ".join(filter(None, (name, number, *told))), ["run", name, *schema, *part])

    if project.workers == 1:
        return [role("worker")]
    workers = [role("worker", str(number)) for number in range(project.workers)]
    return [role("shuffle"), *workers] if shuffled_logs(project, features) else workers


def _routers(project: "Project") -> int:
    """How many router processes to run here: one, unless they can share partitions."""
    section = project.settings.stream
    return min(section.routers, section.partitions)
