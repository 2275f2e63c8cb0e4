"""A durable, partitioned log of blocks: append, and read from a position. The promises are in `stream.protocol`."""

from tailorbird.stream.embedded import EmbeddedWriter
from tailorbird.stream.opening import open_reader, open_writer
from tailorbird.stream.partitions import IMPORTS, PAST, REPLAYS, answer_logs, answers_path, raw_logs, raw_path, routed_path, set_aside_files
from tailorbird.stream.protocol import Block, LogReader, LogWriter, Stored
from tailorbird.stream.reading import EmbeddedReader
from tailorbird.stream.released import Released, read_released

__all__ = [
    "IMPORTS",
    "PAST",
    "REPLAYS",
    "Block",
    "EmbeddedReader",
    "EmbeddedWriter",
    "LogReader",
    "LogWriter",
    "Released",
    "Stored",
    "answer_logs",
    "answers_path",
    "open_reader",
    "open_writer",
    "raw_logs",
    "raw_path",
    "read_released",
    "routed_path",
    "set_aside_files",
]
