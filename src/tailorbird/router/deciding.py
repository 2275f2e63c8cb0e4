"""By which declarations the routers of this machine decide: each notes it while it runs, under a
lock that dies with it.

    run/router-<process>.plan   what `decides` says of its plan

Who sends refused events again asks first: a router that was started before the declarations were
mended refuses them once more.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from hashlib import blake2b
from pathlib import Path

import msgspec

from tailorbird.errors import LockedError
from tailorbird.events import RoutePlan
from tailorbird.lock import FileLock


def digest_rules(plan: RoutePlan) -> str:
    """A hash of that in a plan by which events are accepted or refused."""
    rules = (plan.event_types, plan.skew_us, plan.rules)
    return blake2b(msgspec.json.encode(rules, order="sorted"), digest_size=6).hexdigest()


@contextmanager
def noted(folder: Path, plan: RoutePlan) -> Iterator[None]:
    """While within, this process is known as a router of this plan."""
    path = folder / f"router-{os.getpid()}.plan"
    lock = FileLock(path)
    try:
        path.write_text(digest_rules(plan))
        yield
    finally:
        _remove(path, lock)


def deciding_otherwise(folder: Path, plan: RoutePlan) -> list[int]:
    """The processes that route here by declarations that accept or refuse other events than this
    plan's.
    """
    process_ids: list[int] = []
    for path in sorted(folder.glob("router-*.plan")):
        try:
            lock = FileLock(path)
        except LockedError:
            with suppress(FileNotFoundError):  # it is just ending
                if path.read_text() not in ("", digest_rules(plan)):
                    process_ids.append(int(path.stem.removeprefix("router-")))
        else:
            _remove(path, lock)  # it died
    return process_ids


def _remove(path: Path, lock: FileLock) -> None:
    path.unlink(missing_ok=True)
    lock.path.unlink(missing_ok=True)
    lock.release()
