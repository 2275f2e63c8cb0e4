"""Other formats: each adapter turns files into events of the wire format. How they get into the log stands in `stream.importer`."""

from tailorbird.events.adapters import mapping, metarank, movielens, own
from tailorbird.events.adapters.batch import Adapter, AdapterOptions, Batch
from tailorbird.events.adapters.files import digest_files, find_files
from tailorbird.events.adapters.guess import ColumnGuess, SourceGuess, guess_source

# format → (reads it, which files of a folder it looks at)
FORMATS: dict[str, tuple[Adapter, tuple[str, ...]]] = {
    "tailorbird": (own.read_own, own.PATTERNS),
    "metarank": (metarank.read_metarank, metarank.PATTERNS),
    "movielens": (movielens.read_movielens, movielens.PATTERNS),
    "mapping": (mapping.read_mapping, mapping.PATTERNS),
}

__all__ = ["FORMATS", "Adapter", "AdapterOptions", "Batch", "ColumnGuess", "SourceGuess", "digest_files", "find_files", "guess_source"]
