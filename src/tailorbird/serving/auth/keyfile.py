"""The file of keys, with the scopes, limits and expiry of each, and only a salted hash of the key
itself.

`tailorbird keys` writes it, and servers reload it after each change (`serving.auth.keys`). It is
beside `tailorbird.toml` unless `serve.keys_file` says otherwise, and only its owner may write it.

    tb_<id>_<secret>     id: 12 hexadecimal digits, stored as it is; names the key everywhere
                         secret: 256 random bits, stored as BLAKE2b with a salt of its own

One round of a fast hash is enough: 256 random bits cannot be guessed. Passwords would need scrypt.
"""

import fcntl
import hmac
import os
import re
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from hashlib import blake2b
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from tailorbird.errors import ConfigError, StorageError, UsageError, fix_for_os_error

OPEN = "open"
READ = "read"
WRITE = "write"
ADMIN = "admin"
SCOPES = (READ, WRITE, ADMIN)  # of a key; OPEN needs none
FORMAT_VERSION = 1
_TOKEN_PATTERN = re.compile(r"tb_([0-9a-f]{12})_([A-Za-z0-9_-]{43})\Z")
_NAME_PATTERN = re.compile(r"[\w .:@-]{1,64}\Z")
_ORIGIN_PATTERN = re.compile(
    r"https?://[a-z0-9.\-\[\]:]{1,255}\Z"
)  # as browsers send it: lower case, no path
_HASH_PERSONALISATION = b"tailorbird key"

Hex = Annotated[str, Meta(pattern="^[0-9a-f]+$")]


Rate = Annotated[float, Meta(ge=0)] | None
Count = Annotated[int, Meta(ge=0)] | None


class Limits(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, kw_only=True
):
    """Limits of a key where they differ from those of `[serve]`; 0 means no limit.

    `serving.auth.limits` enforces them.
    """

    requests_per_s: Rate = None
    events_per_s: Rate = None
    batch_max: Count = None
    body_bytes_max: Count = None
    ids_per_hour: Count = None


NO_LIMITS = Limits()


class KeyRecord(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, kw_only=True
):
    """A key as the file stores it. Times are microseconds.

    Attributes:
        expires_at: time from which it is refused; 0 is never.
        origins: web origins that may use it. A key with any is public, because every visitor's
            browser has it.
        identify: whether a public key may send `identify` too; false in files that predate this
            field.
    """

    id: Annotated[str, Meta(pattern="^[0-9a-f]{12}$")]
    name: str
    scopes: list[str]
    salt: Hex
    hash: Hex
    created_at: int
    expires_at: int = 0
    origins: list[str] = []
    limits: Limits = NO_LIMITS
    identify: bool = False

    def matches(self, secret: str) -> bool:
        return hmac.compare_digest(bytes.fromhex(self.hash), _hash_secret(secret, self.salt))


class _KeyFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    version: int
    keys: list[KeyRecord]


_key_file_decoder = msgspec.json.Decoder(_KeyFile)


def parse_token(token: str) -> tuple[str, str] | None:
    """Return id and secret of a Tailorbird key, or None if the token does not look like one."""
    match = _TOKEN_PATTERN.match(token)
    return (match[1], match[2]) if match else None


def read_keys(file: Path) -> list[KeyRecord]:
    """Read the keys of a file, none if there is no file.

    Raises:
        ConfigError: the file is damaged, or others than its owner and group may write it.
    """
    try:
        data = file.read_bytes()
        mode = file.stat().st_mode
    except FileNotFoundError:
        return []
    except OSError as error:
        raise ConfigError(f"cannot be read: {error.strerror}", where=str(file)) from None
    if mode & 0o002:
        raise ConfigError(
            "anybody on this machine may write it, and so give themselves a key",
            where=str(file),
            fix=f"chmod 600 {file}",
        )
    try:
        key_file = _key_file_decoder.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"is no file of keys: {error}",
            where=str(file),
            fix="tailorbird keys create makes a new one",
        ) from None
    if key_file.version != FORMAT_VERSION:
        raise ConfigError(
            f"has version {key_file.version}, expected {FORMAT_VERSION}",
            where=str(file),
            fix="use the Tailorbird that wrote it",
        )
    for record in key_file.keys:
        require_scopes(record.scopes, record.origins)
    return key_file.keys


def create_key(
    file: Path,
    name: str,
    scopes: Sequence[str],
    now: int,
    *,
    origins: Sequence[str] = (),
    limits: Limits = NO_LIMITS,
    identify: bool = False,
    expires_at: int = 0,
    replaced_key_id: str = "",
    keep_until: int = 0,
) -> tuple[str, KeyRecord]:
    """Create a key and store its hash; the key itself is returned here and nowhere else.

    With `replaced_key_id`, that key is refused from `keep_until` on, so that both work until
    every client has the new one.

    Raises:
        UsageError: an invalid scope, origin or name; `identify` without an origin; no key of that
            id.
    """
    if not _NAME_PATTERN.match(name):
        raise UsageError(
            f"expected a name of 1 to 64 letters, digits, spaces and . : @ - _, got {name[:70]!r}"
        )
    require_scopes(scopes, origins)
    if identify and not origins:
        raise UsageError(
            "only a key for browsers has to be allowed to identify",
            fix="a write key without an origin may send all events",
        )
    secret = secrets.token_urlsafe(32)
    salt = secrets.token_hex(16)
    key_record = KeyRecord(
        id=secrets.token_hex(6),
        name=name,
        scopes=sorted(set(scopes)),
        salt=salt,
        hash=_hash_secret(secret, salt).hex(),
        created_at=now,
        expires_at=expires_at,
        origins=sorted(set(origins)),
        limits=limits,
        identify=identify,
    )
    with _edit_keys(file) as keys:
        if replaced_key_id:
            replaced_index = _find_index(keys, replaced_key_id, file)
            replaced_key = keys[replaced_index]
            refused_from = (
                keep_until
                if not replaced_key.expires_at
                else min(keep_until, replaced_key.expires_at)
            )
            keys[replaced_index] = msgspec.structs.replace(replaced_key, expires_at=refused_from)
        keys.append(key_record)
    return f"tb_{key_record.id}_{secret}", key_record


def revoke_key(file: Path, key_id: str) -> KeyRecord:
    """Revoke a key; servers refuse it from their next request on.

    Raises:
        UsageError: no key of that id.
    """
    with _edit_keys(file) as keys:
        return keys.pop(_find_index(keys, key_id, file))


def require_scopes(scopes: Sequence[str], origins: Sequence[str]) -> None:
    """Raise UsageError for scopes or origins that no key may have."""
    unknown_scopes = [scope for scope in scopes if scope not in SCOPES]
    if unknown_scopes or not scopes:
        raise UsageError(
            f"expected scopes among {', '.join(SCOPES)}, got "
            f"{unknown_scopes[0][:40] if unknown_scopes else 'none'!r}",
            fix="--scope write",
        )
    for origin in origins:
        if not _ORIGIN_PATTERN.match(origin):
            raise UsageError(
                f"expected an origin such as https://shop.example, got {origin[:80]!r}"
            )
    if origins and list(scopes) != [WRITE]:
        raise UsageError(
            "a key for browsers may only write: whoever opens the page can read it",
            fix="ask for answers from your own server, with a read key",
        )


def _find_index(keys: Sequence[KeyRecord], key_id: str, file: Path) -> int:
    for index, record in enumerate(keys):
        if record.id == key_id:
            return index
    raise UsageError(
        f"there is no key {key_id[:40]!r}", where=str(file), fix="tailorbird keys list shows them"
    )


@contextmanager
def _edit_keys(file: Path) -> Iterator[list[KeyRecord]]:
    """Yield the keys to be changed in place, then write them atomically under a lock."""
    try:
        folder_fd = os.open(file.parent, os.O_RDONLY)
    except OSError as error:
        raise StorageError(f"cannot be opened: {error.strerror}", where=str(file.parent)) from None
    try:
        fcntl.flock(folder_fd, fcntl.LOCK_EX)
        keys = read_keys(file)
        yield keys
        draft_path = file.with_name(f".{file.name}.new")
        try:
            draft_path.unlink(missing_ok=True)
            with open(
                os.open(draft_path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb"
            ) as draft_file:
                draft_file.write(
                    msgspec.json.format(
                        msgspec.json.encode(_KeyFile(FORMAT_VERSION, keys)), indent=1
                    )
                    + b"\n"
                )
                draft_file.flush()
                os.fsync(draft_file.fileno())
            draft_path.rename(file)
            os.fsync(folder_fd)
        except OSError as error:
            raise StorageError(
                f"cannot be written: {error.strerror}",
                where=str(file),
                fix=fix_for_os_error(error, "look at the disk"),
            ) from None
    finally:
        os.close(folder_fd)


def _hash_secret(secret: str, salt: str) -> bytes:
    return blake2b(
        secret.encode(), digest_size=32, salt=bytes.fromhex(salt), person=_HASH_PERSONALISATION
    ).digest()
