"""The logs that feed the lake, each opened once. Logs that do not exist yet are left out."""

from collections.abc import Mapping

from tailorbird.errors import NotReadyError
from tailorbird.stream import Address, LogReader, StoredBlock, Stream, log_set, open_reader

ROUTED_LOG = "routed"
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
        return self._existing_logs({ROUTED_LOG: self._logs.routed})

    def _existing_logs(self, logs: Mapping[str, Address]) -> dict[str, Address]:
        """Return the logs that exist; one that is just being created comes with the next step."""
        existing_logs: dict[str, Address] = {}
        for name, address in logs.items():
            try:
                self.reader(address)
            except NotReadyError:
                continue
            existing_logs[name] = address
        return existing_logs

    def reader(self, address: Address) -> LogReader:
        """Return the open reader of a log. Raises NotReadyError if there is none."""
        if address not in self._readers:
            self._readers[address] = open_reader(address)
        return self._readers[address]

    def has_rows_from(self, positions: Mapping[str, int]) -> bool:
        """Return whether the logs still have the rows from these positions on."""
        for log, position in positions.items():
            if log == "ledger":
                continue
            address_by_stem = {
                address.stem: address
                for address in (
                    *self._logs.raw_logs().values(),
                    *self._logs.response_logs().values(),
                )
            }
            address = address_by_stem.get(log) if log != ROUTED_LOG else self._logs.routed
            if (
                address is None
                or not self._existing_logs({log: address})
                or self.reader(address).start() > max(position, 1)
            ):
                return False
        return True

    def may_have_grown(self) -> bool:
        """Return whether any log may have grown since the last call; cheap enough to poll."""
        addresses = [
            address
            for logs in (self.raw_logs, self.response_logs, self.routed_log)
            for address in logs.values()
        ]
        return (
            sum(self.reader(address).has_changed() for address in addresses) > 0
        )  # Not any(…), because each reader must be called.

    def close(self) -> None:
        """Close the logs; harmless when already closed."""
        for reader in self._readers.values():
            reader.close()
        self._readers.clear()


def read_blocks(reader: LogReader, start: int, rows_max: int) -> list[StoredBlock]:
    """Read blocks of a log from a position on, about `rows_max` rows and 256 MiB at most."""
    blocks: list[StoredBlock] = []
    row_count = byte_count = 0
    while row_count < rows_max and byte_count < _BATCH_BYTES:
        next_blocks = reader.read(start)
        if not next_blocks:
            break
        for stored_block in next_blocks:
            if row_count >= rows_max:
                return blocks
            blocks.append(stored_block)
            row_count += stored_block.block.rows
            byte_count += len(stored_block.block.payload)
        start = next_blocks[-1].end
    return blocks
