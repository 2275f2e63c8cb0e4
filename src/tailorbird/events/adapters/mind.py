"""MIND, Microsoft's news dataset: `behaviors.tsv` and `news.tsv`, without headers.

    behaviors → per row an answer with the news shown, their impression, and the clicks
    news      → timeless item profiles (category, subcategory, title, abstract)

The column of earlier clicks has no times and is left out. Times name no zone, and are read as UTC.

Source: Wu et al., "MIND: A Large-scale Dataset for News Recommendation", ACL 2020.
"""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from tailorbird.events.adapters.batch import (
    AdapterOptions,
    Batch,
    FormatAdapter,
    encode_event,
    to_batches,
)
from tailorbird.events.adapters.record import encode_unread_row
from tailorbird.events.contract.envelope import Event, ResponseDetails
from tailorbird.events.tables.files import read_lines

FORMAT = "mind"
PATTERNS = ("behaviors.tsv", "news.tsv")
_TIME_FORMAT = "%m/%d/%Y %I:%M:%S %p"
_CLICKED_LABEL = "1"
_COLUMN_COUNT = 5  # that are read of either file: further ones of the news are entities
_UNREADABLE_REASON = (
    "wrong_type",
    "$",
    "it has too few columns, or its time or the list of news that it showed cannot be read",
)


def read_mind(files: dict[Path, str], options: AdapterOptions) -> Iterator[Batch]:
    """Convert the rows of both files to events.

    A row that cannot be read is kept with the reason, to be quarantined.
    """
    for file, digest in files.items():
        convert = (
            partial(_convert_behaviour, slot=options.slot)
            if file.name.startswith("behaviors")
            else _convert_news
        )
        yield from to_batches(str(file), _convert_rows(file, digest[:12], convert))


def is_mind(name: str, first_line: bytes) -> bool:
    """Return whether a file is of this format, by its name and first line."""
    fields = first_line.decode(errors="replace").split("\t")
    if name == "behaviors.tsv":
        return len(fields) == _COLUMN_COUNT and "-" in fields[-1]
    return name == "news.tsv" and len(fields) >= _COLUMN_COUNT and fields[0].startswith("N")


def _convert_rows(
    file: Path, digest: str, convert: Callable[[list[str], str], list[Event]]
) -> Iterator[tuple[int, bytes]]:
    """Yield the events of each row; `convert` gets the first columns and the location."""
    for number, raw in read_lines(file, strip=False):
        fields = raw.decode(errors="replace").rstrip("\r\n").split("\t")
        location = f"{digest}:{number}"
        try:
            for event in convert(fields[:_COLUMN_COUNT], location):
                yield number, encode_event(event)
        except ValueError:
            yield number, encode_unread_row(FORMAT, location, fields, _UNREADABLE_REASON)


def _convert_behaviour(fields: list[str], location: str, *, slot: str) -> list[Event]:
    row_number, user_id, time_text, _, shown_text = fields
    ts = int(datetime.strptime(time_text, _TIME_FORMAT).replace(tzinfo=UTC).timestamp()) * 1_000_000
    shown_news = [entry.rsplit("-", 1) for entry in shown_text.split()]
    item_ids = [item_id for item_id, _ in shown_news]
    # Row numbers restart in each file, so the id includes user and time.
    request_id = f"mind:{row_number}:{user_id}:{ts // 1_000_000}"
    common_fields = {"ts": ts, "user_id": user_id, "request_id": request_id}
    events = [
        Event(
            event_id=request_id,
            type="answer",
            answer=ResponseDetails(slot=slot),
            items=item_ids,
            **common_fields,
        ),
        Event(
            event_id=f"{request_id}#impression", type="impression", items=item_ids, **common_fields
        ),
    ]
    clicked_items = (item_id for item_id, label in shown_news if label == _CLICKED_LABEL)
    return events + [
        Event(event_id=f"{request_id}#{item_id}", type="click", item_id=item_id, **common_fields)
        for item_id in clicked_items
    ]


def _convert_news(fields: list[str], location: str) -> list[Event]:
    item_id, category, subcategory, title, abstract = fields
    attributes = {
        "title": title,
        "category": category,
        "subcategory": subcategory,
        "abstract": abstract,
    }
    properties = {name: value for name, value in attributes.items() if value}
    return [
        Event(
            event_id=f"mind:{item_id}:{location}",
            type="item",
            item_id=item_id,
            timeless=True,
            properties=properties,
        )
    ]


ADAPTER = FormatAdapter(read=read_mind, patterns=PATTERNS, is_text=is_mind)
