"""The drills: what dies, while somebody goes on asking, and what is expected of the answers. Those
of load are in `drills.loads`.
"""

import random
import shutil
import time
from functools import partial
from pathlib import Path

import msgspec
import numpy as np
from tests.faults.drills.judging import Found, Span, judged, span
from tests.faults.drills.site import RATE, Asking, Serving, Site, pause, site
from tests.faults.roles import until
from tests.serving import shop
from tests.stream.brokers import Broker

SWAPPED_S = 1.0
STOOD_STILL_S = 8.0  # longer than the door waits for the broker
SYNC_FAILS = 100  # the first sync of a server's log that fails; after each it waits five seconds


def store(folder: Path, requests: int) -> Found:
    spans: list[Span] = []
    with site(folder) as here:
        asking = Asking(here, requests)
        while not asking.over():
            pause(2, asking.over)
            with span(spans):
                here.valkey.kill()
                pause(6, asking.over)
                here.valkey.start()
                until(here.ready, 60, "the copies were not written anew")
        what = (
            "the Valkey of features, `kill -9` and started empty six seconds later, again and again"
        )
        found = judged("store", what, asking.found(), spans, lacks="last_known")
        return count_events(here, found, asking)


def model(folder: Path, requests: int) -> Found:
    spans: list[Span] = []
    draw = random.Random(1)
    with site(folder) as here:
        asking = Asking(here, requests)
        while not asking.over():
            version = here.registry.add(shop.write(folder / f"more-{len(spans)}", here.features))
            flip(here.registry.path / version / "model" / "click.onnx", draw)
            pause(2, asking.over)
            with span(spans):
                point_to(here, version)
                refused = len(here.servers) * (len(spans) + 1)
                until(partial(_alarmed, here, refused, asking), 90, "it was not refused")
        found = judged(
            "model",
            "a champion whose model file has a flipped bit, one after the other",
            asking.found(),
            spans,
        )
        found.more["alarms"] = here.metric("tailorbird_bundle_load_failures_total")
        if found.more["alarms"] < len(here.servers) * (
            len(spans) - 1
        ):  # of the last they may not know yet
            found.missed.append("not each was told by each server")
        if set(asking.found()["models"]) - {"v0002", ""}:
            found.missed.append("another version than the one before answered")
        return count_events(here, found, asking)


def scores(folder: Path, requests: int) -> Found:
    spans: list[Span] = []
    with site(folder) as here:
        asking = Asking(here, requests)
        version = here.registry.add(shop.write_not_finite(folder / "nan", here.features))
        while not asking.over():
            pause(2, asking.over)
            with span(spans):
                here.registry.promote(version, by="drill", why="it passed its golden rows")
                pause(5, asking.over)
                here.registry.rollback(by="drill", why="it gives no numbers")
                pause(1, asking.over)
        what = "a model whose scores are no numbers, promoted and rolled back"
        return count_events(
            here, judged("scores", what, asking.found(), spans, lacks="previous_model"), asking
        )


def index(folder: Path, requests: int) -> Found:
    """The champion's index is away while servers start; then it is back, and they start over it.
    Asked as `server` is.
    """
    spans: list[Span] = []
    with site(folder) as here:
        asking = Asking(here, requests, rate=RATE / 2)
        whole, away = here.registry.path / "v0002" / "index", folder / "away"
        while not asking.over():
            pause(3, asking.over)
            with span(spans):
                whole.rename(away)
                for server in here.servers:
                    restart(here, server)
                pause(2, asking.over)
            shutil.copytree(away, whole)
            shutil.rmtree(away)
            for server in here.servers:
                restart(here, server)
        what = (
            "the champion's index, and each server `kill -9` and started without it and again "
            "with it, in turn"
        )
        found = judged("index", what, asking.found(), spans)
        if not asking.found()["models"].get("v0001"):
            found.missed.append("the version before never answered")
        return count_events(here, found, asking)


def disk(folder: Path, requests: int) -> Found:
    first, last = SYNC_FAILS, SYNC_FAILS + requests // 1_500  # some two thirds of the time
    spans: list[Span] = []
    with site(folder, faults=f"door.before_sync=raise@{first}-{last}") as here:
        asking, failures = Asking(here, requests), "tailorbird_log_failures_total"
        until(lambda: asking.over() or here.metric(failures) > 0, 60, "no sync failed")
        with span(spans):
            until(
                lambda: asking.over() or here.metric(failures) >= 2 * (last - first + 1),
                600,
                "they fail on",
            )
        what = (
            f"the disk: {last - first + 1} syncs of each server's log fail in a row, five "
            "seconds between them"
        )
        found = judged("disk", what, asking.found(), spans, lacks="log")
        found.more["syncs_failed"] = here.metric(failures)
        return count_events(here, found, asking)


def server(folder: Path, requests: int) -> Found:
    """At half the rate of the others: two servers that share the work must each be able to do all
    of it, on what is left of the machine.
    """
    spans: list[Span] = []
    with site(folder) as here:
        asking = Asking(here, requests, rate=RATE / 2)
        while not asking.over():
            victim = here.servers[len(spans) % 2]
            pause(5, asking.over)
            with span(spans):
                restart(here, victim, after_s=1)
        what = "one of two servers `kill -9` and started again a second later, in turn"
        return count_events(here, judged("server", what, asking.found(), spans), asking)


def broker(folder: Path, requests: int) -> Found:
    """The broker stands still again and again; at the end it is killed, and started empty: this one
    keeps nothing.

    Where a lake had read what is lost, the door would refuse to write, see
    docs/how-to/kafka.md; here nobody reads.
    """
    spans: list[Span] = []
    folder.mkdir(parents=True, exist_ok=True)
    there = Broker(folder)
    try:
        with site(folder, kafka=there.servers) as here:
            asking, refused = Asking(here, requests), 0
            while not asking.over():
                pause(4, asking.over)
                with span(spans):
                    there.stand_still()
                    pause(STOOD_STILL_S, asking.over)
                    refused += here.refuses_events()
                    there.go_on()
                    until(here.takes_events, 60, "the door does not take events again")
            what = (
                "the broker of events and answers stands still (SIGSTOP) for eight seconds, "
                "again and again"
            )
            found = count_events(
                here, judged("broker", what, asking.found(), spans, lacks="log"), asking
            )
            found.more["events_refused_with_retry_after"] = refused
            if not refused:
                found.missed.append("no event was refused with a word on when to come again")
            there.kill()
            found.more["answers_without_it"] = sum(
                bool(here.ask(url)["items"]) for url in here.urls for _ in range(50)
            )
            until(here.refuses_events, 30, "the door does not notice that the broker is dead")
            there.start()
            began = time.monotonic()
            until(
                here.takes_events,
                90,
                "the door does not take events on a broker that lost everything",
            )
            found.more["taken_again_empty_s"] = time.monotonic() - began
            if found.more["answers_without_it"] != 50 * len(here.urls):
                found.missed.append("answers failed while the broker was dead")
            return found
    finally:
        there.go_on()
        there.kill()


def swap(folder: Path, requests: int) -> Found:
    spans: list[Span] = []
    took: list[float] = []
    with site(folder) as here:
        until(
            lambda: here.metric("tailorbird_rollout_info") == 2 * len(here.servers),
            60,
            "the champion before is not held ready",
        )
        asking = Asking(here, requests)
        fresh = here.registry.add(shop.write(folder / "fresh", here.features))
        with span(spans):
            began = time.monotonic()
            here.registry.promote(fresh, by="drill", why="a version that no server has loaded")
            until(lambda: here.serves(fresh), 60, "it was not swapped")
            cold = time.monotonic() - began
        while not asking.over():
            for change in (partial(here.registry.promote, "v0002"), here.registry.rollback):
                pause(0.5, asking.over)
                with span(spans):
                    began = time.monotonic()
                    change(by="drill", why="swap")
                    wanted = here.registry.aliases().champion or ""
                    until(partial(here.serves, wanted), 30, "it was not swapped")
                    took.append(time.monotonic() - began)
        found = judged(
            "swap", "promotions and rollbacks, one after the other", asking.found(), spans
        )
        found.more |= {
            "swap_ms_p50": 1e3 * float(np.median(took)),
            "swap_ms_max": 1e3 * max(took),
            "cold_ms": 1e3 * cold,
        }
        if found.answered != found.requests:
            found.missed.append(f"{found.requests - found.answered} failed")
        if max(took) > SWAPPED_S:
            found.missed.append("a swap took longer than a second")
        return count_events(here, found, asking)


def count_events(here: Site, found: Found, asking: Asking) -> Found:
    """Look for what was sent in the logs: of events that a server took none may be lost."""
    lost = set(asking.found()["clicks"]) - here.events()
    found.events_lost = max(0, len(lost) - asking.found()["unsent"])
    if found.events_lost:
        found.missed.append(f"{found.events_lost} events were taken and are lost")
    return found


def restart(here: Site, server: Serving, after_s: float = 0.0) -> None:
    """Kill a server, start it again, and wait until it answers as before."""
    server.kill()
    time.sleep(after_s)
    server.start()
    until(lambda: here.ask(server.url)["degraded"] == [], 60, "it did not get ready")


def flip(file: Path, draw: random.Random) -> None:
    """Turn one bit of a file."""
    file.chmod(0o644)
    data = bytearray(file.read_bytes())
    data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
    file.write_bytes(data)


def point_to(here: Site, version: str) -> None:
    """Name a version the champion without any check, as a mishap would."""
    aliases = msgspec.structs.replace(here.registry.aliases(), champion=version)
    fresh = here.registry.path / "aliases.mishap"
    fresh.write_bytes(msgspec.json.encode(aliases))
    fresh.rename(here.registry.path / "aliases.json")


def _alarmed(here: Site, times: int, asking: Asking) -> bool:
    return asking.over() or here.metric("tailorbird_bundle_load_failures_total") >= times
