"""Writers of minimal workbooks, since the project depends on no library that writes them."""

import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

import numpy as np

from benchmarks.first_files.held_out.drawing import format_times

_UNIX_EPOCH_IN_EXCEL = 25_569  # days from Excel's day 0 to 1970


@dataclass(frozen=True)
class Times:
    """Seconds of 1970 that a cell shows as a date."""

    seconds: Sequence[int]

    def __len__(self) -> int:
        return len(self.seconds)


def write_xlsx(path: Path, sheets: Mapping[str, Mapping[str, Any]]) -> None:
    """Write sheets with a header line each as an Excel workbook."""
    office = "http://schemas.openxmlformats.org"
    numbers = range(1, len(sheets) + 1)
    parts = {
        "[Content_Types].xml": f'<Types xmlns="{office}/package/2006/content-types">'
        '<Default Extension="rels" ContentType="application/vnd.openxmlformats-package.relationships+xml"/>'
        '<Default Extension="xml" ContentType="application/xml"/>'
        + _to_override("workbook.xml", "sheet.main")
        + _to_override("styles.xml", "styles")
        + "".join(_to_override(f"worksheets/sheet{k}.xml", "worksheet") for k in numbers)
        + "</Types>",
        "_rels/.rels": f'<Relationships xmlns="{office}/package/2006/relationships">'
        f'<Relationship Id="rId1" Type="{office}/officeDocument/2006/relationships/officeDocument" '
        'Target="xl/workbook.xml"/></Relationships>',
        "xl/workbook.xml": f'<workbook xmlns="{office}/spreadsheetml/2006/main" '
        f'xmlns:r="{office}/officeDocument/2006/relationships"><sheets>'
        + "".join(
            f'<sheet name="{escape(name)}" sheetId="{k}" r:id="rId{k}"/>'
            for k, name in zip(numbers, sheets, strict=True)
        )
        + "</sheets></workbook>",
        "xl/_rels/workbook.xml.rels": f'<Relationships xmlns="{office}/package/2006/relationships">'
        + "".join(
            f'<Relationship Id="rId{k}" Type="{office}/officeDocument/2006/relationships/worksheet" '
            f'Target="worksheets/sheet{k}.xml"/>'
            for k in numbers
        )
        + f'<Relationship Id="rId{len(sheets) + 1}" '
        f'Type="{office}/officeDocument/2006/relationships/styles" Target="styles.xml"/>'
        "</Relationships>",
        # Style 1 is a date (14: m/d/yyyy in the reader's language), style 2 a date with a time.
        "xl/styles.xml": f'<styleSheet xmlns="{office}/spreadsheetml/2006/main">'
        '<fonts count="1"><font/></fonts><fills count="1"><fill/></fills>'
        '<borders count="1"><border/></borders><cellStyleXfs count="1"><xf/></cellStyleXfs>'
        '<cellXfs count="3"><xf/><xf numFmtId="14" applyNumberFormat="1"/>'
        '<xf numFmtId="22" applyNumberFormat="1"/></cellXfs></styleSheet>',
    }
    for k, sheet in zip(numbers, sheets.values(), strict=True):
        columns = [_to_xlsx_cells(name, values) for name, values in sheet.items()]
        rows = "".join(f"<row>{''.join(row)}</row>" for row in zip(*columns, strict=True))
        parts[f"xl/worksheets/sheet{k}.xml"] = (
            f'<worksheet xmlns="{office}/spreadsheetml/2006/main"><sheetData>{rows}</sheetData></worksheet>'
        )
    declaration = '<?xml version="1.0" encoding="UTF-8" standalone="yes"?>\n'
    _write_zip(path, {name: declaration + text for name, text in parts.items()})


def write_ods(path: Path, sheets: Mapping[str, Mapping[str, Any]]) -> None:
    """Write sheets with a header line each as an OpenDocument workbook."""
    office = "urn:oasis:names:tc:opendocument:xmlns"
    kind = "application/vnd.oasis.opendocument.spreadsheet"
    tables = []
    for name, sheet in sheets.items():
        columns = [_to_ods_cells(column, values) for column, values in sheet.items()]
        rows = "".join(
            f"<table:table-row>{''.join(row)}</table:table-row>"
            for row in zip(*columns, strict=True)
        )
        tables.append(f'<table:table table:name="{escape(name)}">{rows}</table:table>')
    content = (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        f'<office:document-content xmlns:office="{office}:office:1.0" '
        f'xmlns:table="{office}:table:1.0" xmlns:text="{office}:text:1.0" office:version="1.2">'
        f"<office:body><office:spreadsheet>{''.join(tables)}</office:spreadsheet></office:body>"
        "</office:document-content>"
    )
    manifest = (
        f'<manifest:manifest xmlns:manifest="{office}:manifest:1.0" manifest:version="1.2">'
        f'<manifest:file-entry manifest:full-path="/" manifest:media-type="{kind}"/>'
        '<manifest:file-entry manifest:full-path="content.xml" manifest:media-type="text/xml"/>'
        "</manifest:manifest>"
    )
    _write_zip(path, {"mimetype": kind, "content.xml": content, "META-INF/manifest.xml": manifest})


def _to_override(part: str, kind: str) -> str:
    return (
        f'<Override PartName="/xl/{part}" '
        f'ContentType="application/vnd.openxmlformats-officedocument.spreadsheetml.{kind}+xml"/>'
    )


def _to_xlsx_cells(name: str, values: Any) -> list[str]:
    cells = [_to_xlsx_cell(name)]
    if isinstance(values, Times):
        has_time = any(second % 86_400 for second in values.seconds)
        form = f'<c s="{2 if has_time else 1}"><v>{{}}</v></c>'
        days = (np.asarray(values.seconds) / 86_400 + _UNIX_EPOCH_IN_EXCEL).round(9).tolist()
        return cells + [form.format(f"{day:.9g}" if not has_time else day) for day in days]
    return cells + [_to_xlsx_cell(value) for value in _to_list(values)]


def _to_xlsx_cell(value: Any) -> str:
    if value is None:
        return "<c/>"
    if isinstance(value, str):
        return f'<c t="inlineStr"><is><t>{escape(value)}</t></is></c>'
    return f"<c><v>{value}</v></c>"


def _to_ods_cells(name: str, values: Any) -> list[str]:
    cells = [_to_ods_cell(name)]
    if isinstance(values, Times):
        return cells + [
            f'<table:table-cell office:value-type="date" office:date-value="{time}">'
            f"<text:p>{time}</text:p></table:table-cell>"
            for time in format_times(values.seconds, "%Y-%m-%dT%H:%M:%S")
        ]
    return cells + [_to_ods_cell(value) for value in _to_list(values)]


def _to_ods_cell(value: Any) -> str:
    if value is None:
        return "<table:table-cell/>"
    if isinstance(value, str):
        kind = 'office:value-type="string"'
    else:
        kind = f'office:value-type="float" office:value="{value}"'
    return f"<table:table-cell {kind}><text:p>{escape(str(value))}</text:p></table:table-cell>"


def _to_list(values: Any) -> list[Any]:
    return values.tolist() if isinstance(values, np.ndarray) else list(values)


def _write_zip(path: Path, parts: Mapping[str, str]) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in parts.items():
            # A constant date of the entry makes the bytes depend on nothing but the rows; the
            # `mimetype` of OpenDocument has to be stored as it is.
            entry = zipfile.ZipInfo(name, (2024, 1, 1, 0, 0, 0))
            stored = name == "mimetype"
            entry.compress_type = zipfile.ZIP_STORED if stored else zipfile.ZIP_DEFLATED
            archive.writestr(entry, text, compresslevel=1)
