"""Adapters: turn files of other formats into events of the wire format.

`stream.importer` writes them to the log.

`import_formats` is the table of the formats. Those with self-contained records also have a function
`convert(record, location)`, by which refused records of a file are converted again. The collector
has its own converters for some formats (`adapters.webhook`), since a client may state less than a
file.
"""

from tailorbird.events.adapters.batch import Adapter, AdapterOptions, Batch, FormatAdapter
from tailorbird.events.adapters.recognise import list_importable_files, recognise_format
from tailorbird.events.adapters.record import Convert
from tailorbird.events.adapters.registry import CONVERTERS, FORMATS
from tailorbird.events.tables.files import digest_files, find_files

__all__ = [
    "CONVERTERS",
    "FORMATS",
    "Adapter",
    "AdapterOptions",
    "Batch",
    "Convert",
    "FormatAdapter",
    "digest_files",
    "find_files",
    "list_importable_files",
    "recognise_format",
]
