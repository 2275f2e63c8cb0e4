"""Adapters: turn files of other formats into events of the wire format.

`stream.importer` writes them to the log.

Formats with self-contained records also have a function `convert(record, place)` (`CONVERTERS`),
by which refused records of a file are converted again. The collector has its own converters for
some formats (`adapters.webhook`), since a client may state less than a file.
"""

from tailorbird.events.adapters import (
    cloudevents,
    ga4,
    gorse,
    instacart,
    mapping,
    metarank,
    mind,
    movielens,
    own,
    personalize,
    segment,
    snowplow,
)
from tailorbird.events.adapters.batch import Adapter, AdapterOptions, Batch
from tailorbird.events.adapters.mapping_file import PATTERNS
from tailorbird.events.adapters.recognise import list_importable_files, recognise_format
from tailorbird.events.adapters.record import Convert
from tailorbird.events.tables.files import digest_files, find_files

# Format → (reader, file patterns in a folder).
FORMATS: dict[str, tuple[Adapter, tuple[str, ...]]] = {
    "tailorbird": (own.read_own, own.PATTERNS),
    "metarank": (metarank.read_metarank, metarank.PATTERNS),
    "movielens": (movielens.read_movielens, movielens.PATTERNS),
    "personalize": (personalize.read_personalize, personalize.PATTERNS),
    "gorse": (gorse.read_gorse, gorse.PATTERNS),
    "segment": (segment.read_segment, segment.PATTERNS),
    "ga4": (ga4.read_ga4, ga4.PATTERNS),
    "snowplow": (snowplow.read_snowplow, snowplow.PATTERNS),
    "cloudevents": (cloudevents.read_cloudevents, cloudevents.PATTERNS),
    "mind": (mind.read_mind, mind.PATTERNS),
    "instacart": (instacart.read_instacart, instacart.PATTERNS),
    "mapping": (mapping.read_mapping, PATTERNS),
}

CONVERTERS: dict[str, Convert] = {
    **{
        module.FORMAT: module.convert for module in (personalize, gorse, ga4, snowplow, cloudevents)
    },
    segment.FORMAT: segment.convert_stored,
}

__all__ = [
    "CONVERTERS",
    "FORMATS",
    "Adapter",
    "AdapterOptions",
    "Batch",
    "Convert",
    "digest_files",
    "find_files",
    "list_importable_files",
    "recognise_format",
]
