"""Are backfill and stream equal on real clicks, for every reader and article? Globo.com, the whole
set, through the real worker.

python -m benchmarks.quality.parity [--data PATH] [--small] [--keep DIR] [--json]

The clicks are imported and routed by the commands that a user runs. A worker of its own takes the
routed log in, micro-batch by micro-batch; after each, some readers are read with some articles, at
times around the newest click, half of them behind what is known. At the end every reader is read,
with two articles each, so that every article is. All of it is then recomputed from the lake's
events by the backfill, at the (t, p) of each reading, and compared in float32 bits, category hashes
and sequences. Exit status 1 if any value differs.
"""

import json
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from benchmarks.quality.product.project import kept, make_project
from benchmarks.quality.running import environment, folder_or_skip, options
from tailorbird.config import open_project
from tailorbird.events import DAY, HOUR, SimulatedClock
from tailorbird.features import (
    FeatureSet,
    ReadRequest,
    context,
    count,
    decayed,
    derived,
    distinct,
    entity,
    first,
    last,
    sequence,
    session,
    session_depth,
    session_length,
    share,
    time_since,
    time_since_first,
    trend,
)
from tailorbird.features.attached import JoinedEvents
from tailorbird.features.backfill import History, event_columns
from tailorbird.features.read import Reader
from tailorbird.features.recompute import ParityReport, empty_report
from tailorbird.features.sampled import SampledRead, compare, read_sample, requests_of
from tailorbird.features.worker import FeatureWorker
from tailorbird.lake import Lake

FOLDER, CLICKS = "globo-clicks", "clicks.parquet"
BATCH = 20_000
READERS = 40  # after each batch
ITEMS = 5
PART = 40_000  # readers that are read and compared at a time
T = TypeVar("T")


def main() -> None:
    parser = options(
        "parity",
        __doc__.splitlines()[0],
        small="three days of every sixth reader",
        keep="make the project here and keep it; one that is there is used again",
    )
    given = parser.parse_args()
    data = folder_or_skip(FOLDER, given.data)
    with tempfile.TemporaryDirectory(prefix="tailorbird-parity-") as scratch:
        found = run(data, Path(scratch), small=given.small, keep=given.keep)
    print(json.dumps(found, indent=1) if given.json else _told(found))
    raise SystemExit(1 if found["results"]["tailorbird"]["unequal"] else 0)


def run(
    data: Path, scratch: Path, *, small: bool = False, keep: Path | None = None
) -> dict[str, Any]:
    seconds: dict[str, float] = {}
    if small:
        trim(data, scratch / "data")
    home, files = keep or scratch, scratch / "data" if small else data
    home.mkdir(parents=True, exist_ok=True)
    made = _timed(
        seconds,
        "import",
        lambda: kept(home / "project.json", lambda: make_project(home / "project", files)),
    )
    project, features = open_project(Path(made["root"])), news()
    asked: list[SampledRead] = []
    events = JoinedEvents(Lake(project.paths.lake), features).table(event_columns(features))
    with FeatureWorker(
        project.paths.routed, scratch / "state", features, clock=SimulatedClock(0)
    ) as worker:
        reader = Reader(scratch / "state", features)
        _timed(seconds, "stream and sample", lambda: asked.extend(_stream(worker, reader, events)))
        report = empty_report(features)
        history = History(features, events)
        _timed(
            seconds,
            "compare sample",
            lambda: compare(features, asked, history.rows(requests_of(asked)), report),
        )
        sampled = report.compared
        people = _timed(
            seconds,
            "compare everybody",
            lambda: _everybody(features, reader, history, events, report),
        )
        reader.close()
    state = sum(
        file.stat().st_blocks * 512 for file in (scratch / "state").rglob("*") if file.is_file()
    )
    ours = {
        "compared": report.compared,
        "unequal": report.unequal,
        "readings_on_the_way": len(asked),
        "compared_on_the_way": sampled,
    }
    ours |= {
        "people": people,
        "items": int(pc.count_distinct(events["item_id"]).as_py()),
        "events": events.num_rows,
    }
    return {
        "benchmark": "parity",
        "small": small,
        "results": {"tailorbird": ours | {"state_bytes": state, "columns": len(features.columns)}},
        "by_feature": {name: count for name, count in report.by_feature.items() if count},
        "examples": [vars(one) for one in report.examples[:5]],
        "seconds": seconds,
        "memory_mib_max": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10,
        "environment": environment(),
    }


def trim(source: Path, target: Path) -> None:
    """The last three days of every sixth reader."""
    table = pq.read_table(source / CLICKS)
    newest = pc.max(table["ts"]).cast(pa.int64()).as_py()
    late = pc.greater_equal(table["ts"].cast(pa.int64()), newest - 3 * DAY)
    few = pc.equal(pc.subtract(table["user_id"], pc.multiply(pc.divide(table["user_id"], 6), 6)), 0)
    target.mkdir()
    pq.write_table(table.filter(pc.and_(late, few)), target / CLICKS)


def news() -> FeatureSet:
    """Many kinds of features over one type of event: what is read in the last hours, by how many,
    on this device, and by this reader.
    """
    user, item, everyone = entity("user"), entity("item"), entity()
    by_device, item_device = entity("device"), entity("item", "device")
    hops = {"15m": "1m", "1h": "5m", "3h": "15m", "6h": "30m", "1d": "2h"}

    def clicks(name: str, of: Any, *windows: str) -> list[Any]:
        return [
            count(f"{name}_{window}", of, "click", window=window, hop=hops[window])
            for window in windows
        ]

    counts = [
        *clicks("clicks", item, *hops),
        *clicks("device_clicks", item_device, "1h", "6h"),
        *clicks("all", everyone, "15m", "1h", "6h", "1d"),
        *clicks("on_device", by_device, "1h", "6h"),
        *clicks("user_clicks", user, "1d"),
        count("clicks_ever", item, "click"),
        count("user_clicks_ever", user, "click"),
        count("by_weekday", entity("item", "weekday"), "click", window="7d", hop="1d"),
        count("direct_6h", item, "click", window="6h", hop="30m", where="referrer == '1'"),
        count("searched_6h", item, "click", window="6h", hop="30m", where="referrer == '2'"),
        count("seen_by_me", entity("user", "item"), "click", window="7d"),
    ]
    changes = [
        *(decayed(f"fading_{half}", item, "click", half_life=half) for half in ("15m", "1h", "6h")),
        decayed("all_fading_1h", everyone, "click", half_life="1h"),
        decayed("user_fading_1d", user, "click", half_life="1d"),
        trend("trend_1h", item, "click", short="1h", long="6h", hop="30m"),
        trend("trend_6h", item, "click", short="6h", long="1d", hop="2h"),
        time_since_first("age", item, "click"),
        time_since("quiet_for", item, "click"),
    ]
    shares = [
        share("share_all_1h", item, "click", within=everyone, window="1h", hop="5m"),
        share("share_all_1d", item, "click", within=everyone, window="1d", hop="2h"),
        share("share_on_device_1h", item_device, "click", within=by_device, window="1h", hop="5m"),
        *(
            derived(f"rate_{window}", f"clicks_{window} / (all_{window} + 1)")
            for window in ("15m", "1h", "6h", "1d")
        ),
        *(
            derived(f"device_rate_{window}", f"device_clicks_{window} / (on_device_{window} + 1)")
            for window in ("1h", "6h")
        ),
        derived("share_15m", "clicks_15m / (clicks_1h + 1)"),
        derived("share_1h", "clicks_1h / (clicks_3h + 1)"),
        derived("share_3h", "clicks_3h / (clicks_1d + 1)"),
        derived("share_1d", "clicks_1d / (clicks_ever + 1)"),
        derived("share_device", "device_clicks_6h / (clicks_6h + 1)"),
        derived("direct_share", "direct_6h / (clicks_6h + 1)"),
        derived("searched_share", "searched_6h / (clicks_6h + 1)"),
        derived("fading_rate", "fading_1h / (all_fading_1h + 1)"),
        derived("rising", "fading_15m / (fading_6h + 1)"),
        derived("again_1h", "clicks_1h / (readers_1h + 1)"),
    ]
    distincts = [
        distinct("readers_1h", item, "click", of="user", precision=6, window="1h", hop="10m"),
        distinct("readers_1d", item, "click", of="user", precision=7, window="1d", hop="6h"),
        distinct("sessions_1h", item, "click", of="session", precision=6, window="1h", hop="10m"),
        distinct("user_items", user, "click", of="item", precision=5, window="7d"),
    ]
    runs = [
        sequence("recent", user, "click", length=32),
        session("session_clicks", "click"),
        session_depth("depth", "click"),
        session_length("length", "click"),
        first("user_first_device", user, "click", of="device"),
        last("user_last_device", user, "click", of="device"),
        context("device"),
    ]
    return FeatureSet.from_declarations([*counts, *changes, *shares, *distincts, *runs])


def _stream(worker: FeatureWorker, reader: Reader, events: pa.Table) -> list[SampledRead]:
    """Take the log in, and read between commits: readers and articles that are known by then."""
    rng, asked = np.random.default_rng(0), []
    events = events.filter(
        pc.is_valid(events["item_id"])
    )  # clicks: profiles of readers name no article
    order = np.argsort(events["p"].to_numpy())
    person, item, device = (
        events[name].take(pa.array(order)) for name in ("person", "item_id", "device")
    )
    p, ts = events["p"].to_numpy()[order], events["ts"].cast(pa.int64()).to_numpy()[order]
    while worker.step(BATCH).rows:
        known = int(np.searchsorted(p, worker.position.p, side="right"))
        rows = np.concatenate(
            [
                rng.integers(0, known, READERS // 2),
                rng.integers(max(0, known - BATCH), known, READERS - READERS // 2),
            ]
        )
        now = int(ts[known - 1]) + rng.choice(
            [-2 * HOUR, -1, 0, 1, 60_000_000, HOUR, 7 * DAY], READERS
        )
        requests = [
            ReadRequest(
                person[int(row)].as_py(),
                now=int(t),
                device=device[int(row)].as_py(),
                local_hour=None,
            )
            for row, t in zip(rows, now, strict=True)
        ]
        items = [
            list(dict.fromkeys(item[int(place)].as_py() for place in rng.integers(0, known, ITEMS)))
            for _ in requests
        ]
        asked += read_sample(reader, requests, items)
    return asked


def _everybody(
    features: FeatureSet, reader: Reader, history: History, events: pa.Table, report: ParityReport
) -> int:
    """Every reader at the end, with two articles each; every article comes."""
    people = pc.unique(events["person"]).drop_null().to_pylist()
    items = pc.unique(events["item_id"]).drop_null().to_pylist()
    now = int(pc.max(events["ts"].cast(pa.int64())).as_py()) + HOUR
    for start in range(0, len(people), PART):
        part = people[start : start + PART]
        pairs = [
            [items[(2 * (start + place) + more) % len(items)] for more in (0, 1)]
            for place in range(len(part))
        ]
        asked = read_sample(reader, [ReadRequest(one, now=now, device="1") for one in part], pairs)
        compare(features, asked, history.rows(requests_of(asked)), report)
        print(
            f"\r{min(start + PART, len(people)):,} of {len(people):,} readers, "
            f"{report.unequal} unequal",
            end="",
            file=sys.stderr,
        )
    print(file=sys.stderr)
    assert len(items) <= 2 * len(people)
    return len(people)


def _timed(seconds: dict[str, float], name: str, work: Callable[[], T]) -> T:
    begun = time.monotonic()
    found = work()
    seconds[name] = round(time.monotonic() - begun, 1)
    return found


def _told(found: dict[str, Any]) -> str:
    ours = found["results"]["tailorbird"]
    lines = [
        f"{ours['events']:,} clicks of {ours['people']:,} readers on {ours['items']:,} "
        f"articles, {ours['columns']} columns",
        f"{ours['compared']:,} values compared, {ours['unequal']:,} unequal "
        f"({ours['compared_on_the_way']:,} of them on the way, in "
        f"{ours['readings_on_the_way']:,} readings)",
        f"state: {ours['state_bytes'] / (1 << 20):,.0f} MiB; memory at most "
        f"{found['memory_mib_max']:,} MiB; seconds: {found['seconds']}",
    ]
    return "\n".join(
        [*lines, *(f"  {name}: {count:,}" for name, count in found["by_feature"].items())]
    )


if __name__ == "__main__":
    main()
