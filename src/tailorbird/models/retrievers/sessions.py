"""Sequences side by side, and where each item occurs in them: what nearest-neighbour retrievers search.

Sequences are numbered by the time of their last interaction, so that the newest of those with an item stand at the end of its list.

    sequence s   starts[s] … starts[s + 1]: (item, place); an item once, at its last place, counted from 1
    item i       lists[i] … lists[i + 1]: `holder`, the numbers of the sequences that hold it, ascending
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tailorbird.features.kernels import compiled
from tailorbird.models.baselines import Interactions
from tailorbird.models.retrievers.protocol import joined

Ints = npt.NDArray[np.int64]
Int32s = npt.NDArray[np.int32]


@dataclass(frozen=True)
class Sequences:
    """Sequences of items, ordered by the time of their last interaction.

    Attributes:
        starts: int64 (sequences + 1,).
        item, place: int32 (entries,).
        last: int64 (sequences,): time of the last interaction.
        person: int64 (sequences,): whose it is.
        lists: int64 (items + 1,).
        holder: int32 (entries,).
        log: the interactions themselves, sorted by (person, ts), to which more can be added.
    """

    starts: Ints
    item: Int32s
    place: Int32s
    last: Ints
    person: Ints
    lists: Ints
    holder: Int32s
    log: Interactions

    @classmethod
    def of(cls, seen: Interactions) -> "Sequences":
        """From interactions in any order; those without a person or an item are left out, equal times stay in their order."""
        person, item, ts = _ordered(seen)
        log = Interactions(person, item, ts, seen.people, seen.items)
        cuts = np.flatnonzero(np.concatenate(([True], person[1:] != person[:-1], [True]))) if len(person) else np.zeros(1, np.int64)
        last = ts[cuts[1:] - 1] if len(cuts) > 1 else np.zeros(0, np.int64)
        by_time = np.argsort(last, kind="stable")
        starts, items, places = _laid_out(item, cuts, by_time, seen.items)
        lists, holder = _postings(starts, items, seen.items)
        return cls(starts, items, places, last[by_time], person[cuts[by_time]], lists, holder, log)

    def __len__(self) -> int:
        return len(self.last)

    def with_more(self, more: Interactions) -> "Sequences":
        """The sequences with interactions added, none of which is earlier than what is there."""
        return Sequences.of(joined(self.log, more))


def _ordered(seen: Interactions) -> tuple[Ints, Ints, Ints]:
    """Persons, items and times by person and time. Looking whether they are so already is a tenth of sorting them."""
    person, item, ts = seen.person, seen.item, seen.ts
    known = (person >= 0) & (item >= 0)
    if not known.all():
        person, item, ts = person[known], item[known], ts[known]
    if not ((person[1:] > person[:-1]) | ((person[1:] == person[:-1]) & (ts[1:] >= ts[:-1]))).all():
        order = np.lexsort((ts, person))
        person, item, ts = person[order], item[order], ts[order]
    return person, item, ts


@compiled
def _laid_out(item: Ints, cuts: Ints, order: Ints, items: int) -> tuple[Ints, Int32s, Int32s]:
    """Entries of the sequences in `order`: each item once, at its last place."""
    at_last = np.full(items, -1, np.int64)
    out_item, out_place = np.empty(len(item), np.int32), np.empty(len(item), np.int32)
    starts = np.zeros(len(order) + 1, np.int64)
    size = 0
    for number in range(len(order)):
        low, high = cuts[order[number]], cuts[order[number] + 1]
        for at in range(low, high):
            at_last[item[at]] = at
        for at in range(low, high):
            if at_last[item[at]] == at:
                out_item[size], out_place[size] = item[at], at - low + 1
                size += 1
        starts[number + 1] = size
    return starts, out_item[:size].copy(), out_place[:size].copy()


@compiled
def _postings(starts: Ints, item: Int32s, items: int) -> tuple[Ints, Int32s]:
    """For each item the sequences that hold it, ascending."""
    lists = np.zeros(items + 1, np.int64)
    for at in range(len(item)):
        lists[item[at] + 1] += 1
    for code in range(items):
        lists[code + 1] += lists[code]
    cursor = lists[:-1].copy()
    holder = np.empty(len(item), np.int32)
    for number in range(len(starts) - 1):
        for at in range(starts[number], starts[number + 1]):
            code = item[at]
            holder[cursor[code]] = number
            cursor[code] += 1
    return lists, holder
