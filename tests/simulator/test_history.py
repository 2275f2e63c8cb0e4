"""History: the contract takes it, what was injected is found, and the logged propensities are
right.
"""

from collections import Counter, defaultdict
from dataclasses import fields

import msgspec
import numpy as np
import pytest

from tailorbird.events import DAY, HOUR, Receipt, RoutePlan, check_body
from tailorbird.simulator import BOT, DefectRates, Site

RECEIVED = 2_000_000_000_000_000


@pytest.fixture(scope="module")
def logged():
    """A history, and what the contract makes of it."""
    site = Site(seed=3, users=700, items=250)
    history = site.history(
        days=6,
        defects=DefectRates(
            duplicates=0.03, late=0.02, malformed=0.02, skewed_users=0.05, bot_views_per_day=100
        ),
    )
    arrivals = list(history)
    body = b"\n".join(arrival.body for arrival in arrivals)
    accepted, refused = check_body(body, Receipt(RECEIVED, "import", "ndjson"), RoutePlan())
    return site, history, arrivals, accepted, refused


def test_events_come_in_order_of_arrival(logged):
    _, _, arrivals, accepted, _ = logged
    times = [arrival.received_at for arrival in arrivals]
    assert times == sorted(times)
    assert {row.received_at for row in accepted} <= set(times)


def test_each_injected_fault_is_refused_with_its_code_and_nothing_else_is(logged):
    _, history, _, _, refused = logged
    assert Counter(row.code for row in refused) == history.injected.malformed
    assert len(history.injected.malformed) >= 8


def test_duplicates_are_the_events_sent_twice(logged):
    _, history, _, accepted, _ = logged
    times = Counter(row.event.event_id for row in accepted)
    assert sum(n - 1 for n in times.values()) == history.injected.duplicates > 0
    assert len(times) == history.injected.events
    by_id = defaultdict(list)
    for row in accepted:
        by_id[row.event.event_id].append(row)
    for rows in by_id.values():
        assert (
            len(
                {
                    msgspec.json.encode(msgspec.structs.replace(row.event, received_at=None))
                    for row in rows
                }
            )
            == 1
        )


def test_late_events_are_as_many_as_configured(logged):
    _, history, _, accepted, _ = logged
    first = {
        row.event.event_id: row
        for row in reversed(accepted)
        if row.event.type not in ("item", "user")
    }
    delays = np.array([row.received_at - row.ts for row in first.values()])
    assert (delays > 30 * 60 * 1_000_000).sum() == history.injected.late > 0
    assert (delays > DAY).sum() == history.injected.late_uncounted > 0


def test_skewed_clocks_send_their_time_and_are_corrected(logged):
    site, history, _, accepted, _ = logged
    skewed = [row for row in accepted if row.sent_at is not None]
    assert len(skewed) == history.injected.skewed > 0
    assert max(abs(row.ts - row.ts_original) for row in skewed) > HOUR
    for row in skewed:
        assert site.start <= row.ts <= row.received_at


def test_the_crawler_is_recognised_by_its_agent(logged):
    _, history, _, accepted, _ = logged
    bots = [row for row in accepted if row.event.anonymous_id == BOT]
    assert len(bots) == history.injected.bot > 0
    assert all("bot" in row.event.context.user_agent.lower() for row in bots)


def test_every_type_of_event_is_there_and_names_what_was_shown(logged):
    _, _, _, accepted, _ = logged
    kinds = {row.event.type for row in accepted}
    assert kinds >= {
        "item",
        "user",
        "answer",
        "impression",
        "click",
        "view",
        "search",
        "cart",
        "purchase",
        "identify",
    }
    answers = {row.event.request_id: row for row in accepted if row.event.type == "answer"}
    for row in accepted:
        event = row.event
        if event.type in ("click", "purchase", "impression") and event.anonymous_id != BOT:
            answer = answers[event.request_id]
            assert set(event.items or [event.item_id]) <= set(answer.event.items)
            assert row.ts > answer.ts or row.sent_at is not None


def test_logged_propensities_are_the_frequencies(logged):
    """E[1/propensity] of what stands at a position is the number of items that could stand there,
    whatever the policy.
    """
    site, _, _, accepted, _ = logged
    totals = defaultdict(list)
    for row in accepted:
        if row.event.type == "answer" and row.event.answer.slot == "home":
            for place in (0, 1, 5, 11):
                totals[place].append(1.0 / row.event.answer.propensities[place])
    available = np.mean([len(site.items.list_available(float(day))) for day in range(6)])
    for weights in totals.values():
        error = np.std(weights) / np.sqrt(len(weights))
        assert abs(np.mean(weights) - available) < 4.5 * error


def test_people_register_and_are_anonymous_before(logged):
    _, history, _, accepted, _ = logged
    registered_at = {row.event.user_id: row.ts for row in accepted if row.event.type == "identify"}
    assert len(registered_at) > 10
    for row in accepted:
        if row.event.user_id in registered_at and row.event.type == "click" and row.sent_at is None:
            assert row.ts > registered_at[row.event.user_id] - DAY
    assert history.population.logged_in.sum() > registered_at.__len__()


def test_nothing_hidden_is_emitted(logged):
    site, _, _, accepted, _ = logged
    names = {name for row in accepted for name in (row.event.properties or {})}
    shown = {
        "title",
        "description",
        "category",
        "brand",
        "colour",
        "price",
        "on_sale",
        "stock",
        "country",
        "age_group",
    }
    assert names == shown | {"query", "dwell_ms", "quantity"}
    hidden = {field.name for field in fields(site.items)} - {"price"}
    assert not names & (hidden - {"category", "brand", "colour"})


def test_days_have_a_rhythm(logged):
    _, _, _, accepted, _ = logged
    hours = Counter()
    for row in accepted:
        if row.event.type == "answer":
            hours[(row.ts // 3_600_000_000 + row.event.context.utc_offset_min // 60) % 24] += 1
    assert hours[20] > 5 * hours[3]


def test_users_and_items_keep_arriving(logged):
    site, _, _, accepted, _ = logged
    arrivals = [row for row in accepted if row.event.type == "item" and row.ts > site.start]
    assert len({row.event.item_id for row in arrivals}) > 5
    newcomers = {
        row.event.anonymous_id
        for row in accepted
        if row.event.type == "answer" and row.ts > site.start + 5 * DAY
    }
    assert any(site.users.joined_day[int(person[1:])] > 5 for person in newcomers if person)


def test_good_lists_make_people_come_back(logged):
    _, history, *_ = logged
    satisfaction = history.population.satisfaction
    assert satisfaction.std() > 0.02
    assert 0 < history.population.has_left.mean() < 0.1


def test_writing_gives_one_line_an_arrival(tmp_path):
    site = Site(seed=3, users=40, items=80)
    lines = site.history(days=1).write(tmp_path / "events.jsonl")
    assert len((tmp_path / "events.jsonl").read_bytes().splitlines()) == lines > 100
