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
    answer_logs,
    answers_address,
    answers_addresses,
    answers_path,
    folder_of,
    is_made_of_another,
    raw_address,
    raw_addresses,
    raw_logs,
    raw_names,
    raw_path,
    routed_address,
    routed_path,
    router_share,
    scores_path,
    set_aside_files,
)
from tailorbird.stream.protocol import Block, LogReader, LogWriter, Stored
from tailorbird.stream.reading import EmbeddedReader
from tailorbird.stream.released import Released, end_of_history, read_released

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
    "Stored",
    "Stream",
    "answer_logs",
    "answers_address",
    "answers_addresses",
    "answers_path",
    "end_of_history",
    "folder_of",
    "is_made_of_another",
    "open_reader",
    "open_writer",
    "raw_address",
    "raw_addresses",
    "raw_logs",
    "raw_names",
    "raw_path",
    "read_released",
    "routed_address",
    "routed_path",
    "router_share",
    "scores_path",
    "set_aside_files",
]
