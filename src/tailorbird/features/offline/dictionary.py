"""The dictionary of a backfill's categories and sequences, from hashes to texts.

It is built by reading the texts of the lake once more. Only requested texts are kept, and reading
ends when all are found.
"""

from collections.abc import Iterable, Iterator

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tailorbird.features.declare.scalars import query_text, text_of
from tailorbird.features.event_columns.fields import parse_json
from tailorbird.features.offline.bulk import Requests
from tailorbird.features.offline.hashing import hash_texts

Keys = npt.NDArray[np.uint64]

_JSON_COLUMNS = ("properties", "user_profile", "item_profile")
_QUERY_COLUMNS = ("query", "answer_query")


def texts_by_hash(
    requested_hashes: Keys, requests: Requests, events: Iterable[pa.Table]
) -> pa.Table:
    """Return the text of each hash, in columns `hash` and `text`, ascending; unknown hashes are
    missing.
    """
    missing_hashes = np.unique(requested_hashes[requested_hashes != 0])
    tables = []
    for texts in _read_texts(requests, events):
        if not len(missing_hashes):
            break
        hashes = hash_texts(texts)
        is_match = np.isin(hashes, missing_hashes)
        if is_match.any():
            tables.append(
                pa.table(
                    {"hash": pa.array(hashes[is_match]), "text": texts.filter(pa.array(is_match))}
                )
            )
            missing_hashes = np.setdiff1d(missing_hashes, hashes[is_match], assume_unique=True)
    empty = pa.table({"hash": pa.array([], pa.uint64()), "text": pa.array([], pa.string())})
    return pa.concat_tables([empty, *tables]).sort_by("hash").combine_chunks()


def _read_texts(requests: Requests, events: Iterable[pa.Table]) -> Iterator[pa.Array]:
    """Yield the distinct texts, column by column."""
    for name in ("device", "country", "query"):
        column = getattr(requests, name)
        if column is not None:
            yield _column_texts(
                name,
                column
                if isinstance(column, pa.Array | pa.ChunkedArray)
                else pa.array(column, pa.string()),
            )
    for table in events:
        for name in table.column_names:
            data_type = table.schema.field(name).type
            if pa.types.is_string(data_type) or pa.types.is_list(data_type):
                yield _column_texts(name, table[name])


def _column_texts(name: str, column: pa.Array | pa.ChunkedArray) -> pa.Array:
    if pa.types.is_list(column.type):
        column = column.combine_chunks().flatten()
        if not pa.types.is_string(column.type):
            return pa.array([], pa.string())
    unique = column.unique().drop_null()
    if name in _JSON_COLUMNS:
        return _distinct_texts(_read_values(parse_json(text)) for text in unique.to_pylist())
    return (
        _distinct_texts([query_text(text)] for text in unique.to_pylist())
        if name in _QUERY_COLUMNS
        else unique
    )


def _distinct_texts(value_groups: Iterable[Iterable[object]]) -> pa.Array:
    return pa.array(
        list(
            dict.fromkeys(
                text
                for values in value_groups
                for item in values
                if (text := text_of(item)) is not None
            )
        ),
        pa.string(),
    )


def _read_values(parsed: object) -> Iterator[object]:
    """Yield the attributes of one or several profiles, and the elements of lists."""
    for profile in parsed if isinstance(parsed, list) else [parsed]:
        for value in profile.values() if isinstance(profile, dict) else ():
            yield from value if isinstance(value, list) else [value]
