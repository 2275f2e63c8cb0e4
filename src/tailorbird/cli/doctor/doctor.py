"""`tailorbird doctor`: diagnose this machine and this project."""

import platform
import shlex
import shutil
import socket
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

from tailorbird.cli.doctor.candidates import candidate_sources
from tailorbird.cli.doctor.clock import dated_ahead, machine_clock
from tailorbird.cli.doctor.external import LOST_ROWS_FIX, Finding, external_services
from tailorbird.cli.doctor.models import damaged_models
from tailorbird.cli.output import Json, console, print_json, print_table
from tailorbird.errors import StorageError, TailorbirdError, suggest_name
from tailorbird.platform.servers import running_servers
from tailorbird.storage import storage_at
from tailorbird.storage_paths import Storage

if TYPE_CHECKING:
    from tailorbird.config import Project
    from tailorbird.retrieval import Index

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
_DISK_FREE_MIN = 2 << 30
_ITEM_VERSIONS_MAX = 50_000  # Versions of items to examine if there is no champion.
_LAG_MAX_S, _SERVED_LAG_MAX_S = (300.0, 120.0)  # The lake archives bodies after a minute.
_SET_ASIDE_FIX = (
    "acknowledged events may be in it, or may be missing: keep it, look at the disk, and see "
    "tailorbird lake verify"
)


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
    yield _data_folder(project.paths.data)
    yield _disk(project.paths.data)
    servers = list(running_servers(project.paths.run))
    yield _port(project.settings.serve.host, project.settings.serve.port, servers)
    yield _access(project)
    yield from _erasure(project)
    yield from _logs(project.paths.stream)
    if servers:
        yield from _roles(project)
    yield from external_services(project)
    yield from _positions(project)
    yield from dated_ahead(project)
    yield from damaged_models(project)
    yield from candidate_sources(project, served=bool(servers))
    yield from _formulas(project)
    yield from _slot_rules(project)
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
        holder = _holder(local)
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


def _formulas(project: "Project") -> Iterator[Finding]:
    """Find formulas with heads that the champion does not predict."""
    from tailorbird.events import SystemClock
    from tailorbird.registry import Registry
    from tailorbird.serving.pipeline.formulas import describe_formulas

    try:
        formulas = describe_formulas(
            Registry(project.paths.registry, clock=SystemClock()), project.slots.values()
        )
    except TailorbirdError as error:
        yield "formulas", "error", error.message, error.fix
        return
    for formula in formulas:
        if formula.missing:
            fix = (
                "tailorbird train, once there are enough of them, or leave them out: "
                f"tailorbird formula set {formula.slot} …"
            )
            yield (
                f"formula: {formula.slot}",
                "warning",
                f"the champion predicts no {', '.join(formula.missing)}: left out of the value",
                fix,
            )


def _slot_rules(project: "Project") -> Iterator[Finding]:
    """Find unknown attributes in rules, and slots whose rules leave no item.

    Items are those of the champion's index, or else those of the lake.
    """
    from tailorbird.events import SystemClock
    from tailorbird.registry import Registry
    from tailorbird.retrieval import Index
    from tailorbird.serving.pipeline.shaping import RARE_ATTRIBUTES, Shaping

    try:
        champion = Registry(project.paths.registry, clock=SystemClock()).champion()
        shapings = [Shaping(slot) for slot in project.slots.values()]
        index = (
            _lake_items(project.paths.lake) if champion is None else Index.open(champion / "index")
        )
    except (TailorbirdError, OSError, ValueError) as error:
        yield "rules", "error", str(error), "tailorbird models show champion"
        return
    if not len(index):
        return
    yield from _lists(project, index)
    attributes = sorted(index.attributes)
    for shaping in shapings:
        slot = shaping.slot.name
        for name in sorted(shaping.item_attributes - {*attributes, *RARE_ATTRIBUTES}):
            fix = suggest_name(
                name,
                attributes,
                f"use one of {', '.join(attributes) or 'none: no item has any'}",
                owner="item.",
            )
            yield f"rules: {slot}", "warning", f"item.{name} is asked for, and no item has it", fix
        if reason := shaping.explain_empty(index):
            text = f"shows nothing of {len(index):,} items: {reason}"
            yield (
                f"rules: {slot}",
                "warning",
                text,
                "mend the rule in slots.py, or send items that satisfy it",
            )
        for rule in [] if reason else shaping.empty_for_strangers(index):
            text = (
                "shows nothing to people of whom nothing is known, as everybody at first: no "
                f"item satisfies {rule}"
            )
            yield (
                f"rules: {slot}",
                "warning",
                text,
                "say in the rule what then: missing(user.…) or …",
            )


def _lists(project: "Project", index: "Index") -> "Iterator[Finding]":
    """Find unknown items in editorial lists, and lists that are not declared."""
    from tailorbird.serving.pipeline.editorial import FILE, check_lists

    try:
        lists = check_lists(project.root / FILE, project.slots.values())
    except TailorbirdError as error:
        yield "lists", "error", error.message, error.fix
        return
    for name, items in lists.items():
        if unknown := [
            item for item, row in zip(items, index.find_ids(items).tolist(), strict=True) if row < 0
        ]:
            text = (
                f"{len(unknown):,} of {len(items):,} items are not known: "
                f"{', '.join(unknown[:5])}{', …' if len(unknown) > 5 else ''}"
            )
            yield f"list: {name}", "warning", text, f"mend {FILE}, or send these items"


def _lake_items(lake: Storage) -> "Index":
    """Return an index of the newest item versions in the lake, up to a limit."""
    import json

    from tailorbird.lake import Lake
    from tailorbird.retrieval import Index, NewItem, with_items

    reader = Lake(lake)
    if not reader.exists("items"):
        return Index.bare(())
    rows = reader.table("items", ["id", "valid_from", "attributes"]).sort_by("valid_from")
    # The last one of several versions of an item counts.
    newest = rows.slice(max(0, len(rows) - _ITEM_VERSIONS_MAX)).to_pylist()
    return with_items(
        Index.bare(()),
        [NewItem(row["id"], json.loads(row["attributes"] or "{}"), 0) for row in newest],
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


def _data_folder(data: Path) -> Finding:
    folder = data
    while not folder.exists():
        folder = folder.parent
    probe = folder / ".tailorbird-doctor"
    try:
        probe.touch()
        probe.unlink()
    except OSError as error:
        return (
            "data folder",
            "error",
            f"{folder}: {error.strerror}",
            "make it writable, or set project.data to another folder",
        )
    if folder == data and data.stat().st_mode & 0o077:
        return (
            "data folder",
            "warning",
            f"{data}: other users of this machine may look into it",
            f"chmod 700 {shlex.quote(str(data))}",
        )
    return "data folder", "ok", str(data), ""


def _erasure(project: "Project") -> Iterator[Finding]:
    """Report an interrupted erasure, here or on another machine, and a lost suppression list."""
    from tailorbird.events.suppression import require_finished

    try:
        require_finished(project.paths.data)
        if (topics := project.stream.topics) is not None:
            from tailorbird.stream.kafka.emptied import last_erasure

            last_erasure(topics.cluster)
        project.suppression_list()
    except StorageError:
        return  # The check of the cluster reports it.
    except TailorbirdError as error:
        yield "erasure", "error", error.message, error.fix


def _disk(data: Path) -> Finding:
    folder = data
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    text = f"{free / (1 << 30):.1f} GiB free"
    if free < _DISK_FREE_MIN:
        return "disk", "warning", text, "free some space: with a full disk the door refuses events"
    return "disk", "ok", text, ""


def _port(host: str, port: int, servers: list[str]) -> Finding:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            if own_urls := [url for url in servers if url.endswith(f":{port}")]:
                return "port", "ok", f"{own_urls[0]} is this project's own server", ""
            return (
                "port",
                "warning",
                f"{host}:{port} {error.strerror}",
                "in use by something else: stop it, or set serve.port",
            )
    return "port", "ok", f"{host}:{port} is free", ""


def _access(project: "Project") -> Finding:
    """Check who has access and whether that is safe. Names keys by their ids only."""
    from tailorbird.events import DAY, SystemClock, to_iso
    from tailorbird.serving.auth.keys import Keys
    from tailorbird.serving.http.access import is_local, require_safe_bind

    serve = project.settings.serve
    try:
        keys = Keys(
            serve.write_keys, serve.read_keys, serve.admin_keys, file=project.root / serve.keys_file
        )
        require_safe_bind(serve.host, keys)
        project.pseudonyms(record_key=False)
    except TailorbirdError as error:
        return "front door", "error", f"{error.where}: {error.message}", error.fix
    if not keys:
        return "front door", "ok", "open to this machine, closed to others", ""
    key_infos, now = keys.figures(), SystemClock().now()
    ending = sorted(
        (key.expires_at, key.id) for key in key_infos if now < key.expires_at < now + 7 * DAY
    )
    text = (
        f"{len(key_infos)} {'key' if len(key_infos) == 1 else 'keys'}, "
        f"{'this machine only' if is_local(serve.host) else serve.host}"
    )
    if ending:
        return (
            "front door",
            "warning",
            f"{text}; {ending[0][1]} ends at {to_iso(ending[0][0])[:16]}",
            "tailorbird keys create --replaces ID",
        )
    return "front door", "ok", text, ""


def _logs(stream: Path) -> Iterator[Finding]:
    from tailorbird.stream import open_reader, raw_logs, response_logs, routed_path
    from tailorbird.stream.partitions import set_aside_files

    routed = {"routed": routed_path(stream)} if routed_path(stream).exists() else {}
    raw = {f"raw {name}": path for name, path in raw_logs(stream).items()}
    answers = {f"answers {name}": path for name, path in response_logs(stream).items()}
    for name, path in {**raw, **answers, **routed}.items():
        wal = path.with_name(path.name + "-wal")
        size = path.stat().st_size + (wal.stat().st_size if wal.exists() else 0)
        try:
            reader = open_reader(path)
            text = f"{reader.end():,} rows, {size / (1 << 20):,.1f} MiB, {_holder(path)}"
            reader.close()
            yield f"log {name}", "ok", text, ""
        except TailorbirdError as error:
            yield (
                f"log {name}",
                "error",
                error.message,
                error.fix or "tailorbird lake verify says what is damaged",
            )
        for file in set_aside_files(path):
            yield (
                f"log {name}",
                "warning",
                f"{file.name} moved aside: damaged, or lost and begun anew",
                _SET_ASIDE_FIX,
            )


def _holder(path: Path) -> str:
    import fcntl

    lock = path.with_name(path.name + ".lock")
    if not lock.exists():
        return "no writer"
    with lock.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return f"written by process {file.read().decode(errors='replace').strip() or '?'}"
        return "no writer"
