"""`init --from` proposes declarations that load and fit the statistics of the data."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tailorbird.config import open_project
from tailorbird.errors import InputError
from tailorbird.events import DAY, HOUR
from tailorbird.events.guess import AskError, MappingHints
from tailorbird.features import load_features
from tailorbird.proposal import Proposal, propose
from tailorbird.proposal.statistics import LogStatistics
from tailorbird.ranking import Slot

NOW = 1_700_000_000_000_000
START = 1_690_000_000  # seconds


def proposed(folder: Path, rows: int) -> set[str]:
    """The columns proposed for a shop with searches, sessions and prices in which nobody comes back
    to an item.
    """
    events = ["event_time,user_id,session_id,product_id,event_type,price"]
    events += [
        f"{1_699_000_000 + n},{n % 7},s{n % 9},{n},{('view', 'purchase', 'search')[n % 3]},{n % 50 + 0.5}"
        for n in range(rows)
    ]
    items = ["product_id,category,price", *(f"{n},c{n % 4},{n % 50 + 0.25}" for n in range(rows))]
    (folder / "events.csv").write_text("\n".join(events) + "\n")
    (folder / "items.csv").write_text("\n".join(items) + "\n")
    proposal = propose(folder, NOW)
    (folder / "features.py").write_text(proposal.features)
    return {column.name for column in load_features(folder / "features.py").columns}


def test_what_is_proposed_loads_and_uses_what_the_data_has(tmp_path: Path) -> None:
    columns = proposed(tmp_path, 300)
    assert {
        "user_seen",
        "user_category_favourite",
        "user_hour_share",
        "weekday",
        "session_seconds",
    } <= columns
    assert {"still_looking", "price_to_habit"} <= columns


@pytest.mark.parametrize(
    ("price", "spent"), [("unit_price", 'of="price * quantity"'), ("sales_value", 'of="price"')]
)
def test_what_people_spend_is_the_price_of_all_pieces(
    price: str, spent: str, tmp_path: Path
) -> None:
    rows = [
        f"{1_699_000_000 + n * 3600},{n % 7},{n % 40},{n % 50 + 0.5},{n % 3 + 1}"
        for n in range(300)
    ]
    (tmp_path / "orders.csv").write_text(
        "\n".join([f"order_date,customer_id,product_id,{price},quantity", *rows]) + "\n"
    )
    (line,) = (
        line
        for line in propose(tmp_path / "orders.csv", NOW).features.splitlines()
        if line.startswith("user_spend")
    )
    assert spent in line


def test_an_attribute_that_two_tables_have_is_declared_once(tmp_path: Path) -> None:
    for name, level in (("crm", "gold"), ("users", 7)):
        (tmp_path / f"{name}.csv").write_text(
            "user_id,level,country\n" + "\n".join(f"{n},{level},NO" for n in range(7)) + "\n"
        )
    assert {"user_level", "user_country"} <= proposed(tmp_path, 300)


def test_without_events_the_error_describes_each_file(tmp_path: Path) -> None:
    (tmp_path / "goods.csv").write_text(
        "product_id,shade\n" + "\n".join(f"{n},red" for n in range(9)) + "\n"
    )
    (tmp_path / "other.csv").write_text("alpha,beta\n1,2\n")
    with pytest.raises(InputError) as error:
        propose(tmp_path, NOW)
    assert "goods.csv holds items by its columns product_id, shade" in str(error.value)
    assert "other.csv no column looks like an item or a user: alpha, beta" in str(error.value)
    assert "fix: rename the columns" in str(error.value)


class Site:
    """A log of events from which a project is proposed, and opened as a user would.

    Args:
        item: gives the item of the n-th event, by its time in hours.
    """

    def __init__(
        self,
        folder: Path,
        *,
        days: int,
        an_hour: int,
        item: Callable[[int, float], object],
        people: int = 60,
        session: int = 1,
    ) -> None:
        rng = np.random.default_rng(1)
        lines = ["timestamp,user_id,session_id,item_id,event_type,device_type,referrer_type"]
        for n in range(days * 24 * an_hour):
            hour = n / an_hour
            visit = n // session
            row = (
                START + int(hour * 3_600),
                f"u{visit * 7 % people}",
                f"s{visit}",
                item(n, hour),
                self.type(n),
            )
            lines.append(
                ",".join(map(str, (*row, ("phone", "desktop")[visit % 2], rng.integers(3))))
            )
        data = folder / "data"
        data.mkdir(parents=True)
        (data / "events.csv").write_text("\n".join(lines) + "\n")
        self.folder = folder
        self.proposal: Proposal = propose(data, NOW)
        (folder / "features.py").write_text(self.proposal.features)
        (folder / "slots.py").write_text(self.proposal.slots)
        (folder / "tailorbird.toml").write_text(
            f'[project]\nname = "site"\n[train]\nwindow = "{self.proposal.train_window}"\n'
        )
        self.project = open_project(folder)

    def type(self, n: int) -> str:
        return "click"

    @property
    def home(self) -> Slot:
        return self.project.slots["home"]

    @property
    def columns(self) -> set[str]:
        return {column.name for column in self.project.features.columns}

    def why(self, name: str) -> str:
        return next(why for what, _, why in self.proposal.reasons if what == name)


@pytest.fixture(scope="module")
def news(tmp_path_factory: pytest.TempPathFactory) -> Site:
    """Each hour has its own articles; nobody reads one twice; a visit has three clicks."""
    return Site(
        tmp_path_factory.mktemp("news"),
        days=4,
        an_hour=60,
        people=900,
        session=3,
        item=lambda n, hour: f"a{int(hour)}-{n * n % 30}",
    )


@pytest.fixture(scope="module")
def supermarket(tmp_path_factory: pytest.TempPathFactory) -> Site:
    """The same few things again and again, half a year long."""

    class Supermarket(Site):
        def type(self, n: int) -> str:
            return "purchase"

    return Supermarket(
        tmp_path_factory.mktemp("supermarket"),
        days=180,
        an_hour=1,
        people=40,
        item=lambda n, hour: f"p{(n * n + n % 40) % 50}",
    )


def test_a_site_of_news_gets_short_windows_sessions_and_nothing_again(news: Site) -> None:
    sources = list(news.home.sources)
    assert sources[0] in ("popular:15m", "popular:1h")
    assert {"item_knn:2", "session_knn", "new_items"} <= set(sources)
    assert "repeat" not in sources
    assert news.home.hide_seen == ("click",)
    assert "stan" in news.home.columns
    assert {f"{sources[0]}:device", f"{sources[0]}:referrer"} <= set(news.home.columns), (
        "events say the device and where they came from"
    )
    assert {"user_seen", "item_6h"} <= news.columns
    assert "user_item_ever" not in news.columns
    assert "the 20 most popular items" in news.why(sources[0])
    assert "3.0 events" in news.why("session_knn")
    assert news.proposal.train_window == "28d"


def test_repeat_consumption_comes_first(supermarket: Site) -> None:
    sources = list(supermarket.home.sources)
    assert sources[0] == "repeat"
    assert supermarket.home.sources["repeat"] >= 200
    assert "item_knn:10" in sources
    assert not {"session_knn", "new_items"} & set(sources)
    assert supermarket.home.hide_seen == ()
    assert next(iter(supermarket.home.objective)) == "purchase"
    assert {"user_item_ever", "user_item_since", "item_84d"} <= supermarket.columns
    assert "of the events are about an item that the person had before" in supermarket.why("repeat")


def test_a_window_is_long_enough_to_hold_visits_to_learn_from(supermarket: Site) -> None:
    assert supermarket.proposal.train_window in ("182d", "365d")
    assert (
        supermarket.why("train.window")
        == "24 visits a day: fewer days would hold too few to learn from"
    )


def test_of_many_events_a_person_has_more_are_kept(supermarket: Site) -> None:
    length = next(
        line for line in supermarket.proposal.features.splitlines() if line.startswith("recent = ")
    )
    assert "length=128" in length
    assert "one person of ten has 108 events or more" in supermarket.why("recent")


def test_reasons_are_figures_of_the_log(news: Site, supermarket: Site) -> None:
    for site in (news, supermarket):
        named = {what for what, kind, _ in site.proposal.reasons if kind == "source"}
        assert named <= {*site.home.sources, *site.home.columns}
        assert len(named) >= 3


def test_the_best_window_is_the_longest_of_the_equally_predictive() -> None:
    assert LogStatistics().best_window == 7 * DAY
    assert LogStatistics(share_by_window={HOUR: 0.5, DAY: 0.49, 7 * DAY: 0.3}).best_window == DAY
    assert LogStatistics(share_by_window={HOUR: 0.5, DAY: 0.4}).best_window == HOUR


def test_without_times_that_can_be_read_a_project_is_proposed_all_the_same(tmp_path: Path) -> None:
    rows = [f"u{n % 5},i{n % 9},{n % 28 + 1}. Mai 2024" for n in range(60)]
    (tmp_path / "events.csv").write_text("\n".join(["user_id,item_id,date", *rows]) + "\n")
    with pytest.raises(AskError, match="When did it happen"):
        propose(tmp_path, NOW)
    proposal = propose(tmp_path, NOW, MappingHints(roles=(("ts", "none"),)))
    (tmp_path / "features.py").write_text(proposal.features)
    assert "item_14d" in {column.name for column in load_features(tmp_path / "features.py").columns}
    assert '"popular:7d": 160' in proposal.slots
