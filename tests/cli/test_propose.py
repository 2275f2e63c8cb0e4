"""What `init --from` proposes: declarations that load, of what the data has."""

from pathlib import Path

import pytest

from tailorbird.cli.propose import propose
from tailorbird.errors import InputError
from tailorbird.features import load_features

NOW = 1_700_000_000_000_000


def proposed(folder: Path, rows: int) -> set[str]:
    """The columns proposed for a shop with searches, sessions and prices in which nobody comes back to an item."""
    events = ["event_time,user_id,session_id,product_id,event_type,price"]
    events += [f"{1_699_000_000 + n},{n % 7},s{n % 9},{n},{('view', 'purchase', 'search')[n % 3]},{n % 50 + 0.5}" for n in range(rows)]
    items = ["product_id,category,price", *(f"{n},c{n % 4},{n % 50 + 0.25}" for n in range(rows))]
    (folder / "events.csv").write_text("\n".join(events) + "\n")
    (folder / "items.csv").write_text("\n".join(items) + "\n")
    found = propose(folder, NOW)
    (folder / "features.py").write_text(found.features)
    return {column.name for column in load_features(folder / "features.py").columns}


def test_what_is_proposed_loads_and_uses_what_the_data_has(tmp_path: Path) -> None:
    columns = proposed(tmp_path, 300)
    assert {"user_seen", "user_category_favourite", "user_hour_share", "weekday", "session_seconds"} <= columns
    assert {"still_looking", "price_to_habit"} <= columns


def test_an_attribute_that_two_tables_have_is_declared_once(tmp_path: Path) -> None:
    for name, level in (("crm", "gold"), ("users", 7)):
        (tmp_path / f"{name}.csv").write_text("user_id,level,country\n" + "\n".join(f"{n},{level},NO" for n in range(7)) + "\n")
    assert {"user_level", "user_country"} <= proposed(tmp_path, 300)


def test_where_no_file_has_events_it_says_what_was_found_in_each(tmp_path: Path) -> None:
    (tmp_path / "goods.csv").write_text("product_id,shade\n" + "\n".join(f"{n},red" for n in range(9)) + "\n")
    (tmp_path / "other.csv").write_text("klant,artikel\n1,2\n")
    with pytest.raises(InputError) as told:
        propose(tmp_path, NOW)
    assert "goods.csv holds items by its columns product_id, shade" in str(told.value)
    assert "other.csv no column looks like an item or a user: klant, artikel" in str(told.value)
    assert "fix: rename the columns" in str(told.value)
