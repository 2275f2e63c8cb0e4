"""The field's words: names, docstrings and sizes stay within bounds. Lower a bound when you can."""

import ast
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = sorted((ROOT / "src").rglob("*.py"))
OUTSIDE = sorted((*(ROOT / "tests").rglob("*.py"), *(ROOT / "benchmarks").rglob("*.py")))

# Parts of names that say that something was done, but not what the thing is; or pronouns.
# docs/conventions.md says what to write instead.
VAGUE = frozenset(
    (
        "told",
        "tell",
        "tells",
        "asked",
        "asks",
        "found",
        "kept",
        "held",
        "said",
        "says",
        "laid",
        "heard",
        "meant",
        "let",
        "lets",
        "gone",
        "goes",
        "went",
        "took",
        "takes",
        "came",
        "comes",
        "became",
        "begun",
        "began",
        "theirs",
        "others",
        "whose",
        "whatever",
        "whoever",
        "nobody",
        "somebody",
        "everybody",
        "anew",
        "beside",
        "behind",
        "wished",
        "wanted",
        "known",
        "spoken",
        "look",
        "looks",
        "looked",
        "looking",
        "plain",
        "whole",
        "ought",
    )
)
PART = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|\d+")
CLAUSE = re.compile(r"^(What|Whether|How|Which|Who|Whose|Where|When|Why|That|As|See)\b")


def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def defined_names(tree: ast.AST) -> Iterator[str]:
    """Yield the names of classes, functions, parameters, variables and attributes that are set."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.name
        elif isinstance(node, ast.arg):
            yield node.arg
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.attr


def vague_names(paths: list[Path]) -> Counter[str]:
    return Counter(
        name
        for path in paths
        for name in defined_names(parse(path))
        if any(part.lower() in VAGUE for part in PART.findall(name))
    )


def line_count(paths: list[Path]) -> int:
    return sum(path.read_text().count("\n") for path in paths)


@pytest.mark.parametrize(
    ("paths", "per_1000_lines"), [(SOURCES, 1.0), (OUTSIDE, 6.5)], ids=["src", "tests"]
)
def test_names_say_what_things_are(paths: list[Path], per_1000_lines: float) -> None:
    names = vague_names(paths)
    assert 1000 * names.total() / line_count(paths) <= per_1000_lines, names.most_common(20)


def test_docstrings_start_with_a_verb_or_a_noun() -> None:
    first_lines = [
        text.partition("\n")[0]
        for path in SOURCES
        for node in ast.walk(parse(path))
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        and (text := ast.get_docstring(node))
    ]
    clauses = [line for line in first_lines if CLAUSE.match(line)]
    assert len(clauses) <= 0.01 * len(first_lines), clauses[:20]


def test_lines_end_at_100_columns() -> None:
    wide = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in SOURCES
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if len(line) > 100
    ]
    assert len(wide) <= 0.001 * line_count(SOURCES), wide[:20]


def test_modules_and_folders_do_not_grow() -> None:
    longest = max(SOURCES, key=lambda path: path.read_text().count("\n"))
    assert longest.read_text().count("\n") <= 770, f"split {longest.relative_to(ROOT)}"
    folders = Counter(path.parent for path in SOURCES if path.name != "__init__.py")
    folder, count = folders.most_common(1)[0]
    assert count <= 20, f"split {folder.relative_to(ROOT)}: {count} modules"
