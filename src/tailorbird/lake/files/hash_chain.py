"""A tamper-evident file of JSON lines: each line ends with a checksum of everything before it.

    {"n":7, …, "chain":"<sha256>"}
    chain(n) = SHA-256(chain(n-1) ‖ the bytes of line n before `,"chain":`)

A changed, moved or removed line shows, except for complete lines missing at the end. A caller that
must detect those stores the number of lines elsewhere.
"""

import hashlib
from collections.abc import Iterable

from tailorbird.errors import DamageError
from tailorbird.lake.files.append_only import open_tail
from tailorbird.storage_paths import StoragePath

_KEY = b',"chain":"'
_TAIL = len(_KEY) + 64 + len(b'"}')


class ChainedFile:
    """Appends lines and syncs each one.

    Args:
        origin: a text that names the kind of file; the first line's checksum starts from it.
        writer: drop a torn last line, which was never acknowledged.

    Attributes:
        bodies: the lines at the time of opening, checked, without their checksums.

    Raises:
        DamageError: a line does not match its checksum.
    """

    def __init__(self, path: StoragePath, origin: str, *, writer: bool = False) -> None:
        self.path, self._origin = path, origin
        self._chain = hashlib.sha256(origin.encode()).hexdigest()
        self._lines = 0
        self._tail = open_tail(path)
        data = self._tail.data
        self._tail.data = b""
        complete_lines = data[: data.rfind(b"\n") + 1]
        self.bodies = [self._check(raw) for raw in complete_lines.split(b"\n")[:-1]]
        if writer and len(complete_lines) < len(data):
            self._tail.truncate(complete_lines)

    def _check(self, raw: bytes) -> bytes:
        body, tail = raw[:-_TAIL], raw[-_TAIL:]
        chain = self._next_hash(body)
        if tail != _KEY + chain.encode() + b'"}':
            raise self.corrupt_line(
                self._lines,
                "does not match its checksum: it or a line before it was changed, moved or removed",
            )
        self._chain = chain
        self._lines += 1
        return body + b"}"

    def append(self, body: bytes) -> None:
        """Append an object, given as JSON without spaces, and sync it."""
        chain = self._next_hash(body[:-1])
        self._tail.append(body[:-1] + _KEY + chain.encode() + b'"}\n')
        self._chain = chain
        self._lines += 1

    def replace(self, bodies: Iterable[bytes]) -> None:
        """Replace all lines atomically; the chain starts again."""
        self._chain, self._lines = hashlib.sha256(self._origin.encode()).hexdigest(), 0
        lines: list[bytes] = []
        for body in bodies:
            self._chain = self._next_hash(body[:-1])
            self._lines += 1
            lines.append(body[:-1] + _KEY + self._chain.encode() + b'"}\n')
        self._tail.replace(b"".join(lines))

    @property
    def chain(self) -> str:
        """The checksum of the entire file."""
        return self._chain

    def corrupt_line(self, number: int, what: str) -> DamageError:
        """Return the error for a line, counted from 0."""
        return DamageError(
            what,
            where=f"{self.path}:{number + 1}",
            fix="restore the file from a copy; nothing else was touched",
        )

    def _next_hash(self, body: bytes) -> str:
        return hashlib.sha256(self._chain.encode() + body).hexdigest()
