"""Candidate indexes: built once from events and items, carried in the bundle, and asked many times a second."""

from tailorbird.retrieval.build import build_index
from tailorbird.retrieval.candidates import SHARES, SOURCES, Candidates, candidates, in_order, with_sequence
from tailorbird.retrieval.columns import Column, TextColumn
from tailorbird.retrieval.cooccurrence import Cooccurrence, cooccurrence
from tailorbird.retrieval.index import Found, Index
from tailorbird.retrieval.overlay import NewItem, with_items

__all__ = [
    "SHARES",
    "SOURCES",
    "Candidates",
    "Column",
    "Cooccurrence",
    "Found",
    "Index",
    "NewItem",
    "TextColumn",
    "build_index",
    "candidates",
    "cooccurrence",
    "in_order",
    "with_items",
    "with_sequence",
]
