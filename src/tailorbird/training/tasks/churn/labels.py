"""Churn labels from the log of purchases, as it was known at a moment.

    ───●──────●────┼── gap ──┼───────── window ─────────┼──► ts
                 origin    start                      stop     returned: at least one ● in it

An `Activity` holds what had been received by `known_until` and refuses to read later. A window that
ends later is *censored*: its label is unknown, not "gone". So is the label of a user who was merged
into another within the window. A user who is already merged (`training.tasks.churn.merges`) is not
present. `training.tasks.churn.rows` computes the features of the same people.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from tailorbird.errors import LeakError, NotReadyError
from tailorbird.events import DAY, micros, to_iso
from tailorbird.models.btyd import Purchases
from tailorbird.models.interactions import WindowCounter
from tailorbird.ranking.churn.declaration import Churn
from tailorbird.training.dataset.codes import IdVocabulary, human_mask
from tailorbird.training.tasks.churn.merges import MergeHistory

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

ANONYMOUS_PREFIX = "anon:"


class Rfm(NamedTuple):
    """Purchase history of people at a moment, shape (n,) each.

    Attributes:
        recency: days since the last purchase.
        frequency: purchases.
        age: days since the first purchase.
        amount: total amount; 0 if unknown.
    """

    recency: Floats
    frequency: Floats
    age: Floats
    amount: Floats


@dataclass(frozen=True)
class Activity:
    """Purchases, or other events that show that a person is still active, sorted by (person, ts).

    Several events of a person's UTC day may count as one. Rows are still events, not days: if a
    moment cuts a day in two, its first part was known.

    Attributes:
        people: codes of all rows, and of later ones too, so that codes are stable.
        person, ts, received: shape (n,).
        amount: shape (n,), 0 if unknown.
        known_until: the moment up to which the rows are complete.
        merges: merges of users, with their times.
        by_day: whether days are counted instead of rows.
    """

    people: IdVocabulary
    person: Ints
    ts: Ints
    received: Ints
    amount: Floats
    known_until: int
    merges: MergeHistory
    by_day: bool

    def as_of(self, moment: int) -> "Activity":
        """Return the activity that had been received by a moment."""
        if moment > self.known_until:
            raise LeakError(
                f"nothing is known of {to_iso(moment)}: the log was read up to "
                f"{to_iso(self.known_until)}"
            )
        is_visible = (self.received <= moment) & (self.ts < moment)
        merge_history = self.merges.as_of(moment)
        columns = (
            self.person[is_visible],
            self.ts[is_visible],
            self.received[is_visible],
            self.amount[is_visible],
        )
        return Activity(self.people, *columns, moment, merge_history, self.by_day)

    @cached_property
    def _is_counted(self) -> npt.NDArray[np.bool_]:
        """Mask of the rows that count, shape (n,): all, or the first of a person's day."""
        if not self.by_day:
            return np.ones(len(self.ts), bool)
        return (np.diff(self.person, prepend=-1) != 0) | (np.diff(self.ts // DAY, prepend=-1) != 0)

    @cached_property
    def _purchase_counter(self) -> WindowCounter:
        return WindowCounter.from_keys(self.person[self._is_counted], self.ts[self._is_counted])

    @cached_property
    def _event_counter(self) -> WindowCounter:
        return WindowCounter.from_keys(self.person, self.ts)

    @property
    def start_ts(self) -> int:
        """Time of the first event."""
        return int(self.ts.min(initial=self.known_until))

    def active_people(self, origin: int, active_us: int = 0) -> Ints:
        """Return codes of people with activity in [origin − active_us, origin), ascending.

        With 0, activity at any time before the origin counts. Users who are merged into another by
        then are excluded.
        """
        self._require_known(origin)
        is_active = self.ts < origin
        if active_us:
            is_active &= self.ts >= origin - active_us
        person = np.unique(self.person[is_active])
        return person[~self.had_identity_merge(person, origin, origin)]

    def had_identity_merge(
        self, person: Ints, since: Ints | int, until: Ints | int
    ) -> npt.NDArray[np.bool_]:
        """Return which people were merged into another user from `since` to `until`, shape (n,).

        Their labels for that window are unknown.

        Raises:
            LeakError: a window ends after what is known.
        """
        shape = len(person)
        starts, ends = (
            np.broadcast_to(np.asarray(moment, np.int64), shape) for moment in (since, until)
        )
        self._require_known(int(ends.max(initial=0)))
        return self.merges.merged_between(person, starts, ends)

    def count_activity(self, person: Ints, start: int, stop: int) -> Floats:
        """Return each person's activity count in [start, stop), shape (n,).

        A day that began before `start` counts if the person was active again after it.

        Raises:
            LeakError: the window ends after what is known.
        """
        self._require_known(stop)
        counts = _count_within(self._purchase_counter, person, start, stop)
        midnight = start // DAY * DAY
        if not self.by_day or start == midnight:
            return counts
        started_before_midnight = _count_within(self._purchase_counter, person, midnight, start) > 0
        return counts + (
            started_before_midnight
            & (_count_within(self._event_counter, person, start, min(stop, midnight + DAY)) > 0)
        )

    def rfm(self, person: Ints, origin: int) -> Rfm:
        """Return recency, frequency, age and amount before a moment, in days."""
        first_ts, last_ts, purchase_counts, amounts = self._totals_before(origin)
        return Rfm(
            (origin - last_ts[person]) / DAY,
            purchase_counts[person],
            (origin - first_ts[person]) / DAY,
            amounts[person],
        )

    def purchase_history(self, person: Ints, origin: int) -> Purchases:
        """Return the sufficient statistics of BG/NBD, in days.

        These are repeats, time from first to last purchase, and time from first purchase to the
        origin.
        """
        first_ts, last_ts, purchase_counts, _ = self._totals_before(origin)
        return Purchases(
            purchase_counts[person] - 1,
            (last_ts[person] - first_ts[person]) / DAY,
            (origin - first_ts[person]) / DAY,
        )

    def _totals_before(self, origin: int) -> tuple[Ints, Ints, Floats, Floats]:
        self._require_known(origin)
        is_before = self.ts < origin
        person = self.person[is_before]
        ts = self.ts[is_before]
        people_count = len(self.people)
        first_ts = np.full(people_count, origin, np.int64)
        last_ts = np.zeros(people_count, np.int64)
        np.minimum.at(first_ts, person, ts)
        np.maximum.at(last_ts, person, ts)
        counts = np.bincount(
            self.person[is_before & self._is_counted], minlength=people_count
        ).astype(np.float64)
        return (
            first_ts,
            last_ts,
            counts,
            np.bincount(person, self.amount[is_before], people_count).astype(np.float64),
        )

    def _require_known(self, moment: int) -> None:
        if moment > self.known_until:
            problem = (
                f"asks for what happened until {to_iso(moment)}, while only "
                f"{to_iso(self.known_until)} is known"
            )
            raise LeakError(
                f"a label {problem}: its window is cut off",
                fix="ask at an earlier origin, or for a shorter window",
            )


@dataclass(frozen=True)
class Window:
    """The prediction window of an origin: [origin + gap, origin + gap + length), µs."""

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


def build_activity(events: pa.Table, churn: Churn, read_at: int, lateness_us: int = 0) -> Activity:
    """Return the activity in a table of events.

    Args:
        events: columns of `events.contract.schema.ROUTED`; people without a user id and bots are
            left out.
        read_at: the moment of reading; events of the last `lateness_us` before it may still be
            incomplete and are left out.

    Raises:
        NotReadyError: no such event.
    """
    is_activity = pc.and_(
        pc.is_in(events["type"], pa.array(list(churn.types), pa.string())),
        pc.is_valid(events["person"]),
    )
    is_activity = pc.and_(
        is_activity,
        pc.invert(pc.fill_null(pc.starts_with(events["person"], ANONYMOUS_PREFIX), True)),
    )
    rows = events.filter(pc.and_(is_activity, human_mask(events)))
    rows = rows.filter(pc.invert(pc.fill_null(rows["timeless"], False)))
    if not rows.num_rows:
        raise NotReadyError(
            f"no event of type {' or '.join(churn.types)} by a known user",
            fix="tailorbird import FORMAT PATH",
        )
    people = IdVocabulary.sorted_of(
        rows["person"]
    )  # sorted, so that sampling by code does not depend on the lake's order
    person = people.encode(rows["person"])
    ts = micros(rows["ts"])
    received = micros(pc.coalesce(rows["received_at"], rows["ts"]))
    amount = _compute_amounts(rows)
    order = np.lexsort((amount, received, ts, person))
    person = person[order]
    ts = ts[order]
    received = received[order]
    amount = amount[order]
    known_until = read_at - lateness_us
    is_complete = ts < known_until
    merge_history = MergeHistory.from_events(events, people, known_until)
    return Activity(
        people,
        person[is_complete],
        ts[is_complete],
        np.minimum(received[is_complete], known_until),
        amount[is_complete],
        known_until,
        merge_history,
        churn.per == "day",
    )


def _count_within(counter: WindowCounter, person: Ints, start: int, stop: int) -> Floats:
    return counter.count(
        person, np.full(1, stop, np.int64), np.zeros(len(person), np.int64), stop - start
    )


def _compute_amounts(rows: pa.Table) -> Floats:
    """Return price × quantity; a missing price counts as 0, a missing quantity as 1."""
    if not {"price", "quantity"} <= set(rows.column_names):
        return np.zeros(rows.num_rows)
    price = pc.fill_null(rows["price"], 0.0).to_numpy()
    return np.asarray(price * pc.fill_null(rows["quantity"], 1.0).to_numpy(), np.float64)
