"""The suppression list: erased ids, whose events are dropped however they arrive later.

A retry, a replay, a restored log or an import of an old file would bring back what was erased. So
collector, importer, replay and router ask the list. A row that names an id on it is replaced by
`contract.ERASED_BODY` before anything is written, which the contract refuses. The list has keyed
hashes alone; without the key, which is in a file of its own, nobody can ask it about a person.

    user_id on the list                    dropped, for good
    no user_id, anonymous_id on the list   dropped; of a shared device what is older than the erasure
    a merge into a user on the list        dropped
    a row that cannot be read              dropped if a text in it is an id on the list
"""

import os
import re
from collections.abc import Iterable, Iterator
from datetime import datetime
from hashlib import blake2b
from pathlib import Path
from typing import Any

import msgspec

from tailorbird.errors import DamageError, NotReadyError
from tailorbird.events.contract.codes import DECODE_ERRORS
from tailorbird.events.contract.contract import ERASED_BODY, join_rows, parse_unread, split_body
from tailorbird.events.contract.plan import MERGED_INTO
from tailorbird.events.contract.verdict import Receipt
from tailorbird.events.free_text import format_number_id, iterate_texts
from tailorbird.storage_paths import StoragePath

ERASURE_FOLDER = "erasure"  # below a project's data
SUPPRESSION_FILE = "suppression.json"
SUPPRESSION_KEY_FILE = "suppression.key"
JOURNAL_FILE = "journal.json"  # of an erasure that is not finished
RENAMED_PREFIX = "erased-"  # what a hash in place of an id begins with
RECEIPTS_FOLDER = "receipts"
ERASED_COUNT_FILE = (
    "erasures.json"  # in the lake: how many ids are on the list, so that its loss is noticed
)
LAST_ERASURE_FILE = (
    "taken"  # number of the last erasure that this machine knows of, where the logs are topics
)

_QUOTED_TEXT = re.compile(r'"([^"\\]{1,256})\\?"')
_WORD = re.compile(r"[^\s\"',;:|{}\[\]\\]{1,256}")
_RESTORE_FIX = (
    f"restore data/{ERASURE_FOLDER} from a copy; without one, set it aside, delete "
    f"{ERASED_COUNT_FILE} of the lake, and erase all these people again: until then"
    " what is old of them would be taken again"
)
Subject = tuple[
    str, str
]  # ("u", user_id) or ("a", anonymous_id); of an item's event ("i", item_id)


class RowSubject(msgspec.Struct):
    """What a row says of whose it is, and when; of any type, since nobody has checked it."""

    event_id: Any = None
    type: Any = None
    user_id: Any = None
    anonymous_id: Any = None
    item_id: Any = None
    session_id: Any = None
    request_id: Any = None
    ts: Any = None
    timeless: Any = None
    properties: Any = None


class _SuppressionFile(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    people: dict[str, int] = {}  # hash of the subject → when it was erased, microseconds
    shared: dict[str, int] = {}  # likewise, of devices that others used too
    checksum: str = ""  # keyed, over the rest: neither the list nor its key changes unnoticed


class _ErasedCount(msgspec.Struct, forbid_unknown_fields=True):
    people: int
    checksum: str  # so that a flipped bit is no other number

    @classmethod
    def of(cls, people: int) -> "_ErasedCount":
        return cls(people, blake2b(b"%d" % people, digest_size=8).hexdigest())

    @classmethod
    def read(cls, content: bytes) -> "_ErasedCount | None":
        """Return the count; None where it is damaged."""
        try:
            erased_count = msgspec.json.decode(content, type=cls)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            return None
        return (
            erased_count if erased_count.checksum == cls.of(erased_count.people).checksum else None
        )


_decode_row_subject = msgspec.json.Decoder(RowSubject).decode


class SuppressionList:
    """The erased ids, as keyed hashes. Safe to call from any thread once it is loaded."""

    def __init__(self, key: bytes, suppression_file: _SuppressionFile | None = None) -> None:
        self._key = key
        self._suppression_file = suppression_file or _SuppressionFile()

    @classmethod
    def load(cls, data: Path) -> "SuppressionList":
        """Return the list of a data folder, empty where nobody was erased.

        Raises:
            DamageError: it is damaged, or was lost.
        """
        folder = data / ERASURE_FOLDER
        try:
            suppression_file = msgspec.json.decode(
                (folder / SUPPRESSION_FILE).read_bytes(), type=_SuppressionFile
            )
            key = (folder / SUPPRESSION_KEY_FILE).read_bytes()
        except FileNotFoundError:
            if (folder / SUPPRESSION_FILE).exists():
                raise DamageError(
                    "the key of the suppression list is missing",
                    where=str(folder / SUPPRESSION_KEY_FILE),
                    fix=_RESTORE_FIX,
                ) from None
            if (folder / LAST_ERASURE_FILE).exists() or any(
                (folder / RECEIPTS_FOLDER).glob("*.json")
            ):
                raise _lost_error(folder / SUPPRESSION_FILE) from None
            return cls(b"")
        except (OSError, msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise DamageError(
                f"the suppression list cannot be read: {error}",
                where=str(folder / SUPPRESSION_FILE),
                fix=_RESTORE_FIX,
            ) from error
        if suppression_file.checksum != _hash_list(suppression_file, key):
            raise DamageError(
                "the suppression list, or its key, does not match its checksum",
                where=str(folder / SUPPRESSION_FILE),
                fix=_RESTORE_FIX,
            )
        return cls(key, suppression_file)

    def require_complete(self, lake: StoragePath, data: Path) -> None:
        """Raise DamageError where the lake knows of more erased ids than are listed here.

        Does nothing where the lake cannot be asked.
        """
        try:
            erased_count = _ErasedCount.read((lake / ERASED_COUNT_FILE).read_bytes())
        except OSError:
            return
        if erased_count is None:
            raise DamageError(
                "the lake's note of how many people were erased is damaged",
                where=str(lake / ERASED_COUNT_FILE),
                fix=f"if data/{ERASURE_FOLDER} is as new as the last erasure, delete this file: "
                f"the next one writes it again; else {_RESTORE_FIX}",
            )
        if len(self) < erased_count.people:
            raise _lost_error(data / ERASURE_FOLDER / SUPPRESSION_FILE)

    def encode_count(self) -> bytes:
        """Return what the lake stores of this list: how many ids are on it."""
        return msgspec.json.encode(_ErasedCount.of(len(self)))

    def __len__(self) -> int:
        return len(self._suppression_file.people)

    def hash(self, *parts: str) -> str:
        """Return the keyed hash of a subject, whose parts are kind and id."""
        text = "\0".join(parts).encode(errors="surrogatepass")
        return blake2b(text, digest_size=16, key=self._key, person=b"erased").hexdigest()

    def with_erased_subjects(
        self, subjects: Iterable[Subject], erased_at: int, shared_devices: Iterable[Subject] = ()
    ) -> "SuppressionList":
        """Return the list with these people on it; others used the shared devices too."""
        key = self._key or os.urandom(32)
        hash_subject = SuppressionList(key).hash
        suppression_file = _SuppressionFile(
            self._suppression_file.people
            | {hash_subject(*person): erased_at for person in subjects},
            self._suppression_file.shared
            | {hash_subject(*subject): erased_at for subject in shared_devices},
        )
        return SuppressionList(key, suppression_file)

    def encode(self) -> tuple[bytes, bytes]:
        """Return the list and its key, as the two files hold them."""
        suppression_file = msgspec.structs.replace(
            self._suppression_file, checksum=_hash_list(self._suppression_file, self._key)
        )
        return msgspec.json.encode(suppression_file, order="sorted"), self._key

    def get_erased_at(self, kind: str, id_: str) -> int | None:
        """Return when somebody was erased the last time, or None.

        Args:
            kind: `u` for a user_id, `a` for an anonymous_id, as in `Subject`.
        """
        if not self._suppression_file.people and not self._suppression_file.shared:
            return None
        subject_hash = self.hash(kind, id_)
        erased_at = self._suppression_file.people.get(subject_hash)
        return self._suppression_file.shared.get(subject_hash) if erased_at is None else erased_at

    def has(self, kind: str, id_: str) -> bool:
        """Return whether somebody was erased."""
        return self.get_erased_at(kind, id_) is not None

    def filter_body(self, body: bytes, receipt: Receipt) -> bytes:
        """Return the body with `ERASED_BODY` in place of each row that is dropped."""
        if not self._suppression_file.people and not self._suppression_file.shared:
            return body
        raw_rows = [bytes(raw_row) for raw_row in split_body(body, receipt.encoding)]
        rows = [
            ERASED_BODY if self.is_dropped(raw_row, receipt) else raw_row for raw_row in raw_rows
        ]
        return body if rows == raw_rows else join_rows(rows, body, receipt.encoding)

    def filter_line(self, line: bytes, receipt: Receipt) -> bytes:
        """Return one event in the wire format, or `ERASED_BODY`."""
        return self.filter_body(line, msgspec.structs.replace(receipt, encoding="ndjson"))

    def is_dropped(self, raw_row: bytes, receipt: Receipt) -> bool:
        """Return whether a row is dropped."""
        row = read_row_subject(raw_row)
        if row is None or parse_unread(raw_row) is not None:
            return any(
                self.has(kind, text)
                for text in _iterate_id_candidates(raw_row)
                for kind in ("u", "a")
            )
        if row.type == "merge" and isinstance(row.properties, dict):
            merged_into = _read_id(row.properties.get(MERGED_INTO))
            if merged_into is not None and self.has("u", merged_into):
                return True
        if (user_id := _read_id(row.user_id)) is not None:
            return self.has("u", user_id)
        anonymous_id = _read_id(row.anonymous_id)
        erased_at = None if anonymous_id is None else self.get_erased_at("a", anonymous_id)
        if anonymous_id is None or erased_at is None:
            return False
        is_shared = self.hash("a", anonymous_id) in self._suppression_file.shared
        return not is_shared or _read_time(row, receipt) < erased_at


def _hash_list(suppression_file: _SuppressionFile, key: bytes) -> str:
    content = msgspec.json.encode(
        msgspec.structs.replace(suppression_file, checksum=""), order="sorted"
    )
    return blake2b(content, digest_size=16, key=key, person=b"suppression").hexdigest()


def _lost_error(where: Path) -> DamageError:
    return DamageError(
        "people were erased here, and the list of them is missing, or older than the last erasure",
        where=str(where),
        fix=_RESTORE_FIX,
    )


def require_finished_erasure(data: Path) -> None:
    """Raise NotReadyError if an erasure was cut off."""
    path = data / ERASURE_FOLDER / JOURNAL_FILE
    if path.exists():
        raise NotReadyError(
            "an erasure was cut short",
            where=str(path),
            fix="tailorbird lake erase --yes brings it to its end",
        )


def read_row_subject(raw_row: bytes) -> RowSubject | None:
    """Return whose a row says that it is; None for what is no JSON object."""
    try:
        return _decode_row_subject(raw_row)
    except DECODE_ERRORS:
        return None


def subject_of(
    user_id: str | None, anonymous_id: str | None, item_id: str | None = None
) -> Subject:
    """Return whose event it is."""
    if user_id is not None:
        return "u", user_id
    return ("i", item_id or "") if anonymous_id is None else ("a", anonymous_id)


def _read_id(value: object) -> str | None:
    return (value or None) if isinstance(value, str) else format_number_id(value)


def _iterate_id_candidates(raw_row: bytes) -> Iterator[str]:
    """Yield what may be an id in a row that cannot be read."""
    text = raw_row.decode(errors="replace")
    yield from (*_QUOTED_TEXT.findall(text), *_WORD.findall(text))
    try:
        yield from iterate_texts(msgspec.json.decode(raw_row))
    except DECODE_ERRORS:
        return


def _read_time(row: RowSubject, receipt: Receipt) -> int:
    """Return when a row says that it was; 0 where a file says no time."""
    if row.ts is None and not row.timeless and receipt.source != "import":
        return receipt.received_at
    ts = row.ts
    if isinstance(ts, int) and not isinstance(ts, bool):
        return ts
    try:
        return int(datetime.fromisoformat(ts).timestamp() * 1e6) if isinstance(ts, str) else 0
    except (ValueError, OverflowError):
        return 0
