"""A cache of the features that were last read, for outages of the store.

    person → columns that are about no item, and the sequences, of the `people_max` seen last
    item   → columns about the item alone, in a table of fixed size whose cell follows from the
             key; renewed after `REFRESH_AFTER_S`, because most candidates repeat

A row is assembled from both. Columns about a person and an item together are missing then, as they
are for a pair that has never met. Derived columns are computed again. Anything older than
`AGE_MAX_S` is not used. Such rows are never logged as features: an answer's features are those of
one commit of the state, or none.
"""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from tailorbird.features import FeatureSet, Rows
from tailorbird.features.arithmetic.finish import fill_derived_columns

Keys = npt.NDArray[np.uint64]
Indices = npt.NDArray[np.intp]

PEOPLE_MAX = 10_000
ITEMS_MAX = 1 << 16
SCHEMAS_MAX = 2
AGE_MAX_S = 600.0
REFRESH_AFTER_S = 10.0
COVERAGE_MIN = 0.5  # of the candidates; below that, popularity is better


@dataclass(frozen=True)
class _ColumnGroups:
    """The positions of the columns about the item, and of those about no item, for one kind of
    columns.
    """

    item_positions: Indices
    request_positions: Indices

    @classmethod
    def from_names(
        cls, names: tuple[str, ...], entity_by_column: dict[str, str]
    ) -> "_ColumnGroups":
        item_positions = []
        request_positions = []
        for position, name in enumerate(names):
            is_item_entity = [  # of each entity of a column, such as "user+item.category"
                entity.partition(".")[0] == "item" for entity in entity_by_column[name].split("+")
            ]
            if all(is_item_entity):
                item_positions.append(position)
            elif not any(is_item_entity):
                request_positions.append(position)
        return cls(np.array(item_positions, np.intp), np.array(request_positions, np.intp))


class _ItemTable:
    """The cached items of one schema."""

    def __init__(self, features: FeatureSet) -> None:
        entity_by_column = {column.name: column.entity for column in features.columns}
        self.features = features
        self.numeric = _ColumnGroups.from_names(features.numeric, entity_by_column)
        self.categorical = _ColumnGroups.from_names(features.categorical, entity_by_column)
        self.keys = np.zeros(ITEMS_MAX, np.uint64)
        self.updated_at_s = np.full(ITEMS_MAX, -np.inf)
        self.numeric_values = np.full(
            (ITEMS_MAX, self.numeric.item_positions.size), np.nan, np.float32
        )
        self.categorical_hashes = np.zeros(
            (ITEMS_MAX, self.categorical.item_positions.size), np.uint64
        )

    def store(self, keys: Keys, rows: Rows, now: float) -> None:
        cells = (keys % np.uint64(ITEMS_MAX)).astype(np.intp)
        stale_rows = np.flatnonzero(
            (self.keys[cells] != keys) | (self.updated_at_s[cells] < now - REFRESH_AFTER_S)
        )
        if not stale_rows.size:
            return
        cells = cells[stale_rows]
        self.keys[cells] = keys[stale_rows]
        self.updated_at_s[cells] = now
        self.numeric_values[cells] = rows.numeric[stale_rows[:, None], self.numeric.item_positions]
        self.categorical_hashes[cells] = rows.categorical[
            stale_rows[:, None], self.categorical.item_positions
        ]


class StaleFeatureCache:
    """Caches features by person and by item. Thread-safe; for two schemas at a time.

    Args:
        read_clock_s: monotonic seconds.
    """

    def __init__(
        self, people_max: int = PEOPLE_MAX, *, read_clock_s: Callable[[], float] = time.monotonic
    ) -> None:
        self._people_max = people_max
        self._read_clock_s = read_clock_s
        self._people: OrderedDict[tuple[str, str], tuple[float, Rows]] = OrderedDict()
        self._tables: OrderedDict[str, _ItemTable] = OrderedDict()
        self._lock = threading.Lock()

    def store(self, features: FeatureSet, person_id: str, rows: Rows, keys: Keys | None) -> None:
        """Store the features that were read for a person.

        Args:
            person_id: the id in the query; "" stores nothing of the person.
            keys: of the items that were read, or None where the rows are about the person alone.
        """
        with self._lock:
            table = self._item_table(features)
            now = self._read_clock_s()
            if keys is not None:
                table.store(keys, rows, now)
                return
            if not person_id:
                return
            user_row = replace(
                rows, numeric=rows.numeric[:1].copy(), categorical=rows.categorical[:1].copy()
            )
            self._people[features.schema_hash, person_id] = (now, user_row)
            self._people.move_to_end((features.schema_hash, person_id))
            if len(self._people) > self._people_max:
                self._people.popitem(last=False)

    def lookup(
        self, features: FeatureSet, person_id: str, keys: Keys | None, t: int
    ) -> Rows | None:
        """Return rows for a person's request at time `t`, or None where too little is cached."""
        with self._lock:
            table = self._item_table(features)
            oldest_usable_s = self._read_clock_s() - AGE_MAX_S
            stored_at_s, user_row = self._people.get(
                (features.schema_hash, person_id), (-np.inf, None)
            )
            if user_row is None or stored_at_s < oldest_usable_s:
                return None
            if keys is None:
                return replace(user_row, t=t)
            cells = (keys % np.uint64(ITEMS_MAX)).astype(np.intp)
            is_cached = (table.keys[cells] == keys) & (table.updated_at_s[cells] >= oldest_usable_s)
            if not keys.size or is_cached.mean() < COVERAGE_MIN:
                return None
            numeric = np.full((keys.size, len(features.numeric)), np.nan, np.float32)
            numeric[:, table.numeric.item_positions] = np.where(
                is_cached[:, None], table.numeric_values[cells], np.float32(np.nan)
            )
            categorical = np.zeros((keys.size, len(features.categorical)), np.uint64)
            categorical[:, table.categorical.item_positions] = np.where(
                is_cached[:, None], table.categorical_hashes[cells], np.uint64(0)
            )
        numeric[:, table.numeric.request_positions] = user_row.numeric[
            :, table.numeric.request_positions
        ]
        categorical[:, table.categorical.request_positions] = user_row.categorical[
            :, table.categorical.request_positions
        ]
        with np.errstate(all="ignore"):
            fill_derived_columns(features.layout, numeric)
        return replace(user_row, numeric=numeric, categorical=categorical, t=t)

    def _item_table(self, features: FeatureSet) -> _ItemTable:
        table = self._tables.get(features.schema_hash)
        if table is None:
            table = self._tables[features.schema_hash] = _ItemTable(features)
            if len(self._tables) > SCHEMAS_MAX:
                self._tables.popitem(last=False)
        return table
