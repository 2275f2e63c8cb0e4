"""Checks of files: access, space, logs and who holds them."""

import shlex
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from tailorbird.errors import StorageError, TailorbirdError
from tailorbird.platform.diagnostics.external import Finding

if TYPE_CHECKING:
    from tailorbird.config import Project


_DISK_FREE_MIN = 2 << 30

_SET_ASIDE_FIX = (
    "acknowledged events may be in it, or may be missing: keep it, look at the disk, and see "
    "tailorbird lake verify"
)


def check_data_folder(data: Path) -> Finding:
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


def check_erasure(project: "Project") -> Iterator[Finding]:
    """Report an interrupted erasure, here or on another machine, and a lost suppression list."""
    from tailorbird.events.suppression import require_finished

    try:
        require_finished(project.paths.data)
        if (topics := project.stream.topics) is not None:
            from tailorbird.stream.kafka.topic_reset import last_erasure

            last_erasure(topics.cluster)
        project.suppression_list()
    except StorageError:
        return  # The check of the cluster reports it.
    except TailorbirdError as error:
        yield "erasure", "error", error.message, error.fix


def check_disk(data: Path) -> Finding:
    folder = data
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    text = f"{free / (1 << 30):.1f} GiB free"
    if free < _DISK_FREE_MIN:
        return (
            "disk",
            "warning",
            text,
            "free some space: with a full disk the collector refuses events",
        )
    return "disk", "ok", text, ""


def check_port(host: str, port: int, servers: list[str]) -> Finding:
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


def check_access(project: "Project") -> Finding:
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
        return "access", "error", f"{error.where}: {error.message}", error.fix
    if not keys:
        return "access", "ok", "open to this machine, closed to others", ""
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
            "access",
            "warning",
            f"{text}; {ending[0][1]} ends at {to_iso(ending[0][0])[:16]}",
            "tailorbird keys create --replaces ID",
        )
    return "access", "ok", text, ""


def check_copy(project: "Project") -> Iterator[Finding]:
    """Report that the project is a plain copy, and what it lacks."""
    from tailorbird.backup import inspect_copy

    try:
        copied = inspect_copy(project)
    except TailorbirdError as error:
        yield "copy", "error", error.message, error.fix
        return
    if copied is None:
        return
    lacking = "; ".join(f"{log} {text}" for log, text in copied.missing.items())
    yield (
        "copy",
        "error" if lacking else "ok",
        f"a plain copy of {copied.copied_from}" + (f": {lacking}" if lacking else ""),
        "tailorbird restore URI FOLDER; see tailorbird lake verify" if lacking else "",
    )


def check_logs(stream: Path) -> Iterator[Finding]:
    from tailorbird.stream import open_reader, raw_logs, response_logs, routed_path
    from tailorbird.stream.partitions import set_aside_files

    routed = {"routed": routed_path(stream)} if routed_path(stream).exists() else {}
    raw = {f"raw {name}": path for name, path in raw_logs(stream).items()}
    responses = {f"answers {name}": path for name, path in response_logs(stream).items()}
    for name, path in {**raw, **responses, **routed}.items():
        wal = path.with_name(path.name + "-wal")
        size = path.stat().st_size + (wal.stat().st_size if wal.exists() else 0)
        try:
            reader = open_reader(path)
            text = f"{reader.end():,} rows, {size / (1 << 20):,.1f} MiB, {lock_holder(path)}"
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


def lock_holder(path: Path) -> str:
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
