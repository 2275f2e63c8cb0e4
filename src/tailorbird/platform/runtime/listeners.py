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
    systemd_listener = inherited_listener()
    if systemd_listener is not None:
        return systemd_listener
    earlier_listener = request_listener(project.paths.run)
    if earlier_listener is not None:
        if port in (None, 0, earlier_listener.getsockname()[1]):
            return earlier_listener
        earlier_listener.close()
    settings = project.settings.serve
    return bind(
        settings.host,
        settings.port if port is None else port,
        is_explicit=is_port_explicit(project, port),
    )


def is_port_explicit(project: Project, port: int | None) -> bool:
    """Return whether the port was named by an option or the environment."""
    return port is not None or any(
        setting.key == "serve.port" and setting.source.startswith("environment")
        for setting in project.setting_sources
    )
