"""Enrichment of an event from its own fields."""

import pytest

from tailorbird.events import HOUR, MINUTE
from tailorbird.router.decide.enrich import classify_agent, encode_other_properties, local_hour

PEOPLE = [
    None,
    "",
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) "
    "Chrome/131.0.0.0 Safari/537.36",
    "Mozilla/5.0 (iPhone; CPU iPhone OS 18_1 like Mac OS X) AppleWebKit/605.1.15 (KHTML, "
    "like Gecko) Version/18.1 Safari/604.1",
    "Mozilla/5.0 (X11; Linux x86_64; rv:132.0) Gecko/20100101 Firefox/132.0",
    "Mozilla/5.0 (Linux; Android 14; CUBOT X70) AppleWebKit/537.36 Chrome/130.0 Mobile "
    "Safari/537.36",
]
BOTS = [
    "Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)",
    "Mozilla/5.0 (compatible; bingbot/2.0)",
    "Mozilla/5.0 AppleWebKit/537.36 HeadlessChrome/131.0 Safari/537.36",
    "facebookexternalhit/1.1",
    "curl/8.11.0",
    "python-requests/2.32",
    "Mozilla/5.0 (compatible; AhrefsBot/7.0)",
    "Mozilla/5.0 (compatible; Yahoo! Slurp)",
    "tailorbird-simulator bot",
]


@pytest.mark.parametrize("user_agent", PEOPLE)
def test_browsers_are_people(user_agent):
    assert classify_agent(user_agent) == "person"


@pytest.mark.parametrize("user_agent", BOTS)
def test_crawlers_and_scripts_are_bots(user_agent):
    assert classify_agent(user_agent) == "bot"


def test_the_local_hour_follows_the_clients_offset_and_is_of_utc_without_one():
    ts = 20_000 * 24 * HOUR + 23 * HOUR + 45 * MINUTE
    assert [local_hour(ts, offset) for offset in (None, 0, 14, 15, 330, -23 * 60 - 46)] == [
        23,
        23,
        23,
        0,
        5,
        23,
    ]


def test_properties_with_a_column_are_not_repeated_in_the_text():
    assert (
        encode_other_properties({"price": 1, "query": "x", "b": 1, "a": {"d": 1, "c": 2}})
        == '{"a":{"c":2,"d":1},"b":1}'
    )
    assert encode_other_properties({"price": 1}) is None
