"""The shops that `benchmarks.quality.search` searches: products as texts by field of the index, and
graded queries.

chorus   the folder `chorus-electronics` of the optional data sets
wands    one's own copy of github.com/wayfair/WANDS, its folder `dataset`: query.csv, product.csv and label.csv, separated by tabs and
         quoted as a CSV is (texts hold quotation marks: `"fawkes 36"" blue vanity"`)
"""

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

Judged = dict[int, float]  # row of a product → grade

WANDS = "WANDS"
GRADES = {"Exact": 2.0, "Partial": 1.0, "Irrelevant": 0.0}  # of WANDS
_FILES = {
    "query.csv": ("query_id", "query"),
    "product.csv": (
        "product_id",
        "product_name",
        "product_class",
        "category hierarchy",
        "product_description",
        "product_features",
    ),
    "label.csv": ("query_id", "product_id", "label"),
}


@dataclass(frozen=True)
class Shop:
    """Products as texts by field of the index, and what was judged for each query.

    Attributes:
        price: shape (products,); zeros where it is not known.
    """

    name: str
    documents: Mapping[str, Sequence[str]]
    price: np.ndarray
    judged: Mapping[str, Judged]

    @property
    def queries(self) -> list[str]:
        return sorted(self.judged)


def chorus(folder: Path) -> Shop:
    table = pq.read_table(folder / "products.parquet")
    texts = {
        name: [one or "" for one in table[name].to_pylist()]
        for name in ("name", "title", "supplier", "product_type")
    }
    about = [one or "" for one in table["short_description"].to_pylist()]
    details = [
        " ".join(map(str, json.loads(one).values())) if one else ""
        for one in table["attributes"].to_pylist()
    ]
    rest = [" ".join(some) for some in zip(about, texts["name"], details, strict=True)]
    documents = {
        "title": texts["title"],
        "category": texts["product_type"],
        "brand": texts["supplier"],
        "text": rest,
    }
    row = {one: place for place, one in enumerate(table["product_id"].to_pylist())}
    judged: dict[str, Judged] = {}
    for one in pq.read_table(folder / "judgments.parquet").to_pylist():
        judged.setdefault(one["query"], {})[row[one["product_id"]]] = float(one["grade"])
    return Shop(
        "chorus-electronics", documents, table["price_cents"].to_numpy().astype(float), judged
    )


def wands(folder: Path) -> Shop:
    """The shop of a copy.

    Raises:
        ValueError: a file lacks a column, or a row names what there is not; says which, and where.
        FileNotFoundError: a file is missing.
    """
    products = [one for _, one in _rows(folder / "product.csv")]
    documents = {
        "title": [one["product_name"] for one in products],
        "category": [f"{one['product_class']} {one['category hierarchy']}" for one in products],
        "brand": [""] * len(products),
        "text": [f"{one['product_description']} {one['product_features']}" for one in products],
    }
    row = {one["product_id"]: place for place, one in enumerate(products)}
    query = {one["query_id"]: one["query"] for _, one in _rows(folder / "query.csv")}
    judged: dict[str, Judged] = {text: {} for text in query.values()}
    for line, one in _rows(folder / "label.csv"):
        try:
            # Where a pair was judged twice the first counts, as in the public figures.
            judged[query[one["query_id"]]].setdefault(row[one["product_id"]], GRADES[one["label"]])
        except KeyError as error:
            raise ValueError(f"{folder / 'label.csv'}, line {line}: there is no {error}") from None
    return Shop(WANDS, documents, np.zeros(len(products)), judged)


def _rows(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """Each row with the line that it ends on; what is missing is ""."""
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file, delimiter="\t", restval="")
        if lacking := [name for name in _FILES[path.name] if name not in (reader.fieldnames or ())]:
            raise ValueError(f"{path}: no column {lacking[0]!r}: it is not the file of WANDS")
        for row in reader:
            yield reader.line_num, row
