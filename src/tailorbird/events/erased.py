"""The stop list: of whom events from before their erasure are not taken again, however they come.

A retry, a replay, a restored log or a new import of an old file would bring back what was erased. So door, importer, replay and
router look at the list: such a row is replaced by `contract.ERASED` before anything is written, which the contract refuses. The
list knows keyed hashes alone: without the key, which stands in a file of its own, nobody can ask it about a person.

    kept out     what happened, or says that it happened, before the erasure; the ids of events that came shortly before it
    taken        what happens from then on: somebody who comes back is somebody new, of whom nothing is known

What was erased is in `privacy`. With an empty list, nothing here costs anything.
"""

import os
import re
from collections.abc import Iterable, Sequence
from datetime import datetime
from hashlib import blake2b
from pathlib import Path
from typing import Any

import msgspec

from tailorbird.errors import DamageError, NotReadyError
from tailorbird.events.contract import ERASED, Accepted, Receipt, check, split, unread_of
from tailorbird.events.envelope import Event
from tailorbird.events.plan import RoutePlan

FOLDER = "erasure"  # below a project's data
FILE, KEY_FILE = "stop.json", "stop.key"
JOURNAL = "journal.json"  # of an erasure that is not through

_QUOTED = re.compile(rb'"([^"\\\\]{1,256})"')
Subject = tuple[str, str]  # ("u", user_id) or ("a", anonymous_id)


class _Whose(msgspec.Struct):
    user_id: Any = None
    anonymous_id: Any = None
    ts: Any = None


class _Listed(msgspec.Struct):
    people: dict[str, int] = {}  # hash of the subject → when it was erased, microseconds
    events: dict[str, int] = {}  # hash of subject and event id → when it was erased


_whose = msgspec.json.Decoder(_Whose).decode
_any = msgspec.json.Decoder().decode


class StopList:
    """Who is on the list. Safe to call from any thread once it is loaded."""

    def __init__(self, key: bytes, people: dict[str, int] | None = None, events: dict[str, int] | None = None) -> None:
        self._key, self._people, self._events = key, people or {}, events or {}

    @classmethod
    def load(cls, data: Path) -> "StopList":
        """The list of a project's data folder; an empty one where nobody was erased. Raises DamageError."""
        folder = data / FOLDER
        try:
            listed = msgspec.json.decode((folder / FILE).read_bytes(), type=_Listed)
            return cls((folder / KEY_FILE).read_bytes(), listed.people, listed.events)
        except FileNotFoundError:
            if (folder / FILE).exists():
                raise DamageError(
                    "the key of the stop list is missing", where=str(folder / KEY_FILE), fix="restore it, or erase these people again"
                ) from None
            return cls(b"")
        except (OSError, msgspec.MsgspecError) as error:
            raise DamageError(f"the stop list cannot be read: {error}", where=str(folder / FILE), fix="restore it from a copy") from error

    def __len__(self) -> int:
        return len(self._people)

    def hash(self, *parts: str) -> str:
        """The keyed hash under which a subject, or an event of one, is known here."""
        text = "\0".join(parts).encode(errors="surrogatepass")
        return blake2b(text, digest_size=16, key=self._key, person=b"erased").hexdigest()

    def with_people(self, people: Iterable[Subject], events: Iterable[tuple[Subject, str]], at: int, events_since: int) -> "StopList":
        """The list with these people and events on it; events that were erased before `events_since` go."""
        key = self._key or os.urandom(32)
        found = StopList(key, dict(self._people), {each: when for each, when in self._events.items() if when >= events_since})
        found._people.update({found.hash(*subject): at for subject in people})
        found._events.update({found.hash(*subject, event_id): at for subject, event_id in events})
        return found

    def encoded(self) -> tuple[bytes, bytes]:
        """The list and its key, as the two files hold them."""
        return msgspec.json.encode(_Listed(self._people, self._events), order="sorted"), self._key

    def erased_at(self, *subject: str) -> int | None:
        """When somebody was erased the last time; None who was not."""
        return self._people.get(self.hash(*subject)) if self._people else None

    def stops(self, accepted: Accepted) -> bool:
        """Whether an event is one of those that are kept out."""
        event = accepted.event
        if (subject := _subject_of(event)) is None or (at := self.erased_at(*subject)) is None:
            return False
        if event.timeless:
            return accepted.received_at < at
        first = accepted.ts if accepted.ts_original is None else min(accepted.ts, accepted.ts_original)
        return first < at or self.hash(*subject, event.event_id) in self._events

    def without(self, body: bytes, receipt: Receipt, plan: RoutePlan) -> bytes:
        """The body with `ERASED` in place of each row that is kept out; the body itself where there is none, which is cheap to see."""
        if not self._people:
            return body
        parts = [bytes(part) for part in split(body, receipt.encoding)]
        listed = [row for row, part in enumerate(parts) if self._may_stop(part)]
        if not listed:
            return body
        accepted, refused = check(body, receipt, plan)
        timeless_import = receipt.source == "import"
        rows = {one.row for one in accepted if self.stops(one) or (timeless_import and one.event.timeless)} & set(listed)
        rows |= {one.row for one in refused if self._stops_refused(parts[one.row])} & set(listed)
        return joined([ERASED if row in rows else part for row, part in enumerate(parts)], body, receipt.encoding) if rows else body

    def line(self, line: bytes, receipt: Receipt, plan: RoutePlan) -> bytes:
        """One event in the wire format, or `ERASED`."""
        return self.without(line, msgspec.structs.replace(receipt, encoding="ndjson"), plan) if self._people else line

    def _may_stop(self, part: bytes) -> bool:
        try:
            whose = _whose(part)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return self._names_listed(part)
        if whose.user_id is None and whose.anonymous_id is None:
            return unread_of(part) is not None and self._names_listed(part)
        named = (("u", whose.user_id), ("a", whose.anonymous_id))
        return any(isinstance(id_, str) and self.erased_at(mark, id_) is not None for mark, id_ in named)

    def _stops_refused(self, part: bytes) -> bool:
        """A refused row would be kept whole: it is kept out unless it says that it is newer than the erasure."""
        try:
            whose = _whose(part)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return True
        moment = _micros(whose.ts)
        named = (("u", whose.user_id), ("a", whose.anonymous_id))
        erased = [at for mark, id_ in named if isinstance(id_, str) and (at := self.erased_at(mark, id_)) is not None]
        return not erased or moment is None or moment < max(erased)

    def _names_listed(self, part: bytes) -> bool:
        """Whether a text in what is no event of ours is the id of somebody on the list."""
        try:
            texts = texts_in(_any(part))
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            texts = (text.decode(errors="replace") for text in _QUOTED.findall(part))
        return any(self.erased_at("u", text) is not None or self.erased_at("a", text) is not None for text in texts)


def require_finished(data: Path) -> None:
    """Raise NotReadyError if an erasure was cut short."""
    path = data / FOLDER / JOURNAL
    if path.exists():
        raise NotReadyError("an erasure was cut short", where=str(path), fix="tailorbird lake erase --yes brings it to its end")


def joined(parts: Sequence[bytes], body: bytes, encoding: str) -> bytes:
    """The rows of a body put together as `split` takes them apart; `body` says whether a lone one was a list."""
    if encoding == "ndjson":
        return b"\n".join(parts)
    return b"[" + b",".join(parts) + b"]" if body.lstrip()[:1] == b"[" else parts[0]


def texts_in(value: object) -> Iterable[str]:
    """All texts in a JSON value, the names of fields left out."""
    stack = [value]
    while stack:
        one = stack.pop()
        if isinstance(one, str):
            yield one
        elif isinstance(one, dict):
            stack.extend(one.values())
        elif isinstance(one, list):
            stack.extend(one)


def _subject_of(event: Event) -> Subject | None:
    if event.type == "item":
        return None
    if event.user_id is not None:
        return "u", event.user_id
    return None if event.anonymous_id is None else ("a", event.anonymous_id)


def _micros(value: object) -> int | None:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    try:
        return int(datetime.fromisoformat(value).timestamp() * 1e6) if isinstance(value, str) else None
    except (ValueError, OverflowError):
        return None
