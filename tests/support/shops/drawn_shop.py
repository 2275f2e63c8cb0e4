"""A shop of eight items whose responses are drawn slates; the log prefers what people like least."""

import json
from pathlib import Path

import numpy as np

from tailorbird import Project
from tailorbird.events import DAY, HOUR, SystemClock
from tailorbird.ranking import Explore
from tailorbird.ranking.policy.slate_distribution import slate_distribution

ITEM_COUNT, SLATE_SIZE, RESPONSE_COUNT = 8, 2, 2_500
EXPLORE = Explore(method="plackett_luce", first=1, pool=ITEM_COUNT, temperature=1.0)
APPEAL_BY_ITEM = np.linspace(
    0.1, 0.6, ITEM_COUNT
)  # of item i: the logged order is the opposite one
EXAMINED_SHARE_BY_PLACE = np.array([1.0, 0.5])


def make_drawn_shop(folder: Path) -> Project:
    """Return a project whose log was drawn by the code that serves; item i costs i."""
    rng = np.random.default_rng(3)
    now = SystemClock().now()
    start = now - 4 * DAY
    event_lines: list[dict] = [
        {"type": "item", "ts": start - DAY, "item_id": f"i{item}", "event_id": f"p{item}"}
        | {"properties": {"price": float(item)}}
        for item in range(ITEM_COUNT)
    ]
    distribution = slate_distribution(
        np.arange(ITEM_COUNT), SLATE_SIZE, EXPLORE, np.linspace(1.0, 0.0, ITEM_COUNT)
    )
    times = np.sort(rng.integers(start, now - 30 * HOUR, RESPONSE_COUNT))
    for number, ts in enumerate(times.tolist()):
        slate = distribution.draw(rng)
        propensities, _ = distribution.propensities(slate)
        request_fields = {"user_id": f"u{rng.integers(500)}", "request_id": f"r{number}"}
        answer = {"slot": "home", "model": "old", "propensities": propensities.tolist()}
        items = [f"i{item}" for item in slate.tolist()]
        event_lines.append(
            {"type": "answer", "ts": ts, **request_fields, "items": items, "answer": answer}
            | {"event_id": f"a{number}"}
        )
        event_lines += [
            {
                "type": "click",
                "ts": ts + 1_000 + position,
                **request_fields,
                "item_id": items[position],
            }
            | {"event_id": f"c{number}-{position}"}
            for position in np.flatnonzero(
                rng.random(SLATE_SIZE) < APPEAL_BY_ITEM[slate] * EXAMINED_SHARE_BY_PLACE
            ).tolist()
        ]
    log = folder / "log.jsonl"
    log.write_text("".join(f"{json.dumps(line)}\n" for line in event_lines))
    project = Project.create(folder / "shop")
    project.import_files(log, "tailorbird")
    return project
