"""Erasure of people, and export of what a project holds about them.

people     whose rows are whose           footprint   what they left, and what changes for others
rewrite_*  archive, tables, models, …     erasure     the steps, one after another
search     whether any id is left         receipt     what an erasure did
writers    all files for one writer       journal     how far an erasure came
export     all that is held               the suppression list is in `events.suppression`
"""

from tailorbird.privacy.erasure import erase, find_not_begun
from tailorbird.privacy.export import export_person
from tailorbird.privacy.journal import is_unfinished
from tailorbird.privacy.people import People, find_people
from tailorbird.privacy.receipt import Preview, Receipt, preview
from tailorbird.privacy.search import Match, SearchReport, search_project
from tailorbird.privacy.writers import forget_unbegun

__all__ = [
    "Match",
    "People",
    "Preview",
    "Receipt",
    "SearchReport",
    "erase",
    "export_person",
    "find_not_begun",
    "find_people",
    "forget_unbegun",
    "is_unfinished",
    "preview",
    "search_project",
]
