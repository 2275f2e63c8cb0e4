"""Random routed logs, as the folds and the plain-Python reference take them."""

import random
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from tailorbird.candidates.batch import COLUMNS, segment_keys
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
class Line:
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


def random_log(
    seed: int, events: int, *, items: int = 12, people: int = 8, step: int = 1, late: float = 0.1
) -> list[Line]:
    """Return a log whose times mostly ascend, with ties, pauses, late events, bots, profiles and
    what no source looks at.
    """
    rng = random.Random(seed)
    p, now, lines = 0, START, []
    for _ in range(events):
        p += rng.choice((1, 1, 2)) * step
        now += rng.choice(
            (0, 0, MINUTE, 5 * MINUTE, 20 * MINUTE, HOUR if rng.random() < 0.9 else DAY)
        )
        ts = now - rng.randrange(3 * HOUR) if rng.random() < late else now
        kind = rng.choices(("click", "impression", "item", "scroll"), (10, 4, 1, 1))[0]
        item = f"i{min(int(rng.expovariate(3 / items)), items - 1)}"
        person = rng.choice([None, *(f"u{k}" for k in range(people))])
        device, category = (
            rng.choice((None, "mobile", "desktop")),
            rng.choice((None, "shoes", "hats")),
        )
        lines.append(
            Line(
                p,
                ts,
                kind,
                item,
                person,
                device,
                category,
                kind == "item" and rng.random() < 0.5,
                rng.random() < 0.05,
            )
        )
    return lines


def table_of(lines: list[Line]) -> pa.Table:
    """Return the log as routed events."""
    columns = {
        "p": [line.p for line in lines],
        "type": [line.kind for line in lines],
        "ts": [line.ts for line in lines],
        "person": [line.person if line.kind == "click" else None for line in lines],
        "item_id": [line.item for line in lines],
        "agent": ["bot" if line.bot else None for line in lines],
        "counts": [True] * len(lines),
        "timeless": [line.timeless for line in lines],
        "device": [line.device for line in lines],
        "properties": [
            None
            if line.kind != "item"
            else f'{{"category": "{line.category}"}}'
            if line.category
            else "{}"
            for line in lines
        ],
    }
    types = {name: ROUTED.field(name).type for name in COLUMNS}
    arrays = {
        name: pa.array(columns.get(name, [None] * len(lines)), type=kind)
        for name, kind in types.items()
    }
    return pa.table(arrays)


def reference_events(lines: list[Line]) -> list[LogEvent]:
    """Return the same log as the reference takes it."""
    kinds = {"click": "interest", "impression": "shown", "item": "profile"}
    return [
        LogEvent(
            ts=0 if line.timeless else line.ts,
            kind=kinds[line.kind],
            item=hash64(line.item),
            person=hash64(line.person) if line.person and line.kind == "click" else 0,
            category=hash64(line.category) if line.category and line.kind == "item" else 0,
            segments=segment_keys({"device": line.device}),
        )
        for line in lines
        if line.kind in kinds and not line.bot
    ]


def random_askers(seed: int, many: int, *, items: int = 12) -> list[UserContext]:
    """Return people with short histories, one of whom is new."""
    rng = random.Random(seed)
    askers = [UserContext()]
    for _ in range(many - 1):
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
