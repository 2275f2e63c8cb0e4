"""Pseudonyms: `user_id` and `anonymous_id` become keyed hashes before anything is written, the same everywhere for the same key.

    pseudonym = hexadecimal BLAKE2b(id in UTF-8, 16 bytes, key, person = "user_id" or "anonymous_id")

Whoever has the data but not the key cannot tell whose it is; when the key is destroyed, nobody can. Queries are treated alike, so
that features are found. What stands in `properties`, in addresses of pages and in the ids of events and sessions is the site's and
stays as it is.

A body keeps its rows and what is right or wrong about each, so that the contract decides on it as on the original; but what is
refused is kept whole in quarantine, and so a row must not hold an id where nobody looks for one: fields that are none of the
envelope's lose their values, what is no JSON is replaced by something that is none either, a foreign record by its reason alone.
"""

from hashlib import blake2b

import msgspec

from tailorbird.errors import ConfigError
from tailorbird.events.adapters.batch import Batch
from tailorbird.events.contract import ANONYMOUS_PREFIX, ID_LENGTH_MAX, split, unread_of
from tailorbird.events.envelope import Answer, Context, Event

KEY_LENGTH_MIN = 32
SETTING = "events.pseudonym_key"
_SUBJECTS = ("user_id", "anonymous_id")
_KNOWN = {
    "": frozenset(Event.__struct_fields__),
    "context": frozenset(Context.__struct_fields__),
    "answer": frozenset(Answer.__struct_fields__),
}
_EMPTY: dict[type, object] = {str: "", int: 0, float: 0.5, bool: True, list: [0], dict: {}, type(None): None}
_NO_JSON = b"{"
_fields = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_value = msgspec.json.Decoder().decode
_encode = msgspec.json.Encoder().encode


class Pseudonyms:
    """Pseudonyms under one key. Safe to call from any thread.

    Raises:
        ConfigError: the key is so short that it can be guessed.
    """

    def __init__(self, key: str) -> None:
        if len(key) < KEY_LENGTH_MIN:
            fix = "python -c 'import secrets; print(secrets.token_urlsafe(32))' makes one; keep it outside the project"
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

    def body(self, body: bytes, encoding: str, *, foreign: bool = False) -> bytes:
        """A body of events with pseudonyms; as many rows, each right or wrong as before.

        `foreign` rows come from an adapter, which makes ids of events by a plain hash of records with people in them: these are hashed
        with the key, too.
        """
        parts = [bytes(part) for part in split(body, encoding)]
        rows = [self.line(part, foreign=foreign) for part in parts]
        if encoding == "ndjson":
            return b"\n".join(rows)
        return rows[0] if parts == [body] else b"[" + b",".join(rows) + b"]"  # what could not be taken apart is one row

    def line(self, raw: bytes, *, foreign: bool = False) -> bytes:
        """One event in the wire format with pseudonyms."""
        unread = unread_of(raw)
        if unread is not None:
            return _encode({"unread": msgspec.structs.replace(unread, place=self._hash("place", unread.place), record=None)})
        try:
            fields = _fields(raw)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return _without_content(raw)
        for name in fields.keys() - _KNOWN[""]:
            fields[name] = msgspec.Raw(b"null")
        for name in _SUBJECTS:
            if name in fields:
                fields[name] = msgspec.Raw(_encode(self._subject(name, bytes(fields[name]))))
        if foreign and isinstance(event_id := _read(bytes(fields.get("event_id", b"null"))), str):
            fields["event_id"] = msgspec.Raw(_encode(self._hash("event_id", event_id)))
        for name in ("context", "answer"):
            if name in fields:
                fields[name] = msgspec.Raw(_only_known(name, bytes(fields[name])))
        return _encode(fields)

    def batch(self, batch: Batch) -> Batch:
        """What an adapter read, with pseudonyms."""
        return Batch(batch.file, [self.line(line) for line in batch.lines], batch.numbers, batch.left_out)

    def _subject(self, name: str, raw: bytes) -> object:
        """An id's pseudonym; one that the contract refuses stays one that it refuses, for the same reason."""
        value = _read(raw)
        if not isinstance(value, str) or not value:
            return _EMPTY[type(value)]
        hashed = self._hash(name, value)
        if "\x00" in value:
            return f"{hashed}\x00"
        if len(value) > ID_LENGTH_MAX:
            return hashed.ljust(ID_LENGTH_MAX + 1, "-")
        return f"{ANONYMOUS_PREFIX}{hashed}" if name == "user_id" and value.startswith(ANONYMOUS_PREFIX) else hashed

    def _hash(self, what: str, text: str) -> str:
        return blake2b(text.encode(errors="surrogatepass"), digest_size=16, key=self._key, person=what.encode()).hexdigest()


def _read(raw: bytes) -> object:
    try:
        return _value(raw)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return []  # refused as a wrong type is


def _only_known(name: str, raw: bytes) -> bytes:
    """A part of the envelope without the values of fields that it does not have."""
    try:
        fields = _fields(raw)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return _encode(_EMPTY[type(_read(raw))])
    for unknown in fields.keys() - _KNOWN[name]:
        fields[unknown] = msgspec.Raw(b"null")
    return _encode(fields)


def _without_content(raw: bytes) -> bytes:
    """Of what is no JSON object, the kind alone."""
    try:
        value = _value(raw)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return _NO_JSON
    return b"[]" if value == [] else _encode(_EMPTY[type(value)])
