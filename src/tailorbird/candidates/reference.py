"""Reference implementation of every source in plain Python, for tests.

It keeps all events of the log and recomputes each list. Nothing is evicted here: unless the
contract's limits are exceeded, evicted state never affects a list.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np

from tailorbird.candidates.contract import Board, Contract

TILES = 12
DAMPING = 10.0
BOARD_SIZE = 2_000
SEGMENT_SIZE = 500
SEGMENT_MIN = 20
LIST_SIZE = 500
RECENT_MAX = 10
CATEGORY_RECENT_MAX = 64
CATEGORIES_MAX = 8
ScoredItems = list[tuple[int, float]]  # items and scores, best first


@dataclass(frozen=True)
class LogEvent:
    """One item of a routed event, by keys.

    `kind` is interest, shown or profile. The `ts` of a timeless profile is 0.
    """

    ts: int
    kind: str
    item: int
    person: int = 0
    category: int = 0
    segments: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class UserContext:
    """The user of a request: items and times, oldest first, and segments."""

    recent: tuple[int, ...] = ()
    recent_ts: tuple[int, ...] = ()
    segments: Mapping[str, int] = field(default_factory=dict)


@dataclass
class _Session:
    last_ts: int = 0
    items: list[int] = field(default_factory=list)


class ReferenceTables:
    """The tables after some events of a log."""

    def __init__(self, contract: Contract, events: Iterable[LogEvent]) -> None:
        self.contract = contract
        self.events = list(events)
        self.t = max((event.ts for event in self.events), default=0) + 1
        self.category: dict[int, int] = {}
        self.first_seen: dict[int, int] = {}
        self.clicks = Counter[int]()
        self.shown = Counter[int]()
        self._interests: list[tuple[LogEvent, int]] = []  # and the item's category at that moment
        for event in self.events:
            if event.ts > 0:
                self.first_seen[event.item] = min(
                    event.ts, self.first_seen.get(event.item, event.ts)
                )
            if event.kind == "profile":
                self.category[event.item] = event.category
            elif event.kind == "shown":
                self.shown[event.item] += 1
            else:
                self.clicks[event.item] += 1
                self._interests.append((event, self.category.get(event.item, 0)))

    # Popularity

    def counts(self, board: Board, segment: int) -> Counter[int]:
        """Count the events of the thirteen tiles that end at t."""
        tile_us = -(-board.window_us // TILES)
        counts = Counter[int]()
        for event, category in self._interests:
            segment_value = (
                0
                if not board.segment
                else category
                if board.segment == "category"
                else event.segments.get(board.segment, 0)
            )
            if event.ts // tile_us >= self.t // tile_us - TILES and (
                not board.segment or (segment_value and segment_value == segment)
            ):
                counts[event.item] += 1
        return counts

    def leaderboard(self, board: Board, segment: int = 0) -> tuple[list[tuple[int, int]], int]:
        """Return items with counts, and the sum of all counts.

        Ties are broken by the count in the field's longest window, then by key.
        """
        counts = self.counts(board, segment)
        longest_board = max(
            other for other in self.contract.boards if other.segment == board.segment
        )
        longest_counts = self.counts(longest_board, segment)
        order = sorted(
            counts.items(), key=lambda entry: (-entry[1], -longest_counts[entry[0]], entry[0])
        )
        return order[: SEGMENT_SIZE if board.segment else BOARD_SIZE], counts.total()

    def popular(self, user: UserContext, board: Board) -> ScoredItems:
        """List items by share of the segment's traffic, or overall if the segment is too small."""
        if board.segment == "category":
            return self._popular_in_categories(user, board)
        segment = user.segments.get(board.segment, 0) if board.segment else 0
        counted_items, total = self.leaderboard(board, segment) if segment else ([], 0)
        if total < SEGMENT_MIN:
            counted_items, total = self.leaderboard(Board(board.window_us))
        return [(item, count / max(total, 1)) for item, count in counted_items]

    def _popular_in_categories(self, user: UserContext, board: Board) -> ScoredItems:
        weight_by_category = defaultdict(float)
        for age, item in enumerate(user.recent[::-1][:CATEGORY_RECENT_MAX]):
            if self.category.get(item):
                weight_by_category[self.category[item]] += 0.95**age
        scores = defaultdict(float)
        for category in sorted(
            weight_by_category, key=lambda category: (-weight_by_category[category], category)
        )[:CATEGORIES_MAX]:
            for rank, (item, _) in enumerate(self.leaderboard(board, category)[0], 1):
                scores[item] += weight_by_category[category] / rank
        return rank_scores(scores, LIST_SIZE)

    # Items and users

    def new_items(self) -> ScoredItems:
        """List recently added items by an upper confidence bound.

        The newest come first where no item was ever shown.
        """
        max_age_us = self.contract.new_within_us
        total = self.shown.total()
        new_items = [
            item
            for item, first_seen in self.first_seen.items()
            if first_seen > self.t - max_age_us and self.shown[item] < 1_000
        ]
        if not total:
            order = sorted(new_items, key=lambda item: (-self.first_seen[item], item))[:LIST_SIZE]
            return [
                (item, 1 - max(self.t - self.first_seen[item], 0) / max_age_us) for item in order
            ]
        bound_by_item = {
            item: (self.clicks[item] + 1) / (self.shown[item] + 2)
            + math.sqrt(math.log(1 + total) / (self.shown[item] + 1))
            for item in new_items
        }
        order = sorted(
            new_items, key=lambda item: (-bound_by_item[item], -self.first_seen[item], item)
        )[:LIST_SIZE]
        return [(item, bound_by_item[item]) for item in order]

    def repeat(self, user: UserContext) -> ScoredItems:
        """List the user's past items, most frequent first, ties by recency."""
        counts = Counter(item for item in user.recent if item)
        last_position = {item: position for position, item in enumerate(user.recent)}
        return [
            (item, float(counts[item]))
            for item in sorted(counts, key=lambda item: (-counts[item], -last_position[item]))[
                :LIST_SIZE
            ]
        ]

    def neighbours(self) -> dict[int, dict[int, float]]:
        """Return the neighbours of each item, by co-occurrence in users' sequences.

        A row keeps its heaviest entries.
        """
        settings = self.contract.item_knn
        assert settings is not None
        assert not settings.half_life_us, "the reference knows no decay"
        weights_by_item: dict[int, dict[int, float]] = defaultdict(dict)
        total_by_item: dict[int, float] = defaultdict(float)

        def add_weight(item: int, other: int, weight: float) -> None:
            row = weights_by_item[item]
            total_by_item[item] += weight
            if other not in row and len(row) >= settings.neighbours:
                weakest_position = min(
                    range(len(row)), key=list(row.values()).__getitem__
                )  # of equal ones the first
                weakest_neighbour = list(row)[weakest_position]
                weights_by_item[item] = {
                    (other if key == weakest_neighbour else key): value
                    for key, value in row.items()
                }
                row = weights_by_item[item]
            row[other] = row.get(other, 0.0) + weight

        sequence_by_person: dict[int, list[int]] = {}
        previous_ts_by_person: dict[int, int] = {}
        newest_ts = 0
        for event in self.events:
            newest_ts = max(newest_ts, event.ts)
            if event.kind != "interest" or not event.person:
                continue
            sequence = sequence_by_person.get(event.person, [])
            if (
                sequence
                and max(event.ts, newest_ts) - previous_ts_by_person[event.person] > settings.gap_us
            ):
                sequence = []
            previous_ts_by_person[event.person] = event.ts
            if sequence and sequence[-1] == event.item:
                sequence_by_person[event.person] = sequence
                continue
            for steps_back, other in enumerate(reversed(sequence), 1):
                if other != event.item:
                    add_weight(other, event.item, 1.0 / steps_back)
                    add_weight(event.item, other, settings.backward / steps_back)
            sequence_by_person[event.person] = [*sequence, event.item][-settings.distance :]
        return {
            item: {
                other: float(np.float32(weight / (total_by_item[item] + DAMPING)))
                for other, weight in row.items()
            }
            for item, row in weights_by_item.items()
        }

    def item_knn(self, user: UserContext, last_items: int) -> ScoredItems:
        """List the neighbours of the user's last items."""
        weights_by_item = self.neighbours()
        scores = defaultdict(float)
        recent = user.recent[::-1][:RECENT_MAX]
        for age, item in enumerate(recent):
            for other, value in weights_by_item.get(item, {}).items():
                scores[other] += value * (1 - 1 / last_items) ** age
        return rank_scores(
            {item: score for item, score in scores.items() if item not in recent}, 1_000
        )

    def sessions(self) -> list[tuple[int, list[int]]]:
        """Return the newest sessions of two items or more, as (time of the last event, items)."""
        settings = self.contract.session_knn
        assert settings is not None
        sessions: list[_Session] = []
        session_by_person: dict[int, _Session] = {}
        newest_ts = 0
        for event in self.events:
            newest_ts = max(newest_ts, event.ts)
            if event.kind != "interest" or not event.person:
                continue
            session = session_by_person.get(event.person)
            if (
                session is None
                or max(event.ts, newest_ts) - session.last_ts > settings.gap_us
                or not any(session is other for other in sessions[-settings.sessions_max :])
            ):
                session = session_by_person[event.person] = _Session()
                sessions.append(session)
            session.last_ts = max(session.last_ts, event.ts)
            session.items = [*session.items, event.item][-settings.length :]
        newest_sessions = sessions[-settings.sessions_max :]
        last_ts_min = (
            max((session.last_ts for session in newest_sessions), default=0) - settings.within_us
        )
        eligible_sessions = [
            (session.last_ts, session.items)
            for session in newest_sessions
            if len(set(session.items)) >= 2 and session.last_ts >= last_ts_min
        ]
        return sorted(eligible_sessions, key=lambda session: session[0])


def rank_scores(scores: Mapping[int, float], limit: int) -> ScoredItems:
    """Return the items with a positive score, best first, ties by key."""
    order = sorted(
        (item for item, score in scores.items() if score > 0),
        key=lambda item: (-scores[item], item),
    )
    return [(item, scores[item]) for item in order[:limit]]
