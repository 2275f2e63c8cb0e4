"""Pseudonymisation: `user_id` and `anonymous_id` become keyed hashes before anything is written.

    pseudonym = hex(BLAKE2b(id in UTF-8, 16 bytes, key, person="user_id" or "anonymous_id"))

Data without the key does not reveal whose it is, not even to the operator once the key is
destroyed. Lookups hash ids in the same way, and so does the target of a `merge`. Everything else in
`properties`, page addresses, event ids and session ids belongs to the site and stays unchanged.

A body keeps its rows, and each row stays valid or invalid for the same reason, so that the contract
gives the same verdicts. Refused rows are stored in the quarantine, so they must not contain an id
anywhere. Unvalidated content is replaced:

    an undeclared field              renamed and emptied
    a value of a wrong type          an empty value
    an unknown type, an invalid      "hidden-" and its keyed hash, so that kinds can be counted
    country, an unreadable time
    a numeric time out of range      1 and as many zeros as indicate its unit
    malformed JSON                   other malformed JSON
    a foreign record                 its reason only, without the quoted value
"""

from collections.abc import Collection
from hashlib import blake2b

import msgspec

from tailorbird.errors import ConfigError
from tailorbird.events.adapters.batch import ROW_ID_PREFIX
from tailorbird.events.contract.codes import DECODE_ERRORS, ContractViolation
from tailorbird.events.contract.contract import parse_unread, split_body
from tailorbird.events.contract.envelope import (
    ANONYMOUS_PREFIX,
    COUNTRY_PATTERN,
    ID_BOUNDS,
    Context,
    Event,
    ResponseDetails,
)
from tailorbird.events.contract.plan import EVENT_TYPES, MERGED_INTO
from tailorbird.events.contract.times import to_micros

KEY_LENGTH_MIN = 32
KEY_SETTING = "events.pseudonym_key"
_SUBJECT_FIELDS = ("user_id", "anonymous_id")
# Sections are the objects of an event; "" is the event itself.
_STRUCT_BY_SECTION: dict[str, type[msgspec.Struct]] = {
    "": Event,
    "context": Context,
    "answer": ResponseDetails,
}
_TYPES_BY_SECTION = {
    section: {field.name: field.type for field in msgspec.structs.fields(struct)}
    for section, struct in _STRUCT_BY_SECTION.items()
}
_EMPTY_VALUES: dict[type, object] = {
    str: "",
    int: 0,
    float: 0.5,
    bool: True,
    list: [0],
    dict: {},
    type(None): None,
}
_MALFORMED_JSON = b"{"
_TIME_FIELDS = ("ts", "sent_at", "received_at")
_TIME_BEYOND_MAX = 10**18  # microseconds, beyond any valid time
_decode_fields = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_decode_value = msgspec.json.Decoder().decode
_decode_event = msgspec.json.Decoder(Event).decode
_encode_json = msgspec.json.Encoder().encode


class Pseudonyms:
    """Pseudonyms under one key.

    Safe to call from any thread.

    Raises:
        ConfigError: the key is so short that it can be guessed.
    """

    def __init__(self, key: str) -> None:
        if len(key) < KEY_LENGTH_MIN:
            fix = (
                "python -c 'import secrets; print(secrets.token_urlsafe(32))' makes one; keep "
                "it outside the project"
            )
            raise ConfigError(
                f"has fewer than {KEY_LENGTH_MIN} characters", where=KEY_SETTING, fix=fix
            )
        self._key = blake2b(key.encode(), digest_size=32, person=b"tailorbird ids").digest()

    @property
    def key_fingerprint(self) -> str:
        """A hash that identifies the key without revealing it."""
        return self._hash("fingerprint", "")

    def user_id(self, text: str) -> str:
        return self._hash("user_id", text)

    def anonymous_id(self, text: str) -> str:
        return self._hash("anonymous_id", text)

    def pseudonymise_body(
        self,
        body: bytes,
        encoding: str,
        *,
        is_foreign: bool = False,
        event_types: Collection[str] = EVENT_TYPES,
    ) -> bytes:
        """Pseudonymise a body of events; every row stays as valid or invalid as it was.

        Foreign rows come from an adapter, whose event ids are plain hashes of records that name
        users, so these ids are hashed with the key as well. `event_types` are those that the
        project declares.
        """
        raw_rows = [bytes(raw_row) for raw_row in split_body(body, encoding)]
        rows = [
            self.pseudonymise_line(raw_row, is_foreign=is_foreign, event_types=event_types)
            for raw_row in raw_rows
        ]
        if encoding == "ndjson":
            return b"\n".join(rows)
        is_one_row = raw_rows == [body]  # or a body that cannot be split
        return rows[0] if is_one_row else b"[" + b",".join(rows) + b"]"

    def pseudonymise_line(
        self, raw: bytes, *, is_foreign: bool = False, event_types: Collection[str] = EVENT_TYPES
    ) -> bytes:
        """Pseudonymise one event in the wire format."""
        unread_record = parse_unread(raw)
        if unread_record is not None:
            location = self._hash("place", unread_record.place)
            message = unread_record.message.partition(", got ")[0]
            return _encode_json(
                {
                    "unread": msgspec.structs.replace(
                        unread_record, place=location, message=message, record=None
                    )
                }
            )
        try:
            fields = _decode_fields(raw)
        except DECODE_ERRORS:
            return _encode_empty_of_same_kind(raw)
        if not _is_event(raw):
            fields = _drop_untyped_fields("", fields)
        for name in _SUBJECT_FIELDS:
            if name in fields:
                fields[name] = msgspec.Raw(
                    _encode_json(self._hash_subject(name, bytes(fields[name])))
                )
        type_ = _read_value(bytes(fields.get("type", b"null")))
        is_declared_type = isinstance(type_, str) and type_ in event_types
        if (
            type_ == "merge" or not is_declared_type
        ) and "properties" in fields:  # A refused merge is stored too.
            fields["properties"] = self._hash_merge_target(fields["properties"])
        event_id = _read_value(bytes(fields.get("event_id", b"null")))
        if isinstance(event_id, str) and (is_foreign or event_id.startswith(ROW_ID_PREFIX)):
            prefix = ROW_ID_PREFIX if event_id.startswith(ROW_ID_PREFIX) else ""
            fields["event_id"] = msgspec.Raw(
                _encode_json(prefix + self._hash("event_id", event_id))
            )
        for name in ("context", "answer"):
            if name in fields:
                fields[name] = msgspec.Raw(self._drop_unknown_fields(name, bytes(fields[name])))
        for name in ("type", *_TIME_FIELDS):
            if name in fields:
                fields[name] = self._sanitise_value(name, fields[name], event_types)
        return _encode_json(fields)

    def _drop_unknown_fields(self, name: str, raw: bytes) -> bytes:
        """Drop the fields that a part of the envelope does not declare."""
        try:
            fields = _decode_fields(raw)
        except DECODE_ERRORS:
            return _encode_json(_EMPTY_VALUES[type(_read_value(raw))])
        typed_fields = _drop_untyped_fields(name, fields)
        return _encode_json(
            typed_fields
            | {
                field: self._sanitise_value(field, typed_fields[field])
                for field in ("country",)
                if field in typed_fields
            }
        )

    def _hash_merge_target(self, raw: msgspec.Raw) -> msgspec.Raw:
        """Hash the user id among the properties of a merge."""
        properties = _read_value(bytes(raw))
        if not isinstance(properties, dict) or MERGED_INTO not in properties:
            return raw
        hashed_id = self._hash_subject("user_id", _encode_json(properties[MERGED_INTO]))
        return msgspec.Raw(_encode_json(properties | {MERGED_INTO: hashed_id}))

    def _sanitise_value(
        self, name: str, raw: msgspec.Raw, event_types: Collection[str] = ()
    ) -> msgspec.Raw:
        """Return a valid type, time or country unchanged.

        An invalid value is replaced by one that is refused for the same reason and reveals nothing.
        """
        value = _read_value(bytes(raw))
        if name in _TIME_FIELDS:
            return (
                raw
                if not isinstance(value, int | str) or _is_time(value)
                else msgspec.Raw(_encode_json(self._hide_time(name, value)))
            )
        if not isinstance(value, str) or (
            COUNTRY_PATTERN.holds(value) if name == "country" else value in event_types
        ):
            return raw
        return msgspec.Raw(_encode_json(self._hide_text(name, value)))

    def _hide_time(self, name: str, value: int | str) -> int | str:
        if isinstance(value, str):
            return self._hide_text(name, value)
        return min(10 ** (len(str(value)) - 1), _TIME_BEYOND_MAX) if value > 0 else 0

    def _hide_text(self, purpose: str, text: str) -> str:
        return f"hidden-{self._hash(purpose, text)}" if text else text

    def _hash_subject(self, name: str, raw: bytes) -> object:
        """Hash an id.

        One that the contract refuses becomes one that is refused for the same reason.
        """
        value = _read_value(raw)
        if not isinstance(value, str) or not value:
            return _EMPTY_VALUES[type(value)]
        hashed_id = self._hash(name, value)
        if "\x00" in value:
            return f"{hashed_id}\x00"
        if len(value) > ID_BOUNDS.high:
            return hashed_id.ljust(ID_BOUNDS.high + 1, "-")
        return (
            f"{ANONYMOUS_PREFIX}{hashed_id}"
            if name == "user_id" and value.startswith(ANONYMOUS_PREFIX)
            else hashed_id
        )

    def _hash(self, purpose: str, text: str) -> str:
        """Return the keyed hash of a text, which differs between purposes."""
        return blake2b(
            text.encode(errors="surrogatepass"),
            digest_size=16,
            key=self._key,
            person=purpose.encode(),
        ).hexdigest()


def _read_value(raw: bytes) -> object:
    try:
        return _decode_value(raw)
    except DECODE_ERRORS:
        return []  # refused as a wrong type is


def _is_event(raw: bytes) -> bool:
    try:
        _decode_event(raw)
    except DECODE_ERRORS:
        return False
    return True


def _is_time(value: int | str) -> bool:
    try:
        to_micros(value, "$")
    except ContractViolation:
        return False
    return True


def _drop_untyped_fields(section: str, fields: dict[str, msgspec.Raw]) -> dict[str, msgspec.Raw]:
    """Return the fields, with undeclared ones renamed and emptied, and mistyped values emptied."""
    types = _TYPES_BY_SECTION[section]
    typed_fields = {}
    for number, (name, raw) in enumerate(fields.items(), 1):
        if name not in types:
            typed_fields[f"unknown_{number}"] = msgspec.Raw(b"null")
        elif (
            name in _STRUCT_BY_SECTION
            or name in _SUBJECT_FIELDS
            or _is_of_type(types[name], bytes(raw))
        ):
            typed_fields[name] = raw
        else:
            empty = _encode_json(_EMPTY_VALUES[type(_read_value(bytes(raw)))])
            typed_fields[name] = msgspec.Raw(b"[0]" if _is_of_type(types[name], empty) else empty)
    return typed_fields


def _is_of_type(declared_type: object, raw: bytes) -> bool:
    try:
        msgspec.json.decode(raw, type=declared_type)
    except DECODE_ERRORS:
        return False
    return True


def _encode_empty_of_same_kind(raw: bytes) -> bytes:
    """Return an empty value of the same JSON kind."""
    try:
        value = _decode_value(raw)
    except DECODE_ERRORS:
        return _MALFORMED_JSON
    return b"[]" if value == [] else _encode_json(_EMPTY_VALUES[type(value)])
