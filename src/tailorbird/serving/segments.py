"""What is popular where: interests by country and by device, counted as the routed log tells them.

For the time when nothing is known of the person who asks but what stands in the request. Bounded: the segments that come first, up to
`SEGMENTS_MAX`, and of each the items that matter; counts are halved when they grow old, so that a segment follows its time.
What a slot names as a source, and training can ask as of any moment, is counted in the index: `retrieval.segments`.
"""

import threading
import time
from collections import Counter
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from tailorbird.events import Context
from tailorbird.retrieval import Index
from tailorbird.retrieval.segments import FIELDS, INTERESTS_MIN, ITEMS_MAX, SEGMENTS_MAX

Floats = npt.NDArray[np.float64]

HALVED_AT = 100_000  # interests of a segment, and each time it has so many again
RENEWED_S = 2.0  # how old an order may be


class Segments:
    """Counts by segment. Fed by one thread, asked by any."""

    def __init__(self, *, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._made: dict[tuple[str, str | None], tuple[Index, float, Floats]] = {}
        self._counts: dict[tuple[str, str], Counter[str]] = {}
        self._totals: Counter[tuple[str, str]] = Counter()
        self._lock = threading.Lock()

    def take(self, interests: pa.Table) -> None:
        """Count rows with `item_id` and the fields of segments."""
        for field in FIELDS:
            known = interests.filter(pc.and_(pc.is_valid(interests[field]), pc.is_valid(interests["item_id"])))
            if not known.num_rows:
                continue
            grouped = known.group_by([field, "item_id"]).aggregate([([], "count_all")])
            with self._lock:
                for value, item, count in zip(*(grouped[name].to_pylist() for name in (field, "item_id", "count_all")), strict=True):
                    self._add((field, value), item, count)

    def values(self, context: Context, index: Index) -> Floats | None:
        """The share of each of the index's items (n,) in the narrowest segment of which enough is known, or None."""
        for field in FIELDS:
            segment = field, getattr(context, field)
            with self._lock:
                if self._totals[segment] < INTERESTS_MIN:
                    continue
                made = self._made.get(segment)
                if made is not None and made[0] is index and self._now() < made[1]:
                    return made[2]
                counts = dict(self._counts[segment])
            rows = index.find_ids(list(counts))
            known = rows >= 0
            values = np.zeros(len(index))
            values[rows[known]] = np.fromiter(counts.values(), np.float64, len(counts))[known]
            if values.any():
                values /= values.max()
                self._made[segment] = index, self._now() + RENEWED_S, values
                return values
        return None

    def _add(self, segment: tuple[str, str], item: str, count: int) -> None:
        counts = self._counts.get(segment)
        if counts is None:
            if len(self._counts) >= SEGMENTS_MAX:
                return
            counts = self._counts[segment] = Counter()
        counts[item] += count
        self._totals[segment] += count
        if self._totals[segment] >= HALVED_AT or len(counts) > 2 * ITEMS_MAX:
            kept = Counter({name: (number + 1) // 2 for name, number in counts.most_common(ITEMS_MAX)})
            self._counts[segment], self._totals[segment] = kept, kept.total()
