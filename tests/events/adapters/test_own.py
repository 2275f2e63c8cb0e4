import struct
from pathlib import Path

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.support.adapters import convert_events, convert_lines

from tailorbird.errors import InputError

TS = 1_700_000_000_000_001


def test_json_lines_pass_as_they_are(tmp_path: Path) -> None:
    written = [b'{"event_id":"a","type":"click"}', b"not json", b"[]"]
    (tmp_path / "e.jsonl").write_bytes(b"\n".join(written))
    assert convert_lines("tailorbird", tmp_path / "e.jsonl") == written


def test_parquet_with_the_same_fields(tmp_path: Path) -> None:
    table = pa.table(
        {
            "event_id": ["a", "b"],
            "type": ["click", "impression"],
            "ts": pa.array(
                [TS * 1_000 + 7, (TS + 1) * 1_000], pa.timestamp("ns", "UTC")
            ),  # as pandas writes times
            "user_id": ["u", None],
            "anonymous_id": [None, "x"],
            "item_id": ["i", None],
            "items": [None, ["i", "j"]],
            "context": [{"device": "phone", "country": None}, None],
            "properties": [{"price": 2.5}, None],
        }
    )
    pq.write_table(table, tmp_path / "e.parquet")
    assert convert_events("tailorbird", tmp_path) == [
        {
            "event_id": "a",
            "type": "click",
            "ts": TS,
            "user_id": "u",
            "item_id": "i",
            "context": {"device": "phone", "country": None},
            "properties": {"price": 2.5},
        },
        {
            "event_id": "b",
            "type": "impression",
            "ts": TS + 1,
            "anonymous_id": "x",
            "items": ["i", "j"],
        },
    ]


def test_columns_that_no_event_has_are_named(tmp_path: Path) -> None:
    pq.write_table(pa.table({"event_id": ["a"], "colour": ["red"]}), tmp_path / "e.parquet")
    with pytest.raises(InputError, match=r"columns colour are no fields.*\n.*--guess"):
        convert_lines("tailorbird", tmp_path)


def test_a_file_that_is_no_parquet(tmp_path: Path) -> None:
    (tmp_path / "e.parquet").write_bytes(b"PAR1 no more")
    with pytest.raises(InputError, match="not a Parquet file"):
        convert_lines("tailorbird", tmp_path)


@pytest.mark.parametrize(
    ("format_", "mapping"),
    [("tailorbird", ""), ("mapping", '[[source]]\nfile = "*"\nuser_id = "user_id"\n')],
)
def test_invalid_utf_8_raises_with_the_column(tmp_path: Path, format_: str, mapping: str) -> None:
    offsets, texts = struct.pack("<3i", 0, 2, 4), b"u1\xff\xfe"
    users = pa.Array.from_buffers(
        pa.string(), 2, [None, pa.py_buffer(offsets), pa.py_buffer(texts)]
    )
    pq.write_table(pa.table({"event_id": ["a", "b"], "user_id": users}), tmp_path / "e.parquet")
    with pytest.raises(InputError, match=r"rows 1 to 2: column user_id is damaged: .*UTF8"):
        convert_lines(format_, tmp_path, mapping=mapping)


def test_numbers_are_those_of_the_rows(tmp_path: Path) -> None:
    from tailorbird.events.adapters import FORMATS, AdapterOptions

    pq.write_table(pa.table({"event_id": [str(i) for i in range(20_003)]}), tmp_path / "e.parquet")
    batches = list(FORMATS["tailorbird"].read({tmp_path / "e.parquet": "0"}, AdapterOptions()))
    assert [number for batch in batches for number in batch.line_numbers] == list(range(1, 20_004))
    assert msgspec.json.decode(batches[-1].lines[-1]) == {"event_id": "20002"}
