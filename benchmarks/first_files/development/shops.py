"""Layouts of shops and of media, with made-up rows."""

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.first_files.layout import Layout

BEGIN = 1_700_000_000


def _draw(rng: np.random.Generator, rows: int) -> list[tuple[int, int, int, int]]:
    """Return (person, item, order, seconds): people return in sessions, items are power-law."""
    sessions = rows // 4
    person = rng.zipf(1.5, sessions) * 7_919 % (rows // 12)
    begin = np.sort(rng.integers(0, 60 * 86_400, sessions))
    items = np.minimum(rng.zipf(1.3, rows), rows // 15)
    return [
        (int(person[n // 4]), int(items[n]), n // 4, int(BEGIN + begin[n // 4] + n % 4 * 45))
        for n in range(sessions * 4)
    ]


def _write(
    path: Path, head: list[str], rows: Sequence[Sequence[object]], delimiter: str = ","
) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, delimiter=delimiter)
        writer.writerows([head, *rows] if head else rows)


def _stamp(seconds: int, style: str) -> str:
    return np.datetime64(seconds, "s").item().strftime(style)


def write_polish(folder: Path, rng: np.random.Generator, rows: int) -> None:
    head = ["nr_zamowienia", "data_zamowienia", "klient", "indeks_towaru", "nazwa_towaru", "ilosc"]
    made = [
        [
            f"ZA/{order}",
            _stamp(at, "%Y-%m-%d %H:%M:%S"),
            f"KL{person}",
            f"T-{item}",
            f"Towar {item}",
            1,
        ]
        for person, item, order, at in _draw(rng, rows)
    ]
    _write(folder / "zamowienia.csv", head, made, ";")


def write_french(folder: Path, rng: np.random.Generator, rows: int) -> None:
    head = ["Commande", "Date", "Client", "Référence", "Désignation", "Quantité"]
    made = [
        [order, _stamp(at, "%d/%m/%Y %H:%M"), f"C{person}", f"R{item}", f"Article {item}", 1]
        for person, item, order, at in _draw(rng, rows)
    ]
    _write(folder / "ventes.csv", head, made, ";")


def write_taobao(folder: Path, rng: np.random.Generator, rows: int) -> None:
    kinds = ("pv", "pv", "pv", "fav", "cart", "buy")
    made = [
        [person + 1, item * 13, item % 40 * 7, kinds[int(rng.integers(6))], at]
        for person, item, _, at in _draw(rng, rows)
    ]
    _write(folder / "UserBehavior.csv", [], made)


def write_museum(folder: Path, rng: np.random.Generator, rows: int) -> None:
    made = [
        [_stamp(at, "%Y-%m-%dT%H:%M:%SZ"), f"v{person}", item]
        for person, item, _, at in _draw(rng, rows)
    ]
    _write(folder / "hits.csv", ["when", "visitor", "url_id"], made)


LAYOUTS = (
    Layout(
        "polish-shop-orders",
        "made up: columns of Polish shop systems",
        write_polish,
        "zamowienia.csv:data_zamowienia",
        "zamowienia.csv:klient",
        "zamowienia.csv:indeks_towaru",
        "=purchase",
    ),
    Layout(
        "french-shop-ventes",
        "made up: columns of French shop systems",
        write_french,
        "ventes.csv:Date",
        "ventes.csv:Client",
        "ventes.csv:Référence",
        "=purchase",
    ),
    Layout(
        "taobao-userbehavior-no-header",
        "https://tianchi.aliyun.com/dataset/649",
        write_taobao,
        "UserBehavior.csv:#5",
        "UserBehavior.csv:#1",
        "UserBehavior.csv:#2",
        "UserBehavior.csv:#4",
        {"pv": "view", "fav": "like", "cart": "cart", "buy": "purchase"},
    ),
    Layout(
        "museum-visitor-url",
        "made up: hits of a site without a publisher",
        write_museum,
        "hits.csv:when",
        "hits.csv:visitor",
        "hits.csv:url_id",
        "=click|=view",
    ),
)
