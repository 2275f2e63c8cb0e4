"""Layouts of first files: each is in the half of its hash and writes the columns that it names."""

import csv
import json
import re
import sqlite3
import zipfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from benchmarks.first_files import development, held_out
from benchmarks.first_files.layout import CONSTANT, Layout, is_for_development

HALVES = {True: getattr(development, "LAYOUTS", ()), False: held_out.LAYOUTS}
LAYOUTS = [layout for layouts in HALVES.values() for layout in layouts]


def test_each_layout_is_in_the_half_of_its_hash() -> None:
    for is_development, layouts in HALVES.items():
        assert [x.name for x in layouts if is_for_development(x.name) != is_development] == []
    assert len({layout.name for layout in LAYOUTS}) == len(LAYOUTS)


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.name)
def test_layout_writes_its_columns(layout: Layout, tmp_path: Path) -> None:
    first = tmp_path / "first"
    second = tmp_path / "second"
    for folder in (first, second):
        folder.mkdir()
        layout.write(folder, np.random.default_rng(5), 1500)
    assert _read_bytes(first) == _read_bytes(second)

    roles = (layout.time, layout.person, layout.item, layout.type)
    for role in (*roles, layout.item_profiles, layout.user_profiles):
        for name in filter(None, role.split("|")):
            if not name.startswith(CONSTANT):
                file, column = name.split(":", 1)
                assert column in _Columns(first / file), name

    file, _, column = layout.type.split("|")[0].partition(":")
    if column:
        texts = list(_decode(first / file))
        assert [x for x in layout.event_types if not any(x in text for text in texts)] == []


class _Columns:
    """The names by which a role may mean a column of a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __contains__(self, column: str) -> bool:
        if self.path.suffix in (".xlsx", ".ods", ".sqlite", ".db"):
            return column in _read_table_columns(self.path)
        if self.path.suffix == ".parquet":
            return column in pq.read_schema(self.path).names
        return any(self._is_in_text(text, column) for text in _decode(self.path))

    @staticmethod
    def _is_in_text(text: str, column: str) -> bool:
        if text[0] in "[{":
            records = json.loads(text) if text[0] == "[" else map(json.loads, text.splitlines())
            return any(_has_path(record, column.split(".")) for record in records)
        lines = text.splitlines()[:200]
        tables = [
            list(csv.reader(lines, delimiter=d, quoting=quoting))
            for d, quoting in ((",", 0), (";", 0), ("|", 0), ("\t", csv.QUOTE_NONE))
        ]
        # A column without a name, and maybe a path inside its JSON.
        position = re.fullmatch(r"#(\d+)(?:\.(.+))?", column)
        if position is None:
            return any(column in table[0] for table in tables)
        index = int(position[1]) - 1
        values = [
            row[index] for table in tables for row in table if len(row) > index and row[index]
        ]
        if position[2] is None:
            return bool(values)
        objects = [json.loads(value) for value in values if value.startswith("{")]
        return any(_has_path(record, position[2].split(".")) for record in objects)


def _has_path(value: Any, path: list[str]) -> bool:
    if isinstance(value, list):
        return any(_has_path(element, path) for element in value)
    if not path:
        return value is not None
    if not isinstance(value, dict):
        return False
    # A field's own name may have dots.
    whole = ".".join(path)
    return whole in value or (path[0] in value and _has_path(value[path[0]], path[1:]))


def _read_table_columns(path: Path) -> set[str]:
    tables: dict[str, list[str]] = {}
    if path.suffix == ".xlsx":
        with zipfile.ZipFile(path) as archive:
            workbook = archive.read("xl/workbook.xml").decode()
            for number, name in enumerate(re.findall(r'<sheet name="([^"]+)"', workbook), 1):
                sheet = archive.read(f"xl/worksheets/sheet{number}.xml").decode()
                tables[name] = re.findall(r"<t>([^<]*)</t>", sheet.split("</row>")[0])
    elif path.suffix == ".ods":
        with zipfile.ZipFile(path) as archive:
            content = archive.read("content.xml").decode()
        for part in content.split("<table:table ")[1:]:
            name = part.split('"')[1]
            tables[name] = re.findall(r"<text:p>([^<]*)<", part.split("</table:table-row>")[0])
    else:
        database = sqlite3.connect(path)
        for (name,) in database.execute("SELECT name FROM sqlite_master").fetchall():
            tables[name] = [row[1] for row in database.execute(f"PRAGMA table_info({name})")]
        database.close()
    names = {column for columns in tables.values() for column in columns}
    return names | {f"{table}.{column}" for table, columns in tables.items() for column in columns}


def _decode(path: Path) -> Iterator[str]:
    """Yield the text of a file in each encoding that can be its own."""
    for encoding in ("utf-8-sig", "utf-16", "cp932", "latin-1"):
        with suppress(UnicodeError):
            yield path.read_bytes().decode(encoding)


def _read_bytes(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}
