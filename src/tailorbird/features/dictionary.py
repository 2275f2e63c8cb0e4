"""From hashes back to texts: the dictionary of a backfill's categories and sequences, by reading
the lake's texts once more.

Only what is looked for is kept, and reading ends when all is found.
"""

from collections.abc import Iterable, Iterator

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tailorbird.features.bulk import Requests
from tailorbird.features.fields import parsed_json
from tailorbird.features.hashing import hashes
from tailorbird.features.plain import query_text, text_of

Keys = npt.NDArray[np.uint64]

_JSON = ("properties", "user_profile", "item_profile")
_QUERIES = ("query", "answer_query")


def texts_of(wanted: Keys, requests: Requests, events: Iterable[pa.Table]) -> pa.Table:
    """Which text each hash is of, in columns `hash` and `text`, ascending; without those of which
    no text was found.
    """
    left, found = np.unique(wanted[wanted != 0]), []
    for texts in _texts(requests, events):
        if not len(left):
            break
        keys = hashes(texts)
        here = np.isin(keys, left)
        if here.any():
            found.append(
                pa.table({"hash": pa.array(keys[here]), "text": texts.filter(pa.array(here))})
            )
            left = np.setdiff1d(left, keys[here], assume_unique=True)
    empty = pa.table({"hash": pa.array([], pa.uint64()), "text": pa.array([], pa.string())})
    return pa.concat_tables([empty, *found]).sort_by("hash").combine_chunks()


def _texts(requests: Requests, events: Iterable[pa.Table]) -> Iterator[pa.Array]:
    """Different texts, lot by lot."""
    for name in ("device", "country", "query"):
        column = getattr(requests, name)
        if column is not None:
            yield _of_column(
                name,
                column
                if isinstance(column, pa.Array | pa.ChunkedArray)
                else pa.array(column, pa.string()),
            )
    for table in events:
        for name in table.column_names:
            kind = table.schema.field(name).type
            if pa.types.is_string(kind) or pa.types.is_list(kind):
                yield _of_column(name, table[name])


def _of_column(name: str, column: pa.Array | pa.ChunkedArray) -> pa.Array:
    if pa.types.is_list(column.type):
        column = column.combine_chunks().flatten()
        if not pa.types.is_string(column.type):
            return pa.array([], pa.string())
    unique = column.unique().drop_null()
    if name in _JSON:
        return _of_values(_values(parsed_json(text)) for text in unique.to_pylist())
    return (
        _of_values([query_text(text)] for text in unique.to_pylist())
        if name in _QUERIES
        else unique
    )


def _of_values(lots: Iterable[Iterable[object]]) -> pa.Array:
    return pa.array(
        list(
            dict.fromkeys(text for lot in lots for one in lot if (text := text_of(one)) is not None)
        ),
        pa.string(),
    )


def _values(parsed: object) -> Iterator[object]:
    """The attributes of a profile, or of each in a list of them, and the elements of those that are
    lists.
    """
    for profile in parsed if isinstance(parsed, list) else [parsed]:
        for value in profile.values() if isinstance(profile, dict) else ():
            yield from value if isinstance(value, list) else [value]
