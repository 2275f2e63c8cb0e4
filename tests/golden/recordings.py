"""All recordings: how each is made, where it is, and how it differs from today's code."""

import difflib
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

from tests.golden import files
from tests.golden.commands import CASES, PRINTED, record_case
from tests.golden.metrics import metrics
from tests.golden.shapes import readable, shape
from tests.golden.site import RecordedShop

FOLDER = Path(__file__).parent
RENEW = "python -m tests.golden.record"


def difference(name: str, shop: RecordedShop) -> str:
    """Return how a recording differs from today's text, as a unified diff; empty if it does not."""
    path = path_of(name)
    before = path.read_text() if path.exists() else ""
    after = RECORDINGS[name](shop)
    lines = difflib.unified_diff(
        before.splitlines(keepends=True),
        after.splitlines(keepends=True),
        f"recorded/{path.relative_to(FOLDER)}",
        f"today/{path.relative_to(FOLDER)}",
    )
    return "".join(lines)


def file_name(name: str) -> str:
    """Return what the file of a recording is called: `commands/lake-verify-erased`."""
    return name.replace("(", "").replace(")", "").replace(" ", "-")


def path_of(name: str) -> Path:
    """Return the file of a recording."""
    return FOLDER / f"{file_name(name)}.json"


def _openapi(shop: RecordedShop) -> str:
    return json.dumps(shop.openapi, indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def _printed(name: str, shop: RecordedShop) -> str:
    return readable(shape(shop.printed[name], PRINTED[name]))


SLOW = {f"commands/{case.name}" for case in CASES if case.slow}
RECORDINGS: dict[str, Callable[[RecordedShop], str]] = {
    "bundle": files.bundle,
    "files": files.files,
    "metrics": metrics,
    "openapi": _openapi,
    "routed": files.routed,
    "tables": files.tables,
    **{f"commands/{name}": partial(_printed, name) for name in PRINTED},
    **{f"commands/{case.name}": partial(record_case, case) for case in CASES},
}
