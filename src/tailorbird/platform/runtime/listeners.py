"""The listening socket of `up`: from systemd, from servers that run already, or a new one."""

import socket

from tailorbird.config import Project
from tailorbird.serving.handover import request_listener
from tailorbird.serving.sockets import bind, inherited_listener


def open_listener(project: Project, port: int | None) -> socket.socket:
    """Return the socket that the servers of `up` accept from.

    That of servers which an earlier `up` left behind is taken over with the connections that wait
    in it, unless another port was asked for.

    Raises UsageError if the port is taken.
    """
    inherited = inherited_listener()
    if inherited is not None:
        return inherited
    running = request_listener(project.paths.run)
    if running is not None:
        if port in (None, 0, running.getsockname()[1]):
            return running
        running.close()
    settings = project.settings.serve
    return bind(
        settings.host,
        settings.port if port is None else port,
        is_explicit=is_port_explicit(project, port),
    )


def is_port_explicit(project: Project, port: int | None) -> bool:
    """Return whether the port was named by an option or the environment."""
    return port is not None or any(
        origin.key == "serve.port" and origin.source.startswith("environment")
        for origin in project.origins
    )
