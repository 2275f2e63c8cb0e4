"""Erasure and access: a person's data unlinked in, or taken out of, every place that a project
keeps them in.

person ─ whose events are whose        marks ─ what of them stands elsewhere       fresh ─ what takes its place
rows, bodies ─ tables and the archive  erase ─ the steps, one after another        search, looking ─ whether anything is left
files ─ what is deleted, and with what topics ─ where the logs are in Kafka        held ─ everything for one writer
export ─ all that is held              stop list, see `events.erased`              journal, receipt
"""

from tailorbird.privacy.erase import Erased, erase, not_begun, unfinished
from tailorbird.privacy.export import export_person
from tailorbird.privacy.held import forget_unbegun
from tailorbird.privacy.looking import Preview, look_for, preview
from tailorbird.privacy.person import People, find_people
from tailorbird.privacy.search import Found, search

__all__ = [
    "Erased",
    "Found",
    "People",
    "Preview",
    "erase",
    "export_person",
    "find_people",
    "forget_unbegun",
    "look_for",
    "not_begun",
    "preview",
    "search",
    "unfinished",
]
