"""Who was there, and who came back: labels of churn from the log of purchases, as it was known at a
moment.

    ───●──────●────┼── gap ──┼───────── window ─────────┼──► ts
                 origin    start                      stop      returned: at least one ● in [start, stop)

Everything is asked of an `Activity`, which holds what had been received by `known` and refuses what
would need more: a window that ends later is *censored*, its label is not "gone" but unknown; so is
that of somebody who was merged into another user within it. A user who is somebody else already
(`training.churn.merged`) was not there. Features of the same people are in `training.churn.rows`.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from tailorbird.errors import LeakError, NotReadyError
from tailorbird.events import DAY, micros, to_iso
from tailorbird.models.btyd import Purchases
from tailorbird.models.interactions import Counter
from tailorbird.models.rfm import Rfm
from tailorbird.ranking.churn import Churn
from tailorbird.training.churn.merged import Merged
from tailorbird.training.coding import Codes, people_only

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

ANONYMOUS = "anon:"


@dataclass(frozen=True)
class Activity:
    """Purchases, or whatever shows that a person is still there; one row each, sorted by (person,
    ts).

    Several of a person's UTC day may count as one. A day is no row of its own: of one that a moment
    cuts in two, the first part was known.

    Attributes:
        people: of all rows, and of later ones too, so that codes stay.
        person, ts, received: shape (n,).
        amount: shape (n,), 0 where none is known.
        known: the moment up to which this is all that was received.
        merged: who was somebody else, and when.
        by_day: whether days are counted, and not rows.
    """

    people: Codes
    person: Ints
    ts: Ints
    received: Ints
    amount: Floats
    known: int
    merged: Merged
    by_day: bool

    def as_of(self, moment: int) -> "Activity":
        """What had been received by a moment."""
        if moment > self.known:
            raise LeakError(
                f"nothing is known of {to_iso(moment)}: the log was read up to {to_iso(self.known)}"
            )
        kept = (self.received <= moment) & (self.ts < moment)
        merged = self.merged.as_of(moment)
        columns = (self.person[kept], self.ts[kept], self.received[kept], self.amount[kept])
        return Activity(self.people, *columns, moment, merged, self.by_day)

    @cached_property
    def _counting(self) -> npt.NDArray[np.bool_]:
        """Which rows count, shape (n,): each, or the first of a person's day."""
        if not self.by_day:
            return np.ones(len(self.ts), bool)
        return (np.diff(self.person, prepend=-1) != 0) | (np.diff(self.ts // DAY, prepend=-1) != 0)

    @cached_property
    def _counted(self) -> Counter:
        return Counter.over(self.person[self._counting], self.ts[self._counting])

    @cached_property
    def _every(self) -> Counter:
        return Counter.over(self.person, self.ts)

    @property
    def first(self) -> int:
        """When the log begins."""
        return int(self.ts.min(initial=self.known))

    def present(self, origin: int, active_us: int = 0) -> Ints:
        """Who was there before a moment: codes of people with activity in [origin − active,
        origin), ascending; ever, for 0.

        A user who is somebody else by then is nobody to ask about.
        """
        self._check(origin)
        there = self.ts < origin
        if active_us:
            there &= self.ts >= origin - active_us
        person = np.unique(self.person[there])
        return person[~self.merged_within(person, origin, origin)]

    def merged_within(
        self, person: Ints, since: Ints | int, until: Ints | int
    ) -> npt.NDArray[np.bool_]:
        """Whose label of a window is unknown: who was somebody else at a moment from `since` to
        `until`, shape (n,).

        Raises:
            LeakError: a window ends after what is known.
        """
        shape = len(person)
        begins, ends = (
            np.broadcast_to(np.asarray(moment, np.int64), shape) for moment in (since, until)
        )
        self._check(int(ends.max(initial=0)))
        return self.merged.elsewhere(person, begins, ends)

    def counts(self, person: Ints, start: int, stop: int) -> Floats:
        """How often each person was there in [start, stop), shape (n,); a day counts that was begun
        before, if they came again.

        Raises:
            LeakError: the window ends after what is known.
        """
        self._check(stop)
        found = _within(self._counted, person, start, stop)
        midnight = start // DAY * DAY
        if not self.by_day or start == midnight:
            return found
        begun = _within(self._counted, person, midnight, start) > 0
        return found + (
            begun & (_within(self._every, person, start, min(stop, midnight + DAY)) > 0)
        )

    def rfm(self, person: Ints, origin: int) -> Rfm:
        """Recency, frequency, age and amount before a moment, in days."""
        first, last, count, amount = self._summed(origin)
        return Rfm(
            (origin - last[person]) / DAY,
            count[person],
            (origin - first[person]) / DAY,
            amount[person],
        )

    def purchases(self, person: Ints, origin: int) -> Purchases:
        """The same as BG/NBD asks for it: repeats, from the first to the last, from the first to
        now; in days.
        """
        first, last, count, _ = self._summed(origin)
        return Purchases(
            count[person] - 1, (last[person] - first[person]) / DAY, (origin - first[person]) / DAY
        )

    def _summed(self, origin: int) -> tuple[Ints, Ints, Floats, Floats]:
        self._check(origin)
        before = self.ts < origin
        person, ts, size = self.person[before], self.ts[before], len(self.people)
        first, last = np.full(size, origin, np.int64), np.zeros(size, np.int64)
        np.minimum.at(first, person, ts)
        np.maximum.at(last, person, ts)
        count = np.bincount(self.person[before & self._counting], minlength=size).astype(np.float64)
        return first, last, count, np.bincount(person, self.amount[before], size).astype(np.float64)

    def _check(self, moment: int) -> None:
        if moment > self.known:
            told = (
                f"asks for what happened until {to_iso(moment)}, while only "
                f"{to_iso(self.known)} is known"
            )
            raise LeakError(
                f"a label {told}: its window is cut off",
                fix="ask at an earlier origin, or for a shorter window",
            )


@dataclass(frozen=True)
class Window:
    """What is predicted at an origin: activity in [origin + gap, origin + gap + length)."""

    origin: int
    gap: int
    length: int

    def __post_init__(self) -> None:
        if self.gap < 0 or self.length <= 0:
            raise LeakError(
                f"a window of {self.length} µs that begins {self.gap} µs after its origin "
                "reaches back before it"
            )

    @property
    def start(self) -> int:
        return self.origin + self.gap

    @property
    def stop(self) -> int:
        return self.start + self.length


def activity_of(events: pa.Table, churn: Churn, known: int, lateness_us: int = 0) -> Activity:
    """The activity in a table of events.

    Args:
        events: columns of `events.schema.ROUTED`; people without a user id and bots are left out.
        known: the moment of reading; what happened in the last `lateness_us` before it may still be
            incomplete and is left out.

    Raises:
        NotReadyError: no such event.
    """
    kept = pc.and_(
        pc.is_in(events["type"], pa.array(list(churn.types), pa.string())),
        pc.is_valid(events["person"]),
    )
    kept = pc.and_(kept, pc.invert(pc.fill_null(pc.starts_with(events["person"], ANONYMOUS), True)))
    rows = events.filter(pc.and_(kept, people_only(events)))
    rows = rows.filter(pc.invert(pc.fill_null(rows["timeless"], False)))
    if not rows.num_rows:
        raise NotReadyError(
            f"no event of type {' or '.join(churn.types)} by a known user",
            fix="tailorbird import FORMAT PATH",
        )
    people = Codes.sorted_of(
        rows["person"]
    )  # so that nothing that is drawn by code goes by the lake's order
    person, ts, received = (
        people.encode(rows["person"]),
        micros(rows["ts"]),
        micros(pc.coalesce(rows["received_at"], rows["ts"])),
    )
    amount = _amount(rows)
    order = np.lexsort((amount, received, ts, person))
    person, ts, received, amount = person[order], ts[order], received[order], amount[order]
    end = known - lateness_us
    seen = ts < end
    merged = Merged.of(events, people, end)
    return Activity(
        people,
        person[seen],
        ts[seen],
        np.minimum(received[seen], end),
        amount[seen],
        end,
        merged,
        churn.per == "day",
    )


def _within(counter: Counter, person: Ints, start: int, stop: int) -> Floats:
    return counter.count(
        person, np.full(1, stop, np.int64), np.zeros(len(person), np.int64), stop - start
    )


def _amount(rows: pa.Table) -> Floats:
    """price × quantity, each 0 or 1 where it is not said."""
    if not {"price", "quantity"} <= set(rows.column_names):
        return np.zeros(rows.num_rows)
    price = pc.fill_null(rows["price"], 0.0).to_numpy()
    return np.asarray(price * pc.fill_null(rows["quantity"], 1.0).to_numpy(), np.float64)
