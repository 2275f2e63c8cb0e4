"""Context of requests: numbers, and texts as keys, each computed on first use."""

from collections.abc import Callable
from functools import cached_property

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from tailorbird.features.declare.fields import INTEGER_FIELDS
from tailorbird.features.declare.limits import WORDS_MAX
from tailorbird.features.event_columns.fields import (
    compute_weekdays,
    integer_keys,
    query_keys,
    query_words,
)
from tailorbird.features.offline.bulk import Requests, Texts
from tailorbird.features.offline.hashing import hash_texts

Int64s = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Keys = npt.NDArray[np.uint64]


class RequestContext:
    """The context of many requests, in their order."""

    def __init__(self, requests: Requests) -> None:
        self._requests = requests
        self._request_times = np.asarray(requests.t, np.int64)
        self._numbers: dict[str, Floats] = {}
        self._keys: dict[str, Keys] = {}

    def numbers(self, name: str) -> Floats:
        """Return a number of each request, NaN where it is unknown."""
        if name not in self._numbers:
            self._numbers[name] = self._compute_number(name)
        return self._numbers[name]

    def keys(self, name: str) -> Keys:
        """Return the hashed text of each request."""
        if name not in self._keys:
            self._keys[name] = self.text_keys(name)
        return self._keys[name]

    @cached_property
    def words(self) -> Keys:
        """The words of each request's query (m, WORDS_MAX)."""
        queries = self._requests.query
        return (
            np.zeros((len(self._request_times), WORDS_MAX), np.uint64)
            if queries is None
            else query_words(to_array(queries))
        )

    def _compute_number(self, name: str) -> Floats:
        """Compute a number of each request, NaN where it is unknown."""
        if name == "weekday":
            return compute_weekdays(self._request_times, self.numbers("local_hour"))
        column = getattr(self._requests, name)
        if column is None:
            return np.full(len(self._request_times), 1.0 if name == "position" else np.nan)
        numbers = pa.array(column) if not isinstance(column, pa.Array | pa.ChunkedArray) else column
        return pc.fill_null(numbers.cast(pa.float64()), np.nan).to_numpy()

    def text_keys(self, name: str, to_keys: Callable[[pa.Array], Keys] = hash_texts) -> Keys:
        """Compute a text of each request as a key."""
        if name in INTEGER_FIELDS:
            return integer_keys(self.numbers(name))
        if name == "query":
            queries = self._requests.query
            return (
                np.zeros(len(self._request_times), np.uint64)
                if queries is None
                else query_keys(to_array(queries))
            )
        column = {"user": "person", "session": "session_id"}.get(name, name)
        return keys_of_texts(getattr(self._requests, column), len(self._request_times), to_keys)


def to_array(texts: Texts) -> pa.Array:
    return (
        texts.combine_chunks()
        if isinstance(texts, pa.ChunkedArray)
        else pa.array(texts, pa.string())
    )


def keys_of_texts(texts: Texts | None, count: int, to_keys: Callable[[pa.Array], Keys]) -> Keys:
    """Return a key of each text, 0 for None."""
    return np.zeros(count, np.uint64) if texts is None else to_keys(to_array(texts))
