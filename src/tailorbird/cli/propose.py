"""Declarations proposed from data: what `tailorbird init --from DATA` writes into mapping.toml, features.py and slots.py, and why."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from tailorbird.errors import InputError
from tailorbird.events import DAY, EVENT_TYPES
from tailorbird.events.adapters import SourceGuess, find_files, guess_source
from tailorbird.events.adapters.columns import read_columns

_REPEATS = 0.05  # from this share on, each pair of a person and an item is worth counting
_FILES_TOLD = 5
_UNKNOWN_SPAN = 30.0  # days, of times that are text
_US = {"s": 1e6, "ms": 1e3, "us": 1.0}
_LISTS_FOR = ("click", "view", "purchase", "rating")  # what a list is made for: the first of these that the data has
_CATEGORY_NAMES = ("category", "product_category", "department", "genre", "brand", "topic", "section", "colour", "color")


@dataclass
class Proposal:
    """What was found in the data and what is proposed from it.

    Attributes:
        ended_days: how long ago the newest event was; 0 where that cannot be told.
        types: event types of the data that are not built in, for `[events] types`.
        reasons: (column or feature, taken or left out, why), in the order in which they were decided.
    """

    mapping: str
    features: str
    slots: str
    types: list[str]
    ended_days: float
    reasons: list[tuple[str, str, str]] = field(default_factory=list)


def propose(data: Path, now: int) -> Proposal:
    """Read the first rows of each CSV or Parquet file at `data` and propose declarations. `now` is in microseconds.

    Raises:
        InputError: no file holds events that could be used.
    """
    files = find_files(data, ("*.csv", "*.tsv", "*.parquet"))
    reasons: list[tuple[str, str, str]] = []
    guesses: list[SourceGuess] = []
    for file in files:
        try:
            guess = guess_source(file)
        except InputError as error:
            reasons.append((file.name, "left out", error.message))
            continue
        guesses.append(guess)
        for column in guess.columns:
            reasons.append((f"{file.name}: {column.column}", column.role or "left out", column.why))
    events = [guess for guess in guesses if guess.kind == "events"]
    if not events:
        raise InputError(
            f"no file holds events (a user or a session, an item and a time): {_found(files, guesses, reasons)}",
            where=str(data),
            fix="rename the columns, as to user_id, item_id and timestamp, or write the mapping by hand: see docs/how-to/import.md",
        )
    main = max(events, key=lambda guess: guess.file.stat().st_size)
    chosen = [main, *(guess for guess in guesses if guess.kind != "events")]
    reasons += [
        (guess.file.name, "left out", "a second file of events; add its [[source]] by hand") for guess in events if guess is not main
    ]
    mapping = "# How the columns of the files become events and profiles; edit it, then import with --mapping.\n\n"
    mapping += "\n".join(guess.toml for guess in chosen)
    facts = _facts(main, chosen, now)
    features = _features(facts, reasons)
    own = [name for name in main.types if name not in EVENT_TYPES]
    reasons += [(name, "event type", "not built in, so it is declared in tailorbird.toml") for name in own]
    return Proposal(mapping, features, _slots(facts), own, facts.ended_days, reasons)


def _found(files: list[Path], guesses: list[SourceGuess], reasons: list[tuple[str, str, str]]) -> str:
    """What each file was taken for instead, with its columns."""
    taken = {
        guess.file.name: f"holds {guess.kind} by its columns {', '.join(column.column for column in guess.columns if column.column)}"
        for guess in guesses
    }
    left_out = {name: why for name, _, why in reasons}
    told = [f"{file.name} {taken.get(file.name) or left_out.get(file.name, 'is left out')}" for file in files[:_FILES_TOLD]]
    return "; ".join(told) + (f"; and {len(files) - _FILES_TOLD} more" if len(files) > _FILES_TOLD else "")


@dataclass(frozen=True)
class _Facts:
    type: str  # what lists are made for
    types: tuple[str, ...]
    span_days: float
    ended_days: float
    repeats: float  # share of the first rows whose person had the same item before
    has_price: bool
    has_session: bool
    searches: bool
    context: tuple[str, ...]
    numeric: tuple[str, ...]
    categorical: tuple[str, ...]
    user_numeric: tuple[str, ...]
    user_categorical: tuple[str, ...]
    category: str


def _facts(main: SourceGuess, chosen: list[SourceGuess], now: int) -> _Facts:
    roles = {column.role: column.column for column in main.columns}
    found: dict[tuple[str, str], str] = {}  # of items or users, and which attribute: its kind; several files may have one
    for guess in chosen:
        if guess.kind == "events":
            continue
        sample = next(read_columns(guess.file, broken=[]))
        for column in guess.columns:
            if column.role.startswith("properties."):
                name = column.role.removeprefix("properties.")
                found.setdefault((guess.kind, name), _kind_of(column.column, sample.column(column.column)))

    def named(of: str, kind: str) -> tuple[str, ...]:
        return tuple(name for (whose, name), what in found.items() if (whose, what) == (of, kind))

    categorical = named("items", "categorical")
    span, ended = _span(main, now)
    shown = [name for name in main.types if name not in ("impression", "answer", "search", "identify", "merge")]
    return _Facts(
        type=next((name for name in _LISTS_FOR if name in shown), shown[0] if shown else "click"),
        types=tuple(shown),
        span_days=span,
        ended_days=ended,
        repeats=_repeats(main, roles),
        has_price="properties.price" in roles,
        has_session="session_id" in roles,
        searches="search" in main.types,
        context=tuple(name for name in ("device", "country") if f"context.{name}" in roles),
        numeric=named("items", "numeric")[:6],
        categorical=categorical[:6],
        user_numeric=named("users", "numeric")[:6],
        user_categorical=named("users", "categorical")[:6],
        category=next((name for name in _CATEGORY_NAMES if name in categorical), categorical[0] if categorical else ""),
    )


def _kind_of(name: str, column: pa.Array) -> str:
    if pa.types.is_floating(column.type):
        return "numeric"
    if pa.types.is_list(column.type) or pa.types.is_nested(column.type):
        return "other"
    distinct = pc.count_distinct(column).as_py()
    if name.lower().endswith("_id"):
        return "categorical"
    if pa.types.is_integer(column.type) and distinct > 50:
        return "numeric"
    if distinct > 20 and distinct > len(column) / 2:
        return "other"  # nearly each its own, such as a title: nothing to learn from as a category
    return "categorical" if distinct <= 2_000 else "other"


def _span(guess: SourceGuess, now: int) -> tuple[float, float]:
    """How many days the events of a file cover, and how many days ago they ended."""
    column = next((entry.column for entry in guess.columns if entry.role == "ts" and entry.column), None)
    if column is None:
        return 0.0, 0.0
    unit = _US[guess.ts_unit]
    lows, highs = [], []
    for batch in read_columns(guess.file, [column], broken=[]):
        times = batch.column(0)
        if pa.types.is_timestamp(times.type) or pa.types.is_date(times.type):
            times = times.cast(pa.timestamp("us", getattr(times.type, "tz", None)), safe=False).cast(pa.int64())
        elif pa.types.is_integer(times.type) or pa.types.is_floating(times.type):
            times = pc.multiply(times.cast(pa.float64()), float(unit))
        else:
            return _UNKNOWN_SPAN, 0.0
        bounds = pc.min_max(times)
        if bounds["min"].as_py() is not None:
            lows.append(bounds["min"].as_py())
            highs.append(bounds["max"].as_py())
    return ((max(highs) - min(lows)) / DAY, max(0.0, (now - max(highs)) / DAY)) if lows else (0.0, 0.0)


def _repeats(main: SourceGuess, roles: dict[str, str]) -> float:
    person, item = roles.get("user_id") or roles.get("anonymous_id"), roles.get("item_id")
    if person is None or item is None:
        return 0.0
    sample = pa.Table.from_batches([next(read_columns(main.file, [person, item], broken=[]))])
    return 1 - sample.group_by([person, item]).aggregate([]).num_rows / max(1, sample.num_rows)


def _windows(span_days: float) -> list[str]:
    if span_days > 120:
        return ["1d", "7d", "28d", "84d"]
    if span_days > 21:
        return ["1d", "7d", "28d"]
    return ["1h", "6h", "1d", "7d"]


def _features(facts: _Facts, reasons: list[tuple[str, str, str]]) -> str:
    lines = list(_declarations(facts, reasons))
    used = sorted(
        {line.split(" = ")[1].split("(")[0] for line in lines if " = " in line and "(" in line and not line.lstrip().startswith("#")}
    )
    head = '"""What is known about people and items, proposed from the data. Edit freely; `tailorbird check` says whether it loads."""\n\n'
    return head + f"from tailorbird.features import {', '.join(used)}\n\n" + "\n".join(lines) + "\n"


def _declarations(facts: _Facts, reasons: list[tuple[str, str, str]]) -> Iterator[str]:
    kind, windows = facts.type, _windows(facts.span_days)
    long = windows[-1]
    yield 'user = entity("user")'
    yield 'item = entity("item")'
    again = facts.repeats >= _REPEATS
    if again:
        yield 'user_item = entity("user", "item")'
    if facts.category:
        yield f'category = entity("item.{facts.category}")'
        yield f'user_category = entity("user", "item.{facts.category}")'
    yield f"\n# items: how much they are wanted; windows chosen for {facts.span_days:.0f} days of data"
    for window in windows:
        yield f'item_{window} = count("item_{window}", item, "{kind}", window="{window}")'
        reasons.append((f"item_{window}", "feature", f"popularity over {window}: the data covers {facts.span_days:.0f} days"))
    yield "\n# people: habits and the last things they did"
    yield f'user_{long} = count("user_{long}", user, "{kind}", window="{long}")'
    if again:
        yield f'user_item_{long} = count("user_item_{long}", user_item, "{kind}", window="{long}")'
        yield f'user_item_since = time_since("user_item_since", user_item, "{kind}")'
    told = f"in {facts.repeats:.0%} of the first rows a person comes back to an item"
    reasons.append(
        (f"user_item_{long}", "feature" if again else "left out", told if again else f"{told}: not worth a record for each pair")
    )
    yield f'user_since = time_since("user_since", user, "{kind}")'
    followed = [kind, *(name for name in ("cart", "purchase") if name in facts.types and name != kind)]
    yield f'recent = sequence("recent", user, {json.dumps(followed)}, length=64)'
    if not again:
        yield f'user_seen = seen("user_seen", user, {json.dumps(followed)})'
        reasons.append(
            ("user_seen", "feature", "whether the person had the item lately, out of the last events, which needs no such record")
        )
    yield f'user_hour_share = share("user_hour_share", entity("user", "local_hour"), "{kind}", within=user, window="{long}")'
    if facts.has_session:
        yield f'session_events = session("session_events", "{kind}")'
        yield 'session_seconds = session_duration("session_seconds")'
    if facts.searches:
        yield 'still_looking = refinements("still_looking")'
    if facts.has_price:
        paid = "purchase" if "purchase" in facts.types else kind
        yield f'user_spend_{long} = total("user_spend_{long}", user, "{paid}", of="price", unit=0.01, max=100_000, window="{long}")'
        yield f'item_price_{long} = mean("item_price_{long}", item, "{paid}", of="price", unit=0.01, max=100_000, window="{long}")'
        reasons.append(("price", "features", "a number on each event: what people spend, what items cost"))
    if facts.category:
        yield f'user_category_{long} = count("user_category_{long}", user_category, "{kind}", window="{long}")'
        yield f'category_{long} = count("category_{long}", category, "{kind}", window="{long}")'
        yield f'user_category_favourite = favourite("user_category_favourite", user, "{kind}", of="item.{facts.category}")'
        reasons.append((facts.category, "entity", "few values on many items: a category, counted for each person"))
    yield "\n# profiles and the request"
    for name in facts.categorical:
        yield f'item_{name} = attribute("{name}", item, "{name}", kind="categorical")'
    for name in facts.numeric:
        yield f'item_{name} = attribute("{name}", item, "{name}", kind="numeric")'
    for name in facts.user_categorical:
        yield f'user_{name} = attribute("user_{name}", user, "{name}", kind="categorical")'
    for name in facts.user_numeric:
        yield f'user_{name} = attribute("user_{name}", user, "{name}", kind="numeric")'
    for name in (*facts.context, "local_hour", "weekday"):
        yield f'{name} = context("{name}")'
    if "price" in facts.numeric and facts.has_price:
        yield "\n# from the others"
        yield f'user_price_{long} = mean("user_price_{long}", user, "{kind}", of="price", unit=0.01, max=100_000, window="{long}")'
        yield f'price_to_habit = derived("price_to_habit", "price / user_price_{long}")'
        reasons.append(("price_to_habit", "feature", "items have a price and so have events: is it dear for this person?"))


def _slots(facts: _Facts) -> str:
    sources = {"item_to_item": 200, "popular": 300, "fresh": 50}
    if facts.category:
        sources["popular_in_category"] = 100
    seen = "()" if facts.type == "purchase" else '("purchase",)' if "purchase" in facts.types else f'("{facts.type}",)'
    objective = {facts.type: 1.0} | ({"purchase": 5.0} if "purchase" in facts.types and facts.type != "purchase" else {})
    return f'''"""The places of the site that show something, proposed from the data."""

from tailorbird.ranking import Explore, Slot

home = Slot(
    "home",
    size=12,
    sources={sources!r},
    objective={objective!r},
    hide_seen={seen},
    denominator="answer",
    explore=Explore(rate=0.1, pool=50),
)
'''.replace("'", '"')
