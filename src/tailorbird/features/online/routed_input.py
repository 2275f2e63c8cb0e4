"""The log that a worker reads: where it starts, and what of it only the lake has."""

from tailorbird.errors import NotReadyError
from tailorbird.features.featureset import FeatureSet
from tailorbird.features.online.receipts import is_only_in_lake
from tailorbird.stream import Address, LogReader, log_address, open_reader


class RoutedInput:
    """The router's log, or the shuffle's log for a part; it need not exist yet.

    An `offset` is the next row of the state.
    """

    def __init__(self, address: Address, features: FeatureSet) -> None:
        self.address = address
        self._features = features
        self._reader: LogReader | None = None
        self._is_truncated = self._maybe_lags = False

    def open(self, offset: int) -> LogReader | None:
        """Return the reader of the log, or None while there is no log."""
        if self._reader is None:
            try:
                self._reader = open_reader(self.address)
                self._is_truncated = self.has_gap(offset)
                self._maybe_lags = log_address(self.address).is_derived
            except NotReadyError:  # There is no router yet, or it is creating its file.
                return None
        return self._reader

    def start(self, offset: int) -> int:
        """Return the first row that the log still has."""
        reader = self.open(offset)
        return 0 if reader is None else reader.start()

    def has_gap(self, offset: int) -> bool:
        """Return whether what comes next was deleted from the log."""
        return max(offset, 1) < self.start(offset)

    def is_truncated(self, offset: int) -> bool:
        """Return whether the log had a gap when it was opened, and still has."""
        self._is_truncated = self._is_truncated and self.has_gap(offset)
        return self._is_truncated

    def lags(self, reader: LogReader, offset: int) -> bool:
        """Return whether the shuffle has yet to reach the position of the state.

        That is so if the state was built from the lake or the routed log, as after an erasure.
        """
        self._maybe_lags = self._maybe_lags and reader.end() < offset
        return self._maybe_lags

    def is_next_only_in_lake(self, offset: int) -> bool:
        """Return whether what comes next was routed before an attribute was declared."""
        reader = self.open(offset)
        if reader is None or self.lags(reader, offset):
            return False
        blocks = reader.read(offset, bytes_max=1)
        return any(is_only_in_lake(stored.block, self._features) for stored in blocks)

    def close(self) -> None:
        if self._reader is not None:
            self._reader.close()
            self._reader = None
