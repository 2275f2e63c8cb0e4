"""Candidates: items that could be shown for a request, from sources that follow the routed log.

Each source is a fold over the log and a query over what the fold published (`protocol`). The folds,
which need Numba, are `candidates.fold` and below; the role that keeps them up is `candidates.role`;
the driver over the lake is `candidates.replay`. A project's own sources are registered by `source`.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tailorbird.candidates.contract import parse_source
    from tailorbird.candidates.own import OwnSource, source
    from tailorbird.candidates.protocol import (
        CandidateRequest,
        CandidateTables,
        RankedList,
        rank_items,
    )
    from tailorbird.events.keys import hash64s as item_keys

_PLACES = {
    "OwnSource": ("tailorbird.candidates.own", "OwnSource"),
    "source": ("tailorbird.candidates.own", "source"),
    "parse_source": ("tailorbird.candidates.contract", "parse_source"),
    "CandidateRequest": ("tailorbird.candidates.protocol", "CandidateRequest"),
    "CandidateTables": ("tailorbird.candidates.protocol", "CandidateTables"),
    "RankedList": ("tailorbird.candidates.protocol", "RankedList"),
    "rank_items": ("tailorbird.candidates.protocol", "rank_items"),
    "item_keys": ("tailorbird.events.keys", "hash64s"),
}
__all__ = [
    "CandidateRequest",
    "CandidateTables",
    "OwnSource",
    "RankedList",
    "item_keys",
    "parse_source",
    "rank_items",
    "source",
]


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module 'tailorbird.candidates' has no attribute {name!r}")
    module, attribute = _PLACES[name]
    return getattr(import_module(module), attribute)
