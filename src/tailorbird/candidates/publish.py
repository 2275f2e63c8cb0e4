"""Publishing: the changes of a fold since the last epoch, written in one transaction with it.

Leaderboards are published every second, neighbours every ten, the session table every minute, since
publishing every change at once would write tens of megabytes a second. Each group of tables has its
own position, and a query of a group sees exactly that state.
"""

from collections.abc import Iterable, Sequence

from tailorbird.candidates import tables
from tailorbird.candidates.contract import Contract
from tailorbird.candidates.fold import CandidateFold
from tailorbird.candidates.protocol import BOARDS, GROUPS, NEIGHBOURS, SESSIONS
from tailorbird.candidates.tables import GroupEpoch, PublishedEpoch
from tailorbird.events.clock import SECOND
from tailorbird.store.protocol import Store, Transaction

PUBLISH_INTERVAL_US = {BOARDS: SECOND, NEIGHBOURS: 10 * SECOND, SESSIONS: 60 * SECOND}
_CHUNK_ITEMS = 10_000  # items per encoding step


class Publisher:
    """A writer of the tables of a fold to a store.

    One writer; publishing continues from what the store already has.

    Attributes:
        published: the newest epoch; None before the first.
    """

    def __init__(self, store: Store, contract: Contract) -> None:
        self._store = store
        self._contract = contract
        with store.snapshot() as snapshot:
            published = tables.read_epoch(snapshot.get(tables.EPOCH_KEY))
        self.published = (
            published if published is not None and published.contract == contract.hash else None
        )
        self._published_at: dict[str, int] = {}

    def due_groups(self, fold: CandidateFold, now: int) -> list[str]:
        """Return the groups of tables that are due.

        It is empty while the fold is behind the published state.
        """
        published = self.published
        if published is None:
            return list(GROUPS)
        return [
            name
            for name in self.available_groups(fold)
            if not 0 <= now - self._published_at.get(name, -(1 << 62)) < PUBLISH_INTERVAL_US[name]
        ]

    def available_groups(self, fold: CandidateFold) -> list[str]:
        """Return all groups of tables; none while the fold is behind the published state."""
        published = self.published
        is_stale = published is not None and fold.position < max(
            group.position for group in published.groups.values()
        )
        return [] if is_stale else list(GROUPS)

    def publish(
        self, fold: CandidateFold, groups: Sequence[str], now: int, *, is_newest: bool = True
    ) -> PublishedEpoch:
        """Publish the changes of some groups of tables since they were last published.

        Args:
            is_newest: whether the fold has all that the log has; else the tables keep the time at
                which they were last current.

        Raises:
            StorageError: the write failed, and nothing of it is stored. Restore the fold from a
                snapshot before the next call.
        """
        previous_epoch = self.published
        outdated_groups = [
            name
            for name in groups
            if previous_epoch is None or previous_epoch.groups[name].position < fold.position
        ]
        records: list[tuple[bytes, bytes]] = []
        deleted_keys: list[bytes] = []
        session_parts = previous_epoch.session_parts if previous_epoch is not None else 0
        if BOARDS in outdated_groups:
            records += _board_records(fold, everything=previous_epoch is None)
            deleted_keys = tables.item_record_keys(fold.evicted_items())
        if NEIGHBOURS in outdated_groups:
            records += _neighbour_records(fold, everything=previous_epoch is None)
        if SESSIONS in outdated_groups and fold.session_knn is not None:
            parts = tables.session_records(fold.session_knn.build_sessions())
            records = [*records, *parts]
            session_parts = len(parts)
        previous_groups = {} if previous_epoch is None else previous_epoch.groups
        current_as_of = {
            name: now
            if is_newest or name not in previous_groups
            else previous_groups[name].current_as_of
            for name in groups
        }
        group_epochs = {
            name: GroupEpoch(fold.position, fold.ts, current_as_of[name])
            if name in groups
            else previous_groups[name]
            for name in GROUPS
        }
        evicted_counts = {
            **fold.evicted_counts,
            "neighbours": fold.item_knn.eviction_count if fold.item_knn is not None else 0,
        }
        current_epoch = PublishedEpoch(
            self._contract.hash, fold.contract.boards, group_epochs, session_parts, evicted_counts
        )
        if previous_epoch is not None and session_parts < previous_epoch.session_parts:
            deleted_keys += tables.session_keys(session_parts, previous_epoch.session_parts)

        def write_changes(transaction: Transaction) -> None:
            if previous_epoch is None:
                transaction.delete_many(
                    [key for key, _ in transaction.scan(b"") if not key.startswith(b"\xff")]
                )
            transaction.delete_many(deleted_keys)
            transaction.put_many([*records, tables.epoch_record(current_epoch)])

        self._store.write(write_changes)
        self._published_at |= dict.fromkeys(groups, now)
        self.published = current_epoch
        return current_epoch


def _board_records(fold: CandidateFold, *, everything: bool) -> Iterable[tuple[bytes, bytes]]:
    number_by_board = {board: number for number, board in enumerate(fold.contract.boards)}
    changed_segments = fold.popularity.take_changed_segments()
    for board, segment in fold.popularity.all_segments() if everything else changed_segments:
        yield tables.board_record(
            number_by_board[board], segment, fold.popularity.build_board(board, segment)
        )
    yield tables.new_items_record(fold.new_items())
    rows = fold.changed_items(everything=everything)
    yield from tables.facts_records(
        fold.item_table.keys[rows], fold.facts_of(rows), fold.ids_of(rows)
    )


def _neighbour_records(fold: CandidateFold, *, everything: bool) -> Iterable[tuple[bytes, bytes]]:
    if fold.item_knn is None:
        return
    rows = fold.item_knn.take_all_rows() if everything else fold.item_knn.take_changed_rows()
    for start in range(0, len(rows), _CHUNK_ITEMS):
        chunk = rows[start : start + _CHUNK_ITEMS]
        yield from tables.neighbour_records(
            fold.item_table.keys[chunk], fold.item_knn.build_neighbours(chunk)
        )
