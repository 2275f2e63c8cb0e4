"""Storage of a lake or a registry: a local folder, or a prefix of an S3 bucket.

    open_storage("s3://bucket/prefix", root)   → ObjectPath; endpoint and credentials: AWS_*
    open_storage("data/lake", root)            → Path

`ObjectPath` implements the part of `pathlib.Path` that lake and registry use. An object is written
atomically, needs no sync and cannot be appended to. When two writers create one name, the storage
admits one of them (`put_new`, `put_if`). `lake.files.durable` writes to either kind.
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

TIMEOUT_S = 30  # For one request.
RETRIES = 5
RETRY_S = 60  # How long a failed request is retried.

_S3_URL = re.compile(r"s3://([a-z0-9][a-z0-9.-]{1,61}[a-z0-9])(?:/(.*))?\Z")
_PERCENT_ESCAPE = re.compile(r"%[0-9A-Fa-f]{2}")
_ENDPOINT_HINT = (
    "is it there? AWS_ENDPOINT_URL says where, the AWS_ variables with which credentials"
)
_CREDENTIALS_HINT = (
    "check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and what they may do in the bucket"
)
_UNSAFE_RENAME_VARIABLE = "AWS_S3_ALLOW_UNSAFE_RENAME"


class StaleError(OSError):
    """An object has changed since it was read, because another writer replaced it."""


class UnreachableError(StorageError, OSError):
    """The storage denied the request or did not respond."""


class ObjectStat(NamedTuple):
    """Size and modification time of an object, as `os.stat` names them."""

    st_size: int
    st_mtime: float


class Bucket:
    """One bucket, whose client is opened on first use and shared by all paths below it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._store: S3Store | None = None

    @property
    def store(self) -> "S3Store":
        if self._store is None:
            self._store = _open_store(self.name)
        return self._store

    def __getstate__(self) -> dict[str, object]:
        # A connection cannot be pickled for another process.
        return {"name": self.name, "_store": None}


class ObjectPath:
    """An object, or all objects below a prefix, as a path.

    It is immutable. Comparing and joining paths do not touch the network.

    Raises:
        FileNotFoundError, FileExistsError, StaleError, OSError: as the same operation on a disk
        would raise, from every method that uses the network.
    """

    __slots__ = ("_bucket", "key")

    def __init__(self, bucket: Bucket, key: str) -> None:
        self._bucket = bucket
        self.key = key

    def __truediv__(self, relative_path: str | PurePosixPath) -> "ObjectPath":
        return ObjectPath(
            self._bucket, f"{self.key}/{relative_path}" if self.key else str(relative_path)
        )

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
        """Return the content and the tag with which `put_if` detects a change."""
        import obstore

        with _raise_os_errors(self):
            response = obstore.get(self._bucket.store, self.key)
            return bytes(response.bytes()), response.meta["e_tag"] or ""

    def write_bytes(self, data: bytes | memoryview) -> None:
        """Write an object, replacing any existing one."""
        import obstore

        with _raise_os_errors(self):
            obstore.put(self._bucket.store, self.key, bytes(data), use_multipart=False)

    def put_new(self, data: bytes | memoryview) -> str:
        """Create an object and return its tag; raises FileExistsError if the name is taken."""
        import obstore

        with _raise_os_errors(self):
            return (
                obstore.put(
                    self._bucket.store, self.key, bytes(data), mode="create", use_multipart=False
                )["e_tag"]
                or ""
            )

    def put_if(self, data: bytes | memoryview, tag: str) -> str:
        """Replace the object that has this tag and return the new tag.

        Raises StaleError if the object has changed.
        """
        import obstore

        with _raise_os_errors(self):
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

    def stat(self) -> ObjectStat:
        import obstore

        with _raise_os_errors(self):
            meta = obstore.head(self._bucket.store, self.key)
        return ObjectStat(meta["size"], meta["last_modified"].timestamp())

    def is_file(self) -> bool:
        try:
            self.stat()
        except FileNotFoundError:
            return False
        return True

    def is_dir(self) -> bool:
        return any(True for _ in self._keys_below())

    def exists(self) -> bool:
        return self.is_file() or self.is_dir()

    def iterdir(self) -> Iterator["ObjectPath"]:
        """Yield the objects and folders directly below."""
        names = dict.fromkeys(
            key[len(self.key) + 1 if self.key else 0 :].partition("/")[0]
            for key in self._keys_below()
        )
        yield from (self / name for name in names)

    def rglob(self, pattern: str) -> Iterator["ObjectPath"]:
        """Yield the objects at any depth below whose name matches the pattern."""
        matches = [
            key for key in self._keys_below() if fnmatchcase(key.rpartition("/")[2], pattern)
        ]
        yield from (ObjectPath(self._bucket, key) for key in matches)

    def glob(self, pattern: str) -> Iterator["ObjectPath"]:
        """Yield the objects below whose path matches the pattern, part by part."""
        pattern_parts = pattern.split("/")
        for key in self._keys_below():
            key_parts = key[len(self.key) + 1 if self.key else 0 :].split("/")
            if len(key_parts) == len(pattern_parts) and all(
                map(fnmatchcase, key_parts, pattern_parts)
            ):
                yield ObjectPath(self._bucket, key)

    def unlink(self, missing_ok: bool = False) -> None:
        import obstore

        if not missing_ok:
            self.stat()
        with _raise_os_errors(self):
            obstore.delete(self._bucket.store, self.key)

    def rename(self, target: "ObjectPath") -> "ObjectPath":
        """Copy, then delete; a crash between the two leaves both objects."""
        import obstore

        with _raise_os_errors(self):
            obstore.copy(self._bucket.store, self.key, target.key)
            obstore.delete(self._bucket.store, self.key)
        return target

    def _keys_below(self) -> Iterator[str]:
        import obstore

        with _raise_os_errors(self):
            for chunk in obstore.list(self._bucket.store, f"{self.key}/" if self.key else None):
                yield from (meta["path"] for meta in chunk)


StoragePath: TypeAlias = Path | ObjectPath


def reject_percent_escapes(path: Path) -> None:
    """Raise ConfigError if Delta Lake could not store a lake at this path."""
    if _PERCENT_ESCAPE.search(str(path)):
        fix = "rename the folder: Delta Lake reads the path as a URL, and would look elsewhere"
        raise ConfigError("its data lie at a path with % and two digits", where=str(path), fix=fix)


def open_storage(uri: str, root: Path, environ: Mapping[str, str] | None = None) -> StoragePath:
    """Return the folder below `root`, or the bucket prefix of an `s3://` URI.

    Does not touch the network.

    Raises:
        ConfigError: the URI has another scheme, or the environment disables the conditional writes
            that protect a lake.

    >>> str(open_storage("s3://shop-data/tailorbird/", Path("."), {}))
    's3://shop-data/tailorbird'
    """
    environ = os.environ if environ is None else environ
    if "://" not in uri:
        return root / uri
    match = _S3_URL.match(uri)
    if match is None:
        raise ConfigError(
            f"expected a folder or s3://bucket/prefix, got {uri!r}",
            fix="other storage is reached by its S3 protocol",
        )
    if environ.get(_UNSAFE_RENAME_VARIABLE, "").lower() in ("1", "true", "yes", "on"):
        raise ConfigError(
            "lets two writers overwrite each other's commits",
            where=_UNSAFE_RENAME_VARIABLE,
            fix="unset it; this storage needs conditional writes",
        )
    return ObjectPath(Bucket(match[1]), (match[2] or "").strip("/"))


def client_options(environ: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the client options to pass besides the AWS_ variables of the environment."""
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


def _open_store(bucket: str) -> "S3Store":
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
    except Exception as error:  # Obstore raises exceptions of its own types.
        raise ConfigError(
            f"cannot be used: {_first_line(error)}",
            where=f"s3://{bucket}",
            fix="check the AWS_ variables",
        ) from None


@contextmanager
def _raise_os_errors(path: ObjectPath) -> Iterator[None]:
    """Translate storage errors to the exceptions of a disk."""
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
            "the object storage denies access", where=str(path), fix=_CREDENTIALS_HINT
        ) from error
    except BaseError as error:
        raise UnreachableError(
            f"the object storage did not answer: {_first_line(error)}",
            where=str(path),
            fix=_ENDPOINT_HINT,
        ) from error


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
