"""What sessions like the person's newest one went on to, by V-SkNN (`session_knn`) or STAN
(`stan`).
"""

import numpy as np

from tailorbird.candidates.protocol import (
    EMPTY_LIST,
    CandidateRequest,
    CandidateTables,
    RankedList,
    ranked,
)

SIZE = 500


def session_knn(tables: CandidateTables, request: CandidateRequest, source: str) -> RankedList:
    """Return the items of the nearest sessions, without what the person's own session has."""
    sessions = tables.sessions()
    if sessions is None or not len(request.recent):
        return EMPTY_LIST
    similar = sessions.near(
        source, np.array([0, len(request.recent)], np.int64), request.recent, request.recent_ts
    )
    return ranked(similar.keys, similar.gain, SIZE)
