"""Events that collide on every edge, and requests between them, as Hypothesis likes them.

Times lie on a few places, so that ties and repeats are common; values are at their bounds or
missing; profiles come late or without a time. `steps` are of routed events, `posts` of bodies that
come in at collectors, for the router to decide on.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st

from tailorbird.events.clock import DAY, HOUR, MINUTE, SECOND
from tailorbird.events.contract.schema import ROUTED
from tailorbird.features import ReadRequest

START = 1_790_000_000 * SECOND
ITEMS = ("i1", "i2", "i3")
TYPES = ("click", "view", "purchase", "impression", "answer", "search", "rating")

PROFILE = st.fixed_dictionaries(
    {},
    optional={
        "category": st.sampled_from(["a", "b"]),
        "price": st.sampled_from([0.1, 7, 1e9]),
        "segment": st.sampled_from(["s", "t"]),
        "age": st.sampled_from([1, 33.3]),
        "tags": st.sampled_from([["x", "y"], [], ["y"], ["big", 7, "x", "shoes"]]),
        "vector": st.sampled_from([[0.5, -1, 3], [1e300, "x"], 4]),
        "title": st.sampled_from(["Big shoes", "shoe", "SHOES, (big) shoes!", "", 5]),
        "released": st.sampled_from(
            [
                1_790_000_000,
                1_789_999_000_000,
                "2026-09-21T10:00:00+02:00",
                "2026-09-20",
                "soon",
                True,
            ]
        ),
    },
)


@st.composite
def event(draw: Callable[..., Any], span: int) -> Any:
    """One routed event without its p, at START plus up to `span`: each draw is small, so that ties
    and repeats are common.
    """
    kind = draw(st.sampled_from([*TYPES, "item", "user", "identify"]))
    row = dict.fromkeys(ROUTED.names)
    ts = START + draw(st.integers(0, 12)) * span // 12 + draw(st.sampled_from([0, 0, 1, -1]))
    user, anonymous = draw(
        st.sampled_from([("u1", None), ("u2", "a1"), (None, "a1"), (None, "a2")])
    )
    row |= {
        "event_id": draw(st.sampled_from("abcdefghijklmnop")),
        "type": kind,
        "ts": ts,
        "received_at": ts,
        "counts": draw(st.integers(0, 9)) > 0,
    }
    row |= {"timeless": False, "raw_partition": "d1", "raw_offset": 0, "raw_row": 0}
    if kind == "item":
        timeless = draw(st.booleans())
        row |= {
            "item_id": draw(st.sampled_from(ITEMS)),
            "properties": json.dumps(draw(PROFILE)),
            "timeless": timeless,
            "counts": True,
        }
        return row | {"ts": 0 if timeless else ts}
    if kind == "user":
        return row | {
            "user_id": "u1",
            "person": "u1",
            "properties": json.dumps(draw(PROFILE)),
            "counts": True,
        }
    if kind == "identify":
        return row | {"user_id": "u2", "anonymous_id": "a2", "person": "u2"}
    row |= {
        "user_id": user,
        "anonymous_id": anonymous,
        "person": user or draw(st.sampled_from([f"anon:{anonymous}", "u2"])),
    }
    row |= {
        "session_id": draw(st.sampled_from([None, "s1", "s2"])),
        "device": draw(st.sampled_from([None, "phone", "tablet"])),
    }
    row |= {
        "country": draw(st.sampled_from([None, "NO"])),
        "agent": draw(st.sampled_from(["person", "bot", None])),
    }
    row |= {
        "price": draw(st.sampled_from([None, 0.0, 0.005, 9.994999, 10.0, 1e9])),
        "quantity": draw(st.sampled_from([None, 1.0, 3.0])),
    }
    row |= {
        "local_hour": draw(st.sampled_from([None, 0, 1, 23])),
        "position": draw(st.sampled_from([None, 1, 2])),
    }
    row |= {
        "dwell_ms": draw(st.sampled_from([None, 86_400_000.0, 0.15])),
        "rating": draw(st.sampled_from([None, -1e6, 4.5])),
    }
    row |= {
        "properties": draw(
            st.sampled_from([None, '{"depth":3,"tag":"x"}', '{"depth":"deep","tag":1}'])
        )
    }
    row |= {"answer_query": draw(st.sampled_from([None, "Big  SHOES"]))}
    row |= {
        "query": draw(st.sampled_from([None, "shoes", " Shoes"])),
        "user_profile": json.dumps(draw(PROFILE)) if draw(st.booleans()) else None,
    }
    if kind in ("answer", "impression") and draw(st.booleans()):
        row["items"] = draw(st.lists(st.sampled_from(ITEMS), min_size=0, max_size=4))
        return row | {
            "item_profile": json.dumps([draw(st.none() | PROFILE) for _ in row["items"]])
            if draw(st.booleans())
            else None
        }
    if kind == "search" and draw(st.booleans()):
        return row | {"items": ["i1", "i2"]}
    item = draw(st.sampled_from([*ITEMS, None] if kind in ("search", "view") else ITEMS))
    return row | {
        "item_id": item,
        "item_profile": json.dumps(draw(PROFILE)) if item and draw(st.booleans()) else None,
    }


@dataclass(frozen=True)
class Step:
    """A batch of events that the worker takes in at once, then a request; `restart` first."""

    events: list[dict]
    restart: bool
    request: ReadRequest


def _is_new(row: dict, seen: set[tuple[str, str]]) -> bool:
    """The router lets an id of one owner through once."""
    key = row["event_id"], row["user_id"] or row["anonymous_id"] or row["item_id"]
    is_new = key not in seen
    seen.add(key)
    return is_new


@st.composite
def steps(draw: Callable[..., Any]) -> Any:
    span = draw(st.sampled_from([20 * SECOND, 50 * MINUTE, 30 * HOUR, 9 * DAY, 390 * DAY]))
    drawn_steps = []
    seen_ids: set[tuple[str, str]] = set()
    for _ in range(draw(st.integers(1, 4))):
        events = [one for one in draw(st.lists(event(span), max_size=12)) if _is_new(one, seen_ids)]
        now = START + draw(st.integers(-1, 14)) * span // 12 + draw(st.sampled_from([0, 1, -1]))
        person, anonymous = draw(
            st.sampled_from([("u1", None), ("u2", None), (None, "a1"), (None, "a2"), (None, None)])
        )
        request = ReadRequest(
            person=person,
            anonymous_id=anonymous,
            session_id=draw(st.sampled_from([None, "s1", "s3"])),
            device=draw(st.sampled_from([None, "phone"])),
            country=draw(st.sampled_from([None, "NO"])),
            local_hour=draw(st.sampled_from([None, 0, 23])),
            query=draw(st.sampled_from([None, "shoes", "big shoes", "Big, BIG red boots", "?"])),
            now=now,
            position=draw(st.sampled_from([1, 1, 2])),
        )
        drawn_steps.append(Step(events, draw(st.booleans()), request))
    return drawn_steps


@dataclass(frozen=True)
class Post:
    """A body that comes in at a collector, whose clock and whose client's clock are off; then perhaps a
    request.
    """

    collector: str
    received_at: int
    events: list[dict]
    request: ReadRequest | None


@st.composite
def posts(draw: Callable[..., Any]) -> Any:
    """A visit to a shop as two collectors see it: clients and collectors with skewed clocks, repeats, a
    login, profiles that come late.
    """
    span = draw(st.sampled_from([10 * MINUTE, 5 * HOUR, 3 * DAY]))
    now, drawn_posts, sent_events = START, [], []
    for _ in range(draw(st.integers(1, 6))):
        now += draw(st.integers(0, 6)) * span // 6
        collector, skew = draw(
            st.sampled_from([("north", 0), ("south", -90 * SECOND), ("south", 45 * SECOND)])
        )
        client_offset = draw(st.sampled_from([0, HOUR, -40 * DAY]))  # of the client's clock
        body = []
        for _ in range(draw(st.integers(0, 5))):
            if sent_events and draw(st.integers(0, 4)) == 0:
                body.append(draw(st.sampled_from(sent_events)))
                continue
            sent_event = draw(client_event(now, span)) | {
                "event_id": f"e{len(sent_events)}",
                "sent_at": now + client_offset,
            }
            if "ts" in sent_event:
                sent_event["ts"] += client_offset
            sent_events.append(sent_event)
            body.append(sent_event)
        person, anonymous = draw(st.sampled_from([("u1", None), (None, "a1"), (None, "a2")]))
        request = ReadRequest(
            person=person,
            anonymous_id=anonymous,
            session_id=draw(st.sampled_from([None, "s1"])),
            now=now,
        )
        drawn_posts.append(
            Post(collector, now + skew, body, request if draw(st.integers(0, 3)) else None)
        )
    return drawn_posts


@st.composite
def client_event(draw: Callable[..., Any], now: int, span: int) -> Any:
    event_type = draw(
        st.sampled_from(
            ["click", "click", "impression", "purchase", "search", "item", "user", "identify"]
        )
    )
    event: dict = {
        "type": event_type,
        "ts": now - draw(st.sampled_from([0, 0, span // 12, span // 2, 2 * DAY])),
    }
    if event_type == "item":
        event |= {"item_id": draw(st.sampled_from(ITEMS)), "properties": draw(PROFILE)}
        if draw(st.booleans()):
            event["timeless"] = True
            del event["ts"]
        return event
    if event_type == "user":
        return event | {"user_id": "u1", "properties": draw(PROFILE)}
    if event_type == "identify":
        return event | {"user_id": "u1", "anonymous_id": draw(st.sampled_from(["a1", "a2"]))}
    event |= draw(
        st.sampled_from(
            [{"user_id": "u1"}, {"anonymous_id": "a1"}, {"anonymous_id": "a2", "session_id": "s1"}]
        )
    )
    if event_type == "impression":
        return event | {"items": draw(st.lists(st.sampled_from(ITEMS), max_size=3))}
    if event_type == "search":
        return event | {"properties": {"query": "boots"}}
    agent = draw(st.sampled_from(["Mozilla/5.0 (X11) Firefox/140", "Googlebot/2.1"]))
    event |= {"item_id": draw(st.sampled_from(ITEMS)), "context": {"user_agent": agent}}
    return (
        event | {"properties": {"price": draw(st.sampled_from([0.1, 19.99])), "quantity": 3}}
        if event_type == "purchase"
        else event
    )
