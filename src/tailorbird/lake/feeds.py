"""The logs that the lake is fed from: each opened once, those that are not made yet left out, some
rows at a time.
"""

from collections.abc import Mapping

from tailorbird.errors import NotReadyError
from tailorbird.stream import (
    Address,
    LogReader,
    Stored,
    Stream,
    answers_addresses,
    open_reader,
    raw_addresses,
    routed_address,
)

ROUTED = "routed"
_BATCH_BYTES = 256 << 20


class Feeds:
    """The logs of a stream, by name, as their reader finds them now. Close it."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._readers: dict[Address, LogReader] = {}

    @property
    def raw(self) -> dict[str, Address]:
        """Raw logs, by producer."""
        return self._made(raw_addresses(self._stream))

    @property
    def answers(self) -> dict[str, Address]:
        """Logs of answers, by producer."""
        return self._made(answers_addresses(self._stream))

    @property
    def routed(self) -> dict[str, Address]:
        """The routed log, or nothing."""
        return self._made({ROUTED: routed_address(self._stream)})

    def _made(self, logs: Mapping[str, Address]) -> dict[str, Address]:
        """Those of the logs that are there; one whose writer is just making it comes with the next
        step.
        """
        found: dict[str, Address] = {}
        for name, path in logs.items():
            try:
                self.reader(path)
            except NotReadyError:
                continue
            found[name] = path
        return found

    def reader(self, path: Address) -> LogReader:
        """A log, open. Raises NotReadyError where there is none."""
        if path not in self._readers:
            self._readers[path] = open_reader(path)
        return self._readers[path]

    def hold(self, positions: Mapping[str, int]) -> bool:
        """Whether the logs still have the rows from these positions on."""
        for log, position in positions.items():
            if log == "ledger":
                continue
            named = {
                path.stem: path
                for path in (
                    *raw_addresses(self._stream).values(),
                    *answers_addresses(self._stream).values(),
                )
            }
            path = named.get(log) if log != ROUTED else routed_address(self._stream)
            if (
                path is None
                or not self._made({log: path})
                or self.reader(path).start() > max(position, 1)
            ):
                return False
        return True

    def changed(self) -> bool:
        """Whether any log may have more than at the last call; cheap enough to poll."""
        found = [path for logs in (self.raw, self.answers, self.routed) for path in logs.values()]
        return (
            sum(self.reader(path).changed() for path in found) > 0
        )  # not any(…): each must be asked

    def close(self) -> None:
        """Let go of the logs; harmless when already closed."""
        for reader in self._readers.values():
            reader.close()
        self._readers.clear()


def read_some(reader: LogReader, start: int, rows_max: int) -> list[Stored]:
    """The blocks of a log from a position on, at most about so many rows and what memory takes."""
    blocks: list[Stored] = []
    rows = size = 0
    while rows < rows_max and size < _BATCH_BYTES:
        more = reader.read(start)
        if not more:
            break
        for stored in more:
            if rows >= rows_max:
                return blocks
            blocks.append(stored)
            rows += stored.block.rows
            size += len(stored.block.payload)
        start = more[-1].end
    return blocks
