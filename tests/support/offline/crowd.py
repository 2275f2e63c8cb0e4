"""Many people with few items: events that crowd one key."""

import json
from typing import Any

import numpy as np

from tailorbird.events import SECOND
from tailorbird.features import entity

ITEMS = ["i1", "i2"]


user, item, category = entity("user"), entity("item"), entity("item.category")


SEEN_TYPES = ["click", "view", "purchase"]


def make_crowd(kit: Any, seed: int) -> list[dict]:
    """Events of ten minutes, in order of arrival: a third of them late by up to two minutes, some
    tied in time. `kit` is `tests.support.features`.
    """
    rng, events = np.random.default_rng(seed), []
    for number in range(260):
        type = rng.choice(SEEN_TYPES, p=[0.3, 0.3, 0.4])
        ts = kit.T0 + int(rng.integers(0, 120)) * 5 * SECOND + int(rng.choice([0, 1, 777_777]))
        user_id = f"u{rng.integers(1, 4)}" if rng.random() < 0.5 else f"u{rng.integers(1, 120)}"
        columns = {
            "user_id": user_id,
            "session_id": rng.choice([None, "s1", "s2"]),
            "event_id": f"e{number}",
        }
        profiles = [{"category": str(rng.choice(["c1", "c2"]))} for _ in range(2)]
        if type == "purchase":
            columns["price"] = float(
                rng.choice([0.01, 19.99, 150.0, 333.33, 99_999.99, 1e9]) * rng.integers(1, 4)
            )
        if type == "purchase" and rng.random() < 0.3:
            columns |= {"items": ITEMS, "item_profile": json.dumps(profiles)}
        else:
            columns |= {"item_id": str(rng.choice(ITEMS)), "item_profile": json.dumps(profiles[0])}
        delay = int(rng.integers(0, 120)) * SECOND if rng.random() < 0.33 else 0
        events.append((ts + delay, kit.event(str(type), ts, **columns)))
    item_events = [
        kit.event("item", kit.T0, item_id=one, properties='{"category":"c1"}', event_id=one)
        for one in ITEMS
    ]
    return kit.routed(
        item_events + [event for _, event in sorted(events, key=lambda pair: pair[0])]
    )
