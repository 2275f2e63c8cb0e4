"""The data sets of `next_item`: what is asked about, where time is cut, and which models stand side by side."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq

from tailorbird.events import DAY, SECOND
from tailorbird.models.retrievers import EASE, STAN, OfItsKind, OwnItems, Popular, Recipe, VSkNN, WhatGoesWith

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Data:
    """Interactions ordered by (person, ts).

    Attributes:
        person, sequence, item, ts: shape (n,): `sequence` is a session or a basket; equal to `person` where there is none.
        content: shape (items, tokens): codes of what an item is, from 1; 0 where there is less.
    """

    person: Ints
    sequence: Ints
    item: Ints
    ts: Ints
    items: int
    content: Ints


@dataclass(frozen=True)
class Case:
    """One data set and how it is cut.

    Attributes:
        whole: a question is about all that happens at its moment (a basket), else about the one next item.
        repeats: whether what somebody had may be the answer.
        test_us, validation_us: how long the parts are; None: a fifth of the interactions each.
        origins: models are fitted anew so many times in each part.
        questions: at most so many in each part, drawn evenly.
        taught: trees learn from so many of each validation part; None: from all.
        recipes: name → variants, of which the validation part takes one.
        by_person: recipes that learn from people, all others from sequences.
        windows: of the crowd's columns.
        steps, batch, length, gaps, seeds: of the transformer.
        cold: models of the cold-start curves; none without any.
    """

    name: str
    title: str
    folder: str
    read: Callable[[Path], Data]
    whole: bool
    repeats: bool
    recipes: Mapping[str, Sequence[Recipe]]
    windows: tuple[int, ...]
    protocol: tuple[str, ...]
    test_us: int | None = None
    origins: int = 4
    questions: int = 4_000
    taught: int | None = None
    by_person: tuple[str, ...] = ("ease_decayed",)
    steps: int = 400
    batch: int = 64
    length: int = 50
    gaps: bool = True
    seeds: int = 3
    cold: tuple[str, ...] = ("popular_7d", "cooccurrence", "ease_decayed", "same_kind")

    def recipes_of(self, data: Data) -> dict[str, Sequence[Recipe]]:
        """All recipes, those among them that need to know what items are."""
        return {**self.recipes, "same_kind": (OfItsKind(data.content, self.windows[-2]),)}


def _data(person: Ints, sequence: Ints, item: npt.NDArray, ts: Ints, content: Callable[[npt.NDArray], Ints]) -> Data:
    names, code = np.unique(item, return_inverse=True)
    people, sequences = (np.unique(each, return_inverse=True)[1].astype(np.int64) for each in (person, sequence))
    order = np.lexsort((sequences, ts, people))
    return Data(people[order], sequences[order], code[order].astype(np.int64), ts[order], len(names), content(names))


def _tokens(texts: Sequence[Sequence[str]]) -> Ints:
    """Codes of texts, from 1; a row an item."""
    known: dict[str, int] = {}
    rows = [[known.setdefault(text, len(known) + 1) for text in each if text] for each in texts]
    table = np.zeros((len(rows), max((len(row) for row in rows), default=0) or 1), np.int64)
    for at, row in enumerate(rows):
        table[at, : len(row)] = row
    return table


def read_movielens(folder: Path) -> Data:
    """Ratings, whatever they say; genres are the content."""
    table = pq.read_table(folder / "ratings.parquet")
    movies = pq.read_table(folder / "movies.parquet")
    genres = dict(zip(movies["movie_id"].to_pylist(), movies["genres"].to_pylist(), strict=True))
    person, item = (table[name].cast("int64").to_numpy() for name in ("user_id", "movie_id"))
    ts = table["ts"].cast("timestamp[us]").cast("int64").to_numpy()
    return _data(person, person, item, ts, lambda names: _tokens([(genres.get(name) or "").split("|") for name in names.tolist()]))


def read_journey(folder: Path) -> Data:
    """Products of baskets; department and category are the content."""
    table = pq.read_table(folder / "transactions.parquet", columns=["ts", "household_id", "basket_id", "product_id"])
    products = pq.read_table(folder / "products.parquet", columns=["product_id", "department", "product_category", "product_type"])
    told = {str(row["product_id"]): [f"{name}={row[name]}" for name in ("department", "product_category", "product_type") if row[name]]
            for row in products.to_pylist()}  # fmt: skip
    person, basket, item = (
        table[name].cast("string").to_numpy(zero_copy_only=False) for name in ("household_id", "basket_id", "product_id")
    )
    ts = table["ts"].cast("timestamp[us]").cast("int64").to_numpy()
    return _data(person, basket, item.astype(str), ts, lambda names: _tokens([told.get(name, []) for name in names.tolist()]))


def read_eshop(folder: Path) -> Data:
    """Clicks of sessions, a second apart, since the set has no time of day; a click on the same product again is left out."""
    table = pq.read_table(folder / "clicks.parquet", columns=["event_date", "session_id", "click_order", "item_id", "category", "colour"])
    day = table["event_date"].cast("date32").cast("int32").cast("int64").to_numpy()
    session, order = (table[name].cast("int64").to_numpy() for name in ("session_id", "click_order"))
    item = table["item_id"].cast("string").to_numpy(zero_copy_only=False).astype(str)
    told = {name: [f"category={kind}", f"colour={colour}"] for name, kind, colour in
            zip(item.tolist(), table["category"].to_pylist(), table["colour"].to_pylist(), strict=True)}  # fmt: skip
    by = np.lexsort((order, session))
    again = np.concatenate(([False], (session[by][1:] == session[by][:-1]) & (item[by][1:] == item[by][:-1])))
    kept = by[~again]
    ts = day[kept] * DAY + order[kept] * SECOND
    return _data(session[kept], session[kept], item[kept], ts, lambda names: _tokens([told[name] for name in names.tolist()]))


NEIGHBOURS: dict[str, Sequence[Recipe]] = {
    "v_sknn": (VSkNN(500, 1_000, "quadratic", "quadratic"), VSkNN(100, 1_000, "div", "div"), VSkNN(200, 5_000, "quadratic", "div")),
    "stan": (STAN(500, 1_000, 1.02, 30.0 * DAY, 2.05), STAN(500, 5_000, 2.0, 365.0 * DAY, 4.0), STAN(1_000, 5_000, 5.0, 30.0 * DAY, 5.0)),
}
CASES = (
    Case(
        name="ml-latest-small",
        title="MovieLens latest-small: which film does a person rate next?",
        folder="ml-latest-small",
        read=read_movielens,
        whole=False,
        repeats=False,
        origins=6,
        steps=300,
        batch=32,
        cold=("popular_7d", "popular_365d", "cooccurrence", "ease_decayed", "same_kind"),
        recipes={
            "popular_7d": (Popular(7 * DAY),),
            "popular_365d": (Popular(365 * DAY),),
            "cooccurrence": (WhatGoesWith(),),
            "ease_decayed": tuple(EASE(each, life, 3_000) for each in (100.0, 500.0) for life in (30 * DAY, 730 * DAY)),
            **NEIGHBOURS,
        },
        windows=(7 * DAY, 90 * DAY, 365 * DAY, 3_650 * DAY),
        protocol=("One question before a rating, the film rated is the truth; films that the person had are not listed.",),
    ),
    Case(
        name="complete-journey",
        title="The Complete Journey: what goes into a household's next basket?",
        folder="complete-journey",
        read=read_journey,
        whole=True,
        repeats=True,
        test_us=28 * DAY,
        taught=1_000,
        steps=200,
        batch=32,
        cold=(),
        recipes={
            "popular_7d": (Popular(7 * DAY),),
            "cooccurrence": (WhatGoesWith(memory_us=91 * DAY),),
            "ease_decayed": tuple(EASE(each, life, 3_000) for each in (100.0, 1_000.0) for life in (14 * DAY, 90 * DAY)),
            "own_items": tuple(OwnItems(each * DAY) for each in (30, 90, 365)),
            **NEIGHBOURS,
        },
        windows=(DAY, 7 * DAY, 28 * DAY, 182 * DAY),
        protocol=(
            "One question before a basket, all its products are the truth, had before or not.",
            "Trees learn from 1,000 questions of each validation part, to save time: a basket has ten truths and 225 candidates.",
        ),
    ),
    Case(
        name="eshop-clothing",
        title="Maternity wear: which product is clicked next in a session?",
        folder="eshop-clothing",
        read=read_eshop,
        whole=False,
        repeats=True,
        test_us=14 * DAY,
        steps=400,
        length=20,
        recipes={
            "popular_7d": (Popular(7 * DAY),),
            "cooccurrence": (WhatGoesWith(), WhatGoesWith(backward=False)),
            "ease_decayed": tuple(EASE(each, life) for each in (100.0, 1_000.0) for life in (2 * SECOND, 10 * SECOND, None)),
            **NEIGHBOURS,
        },
        windows=(DAY, 7 * DAY, 28 * DAY),
        protocol=(
            "One question before each click of a session but the first; a product clicked twice in a row counts once; 217 products.",
            "The set has days and an order of clicks, no times of day: models are fitted as of a midnight.",
        ),
    ),
)
