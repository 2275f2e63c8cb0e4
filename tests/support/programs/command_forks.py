"""A process that has loaded what commands load, and forks one process for each command that it is
asked for: python -m tests.support.programs.command_forks FD.
"""

import json
import os
import runpy
import socket
import sys
from importlib import import_module
from pkgutil import walk_packages
from typing import Any

import tailorbird

# What commands import inside their functions. None of it starts a thread that they need.
LIBRARIES = (
    "lightgbm",
    "matplotlib.figure",
    "matplotlib.backends.backend_svg",
    "onnxruntime",
    "pyarrow.dataset",
    "pyarrow.parquet",
    "deltalake",
    "scipy.stats",
)
EXCLUDED_PREFIXES = (
    "tailorbird.__main__",
    "tailorbird.models.deep.",
    "tailorbird.models.retrievers.",
)


def load_modules() -> None:
    """Import what commands import, but for torch."""
    for name in LIBRARIES:
        import_module(name)
    for module in walk_packages(tailorbird.__path__, "tailorbird."):
        if not module.name.startswith(EXCLUDED_PREFIXES):
            import_module(module.name)


def become(request: dict[str, Any], fds: list[int]) -> None:
    """Run the command of a request in this process, as `python -m tailorbird` does."""
    for target, fd in enumerate(fds):
        os.dup2(fd, target)
        os.close(fd)
    os.environ.clear()
    os.environ.update(request["env"])
    os.chdir(request["cwd"])
    sys.argv = ["tailorbird", *request["words"]]
    sys.path[0] = request["cwd"]
    runpy.run_module("tailorbird", run_name="__main__", alter_sys=True)
    sys.exit(0)


def serve(connection: socket.socket) -> None:
    """Fork for each request, and answer with the process id, then with the exit status."""
    while True:
        data, fds, _, _ = socket.recv_fds(connection, 1 << 20, 3)
        if not data:
            return
        child = os.fork()
        if not child:
            connection.close()
            become(json.loads(data), fds)
        for fd in fds:
            os.close(fd)
        connection.send(json.dumps(child).encode())
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        connection.send(json.dumps(status).encode())


if __name__ == "__main__":
    load_modules()
    serve(socket.socket(fileno=int(sys.argv[1])))
