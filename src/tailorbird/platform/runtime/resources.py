"""What this machine lacks for the processes of `up`, said before they start."""

import resource
from pathlib import Path

from tailorbird.config import Project

# Without models and tables; measured on a shop of 120 items.
SERVER_MB = 220
ROLE_MB = 200
CGROUP_MEMORY_FILES = (  # Of version 2 and 1.
    (Path("/sys/fs/cgroup"), "memory.max", "memory.current"),
    (Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes", "memory.usage_in_bytes"),
)
DESCRIPTORS_PER_SERVER = 4_096 + 256  # Connections, files and pipes of one server.


def resource_warnings(project: Project) -> list[str]:
    """Return a line for each resource that is too small, with the number that is needed.

    The limit of open files is raised first, as far as this process may.
    """
    return [*_descriptor_warnings(), *_memory_warnings(project)]


def _descriptor_warnings() -> list[str]:
    soft_limit, hard_limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft_limit < DESCRIPTORS_PER_SERVER:
        soft_limit = min(DESCRIPTORS_PER_SERVER, hard_limit)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft_limit, hard_limit))
    if soft_limit >= DESCRIPTORS_PER_SERVER:
        return []
    return [
        f"few file descriptors: a server with all its connections needs "
        f"{DESCRIPTORS_PER_SERVER:,}, and {soft_limit:,} are allowed; with more connections than "
        f"that it refuses some (raise the limit: ulimit -n {DESCRIPTORS_PER_SERVER}, or "
        "LimitNOFILE= in the unit)"
    ]


def _memory_warnings(project: Project) -> list[str]:
    available_bytes = _available_bytes()
    if available_bytes is None:
        return []
    needed_mb = needed_memory_mb(project)
    if available_bytes >> 20 >= needed_mb:
        return []
    return [
        f"little memory: the roles need about {needed_mb:,} MB, and {available_bytes >> 20:,} MB "
        "are free; the kernel may kill some (lower serve.processes, features.workers or "
        "router.memory_mb)"
    ]


def needed_memory_mb(project: Project) -> int:
    """Return an estimate of the memory that all roles of `up` need."""
    settings = project.settings
    role_count = settings.features.workers + min(
        settings.stream.routers, settings.stream.partitions
    )
    role_count += 3 + bool(project.scores)  # Candidates, lake and trainer.
    bundle_mb = _newest_bundle_bytes(project.paths.registry) >> 20
    servers_mb = settings.serve.processes * (SERVER_MB + bundle_mb)
    return servers_mb + role_count * ROLE_MB + settings.router.memory_mb


def _newest_bundle_bytes(registry: Path) -> int:
    bundle_sizes = [
        sum(file.stat().st_size for file in folder.iterdir() if file.is_file())
        for folder in registry.glob("*")
        if folder.is_dir()
    ]
    return max(bundle_sizes, default=0)


def _available_bytes() -> int | None:
    """Return the free memory of this machine or container; None where that is not known."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        free_bytes = next(int(line.split()[1]) << 10 for line in lines if "MemAvailable" in line)
    except (OSError, StopIteration, ValueError):
        return None
    for folder, limit_file, used_file in CGROUP_MEMORY_FILES:
        try:
            limit_text = (folder / limit_file).read_text().strip()
            used_bytes = int((folder / used_file).read_text())
            kinds_and_sizes = (
                line.split() for line in (folder / "memory.stat").read_text().splitlines()
            )
            size_by_kind = {name: int(size) for name, size in kinds_and_sizes}
        except (OSError, ValueError):
            continue
        # The kernel takes back the pages of files that were read long ago.
        used_bytes -= max(
            size_by_kind.get(f"{prefix}inactive_file", 0) for prefix in ("", "total_")
        )
        # Without a limit, version 1 has a number above the memory of any machine.
        return (
            free_bytes
            if limit_text == "max"
            else min(free_bytes, max(0, int(limit_text) - used_bytes))
        )
    return free_bytes
