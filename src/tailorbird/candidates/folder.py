"""The folder of candidates: the current contract, and access to its tables for servers.

`role` is the writer.

candidates/current.json     the current contract
candidates/<hash>/          its tables
"""

import shutil
from pathlib import Path

import msgspec

from tailorbird.atomic_write import atomic_write
from tailorbird.candidates.contract import Contract
from tailorbird.candidates.tables import TableReader
from tailorbird.errors import DamageError, LockedError, NotReadyError
from tailorbird.file_lock import FileLock
from tailorbird.store import CopiedStore, CopyTarget, open_store
from tailorbird.store.breaker import CircuitBreaker

CURRENT_FILE = "current.json"
WRITER_LOCK = "role"  # of the tables of a contract


def folder_of(root: Path, contract: Contract) -> Path:
    """Return the folder of the tables of a contract."""
    return root / contract.hash


def contract_folders(root: Path) -> list[Path]:
    """Return the folders of all contracts that have tables."""
    return [path for path in root.iterdir() if path.is_dir()] if root.exists() else []


def current_contract(root: Path) -> Contract | None:
    """Return the contract whose tables servers read, or None.

    Raises DamageError.
    """
    path = root / CURRENT_FILE
    try:
        return msgspec.json.decode(path.read_bytes(), type=Contract)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.MsgspecError) as error:
        raise DamageError(
            f"cannot be read: {error}",
            where=str(path),
            fix="remove data/candidates; the role builds it anew",
        ) from error


def set_current_contract(root: Path, contract: Contract) -> None:
    """Make a contract the current one, and remove the tables of others."""
    if current_contract(root) == contract:
        return
    atomic_write(root / CURRENT_FILE, msgspec.json.encode(contract))
    for other in contract_folders(root):
        if other.name != contract.hash:
            _remove(other)


def _remove(folder: Path) -> None:
    """Remove the tables of a contract unless a role maintains them.

    A server that has them open keeps them until its next refresh.
    """
    try:
        lock = FileLock(folder / WRITER_LOCK)
    except LockedError:
        return
    shutil.rmtree(folder, ignore_errors=True)
    lock.release()


def open_tables(
    root: Path,
    contract: Contract,
    *,
    copies: CopyTarget | None = None,
    breaker: CircuitBreaker | None = None,
) -> TableReader:
    """Open the tables of a contract, on this machine or copied to a Valkey.

    Raises:
        NotReadyError: nothing was published yet.
        StorageError: the server of the copies cannot be reached.
    """
    if copies is not None:
        return TableReader(CopiedStore(copies.open(copy_name(contract), breaker=breaker)), contract)
    try:
        return TableReader(open_store(folder_of(root, contract)), contract)
    except NotReadyError as error:
        raise NotReadyError(
            "no candidates yet", where=str(root), fix="start the role: tailorbird run candidates"
        ) from error


def copy_name(contract: Contract) -> str:
    """Return the name of the copies of a contract's tables in a Valkey."""
    return f"candidates-{contract.hash}"
