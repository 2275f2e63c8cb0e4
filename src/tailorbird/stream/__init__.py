"""A durable, partitioned log of blocks: append, and read from a position. The promises are in
`stream.protocol`.
"""

from tailorbird.stream.embedded import EmbeddedWriter
from tailorbird.stream.log_set import (
    FileLog,
    FileLogSet,
    LogAddress,
    LogSet,
    LogShare,
    log_address,
    log_set,
)
from tailorbird.stream.opening import open_reader, open_writer
from tailorbird.stream.partitions import (
    HISTORICAL_PRODUCERS,
    IMPORT_PRODUCER,
    REPLAY_PRODUCER,
    Address,
    RawAddress,
    Stream,
    damaged_tail_files,
    raw_logs,
    raw_path,
    response_log_path,
    response_logs,
    routed_path,
    scores_path,
)
from tailorbird.stream.protocol import Block, LogReader, LogWriter, RawWriter, StoredBlock
from tailorbird.stream.reading import EmbeddedReader
from tailorbird.stream.released import (
    ReleasedPositions,
    read_history_end,
    read_prunable_positions,
    read_released_positions,
)

__all__ = [
    "HISTORICAL_PRODUCERS",
    "IMPORT_PRODUCER",
    "REPLAY_PRODUCER",
    "Address",
    "Block",
    "EmbeddedReader",
    "EmbeddedWriter",
    "FileLog",
    "FileLogSet",
    "LogAddress",
    "LogReader",
    "LogSet",
    "LogShare",
    "LogWriter",
    "RawAddress",
    "RawWriter",
    "ReleasedPositions",
    "StoredBlock",
    "Stream",
    "damaged_tail_files",
    "log_address",
    "log_set",
    "open_reader",
    "open_writer",
    "raw_logs",
    "raw_path",
    "read_history_end",
    "read_prunable_positions",
    "read_released_positions",
    "response_log_path",
    "response_logs",
    "routed_path",
    "scores_path",
]
