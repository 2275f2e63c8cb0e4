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
    IMPORTS,
    REPLAYS,
    Address,
    RawAddress,
    Stream,
    raw_logs,
    raw_path,
    response_log_path,
    response_logs,
    routed_path,
    scores_path,
    set_aside_files,
)
from tailorbird.stream.protocol import Block, LogReader, LogWriter, RawWriter, StoredBlock
from tailorbird.stream.reading import EmbeddedReader
from tailorbird.stream.released import (
    ReleasedPositions,
    read_history_end,
    read_prunable,
    read_released,
)

__all__ = [
    "HISTORICAL_PRODUCERS",
    "IMPORTS",
    "REPLAYS",
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
    "log_address",
    "log_set",
    "open_reader",
    "open_writer",
    "raw_logs",
    "raw_path",
    "read_history_end",
    "read_prunable",
    "read_released",
    "response_log_path",
    "response_logs",
    "routed_path",
    "scores_path",
    "set_aside_files",
]
