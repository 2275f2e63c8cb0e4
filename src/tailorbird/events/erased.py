"""The stop list: of whom events from before their erasure are not taken again, however they come.

A retry, a replay, a restored log or a new import of an old file would bring back what was erased.
So door, importer, replay and router look at the list: such a row is replaced by `contract.ERASED`
before anything is written, which the contract refuses. The list knows keyed hashes alone: without
the key, which stands in a file of its own, nobody can ask it about a person.

    kept out     what happened, or says that it happened, before the erasure; the ids of events that came shortly before it, and of
                 all that somebody else did while one with them, or with their id in that of the event: these have new ids; what
                 was done on a device of several people while it was theirs
    unsaid       what others said of them before the erasure, in an item's properties, say: the rest of that row is taken
    taken        what happens from then on: somebody who comes back is somebody new, of whom nothing is known

Of a text only what `free.candidates` finds in it can be hashed and looked up. What was erased is in
 `privacy`. With an empty list, nothing here costs anything.
"""

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from hashlib import blake2b
from pathlib import Path
from types import MappingProxyType
from typing import Any

import msgspec

from tailorbird.errors import DamageError, NotReadyError
from tailorbird.events import free
from tailorbird.events.contract import ERASED, Accepted, Receipt, check, split, unread_of
from tailorbird.events.free import leaves, said, who_said
from tailorbird.events.plan import RoutePlan
from tailorbird.places import Place

FOLDER = "erasure"  # below a project's data
FILE, KEY_FILE = "stop.json", "stop.key"
JOURNAL = "journal.json"  # of an erasure that is not through
RENAMED = "erased-"  # what a new id begins with
RECEIPTS = "receipts"  # what each erasure left to be told
# in the lake: how many were on the list when it was last written, so that its loss is noticed
MARK = "erasures.json"
TAKEN = (
    "taken"  # the number of the last erasure that this machine knows of, where the logs are topics
)

_QUOTED = re.compile(rb'"([^"\\\\]{1,256})"')
_NAMED = re.compile(rb'"(?:user_id|anonymous_id)"\s*:\s*([0-9]{1,256})')
_RESTORE = (
    f"restore data/{FOLDER} from a copy; without one, set it aside, delete {MARK} of the "
    "lake, and erase all these people again: until then"
    " what is old of them would be taken again"
)
Span = tuple[int, int]  # from a first to before a last time, microseconds
Subject = tuple[
    str, str
]  # ("u", user_id) or ("a", anonymous_id); of an event that is nobody's ("i", item_id)


class Whose(msgspec.Struct):
    """What a row says of whose it is, and when; of any type, since nobody has checked it."""

    event_id: Any = None
    user_id: Any = None
    anonymous_id: Any = None
    item_id: Any = None
    session_id: Any = None
    request_id: Any = None
    ts: Any = None
    timeless: Any = None


class _Listed(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    people: dict[str, int] = {}  # hash of the subject → when it was erased, microseconds
    events: dict[str, int] = {}  # hash of subject and event id → when it was erased
    apart: dict[
        str, int
    ] = {}  # hash of subject and event id, of what was others' and was given a new id → when
    shared: dict[
        str, list[Span]
    ] = {}  # hash of a device of several people → from when to before when it was of one erased
    words: tuple[int, ...] = (
        1,
        2,
        3,
    )  # of how many words the ids of people are made; lists of before do not say
    # keyed, over all the rest, so that neither the list nor its key changes unnoticed; lists of
    # before have none
    checksum: str = ""


class _Mark(msgspec.Struct, forbid_unknown_fields=True):
    people: int
    checksum: str = ""  # so that a flipped bit is no other number; those of before have none

    @classmethod
    def of(cls, people: int) -> "_Mark":
        return cls(people, blake2b(b"%d" % people, digest_size=8).hexdigest())

    @classmethod
    def read(cls, content: bytes) -> "_Mark | None":
        """None for what is none."""
        try:
            found = msgspec.json.decode(content, type=cls)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            return None
        return found if found.checksum in ("", cls.of(found.people).checksum) else None


_whose = msgspec.json.Decoder(Whose).decode
_any = msgspec.json.Decoder().decode
_encode = msgspec.json.Encoder().encode


class StopList:
    """Who is on the list. Safe to call from any thread once it is loaded."""

    def __init__(self, key: bytes, listed: _Listed | None = None) -> None:
        listed = listed or _Listed(words=(1,))
        self._key, self._people, self._events, self._apart = (
            key,
            listed.people,
            listed.events,
            listed.apart,
        )
        self._shared = listed.shared
        self._words = frozenset(listed.words)

    @classmethod
    def load(cls, data: Path) -> "StopList":
        """The list of a project's data folder; an empty one where nobody was erased. Raises
        DamageError, also where it was lost.
        """
        folder = data / FOLDER
        try:
            listed = msgspec.json.decode((folder / FILE).read_bytes(), type=_Listed)
            key = (folder / KEY_FILE).read_bytes()
        except FileNotFoundError:
            if (folder / FILE).exists():
                raise DamageError(
                    "the key of the stop list is missing",
                    where=str(folder / KEY_FILE),
                    fix=_RESTORE,
                ) from None
            if (folder / TAKEN).exists() or next(
                (folder / RECEIPTS).glob("*.json"), None
            ) is not None:
                raise _lost(folder / FILE) from None
            return cls(b"")
        except (OSError, msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise DamageError(
                f"the stop list cannot be read: {error}", where=str(folder / FILE), fix=_RESTORE
            ) from error
        if listed.checksum and listed.checksum != _digest(listed, key):
            raise DamageError(
                "the stop list, or its key, does not match its checksum",
                where=str(folder / FILE),
                fix=_RESTORE,
            )
        return cls(key, listed)

    def require_marked(self, lake: Place, data: Path) -> None:
        """Raise DamageError where the lake says that more people were erased than are listed here,
        or what it says is damaged.

        Harmless where it cannot be asked.
        """
        try:
            marked = _Mark.read((lake / MARK).read_bytes())
        except OSError:
            return
        if marked is None:
            raise DamageError(
                "the lake's note of how many people were erased is damaged",
                where=str(lake / MARK),
                fix=f"if data/{FOLDER} is as new as the last erasure, delete this file: the next "
                f"one writes it again; else {_RESTORE}",
            )
        if len(self) < marked.people:
            raise _lost(data / FOLDER / FILE)

    def mark(self) -> bytes:
        """What the lake is told of this list: how many are on it."""
        return msgspec.json.encode(_Mark.of(len(self)))

    def __len__(self) -> int:
        return len(self._people)

    def hash(self, *parts: str) -> str:
        """The keyed hash under which a subject, or an event of one, is known here."""
        text = "\0".join(parts).encode(errors="surrogatepass")
        return blake2b(text, digest_size=16, key=self._key, person=b"erased").hexdigest()

    def with_people(
        self,
        people: Iterable[Subject],
        events: Iterable[tuple[Subject, str]],
        at: int,
        events_since: int,
        apart: Iterable[tuple[Subject, str]] = (),
        shared: Mapping[str, Sequence[Span]] = MappingProxyType({}),
    ) -> "StopList":
        """The list with these people and events on it.

        Args:
            events: theirs; those that were erased before `events_since` go.
            apart: events of others that were given a new id; they stay.
            shared: by anonymous id, when a device of several people was theirs.
        """
        key, people = self._key or os.urandom(32), list(people)
        hashed = StopList(key).hash
        kept = {each: when for each, when in self._events.items() if when >= events_since}
        listed = _Listed(
            self._people | {hashed(*subject): at for subject in people},
            kept | {hashed(*subject, event_id): at for subject, event_id in events},
            self._apart | {hashed(*subject, event_id): at for subject, event_id in apart},
            self._shared
            | {
                hashed("a", id_): [*self._shared.get(hashed("a", id_), ()), *when]
                for id_, when in shared.items()
            },
            tuple(self._words | {free.words_of(id_) for _, id_ in people}),
        )
        return StopList(key, listed)

    def encoded(self) -> tuple[bytes, bytes]:
        """The list and its key, as the two files hold them."""
        listed = _Listed(
            self._people, self._events, self._apart, self._shared, tuple(sorted(self._words - {0}))
        )
        return msgspec.json.encode(
            msgspec.structs.replace(listed, checksum=_digest(listed, self._key)), order="sorted"
        ), self._key

    def erased_at(self, *subject: str) -> int | None:
        """When somebody was erased the last time; None who was not."""
        return self._people.get(self.hash(*subject)) if self._people else None

    def stops(self, accepted: Accepted) -> bool:
        """Whether an event is one of those that are kept out."""
        event, moment = accepted.event, _said_from(accepted)
        subject = subject_of(event.user_id, event.anonymous_id, event.item_id)
        id_ = "" if event.timeless else self.hash(*subject, event.event_id)
        if event.type != "item" and (at := self.erased_at(*subject)) is not None:
            return moment < at or id_ in self._events
        spans = (
            self._shared.get(self.hash(*subject), ())
            if self._shared and event.type != "item"
            else ()
        )
        return (
            id_ in self._apart or (bool(spans) and id_ in self._events) or _is_within(moment, spans)
        )

    def without(self, body: bytes, receipt: Receipt, plan: RoutePlan) -> bytes:
        """The body with `ERASED` in place of each row that is kept out, and others' rows without
        what they say of somebody on the list.

        It is the body itself where there is nothing of that, which is cheap to see.
        """
        if not self._people:
            return body
        parts = [bytes(part) for part in split(body, receipt.encoding)]
        newest, timeless_import = max(self._people.values()), receipt.source == "import"
        told = [whose_of(part) for part in parts]
        listed = {row for row, whose in enumerate(told) if self._may_stop(parts[row], whose)}
        old = {
            row
            for row, whose in enumerate(told)
            if whose is not None and _may_be_before(whose, newest, timeless_import)
        }
        if not listed and not old:
            return body
        accepted, refused = check(body, receipt, plan)
        changed: dict[int, bytes] = {}
        for one in accepted:
            whose = told[one.row]
            if one.row in listed and (
                self.stops(one)
                or (
                    timeless_import
                    and one.event.timeless
                    and whose is not None
                    and self._erased(whose)
                )
            ):
                changed[one.row] = ERASED
            elif (
                one.row in old
                and (unsaid := self._unsaid(parts[one.row], one, timeless_import)) is not None
            ):
                changed[one.row] = (
                    ERASED if one.event.type == "merge" else unsaid
                )  # without whom it names it is none
        for each in refused:
            whose, moment = told[each.row], _moment(told[each.row], receipt)
            stopped = each.row in listed and self._stops_refused(whose, moment)
            if stopped or (each.row in old and self._last_named(parts[each.row]) > moment):
                changed[each.row] = ERASED
        return (
            joined(
                [changed.get(row, part) for row, part in enumerate(parts)], body, receipt.encoding
            )
            if changed
            else body
        )

    def line(self, line: bytes, receipt: Receipt, plan: RoutePlan) -> bytes:
        """One event in the wire format, or `ERASED`."""
        return (
            self.without(line, msgspec.structs.replace(receipt, encoding="ndjson"), plan)
            if self._people
            else line
        )

    def _may_stop(self, part: bytes, whose: Whose | None) -> bool:
        if whose is None:
            return self._names_listed(part)
        if whose.user_id is None and whose.anonymous_id is None:
            return self._is_apart(whose) or (
                unread_of(part) is not None and self._names_listed(part)
            )
        return bool(self._erased(whose)) or self._spans(whose) is not None or self._is_apart(whose)

    def _is_apart(self, whose: Whose) -> bool:
        ids = (whose.user_id, whose.anonymous_id, whose.item_id)
        if (
            not self._apart
            or not isinstance(whose.event_id, str)
            or not all(one is None or isinstance(one, str) for one in ids)
        ):
            return False
        return self.hash(*subject_of(*ids), whose.event_id) in self._apart

    def _stops_refused(self, whose: Whose | None, moment: int) -> bool:
        """A refused row would be kept whole: it is kept out unless it says that it is newer, or
        others had the device at `moment`.
        """
        if whose is None:
            return True
        if erased := self._erased(whose):
            said_from = _micros(whose.ts)
            return said_from is None or said_from < max(erased)
        spans = self._spans(whose)
        return spans is None or not moment or _is_within(moment, spans)

    def _erased(self, whose: Whose) -> list[int]:
        """When those were erased whom a row names, be the id a text, a number, or within something
        else.
        """
        said = [
            (mark, id_)
            for mark, one in (("u", whose.user_id), ("a", whose.anonymous_id))
            for id_ in who_said({"user": one})
        ]
        return [at for subject in said if (at := self.erased_at(*subject)) is not None]

    def _spans(self, whose: Whose) -> Sequence[Span] | None:
        """When the device of a row that names no user was theirs, if it is one of several people."""
        if not self._shared or whose.user_id is not None or not isinstance(whose.anonymous_id, str):
            return None
        return self._shared.get(self.hash("a", whose.anonymous_id))

    def _names_listed(self, part: bytes) -> bool:
        """Whether a text in what is no event of ours is, or mentions, the id of somebody on the
        list.
        """
        return self._last_named(part) > 0

    def _last_named(self, part: bytes) -> int:
        """When the last of those was erased whom a text anywhere in a row is, or mentions; 0
        without any.
        """
        try:
            said_by = [
                (name, text)
                for name, one in leaves(_any(part))
                if (text := said(name, one)) is not None
            ]
            texts = [
                text
                for name, text in said_by
                if name not in ("item_id", "items") or not free.is_number(text)
            ]
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            texts = [
                text.decode(errors="replace")
                for text in (*_QUOTED.findall(part), *_NAMED.findall(part), part)
            ]
        return max(map(self._said_at, texts), default=0)

    def _unsaid(self, part: bytes, accepted: Accepted, timeless_import: bool) -> bytes | None:
        """An event of somebody else without what it says of people on the list who were erased
        since; None where that is nothing.
        """
        always = accepted.event.timeless and timeless_import
        first, was = _said_from(accepted), _any(part)

        def says(name: str, value: object) -> bool:
            text = said(name, value)
            at = 0 if text is None else self._said_at(text)
            return bool(at) and (always or first < at)

        found = free.of_another(was, says, lambda name: says("", name))
        named = {
            name: was[name]
            for name in free.THINGS
            if (at := self._named_at(was.get(name))) and (always or first < at)
        }
        found |= {name: f"{RENAMED}{self.hash('thing', id_)}" for name, id_ in named.items()}
        return None if found == was else _encode(found)

    def _named_at(self, thing: object) -> int:
        """When the last of those was erased whose id stands in that of a session, a request or an
        event; numbers are what they count.
        """
        if not isinstance(thing, str) or len(thing) < free.WITHIN_MIN:
            return 0
        ids = (
            id_
            for id_ in free.candidates(thing, self._words)
            if len(id_) >= free.WITHIN_MIN and not free.is_number(id_)
        )
        return self._last_of(set(ids))

    def _said_at(self, text: str) -> int:
        """When the last of those was erased whom a text names or mentions; 0 without any."""
        return self._last_of(set(free.candidates(text, self._words)))

    def _last_of(self, ids: Iterable[str]) -> int:
        return max(
            (
                at
                for id_ in ids
                for mark in ("u", "a")
                if (at := self.erased_at(mark, id_)) is not None
            ),
            default=0,
        )


def _digest(listed: _Listed, key: bytes) -> str:
    content = msgspec.json.encode(msgspec.structs.replace(listed, checksum=""), order="sorted")
    return blake2b(content, digest_size=16, key=key, person=b"stop list").hexdigest()


def _lost(where: Path) -> DamageError:
    return DamageError(
        "people were erased here, and the list of them is missing, or older than the last erasure",
        where=str(where),
        fix=_RESTORE,
    )


def require_finished(data: Path) -> None:
    """Raise NotReadyError if an erasure was cut short."""
    path = data / FOLDER / JOURNAL
    if path.exists():
        raise NotReadyError(
            "an erasure was cut short",
            where=str(path),
            fix="tailorbird lake erase --yes brings it to its end",
        )


def joined(parts: Sequence[bytes], body: bytes, encoding: str) -> bytes:
    """The rows of a body put together as `split` takes them apart; `body` says whether a lone one
    was a list.
    """
    if encoding == "ndjson":
        return b"\n".join(parts)
    return b"[" + b",".join(parts) + b"]" if body.lstrip()[:1] == b"[" else parts[0]


def whose_of(part: bytes) -> Whose | None:
    """Whose a row says that it is; None for what is no JSON object."""
    try:
        return _whose(part)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None


def _said_from(accepted: Accepted) -> int:
    """The earliest time that an event may be of; of one without a time, when it came in."""
    if accepted.event.timeless:
        return accepted.received_at
    return accepted.ts if accepted.ts_original is None else min(accepted.ts, accepted.ts_original)


def _may_be_before(whose: Whose, newest: int, timeless_import: bool) -> bool:
    """Whether a row may be from before an erasure; what was just sent is not."""
    moment = _micros(whose.ts)
    return bool(whose.timeless) or (
        timeless_import if whose.ts is None else moment is None or moment < newest
    )


def _moment(whose: Whose | None, receipt: Receipt) -> int:
    """Of when a refused row says that it is; of what was just sent without a time when it came in;
    0 where nobody can tell.
    """
    if whose is None or (whose.ts is None and receipt.source == "import"):
        return 0
    return receipt.received_at if whose.ts is None else _micros(whose.ts) or 0


def _is_within(moment: int, spans: Sequence[Span]) -> bool:
    return any(first <= moment < end for first, end in spans)


def subject_of(
    user_id: str | None, anonymous_id: str | None, item_id: str | None = None
) -> Subject:
    """Whose event it is."""
    if user_id is not None:
        return "u", user_id
    return ("i", item_id or "") if anonymous_id is None else ("a", anonymous_id)


def _micros(value: object) -> int | None:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    try:
        return (
            int(datetime.fromisoformat(value).timestamp() * 1e6) if isinstance(value, str) else None
        )
    except (ValueError, OverflowError):
        return None
