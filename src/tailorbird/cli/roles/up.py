"""`tailorbird up`: run all roles."""

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
    """Run all roles of the project on this machine.

    If scores.py declares scores, the role score runs too. A role that dies is restarted. Ctrl-C
    stops all roles in order. Acknowledged events are safe, also after `kill -9`.

    If features.py has changed, it is applied: its state is built next to the old one, which serves
    until a model of the new features is promoted. While `up` runs, `tailorbird features apply` does
    the same without a restart.

    A log that was imported and ended long ago continues from its end: clicks and answers are dated
    as if no time had passed, until the site sends an event of today or `--live` is given.

    Example:  tailorbird -C shop up

    Parameters
    ----------
    port:
        port to serve on instead of serve.port
    train:
        also watch live metrics and retrain when they fall
    shop:
        also serve the demo shop at /shop
    live:
        follow today's time from now on, whenever the log ended
    """
    from tailorbird.backup import record_origin
    from tailorbird.cli.check import check_slots
    from tailorbird.config import open_project
    from tailorbird.config.erasures import apply_remote_erasures
    from tailorbird.config.roles import clear_roles
    from tailorbird.config.schemas import ActiveSchemaWatch
    from tailorbird.events import SECOND, parse_duration
    from tailorbird.file_lock import FileLock
    from tailorbird.platform.supervisor import Role, Supervisor, die_with_parent

    die_with_parent()
    project = open_project()
    check_slots(project)
    apply_remote_erasures(project)
    if port:
        from tailorbird.serving.http.listener import bind

        bind(
            project.settings.serve.host,
            port,
            is_explicit=True,
            # A taken port is reported here instead of by a role that restarts repeatedly.
        ).close()
    project.paths.run.mkdir(parents=True, exist_ok=True)
    if copied := record_origin(project):
        _print_line("up", str(copied))
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
    watch = ActiveSchemaWatch(project)

    announce = _Announcement(project.paths.run)

    def desired_roles() -> list[Role] | None:
        announce.print_once()
        return _desired_roles(project, serve(), train=train) if watch.has_changed() else None

    try:
        roles = _initial_roles(project, desired_roles, serve, live=live)
        status = asyncio.run(
            Supervisor(
                project.root,
                roles,
                _print_line,
                desired_roles,
                partial(_write_roles, project.paths.run),
            ).run()
        )
    finally:
        clear_roles(project.paths.run)
        lock.release()
    if status:
        raise SystemExit(status)


def _desired_roles(project: "Project", serve: "Role", *, train: bool) -> "list[Role]":
    """Return the roles to run: a worker per active schema, and a router with their attributes."""
    from tailorbird.config.candidates import maintained_contracts
    from tailorbird.config.schemas import active_schemas, route_plan_for
    from tailorbird.platform.supervisor import Role

    schemas = active_schemas(project)
    plan = route_plan_for(project, schemas)
    attributes = ",".join([*plan.user_attributes, "", *plan.item_attributes])
    workers = [
        role
        for features in schemas
        for role in _workers(project, features, unnamed_schema=schemas[0])
    ]
    trainer = [Role("trainer", ["run", "trainer"])] if train else []
    routers = [
        Role("router" if not n else f"router {n + 1}", ["run", "router"], variant=attributes)
        for n in range(_router_count(project))
    ]
    score = [Role("score", ["run", "score"])] if project.scores else []
    contracts = maintained_contracts(project)
    tables = [
        Role(
            "candidates" if contract is contracts[-1] else f"candidates {contract.hash[:4]}",
            ["run", "candidates", "--contract", contract.hash],
        )
        for contract in contracts
    ]
    return [*routers, *workers, *tables, Role("lake", ["run", "lake"]), serve, *score, *trainer]


def _initial_roles(
    project: "Project",
    desired_roles: "Callable[[], list[Role] | None]",
    serve: "Callable[[], Role]",
    *,
    live: bool,
) -> "list[Role]":
    """Return the initial roles.

    If they cannot be determined, it is `serve` alone, since answers without a model are better than
    none.
    """
    from tailorbird.config.log_end import settle_clock
    from tailorbird.config.schemas import apply_declared
    from tailorbird.events import SystemClock

    try:
        if notice := apply_declared(project, SystemClock()).notice:
            _print_line("up", notice)
        if notice := settle_clock(project, SystemClock(), force_live=live):
            _print_line("up", notice)
        return desired_roles() or []
    except DamageError as error:
        _print_line(
            "up",
            f"{error}\nonly `serve` is started, and answers without a model; the other roles "
            "follow once this is mended",
        )
        return [serve()]


class _Announcement:
    """Prints the URL of the page once a server responds."""

    def __init__(self, run: "Path") -> None:
        self._run, self._since_s, self._is_printed = run, time.time(), False

    def print_once(self) -> None:
        if self._is_printed:
            return
        from tailorbird.platform.servers import server_addresses

        url = next(server_addresses(self._run, since_s=self._since_s), "")
        if url:
            self._is_printed = True
            _print_line(
                "up",
                f"Open {url}/ to see roles, events and models, and a list for anybody. "
                "Ctrl-C stops all.",
            )


def _print_line(role: str, line: str) -> None:
    out = console()
    out.print(f"{role:<8}", style="bold", end=" ")
    out.print(line)
    sys.stdout.flush()


def _write_roles(run: "Path", roles: "list[Role]") -> None:
    """Record the running roles for the page."""
    from tailorbird.config.roles import RoleState, write_roles

    try:
        write_roles(
            run, [RoleState(role.name, role.pid, role.since_s, role.restarts) for role in roles]
        )
    except OSError as error:
        _print_line("up", f"the page cannot be told which roles run: {error}")


def _workers(
    project: "Project", features: "FeatureSet", unnamed_schema: "FeatureSet"
) -> "list[Role]":
    """Return the workers of a schema, and its shuffle if there is one.

    Roles of `unnamed_schema` have short names.
    """
    from tailorbird.config.schemas import shuffled_logs
    from tailorbird.platform.supervisor import Role

    schema, schema_suffix = (
        ["--schema", features.schema_hash],
        [] if features is unnamed_schema else [features.schema_hash[:4]],
    )

    def role(name: str, number: str = "") -> Role:
        part = ["--part", number] if number else []
        return Role(
            " ".join(filter(None, (name, number, *schema_suffix))), ["run", name, *schema, *part]
        )

    if project.workers == 1:
        return [role("worker")]
    workers = [role("worker", str(number)) for number in range(project.workers)]
    return [role("shuffle"), *workers] if shuffled_logs(project, features) else workers


def _router_count(project: "Project") -> int:
    """Return the number of router processes to run here: one, unless they can share partitions."""
    section = project.settings.stream
    return min(section.routers, section.partitions)
