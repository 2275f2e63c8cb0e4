"""The columns by sessions: what those who did the like of the person's newest session went on to, see `retrieval.sessions`.

    SOURCE_score   Σ over the nearest sessions that hold the candidate; 0 if none does, or the person's session has it already
    SOURCE_share   the same ÷ the best of all items, which tells how far a candidate is from the first of the list
    SOURCE_best    the best of all items: how much there is to go by

Missing where no session is like the person's: somebody new, or a session of items that nobody had met. Training asks the sessions as of
each row's time, and a server those of the bundle, by the same function and with the same bits.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from tailorbird.features.declare import SESSION_NAMES
from tailorbird.ranking.computed import Keys, RaggedLike, Rows, Times
from tailorbird.retrieval import Index
from tailorbird.retrieval.sessions import SOURCES

Floats = npt.NDArray[np.float64]

_TOLD = {
    "score": "how much sessions like the person's newest one lead to the item",
    "share": "the same as a share of the best of all items",
    "best": "how much they lead to the best of all items",
}
_BY = {"sessions": "V-SkNN", "stan": "STAN"}
SESSION_COLUMNS = {f"{source}_{kind}": f"{text}, by {_BY[source]}" for source in SOURCES for kind, text in _TOLD.items()}
assert tuple(SESSION_COLUMNS) == SESSION_NAMES


def session_columns(
    wanted: Sequence[str], item_keys: Keys, request: Rows, sequence: RaggedLike | None, t: Times, index: Index
) -> dict[str, Floats]:
    """The columns, each (n,).

    Args:
        item_keys: (n,): the candidates.
        request: (n,): which request a row belongs to.
        sequence: that of each request; None if there is none.
        t: (requests,): their times; one before the index's moment is told nothing.
        index: whose sessions are asked; all is missing where it holds none.
    """
    missing = np.full(item_keys.size, np.nan)
    if index.sessions is None or sequence is None or not sequence.item.size:
        return dict.fromkeys(wanted, missing)
    rows, candidate = index.find(sequence.item), index.find(item_keys)
    rows = np.where(sequence.item == 0, -1, rows)
    columns: dict[str, Floats] = {}
    for source in dict.fromkeys(name.rpartition("_")[0] for name in wanted):
        near = index.sessions.near(source, sequence.offsets, rows, sequence.ts)
        best = np.where(t >= index.as_of, near.best(len(t)), np.nan)[request]
        score = np.where(np.isnan(best), np.nan, near.score(request, candidate))
        columns |= {f"{source}_score": score, f"{source}_share": score / best, f"{source}_best": best}
    return {name: columns[name] for name in wanted}
