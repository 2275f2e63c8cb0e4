"""A registry of the declarations that the running routers of this machine decide by.

    run/router-<process>.plan   the digest of its plan, under a lock that ends with the process

A replay of refused events checks it first: a router that was started before the declarations were
fixed would refuse the events again.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from hashlib import blake2b
from pathlib import Path

import msgspec

from tailorbird.errors import LockedError
from tailorbird.events import RoutePlan
from tailorbird.file_lock import FileLock


def digest_rules(plan: RoutePlan) -> str:
    """Return a hash of the parts of a plan that decide whether events are accepted."""
    rules = (plan.event_types, plan.skew_us, plan.rules)
    return blake2b(msgspec.json.encode(rules, order="sorted"), digest_size=6).hexdigest()


@contextmanager
def register_router(folder: Path, plan: RoutePlan) -> Iterator[None]:
    """Register this process as a router of this plan for the duration of the block."""
    path = folder / f"router-{os.getpid()}.plan"
    lock = FileLock(path)
    try:
        path.write_text(digest_rules(plan))
        yield
    finally:
        _remove_registration(path, lock)


def find_outdated_routers(folder: Path, plan: RoutePlan) -> list[int]:
    """Return the ids of processes that route here and accept other events than this plan."""
    process_ids: list[int] = []
    for path in sorted(folder.glob("router-*.plan")):
        try:
            lock = FileLock(path)
        except LockedError:
            with suppress(FileNotFoundError):  # it is just ending
                if path.read_text() not in ("", digest_rules(plan)):
                    process_ids.append(int(path.stem.removeprefix("router-")))
        else:
            _remove_registration(path, lock)  # it died
    return process_ids


def _remove_registration(path: Path, lock: FileLock) -> None:
    path.unlink(missing_ok=True)
    lock.path.unlink(missing_ok=True)
    lock.release()
