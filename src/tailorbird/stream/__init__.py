"""A durable, partitioned log of blocks: append, and read from a position. The promises are in
`stream.protocol`.
"""

from tailorbird.stream.embedded import EmbeddedWriter
from tailorbird.stream.opening import open_reader, open_writer
from tailorbird.stream.partitions import (
    HISTORICAL_PRODUCERS,
    IMPORTS,
    REPLAYS,
    Address,
    RawAddress,
    Share,
    Stream,
    is_derived,
    local_folder,
    raw_address,
    raw_addresses,
    raw_log_names,
    raw_logs,
    raw_path,
    response_log_address,
    response_log_addresses,
    response_log_path,
    response_logs,
    routed_address,
    routed_path,
    router_share,
    scores_path,
    set_aside_files,
)
from tailorbird.stream.protocol import Block, LogReader, LogWriter, StoredBlock
from tailorbird.stream.reading import EmbeddedReader
from tailorbird.stream.released import Released, read_history_end, read_released

__all__ = [
    "HISTORICAL_PRODUCERS",
    "IMPORTS",
    "REPLAYS",
    "Address",
    "Block",
    "EmbeddedReader",
    "EmbeddedWriter",
    "LogReader",
    "LogWriter",
    "RawAddress",
    "Released",
    "Share",
    "StoredBlock",
    "Stream",
    "is_derived",
    "local_folder",
    "open_reader",
    "open_writer",
    "raw_address",
    "raw_addresses",
    "raw_log_names",
    "raw_logs",
    "raw_path",
    "read_history_end",
    "read_released",
    "response_log_address",
    "response_log_addresses",
    "response_log_path",
    "response_logs",
    "routed_address",
    "routed_path",
    "router_share",
    "scores_path",
    "set_aside_files",
]
