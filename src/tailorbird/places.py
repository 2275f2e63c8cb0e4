"""Where a lake or a registry is: a folder of this machine, or the objects below a prefix of a
bucket that speaks S3's protocol.

    place_of("s3://bucket/prefix", root)   → ObjectPath; address and credentials by AWS_ variables
    place_of("data/lake", root)            → Path

An `ObjectPath` has the part of `pathlib.Path` that lake and registry use, so that both read alike.
What differs is said where it matters: an object is there whole or not at all, nothing has to be
synced, nothing can be appended to, and of two writers of one name the storage itself lets one
through (`put_new`, `put_if`). How the lake writes on either is `lake.durable`.
"""

import errno
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from tailorbird.errors import ConfigError, NotReadyError, StorageError

if TYPE_CHECKING:
    from obstore.store import S3Store

TIMEOUT_S = 30  # of one request
RETRIES = 5
RETRY_S = 60  # for which a request that failed is tried again

_URL = re.compile(r"s3://([a-z0-9][a-z0-9.-]{1,61}[a-z0-9])(?:/(.*))?\Z")
_ESCAPED = re.compile(r"%[0-9A-Fa-f]{2}")
_ADDRESS = "is it there? AWS_ENDPOINT_URL says where, the AWS_ variables with which credentials"
_CREDENTIALS = "check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and what they may do in the bucket"
_UNSAFE = "AWS_S3_ALLOW_UNSAFE_RENAME"


class StaleError(OSError):
    """An object is no longer the one that was read: somebody else wrote it."""


class UnreachableError(StorageError, OSError):
    """The storage refused, or did not answer."""


class Stat(NamedTuple):
    """What a listing says of an object."""

    st_size: int
    st_mtime: float


class Bucket:
    """One bucket, opened when it is first used; shared by all paths below it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._store: S3Store | None = None

    @property
    def store(self) -> "S3Store":
        if self._store is None:
            self._store = _open(self.name)
        return self._store

    def __getstate__(self) -> dict[str, object]:
        return {
            "name": self.name,
            "_store": None,
        }  # a connection does not travel to another process


class ObjectPath:
    """An object, or all objects below it, as a path. Immutable; comparing and joining touch no
    network.

    Raises:
        FileNotFoundError, FileExistsError, StaleError, OSError: as the same on a disk would, from
        all that touches the network.
    """

    __slots__ = ("_bucket", "key")

    def __init__(self, bucket: Bucket, key: str) -> None:
        self._bucket = bucket
        self.key = key

    def __truediv__(self, below: str | PurePosixPath) -> "ObjectPath":
        return ObjectPath(self._bucket, f"{self.key}/{below}" if self.key else str(below))

    def __str__(self) -> str:
        return f"s3://{self._bucket.name}/{self.key}" if self.key else f"s3://{self._bucket.name}"

    def __repr__(self) -> str:
        return f"ObjectPath({str(self)!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ObjectPath) and str(self) == str(other)

    def __hash__(self) -> int:
        return hash(str(self))

    def __lt__(self, other: "ObjectPath") -> bool:
        return str(self) < str(other)

    @property
    def name(self) -> str:
        return self.key.rpartition("/")[2]

    @property
    def suffix(self) -> str:
        return PurePosixPath(self.name).suffix

    @property
    def parent(self) -> "ObjectPath":
        return ObjectPath(self._bucket, self.key.rpartition("/")[0])

    def with_name(self, name: str) -> "ObjectPath":
        return self.parent / name

    def with_suffix(self, suffix: str) -> "ObjectPath":
        return self.with_name(PurePosixPath(self.name).with_suffix(suffix).name)

    def relative_to(self, other: "ObjectPath") -> PurePosixPath:
        return PurePosixPath(self.key).relative_to(other.key)

    def as_posix(self) -> str:
        return str(self)

    def read_bytes(self) -> bytes:
        return self.read_tagged()[0]

    def read_tagged(self) -> tuple[bytes, str]:
        """The content, and the tag by which `put_if` knows whether it is still the same."""
        import obstore

        with _as_disk(self):
            found = obstore.get(self._bucket.store, self.key)
            return bytes(found.bytes()), found.meta["e_tag"] or ""

    def write_bytes(self, data: bytes | memoryview) -> None:
        """Put an object there, whatever was there before."""
        import obstore

        with _as_disk(self):
            obstore.put(self._bucket.store, self.key, bytes(data), use_multipart=False)

    def put_new(self, data: bytes | memoryview) -> str:
        """Put an object of a new name; its tag. Raises FileExistsError if there is one."""
        import obstore

        with _as_disk(self):
            return (
                obstore.put(
                    self._bucket.store, self.key, bytes(data), mode="create", use_multipart=False
                )["e_tag"]
                or ""
            )

    def put_if(self, data: bytes | memoryview, tag: str) -> str:
        """Put an object in the place of the one that has this tag; the new one's tag. Raises
        StaleError if another is there.
        """
        import obstore

        with _as_disk(self):
            return (
                obstore.put(
                    self._bucket.store,
                    self.key,
                    bytes(data),
                    mode={"e_tag": tag},
                    use_multipart=False,
                )["e_tag"]
                or ""
            )

    def stat(self) -> Stat:
        import obstore

        with _as_disk(self):
            meta = obstore.head(self._bucket.store, self.key)
        return Stat(meta["size"], meta["last_modified"].timestamp())

    def is_file(self) -> bool:
        try:
            self.stat()
        except FileNotFoundError:
            return False
        return True

    def is_dir(self) -> bool:
        return any(True for _ in self._below())

    def exists(self) -> bool:
        return self.is_file() or self.is_dir()

    def iterdir(self) -> Iterator["ObjectPath"]:
        """What is directly below, objects and folders of objects."""
        names = dict.fromkeys(
            key[len(self.key) + 1 if self.key else 0 :].partition("/")[0] for key in self._below()
        )
        yield from (self / name for name in names)

    def rglob(self, pattern: str) -> Iterator["ObjectPath"]:
        """Objects at any depth below whose name is like the pattern."""
        found = [key for key in self._below() if fnmatchcase(key.rpartition("/")[2], pattern)]
        yield from (ObjectPath(self._bucket, key) for key in found)

    def glob(self, pattern: str) -> Iterator["ObjectPath"]:
        """Objects below whose path is like the pattern, part by part."""
        parts = pattern.split("/")
        for key in self._below():
            below = key[len(self.key) + 1 if self.key else 0 :].split("/")
            if len(below) == len(parts) and all(map(fnmatchcase, below, parts)):
                yield ObjectPath(self._bucket, key)

    def unlink(self, missing_ok: bool = False) -> None:
        import obstore

        if not missing_ok:
            self.stat()
        with _as_disk(self):
            obstore.delete(self._bucket.store, self.key)

    def rename(self, target: "ObjectPath") -> "ObjectPath":
        """Copy, then delete: a crash between the two leaves both."""
        import obstore

        with _as_disk(self):
            obstore.copy(self._bucket.store, self.key, target.key)
            obstore.delete(self._bucket.store, self.key)
        return target

    def _below(self) -> Iterator[str]:
        import obstore

        with _as_disk(self):
            for chunk in obstore.list(self._bucket.store, f"{self.key}/" if self.key else None):
                yield from (meta["path"] for meta in chunk)


Storage: TypeAlias = Path | ObjectPath


def require_plain_path(path: Path) -> None:
    """Raise ConfigError where a lake could not lie at a path."""
    if _ESCAPED.search(str(path)):
        fix = "rename the folder: Delta Lake reads the path as a URL, and would look elsewhere"
        raise ConfigError("its data lie at a path with % and two digits", where=str(path), fix=fix)


def open_storage(address: str, root: Path, environ: Mapping[str, str] | None = None) -> Storage:
    """A folder below `root`, or with `s3://` a prefix of a bucket. Touches no network.

    Raises:
        ConfigError: an address of another kind, no library for it, or an environment that would
            give up what keeps a lake whole.

    >>> str(place_of("s3://shop-data/tailorbird/", Path("."), {}))
    's3://shop-data/tailorbird'
    """
    environ = os.environ if environ is None else environ
    if "://" not in address:
        return root / address
    match = _URL.match(address)
    if match is None:
        raise ConfigError(
            f"expected a folder or s3://bucket/prefix, got {address!r}",
            fix="other storage is reached by its S3 protocol",
        )
    if environ.get(_UNSAFE, "").lower() in ("1", "true", "yes", "on"):
        raise ConfigError(
            "lets two writers overwrite each other's commits",
            where=_UNSAFE,
            fix="unset it; this storage needs conditional writes",
        )
    return ObjectPath(Bucket(match[1]), (match[2] or "").strip("/"))


def client_options(environ: Mapping[str, str] | None = None) -> dict[str, str]:
    """What a client of the storage is told besides the environment's AWS_ variables."""
    environ = os.environ if environ is None else environ
    endpoint = (
        environ.get("AWS_ENDPOINT_URL_S3")
        or environ.get("AWS_ENDPOINT_URL")
        or environ.get("AWS_ENDPOINT")
        or ""
    )
    options = {
        "timeout": f"{TIMEOUT_S}s",
        "max_retries": str(RETRIES),
        "retry_timeout": f"{RETRY_S}s",
        "aws_conditional_put": "etag",
    }
    if endpoint:
        options["aws_endpoint"] = endpoint
    if endpoint.startswith("http://"):
        options["allow_http"] = "true"
    if not (environ.get("AWS_REGION") or environ.get("AWS_DEFAULT_REGION")):
        options["aws_region"] = "us-east-1"
    return options


def _open(bucket: str) -> "S3Store":
    try:
        from obstore.store import S3Store
    except ImportError:
        raise NotReadyError(
            "the library that speaks to object storage is not installed",
            fix="pip install 'tailorbird[s3]'",
        ) from None
    options = client_options()
    try:
        return S3Store(
            bucket,
            client_options={
                "timeout": timedelta(seconds=TIMEOUT_S),
                "allow_http": "allow_http" in options,
            },
            retry_config={"max_retries": RETRIES, "retry_timeout": timedelta(seconds=RETRY_S)},
            **{
                name.removeprefix("aws_"): value
                for name, value in options.items()
                if name in ("aws_endpoint", "aws_region")
            },
        )
    except Exception as error:  # obstore raises its own
        raise ConfigError(
            f"cannot be used: {_short(error)}",
            where=f"s3://{bucket}",
            fix="check the AWS_ variables",
        ) from None


@contextmanager
def _as_disk(path: ObjectPath) -> Iterator[None]:
    """Raise what a disk would raise."""
    from obstore.exceptions import (
        AlreadyExistsError,
        BaseError,
        PermissionDeniedError,
        PreconditionError,
        UnauthenticatedError,
    )

    try:
        yield
    except FileNotFoundError as error:
        raise FileNotFoundError(errno.ENOENT, "there is no such object", str(path)) from error
    except AlreadyExistsError as error:
        raise FileExistsError(errno.EEXIST, "there is such an object", str(path)) from error
    except PreconditionError as error:
        raise StaleError(errno.ESTALE, "the object is another one by now", str(path)) from error
    except (PermissionDeniedError, UnauthenticatedError) as error:
        raise UnreachableError(
            "the object storage denies access", where=str(path), fix=_CREDENTIALS
        ) from error
    except BaseError as error:
        raise UnreachableError(
            f"the object storage did not answer: {_short(error)}", where=str(path), fix=_ADDRESS
        ) from error


def _short(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
