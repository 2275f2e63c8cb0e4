"""Times of any usual form are read, and a form that leaves day and month open is not guessed."""

from datetime import UTC, datetime

import pyarrow as pa
import pytest

from tailorbird.events.tables.times import detect_time_formats, parse_times


@pytest.mark.parametrize(
    ("texts", "form"),
    [
        (["2025-09-01 00:01:25 UTC", "2025-09-01 00:01:26 UTC"], ""),
        (["2025-09-01T10:00:00+02", "2025-09-01T10:00:00.123456Z"], ""),
        (["24.12.2025 18:30"], "%d.%m.%Y %H:%M"),
        (["24.12.2025"], "%d.%m.%Y"),
        (["12/24/2025 6:30:00 PM"], "%m/%d/%Y %I:%M:%S %p"),
        (["24/12/2025"], "%d/%m/%Y"),
        (["Dec 24, 2025 18:30"], "%b %d, %Y %H:%M"),
        (["Wed, 24 Dec 2025 18:30:00 +0200"], "%a, %d %b %Y %H:%M:%S %z"),
        (["24/Dec/2025:18:30:00 +0000"], "%d/%b/%Y:%H:%M:%S %z"),
        (["2025/12/24 18:30"], "%Y/%m/%d %H:%M"),
    ],
)
def test_a_column_has_the_form_that_all_its_values_fit(texts: list[str], form: str) -> None:
    time_forms = detect_time_formats(pa.array(texts))
    assert time_forms is not None
    assert time_forms.formats == (form,)


@pytest.mark.parametrize(
    "texts",
    [
        ["lamp"],
        ["12345", "12346"],
        ["iPhone 12, 64 GB"],
        [None, None],
        ["24.12.2025", "lamp", "chair"],
    ],
)
def test_what_is_no_time_has_no_form(texts: list[str | None]) -> None:
    assert detect_time_formats(pa.array(texts, pa.string())) is None


def test_day_and_month_are_distinguished_by_a_value_or_the_row_order_or_not_at_all() -> None:
    by_value = detect_time_formats(pa.array(["03/04/2025", "12/25/2025", "01/02/2025"]))
    by_order = detect_time_formats(pa.array(["11/03/2025", "01/04/2025", "02/04/2025"]))
    neither = detect_time_formats(
        pa.array(["03/04/2025", "02/01/2025", "01/02/2025", "05/05/2025"])
    )
    assert None not in (by_value, by_order, neither)
    assert by_value.formats == ("%m/%d/%Y",)
    assert by_order.formats == ("%d/%m/%Y",)
    assert set(neither.formats) == {"%d/%m/%Y", "%m/%d/%Y"}
    assert neither.example == "03/04/2025"


@pytest.mark.parametrize(
    ("text", "form", "zone", "moment"),
    [
        ("24.12.2025 18:30", "%d.%m.%Y %H:%M", "UTC", datetime(2025, 12, 24, 18, 30, tzinfo=UTC)),
        (
            "24.12.2025 18:30",
            "%d.%m.%Y %H:%M",
            "Europe/Oslo",
            datetime(2025, 12, 24, 17, 30, tzinfo=UTC),
        ),
        (
            "24.12.2025 18:30 +02",
            "%d.%m.%Y %H:%M %z",
            "Europe/Oslo",
            datetime(2025, 12, 24, 16, 30, tzinfo=UTC),
        ),
    ],
)
def test_times_are_in_the_zone_that_they_name_or_else_in_the_mappings(
    text: str, form: str, zone: str, moment: datetime
) -> None:
    parsed = parse_times(pa.array([text, "soon", None]), form, zone)
    assert parsed.to_pylist() == [int(moment.timestamp() * 1_000_000), None, None]
