"""Times at which users were merged into another user, whose silence therefore says nothing.

41 merged into 42 at b, undone at e     41 is merged in (b, e]; a cut sees merges before it
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from tailorbird.events import micros
from tailorbird.events.merges import Merge, resolve_merged_user, select_merges, to_merges
from tailorbird.training.dataset.codes import IdVocabulary

Ints = npt.NDArray[np.int64]

NEVER_UNDONE = 1 << 62  # end of a merge that was not undone


@dataclass(frozen=True)
class MergeHistory:
    """The merges of a log, by (ts, p).

    Attributes:
        people: codes of the people that are looked up; users without activity may link two of
            them.
        users: the user that each merge is of.
        received: when each became known.
    """

    people: IdVocabulary
    users: tuple[str, ...]
    merges: tuple[Merge, ...]
    received: Ints

    @classmethod
    def from_events(
        cls, events: pa.Table, people: IdVocabulary, known_until: int
    ) -> "MergeHistory":
        """Return the merges in a table of events that was complete at `known_until`."""
        if not {"user_id", "p"} <= set(events.column_names):
            return cls(people, (), (), np.zeros(0, np.int64))
        rows = select_merges(events)
        user_merges = to_merges(rows)
        received = micros(pc.coalesce(rows["received_at"], rows["ts"]))
        return cls(
            people,
            tuple(user for user, _ in user_merges),
            tuple(merge for _, merge in user_merges),
            np.minimum(received, known_until),
        )

    def as_of(self, moment: int) -> "MergeHistory":
        """Return the merges known at a moment.

        They may include merges dated after it, which no lookup may reach.
        """
        is_known = self.received <= moment
        if all(
            is_known[position] for position, merge in enumerate(self.merges) if merge.ts < moment
        ):
            return self  # keeps its cached spans
        positions = np.flatnonzero(is_known).tolist()
        return MergeHistory(
            self.people,
            tuple(self.users[k] for k in positions),
            tuple(self.merges[k] for k in positions),
            self.received[is_known],
        )

    def merged_between(self, person: Ints, since: Ints, until: Ints) -> npt.NDArray[np.bool_]:
        """Return which people were merged at some moment from `since` to `until`; shape (n,) each.

        Only merges before `until` count.
        """
        is_merged = np.zeros(len(person), bool)
        merged_people, merge_begin, merge_end = self._spans
        span_index = np.searchsorted(merged_people, person)
        while len(merged_people) and len(
            rows := np.flatnonzero(
                (span_index < len(merged_people))
                & (merged_people[np.minimum(span_index, len(merged_people) - 1)] == person)
            )
        ):
            span = span_index[rows]
            is_merged[rows] |= (merge_begin[span] < until[rows]) & (merge_end[span] >= since[rows])
            span_index[rows] += 1
        return is_merged

    @cached_property
    def _spans(self) -> tuple[Ints, Ints, Ints]:
        """Person, start and end of each period of being merged, by person."""
        newest_merge_by_user: dict[str, Merge] = {}
        users_by_target: dict[str, set[str]] = {}
        merged_since: dict[str, int] = {}
        spans: list[tuple[str, int, int]] = []
        for user, merge in zip(self.users, self.merges, strict=True):
            if user in newest_merge_by_user:
                users_by_target[newest_merge_by_user[user].merged_into].discard(user)
            newest_merge_by_user[user] = merge
            users_by_target.setdefault(merge.merged_into, set()).add(user)
            for leading_user in _users_leading_to(user, users_by_target):
                is_merged = (
                    resolve_merged_user(leading_user, newest_merge_by_user.get)[0] != leading_user
                )
                if is_merged and leading_user not in merged_since:
                    merged_since[leading_user] = merge.ts
                elif not is_merged and leading_user in merged_since:
                    spans.append((leading_user, merged_since.pop(leading_user), merge.ts))
        spans += [
            (user_of_span, begin, NEVER_UNDONE) for user_of_span, begin in merged_since.items()
        ]
        merged_people = self.people.encode(
            pa.array([user_of_span for user_of_span, _, _ in spans], pa.string())
        )
        begin, end = (np.array([span[k] for span in spans], np.int64) for k in (1, 2))
        order = np.argsort(merged_people, kind="stable")
        order = order[merged_people[order] >= 0]
        return merged_people[order], begin[order], end[order]


def _users_leading_to(user: str, users_by_target: dict[str, set[str]]) -> set[str]:
    """Return a user and all users whose merge chain passes through it."""
    users = {user}
    pending = [user]
    while pending:
        for leading_user in users_by_target.get(pending.pop(), ()):
            if leading_user not in users:
                users.add(leading_user)
                pending.append(leading_user)
    return users
