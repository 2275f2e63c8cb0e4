"""Diagnosis of this machine and of a project: what does not work, and what to do."""

import platform
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tailorbird.errors import TailorbirdError
from tailorbird.pages.notebook import notebook_html
from tailorbird.platform.diagnostics.candidates import check_candidate_sources
from tailorbird.platform.diagnostics.clock import check_future_events, check_machine_clock
from tailorbird.platform.diagnostics.external import LOST_ROWS_FIX, Finding, check_external_services
from tailorbird.platform.diagnostics.files import (
    check_access,
    check_copy,
    check_data_folder,
    check_disk,
    check_erasure,
    check_logs,
    check_port,
    describe_lock_holder,
)
from tailorbird.platform.diagnostics.models import check_models, check_trainings
from tailorbird.platform.diagnostics.slots import check_formulas, check_slot_rules
from tailorbird.platform.frames import Frame
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
# The lake archives bodies after a minute.
_LAG_MAX_S = 300.0
_SERVED_LAG_MAX_S = 120.0


@dataclass(frozen=True, repr=False)
class Diagnosis:
    """What was found, and what to do."""

    findings: tuple[Finding, ...]

    @property
    def is_broken(self) -> bool:
        """True if something does not work."""
        return any(state == "error" for _, state, _, _ in self.findings)

    def to_frame(self) -> Frame:
        """Return a row for each finding."""
        return Frame.from_rows(["what", "state", "found", "fix"], self.findings)

    def to_dict(self) -> dict[str, Any]:
        """Return what `tailorbird doctor --json` prints."""
        return {"findings": self.to_frame().to_pylist(), "broken": self.is_broken}

    def __repr__(self) -> str:
        return "\n".join(
            f"{subject}: {state}, {text}{f'; {fix}' if fix else ''}"
            for subject, state, text, fix in self.findings
        )

    def _repr_html_(self) -> str:
        return notebook_html(columns=["what", "state", "found", "fix"], rows=self.findings)


def diagnose(root: Path | None = None) -> Diagnosis:
    """Diagnose this machine and a project. Changes nothing.

    Args:
        root: folder of the project; None finds it from the current folder.
    """
    return Diagnosis(tuple(_all_findings(root)))


def _all_findings(root: Path | None) -> Iterator[Finding]:
    yield "python", "ok" if sys.version_info >= (3, 11) else "error", platform.python_version(), ""
    yield "system", "ok", f"{platform.system()} {platform.release()} {platform.machine()}", ""
    yield from _check_packages()
    yield _check_sqlite()
    yield check_machine_clock()
    yield from _check_project(root)


def _check_packages() -> Iterator[Finding]:
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


def _check_sqlite() -> Finding:
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


def _check_project(root: Path | None) -> Iterator[Finding]:
    from tailorbird.config import open_project

    try:
        project = open_project(root)
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
    yield from check_copy(project)
    yield from check_logs(project.paths.stream)
    if servers:
        yield from _check_roles(project)
    yield from _check_restarts(project.paths.run)
    yield from check_external_services(project)
    yield from _check_positions(project)
    yield from check_future_events(project)
    yield from check_models(project)
    yield from check_trainings(project)
    yield from check_candidate_sources(project, is_served=bool(servers))
    yield from check_formulas(project)
    yield from check_slot_rules(project)
    yield from _check_lags(project, _SERVED_LAG_MAX_S if servers else _LAG_MAX_S)
    yield from _check_feature_parity(project.paths.run, project.features.schema_hash)


def _check_roles(project: "Project") -> Iterator[Finding]:
    """Check that the roles that process a running server's events run on this machine."""
    from tailorbird.stream import routed_path

    fix = "tailorbird up, or tailorbird run {}; if it ends again and again, its own output says why"
    output_path_by_role = {
        "router": routed_path(project.paths.stream),
        "lake": project.paths.lake / "ledger.jsonl",
    }
    output_path_by_role |= {"score": project.paths.stream / "scores.db"} if project.scores else {}
    for role, path in output_path_by_role.items():
        local_path = storage_at(path).local_path
        if project.stream.is_remote or local_path is None:
            # The role may run on another machine; the lag of the readers shows whether it does.
            continue
        holder = describe_lock_holder(local_path)
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


def _check_restarts(run_folder: Path) -> Iterator[Finding]:
    """Report the roles that `up` restarted in the last hour, and why."""
    from tailorbird.config.roles import RECENT_S, read_roles
    from tailorbird.events import SECOND, to_iso

    since_s = time.time() - RECENT_S
    for role in read_roles(run_folder):
        recent_restarts = [restart for restart in role.recent if restart.at_s > since_s]
        if not recent_restarts:
            continue
        reasons = Counter(restart.reason for restart in recent_restarts).most_common()
        last_at = to_iso(int(recent_restarts[-1].at_s * SECOND))[:19]
        yield (
            f"restarts of {role.name}",
            "warning",
            f"{len(recent_restarts)} in the last hour, last at {last_at}Z: "
            + ", ".join(f"{count} × {reason}" for reason, count in reasons),
            f"look for {role.name} in the output of tailorbird up",
        )


def _check_positions(project: "Project") -> Iterator[Finding]:
    """Check the lake's positions against the ledger and the ends of the logs."""
    from tailorbird.lake.verify import log_end_finder
    from tailorbird.lake.write.positions import (
        POSITIONS_FILE,
        load_positions,
        missing_ledger_error,
        positions_beyond_logs,
    )

    lake = project.paths.lake
    try:
        if (lake / POSITIONS_FILE).exists() and not (lake / "ledger.jsonl").exists():
            ledger_error = missing_ledger_error(lake)
            yield "lake ledger", "error", ledger_error.message, ledger_error.fix
        positions_past_end = list(
            positions_beyond_logs(load_positions(lake), log_end_finder(project.stream))
        )
    except TailorbirdError as error:
        yield "lake positions", "error", f"{error.where}: {error.message}", error.fix
        return
    fix = (
        "stop up, and tailorbird lake repair; if the log was lost, or is an older copy, put it "
        'back; see docs/how-to/kafka.md, "When topics are lost for good"'
    )
    for table, log, position, end in positions_past_end:
        yield (
            "lake positions",
            "error",
            f"table {table} is said to be at {position:,} of {log}, which ends at {end:,}",
            fix,
        )


def _check_lags(project: "Project", lag_max_s: float) -> Iterator[Finding]:
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
        lag_s = lag.seconds(now)
        waiting_text = f", the first of them for {lag_s:,.1f} s" if lag.waiting_since else ""
        backlog_text = (
            f"{lag.rows:,} rows in {lag.blocks:,} blocks{waiting_text}" if lag.rows else "nothing"
        )
        is_late = lag_s > lag_max_s
        if lag.lost_rows:
            yield (
                f"behind: {lag.reader}, {lag.log}",
                "error",
                f"the log ends {lag.lost_rows:,} rows before what was read of it",
                LOST_ROWS_FIX,
            )
            continue
        yield (
            f"behind: {lag.reader}, {lag.log}",
            "warning" if is_late else "ok",
            backlog_text,
            "does this role run?" if is_late else "",
        )


def _check_feature_parity(run_folder: Path, schema_hash: str) -> Iterator[Finding]:
    """Report the lake role's comparison of served features with the lake."""
    from tailorbird.events import to_iso
    from tailorbird.features.parity.totals import read_parity_totals

    parity = read_parity_totals(run_folder)
    if parity is None or parity.schema_hash != schema_hash:
        return
    text = (
        f"{sum(parity.compared.values()):,} served values compared with the lake, last at "
        f"{to_iso(parity.at)}"
    )
    if parity.unequal_features:
        names = ", ".join(sorted(parity.unequal_features)[:5])
        text = f"{sum(parity.unequal_features.values()):,} of {text} differ: {names}"
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
