"""Recognition of file formats."""

import gzip
import json
from pathlib import Path

import pytest

from tailorbird.errors import InputError
from tailorbird.events.adapters import FORMATS, list_importable_files, recognise_format
from tailorbird.events.tables.files import find_files

SAMPLES = [
    ("i.csv", "USER_ID,ITEM_ID,TIMESTAMP\n1,2,3\n", "personalize"),
    ("ratings.csv", "userId,movieId,rating,timestamp\n1,2,3,4\n", "movielens"),
    ("u.data", "1\t2\t3\t4\n", "movielens"),
    ("t.csv", "user,item\n1,2\n", "mapping"),
    ("e.csv", "event_id,type,user_id\ne,click,u\n", "mapping"),
    ("e.tsv", "shop" + "\t" * 130 + "\n", "snowplow"),
    ("e.jsonl", json.dumps({"FeedbackType": "star", "UserId": "u", "ItemId": "i"}), "gorse"),
    ("e.jsonl", json.dumps({"type": "track", "messageId": "m"}), "segment"),
    ("2026-11-20-100512-4964-4965", "shop" + "\t" * 130 + "\n", "snowplow"),
    ("events_20261118_000000000000", json.dumps({"event_name": "x", "event_timestamp": 1}), "ga4"),
    ("e.json", "\nnot JSON\n" + json.dumps({"event_name": "x", "event_timestamp": 1}), "ga4"),
    (
        "e.json",
        json.dumps([{"specversion": "1.0", "source": "/", "id": "1"}], indent=1),
        "cloudevents",
    ),
    ("e.jsonl", json.dumps({"event": "ranking", "id": "1", "timestamp": 1}), "metarank"),
    ("e.jsonl", json.dumps({"event_id": "e", "type": "click"}), "tailorbird"),
    ("e.jsonl", "{}\n" * 100, None),
]


@pytest.mark.parametrize(("name", "content", "format_"), SAMPLES)
def test_formats_are_recognised_by_content(
    tmp_path: Path, name: str, content: str, format_: str | None
) -> None:
    (tmp_path / name).write_text(content)
    (tmp_path / "README.txt").write_text("not this one")
    assert recognise_format(list_importable_files(tmp_path)) == format_


def test_files_of_several_formats_are_no_one_format(tmp_path: Path) -> None:
    for name, content, _ in SAMPLES[:2]:
        (tmp_path / name).write_text(content)
    assert recognise_format(list_importable_files(tmp_path)) is None


def test_files_without_a_suffix_count_only_where_they_are_exports(tmp_path: Path) -> None:
    (tmp_path / "i.csv").write_text("USER_ID,ITEM_ID,TIMESTAMP\n1,2,3\n")
    (tmp_path / "notes").write_text("not this one")
    (tmp_path / "binary").write_bytes(b"\x00" * 100)
    assert list_importable_files(tmp_path) == [tmp_path / "i.csv"]
    loaded = tmp_path / "enriched" / "2026-11-20-100512-4964-4965.gz"
    loaded.parent.mkdir()
    loaded.write_bytes(gzip.compress(b"shop" + b"\t" * 130 + b"\n"))
    assert list_importable_files(loaded.parent) == [loaded]
    assert recognise_format([loaded]) == "snowplow"
    archived = tmp_path / "segment-logs" / "source" / "1450214400000" / "1450214400000.1.19.5.gz"
    archived.parent.mkdir(parents=True)
    archived.write_bytes(
        gzip.compress(
            b'{"type": "track", "event": "Product Clicked", "userId": "u", "messageId": "m"}\n'
        )
    )
    (tmp_path / "segment-logs" / "old.log.gz").write_bytes(gzip.compress(b"not this one"))
    assert list_importable_files(tmp_path / "segment-logs") == [archived]
    assert recognise_format([archived]) == "segment"
    assert archived in find_files(tmp_path / "segment-logs", FORMATS["segment"].patterns)


def test_no_importable_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no file in it that any format reads"):
        list_importable_files(tmp_path)
    with pytest.raises(InputError, match="no such file or folder"):
        list_importable_files(tmp_path / "gone")
