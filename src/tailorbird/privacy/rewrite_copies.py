"""The copies of records in Valkey: deleted, of every schema; workers publish the rest again."""

import time
from collections.abc import Collection

from tailorbird.errors import LockedError
from tailorbird.store import WRITE_TIMEOUT_S, Copies, CopyTarget, open_copies

_CLAIM_TIMEOUT_S = 12.0  # longer than the claim of a worker that died, see `store.published`
_POLL_S = 0.2


def delete_copies(target: CopyTarget, schema_names: Collection[str]) -> int:
    """Delete all records of a project, and those under `schema_names`; return how many.

    Raises:
        LockedError: a worker publishes. StorageError: the server cannot be reached, or refuses.
    """
    deadline = time.monotonic() + _CLAIM_TIMEOUT_S
    count = sum(
        _delete_records(target.open(name, timeout_s=WRITE_TIMEOUT_S), target, name, deadline)
        for name in _copy_names(target)
    )
    for name in schema_names:
        count += _delete_records(
            open_copies(target.url, name, timeout_s=WRITE_TIMEOUT_S, password=target.password),
            target,
            name,
            deadline,
        )
    return count


def _delete_records(copies: Copies, target: CopyTarget, name: str, deadline: float) -> int:
    try:
        while copies.is_claimed():
            if time.monotonic() > deadline:
                raise LockedError(
                    f"a worker publishes the records of schema {name}",
                    where=f"the Valkey of project {target.project}",
                    fix="stop the workers of this project, on every machine",
                )
            time.sleep(_POLL_S)
        return copies.wipe()
    finally:
        copies.close()


def _copy_names(target: CopyTarget) -> list[str]:
    copies = target.open("", timeout_s=WRITE_TIMEOUT_S)
    try:
        return copies.schema_names(target.project)
    finally:
        copies.close()
