"""A tamper-evident file of JSON lines: each line ends with a checksum of everything before it.

    {"n":7, …, "chain":"<sha256>"}
    chain(n) = SHA-256(chain(n-1) ‖ the bytes of line n before `,"chain":`)

A changed, moved or removed line shows, except for complete lines missing at the end. A caller that
must detect those stores the number of lines elsewhere.
"""

import hashlib
from collections.abc import Iterable

from tailorbird.errors import DamageError
from tailorbird.lake.files.append_only import open_append_only
from tailorbird.storage_paths import StoragePath

_CHAIN_KEY = b',"chain":"'
_CHAIN_SUFFIX_LENGTH = len(_CHAIN_KEY) + 64 + len(b'"}')


class HashChainedFile:
    """Appends lines and syncs each one.

    Args:
        origin: a text that names the kind of file; the first line's checksum starts from it.
        for_writing: drop a torn last line, which was never acknowledged.

    Attributes:
        json_lines: the lines at the time of opening, checked, without their checksums.

    Raises:
        DamageError: a line does not match its checksum.
    """

    def __init__(self, path: StoragePath, origin: str, *, for_writing: bool = False) -> None:
        self.path = path
        self._origin = origin
        self._chain = hashlib.sha256(origin.encode()).hexdigest()
        self._line_count = 0
        self._file = open_append_only(path)
        data = self._file.data
        self._file.data = b""
        complete_lines = data[: data.rfind(b"\n") + 1]
        self.json_lines = [self._check_line(line) for line in complete_lines.split(b"\n")[:-1]]
        if for_writing and len(complete_lines) < len(data):
            self._file.truncate(complete_lines)

    def _check_line(self, line: bytes) -> bytes:
        body = line[:-_CHAIN_SUFFIX_LENGTH]
        chain_suffix = line[-_CHAIN_SUFFIX_LENGTH:]
        chain = self._next_hash(body)
        if chain_suffix != _CHAIN_KEY + chain.encode() + b'"}':
            raise self.corrupt_line_error(
                self._line_count,
                "does not match its checksum: it or a line before it was changed, moved or removed",
            )
        self._chain = chain
        self._line_count += 1
        return body + b"}"

    def append(self, body: bytes) -> None:
        """Append an object, given as JSON without spaces, and sync it."""
        chain = self._next_hash(body[:-1])
        self._file.append(body[:-1] + _CHAIN_KEY + chain.encode() + b'"}\n')
        self._chain = chain
        self._line_count += 1

    def replace(self, bodies: Iterable[bytes]) -> None:
        """Replace all lines atomically; the chain starts again."""
        self._chain = hashlib.sha256(self._origin.encode()).hexdigest()
        self._line_count = 0
        lines: list[bytes] = []
        for body in bodies:
            self._chain = self._next_hash(body[:-1])
            self._line_count += 1
            lines.append(body[:-1] + _CHAIN_KEY + self._chain.encode() + b'"}\n')
        self._file.replace(b"".join(lines))

    @property
    def checksum(self) -> str:
        """The checksum of the entire file."""
        return self._chain

    def corrupt_line_error(self, number: int, problem: str) -> DamageError:
        """Return the error for a line, counted from 0."""
        return DamageError(
            problem,
            where=f"{self.path}:{number + 1}",
            fix="restore the file from a copy; nothing else was touched",
        )

    def _next_hash(self, body: bytes) -> str:
        return hashlib.sha256(self._chain.encode() + body).hexdigest()
