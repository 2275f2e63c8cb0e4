"""A mapping proposed from files: the role of each column, by its name and values, and why.

file ──look──► form, rows from all over ──kind, names, attributes──► sources ──text──► mapping.toml
──trial──► what the contract says
"""

from tailorbird.events.guess.sources import guess_files, guess_sources
from tailorbird.events.guess.trial import Trial, try_mapping
from tailorbird.events.guess.values import (
    NO_HINTS,
    ROLE_OPTIONS,
    ROLE_QUESTIONS,
    AskError,
    ColumnGuess,
    MappingHints,
    SourceGuess,
)

__all__ = [
    "NO_HINTS",
    "ROLE_OPTIONS",
    "ROLE_QUESTIONS",
    "AskError",
    "ColumnGuess",
    "MappingHints",
    "SourceGuess",
    "Trial",
    "guess_files",
    "guess_sources",
    "try_mapping",
]
