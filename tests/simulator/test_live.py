"""Live traffic: in order, answerable, accepted at the collector, and drawn from what the truth says."""

import time
from collections import Counter

import msgspec
import numpy as np
import pytest

from tailorbird.events import DAY, HOUR, MINUTE, Receipt, RoutePlan, check_body
from tailorbird.simulator import BOT, DefectRates, Outbox, Site


def serve(site, live, until, answer):
    """Answer requests with `answer(request)`; return requests and arrivals in order."""
    outbox, requests = Outbox(), []
    for number, request in enumerate(live.requests(until)):
        requests.append(request)
        outbox.add(live.react(request, answer(request), f"r{number}"))
    outbox.add(live.background(until))
    return requests, outbox.pop_due(until + 30 * DAY)


@pytest.fixture
def site():
    return Site(seed=4, users=1_200, items=200)


def test_requests_come_in_order_and_visits_go_on_when_answered(site):
    start = site.start + 3 * DAY
    popular = site.truth.most_appealing_list(start)
    requests, _ = serve(site, site.live(start), start + 12 * HOUR, lambda request: popular)
    times = [request.at for request in requests]
    assert times == sorted(times)
    assert start <= times[0]
    assert times[-1] < start + 12 * HOUR
    sessions = Counter(request.session_id for request in requests if request.visitor >= 0)
    assert 1.8 < np.mean(list(sessions.values())) < 2.8
    assert len(
        {(request.session_id, request.visitor) for request in requests if request.visitor >= 0}
    ) == len(sessions)


def test_calling_again_continues_and_gives_the_same_as_one_call(site):
    start = site.start + 3 * DAY
    popular = site.truth.most_appealing_list(start)
    in_one_call, _ = serve(site, site.live(start), start + 4 * HOUR, lambda request: popular)
    live, parts = site.live(start), []
    for until in range(start + 16 * MINUTE, start + 4 * HOUR + 1, 16 * MINUTE):
        parts += serve(site, live, until, lambda request: popular)[0]
    assert parts == in_one_call


def test_every_event_passes_the_door_but_what_was_spoiled(site):
    start = site.start + 3 * DAY
    live = site.live(
        start, defects=DefectRates(duplicates=0.05, late=0.05, malformed=0.05, skewed_users=0.1)
    )
    popular = site.truth.most_appealing_list(start)
    _, arrivals = serve(site, live, start + 12 * HOUR, lambda request: popular)
    refused, accepted = Counter(), Counter()
    for arrival in arrivals:
        good, bad = check_body(arrival.body, Receipt(arrival.received_at), RoutePlan())
        refused.update(row.code for row in bad)
        accepted.update(row.event.event_id for row in good)
    assert refused == live.injected.malformed
    assert sum(n - 1 for n in accepted.values()) == live.injected.duplicates > 0
    assert len(accepted) == live.injected.events


@pytest.mark.slow
def test_clicks_are_as_many_as_the_truth_expects(site):
    start = site.start + 3 * DAY
    live = site.live(start, defects=DefectRates.none())
    popular = site.truth.most_appealing_list(start)
    requests, arrivals = serve(site, live, start + 3 * DAY, lambda request: popular)
    kinds, seen = Counter(), 0
    for arrival in arrivals:
        event = msgspec.json.decode(arrival.body)
        kinds[event["type"]] += 1
        seen += len(event.get("items", ()))
    expected = site.truth.expected(
        [request.visitor for request in requests],
        [popular] * len(requests),
        [request.at for request in requests],
        [request.query for request in requests],
    )
    # Clicks are sums of independent draws, so their variance is below their mean; so is that of
    # purchases.
    assert abs(kinds["click"] - expected.clicks.sum()) < 4 * np.sqrt(expected.clicks.sum())
    assert (
        abs(kinds["purchase"] - expected.purchases.sum())
        < 4 * np.sqrt(expected.purchases.sum()) + 1
    )
    assert seen == pytest.approx(expected.seen.sum(), rel=0.02)


def test_better_lists_please_more(site):
    start = site.start + 3 * DAY
    everything = [f"i{item:05d}" for item in site.items.list_available(3.0)]

    def satisfaction(answer):
        live = site.live(start, defects=DefectRates.none())
        requests, _ = serve(site, live, start + DAY, answer)
        return live.population.satisfaction[
            [request.visitor for request in requests if request.visitor >= 0]
        ].mean()

    popular, rng = site.truth.most_appealing_list(start), np.random.default_rng(0)
    assert (
        satisfaction(lambda request: popular)
        > satisfaction(lambda request: rng.permutation(everything)[:12].tolist()) + 0.01
    )


def test_the_crawler_requests_and_clicks_too(site):
    start = site.start + 3 * DAY
    requests, arrivals = serve(
        site, site.live(start), start + DAY, lambda request: ["i00001", "i00002"]
    )
    assert any(request.visitor == -1 and request.anonymous_id == BOT for request in requests)
    clicks = [
        event
        for event in (a.body for a in arrivals)
        if BOT.encode() in event and b'"click"' in event
    ]
    assert clicks


def test_an_empty_answer_is_survived(site):
    start = site.start + 3 * DAY
    requests, arrivals = serve(site, site.live(start), start + 6 * HOUR, lambda request: [])
    assert requests
    assert not any(b'"impression"' in arrival.body for arrival in arrivals)


def test_history_hands_its_people_over(site):
    history = site.history(days=3)
    for _ in history:
        pass
    live = site.live(site.start + 3 * DAY, history.population)
    request = next(
        request for request in live.requests(site.start + 4 * DAY) if request.visitor >= 0
    )
    assert (request.user_id is not None) == bool(history.population.logged_in[request.visitor])
    assert live.population is not history.population


def test_responding_is_quick(site):
    start = site.start + 3 * DAY
    live, popular = site.live(start), site.truth.most_appealing_list(start)
    durations = []
    for number, request in enumerate(live.requests(start + 12 * HOUR)):
        before = time.thread_time()
        live.react(request, popular, f"r{number}")
        durations.append(time.thread_time() - before)
    assert np.median(durations) < 1e-3  # 0.2 ms on a quiet machine; the demo has time for 0.5
