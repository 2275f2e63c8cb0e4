"""The logs that feed the lake, each opened once. Logs that do not exist yet are left out."""

from collections.abc import Mapping

from tailorbird.errors import NotReadyError
from tailorbird.stream import Address, LogReader, StoredBlock, Stream, log_set, open_reader

ROUTED = "routed"
_BATCH_BYTES = 256 << 20


class Feeds:
    """Open readers of the logs of a stream. Close it after use."""

    def __init__(self, stream: Stream) -> None:
        self._logs = log_set(stream)
        self._readers: dict[Address, LogReader] = {}

    @property
    def raw_logs(self) -> dict[str, Address]:
        """Raw logs, by producer."""
        return self._existing_logs(self._logs.raw_logs())

    @property
    def response_logs(self) -> dict[str, Address]:
        """Logs of answers, by producer."""
        return self._existing_logs(self._logs.response_logs())

    @property
    def routed_log(self) -> dict[str, Address]:
        """The routed log, or nothing."""
        return self._existing_logs({ROUTED: self._logs.routed})

    def _existing_logs(self, logs: Mapping[str, Address]) -> dict[str, Address]:
        """Return the logs that exist; one that is just being created comes with the next step."""
        existing: dict[str, Address] = {}
        for name, path in logs.items():
            try:
                self.reader(path)
            except NotReadyError:
                continue
            existing[name] = path
        return existing

    def reader(self, path: Address) -> LogReader:
        """Return the open reader of a log. Raises NotReadyError if there is none."""
        if path not in self._readers:
            self._readers[path] = open_reader(path)
        return self._readers[path]

    def has_rows_from(self, positions: Mapping[str, int]) -> bool:
        """Return whether the logs still have the rows from these positions on."""
        for log, position in positions.items():
            if log == "ledger":
                continue
            by_stem = {
                path.stem: path
                for path in (*self._logs.raw_logs().values(), *self._logs.response_logs().values())
            }
            path = by_stem.get(log) if log != ROUTED else self._logs.routed
            if (
                path is None
                or not self._existing_logs({log: path})
                or self.reader(path).start() > max(position, 1)
            ):
                return False
        return True

    def changed(self) -> bool:
        """Return whether any log may have grown since the last call; cheap enough to poll."""
        addresses = [
            path
            for logs in (self.raw_logs, self.response_logs, self.routed_log)
            for path in logs.values()
        ]
        return (
            sum(self.reader(path).changed() for path in addresses) > 0
        )  # Not any(…), because each reader must be called.

    def close(self) -> None:
        """Close the logs; harmless when already closed."""
        for reader in self._readers.values():
            reader.close()
        self._readers.clear()


def read_blocks(reader: LogReader, start: int, rows_max: int) -> list[StoredBlock]:
    """Read blocks of a log from a position on, about `rows_max` rows and 256 MiB at most."""
    blocks: list[StoredBlock] = []
    rows = size = 0
    while rows < rows_max and size < _BATCH_BYTES:
        next_blocks = reader.read(start)
        if not next_blocks:
            break
        for stored in next_blocks:
            if rows >= rows_max:
                return blocks
            blocks.append(stored)
            rows += stored.block.rows
            size += len(stored.block.payload)
        start = next_blocks[-1].end
    return blocks
