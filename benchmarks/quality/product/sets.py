"""Define the data sets of the product benchmark: files, columns, cuts, and what is asked.

A cut is a time. Rows before it are the files that a user imports and trains on; rows after it are
replayed as live traffic. Settings may be chosen on the `dev` cut, which lies before the others.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from tailorbird.events import DAY, HOUR

Mask = npt.NDArray[np.bool_]
Truth = Literal["item", "session", "last"]


@dataclass(frozen=True)
class Cut:
    """Times in microseconds: rows in [begin, at) are trained on, rows in [at, end) are replayed."""

    begin: int
    at: int
    end: int


@dataclass(frozen=True)
class Small:
    """The part of a set that `--small` takes.

    Attributes:
        every: keep the users whose number modulo `every` is 0.
        train_us: length of the training part at most; 0 keeps all of it.
        questions: how many are asked at most.
    """

    every: int
    questions: int = 500
    train_us: int = 0


@dataclass(frozen=True)
class DataSet:
    """One data set and the protocol on it.

    Attributes:
        folder: below the folder of all data.
        events: the file of events; its rows are in order of time.
        time, person, session, item: columns of that file. Without `session`, a session is a run of
            one person's events without a pause of 30 minutes.
        cuts: name → the cut, given the first and the last time of the file.
        small: what `--small` keeps.
        profiles: files without a time that a user would import as they are.
        dated: further files → their column of times, by which they are trimmed as the events are.
        truth: what a question is about: one `item`, asked before each drawn event; all items of a
            `session`, asked before its first event; or the `last` item of a session, asked just
            behind the event before it, as many sessions of each hour as there are, or may be drawn.
        repeats: whether a person may choose an item again. Where not, no baseline lists an item
            that the person had before.
        valid: rows that may be part of a truth; None takes all.
        questions: how many are drawn at most.
        context: columns of what a request says of itself, such as its device; one more baseline
            counts within them.
        stan: whether STAN is among the baselines.
        hourly: whether figures are also compared by hour of the test part.
        protocol: what a reader must know, a sentence each.
    """

    name: str
    title: str
    folder: str
    events: str
    time: str
    person: str
    session: str | None
    item: str
    cuts: Mapping[str, Callable[[int, int], Cut]]
    small: Small
    profiles: tuple[str, ...] = ()
    dated: Mapping[str, str] = field(default_factory=dict)
    truth: Truth = "item"
    repeats: bool = True
    valid: Callable[[pa.Table], Mask] | None = None
    questions: int = 20_000
    context: tuple[str, ...] = ()
    stan: bool = False
    hourly: bool = False
    protocol: tuple[str, ...] = ()


def micros(column: pa.ChunkedArray) -> npt.NDArray[np.int64]:
    """Return times as microseconds since 1970; a date is its midnight, UTC."""
    if pa.types.is_date(column.type):
        column = column.cast(pa.timestamp("us"))
    return column.cast(pa.timestamp("us", column.type.tz)).cast(pa.int64()).to_numpy()


def _globo_day(month: int, day: int) -> Callable[[int, int], Cut]:
    """Return the cut of a Brazilian day (03:00 to 03:00 UTC) with the four days before it."""
    at = int(datetime(2017, month, day, 3, tzinfo=UTC).timestamp()) * 1_000_000
    return lambda low, high: Cut(at - 4 * DAY, at, at + DAY)


def _last_weeks(weeks: int, skip_weeks: int = 0) -> Callable[[int, int], Cut]:
    """Return a cut whose test part has `weeks` and ends `skip_weeks` weeks before the last event."""

    def cut(low: int, high: int) -> Cut:
        end = high + 1 - skip_weeks * 7 * DAY
        return Cut(low, end - weeks * 7 * DAY, end)

    return cut


def _last_share(share: float, skip_share: float = 0.0) -> Callable[[int, int], Cut]:
    """Return a cut whose test part is a share of the time and ends `skip_share` of it before the end."""

    def cut(low: int, high: int) -> Cut:
        span = high - low
        end = high + 1 - round(skip_share * span)
        at = end - round(share * span)
        return Cut(low, at // DAY * DAY, end if not skip_share else end // DAY * DAY)

    return cut


def _is_product_sale(table: pa.Table) -> Mask:
    """Return which lines of Online Retail are sales of products: no returns, fees, corrections."""
    is_sale = pc.and_(pc.greater(table["quantity"], 0), pc.greater(table["unit_price"], 0))
    is_product = pc.match_substring_regex(table["stock_code"].cast(pa.string()), r"^\d{5}")
    is_invoice = pc.invert(pc.match_substring_regex(table["invoice"].cast(pa.string()), "^[CA]"))
    is_product_sale = pc.and_(pc.and_(is_sale, is_product), is_invoice)
    return pc.fill_null(is_product_sale, False).to_numpy()


GLOBO = DataSet(
    name="globo",
    title="Globo.com news: which article does a reader click next?",
    folder="globo-clicks",
    events="clicks.parquet",
    time="ts",
    person="user_id",
    session="session_id",
    item="article_id",
    cuts={
        "dev": _globo_day(10, 6),
        "a": _globo_day(10, 8),
        "b": _globo_day(10, 11),
        "c": _globo_day(10, 13),
    },
    small=Small(every=16, train_us=DAY + 12 * HOUR),
    repeats=False,
    context=("referrer_type",),
    hourly=True,
    protocol=(
        "Four days are trained on; the next 24 hours, from 03:00 UTC (midnight in Brasília), are "
        "replayed. Questions are drawn from all clicks of that day.",
        "The publishers stamped each session's last click exactly 30 s after the one before. A "
        "column of the time since the last event can see that a session ends, not with what.",
        "A request says the device and the kind of referrer that its click came with; "
        "`clicked_1h_context` knows the referrer too.",
        "1.2 % of the clicks are on an article that the reader clicked before; no list has these.",
    ),
)

JOURNEY = DataSet(
    name="journey",
    title="The Complete Journey: what goes into a household's next basket?",
    folder="complete-journey",
    events="transactions.parquet",
    time="ts",
    person="household_id",
    session="basket_id",
    item="product_id",
    cuts={"dev": _last_weeks(8, skip_weeks=8), "test": _last_weeks(8)},
    small=Small(every=16, questions=400),
    profiles=("products.parquet", "demographics.parquet"),
    truth="session",
    protocol=(
        "The truth is every product of a basket, bought before or not, asked before its first.",
        "Files of campaigns and coupons are left out: none says when a household knew of them.",
        "The data are said to be simulated from real shopping patterns.",
    ),
)

RETAIL = DataSet(
    name="retail",
    title="Online Retail II: what goes into a customer's next order?",
    folder="online-retail",
    events="transactions.parquet",
    time="ts",
    person="customer_id",
    session="invoice",
    item="stock_code",
    cuts={"dev": _last_weeks(8, skip_weeks=8), "test": _last_weeks(8)},
    small=Small(every=8, questions=400),
    truth="session",
    valid=_is_product_sale,
    protocol=(
        "The truth is every product of an order of a known customer, asked before its first line. "
        "The contract refuses lines without a customer, and returns. Fees are no truth.",
        "Baselines count sales of products alone, those to unknown customers too.",
    ),
)

ESHOP = DataSet(
    name="eshop",
    title="Maternity-wear shop: which product does a visitor click next?",
    folder="eshop-clothing",
    events="clicks.parquet",
    time="event_date",
    person="session_id",
    session="session_id",
    item="item_id",
    cuts={"dev": _last_share(0.12, skip_share=0.12), "test": _last_share(0.12)},
    small=Small(every=4),
    protocol=(
        "The file has dates and no time of day, so all events of a day share one time. A question "
        "sees every row before it in the file: whole sessions, in order of their number.",
        "No visitor is known from one session to the next.",
    ),
)

MOVIELENS = DataSet(
    name="movielens",
    title="MovieLens latest-small: which film does a person rate next?",
    folder="ml-latest-small",
    events="ratings.parquet",
    time="ts",
    person="user_id",
    session=None,
    item="movie_id",
    cuts={"dev": _last_share(0.12, skip_share=0.12), "test": _last_share(0.12)},
    small=Small(every=4),
    profiles=("movies.parquet",),
    dated={"tags.parquet": "ts"},
    repeats=False,
    protocol=(
        "The truth is the film that was rated, whatever the rating. People rate what they remember "
        "in sittings, seconds apart: this predicts typing, not watching.",
        "The list of films is imported as it is: it also has films that came out after the cut.",
    ),
)

GLOBO_SESSIONS = replace(
    GLOBO,
    name="globo_sessions",
    title="Globo.com news, hour by hour: the last click of each session",
    cuts={
        "dev": lambda low, high: Cut(low, low + 3 * DAY, low + 4 * DAY),
        "test": lambda low, high: Cut(low, low + 4 * DAY, high + 1),
    },
    truth="last",
    stan=True,
    hourly=False,
    protocol=(
        "Sessions of 2 clicks or more (of longer ones the first 20) that begin in the test part. "
        "The last click is asked for 1 µs behind the one before, so that nobody sees the invented "
        "30 s. As many sessions of each hour are drawn, so that means over questions are of hours.",
        "Trained once, on four days; the ten days after them are replayed in one go, so that what "
        "serves is kept up by live features and items alone.",
        "An article that nobody clicked before is a miss for all.",
    ),
)

SETS = {each.name: each for each in (GLOBO, JOURNEY, RETAIL, ESHOP, MOVIELENS, GLOBO_SESSIONS)}
