"""The shops that `benchmarks.quality.search` searches: product texts and graded queries.

chorus   the folder `chorus-electronics` of the optional data sets
wands    your own copy of github.com/wayfair/WANDS, its folder `dataset`: query.csv, product.csv
         and label.csv, separated by tabs and quoted as a CSV is (texts hold quotation marks:
         `"fawkes 36"" blue vanity"`)
"""

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

GradeByRow = dict[int, float]  # row of a product → grade

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
    """Products as texts by field of the index, and the judgments for each query.

    Attributes:
        price: shape (products,); zeros where it is unknown.
    """

    name: str
    documents: Mapping[str, Sequence[str]]
    price: np.ndarray
    grades_by_query: Mapping[str, GradeByRow]

    @property
    def queries(self) -> list[str]:
        return sorted(self.grades_by_query)


def read_chorus(folder: Path) -> Shop:
    table = pq.read_table(folder / "products.parquet")
    texts = {
        name: [value or "" for value in table[name].to_pylist()]
        for name in ("name", "title", "supplier", "product_type")
    }
    descriptions = [value or "" for value in table["short_description"].to_pylist()]
    details = [
        " ".join(map(str, json.loads(value).values())) if value else ""
        for value in table["attributes"].to_pylist()
    ]
    other_texts = [
        " ".join(texts_of_product)
        for texts_of_product in zip(descriptions, texts["name"], details, strict=True)
    ]
    documents = {
        "title": texts["title"],
        "category": texts["product_type"],
        "brand": texts["supplier"],
        "text": other_texts,
    }
    row_by_product = {value: index for index, value in enumerate(table["product_id"].to_pylist())}
    grades_by_query: dict[str, GradeByRow] = {}
    for one in pq.read_table(folder / "judgments.parquet").to_pylist():
        grades_by_query.setdefault(one["query"], {})[row_by_product[one["product_id"]]] = float(
            one["grade"]
        )
    return Shop(
        "chorus-electronics",
        documents,
        table["price_cents"].to_numpy().astype(float),
        grades_by_query,
    )


def read_wands(folder: Path) -> Shop:
    """Read the shop from a copy of WANDS.

    Raises:
        ValueError: a file lacks a column, or a row names an unknown id; names which, and where.
        FileNotFoundError: a file is missing.
    """
    products = [row_ for _, row_ in _rows(folder / "product.csv")]
    documents = {
        "title": [row_["product_name"] for row_ in products],
        "category": [f"{row_['product_class']} {row_['category hierarchy']}" for row_ in products],
        "brand": [""] * len(products),
        "text": [f"{row_['product_description']} {row_['product_features']}" for row_ in products],
    }
    row_by_product = {row_["product_id"]: index for index, row_ in enumerate(products)}
    query_by_id = {row_["query_id"]: row_["query"] for _, row_ in _rows(folder / "query.csv")}
    grades_by_query: dict[str, GradeByRow] = {text: {} for text in query_by_id.values()}
    for line, one in _rows(folder / "label.csv"):
        try:
            # The first judgment of a pair counts, as in the public figures.
            grades_by_query[query_by_id[one["query_id"]]].setdefault(
                row_by_product[one["product_id"]], GRADES[one["label"]]
            )
        except KeyError as error:
            raise ValueError(f"{folder / 'label.csv'}, line {line}: there is no {error}") from None
    return Shop(WANDS, documents, np.zeros(len(products)), grades_by_query)


def _rows(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield each row with the line that it ends on; missing values are ""."""
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file, delimiter="\t", restval="")
        if missing := [name for name in _FILES[path.name] if name not in (reader.fieldnames or ())]:
            raise ValueError(f"{path}: no column {missing[0]!r}: it is not the file of WANDS")
        for row in reader:
            yield reader.line_num, row
