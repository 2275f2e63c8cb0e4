"""A durable, partitioned log of blocks: append, and read from a position. The promises are in
`stream.protocol`.
"""

from tailorbird.stream.embedded import EmbeddedWriter
from tailorbird.stream.opening import open_reader, open_writer
from tailorbird.stream.partitions import (
    IMPORTS,
    PAST,
    REPLAYS,
    Address,
    RawAddress,
    Share,
    Stream,
    answers_path,
    folder_of,
    is_derived,
    raw_address,
    raw_addresses,
    raw_logs,
    raw_names,
    raw_path,
    response_log_address,
    response_log_addresses,
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
    "IMPORTS",
    "PAST",
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
    "answers_path",
    "folder_of",
    "is_derived",
    "open_reader",
    "open_writer",
    "raw_address",
    "raw_addresses",
    "raw_logs",
    "raw_names",
    "raw_path",
    "read_history_end",
    "read_released",
    "response_log_address",
    "response_log_addresses",
    "response_logs",
    "routed_address",
    "routed_path",
    "router_share",
    "scores_path",
    "set_aside_files",
]
