"""`tailorbird doctor`: diagnose this machine and this project."""

import platform
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

from tailorbird.cli.doctor.candidates import candidate_sources
from tailorbird.cli.doctor.clock import dated_ahead, machine_clock
from tailorbird.cli.doctor.external import LOST_ROWS_FIX, Finding, external_services
from tailorbird.cli.doctor.files import (
    check_access,
    check_data_folder,
    check_disk,
    check_erasure,
    check_logs,
    check_port,
    lock_holder,
)
from tailorbird.cli.doctor.models import damaged_models
from tailorbird.cli.doctor.slots import check_formulas, check_slot_rules
from tailorbird.cli.output import Json, console, print_json, print_table
from tailorbird.errors import TailorbirdError
from tailorbird.platform.runtime.servers import running_servers
from tailorbird.storage import storage_at

if TYPE_CHECKING:
    from tailorbird.config import Project

_PACKAGES = (
    "apsw",
    "lmdb",
    "numpy",
    "pyarrow",
    "deltalake",
    "numba",
    "onnxruntime",
    "starlette",
    "uvicorn",
    "tantivy",
    "lightgbm",
    "msgspec",
)
_SQLITE_MIN = (3, 51, 3)
_LAG_MAX_S, _SERVED_LAG_MAX_S = (300.0, 120.0)  # The lake archives bodies after a minute.


def doctor(*, json: Json = False) -> None:
    """Diagnose this machine and this project, and suggest fixes. Changes nothing.

    It prints versions, disk, clock, port, keys, the state of the logs and the lag of their readers.
    It checks that brokers, Valkey and bucket respond, and which rows of a topic are lost. It
    reports damaged models, empty or late candidate sources, and slots whose formulas or rules need
    unknown values or leave no item. The output has no secrets, so it is safe in a bug report. The
    command ends with status 1 if something is broken.

    Example:  tailorbird -C shop doctor
    """
    findings = list(_all_findings())
    broken = any(state == "error" for _, state, _, _ in findings)
    if json:
        print_json(
            {
                "findings": [
                    dict(zip(("what", "state", "found", "fix"), row, strict=True))
                    for row in findings
                ],
                "broken": broken,
            }
        )
    else:
        print_table("", ["what", "state", "found"], [row[:3] for row in findings])
        todo = [(what, fix) for what, _, _, fix in findings if fix]
        console().print("\nNothing to do." if not todo else "\nWhat to do:")
        for what, fix in todo:
            console().print(f"  {what}: {fix}")
    raise SystemExit(1 if broken else 0)


def _all_findings() -> Iterator[Finding]:
    yield "python", "ok" if sys.version_info >= (3, 11) else "error", platform.python_version(), ""
    yield "system", "ok", f"{platform.system()} {platform.release()} {platform.machine()}", ""
    yield from _packages()
    yield _sqlite()
    yield machine_clock()
    yield from _project()


def _packages() -> Iterator[Finding]:
    for name in ("tailorbird", *_PACKAGES):
        try:
            yield name, "ok", version(name), ""
        except PackageNotFoundError:
            yield (
                name,
                "warning",
                "not installed",
                "pip install 'tailorbird[all]' for everything, [serve] for servers",
            )


def _sqlite() -> Finding:
    import apsw

    sqlite_version = apsw.sqlite_lib_version()
    if tuple(int(part) for part in sqlite_version.split(".")) < _SQLITE_MIN:
        return (
            "sqlite",
            "error",
            sqlite_version,
            "upgrade apsw: SQLite below 3.51.3 can corrupt a log that is written and read at once",
        )
    return "sqlite", "ok", sqlite_version, ""


def _project() -> Iterator[Finding]:
    from tailorbird.config import open_project

    try:
        project = open_project()
    except TailorbirdError as error:
        description = error.message if not error.where else f"{error.where}: {error.message}"
        yield (
            "project",
            "error",
            description,
            error.fix or "mend the declaration; tailorbird check says when it loads",
        )
        return
    yield "project", "ok", str(project.root), ""
    yield check_data_folder(project.paths.data)
    yield check_disk(project.paths.data)
    servers = list(running_servers(project.paths.run))
    yield check_port(project.settings.serve.host, project.settings.serve.port, servers)
    yield check_access(project)
    yield from check_erasure(project)
    yield from check_logs(project.paths.stream)
    if servers:
        yield from _roles(project)
    yield from external_services(project)
    yield from _positions(project)
    yield from dated_ahead(project)
    yield from damaged_models(project)
    yield from candidate_sources(project, served=bool(servers))
    yield from check_formulas(project)
    yield from check_slot_rules(project)
    yield from _lags(project, _SERVED_LAG_MAX_S if servers else _LAG_MAX_S)
    yield from _feature_parity(project.paths.run, project.features.schema_hash)


def _roles(project: "Project") -> Iterator[Finding]:
    """Check that the roles that process a running server's events run on this machine."""
    from tailorbird.stream import routed_path

    fix = "tailorbird up, or tailorbird run {}; if it ends again and again, its own output says why"
    logs = {
        "router": routed_path(project.paths.stream),
        "lake": project.paths.lake / "ledger.jsonl",
    }
    logs |= {"score": project.paths.stream / "scores.db"} if project.scores else {}
    for role, path in logs.items():
        local = storage_at(path).local
        if project.stream.is_remote or local is None:
            # The role may run on another machine; the lag of the readers shows whether it does.
            continue
        holder = lock_holder(local)
        is_running = holder != "no writer"
        text = (
            holder.replace("written by", "runs as")
            if is_running
            else "a server runs, but nobody takes what it takes in"
        )
        yield (
            f"role {role}",
            "ok" if is_running else "warning",
            text,
            "" if is_running else fix.format(role),
        )


def _positions(project: "Project") -> Iterator[Finding]:
    """Check the lake's positions against the ledger and the ends of the logs."""
    from tailorbird.lake.verify import ends_of
    from tailorbird.lake.write.positions import FILE, beyond_logs, load_positions, no_ledger

    lake = project.paths.lake
    try:
        if (lake / FILE).exists() and not (lake / "ledger.jsonl").exists():
            lost = no_ledger(lake)
            yield "lake ledger", "error", lost.message, lost.fix
        positions_beyond = list(beyond_logs(load_positions(lake), ends_of(project.stream)))
    except TailorbirdError as error:
        yield "lake positions", "error", f"{error.where}: {error.message}", error.fix
        return
    fix = (
        "stop up, and tailorbird lake repair; if the log was lost, or is an older copy, put it "
        'back; see docs/how-to/kafka.md, "When topics are lost for good"'
    )
    for table, log, position, end in positions_beyond:
        yield (
            "lake positions",
            "error",
            f"table {table} is said to be at {position:,} of {log}, which ends at {end:,}",
            fix,
        )


def _lags(project: "Project", lag_max_s: float) -> Iterator[Finding]:
    """Report the lag of the readers of each log; a long lag means that a role does not run."""
    from tailorbird.events import SystemClock
    from tailorbird.features.state.progress import routed_log_offsets
    from tailorbird.stream.lag import LagMeter

    paths = project.paths
    try:
        with LagMeter(
            project.stream, paths.lake, lambda: routed_log_offsets(paths.state, project.workers)
        ) as meter:
            lags = meter.measure()
    except TailorbirdError as error:
        yield "behind", "error", f"{error.where}: {error.message}", error.fix
        return
    now = SystemClock().now()
    for lag in lags:
        seconds = lag.seconds(now)
        since = f", the first of them for {seconds:,.1f} s" if lag.waiting_since else ""
        text = f"{lag.rows:,} rows in {lag.blocks:,} blocks{since}" if lag.rows else "nothing"
        is_late = seconds > lag_max_s
        if lag.lost:
            yield (
                f"behind: {lag.reader}, {lag.log}",
                "error",
                f"the log ends {lag.lost:,} rows before what was read of it",
                LOST_ROWS_FIX,
            )
            continue
        yield (
            f"behind: {lag.reader}, {lag.log}",
            "warning" if is_late else "ok",
            text,
            "does this role run?" if is_late else "",
        )


def _feature_parity(run: Path, schema_hash: str) -> Iterator[Finding]:
    """Report the lake role's comparison of served features with the lake."""
    from tailorbird.events import to_iso
    from tailorbird.features.parity.totals import read_parity_totals

    parity = read_parity_totals(run)
    if parity is None or parity.schema_hash != schema_hash:
        return
    text = (
        f"{sum(parity.compared.values()):,} served values compared with the lake, last at "
        f"{to_iso(parity.at)}"
    )
    if parity.differing:
        names = ", ".join(sorted(parity.differing)[:5])
        text = f"{sum(parity.differing.values()):,} of {text} differ: {names}"
        yield (
            "features",
            "error",
            text,
            f"tailorbird features verify; such as {parity.examples[0]}"
            if parity.examples
            else "features verify",
        )
    elif parity.error:
        yield (
            "features",
            "warning",
            f"the comparison fails: {parity.error}",
            "tailorbird features verify says more",
        )
    else:
        yield "features", "ok", f"{text}; all equal", ""
