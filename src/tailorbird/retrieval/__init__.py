"""The item index: attributes, full text, vectors and clusters.

Interactions with items are in `candidates`.
"""

from tailorbird.retrieval.build import build_index
from tailorbird.retrieval.columns import Column, TextColumn
from tailorbird.retrieval.index import NO_RESULT, Index, SearchResult
from tailorbird.retrieval.meaning import TextVectorSettings
from tailorbird.retrieval.overlay import NewItem, with_items

__all__ = [
    "NO_RESULT",
    "Column",
    "Index",
    "NewItem",
    "SearchResult",
    "TextColumn",
    "TextVectorSettings",
    "build_index",
    "with_items",
]
