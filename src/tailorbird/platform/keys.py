"""Access keys of a project, and pseudonyms of ids."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from tailorbird.config import SETTINGS_FILE, find_project, load_settings, paths_of
from tailorbird.errors import UsageError
from tailorbird.events import SystemClock, parse_duration, to_iso
from tailorbird.events.keys import to_id_text
from tailorbird.pages.notebook import text_html
from tailorbird.platform.frames import Frame

if TYPE_CHECKING:
    from tailorbird.serving.auth.keyfile import KeyRecord, Limits


@dataclass(frozen=True, repr=False)
class CreatedKey:
    """A new access key. Only its hash is stored: `token` is not shown again.

    Attributes:
        replaced_key: the record of the key that it replaces, or None.
        replaced_valid_until: time until which that key is valid, microseconds.
    """

    token: str
    record: "KeyRecord"
    replaced_key: "KeyRecord | None" = None
    replaced_valid_until: int = 0

    def __repr__(self) -> str:
        return f"key {self.record.id} ({self.record.name}), may {' and '.join(self.record.scopes)}"

    _repr_html_ = text_html


class KeysView:
    """The access keys of a project. Running servers follow a change at once."""

    def __init__(self, root: Path | None = None) -> None:
        self._root = root

    def create(
        self,
        name: str,
        *,
        scopes: Sequence[str] = (),
        origins: Sequence[str] = (),
        identify: bool | None = None,
        limits: "Limits | None" = None,
        expires: str = "",
        replaces: str = "",
        keep: str = "7d",
    ) -> CreatedKey:
        """Create a key.

        Args:
            name: purpose of the key.
            scopes: `write`, `read` and `admin`; by default those of the key that it replaces.
            origins: web origins whose pages may use the key, to send events only.
            identify: allow a key with an origin to send `identify` too.
            limits: limits of this key.
            expires: time until the key expires, such as `90d`; "" is never.
            replaces: id of the key to replace.
            keep: how long the old key remains valid.

        Raises:
            UsageError: a scope, origin or name is invalid, or there is no key to replace.
        """
        from tailorbird.serving.auth.keyfile import NO_LIMITS, create_key, read_keys

        keys_file = self._keys_file()
        replaced_key = next(
            (record for record in read_keys(keys_file) if record.id == replaces), None
        )
        now = SystemClock().now()
        keep_until = now + parse_duration(keep)
        token, record = create_key(
            keys_file,
            name,
            scopes or (replaced_key.scopes if replaced_key else []),
            now,
            origins=origins or (replaced_key.origins if replaced_key else []),
            limits=limits or (replaced_key.limits if replaced_key else NO_LIMITS),
            identify=identify
            if identify is not None
            else bool(replaced_key and replaced_key.identify),
            expires_at=now + parse_duration(expires) if expires else 0,
            replaced_key_id=replaces,
            keep_until=keep_until,
        )
        if replaced_key is None:
            return CreatedKey(token, record)
        replaced_valid_until = min(replaced_key.expires_at or keep_until, keep_until)
        return CreatedKey(token, record, replaced_key, replaced_valid_until)

    def records(self) -> "list[KeyRecord]":
        """Return the keys as stored, without their tokens."""
        from tailorbird.serving.auth.keyfile import read_keys

        return read_keys(self._keys_file())

    def list(self) -> Frame:
        """Return the keys with their permissions and expiry."""
        columns = ["id", "name", "scopes", "created", "expires", "origins", "identify"]
        described_keys = [describe_key(record) for record in self.records()]
        return Frame.from_rows(columns, [[key[name] for name in columns] for key in described_keys])

    def revoke(self, key_id: str) -> "KeyRecord":
        """Revoke a key: servers refuse it from the next request on.

        Raises:
            UsageError: there is no key of that id.
        """
        from tailorbird.serving.auth.keyfile import revoke_key

        if key_id.startswith("tb_"):
            raise UsageError(
                "expected the id of a key, not the key",
                fix="the id is the 12 digits between the underscores",
            )
        return revoke_key(self._keys_file(), key_id)

    def pseudonym(self, user_id: str | int, *, is_anonymous: bool = False) -> str:
        """Return the pseudonym of an id, for SQL queries and for requests of users.

        Raises:
            UsageError: `events.pseudonym_key` is not set.
        """
        from tailorbird.config.pseudonyms import pseudonyms_of

        root = self._find_root()
        settings, _ = load_settings(root / SETTINGS_FILE)
        paths = paths_of(root, settings)
        pseudonyms = pseudonyms_of(
            settings.events.pseudonym_key, paths.data, paths.lake, record_key=False
        )
        if pseudonyms is None:
            raise UsageError("this project keeps ids as they come", where="events.pseudonym_key")
        text = to_id_text(user_id)
        return pseudonyms.anonymous_id(text) if is_anonymous else pseudonyms.user_id(text)

    def _find_root(self) -> Path:
        return self._root or find_project()

    def _keys_file(self) -> Path:
        """Return the project's keys file; needs only the settings to load."""
        root = self._find_root()
        settings, _ = load_settings(root / SETTINGS_FILE)
        return root / settings.serve.keys_file

    def __repr__(self) -> str:
        return repr(self.list())

    def _repr_html_(self) -> str:
        return self.list().to_html()


def describe_key(record: "KeyRecord") -> dict[str, Any]:
    """Return a key as commands print it with `--json`."""
    return {
        "id": record.id,
        "name": record.name,
        "scopes": record.scopes,
        "created": to_iso(record.created_at),
        "expires": to_iso(record.expires_at) if record.expires_at else None,
        "origins": record.origins,
        "identify": record.identify,
        "limits": msgspec.to_builtins(record.limits),
    }
