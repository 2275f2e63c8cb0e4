"""The benchmark of search: how a copy of WANDS is read, what its two figures are, and the whole
command on a made-up copy of the format.
"""

import csv
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from benchmarks.quality.pages.search_page import section
from benchmarks.quality.parts.search_shops import read_wands
from benchmarks.quality.search import ndcg, public_ndcg

COLOURS, THINGS = (
    ("red", "blue", "oak", "velvet", "round", "small"),
    ("sofa", "lamp", "desk", "rug", "bed", "stool"),
)
PRODUCTS = [
    "product_id",
    "product_name",
    "product_class",
    "category hierarchy",
    "product_description",
    "product_features",
]


def write(path: Path, names: list[str], rows: list[tuple]) -> None:
    """As pandas writes it: separated by tabs, quoted where a text holds quotation marks or ends of
    lines.
    """
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, delimiter="\t", lineterminator="\n")
        writer.writerows([names, *rows])


def name(colour: str, thing: str) -> str:
    return f'{colour} {thing} 36" wide'


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """36 kinds of things, two of each; a query for each kind, for which the kind is exact and other
    things of the colour are partial.
    """
    kinds = [(colour, thing) for colour in COLOURS for thing in THINGS]
    products = [
        (
            100 + place,
            name(colour, thing),
            f"{thing}s",
            f"home / {thing}s",
            f'a {thing},\nin "{colour}"',
            f"colour:{colour}|width : 36",
        )
        for place, (colour, thing) in enumerate(kinds * 2)
    ]
    queries = [
        (number, f'{colour} {thing} 36"', f"{thing}s")
        for number, (colour, thing) in enumerate(kinds)
    ]
    grades = [
        (
            number,
            100 + place,
            "Exact" if searched == kind else "Partial" if searched[0] == kind[0] else "Irrelevant",
        )
        for number, searched in enumerate(kinds)
        for place, kind in enumerate(kinds * 2)
        if searched == kind or (number + place) % 3 == 0
    ]
    write(tmp_path / "product.csv", PRODUCTS, products)
    write(tmp_path / "query.csv", ["query_id", "query", "query_class"], queries)
    write(
        tmp_path / "label.csv",
        ["id", "query_id", "product_id", "label"],
        [(9_000 + place, *one) for place, one in enumerate(grades)],
    )
    return tmp_path


def test_texts_with_quotation_marks_and_ends_of_lines_are_read_as_they_are(copy: Path) -> None:
    shop = read_wands(copy)
    assert shop.documents["title"][0] == 'red sofa 36" wide'
    assert shop.documents["text"][0] == 'a sofa,\nin "red" colour:red|width : 36'
    assert shop.documents["category"][0] == "sofas home / sofas"
    assert len(shop.documents["title"]) == 72
    assert 'red sofa 36"' in shop.queries
    assert shop.grades_by_query['red sofa 36"'][0] == 2.0


def test_of_a_pair_that_was_judged_twice_the_first_counts(copy: Path) -> None:
    with (copy / "label.csv").open("a") as file:
        file.write("99999\t0\t100\tIrrelevant\n")
    assert read_wands(copy).grades_by_query['red sofa 36"'][0] == 2.0


def test_an_invalid_copy_of_wands_names_its_problem(copy: Path) -> None:
    with (copy / "label.csv").open("a") as file:
        file.write("99999\t0\t5\tExact\n")
    line = len((copy / "label.csv").read_text().splitlines())
    with pytest.raises(ValueError, match=rf"label.csv, line {line}: there is no '5'"):
        read_wands(copy)
    write(copy / "query.csv", ["query_id", "words"], [(0, "sofa")])
    with pytest.raises(ValueError, match=r"query.csv: no column 'query'"):
        read_wands(copy)


def test_the_two_figures_by_hand() -> None:
    rows, judged = np.array([7, 3, 9]), {7: 2.0, 3: 1.0, 5: 2.0, 9: 0.0}
    # exact, partial, wrong; ideal of ten exact hits
    public = (3 + 1 / 2) / (3 * sum(1 / rank for rank in range(1, 11)))
    assert public_ndcg(rows, judged) == pytest.approx(public)
    assert public_ndcg(np.arange(10), dict.fromkeys(range(10), 2.0)) == pytest.approx(1.0)
    ideal = 3 + 3 / np.log2(3) + 1 / np.log2(4)  # what was judged: two exact, a partial one
    assert ndcg(rows, judged) == pytest.approx((3 + 1 / np.log2(3)) / ideal)
    assert public_ndcg(np.array([1, 2]), judged) == ndcg(np.array([1, 2]), judged) == 0.0


@pytest.mark.slow
def test_the_command_on_a_copy(copy: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.quality.search", "--wands", str(copy), "--json"],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    case = report["cases"]["WANDS"]
    assert set(case["results"]) == {
        "tailorbird",
        "vectors",
        "fused",
        "blended",
        "reranked",
        "reranked_judged",
    }
    assert case["sizes"]["queries"] == len(case["queries"]) == 36
    for each in case["results"].values():
        for name in ("ndcg_10", "public_ndcg_10"):
            assert 0 <= each[f"{name}_low"] <= each[name] <= each[f"{name}_high"] <= 1
        assert 0 < each["ms"]["p50"] <= each["ms"]["p99"]
    # Two products of 72 are exact, so ten exact hits cannot be had: the public variant stays low
    # however good the order is.
    assert case["results"]["tailorbird"]["ndcg_10"] > 0.7
    assert case["results"]["tailorbird"]["public_ndcg_10"] < 0.6
    page = section(report)
    assert "| BM25, as published | 0.541 |" in page
    assert "No copy was there" not in page


def test_the_page_notes_a_missing_copy() -> None:
    environment = {"day": "2026-11-26", "cpu": "", "cores": 2, "tailorbird": "", "lightgbm": ""}
    assert "No copy was there" in section({"title": "", "cases": {}, "environment": environment})


@pytest.mark.slow
def test_a_copy_that_lacks_a_file_ends_the_command_with_a_sentence(copy: Path) -> None:
    (copy / "label.csv").unlink()
    command = [sys.executable, "-m", "benchmarks.quality.search", "--wands", str(copy)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    assert "label.csv" in done.stderr
    assert "Traceback" not in done.stderr
