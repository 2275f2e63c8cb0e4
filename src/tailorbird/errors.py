"""The one hierarchy of errors that a user may meet.

Each says what was wrong, where, and what to do. The command line prints the message and exits with
`exit_status`, without a traceback; the HTTP side turns it into a body with `code`, `message` and
`path`. Anything else that is raised is a bug in Tailorbird and keeps its traceback.
"""

from collections.abc import Iterable


class TailorbirdError(Exception):
    """Something that the user, the operator or a file did, told in one sentence with its remedy.

    Args:
        message: what was wrong, what was expected and what was found.
        where: file and line, setting, table or path in the document (`$.context.country`).
        fix: the command or the change that mends it.
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
    """A command or a call was given something that it cannot take."""

    code = "usage"
    exit_status = 2


class ConfigError(TailorbirdError):
    """`tailorbird.toml` or the environment holds a value that cannot be used."""

    code = "config"
    exit_status = 2


class DeclarationError(TailorbirdError):
    """`features.py` or `slots.py` declares something that cannot be built; names the line."""

    code = "declaration"
    exit_status = 2


class InputError(TailorbirdError):
    """A file or a stream to be read is missing, of another format, or damaged."""

    code = "input"


class LockedError(TailorbirdError):
    """Another process is the writer of this file; a second writer is refused."""

    code = "locked"


class DamageError(TailorbirdError):
    """Stored data does not match its checksum or the ledger; the role stops rather than go on with
    wrong data.
    """

    code = "damage"


class StorageError(TailorbirdError):
    """A disk or a store refused: no space, no permission, an I/O error. What was acknowledged is
    safe.
    """

    code = "storage"


class BundleError(TailorbirdError):
    """A bundle does not match its manifest or this server's schema, and is not loaded."""

    code = "bundle"


class LeakError(TailorbirdError):
    """A feature or a label looks past the moment that is predicted from: what is learned of it
    would be worth nothing live.
    """

    code = "leak"


class NotReadyError(TailorbirdError):
    """What was asked for does not exist yet (no model, no data); says which command makes it."""

    code = "not_ready"


class LagError(NotReadyError):
    """Rows stand in the logs that those who read them have not taken yet; letting them go on is the
    remedy.
    """


def suggest_name(
    name: str, known: Iterable[str], otherwise: str, *, owner: str = "", cutoff: float = 0.6
) -> str:
    """How to mend a name that is not known: the known one that is most like it, behind `owner`;
    `otherwise` where none is.
    """
    from difflib import get_close_matches  # errors are loaded by every command, and few have one

    near = get_close_matches(name, list(known), 1, cutoff)
    return f"did you mean {owner}{near[0]}?" if near else otherwise
