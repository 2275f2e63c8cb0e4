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


def check_data_folder(data_folder: Path) -> Finding:
    folder = data_folder
    while not folder.exists():
        folder = folder.parent
    probe_file = folder / ".tailorbird-doctor"
    try:
        probe_file.touch()
        probe_file.unlink()
    except OSError as error:
        return (
            "data folder",
            "error",
            f"{folder}: {error.strerror}",
            "make it writable, or set project.data to another folder",
        )
    if folder == data_folder and data_folder.stat().st_mode & 0o077:
        return (
            "data folder",
            "warning",
            f"{data_folder}: other users of this machine may look into it",
            f"chmod 700 {shlex.quote(str(data_folder))}",
        )
    return "data folder", "ok", str(data_folder), ""


def check_erasure(project: "Project") -> Iterator[Finding]:
    """Report an interrupted erasure, here or on another machine, and a lost suppression list."""
    from tailorbird.events.suppression import require_finished_erasure

    try:
        require_finished_erasure(project.paths.data)
        if (topics := project.stream.kafka_logs) is not None:
            from tailorbird.stream.kafka.topic_reset import last_erasure

            last_erasure(topics.cluster)
        project.suppression_list()
    except StorageError:
        return  # The check of the cluster reports it.
    except TailorbirdError as error:
        yield "erasure", "error", error.message, error.fix


def check_disk(data_folder: Path) -> Finding:
    folder = data_folder
    while not folder.exists():
        folder = folder.parent
    free_bytes = shutil.disk_usage(folder).free
    text = f"{free_bytes / (1 << 30):.1f} GiB free"
    if free_bytes < _DISK_FREE_MIN:
        return (
            "disk",
            "warning",
            text,
            "free some space: with a full disk the collector refuses events",
        )
    return "disk", "ok", text, ""


def check_port(host: str, port: int, server_urls: list[str]) -> Finding:
    with socket.socket() as probe_socket:
        probe_socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe_socket.bind((host, port))
        except OSError as error:
            if own_urls := [url for url in server_urls if url.endswith(f":{port}")]:
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

    serve_settings = project.settings.serve
    try:
        keys = Keys(
            serve_settings.write_keys,
            serve_settings.read_keys,
            serve_settings.admin_keys,
            file=project.root / serve_settings.keys_file,
        )
        require_safe_bind(serve_settings.host, keys)
        project.pseudonyms(record_key=False)
    except TailorbirdError as error:
        return "access", "error", f"{error.where}: {error.message}", error.fix
    if not keys:
        return "access", "ok", "open to this machine, closed to others", ""
    key_infos = keys.figures()
    now = SystemClock().now()
    expiring_keys = [key for key in key_infos if now < key.expires_at < now + 7 * DAY]
    text = (
        f"{len(key_infos)} {'key' if len(key_infos) == 1 else 'keys'}, "
        f"{'this machine only' if is_local(serve_settings.host) else serve_settings.host}"
    )
    if expiring_keys:
        next_expiring_key = min(expiring_keys, key=lambda key: key.expires_at)
        return (
            "access",
            "warning",
            f"{text}; {next_expiring_key.id} ends at {to_iso(next_expiring_key.expires_at)[:16]}",
            "tailorbird keys create --replaces ID",
        )
    return "access", "ok", text, ""


def check_copy(project: "Project") -> Iterator[Finding]:
    """Report that the project is a plain copy (of a folder, not a backup), and what it lacks."""
    from tailorbird.backup import inspect_copy

    try:
        copy_report = inspect_copy(project)
    except TailorbirdError as error:
        yield "copy", "error", error.message, error.fix
        return
    if copy_report is None:
        return
    missing_text = "; ".join(f"{log} {text}" for log, text in copy_report.missing.items())
    yield (
        "copy",
        "error" if missing_text else "ok",
        f"a plain copy of {copy_report.copied_from}"
        + (f": {missing_text}" if missing_text else ""),
        "tailorbird restore URI FOLDER; see tailorbird lake verify" if missing_text else "",
    )


def check_logs(stream_folder: Path) -> Iterator[Finding]:
    from tailorbird.stream import open_reader, raw_logs, response_logs, routed_path
    from tailorbird.stream.partitions import damaged_tail_files

    routed_log_paths = (
        {"routed": routed_path(stream_folder)} if routed_path(stream_folder).exists() else {}
    )
    raw_log_paths = {f"raw {name}": path for name, path in raw_logs(stream_folder).items()}
    response_log_paths = {
        f"answers {name}": path for name, path in response_logs(stream_folder).items()
    }
    for name, path in {**raw_log_paths, **response_log_paths, **routed_log_paths}.items():
        wal_file = path.with_name(path.name + "-wal")
        size_bytes = path.stat().st_size + (wal_file.stat().st_size if wal_file.exists() else 0)
        try:
            reader = open_reader(path)
            size = f"{reader.end():,} rows, {size_bytes / (1 << 20):,.1f} MiB"
            text = f"{size}, {describe_lock_holder(path)}"
            reader.close()
            yield f"log {name}", "ok", text, ""
        except TailorbirdError as error:
            yield (
                f"log {name}",
                "error",
                error.message,
                error.fix or "tailorbird lake verify says what is damaged",
            )
        for file in damaged_tail_files(path):
            yield (
                f"log {name}",
                "warning",
                f"{file.name} moved aside: damaged, or lost and begun anew",
                _SET_ASIDE_FIX,
            )


def describe_lock_holder(path: Path) -> str:
    """Return which process holds the writer's lock beside a file."""
    import fcntl

    lock_path = path.with_name(path.name + ".lock")
    if not lock_path.exists():
        return "no writer"
    with lock_path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return f"written by process {file.read().decode(errors='replace').strip() or '?'}"
        return "no writer"
