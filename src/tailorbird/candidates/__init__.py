"""Candidates: items that could be shown for a request, from sources that follow the routed log.

Each source is a fold over the log and a query over what the fold published (`protocol`). The folds,
which need Numba, are `candidates.fold` and below; the role that keeps them up is `candidates.role`;
the driver over the lake is `candidates.replay`. A project's own sources are registered by `source`.
"""

from typing import TYPE_CHECKING

from tailorbird.lazy_names import make_lazy_getattr

if TYPE_CHECKING:
    from tailorbird.candidates.contract import parse_source
    from tailorbird.candidates.own import OwnSource, source
    from tailorbird.candidates.protocol import (
        CandidateRequest,
        CandidateTables,
        RankedList,
        item_keys,
        rank_items,
    )

__getattr__ = make_lazy_getattr(
    __name__,
    {
        "tailorbird.candidates.contract": ("parse_source",),
        "tailorbird.candidates.own": ("OwnSource", "source"),
        "tailorbird.candidates.protocol": (
            "CandidateRequest",
            "CandidateTables",
            "RankedList",
            "item_keys",
            "rank_items",
        ),
    },
)
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
