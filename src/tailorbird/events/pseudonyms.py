"""Pseudonyms: `user_id` and `anonymous_id` become keyed hashes before anything is written, the same
everywhere for the same key.

    pseudonym = hexadecimal BLAKE2b(id in UTF-8, 16 bytes, key, person = "user_id" or
    "anonymous_id")

Whoever has the data but not the key cannot tell whose it is; when the key is destroyed, nobody can.
Queries are treated alike, so that features are found; so is whom a `merge` names. What else stands
in `properties`, in addresses of pages and in the ids of events and sessions is the site's and stays
as it is.

A body keeps its rows and what is right or wrong about each, so that the contract decides on it as
on the original; but what is refused is kept whole in quarantine, and so a row must not hold an id
where nobody looks for one. What cannot be vouched for goes:

    no field of the envelope         its name and value
    a value of another type          becomes an empty one
    an unknown type, a country       "hidden-" and its keyed hash: the same for the same, so that kinds can be counted
    that is none, a time in text
    that cannot be read
    a time in numbers out of range   1 and as many zeros as tell its unit
    no JSON                          something that is none either
    a foreign record                 its reason alone, without the value that the reason shows
"""

from collections.abc import Collection
from hashlib import blake2b

import msgspec

from tailorbird.errors import ConfigError
from tailorbird.events.adapters.batch import ROW, Batch
from tailorbird.events.contract import (
    ANONYMOUS_PREFIX,
    COUNTRY,
    ID_LENGTH_MAX,
    Breach,
    split,
    to_micros,
    unread_of,
)
from tailorbird.events.envelope import Answer, Context, Event
from tailorbird.events.plan import EVENT_TYPES, MERGED_INTO

KEY_LENGTH_MIN = 32
SETTING = "events.pseudonym_key"
_SUBJECTS = ("user_id", "anonymous_id")
_PARTS: dict[str, type[msgspec.Struct]] = {"": Event, "context": Context, "answer": Answer}
_TYPES = {
    part: {field.name: field.type for field in msgspec.structs.fields(of)}
    for part, of in _PARTS.items()
}
_EMPTY: dict[type, object] = {
    str: "",
    int: 0,
    float: 0.5,
    bool: True,
    list: [0],
    dict: {},
    type(None): None,
}
_NO_JSON = b"{"
_TIMES = ("ts", "sent_at", "received_at")
_TIME_BEYOND_MAX = 10**18  # microseconds, beyond what a time may be
_fields = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_value = msgspec.json.Decoder().decode
_event = msgspec.json.Decoder(Event).decode
_encode = msgspec.json.Encoder().encode


class Pseudonyms:
    """Pseudonyms under one key. Safe to call from any thread.

    Raises:
        ConfigError: the key is so short that it can be guessed.
    """

    def __init__(self, key: str) -> None:
        if len(key) < KEY_LENGTH_MIN:
            fix = (
                "python -c 'import secrets; print(secrets.token_urlsafe(32))' makes one; keep "
                "it outside the project"
            )
            raise ConfigError(f"has fewer than {KEY_LENGTH_MIN} characters", where=SETTING, fix=fix)
        self._key = blake2b(key.encode(), digest_size=32, person=b"tailorbird ids").digest()

    @property
    def fingerprint(self) -> str:
        """Tells one key from another, and nothing of either."""
        return self._hash("fingerprint", "")

    def user_id(self, text: str) -> str:
        return self._hash("user_id", text)

    def anonymous_id(self, text: str) -> str:
        return self._hash("anonymous_id", text)

    def body(
        self,
        body: bytes,
        encoding: str,
        *,
        foreign: bool = False,
        types: Collection[str] = EVENT_TYPES,
    ) -> bytes:
        """A body of events with pseudonyms; as many rows, each right or wrong as before.

        `foreign` rows come from an adapter, which makes ids of events by a plain hash of records
        with people in them: these are hashed with the key, too. `types` are those that the project
        knows.
        """
        parts = [bytes(part) for part in split(body, encoding)]
        rows = [self.line(part, foreign=foreign, types=types) for part in parts]
        if encoding == "ndjson":
            return b"\n".join(rows)
        return (
            rows[0] if parts == [body] else b"[" + b",".join(rows) + b"]"
        )  # what could not be taken apart is one row

    def line(
        self, raw: bytes, *, foreign: bool = False, types: Collection[str] = EVENT_TYPES
    ) -> bytes:
        """One event in the wire format with pseudonyms."""
        unread = unread_of(raw)
        if unread is not None:
            place, message = (
                self._hash("place", unread.place),
                unread.message.partition(", got ")[0],
            )
            return _encode(
                {
                    "unread": msgspec.structs.replace(
                        unread, place=place, message=message, record=None
                    )
                }
            )
        try:
            fields = _fields(raw)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return _empty_of_same_kind(raw)
        if not _is_event(raw):
            fields = _drop_untyped_fields("", fields)
        for name in _SUBJECTS:
            if name in fields:
                fields[name] = msgspec.Raw(_encode(self._hash_subject(name, bytes(fields[name]))))
        type_ = _read(bytes(fields.get("type", b"null")))
        is_declared_type = isinstance(type_, str) and type_ in types
        if (
            type_ == "merge" or not is_declared_type
        ) and "properties" in fields:  # a refused "Merge" is kept, too
            fields["properties"] = self._hash_merge_target(fields["properties"])
        event_id = _read(bytes(fields.get("event_id", b"null")))
        if isinstance(event_id, str) and (foreign or event_id.startswith(ROW)):
            prefix = ROW if event_id.startswith(ROW) else ""
            fields["event_id"] = msgspec.Raw(_encode(prefix + self._hash("event_id", event_id)))
        for name in ("context", "answer"):
            if name in fields:
                fields[name] = msgspec.Raw(self._drop_unknown_fields(name, bytes(fields[name])))
        for name in ("type", *_TIMES):
            if name in fields:
                fields[name] = self._sanitise(name, fields[name], types)
        return _encode(fields)

    def batch(
        self, batch: Batch, types: Collection[str] = EVENT_TYPES, *, foreign: bool = False
    ) -> Batch:
        """What an adapter read, with pseudonyms; `foreign` as in `body`. Ids made of a row's
        content are hashed in any case.
        """
        return Batch(
            batch.file,
            [self.line(line, foreign=foreign, types=types) for line in batch.lines],
            batch.numbers,
            batch.left_out,
        )

    def _drop_unknown_fields(self, name: str, raw: bytes) -> bytes:
        """A part of the envelope without what is none of its own."""
        try:
            fields = _fields(raw)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return _encode(_EMPTY[type(_read(raw))])
        typed = _drop_untyped_fields(name, fields)
        return _encode(
            typed
            | {each: self._sanitise(each, typed[each]) for each in ("country",) if each in typed}
        )

    def _hash_merge_target(self, raw: msgspec.Raw) -> msgspec.Raw:
        """The properties of a merge, of which one is the id of a user."""
        properties = _read(bytes(raw))
        if not isinstance(properties, dict) or MERGED_INTO not in properties:
            return raw
        hashed = self._hash_subject("user_id", _encode(properties[MERGED_INTO]))
        return msgspec.Raw(_encode(properties | {MERGED_INTO: hashed}))

    def _sanitise(self, name: str, raw: msgspec.Raw, types: Collection[str] = ()) -> msgspec.Raw:
        """A type, a time or a country as it is; what is none, as one that is none for the same
        reason, and says nothing.
        """
        value = _read(bytes(raw))
        if name in _TIMES:
            return (
                raw
                if not isinstance(value, int | str) or _is_time(value)
                else msgspec.Raw(_encode(self._hide_time(name, value)))
            )
        if not isinstance(value, str) or (
            COUNTRY.match(value) if name == "country" else value in types
        ):
            return raw
        return msgspec.Raw(_encode(self._hide(name, value)))

    def _hide_time(self, name: str, value: int | str) -> int | str:
        if isinstance(value, str):
            return self._hide(name, value)
        return min(10 ** (len(str(value)) - 1), _TIME_BEYOND_MAX) if value > 0 else 0

    def _hide(self, what: str, text: str) -> str:
        return f"hidden-{self._hash(what, text)}" if text else text

    def _hash_subject(self, name: str, raw: bytes) -> object:
        """An id's pseudonym; one that the contract refuses stays one that it refuses, for the same
        reason.
        """
        value = _read(raw)
        if not isinstance(value, str) or not value:
            return _EMPTY[type(value)]
        hashed = self._hash(name, value)
        if "\x00" in value:
            return f"{hashed}\x00"
        if len(value) > ID_LENGTH_MAX:
            return hashed.ljust(ID_LENGTH_MAX + 1, "-")
        return (
            f"{ANONYMOUS_PREFIX}{hashed}"
            if name == "user_id" and value.startswith(ANONYMOUS_PREFIX)
            else hashed
        )

    def _hash(self, what: str, text: str) -> str:
        return blake2b(
            text.encode(errors="surrogatepass"), digest_size=16, key=self._key, person=what.encode()
        ).hexdigest()


def _read(raw: bytes) -> object:
    try:
        return _value(raw)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return []  # refused as a wrong type is


def _is_event(raw: bytes) -> bool:
    try:
        _event(raw)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return False
    return True


def _is_time(value: int | str) -> bool:
    try:
        to_micros(value, "$")
    except Breach:
        return False
    return True


def _drop_untyped_fields(part: str, fields: dict[str, msgspec.Raw]) -> dict[str, msgspec.Raw]:
    """Fields in their order: those that the part does not have by number, without a value; values
    of another type made empty.
    """
    types, typed = _TYPES[part], {}
    for number, (name, raw) in enumerate(fields.items(), 1):
        if name not in types:
            typed[f"unknown_{number}"] = msgspec.Raw(b"null")
        elif name in _PARTS or name in _SUBJECTS or _is_of_type(types[name], bytes(raw)):
            typed[name] = raw
        else:
            empty = _encode(_EMPTY[type(_read(bytes(raw)))])
            typed[name] = msgspec.Raw(b"[0]" if _is_of_type(types[name], empty) else empty)
    return typed


def _is_of_type(declared: object, raw: bytes) -> bool:
    try:
        msgspec.json.decode(raw, type=declared)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return False
    return True


def _empty_of_same_kind(raw: bytes) -> bytes:
    """Of what is no JSON object, the kind alone."""
    try:
        value = _value(raw)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return _NO_JSON
    return b"[]" if value == [] else _encode(_EMPTY[type(value)])
