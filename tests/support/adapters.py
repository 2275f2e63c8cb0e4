"""Reading what an adapter makes of some files, as the contract would see it."""

import json
from pathlib import Path
from typing import Any

from tailorbird.events import Receipt, RoutePlan, check_body
from tailorbird.events.adapters import FORMATS, AdapterOptions, digest_files, find_files

NOW = 1_800_000_000_000_000


def convert_lines(format_: str, path: Path, **options: Any) -> list[bytes]:
    """Return the lines that the adapter yields, one document per event."""
    format_adapter = FORMATS[format_]
    read, patterns = format_adapter.read, format_adapter.patterns
    files = digest_files(find_files(path, patterns))
    return [
        line
        for batch in read(files, AdapterOptions(root=str(path), **options))
        for line in batch.lines
    ]


def convert_events(format_: str, path: Path, **options: Any) -> list[dict[str, Any]]:
    """The same, decoded; every one must keep the contract."""
    lines = convert_lines(format_, path, **options)
    _, refusals = check_body(b"\n".join(lines), Receipt(NOW, "import", "ndjson"), RoutePlan())
    assert refusals == []
    return [json.loads(line) for line in lines]


def convert_mapped(path: Path, mapping: str) -> list[dict[str, Any]]:
    """Events by a mapping."""
    return convert_events("mapping", path, mapping=mapping, mapping_name="mapping.toml")


def read_refusals(
    format_: str, path: Path, **options: Any
) -> tuple[int, list[tuple[str, str, str, Any]]]:
    """Count the accepted lines, and return code, path, message and adapter record of the others."""
    accepted, refusals = check_body(
        b"\n".join(convert_lines(format_, path, **options)),
        Receipt(NOW, "import", "ndjson"),
        RoutePlan(),
    )
    return len(accepted), [
        (refusal.code, refusal.path, refusal.message, _unread_record(refusal.body))
        for refusal in refusals
    ]


def _unread_record(body: bytes) -> Any:
    try:
        return json.loads(body).get("unread")
    except ValueError:
        return None
