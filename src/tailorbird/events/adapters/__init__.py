"""Other formats: each adapter turns files into events of the wire format. How they get into the log
stands in `stream.importer`.

Formats of which each record stands by itself also have a function `convert(record, place)`
(`CONVERTERS`), by which what could not be read of a file is read again. The door has its own of
some (`adapters.webhook`): a file may say more than a client may.
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
from tailorbird.events.adapters.recognise import look_in, recognise
from tailorbird.events.adapters.record import Convert
from tailorbird.events.tables.files import digest_files, find_files

# format → (reads it, which files of a folder it looks at)
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
    "mapping": (mapping.read_mapping, mapping.PATTERNS),
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
    "look_in",
    "recognise",
]
