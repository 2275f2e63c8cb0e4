"""What a message says, and which messages are silenced."""

from collections.abc import Mapping
from pathlib import Path

import msgspec

from tailorbird.atomic_write import atomic_write
from tailorbird.errors import UsageError
from tailorbird.monitoring.drift.causes import RUNBOOK_PAGES

# Drift, a roll-back, a canary or shadow that was ended, a step that waits for a person, and failed
# or empty responses, which page somebody.
MESSAGE_KINDS = ("drift", "rollback", "refused", "approval", "page")
EVERYTHING = "all"  # silences every message
# Causes of drift, of failed responses, and a training that cannot run.
CAUSES = (*RUNBOOK_PAGES, "errors", "empty lists", "training")
SILENCES_FILE = "silences.json"


class Message(msgspec.Struct, frozen=True):
    """A message about one episode or one decision.

    Attributes:
        kind: one of `MESSAGE_KINDS`.
        cause: what `tailorbird monitor silence` names, besides the kind.
        key: identifies the episode or decision; it is sent once to each receiver.
        repeats: it goes on, so it is sent again after a while.
    """

    kind: str
    cause: str
    key: str
    title: str
    body: str
    repeats: bool = False


def silence(folder: Path, cause: str, until: int, now: int) -> dict[str, int]:
    """Silence a cause, a kind or `all` until a time, microseconds. Return what is silenced.

    A time that has passed ends the silence.

    Raises:
        UsageError: there is no such cause or kind.
    """
    known_names = (*MESSAGE_KINDS, *CAUSES, EVERYTHING)
    if until > now and cause not in known_names:
        raise UsageError(
            f"no message has the cause {cause!r}",
            where="monitor silence",
            fix=f"use one of {', '.join(known_names)}",
        )
    silences = {name: end for name, end in read_silences(folder, now).items() if name != cause}
    if until > now:
        silences[cause] = until
    atomic_write(folder / SILENCES_FILE, msgspec.json.encode(silences))
    return silences


def read_silences(folder: Path, now: int) -> dict[str, int]:
    """Return what is silenced, and until when."""
    try:
        silences = msgspec.json.decode((folder / SILENCES_FILE).read_bytes(), type=dict[str, int])
    except (FileNotFoundError, msgspec.MsgspecError):
        return {}  # a damaged file must not keep a message back
    return {name: until for name, until in silences.items() if until > now}


def is_silenced(message: Message, silences: Mapping[str, int]) -> bool:
    """Return whether a message is silenced by its cause, its kind or `all`."""
    return any(name in silences for name in (message.cause, message.kind, EVERYTHING))
