"""What the layouts share: actions of made-up people, ids, texts, and writers of tables."""

import csv
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

IntArray = NDArray[np.int64]
T = TypeVar("T")
DAY = 86_400
DIGITS = "0123456789"
HEX = "0123456789abcdef"
UPPER = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
LOWER = UPPER.lower()
# Visits by hour of the day: few at night, most in the evening.
_HOURS = np.array(
    [2, 1, 1, 1, 1, 2, 4, 7, 9, 10, 11, 12, 13, 12, 11, 11, 12, 14, 16, 18, 19, 17, 11, 5], float
)
_WORDS = """
great small really warm the and a of with for without blue simple quiet strong light easy tasty
slow perfect good bad nice old new classic soft big long first second every my our family summer
winter night garden kitchen city house table water coffee paper stone wood
"""


@dataclass(frozen=True)
class Actions:
    """Actions in the order of time; people and items are numbered from 0, `second` is of 1970."""

    person: IntArray
    item: IntArray
    second: IntArray
    session: IntArray
    types: list[str]

    def __len__(self) -> int:
        return len(self.person)


def draw_actions(
    rng: np.random.Generator,
    n_rows: int,
    *,
    n_people: int,
    n_items: int,
    start: str,
    days: int,
    per_session: float = 4.0,
    gap_s: float = 45.0,
    distinct: str = "",
    funnel: Mapping[str, float] | None = None,
    follow: Sequence[str] = (),
) -> Actions:
    """Return about `n_rows` actions in sessions of people who return on other days.

    Args:
        per_session: the mean number of actions of a session.
        gap_s: the median time between two actions of a session; 0 where a session is an order.
        distinct: `"session"` or `"person"` leaves out repeats of an item within one.
        funnel: the share of each type.
        follow: types whose item is that of the action before, such as a purchase after a view.
    """
    n_sessions = max(
        2, round(n_rows / per_session * {"person": 1.9, "session": 1.2}.get(distinct, 1.0))
    )
    activity = rng.lognormal(0.0, 1.1, n_people)
    owners = rng.choice(n_people, n_sessions, p=activity / activity.sum())
    begin = int(np.datetime64(start, "s").astype(np.int64))
    hours = rng.choice(24, n_sessions, p=_HOURS / _HOURS.sum())
    starts = begin + rng.integers(0, days, n_sessions) * DAY + hours * 3600
    starts = np.sort(starts + rng.integers(0, 3600, n_sessions))
    lengths = rng.geometric(min(1.0, 1.0 / per_session), n_sessions)
    session = np.repeat(np.arange(n_sessions), lengths)
    person = owners[session]
    n = len(session)

    gaps = rng.lognormal(np.log(gap_s), 1.0, n) if gap_s else np.zeros(n)
    elapsed = np.cumsum(gaps)
    first_rows = np.cumsum(lengths) - lengths
    second = starts[session] + (elapsed - elapsed[first_rows][session]).astype(np.int64)

    # Popularity falls with the rank; most actions stay within the group of items that a person likes.
    n_groups = max(1, min(12, n_items // 8))
    weights = 1.0 / (np.arange(n_items) + 3.0) ** 0.9
    item = np.searchsorted(np.cumsum(weights) / weights.sum(), rng.random(n)).clip(0, n_items - 1)
    taste = rng.integers(0, n_groups, n_people)[person]
    liked = item // n_groups * n_groups + taste
    item = np.where((rng.random(n) < 0.6) & (liked < n_items), liked, item)

    types = [""] * n
    if funnel:
        names = list(funnel)
        shares = np.array([funnel[name] for name in names])
        types = pick(names, rng.choice(len(names), n, p=shares / shares.sum()))
        for row in range(1, n):
            if types[row] in follow and session[row] == session[row - 1]:
                item[row] = item[row - 1]

    rows = np.arange(n)
    if distinct:
        group = person if distinct == "person" else session
        rows = np.sort(np.unique(group * n_items + item, return_index=True)[1])
    rows = rows[np.argsort(second[rows], kind="stable")]
    if len(rows) > n_rows and gap_s:
        rows = rows[:n_rows]
    return Actions(
        person=person[rows],
        item=item[rows],
        second=second[rows],
        session=session[rows],
        types=pick(types, rows),
    )


def pick(values: Sequence[T], index: NDArray[Any]) -> list[T]:
    """Return the value at each index."""
    return [values[i] for i in index.tolist()]


def draw_choices(
    rng: np.random.Generator, values: Sequence[T], n: int, shares: Sequence[float] | None = None
) -> list[T]:
    """Return `n` of the values; without shares, each has half the weight of the one before."""
    weights = np.array(shares if shares is not None else [0.5**i for i in range(len(values))])
    return pick(values, rng.choice(len(values), n, p=weights / weights.sum()))


def draw_even(rng: np.random.Generator, values: Sequence[T], n: int) -> list[T]:
    """Return `n` of the values, each as likely as the others."""
    return pick(values, rng.integers(0, len(values), n))


def draw_codes(
    rng: np.random.Generator, n: int, length: int, alphabet: str = HEX, prefix: str = ""
) -> list[str]:
    """Return `n` different random codes."""
    letters = np.array(list(alphabet))
    codes: dict[str, None] = {}
    while len(codes) < n:
        drawn = letters[rng.integers(0, len(letters), (n, length))]
        codes.update(dict.fromkeys(prefix + "".join(row) for row in drawn.tolist()))
    return list(codes)[:n]


def draw_numbers(rng: np.random.Generator, n: int, low: int, high: int) -> list[int]:
    """Return `n` different whole numbers, in random order."""
    return (rng.choice(high - low, n, replace=False) + low).tolist()


def draw_uuids(rng: np.random.Generator, n: int) -> list[str]:
    """Return `n` random UUIDs of version 4."""
    return [
        f"{code[:8]}-{code[8:12]}-4{code[13:16]}-a{code[17:20]}-{code[20:]}"
        for code in draw_codes(rng, n, 32)
    ]


def draw_titles(
    rng: np.random.Generator, n: int, words: Sequence[str] = (), n_words: tuple[int, int] = (2, 4)
) -> list[str]:
    """Return `n` names of a few words each."""
    vocabulary = words or _WORDS.split()
    drawn = rng.integers(0, len(vocabulary), (n, n_words[1])).tolist()
    lengths = rng.integers(n_words[0], n_words[1] + 1, n).tolist()
    return [
        " ".join(vocabulary[w] for w in row[:length]).capitalize()
        for row, length in zip(drawn, lengths, strict=True)
    ]


def draw_texts(
    rng: np.random.Generator, n: int, words: Sequence[str] = (), breaks: bool = True
) -> list[str]:
    """Return `n` reviews with commas and quotes, and some with line breaks."""
    sentences = draw_titles(rng, 200, words, (4, 11))
    drawn = rng.integers(0, len(sentences), (n, 4)).tolist()
    lengths = rng.integers(1, 5, n).tolist()
    marks = rng.random(n).tolist()
    texts = []
    for row, length, mark in zip(drawn, lengths, marks, strict=True):
        text = ". ".join(sentences[s] for s in row[:length]) + "."
        if mark < 0.1:
            text = text.replace(" ", ' "so" ', 1)
        elif mark < 0.4:
            text = text.replace(" ", ", ", 1)
        elif mark < 0.45 and breaks:
            text = text.replace(". ", ".\n\n", 1)
        texts.append(text)
    return texts


def draw_prices(rng: np.random.Generator, n: int, median: float = 20.0) -> list[float]:
    """Return `n` prices that end in 9, 5 or 0 cents."""
    tenths = np.maximum(rng.lognormal(np.log(median * 10), 0.8, n).astype(np.int64), 3)
    cents = rng.choice([9, 5, 0], n, p=[0.6, 0.2, 0.2])
    return ((tenths * 10 + cents) / 100).tolist()


def draw_ratings(rng: np.random.Generator, items: NDArray[Any], n_items: int) -> list[int]:
    """Return whole ratings from 1 to 5; items differ in how good they are."""
    quality = rng.normal(4.0, 0.5, n_items)
    return (
        np.rint(quality[items] + rng.normal(0.0, 1.0, len(items))).clip(1, 5).astype(int).tolist()
    )


def blank(
    rng: np.random.Generator, values: Sequence[T], share: float, null: T | None = None
) -> list[T | None]:
    """Return the values with a share of them replaced by null."""
    absent = (rng.random(len(values)) < share).tolist()
    return [null if gone else value for value, gone in zip(values, absent, strict=True)]


def format_times(seconds: Sequence[int] | IntArray, pattern: str) -> list[str]:
    """Return times of UTC, seconds of 1970, in a form of `strftime`."""
    return [datetime.fromtimestamp(int(s), UTC).strftime(pattern) for s in seconds]


def write_table(
    path: Path,
    columns: Mapping[str, Sequence[Any] | NDArray[Any]],
    *,
    delimiter: str = ",",
    header: bool = True,
    encoding: str = "utf-8",
    quoting: Any = csv.QUOTE_MINIMAL,
    newline: str = "\n",
) -> None:
    """Write columns as a text file with separated values; `None` is an empty value."""
    lists = [
        column.tolist() if isinstance(column, np.ndarray) else column for column in columns.values()
    ]
    quotes = '"' if quoting != csv.QUOTE_NONE else None
    with path.open("w", encoding=encoding, errors="replace", newline="") as file:
        writer = csv.writer(
            file, delimiter=delimiter, quoting=quoting, quotechar=quotes, lineterminator=newline
        )
        if header:
            writer.writerow(columns)
        writer.writerows(zip(*lists, strict=True))


def write_json_lines(
    path: Path, records: Iterable[Mapping[str, Any]], ensure_ascii: bool = True
) -> None:
    """Write a JSON object a line."""
    encode: Callable[[Any], str] = json.JSONEncoder(ensure_ascii=ensure_ascii).encode
    path.write_text("".join(f"{encode(record)}\n" for record in records), encoding="utf-8")


def to_records(columns: Mapping[str, Sequence[Any] | NDArray[Any]]) -> list[dict[str, Any]]:
    """Return the rows of columns as dictionaries."""
    lists = [
        column.tolist() if isinstance(column, np.ndarray) else column for column in columns.values()
    ]
    return [dict(zip(columns, row, strict=True)) for row in zip(*lists, strict=True)]


def format_comma(values: Iterable[float], decimals: int = 2, thousands: bool = True) -> list[str]:
    """Return numbers as `1.234,50`."""
    form = f"{{:,.{decimals}f}}" if thousands else f"{{:.{decimals}f}}"
    swap = str.maketrans(",.", ".,")
    return [form.format(value).translate(swap) for value in values]
