"""The drills: parts die while a client goes on, with the expected responses.

Those of load are in `drills.loads`.
"""

import random
import shutil
import time
from functools import partial
from pathlib import Path

import msgspec
import numpy as np
from tests.faults.drills.judging import DrillResult, Span, judge, span
from tests.faults.drills.site import RATE, Asking, Serving, Site, pause, site
from tests.support.network.brokers import Broker
from tests.support.roles import until
from tests.support.shops import serving_shop

SWAPPED_S = 1.0
STOOD_STILL_S = 8.0  # longer than the collector waits for the broker
SYNC_FAILS = 100  # the first sync of a server's log that fails; after each it waits five seconds


def store(folder: Path, requests: int) -> DrillResult:
    spans: list[Span] = []
    with site(folder) as site_:
        asking = Asking(site_, requests)
        while not asking.over():
            pause(2, asking.over)
            with span(spans):
                site_.valkey.kill()
                pause(6, asking.over)
                site_.valkey.start()
                until(site_.ready, 60, "the copies were not written anew")
        what = (
            "the Valkey of features, `kill -9` and started empty six seconds later, again and again"
        )
        result = judge("store", what, asking.tally(), spans, expected_code="last_known")
        return count_events(site_, result, asking)


def model(folder: Path, requests: int) -> DrillResult:
    spans: list[Span] = []
    draw = random.Random(1)
    with site(folder) as site_:
        asking = Asking(site_, requests)
        while not asking.over():
            version = site_.registry.add(
                serving_shop.write_shop_bundle(folder / f"more-{len(spans)}", site_.features)
            )
            flip(site_.registry.path / version / "model" / "click.onnx", draw)
            pause(2, asking.over)
            with span(spans):
                point_to(site_, version)
                refused = len(site_.servers) * (len(spans) + 1)
                until(partial(_alarmed, site_, refused, asking), 90, "it was not refused")
        result = judge(
            "model",
            "a champion whose model file has a flipped bit, one after the other",
            asking.tally(),
            spans,
        )
        result.more["alarms"] = site_.metric("tailorbird_bundle_load_failures_total")
        if result.more["alarms"] < len(site_.servers) * (
            len(spans) - 1
        ):  # they may not have read the last one yet
            result.missed.append("not each was told by each server")
        if set(asking.tally()["models"]) - {"v0002", ""}:
            result.missed.append("another version than the one before answered")
        return count_events(site_, result, asking)


def scores(folder: Path, requests: int) -> DrillResult:
    spans: list[Span] = []
    with site(folder) as site_:
        asking = Asking(site_, requests)
        version = site_.registry.add(serving_shop.write_nan_bundle(folder / "nan", site_.features))
        while not asking.over():
            pause(2, asking.over)
            with span(spans):
                site_.registry.promote(version, by="drill", why="it passed its golden rows")
                pause(5, asking.over)
                site_.registry.rollback(by="drill", why="it gives no numbers")
                pause(1, asking.over)
        what = "a model whose scores are no numbers, promoted and rolled back"
        return count_events(
            site_,
            judge("scores", what, asking.tally(), spans, expected_code="previous_model"),
            asking,
        )


def index(folder: Path, requests: int) -> DrillResult:
    """Remove the champion's index while servers start, then bring it back and restart them.

    The rate is that of `server`.
    """
    spans: list[Span] = []
    with site(folder) as site_:
        asking = Asking(site_, requests, rate=RATE / 2)
        index_folder, away = site_.registry.path / "v0002" / "index", folder / "away"
        while not asking.over():
            pause(3, asking.over)
            with span(spans):
                index_folder.rename(away)
                for server in site_.servers:
                    restart(site_, server)
                pause(2, asking.over)
            shutil.copytree(away, index_folder)
            shutil.rmtree(away)
            for server in site_.servers:
                restart(site_, server)
        what = (
            "the champion's index, and each server `kill -9` and started without it and again "
            "with it, in turn"
        )
        result = judge("index", what, asking.tally(), spans)
        if not asking.tally()["models"].get("v0001"):
            result.missed.append("the version before never answered")
        return count_events(site_, result, asking)


def disk(folder: Path, requests: int) -> DrillResult:
    first, last = SYNC_FAILS, SYNC_FAILS + requests // 1_500  # some two thirds of the time
    spans: list[Span] = []
    with site(folder, faults=f"collector.before_sync=raise@{first}-{last}") as site_:
        asking, failures = Asking(site_, requests), "tailorbird_log_failures_total"
        until(lambda: asking.over() or site_.metric(failures) > 0, 60, "no sync failed")
        with span(spans):
            until(
                lambda: asking.over() or site_.metric(failures) >= 2 * (last - first + 1),
                600,
                "they fail on",
            )
        what = (
            f"the disk: {last - first + 1} syncs of each server's log fail in a row, five "
            "seconds between them"
        )
        result = judge("disk", what, asking.tally(), spans, expected_code="log")
        result.more["syncs_failed"] = site_.metric(failures)
        return count_events(site_, result, asking)


def server(folder: Path, requests: int) -> DrillResult:
    """Kill one server after the other, at half the rate of the other drills.

    Each must be able to do all of the work, on the rest of the machine.
    """
    spans: list[Span] = []
    with site(folder) as site_:
        asking = Asking(site_, requests, rate=RATE / 2)
        while not asking.over():
            victim = site_.servers[len(spans) % 2]
            pause(5, asking.over)
            with span(spans):
                restart(site_, victim, after_s=1)
        what = "one of two servers `kill -9` and started again a second later, in turn"
        return count_events(site_, judge("server", what, asking.tally(), spans), asking)


def broker(folder: Path, requests: int) -> DrillResult:
    """Stop the broker again and again; at the end it is killed, and started empty.

    If a lake had read the lost records, the collector would refuse to write, see
    docs/how-to/kafka.md; here nothing reads.
    """
    spans: list[Span] = []
    folder.mkdir(parents=True, exist_ok=True)
    broker_ = Broker(folder)
    try:
        with site(folder, kafka=broker_.servers) as site_:
            asking, refused = Asking(site_, requests), 0
            while not asking.over():
                pause(4, asking.over)
                with span(spans):
                    broker_.stand_still()
                    pause(STOOD_STILL_S, asking.over)
                    refused += site_.refuses_events()
                    broker_.go_on()
                    until(site_.accepts_events, 60, "the collector does not take events again")
            what = (
                "the broker of events and answers stands still (SIGSTOP) for eight seconds, "
                "again and again"
            )
            result = count_events(
                site_, judge("broker", what, asking.tally(), spans, expected_code="log"), asking
            )
            result.more["events_refused_with_retry_after"] = refused
            if not refused:
                result.missed.append("no event was refused with a word on when to come again")
            broker_.kill()
            result.more["answers_without_it"] = sum(
                bool(site_.ask(url)["items"]) for url in site_.urls for _ in range(50)
            )
            until(site_.refuses_events, 30, "the collector does not notice that the broker is dead")
            broker_.start()
            started = time.monotonic()
            until(
                site_.accepts_events,
                90,
                "the collector does not take events on a broker that lost everything",
            )
            result.more["taken_again_empty_s"] = time.monotonic() - started
            if result.more["answers_without_it"] != 50 * len(site_.urls):
                result.missed.append("answers failed while the broker was dead")
            return result
    finally:
        broker_.go_on()
        broker_.kill()


def swap(folder: Path, requests: int) -> DrillResult:
    spans: list[Span] = []
    swap_s: list[float] = []
    with site(folder) as site_:
        until(
            lambda: site_.metric("tailorbird_rollout_info") == 2 * len(site_.servers),
            60,
            "the champion before is not held ready",
        )
        asking = Asking(site_, requests)
        version_ = site_.registry.add(
            serving_shop.write_shop_bundle(folder / "fresh", site_.features)
        )
        with span(spans):
            started = time.monotonic()
            site_.registry.promote(version_, by="drill", why="a version that no server has loaded")
            until(lambda: site_.serves(version_), 60, "it was not swapped")
            cold = time.monotonic() - started
        while not asking.over():
            for change in (partial(site_.registry.promote, "v0002"), site_.registry.rollback):
                pause(0.5, asking.over)
                with span(spans):
                    started = time.monotonic()
                    change(by="drill", why="swap")
                    champion = site_.registry.aliases().champion or ""
                    until(partial(site_.serves, champion), 30, "it was not swapped")
                    swap_s.append(time.monotonic() - started)
        result = judge(
            "swap", "promotions and rollbacks, one after the other", asking.tally(), spans
        )
        result.more |= {
            "swap_ms_p50": 1e3 * float(np.median(swap_s)),
            "swap_ms_max": 1e3 * max(swap_s),
            "cold_ms": 1e3 * cold,
        }
        if result.answered != result.requests:
            result.missed.append(f"{result.requests - result.answered} failed")
        if max(swap_s) > SWAPPED_S:
            result.missed.append("a swap took longer than a second")
        return count_events(site_, result, asking)


def count_events(site_: Site, result: DrillResult, asking: Asking) -> DrillResult:
    """Check that no event that a server accepted is missing in the logs."""
    lost = set(asking.tally()["clicks"]) - site_.events()
    result.events_lost = max(0, len(lost) - asking.tally()["unsent"])
    if result.events_lost:
        result.missed.append(f"{result.events_lost} events were taken and are lost")
    return result


def restart(site_: Site, server: Serving, after_s: float = 0.0) -> None:
    """Kill a server, start it again, and wait until it answers as before."""
    server.kill()
    time.sleep(after_s)
    server.start()
    until(lambda: site_.ask(server.url)["degraded"] == [], 60, "it did not get ready")


def flip(file: Path, draw: random.Random) -> None:
    """Turn one bit of a file."""
    file.chmod(0o644)
    data = bytearray(file.read_bytes())
    data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
    file.write_bytes(data)


def point_to(site_: Site, version: str) -> None:
    """Name a version the champion without any check, as a mishap would."""
    aliases = msgspec.structs.replace(site_.registry.aliases(), champion=version)
    temporary = site_.registry.path / "aliases.mishap"
    temporary.write_bytes(msgspec.json.encode(aliases))
    temporary.rename(site_.registry.path / "aliases.json")


def _alarmed(site_: Site, times: int, asking: Asking) -> bool:
    return asking.over() or site_.metric("tailorbird_bundle_load_failures_total") >= times
