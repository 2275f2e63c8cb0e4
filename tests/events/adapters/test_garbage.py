"""Whatever stands in a file or a body: every record is accepted, refused or left out, and the same
bytes give the same lines.
"""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.support.adapters import NOW

from tailorbird.errors import InputError
from tailorbird.events import Receipt, RoutePlan, check_body
from tailorbird.events.adapters import CONVERTERS, FORMATS, AdapterOptions
from tailorbird.events.adapters.record import record_to_lines
from tailorbird.events.adapters.webhook import WEBHOOK_CONVERTERS, body_to_lines

FUZZ = settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
SCALAR = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=12)
    | st.sampled_from(["2020-01-01T00:00:00Z", "1e999", "(not set)", 10**400, "9" * 400])
)
ANY = st.recursive(
    SCALAR,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3)
    ),
    max_leaves=6,
)
FIELDS = {
    "personalize": [
        "USER_ID",
        "ITEM_ID",
        "TIMESTAMP",
        "EVENT_TYPE",
        "EVENT_VALUE",
        "IMPRESSION",
        "CREATION_TIMESTAMP",
        "#row",
    ],
    "gorse": [
        "FeedbackType",
        "UserId",
        "ItemId",
        "Value",
        "Timestamp",
        "Labels",
        "Categories",
        "IsHidden",
    ],
    "segment": [
        "type",
        "event",
        "messageId",
        "userId",
        "anonymousId",
        "timestamp",
        "properties",
        "traits",
        "context",
        "products",
        "page",
    ],
    "ga4": [
        "event_name",
        "event_timestamp",
        "event_params",
        "items",
        "user_pseudo_id",
        "device",
        "geo",
        "ecommerce",
        "key",
        "value",
    ],
    "snowplow": [
        "event",
        "event_id",
        "derived_tstamp",
        "contexts",
        "unstruct_event",
        "user_id",
        "se_action",
        "ti_sku",
    ],
    "cloudevents": [
        "specversion",
        "id",
        "source",
        "type",
        "time",
        "data",
        "data_base64",
        "datacontenttype",
    ],
    "metarank": [
        "event",
        "id",
        "timestamp",
        "user",
        "session",
        "item",
        "items",
        "fields",
        "name",
        "value",
        "ranking",
        "tenant",
        "label",
    ],
}
LIKELY = st.sampled_from(
    [
        "1.0",
        "track",
        "identify",
        "page",
        "alias",
        "Order Completed",
        "view_item",
        "purchase",
        "unstruct",
        "struct",
        "star",
        "rating",
    ]
)


def _records(format_: str) -> st.SearchStrategy[Any]:
    names = st.sampled_from(FIELDS[format_])
    inner = st.dictionaries(names, SCALAR | LIKELY | ANY, max_size=5)
    return (
        st.dictionaries(names, SCALAR | LIKELY | inner | st.lists(inner, max_size=2), max_size=8)
        | ANY
    )


def _accounted(line_list: list[bytes], receipt: Receipt) -> None:
    accepted, refused = (
        check_body(b"\n".join(line_list), receipt, RoutePlan()) if line_list else ([], [])
    )
    assert len(accepted) + len(refused) == len(line_list)
    assert not any(b"\n" in line for line in line_list)


@pytest.mark.parametrize("format_", CONVERTERS)
@FUZZ
@given(data=st.data())
def test_any_json_is_accepted_or_refused(format_: str, data: st.DataObject) -> None:
    raw = json.dumps(data.draw(_records(format_))).encode()
    left_out: dict[str, int] = {}
    line_list = record_to_lines(format_, raw, "d:1", CONVERTERS[format_], left_out)
    assert line_list or left_out or raw == b"[]"
    _accounted(line_list, Receipt(NOW, "import", "ndjson"))
    assert record_to_lines(format_, raw, "d:1", CONVERTERS[format_], {}) == line_list


@pytest.mark.parametrize("format_", [*CONVERTERS, "metarank"])
@FUZZ
@given(
    content=st.binary(max_size=300)
    | st.text(max_size=200).map(lambda text: text.encode(errors="replace"))
)
def test_any_bytes_in_a_file_are_refused_or_the_file_is_named(
    format_: str, content: bytes, tmp_path: Path
) -> None:
    heads = {"personalize": b"USER_ID,ITEM_ID,TIMESTAMP\n", "snowplow": b"\t" * 130 + b"\n"}
    for head in (b"", heads.get(format_, b"{}\n")):
        file = tmp_path / "garbage.txt"
        file.write_bytes(head + content)
        converted = _read_or_named(format_, file)
        _accounted(converted, Receipt(NOW, "import", "ndjson"))


def _read_or_named(format_: str, file: Path) -> list[bytes]:
    """The lines of a file; none if it is refused as a whole, by name."""
    try:
        return [
            line
            for batch in FORMATS[format_].read({file: "0" * 64}, AdapterOptions())
            for line in batch.lines
        ]
    except InputError as refused:
        if file.name not in str(refused):
            raise
        return []


@pytest.mark.parametrize("format_", WEBHOOK_CONVERTERS)
@FUZZ
@given(data=st.data())
def test_any_body_of_a_webhook(format_: str, data: st.DataObject) -> None:
    record = _records(format_)
    body = data.draw(
        st.one_of(
            record.map(json.dumps),
            st.lists(record, max_size=3).map(json.dumps),
            record.map(lambda r: json.dumps({"batch": [r]})),
            st.text(max_size=30),
        )
    )
    line_list = body_to_lines(format_, body.encode(errors="surrogatepass"))
    _accounted(line_list, Receipt(NOW, "collector", "ndjson", format_))


def test_json_nested_beyond_measure() -> None:
    raw = b'{"type":' * 100_000
    for format_, convert in CONVERTERS.items():
        (line,) = record_to_lines(format_, raw, "d:1", convert, {})
        _accounted([line], Receipt(NOW, "import", "ndjson"))
    deep = (
        b'{"messageId":"m","type":"track","userId":"u","event":"x","properties":{"a":'
        + b"[" * 500
        + b"]" * 500
        + b"}}"
    )
    _accounted(
        record_to_lines("segment", deep, "d:1", CONVERTERS["segment"], {}),
        Receipt(NOW, "import", "ndjson"),
    )


def test_a_client_cannot_choose_the_reason() -> None:
    forged = (
        b'{"unread":{"format":"x","place":"x","code":"mine","path":"$","message":"m","record":1}}'
    )
    _, (refusal,) = check_body(forged, Receipt(NOW), RoutePlan())
    assert refusal.code == "unknown_field"
    for line in body_to_lines("segment", forged) + body_to_lines("cloudevents", forged):
        _, (refusal,) = check_body(
            line, Receipt(NOW, "collector", "ndjson", "segment"), RoutePlan()
        )
        assert refusal.code == "missing"
