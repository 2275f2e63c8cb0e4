"""Random routed logs, as the folds and the plain-Python reference take them."""

import random
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from tailorbird.candidates.batch import EVENT_COLUMNS, segment_keys
from tailorbird.candidates.contract import Board, Contract, ItemKnn, SessionKnn
from tailorbird.candidates.protocol import CandidateRequest
from tailorbird.candidates.reference import LogEvent, UserContext
from tailorbird.events import DAY, HOUR, MINUTE, hash64
from tailorbird.events.contract.schema import ROUTED

START = 1_700_000_000_000_000
BOARDS = (Board(HOUR), Board(DAY), Board(7 * DAY), Board(DAY, "device"), Board(7 * DAY, "category"))
CONTRACT = Contract(
    tuple(sorted(BOARDS)),
    item_knn=ItemKnn(distance=4, gap_us=2 * HOUR, neighbours=6),
    session_knn=SessionKnn(gap_us=30 * MINUTE, sessions_max=12, within_us=3 * DAY, length=6),
    new_within_us=DAY,
)


@dataclass(frozen=True)
class RoutedEvent:
    """One routed event: `kind` is click, impression, item (a profile) or scroll, which no source
    looks at.
    """

    p: int
    ts: int
    kind: str
    item: str
    person: str | None = None
    device: str | None = None
    category: str | None = None
    timeless: bool = False
    bot: bool = False


def make_random_log(
    seed: int,
    events: int,
    *,
    items: int = 12,
    people: int = 8,
    position_step: int = 1,
    late_share: float = 0.1,
) -> list[RoutedEvent]:
    """Return a log whose times mostly ascend, with ties, pauses, late events, bots, profiles and
    what no source looks at.
    """
    rng = random.Random(seed)
    log_position, now, routed_events = 0, START, []
    for _ in range(events):
        log_position += rng.choice((1, 1, 2)) * position_step
        now += rng.choice(
            (0, 0, MINUTE, 5 * MINUTE, 20 * MINUTE, HOUR if rng.random() < 0.9 else DAY)
        )
        ts = now - rng.randrange(3 * HOUR) if rng.random() < late_share else now
        event_type = rng.choices(("click", "impression", "item", "scroll"), (10, 4, 1, 1))[0]
        item = f"i{min(int(rng.expovariate(3 / items)), items - 1)}"
        person = rng.choice([None, *(f"u{k}" for k in range(people))])
        device, category = (
            rng.choice((None, "mobile", "desktop")),
            rng.choice((None, "shoes", "hats")),
        )
        routed_events.append(
            RoutedEvent(
                p=log_position,
                ts=ts,
                kind=event_type,
                item=item,
                person=person,
                device=device,
                category=category,
                timeless=event_type == "item" and rng.random() < 0.5,
                bot=rng.random() < 0.05,
            )
        )
    return routed_events


def table_of(events: list[RoutedEvent]) -> pa.Table:
    """Return the log as routed events."""
    columns = {
        "p": [event.p for event in events],
        "type": [event.kind for event in events],
        "ts": [event.ts for event in events],
        "person": [event.person if event.kind == "click" else None for event in events],
        "item_id": [event.item for event in events],
        "agent": ["bot" if event.bot else None for event in events],
        "counts": [True] * len(events),
        "timeless": [event.timeless for event in events],
        "device": [event.device for event in events],
        "properties": [
            None
            if event.kind != "item"
            else f'{{"category": "{event.category}"}}'
            if event.category
            else "{}"
            for event in events
        ],
    }
    types = {name: ROUTED.field(name).type for name in EVENT_COLUMNS}
    arrays = {
        name: pa.array(columns.get(name, [None] * len(events)), type=arrow_type)
        for name, arrow_type in types.items()
    }
    return pa.table(arrays)


def reference_events(events: list[RoutedEvent]) -> list[LogEvent]:
    """Return the same log as the reference takes it."""
    reference_kind_by_type = {"click": "interest", "impression": "shown", "item": "profile"}
    return [
        LogEvent(
            ts=0 if event.timeless else event.ts,
            kind=reference_kind_by_type[event.kind],
            item=hash64(event.item),
            person=hash64(event.person) if event.person and event.kind == "click" else 0,
            category=hash64(event.category) if event.category and event.kind == "item" else 0,
            segments=segment_keys({"device": event.device}),
        )
        for event in events
        if event.kind in reference_kind_by_type and not event.bot
    ]


def make_random_askers(seed: int, count: int, *, items: int = 12) -> list[UserContext]:
    """Return people with short histories, one of whom is new."""
    rng = random.Random(seed)
    askers = [UserContext()]
    for _ in range(count - 1):
        size = rng.randrange(1, 8)
        recent = tuple(hash64(f"i{rng.randrange(items)}") for _ in range(size))
        times, now = [], START
        for _ in recent:
            now += rng.choice((MINUTE, 10 * MINUTE, 2 * HOUR))
            times.append(now)
        askers.append(
            UserContext(
                recent, tuple(times), segment_keys({"device": rng.choice((None, "mobile"))})
            )
        )
    return askers


def request_of(asker: UserContext) -> CandidateRequest:
    """Return the same asker as a server sees them."""
    return CandidateRequest(
        np.array(asker.recent, np.uint64), np.array(asker.recent_ts, np.int64), asker.segments
    )
