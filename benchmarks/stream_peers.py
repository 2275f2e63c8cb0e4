"""Other libraries computing the windows of a stream, each in a process of its own.

    python benchmarks/stream_peers.py river|quix|python EVENTS.jsonl WINDOWS.json

`benchmarks.features_stream` starts them. `river`: TimeRolling over Sum (of ones, where events are
counted) for each window and key, in memory. `quix`: the hopping windows of Quix Streams over its
own RocksDB state, driven directly, without a broker, a commit every 10,000 events. `python`:
dictionaries of tile sums, in memory. Each gets decoded events with all fields looked up; ours gets
the raw bodies. Prints one JSON object.
"""

import json
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from datetime import datetime, timedelta

EPOCH = datetime(1970, 1, 1)
Update = Callable[[int, str, int, int], None]  # window, key, ts in µs, amount


def river(windows: list[dict]) -> tuple[Update, Callable[[], list[float]], Callable[[], None]]:
    from river import stats, utils

    periods = [timedelta(microseconds=one["length"]) for one in windows]
    rollings: list[dict] = [{} for _ in windows]
    moments: dict[int, datetime] = {}

    def update(window: int, key: str, ts: int, amount: int) -> None:
        rolling = rollings[window].get(key)
        if rolling is None:
            rolling = rollings[window][key] = utils.TimeRolling(stats.Sum, period=periods[window])
        moment = moments.get(ts)
        if moment is None:
            moments.clear()
            moment = moments[ts] = EPOCH + timedelta(microseconds=ts)
        rolling.update(amount, t=moment)

    return (
        update,
        lambda: [sum(one.get() for one in windows_by_key.values()) for windows_by_key in rollings],
        lambda: None,
    )


def quix(windows: list[dict]) -> tuple[Update, Callable[[], list[float]], Callable[[], None]]:
    from quixstreams.dataframe.windows.aggregations import Count, Sum
    from quixstreams.dataframe.windows.time_based import FixedTimeWindowSingleAggregation
    from quixstreams.state.rocksdb.windowed.partition import WindowedRocksDBStorePartition

    folder = tempfile.mkdtemp()
    windowings, stores, totals = [], [], [defaultdict(float) for _ in windows]
    for number, one in enumerate(windows):
        aggregation = Count() if one["measure"] == "count" else Sum()
        sizes = {"duration_ms": one["length"] // 1000, "grace_ms": 0, "step_ms": one["hop"] // 1000}
        windowings.append(
            FixedTimeWindowSingleAggregation(
                name=str(number),
                dataframe=None,
                aggregators={"value": aggregation},
                collectors={},
                **sizes,
            )
        )
        stores.append(WindowedRocksDBStorePartition(f"{folder}/{number}"))
    transactions: list = [store.begin() for store in stores]

    def update(window: int, key: str, ts: int, amount: int) -> None:
        updated, expired = windowings[window].process_window(
            amount, key.encode(), ts // 1000, None, transactions[window]
        )
        for _, result in updated:  # the first window started first and holds the most events
            totals[window][key] = result["value"]
            break
        for _ in expired:
            pass

    def commit() -> None:
        for number, store in enumerate(stores):
            transactions[number].prepare()
            transactions[number].flush()
            transactions[number] = store.begin()

    return update, lambda: [sum(window.values()) for window in totals], commit


def tile_sums(windows: list[dict]) -> tuple[Update, Callable[[], list[float]], Callable[[], None]]:
    hops = [one["hop"] for one in windows]
    tiles = [one["length"] // one["hop"] for one in windows]
    rings: list[dict[str, dict[int, int]]] = [{} for _ in windows]

    def update(window: int, key: str, ts: int, amount: int) -> None:
        ring = rings[window].setdefault(key, {})
        tile = ts // hops[window]
        ring[tile] = ring.get(tile, 0) + amount
        if len(ring) > tiles[window] + 1:
            del ring[min(ring)]

    return (
        update,
        lambda: [
            sum(sum(ring.values()) for ring in rings_by_key.values()) for rings_by_key in rings
        ],
        lambda: None,
    )


def main() -> None:
    name, events_path, windows_path = sys.argv[1:]
    with open(windows_path) as file:
        windows = json.load(file)
    with open(events_path) as file:
        events = [json.loads(line) for line in file]
    update, totals, commit = {"river": river, "quix": quix, "python": tile_sums}[name](windows)
    by_type: dict[str, list[tuple[int, list[str], bool]]] = defaultdict(list)
    for number, window in enumerate(windows):
        for type in window["types"]:
            by_type[type].append((number, window["fields"], window["measure"] == "count"))
    started, cpu = time.perf_counter(), time.process_time()
    for count, event in enumerate(events, 1):
        ts, cents = event["ts"], event["cents"]
        keys: dict[str, str] = {}
        for number, fields, counts in by_type[event["type"]]:
            label = "+".join(fields)
            key = keys.get(label)
            if key is None:
                key = keys[label] = "|".join(event[field] for field in fields)
            update(number, key, ts, 1 if counts else cents)
        if count % 10_000 == 0:
            commit()
    commit()
    seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
    print(json.dumps({"events": len(events), "wall_s": seconds, "cpu_s": cpu, "totals": totals()}))


if __name__ == "__main__":
    main()
