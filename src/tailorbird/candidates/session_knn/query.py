"""Continuations of sessions similar to the user's newest one, by V-SkNN or STAN."""

import numpy as np

from tailorbird.candidates.protocol import (
    EMPTY_LIST,
    CandidateRequest,
    CandidateTables,
    RankedList,
    rank_items,
)

LIST_MAX = 500


def query_sessions(tables: CandidateTables, request: CandidateRequest, method: str) -> RankedList:
    """Return the items of the nearest sessions, without those of the user's own session."""
    sessions = tables.sessions()
    if sessions is None or not len(request.recent):
        return EMPTY_LIST
    similar = sessions.find_similar(
        method, np.array([0, len(request.recent)], np.int64), request.recent, request.recent_ts
    )
    return rank_items(similar.keys, similar.scores, LIST_MAX)
