"""Listening sockets of serve processes: bound here, inherited, or handed over by a running server.

    up ── binds once ──► fd ──► serve, serve 2        each accepts from the same queue
    systemd ── LISTEN_FDS ──► up or serve
    serve ── `run/serve-1.sock` (SCM_RIGHTS) ──► the next up, while the processes change

The socket outlives every process: while no server is ready, connections wait in its queue. Nothing
uses SO_REUSEPORT, under which a stopped process would keep its share of the connections.
"""

import errno
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from tailorbird.atomic_write import atomic_write
from tailorbird.errors import StorageError, UsageError, fix_for_os_error

PORTS_TRIED = 20
BACKLOG = 2_048
LISTENER_VARIABLE = "TAILORBIRD_LISTENER"  # descriptor that `up` hands to its servers
_SYSTEMD_FIRST_DESCRIPTOR = 3


def inherited_listener() -> socket.socket | None:
    """Return the listening socket that `up` or systemd gave to this process; None without one.

    It is taken from the environment, so that child processes do not look for it.
    """
    descriptor_text = os.environ.pop(LISTENER_VARIABLE, "")
    if not descriptor_text:
        socket_count = os.environ.pop("LISTEN_FDS", "")
        pid = os.environ.pop("LISTEN_PID", "")
        if not socket_count or pid != str(os.getpid()):
            return None
        descriptor_text = str(_SYSTEMD_FIRST_DESCRIPTOR)
        if socket_count != "1":
            raise UsageError(
                f"systemd passed {socket_count} sockets, one is expected",
                where="LISTEN_FDS",
                fix="keep one ListenStream in the socket unit",
            )
    listener = socket.socket(fileno=int(descriptor_text))
    listener.set_inheritable(False)
    return listener


def bind(host: str, port: int, *, is_explicit: bool) -> socket.socket:
    """Open a listening socket; use the next free port if this one is busy and was not requested
    explicitly.

    Raises:
        UsageError: the port is taken, or the address is not ours.
    """
    ports = [port] if is_explicit or port == 0 else range(port, min(port + PORTS_TRIED, 65_536))
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    for candidate_port in ports:
        listener = socket.socket(family, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host.strip("[]"), candidate_port))
            listener.listen(BACKLOG)
            listener.set_inheritable(False)
            return listener
        except OSError as error:
            listener.close()
            if error.errno != errno.EADDRINUSE:
                raise UsageError(
                    f"cannot bind {host}:{candidate_port}: {error.strerror}", where="serve.host"
                ) from None
    if len(ports) == 1:
        raise UsageError(
            f"port {port} is in use",
            where="serve.port",
            fix="stop what uses it, or choose another: --port 0 takes any",
        )
    raise UsageError(
        f"ports {ports[0]} to {ports[-1]} are in use",
        where="serve.port",
        fix="choose another: --port 0 takes any",
    )


@contextmanager
def address_file(run: Path, host: str, listener: socket.socket, producer: str) -> Iterator[str]:
    """Write the address file, and remove it when the process stops serving."""
    host = f"[{host}]" if ":" in host and host[0] != "[" else host
    url = f"http://{host}:{listener.getsockname()[1]}"
    path = run / f"{producer}.json"
    address = {"url": url, "pid": os.getpid(), "producer": producer}
    try:
        atomic_write(path, msgspec.json.encode(address))
    except OSError as error:
        raise StorageError(
            f"cannot be written: {error.strerror}",
            where=str(path),
            fix=fix_for_os_error(error, "look at the disk"),
        ) from error
    try:
        yield url
    finally:
        path.unlink(missing_ok=True)
