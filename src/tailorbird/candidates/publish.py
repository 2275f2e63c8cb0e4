"""Publishing: what changed in a fold since the last epoch, as records of a store, in one
transaction with the epoch itself.

Leaderboards are renewed every second, neighbours every ten, the session table every minute:
publishing every change at once would write tens of megabytes a second. Each group of tables says at
which position it stands, and a query of a group sees exactly that.
"""

from collections.abc import Iterable, Sequence

from tailorbird.candidates import tables
from tailorbird.candidates.contract import Contract
from tailorbird.candidates.fold import CandidateFold
from tailorbird.candidates.protocol import BOARDS, GROUPS, NEIGHBOURS, SESSIONS
from tailorbird.candidates.tables import GroupEpoch, Published
from tailorbird.events.clock import SECOND
from tailorbird.store.protocol import Store, Transaction

EVERY_US = {BOARDS: SECOND, NEIGHBOURS: 10 * SECOND, SESSIONS: 60 * SECOND}
_AT_ONCE = 10_000  # items whose neighbours are encoded at a time


class Publisher:
    """Writes the tables of a fold into a store. One writer; what a store has already is published
    on from there.

    Attributes:
        published: the newest epoch; None before the first.
    """

    def __init__(self, store: Store, contract: Contract) -> None:
        self._store, self._contract = store, contract
        with store.snapshot() as snapshot:
            found = tables.read_epoch(snapshot.get(tables.EPOCH))
        self.published = found if found is not None and found.contract == contract.hash else None
        self._done_at: dict[str, int] = {}

    def due(self, fold: CandidateFold, now: int) -> list[str]:
        """Return the groups of tables that are to be renewed at a time; none while the fold is
        behind what is published.
        """
        published = self.published
        if published is None:
            return list(GROUPS)
        return [
            name
            for name in self.groups(fold)
            if not 0 <= now - self._done_at.get(name, -(1 << 62)) < EVERY_US[name]
        ]

    def groups(self, fold: CandidateFold) -> list[str]:
        """Return the groups of tables, none while the fold is behind what is published."""
        published = self.published
        behind = published is not None and fold.p < max(
            group.p for group in published.groups.values()
        )
        return [] if behind else list(GROUPS)

    def publish(
        self, fold: CandidateFold, groups: Sequence[str], now: int, *, newest: bool = True
    ) -> Published:
        """Publish what changed in some groups of tables since they were last published.

        Args:
            newest: whether the fold has all that the log has; else the tables are as old as they
                were.

        Raises:
            StorageError: the disk refused; nothing of it is there. Begin again with the fold of a
                snapshot.
        """
        before = self.published
        behind = [name for name in groups if before is None or before.groups[name].p < fold.p]
        records: list[tuple[bytes, bytes]] = []
        gone: list[bytes] = []
        sessions = before.sessions if before is not None else 0
        if BOARDS in behind:
            records += _boards(fold, everything=before is None)
            gone = tables.gone_keys(fold.gone_items())
        if NEIGHBOURS in behind:
            records += _neighbours(fold, everything=before is None)
        if SESSIONS in behind and fold.session_knn is not None:
            parts = tables.session_records(fold.session_knn.table())
            records, sessions = [*records, *parts], len(parts)
        kept = {} if before is None else before.groups
        at = {name: now if newest or name not in kept else kept[name].at for name in groups}
        known = {
            name: GroupEpoch(fold.p, fold.t, at[name]) if name in groups else kept[name]
            for name in GROUPS
        }
        evicted = {
            **fold.evicted,
            "neighbours": fold.item_knn.evicted if fold.item_knn is not None else 0,
        }
        after = Published(self._contract.hash, fold.contract.boards, known, sessions, evicted)
        if before is not None and sessions < before.sessions:
            gone += tables.session_keys(sessions, before.sessions)

        def change(transaction: Transaction) -> None:
            if before is None:
                transaction.delete_many(
                    [key for key, _ in transaction.scan(b"") if not key.startswith(b"\xff")]
                )
            transaction.delete_many(gone)
            transaction.put_many([*records, tables.epoch_record(after)])

        self._store.write(change)
        self._done_at |= dict.fromkeys(groups, now)
        self.published = after
        return after


def _boards(fold: CandidateFold, *, everything: bool) -> Iterable[tuple[bytes, bytes]]:
    numbers = {board: number for number, board in enumerate(fold.contract.boards)}
    changed = fold.popularity.changed()
    for board, segment in fold.popularity.every() if everything else changed:
        yield tables.board_record(numbers[board], segment, fold.popularity.table(board, segment))
    yield tables.new_items_record(fold.new_items())
    rows = fold.changed_items(everything=everything)
    yield from tables.facts_records(fold.items.keys[rows], fold.facts_of(rows), fold.ids_of(rows))


def _neighbours(fold: CandidateFold, *, everything: bool) -> Iterable[tuple[bytes, bytes]]:
    if fold.item_knn is None:
        return
    rows = fold.item_knn.every() if everything else fold.item_knn.changed()
    for start in range(0, len(rows), _AT_ONCE):
        some = rows[start : start + _AT_ONCE]
        yield from tables.neighbour_records(fold.items.keys[some], fold.item_knn.table(some))
