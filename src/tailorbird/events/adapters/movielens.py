"""MovieLens in every layout: 100k (`u.data`), 1m (`ratings.dat`), 20m and later (CSV), and the same
tables as Parquet.

    ratings → rating events
    movies  → timeless item profiles (title, genres, year)
    users   → timeless user profiles
"""

import csv
import io
import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tailorbird.errors import InputError
from tailorbird.events.adapters.batch import (
    BATCH_ROWS,
    AdapterOptions,
    Batch,
    FormatAdapter,
    encode_event,
    to_batches,
    with_content_id,
)
from tailorbird.events.adapters.record import encode_unread_row
from tailorbird.events.contract.envelope import Event
from tailorbird.events.tables.encodings import open_table
from tailorbird.events.tables.files import (
    READ_ERRORS,
    name_without_compression,
    open_file,
    read_parquet_batches,
)
from tailorbird.events.tables.quotes import LineReader, next_row

PATTERNS = (
    "u.data",
    "u.item",
    "u.user",
    "ratings.dat",
    "movies.dat",
    "users.dat",
    "ratings.csv",
    "movies.csv",
    "ratings.parquet",
    "movies.parquet",
)

_SURROGATES = re.compile("[\udc80-\udcff]")  # bytes that are no UTF-8
_YEAR = re.compile(r"\((\d{4})\)\s*$")
# u.item marks genres by 19 columns of 0 and 1, in this order (its README).
_GENRES_100K = (
    "unknown",
    "Action",
    "Adventure",
    "Animation",
    "Children's",
    "Comedy",
    "Crime",
    "Documentary",
    "Drama",
    "Fantasy",
    "Film-Noir",
    "Horror",
    "Musical",
    "Mystery",
    "Romance",
    "Sci-Fi",
    "Thriller",
    "War",
    "Western",
)

_NO_NUMBER_REASON = ("wrong_type", "$", "a number or a time in it is none")
Row = list[str]


def read_movielens(files: dict[Path, str], options: AdapterOptions) -> Iterator[Batch]:
    """Read whichever of the known files are there.

    Raises:
        InputError: none of the files is one of a MovieLens layout.
    """
    data_files = [file for file in files if name_without_compression(file) in _READERS]
    if not data_files:
        names = ", ".join(file.name for file in files)
        raise InputError(
            f"expected ratings and movies of a MovieLens layout ({', '.join(PATTERNS)}), got "
            f"{names}",
            where=options.root,
        )
    for file in data_files:
        read_rows, convert = _READERS[name_without_compression(file)]
        yield from to_batches(str(file), _convert_rows(file, read_rows, convert, files[file][:12]))


def _convert_rows(
    file: Path,
    read_rows: Callable[[Path], Iterator[Row]],
    convert: Callable[[Row, str], Event],
    digest: str,
) -> Iterator[tuple[int, bytes]]:
    number = 0
    try:
        for number, row in enumerate(read_rows(file), 1):
            try:
                event = convert(row, f"{digest}:{number}")
                yield (
                    number,
                    encode_event(
                        with_content_id("movielens", event) if event.type == "rating" else event
                    ),
                )
            except IndexError:
                yield number, encode_unread_row("movielens", f"{digest}:{number}", row)
            except (ValueError, OverflowError):
                yield (
                    number,
                    encode_unread_row("movielens", f"{digest}:{number}", row, _NO_NUMBER_REASON),
                )
    except (*READ_ERRORS, csv.Error) as error:
        raise InputError(f"damaged after row {number}: {error}", where=str(file)) from None


def _make_separated_reader(separator: str) -> Callable[[Path], Iterator[Row]]:
    def read_rows(file: Path) -> Iterator[Row]:
        with io.TextIOWrapper(open_file(file), encoding="latin-1") as stream:
            for line in stream:
                if line.strip():
                    yield line.rstrip("\n").split(separator)

    return read_rows


def _read_csv_rows(file: Path) -> Iterator[Row]:
    """Yield the rows; a malformed row, or one of another width, is yielded as a single field."""
    with io.TextIOWrapper(
        open_table(file), encoding="utf-8-sig", errors="surrogateescape", newline=""
    ) as stream:
        line_reader = LineReader(stream)
        reader = csv.reader(line_reader)
        width = len(next(reader, []))
        with suppress(StopIteration):
            while True:
                row = next_row(reader, line_reader, width)
                if row is not None and len(row) == width and _is_valid_text(row):
                    yield row
                elif row != []:
                    yield [
                        "".join(line_reader.row_lines)
                        .encode(errors="surrogateescape")
                        .decode(errors="backslashreplace")
                        .rstrip("\r\n")
                    ]


def _is_valid_text(row: Row) -> bool:
    return not any(map(_SURROGATES.search, row))


def _make_parquet_reader(columns: tuple[str, ...]) -> Callable[[Path], Iterator[Row]]:
    def read_rows(file: Path) -> Iterator[Row]:
        source = pq.ParquetFile(file)
        missing_columns = [name for name in columns if name not in source.schema_arrow.names]
        if missing_columns:
            raise InputError(
                f"expected the columns {', '.join(columns)}, missing {', '.join(missing_columns)}",
                where=str(file),
            )
        for batch in read_parquet_batches(source, file, BATCH_ROWS, list(columns)):
            values = [_read_texts(batch.column(name)) for name in columns]
            yield from (list(row) for row in zip(*values, strict=True))

    return read_rows


def _read_texts(column: Any) -> list[str]:
    if str(column.type).startswith("timestamp"):
        return [
            str(value)
            for value in column.cast(pa.timestamp("us", column.type.tz), safe=False)
            .cast("int64")
            .to_pylist()
        ]
    return [str(value) for value in column.to_pylist()]


def _convert_rating(user: str, item: str, rating: str, ts: int, event_id: str) -> Event:
    return Event(
        event_id=event_id,
        type="rating",
        ts=ts,
        user_id=user,
        item_id=item,
        properties={"rating": float(rating)},
    )


def _convert_rating_in_seconds(row: Row, event_id: str) -> Event:
    return _convert_rating(row[0], row[1], row[2], int(float(row[3])) * 1_000_000, event_id)


def _convert_rating_in_microseconds(row: Row, event_id: str) -> Event:
    return _convert_rating(row[0], row[1], row[2], int(row[3]), event_id)


def _convert_movie(item: str, title: str, genres: list[str], event_id: str) -> Event:
    properties: dict[str, Any] = {"title": title, "genres": genres}
    if genres:
        properties["category"] = genres[0]
    if match := _YEAR.search(title):
        properties["year"] = int(match[1])
    return Event(event_id=event_id, type="item", item_id=item, timeless=True, properties=properties)


def _convert_movie_with_genre_names(row: Row, event_id: str) -> Event:
    genres = [genre for genre in row[2].split("|") if genre and genre != "(no genres listed)"]
    return _convert_movie(row[0], row[1], genres, event_id)


def _convert_movie_with_genre_flags(row: Row, event_id: str) -> Event:
    genres = [name for name, flag in zip(_GENRES_100K, row[5:24], strict=False) if flag == "1"]
    return _convert_movie(row[0], row[1], genres, event_id)


def _convert_user_1m(row: Row, event_id: str) -> Event:
    return _convert_user(
        row[0],
        {"gender": row[1], "age": int(row[2]), "occupation": row[3], "zip": row[4]},
        event_id,
    )


def _convert_user_100k(row: Row, event_id: str) -> Event:
    return _convert_user(
        row[0],
        {"age": int(row[1]), "gender": row[2], "occupation": row[3], "zip": row[4]},
        event_id,
    )


def _convert_user(user: str, properties: dict[str, Any], event_id: str) -> Event:
    return Event(event_id=event_id, type="user", user_id=user, timeless=True, properties=properties)


_READERS: dict[str, tuple[Callable[[Path], Iterator[Row]], Callable[[Row, str], Event]]] = {
    "u.item": (_make_separated_reader("|"), _convert_movie_with_genre_flags),
    "u.user": (_make_separated_reader("|"), _convert_user_100k),
    "u.data": (_make_separated_reader("\t"), _convert_rating_in_seconds),
    "movies.dat": (_make_separated_reader("::"), _convert_movie_with_genre_names),
    "users.dat": (_make_separated_reader("::"), _convert_user_1m),
    "ratings.dat": (_make_separated_reader("::"), _convert_rating_in_seconds),
    "movies.csv": (_read_csv_rows, _convert_movie_with_genre_names),
    "ratings.csv": (_read_csv_rows, _convert_rating_in_seconds),
    "movies.parquet": (
        _make_parquet_reader(("movie_id", "title", "genres")),
        _convert_movie_with_genre_names,
    ),
    "ratings.parquet": (
        _make_parquet_reader(("user_id", "movie_id", "rating", "ts")),
        _convert_rating_in_microseconds,
    ),
}


ADAPTER = FormatAdapter(
    read=read_movielens,
    patterns=PATTERNS,
    is_table=lambda name, columns: (
        name in PATTERNS and bool({"movieId", "movie_id"} & set(columns))
    ),
    is_text=lambda name, _: name in PATTERNS and not name.endswith(".csv"),
    has_csv=True,
)
