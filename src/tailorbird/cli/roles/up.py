"""`tailorbird up`: run all roles."""

import asyncio
import os
import sys
import time
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec

from tailorbird.cli.output import console
from tailorbird.errors import DamageError

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable
    from pathlib import Path
    from typing import NoReturn

    from tailorbird.config import Project
    from tailorbird.features import FeatureSet
    from tailorbird.platform.runtime.supervisor import ReportLine, Role


def up(
    *,
    port: int | None = None,
    train: bool = True,
    shop: bool = False,
    live: bool = False,
    replace: bool = False,
) -> None:
    """Run all roles of the project on this machine.

    If scores.py declares scores, the role score runs too. A role that dies is restarted. Ctrl-C
    stops all roles in order. Acknowledged events are safe, also after `kill -9`. Servers go on
    answering if this process is killed, and the next `up` takes their place.

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
    replace:
        take the place of the `up` that runs, without a refused request: for a new version or
        other settings
    """
    from tailorbird.backup import record_origin
    from tailorbird.config import open_project
    from tailorbird.config.erasures import apply_remote_erasures
    from tailorbird.config.roles import clear_roles
    from tailorbird.config.schemas import ActiveSchemaWatch
    from tailorbird.platform.diagnostics.declarations import check_slots
    from tailorbird.platform.notify import check_receivers
    from tailorbird.platform.runtime.listeners import open_listener
    from tailorbird.platform.runtime.parent import die_with_parent
    from tailorbird.platform.runtime.resources import resource_warnings
    from tailorbird.platform.runtime.supervisor import Role, Supervisor
    from tailorbird.platform.runtime.systemd import notify
    from tailorbird.platform.runtime.up_lock import UpLock

    die_with_parent()
    project = open_project()
    check_slots(project)
    check_receivers(project)
    apply_remote_erasures(project)
    project.paths.run.mkdir(parents=True, exist_ok=True)
    report_line = partial(_print_line, as_json=project.settings.serve.log_format == "json")
    if copy_note := record_origin(project):
        report_line("up", str(copy_note))
    lock = UpLock(project.paths.run, project.root)
    if not lock.acquire() and not replace:
        raise lock.error()
    listener = open_listener(project, port)
    for warning in resource_warnings(project):
        report_line("up", warning)
    build_servers = partial(_server_roles, project, listener, port=port, shop=shop)
    schema_watch = ActiveSchemaWatch(project)
    announcer = _UrlAnnouncer(project.paths.run, report_line)

    def desired_roles_if_changed() -> list[Role] | None:
        announcer.print_once()
        return (
            _desired_roles(project, build_servers(), train=train)
            if schema_watch.has_changed()
            else None
        )

    try:
        roles = _initial_roles(
            project, desired_roles_if_changed, build_servers, report_line, live=live
        )
        supervisor = Supervisor(
            project.root,
            roles,
            report_line,
            desired_roles=desired_roles_if_changed,
            on_change=partial(_write_roles, project.paths.run, report_line=report_line),
            take_over=None if lock.is_held else lock.take_over,
            on_reload=partial(_run_new_code, listener),
            on_ready=partial(notify, "READY=1"),
            on_tick=partial(notify, "WATCHDOG=1"),
        )
        exit_status = asyncio.run(supervisor.run())
    finally:
        if lock.is_held:
            clear_roles(project.paths.run)
        lock.release()
    if exit_status:
        raise SystemExit(exit_status)


def _run_new_code(listener: "socket.socket") -> "NoReturn":
    """Start this command again in the same process, with the code that is installed now.

    Its roles go on until the new code has servers of its own.
    """
    from tailorbird.serving.sockets import LISTENER_VARIABLE

    listener.set_inheritable(True)
    os.environ[LISTENER_VARIABLE] = str(listener.fileno())
    os.execv(sys.executable, [sys.executable, "-m", "tailorbird", *sys.argv[1:]])


def _server_roles(
    project: "Project", listener: "socket.socket", *, port: int | None, shop: bool
) -> "list[Role]":
    """Return the server processes, which share one listening socket."""
    from tailorbird.events import SECOND, parse_duration
    from tailorbird.platform.runtime.supervisor import Role

    settings = project.settings.serve
    arguments = ["run", "serve"]
    arguments += [*(["--shop"] if shop else []), *([] if port is None else ["--port", str(port)])]
    return [
        Role(
            "serve" if not number else f"serve {number + 1}",
            arguments,
            drain_s=parse_duration(settings.drain_for) / SECOND,
            listener=listener,
        )
        for number in range(settings.processes)
    ]


def _desired_roles(project: "Project", servers: "list[Role]", *, train: bool) -> "list[Role]":
    """Return the roles to run: a worker per active schema, and a router with their attributes."""
    from tailorbird.config.candidates import maintained_contracts
    from tailorbird.config.schemas import active_schemas, route_plan_for
    from tailorbird.platform.runtime.supervisor import Role
    from tailorbird.platform.runtime.watching import HUNG_REMOTE_S, HUNG_S

    schemas = active_schemas(project)
    plan = route_plan_for(project, schemas)
    # A router is restarted if the attributes that it copies into events change.
    router_variant = ",".join([*plan.user_attributes, "", *plan.item_attributes])
    worker_roles = [
        role
        for features in schemas
        for role in _worker_roles(project, features, main_schema=schemas[0])
    ]
    trainer_roles = [Role("trainer", ["run", "trainer"])] if train else []
    router_roles = [
        Role(
            "router" if not number else f"router {number + 1}",
            ["run", "router"],
            variant=router_variant,
        )
        for number in range(_router_count(project))
    ]
    score_roles = [Role("score", ["run", "score"])] if project.scores else []
    contracts = maintained_contracts(project)
    candidate_roles = [
        Role(
            "candidates" if contract is contracts[-1] else f"candidates {contract.hash[:4]}",
            ["run", "candidates", "--contract", contract.hash],
        )
        for contract in contracts
    ]
    lake_role = Role("lake", ["run", "lake"])
    other_roles = [
        *router_roles,
        *worker_roles,
        *candidate_roles,
        lake_role,
        *score_roles,
        *trainer_roles,
    ]
    for role in other_roles:
        role.hung_s = HUNG_REMOTE_S if project.uses_network else HUNG_S
    return [*servers, *other_roles]


def _initial_roles(
    project: "Project",
    desired_roles_if_changed: "Callable[[], list[Role] | None]",
    build_servers: "Callable[[], list[Role]]",
    report_line: "ReportLine",
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
            report_line("up", notice)
        if notice := settle_clock(project, SystemClock(), force_live=live):
            report_line("up", notice)
        return desired_roles_if_changed() or []
    except DamageError as error:
        report_line(
            "up",
            f"{error}\nonly `serve` is started, and answers without a model; the other roles "
            "follow once this is mended",
        )
        return build_servers()


class _UrlAnnouncer:
    """Prints the URL of the page once a server responds."""

    def __init__(self, run_folder: "Path", report_line: "ReportLine") -> None:
        self._run_folder = run_folder
        self._report_line = report_line
        self._since_s = time.time()
        self._is_printed = False

    def print_once(self) -> None:
        if self._is_printed:
            return
        from tailorbird.platform.runtime.servers import server_addresses

        url = next(server_addresses(self._run_folder, since_s=self._since_s), "")
        if url:
            self._is_printed = True
            self._report_line(
                "up",
                f"Open {url}/ to see roles, events and models, and a list for anybody. "
                "Ctrl-C stops all.",
            )


def _print_line(role: str, line: str, *, as_json: bool) -> None:
    """Print a line of a role with its time; a role's own object stays one."""
    time_text = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    if as_json:
        fields = {"time": time_text, "role": role, "message": line}
        with suppress(msgspec.DecodeError):
            fields = {"role": role, **msgspec.json.decode(line, type=dict[str, Any])}
        sys.stdout.write(msgspec.json.encode(fields).decode() + "\n")
    else:
        out = console()
        for text_line in line.split("\n"):
            out.print(time_text, f"{role:<8}", style="bold", end=" ")
            out.print(text_line)
    sys.stdout.flush()


def _write_roles(run_folder: "Path", roles: "list[Role]", report_line: "ReportLine") -> None:
    """Record the running roles for the page."""
    from tailorbird.config.roles import RoleState, write_roles

    try:
        states = [
            RoleState(
                role.name,
                role.pid,
                role.since_s,
                restarts=role.restart_count,
                hung=role.hang_count,
                recent=role.recent_restarts,
            )
            for role in roles
        ]
        write_roles(run_folder, states)
    except OSError as error:
        report_line("up", f"the page cannot be told which roles run: {error}")


def _worker_roles(
    project: "Project", features: "FeatureSet", main_schema: "FeatureSet"
) -> "list[Role]":
    """Return the workers of a schema, and its shuffle if there is one.

    Roles of `main_schema` have short names.
    """
    from tailorbird.config.schemas import shuffled_logs
    from tailorbird.platform.runtime.supervisor import Role

    schema_arguments = ["--schema", features.schema_hash]
    schema_suffix = [] if features is main_schema else [features.schema_hash[:4]]

    def build_role(name: str, number: str = "") -> Role:
        part_arguments = ["--part", number] if number else []
        return Role(
            " ".join(filter(None, (name, number, *schema_suffix))),
            ["run", name, *schema_arguments, *part_arguments],
        )

    if project.workers == 1:
        return [build_role("worker")]
    workers = [build_role("worker", str(number)) for number in range(project.workers)]
    return [build_role("shuffle"), *workers] if shuffled_logs(project, features) else workers


def _router_count(project: "Project") -> int:
    """Return the number of router processes to run here: one, unless they can share partitions."""
    stream_settings = project.settings.stream
    return min(stream_settings.routers, stream_settings.partitions)
