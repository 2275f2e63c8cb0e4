"""The table of import formats. Help texts, the choice of FORMAT and recognition derive from it.

A row names a module of `events.adapters`, whose `ADAPTER` reads and recognises the files. The table
loads none of them, so that `--help` stays fast. Recognition tries the last row first, since the
first ones are the most general.
"""

from typing import NamedTuple


class ImportFormat(NamedTuple):
    """A row: the format's name for users, and the module that reads it."""

    name: str
    module: str


IMPORT_FORMATS = (
    ImportFormat("tailorbird", "own"),
    ImportFormat("metarank", "metarank"),
    ImportFormat("movielens", "movielens"),
    ImportFormat("personalize", "personalize"),
    ImportFormat("gorse", "gorse"),
    ImportFormat("segment", "segment"),
    ImportFormat("ga4", "ga4"),
    ImportFormat("snowplow", "snowplow"),
    ImportFormat("cloudevents", "cloudevents"),
    ImportFormat("mind", "mind"),
    ImportFormat("instacart", "instacart"),
    ImportFormat("mapping", "mapping.adapter"),
)
FORMAT_NAMES = ", ".join(import_format.name for import_format in IMPORT_FORMATS)
