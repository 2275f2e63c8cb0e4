"""The hierarchy of errors that users can meet.

Each error says what is wrong, where, and what to do. The command line prints the message without a
traceback and exits with `exit_status`. The HTTP API returns a body with `code`, `message` and
`path`. Any other exception is a bug in Tailorbird and keeps its traceback.
"""

import errno
from collections.abc import Iterable

_OS_FIXES = {
    errno.ENOSPC: "free some space",
    errno.EDQUOT: "free some space, or raise the quota",
    errno.EMFILE: "raise the limit of open files, `ulimit -n`",
    errno.ENFILE: "raise the system's limit of open files, `sysctl fs.file-max`",
    errno.EACCES: "make it writable for this user, or name another place",
    errno.EPERM: "make it writable for this user, or name another place",
    errno.EROFS: "make the file system writable, or name another place",
    errno.ENOENT: "name another place: this one is not there, and cannot be made",
    errno.ENOTDIR: "name another place: a file is where a folder should be",
}


class TailorbirdError(Exception):
    """An error caused by a user, an operator or a file, with its remedy.

    Args:
        message: what is wrong: the expected and the actual value.
        where: file and line, setting, table or path in the document (`$.context.country`).
        fix: the command or the change that resolves it.
    """

    code = "error"
    exit_status = 1

    def __init__(self, message: str, *, where: str = "", fix: str = "") -> None:
        self.message = message
        self.where = where
        self.fix = fix
        super().__init__(str(self))

    def __str__(self) -> str:
        text = f"{self.where}: {self.message}" if self.where else self.message
        return f"{text}\n  fix: {self.fix}" if self.fix else text


class UsageError(TailorbirdError):
    """A command or a call received an argument that it cannot accept."""

    code = "usage"
    exit_status = 2


class ConfigError(TailorbirdError):
    """`tailorbird.toml` or the environment has an invalid value."""

    code = "config"
    exit_status = 2


class DeclarationError(TailorbirdError):
    """`features.py` or `slots.py` has an invalid declaration; the error names the line."""

    code = "declaration"
    exit_status = 2


class InputError(TailorbirdError):
    """An input file or stream is missing, damaged or in another format."""

    code = "input"


class LockedError(TailorbirdError):
    """Another process already writes this file, which allows one writer."""

    code = "locked"


class DamageError(TailorbirdError):
    """Stored data does not match its checksum or the ledger.

    The role stops instead of continuing with wrong data.
    """

    code = "damage"


class StorageError(TailorbirdError):
    """A disk or a store failed: no space, no permission or an I/O error.

    Acknowledged data is safe.
    """

    code = "storage"


class BundleError(TailorbirdError):
    """A bundle does not match its manifest or this server's schema, and is not loaded."""

    code = "bundle"


class LeakError(TailorbirdError):
    """A feature or a label uses information from after the prediction time.

    A model that learns from it would be useless on live traffic.
    """

    code = "leak"


class NotReadyError(TailorbirdError):
    """Something required does not exist yet, such as a model or data; names the command to run."""

    code = "not_ready"


class LagError(NotReadyError):
    """Readers of the logs have not processed all rows yet, and must catch up first."""


def fix_for_os_error(error: OSError, default: str) -> str:
    """Return what to do about an error of the operating system, by its number.

    >>> fix_for_os_error(OSError(errno.EMFILE, "Too many open files"), "look at the disk")
    'raise the limit of open files, `ulimit -n`'
    """
    return _OS_FIXES.get(error.errno or 0, default)


def suggest_name(
    name: str, names: Iterable[str], default: str, *, owner: str = "", cutoff: float = 0.6
) -> str:
    """Return a hint with the most similar of `names`, or `default` if none is similar.

    `owner` is put in front of the suggested name.
    """
    # Imported here because every command loads this module and few fail.
    from difflib import get_close_matches

    matches = get_close_matches(name, list(names), 1, cutoff)
    return f"did you mean {owner}{matches[0]}?" if matches else default
