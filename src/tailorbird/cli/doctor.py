"""`tailorbird doctor`."""

import platform
import shutil
import socket
import sys
import time
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

from tailorbird.cli.output import Json, console, print_json, print_table
from tailorbird.errors import NotReadyError, TailorbirdError
from tailorbird.places import Place

if TYPE_CHECKING:
    from tailorbird.config import Project
    from tailorbird.stream import Address, Stream
    from tailorbird.stream.kafka.logs import KafkaStream

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
_BEHIND_MAX_S = 300.0

Finding = tuple[str, str, str, str]  # what, "ok" | "warning" | "error", what was found, what to do


def doctor(*, json: Json = False) -> None:
    """Look at this machine and this project, and say what to do. Changes nothing; ends with status 1 if something is broken.

    Prints versions, disk, locks, clock, ports, settings and the state of the logs; no secrets. Fit for a bug report.

    Example:  tailorbird -C shop doctor
    """
    findings = list(_look())
    broken = any(state == "error" for _, state, _, _ in findings)
    if json:
        print_json({"findings": [dict(zip(("what", "state", "found", "fix"), row, strict=True)) for row in findings], "broken": broken})
    else:
        print_table("", ["what", "state", "found"], [row[:3] for row in findings])
        todo = [(what, fix) for what, _, _, fix in findings if fix]
        console().print("\nNothing to do." if not todo else "\nWhat to do:")
        for what, fix in todo:
            console().print(f"  {what}: {fix}")
    raise SystemExit(1 if broken else 0)


def _look() -> Iterator[Finding]:
    yield "python", "ok" if sys.version_info >= (3, 11) else "error", platform.python_version(), ""
    yield "system", "ok", f"{platform.system()} {platform.release()} {platform.machine()}", ""
    yield from _packages()
    yield _sqlite()
    yield _clock()
    yield from _project()


def _packages() -> Iterator[Finding]:
    for name in ("tailorbird", *_PACKAGES):
        try:
            yield name, "ok", version(name), ""
        except PackageNotFoundError:
            yield name, "warning", "not installed", "pip install 'tailorbird[all]' for everything, [serve] for servers"


def _sqlite() -> Finding:
    import apsw

    found = apsw.sqlite_lib_version()
    if tuple(int(part) for part in found.split(".")) < _SQLITE_MIN:
        return "sqlite", "error", found, "upgrade apsw: SQLite below 3.51.3 can corrupt a log that is written and read at once"
    return "sqlite", "ok", found, ""


def _clock() -> Finding:
    now = time.time()
    if now < 1_750_000_000:
        return "clock", "error", time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(now)), "set the machine's clock; it is years behind"
    return "clock", "ok", time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(now)), ""


def _project() -> Iterator[Finding]:
    from tailorbird.config import open_project

    try:
        project = open_project()
    except TailorbirdError as error:
        first = error.message if not error.where else f"{error.where}: {error.message}"
        yield "project", "error", first, error.fix or "mend the declaration; tailorbird check says when it loads"
        return
    yield "project", "ok", str(project.root), ""
    yield _folder(project.paths.data)
    yield _disk(project.paths.data)
    yield _port(project.settings.serve.host, project.settings.serve.port)
    yield _front_door(project)
    yield from _erasure(project.paths.data)
    yield from _logs(project.paths.stream)
    if not isinstance(project.stream, Path):
        yield from _cluster(project.stream, project.paths.lake)
    yield from _behind(project)
    yield from _compared(project.paths.run, project.features.schema_hash)


def _behind(project: "Project") -> Iterator[Finding]:
    """How far the readers of the logs are behind; long, where nobody takes anything."""
    from tailorbird.events import SystemClock
    from tailorbird.features.figures import all_figures
    from tailorbird.stream.lag import LagMeter

    paths = project.paths
    try:
        with LagMeter(project.stream, paths.lake, lambda: {each.schema_hash: each.offset for each in all_figures(paths.state)}) as meter:
            lags = meter.measure()
    except TailorbirdError as error:
        yield "behind", "error", f"{error.where}: {error.message}", error.fix
        return
    now = SystemClock().now()
    for lag in lags:
        seconds = lag.seconds(now)
        since = f", the first of them for {seconds:,.1f} s" if lag.waiting_since else ""
        text = f"{lag.rows:,} rows in {lag.blocks:,} blocks{since}" if lag.rows else "nothing"
        stands = seconds > _BEHIND_MAX_S
        yield f"behind: {lag.reader}, {lag.log}", "warning" if stands else "ok", text, "does this role run?" if stands else ""


def _compared(run: Path, schema_hash: str) -> Iterator[Finding]:
    """What the lake role found when it held served features against the lake."""
    from tailorbird.events import to_iso
    from tailorbird.features.compared import read_compared

    found = read_compared(run)
    if found is None or found.schema_hash != schema_hash:
        return
    text = f"{sum(found.compared.values()):,} served values compared with the lake, last at {to_iso(found.at)}"
    if found.differing:
        names = ", ".join(sorted(found.differing)[:5])
        text = f"{sum(found.differing.values()):,} of {text} differ: {names}"
        yield "features", "error", text, f"tailorbird features verify; such as {found.examples[0]}" if found.examples else "features verify"
    elif found.error:
        yield "features", "warning", f"the comparison fails: {found.error}", "tailorbird features verify says more"
    else:
        yield "features", "ok", f"{text}; all equal", ""


def _folder(data: Path) -> Finding:
    folder = data
    while not folder.exists():
        folder = folder.parent
    probe = folder / ".tailorbird-doctor"
    try:
        probe.touch()
        probe.unlink()
    except OSError as error:
        return "data folder", "error", f"{folder}: {error.strerror}", "make it writable, or set project.data to another folder"
    return "data folder", "ok", str(data), ""


def _erasure(data: Path) -> Iterator[Finding]:
    from tailorbird.events.erased import require_finished

    try:
        require_finished(data)
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


def _port(host: str, port: int) -> Finding:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            return "port", "warning", f"{host}:{port} {error.strerror}", "in use, perhaps by this project's own serve; else set serve.port"
    return "port", "ok", f"{host}:{port} is free", ""


def _front_door(project: "Project") -> Finding:
    """Who may call, and whether that is safe. Names keys by their ids only."""
    from tailorbird.events import DAY, SystemClock, to_iso
    from tailorbird.serving.access import is_local, require_safe_bind
    from tailorbird.serving.keys import Keys

    serve = project.settings.serve
    try:
        keys = Keys(serve.write_keys, serve.read_keys, serve.admin_keys, file=project.root / serve.keys_file)
        require_safe_bind(serve.host, keys)
        project.pseudonyms()
    except TailorbirdError as error:
        return "front door", "error", f"{error.where}: {error.message}", error.fix
    if not keys:
        return "front door", "ok", "open to this machine, closed to others", ""
    held, now = keys.figures(), SystemClock().now()
    ending = sorted((key.expires_at, key.id) for key in held if now < key.expires_at < now + 7 * DAY)
    text = f"{len(held)} {'key' if len(held) == 1 else 'keys'}, {'this machine only' if is_local(serve.host) else serve.host}"
    if ending:
        return (
            "front door",
            "warning",
            f"{text}; {ending[0][1]} ends at {to_iso(ending[0][0])[:16]}",
            "tailorbird keys create --replaces ID",
        )
    return "front door", "ok", text, ""


def _logs(stream: Path) -> Iterator[Finding]:
    from tailorbird.stream import answer_logs, open_reader, raw_logs, routed_path
    from tailorbird.stream.partitions import set_aside_files

    routed = {"routed": routed_path(stream)} if routed_path(stream).exists() else {}
    raw = {f"raw {name}": path for name, path in raw_logs(stream).items()}
    answers = {f"answers {name}": path for name, path in answer_logs(stream).items()}
    for name, path in {**raw, **answers, **routed}.items():
        wal = path.with_name(path.name + "-wal")
        size = path.stat().st_size + (wal.stat().st_size if wal.exists() else 0)
        try:
            reader = open_reader(path)
            text = f"{reader.end():,} rows, {size / (1 << 20):,.1f} MiB, {_holder(path)}"
            reader.close()
            yield f"log {name}", "ok", text, ""
        except TailorbirdError as error:
            yield f"log {name}", "error", error.message, error.fix or "tailorbird lake verify says what is damaged"
        for aside in set_aside_files(path):
            yield f"log {name}", "warning", f"{aside.name} moved aside", "it may hold acknowledged events; keep it, look at the disk"


def _cluster(stream: "KafkaStream", lake: Place) -> Iterator[Finding]:
    """The cluster: can it be reached, are our topics as they are configured, and what the lake does not have yet of each."""
    from tailorbird.stream.kafka.inspect import faults, look

    cluster = stream.cluster
    try:
        state = look(cluster)
    except TailorbirdError as error:
        yield "kafka", "error", f"{error.where}: {error.message}", error.fix or "is the broker running?"
        return
    how = str(cluster.conf().get("security.protocol", "PLAINTEXT"))
    yield "kafka", "ok", f"{len(state.brokers)} brokers ({', '.join(state.brokers)}), {how}, {len(state.topics)} topics", ""
    for topic in state.topics:
        name = topic.name.removeprefix(f"{cluster.prefix}.")
        for found, fix in faults(topic, cluster, stream.partitions_of(name)):
            yield f"kafka {name}", "warning", found, fix
    yield from _topics(stream, lake)


def _topics(stream: "Stream", lake: Place) -> Iterator[Finding]:
    """The topics there are, and how many rows of each the lake does not have yet."""
    from tailorbird.stream import answers_addresses, open_reader, raw_addresses, read_released, routed_address
    from tailorbird.stream.kafka import KafkaLog

    try:
        found: dict[str, Address] = {
            **raw_addresses(stream),
            **{f"answers {name}": each for name, each in answers_addresses(stream).items()},
        }
        found["routed"] = routed_address(stream)
        safe = read_released(lake).safe
        for address in found.values():
            if isinstance(address, Path):
                continue
            try:
                with open_reader(address) as reader:
                    end, behind = reader.end(), reader.waiting(safe.get(address.stem, 0)).rows
            except NotReadyError:
                continue  # nobody has written to it yet
            part = f"[{address.number}]" if isinstance(address, KafkaLog) and address.count > 1 else ""
            yield f"topic {address.topic}{part}", "ok", f"{end:,} rows, {behind:,} of them not yet safe in the lake", ""
    except TailorbirdError as error:
        yield "kafka", "error", f"{error.where}: {error.message}", error.fix or "is the broker running?"


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
