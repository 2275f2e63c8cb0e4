"""Features as they were last read, for the time while the store does not answer.

    person → columns that are about no item, and the sequences; the `people_max` that were seen last
    item   → columns that are about the item alone; a table of fixed size, in which an item's place follows from its key; taken in again
             after `RENEWED_S`, since most of a request's candidates were candidates a moment ago

A row is put together from both. Columns about a person and an item together are missing then, as
they are for a model that has never seen the two; derived columns are computed anew. What is older
than `AGE_S` is not used. Nothing of this is ever logged as features: an answer's features are those
of one commit of the state, or none.
"""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from tailorbird.features import FeatureSet, Rows
from tailorbird.features.finish import derive

Keys = npt.NDArray[np.uint64]
Places = npt.NDArray[np.intp]

PEOPLE_MAX = 10_000
ITEMS_MAX = 1 << 16
SCHEMAS_MAX = 2
AGE_S, RENEWED_S = 600.0, 10.0
KNOWN_MIN = 0.5  # of the candidates; where fewer are known, popularity says more


@dataclass(frozen=True)
class _Places:
    """Of one kind of columns: where those about the item stand, and those about no item."""

    item: Places
    request: Places

    @classmethod
    def of(cls, names: tuple[str, ...], entities: dict[str, str]) -> "_Places":
        item, request = [], []
        for place, name in enumerate(names):
            about = [part.partition(".")[0] == "item" for part in entities[name].split("+")]
            if all(about):
                item.append(place)
            elif not any(about):
                request.append(place)
        return cls(np.array(item, np.intp), np.array(request, np.intp))


class _Table:
    """The items of one schema."""

    def __init__(self, features: FeatureSet) -> None:
        entities = {column.name: column.entity for column in features.columns}
        self.features = features
        self.numeric = _Places.of(features.numeric, entities)
        self.categorical = _Places.of(features.categorical, entities)
        self.keys = np.zeros(ITEMS_MAX, np.uint64)
        self.at = np.full(ITEMS_MAX, -np.inf)
        self.numbers = np.full((ITEMS_MAX, self.numeric.item.size), np.nan, np.float32)
        self.codes = np.zeros((ITEMS_MAX, self.categorical.item.size), np.uint64)

    def keep(self, keys: Keys, rows: Rows, now: float) -> None:
        place = (keys % np.uint64(ITEMS_MAX)).astype(np.intp)
        new = np.flatnonzero((self.keys[place] != keys) | (self.at[place] < now - RENEWED_S))
        if not new.size:
            return
        place = place[new]
        self.keys[place], self.at[place] = keys[new], now
        self.numbers[place] = rows.numeric[new[:, None], self.numeric.item]
        self.codes[place] = rows.categorical[new[:, None], self.categorical.item]


class LastKnown:
    """Keeps what was read, and gives it back. Safe to use from several threads; two schemas at a
    time.

    Args:
        now: monotonic seconds.
    """

    def __init__(
        self, people_max: int = PEOPLE_MAX, *, now: Callable[[], float] = time.monotonic
    ) -> None:
        self._people_max, self._now = people_max, now
        self._people: OrderedDict[tuple[str, str], tuple[float, Rows]] = OrderedDict()
        self._tables: OrderedDict[str, _Table] = OrderedDict()
        self._lock = threading.Lock()

    def keep(self, features: FeatureSet, asked: str, rows: Rows, keys: Keys | None) -> None:
        """Take in what was read for a person under the name that they asked by ("": none, and
        nothing of them is kept).

        Args:
            keys: of the items that were read, or None where it was for the person alone.
        """
        with self._lock:
            table = self._table_of(features)
            now = self._now()
            if keys is not None:
                table.keep(keys, rows, now)
                return
            if not asked:
                return
            one = replace(
                rows, numeric=rows.numeric[:1].copy(), categorical=rows.categorical[:1].copy()
            )
            self._people[features.schema_hash, asked] = (now, one)
            self._people.move_to_end((features.schema_hash, asked))
            if len(self._people) > self._people_max:
                self._people.popitem(last=False)

    def recall(self, features: FeatureSet, asked: str, keys: Keys | None, t: int) -> Rows | None:
        """Rows for a person's request, or None where too little of them is known."""
        with self._lock:
            table, since = self._table_of(features), self._now() - AGE_S
            at, person = self._people.get((features.schema_hash, asked), (-np.inf, None))
            if person is None or at < since:
                return None
            if keys is None:
                return replace(person, t=t)
            place = (keys % np.uint64(ITEMS_MAX)).astype(np.intp)
            known = (table.keys[place] == keys) & (table.at[place] >= since)
            if not keys.size or known.mean() < KNOWN_MIN:
                return None
            numeric = np.full((keys.size, len(features.numeric)), np.nan, np.float32)
            numeric[:, table.numeric.item] = np.where(
                known[:, None], table.numbers[place], np.float32(np.nan)
            )
            categorical = np.zeros((keys.size, len(features.categorical)), np.uint64)
            categorical[:, table.categorical.item] = np.where(
                known[:, None], table.codes[place], np.uint64(0)
            )
        numeric[:, table.numeric.request] = person.numeric[:, table.numeric.request]
        categorical[:, table.categorical.request] = person.categorical[:, table.categorical.request]
        with np.errstate(all="ignore"):
            derive(features.layout, numeric)
        return replace(person, numeric=numeric, categorical=categorical, t=t)

    def _table_of(self, features: FeatureSet) -> _Table:
        table = self._tables.get(features.schema_hash)
        if table is None:
            table = self._tables[features.schema_hash] = _Table(features)
            if len(self._tables) > SCHEMAS_MAX:
                self._tables.popitem(last=False)
        return table
