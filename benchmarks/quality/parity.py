"""Check parity of backfill and stream on real clicks: every reader and article of Globo.com.

    python -m benchmarks.quality.parity [--data PATH] [--small] [--keep DIR] [--json]

The clicks are imported and routed by the commands that a user runs. A worker of its own reads the
routed log in micro-batches. After each, some readers are read with some articles, at times around
the newest click, half of them past the known data. At the end every reader is read, with two
articles each, so that every article is. All of it is then recomputed from the lake's events by the
backfill, at the (t, p) of each reading, and compared in float32 bits, category hashes and
sequences. Exit status 1 if any value differs.
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

from benchmarks.quality.product.project import load_or_make, make_project
from benchmarks.quality.running import environment, make_parser, require_data_set
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
from tailorbird.features.offline.backfill import History, event_columns
from tailorbird.features.offline.profile_join import JoinedEvents
from tailorbird.features.online.read import Reader
from tailorbird.features.online.worker import FeatureWorker
from tailorbird.features.parity.recompute import ParityReport, empty_report
from tailorbird.features.parity.sampled import SampledRead, compare_reads, read_sample, requests_of
from tailorbird.lake import Lake

FOLDER, CLICKS = "globo-clicks", "clicks.parquet"
BATCH_ROWS = 20_000
READERS_PER_BATCH = 40  # after each batch
ITEMS_PER_READER = 5
PART_READERS = 40_000  # readers that are read and compared at a time
T = TypeVar("T")


def main() -> None:
    parser = make_parser(
        "parity",
        __doc__.splitlines()[0],
        small="three days of every sixth reader",
        keep="make the project here and keep it; one that is there is used again",
    )
    arguments = parser.parse_args()
    data = require_data_set(FOLDER, arguments.data)
    with tempfile.TemporaryDirectory(prefix="tailorbird-parity-") as scratch:
        report = run(data, Path(scratch), small=arguments.small, keep=arguments.keep)
    print(json.dumps(report, indent=1) if arguments.json else _format_report(report))
    raise SystemExit(1 if report["results"]["tailorbird"]["unequal"] else 0)


def run(
    data: Path, scratch: Path, *, small: bool = False, keep: Path | None = None
) -> dict[str, Any]:
    seconds: dict[str, float] = {}
    if small:
        trim_clicks(data, scratch / "data")
    project_folder, files = keep or scratch, scratch / "data" if small else data
    project_folder.mkdir(parents=True, exist_ok=True)
    project_facts = _timed(
        seconds,
        "import",
        lambda: load_or_make(
            project_folder / "project.json", lambda: make_project(project_folder / "project", files)
        ),
    )
    project, features = open_project(Path(project_facts["root"])), declare_features()
    readings: list[SampledRead] = []
    events = JoinedEvents(Lake(project.paths.lake), features).table(event_columns(features))
    with FeatureWorker(
        project.paths.routed, scratch / "state", features, clock=SimulatedClock(0)
    ) as worker:
        reader = Reader(scratch / "state", features)
        _timed(
            seconds,
            "stream and sample",
            lambda: readings.extend(_stream_and_sample(worker, reader, events)),
        )
        report = empty_report(features)
        history = History(features, events)
        _timed(
            seconds,
            "compare sample",
            lambda: compare_reads(features, readings, history.rows(requests_of(readings)), report),
        )
        sampled_count = report.compared
        reader_count = _timed(
            seconds,
            "compare everybody",
            lambda: _compare_all_readers(features, reader, history, events, report),
        )
        reader.close()
    state = sum(
        file.stat().st_blocks * 512 for file in (scratch / "state").rglob("*") if file.is_file()
    )
    results = {
        "compared": report.compared,
        "unequal": report.unequal,
        "readings_on_the_way": len(readings),
        "compared_on_the_way": sampled_count,
    }
    results |= {
        "people": reader_count,
        "items": int(pc.count_distinct(events["item_id"]).as_py()),
        "events": events.num_rows,
    }
    return {
        "benchmark": "parity",
        "small": small,
        "results": {
            "tailorbird": results | {"state_bytes": state, "columns": len(features.columns)}
        },
        "by_feature": {name: count for name, count in report.by_feature.items() if count},
        "examples": [vars(example) for example in report.examples[:5]],
        "seconds": seconds,
        "memory_mib_max": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10,
        "environment": environment(),
    }


def trim_clicks(source: Path, target: Path) -> None:
    """Keep the last three days of every sixth reader."""
    table = pq.read_table(source / CLICKS)
    newest = pc.max(table["ts"]).cast(pa.int64()).as_py()
    late = pc.greater_equal(table["ts"].cast(pa.int64()), newest - 3 * DAY)
    selected = pc.equal(
        pc.subtract(table["user_id"], pc.multiply(pc.divide(table["user_id"], 6), 6)), 0
    )
    target.mkdir()
    pq.write_table(table.filter(pc.and_(late, selected)), target / CLICKS)


def declare_features() -> FeatureSet:
    """Declare many kinds of features over one type of event.

    They cover recent reading of an article: how much, by how many readers, on this device, by this
    reader.
    """
    user, item, everyone = entity("user"), entity("item"), entity()
    by_device, item_device = entity("device"), entity("item", "device")
    hops = {"15m": "1m", "1h": "5m", "3h": "15m", "6h": "30m", "1d": "2h"}

    def clicks(name: str, entity_: Any, *windows: str) -> list[Any]:
        return [
            count(f"{name}_{window}", entity_, "click", window=window, hop=hops[window])
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
    sequences = [
        sequence("recent", user, "click", length=32),
        session("session_clicks", "click"),
        session_depth("depth", "click"),
        session_length("length", "click"),
        first("user_first_device", user, "click", of="device"),
        last("user_last_device", user, "click", of="device"),
        context("device"),
    ]
    return FeatureSet.from_declarations([*counts, *changes, *shares, *distincts, *sequences])


def _stream_and_sample(
    worker: FeatureWorker, reader: Reader, events: pa.Table
) -> list[SampledRead]:
    """Read the log, and sample known readers and articles between commits."""
    rng, readings = np.random.default_rng(0), []
    events = events.filter(pc.is_valid(events["item_id"]))  # profiles of readers have no article
    order = np.argsort(events["p"].to_numpy())
    person, item, device = (
        events[name].take(pa.array(order)) for name in ("person", "item_id", "device")
    )
    log_position, ts = (
        events["p"].to_numpy()[order],
        events["ts"].cast(pa.int64()).to_numpy()[order],
    )
    while worker.step(BATCH_ROWS).rows:
        click_count = int(np.searchsorted(log_position, worker.position.log_position, side="right"))
        rows = np.concatenate(
            [
                rng.integers(0, click_count, READERS_PER_BATCH // 2),
                rng.integers(
                    max(0, click_count - BATCH_ROWS),
                    click_count,
                    READERS_PER_BATCH - READERS_PER_BATCH // 2,
                ),
            ]
        )
        now = int(ts[click_count - 1]) + rng.choice(
            [-2 * HOUR, -1, 0, 1, 60_000_000, HOUR, 7 * DAY], READERS_PER_BATCH
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
            list(
                dict.fromkeys(
                    item[int(row)].as_py() for row in rng.integers(0, click_count, ITEMS_PER_READER)
                )
            )
            for _ in requests
        ]
        readings += read_sample(reader, requests, items)
    return readings


def _compare_all_readers(
    features: FeatureSet, reader: Reader, history: History, events: pa.Table, report: ParityReport
) -> int:
    """Compare every reader at the end, with two articles each, so that every article is covered."""
    people = pc.unique(events["person"]).drop_null().to_pylist()
    items = pc.unique(events["item_id"]).drop_null().to_pylist()
    now = int(pc.max(events["ts"].cast(pa.int64())).as_py()) + HOUR
    for start in range(0, len(people), PART_READERS):
        people_part = people[start : start + PART_READERS]
        pairs = [
            [items[(2 * (start + reader_index) + shift) % len(items)] for shift in (0, 1)]
            for reader_index in range(len(people_part))
        ]
        readings = read_sample(
            reader, [ReadRequest(person, now=now, device="1") for person in people_part], pairs
        )
        compare_reads(features, readings, history.rows(requests_of(readings)), report)
        print(
            f"\r{min(start + PART_READERS, len(people)):,} of {len(people):,} readers, "
            f"{report.unequal} unequal",
            end="",
            file=sys.stderr,
        )
    print(file=sys.stderr)
    assert len(items) <= 2 * len(people)
    return len(people)


def _timed(seconds: dict[str, float], name: str, work: Callable[[], T]) -> T:
    started = time.monotonic()
    result = work()
    seconds[name] = round(time.monotonic() - started, 1)
    return result


def _format_report(report: dict[str, Any]) -> str:
    results = report["results"]["tailorbird"]
    lines = [
        f"{results['events']:,} clicks of {results['people']:,} readers on {results['items']:,} "
        f"articles, {results['columns']} columns",
        f"{results['compared']:,} values compared, {results['unequal']:,} unequal "
        f"({results['compared_on_the_way']:,} of them on the way, in "
        f"{results['readings_on_the_way']:,} readings)",
        f"state: {results['state_bytes'] / (1 << 20):,.0f} MiB; memory at most "
        f"{report['memory_mib_max']:,} MiB; seconds: {report['seconds']}",
    ]
    return "\n".join(
        [*lines, *(f"  {name}: {count:,}" for name, count in report["by_feature"].items())]
    )


if __name__ == "__main__":
    main()
