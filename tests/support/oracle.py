"""The oracle: a load generator outside the system with a synced ledger, and the final checks.

    ledger line:  {"ids": […], "outcome": "sent" | "acked" | "refused" | "unknown"}

An event is `acked` or `refused` as the collector said; `unknown` if no response came, and then it
is sent again with the same id until one does. Whatever the system went through in between,
afterwards:

    a  every acked event is in the lake
    b  no refused event is in the lake; each is in the quarantine
    c  no event is in the lake twice
    d  archive, ledger and tables agree to the last row
    e  the state equals what the lake's events make, bit for bit
    f  each event is of the person that the identifies and merges before it imply
"""

import http.client
import json
import os
import random
import subprocess
import sys
import threading
import time
import warnings
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from tests.support.names import ITEMS, PEOPLE
from tests.support.roles import Up, until

from tailorbird.config import Project
from tailorbird.events.merges import Merge, resolve_merged_user
from tailorbird.features import ReadRequest
from tailorbird.features.offline.backfill import Requests, backfill
from tailorbird.features.offline.positions import stack_positions
from tailorbird.features.online.read import Reader
from tailorbird.lake import Lake, verify


class Ledger:
    """An append-only ledger, synced before anything is sent, so that it survives any fault."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("a")
        self._lock = threading.Lock()
        self.acked: set[str] = set()
        self.refused: set[str] = set()
        self.sent: set[str] = set()

    def write(self, outcome: str, ids: list[str]) -> None:
        with self._lock:
            self._file.write(json.dumps({"outcome": outcome, "ids": ids}) + "\n")
            self._file.flush()
            os.fsync(self._file.fileno())
            {"acked": self.acked, "refused": self.refused, "sent": self.sent}.get(
                outcome, set()
            ).update(ids)


@dataclass
class Load:
    """Sends events to `port` from `threads` threads until `stop()`."""

    port: int
    ledger: Ledger
    threads: int = 2
    seed: int = 1
    _stop: threading.Event = field(default_factory=threading.Event)
    _abandoned: bool = False
    _running: list[threading.Thread] = field(default_factory=list)

    def start(self) -> None:
        for number in range(self.threads):
            thread = threading.Thread(target=self._send, args=(number,), daemon=True)
            thread.start()
            self._running.append(thread)

    def stop(self) -> None:
        self._stop.set()
        for thread in self._running:
            thread.join(60)
            assert not thread.is_alive(), "the collector never answered again"

    def abandon(self) -> None:
        """Stop without waiting for responses, after the server is gone."""
        self._abandoned = True
        self._stop.set()
        for thread in self._running:
            thread.join(20)

    def _send(self, thread: int) -> None:
        rng = random.Random(f"{self.seed}/{thread}")
        sent_count = 0
        earlier_events: list[dict] = []
        while not self._stop.is_set():
            events = [
                make_random_event(rng, f"t{self.seed}.{thread}-{sent_count + n}")
                for n in range(rng.randint(1, 6))
            ]
            sent_count += len(events)
            if earlier_events and rng.random() < 0.2:
                events.append(rng.choice(earlier_events))  # a client that sends an event again
            self.ledger.write("sent", [event["event_id"] for event in events])
            self._send_until_answered(events)
            earlier_events = [event for event in events if event["type"] != "nonsense"]
            time.sleep(0.005)

    def _send_until_answered(self, events: list[dict]) -> None:
        body = json.dumps(events)
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            if self._stop.is_set() and self._abandoned:
                return
            try:
                connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
                connection.request("POST", "/v1/events", body, {"content-type": "application/json"})
                response = connection.getresponse()
                response_body = json.loads(response.read())
                connection.close()
            except (OSError, http.client.HTTPException, ValueError):
                self.ledger.write("unknown", [event["event_id"] for event in events])
                time.sleep(0.05)
                continue
            if response.status in (200, 400) and "events" in response_body:
                events_and_decisions = list(zip(events, response_body["events"], strict=True))
                self.ledger.write(
                    "acked",
                    [
                        event["event_id"]
                        for event, decision in events_and_decisions
                        if decision["accepted"]
                    ],
                )
                self.ledger.write(
                    "refused",
                    [
                        event["event_id"]
                        for event, decision in events_and_decisions
                        if not decision["accepted"]
                    ],
                )
                return
            time.sleep(0.05)


def make_random_event(rng: random.Random, event_id: str) -> dict:
    if rng.random() < 0.04:
        return {"event_id": event_id, "type": "nonsense", "user_id": rng.choice(PEOPLE)}
    event = {
        "event_id": event_id,
        "user_id": rng.choice(PEOPLE),
        "session_id": f"s{rng.randint(0, 60)}",
    }
    if rng.random() < 0.02:
        return {**event, "type": "merge", "properties": {"merged_into": rng.choice(PEOPLE)}}
    event_type = rng.choice(["click", "click", "click", "purchase", "impression", "identify"])
    if event_type == "identify":
        return {**event, "type": event_type, "anonymous_id": f"a{rng.randint(0, 20)}"}
    if event_type == "impression":
        return {**event, "type": event_type, "items": rng.sample(ITEMS, 5)}
    if rng.random() < 0.3:
        del event["user_id"]
        event["anonymous_id"] = f"a{rng.randint(0, 20)}"
    return {
        **event,
        "type": event_type,
        "item_id": rng.choice(ITEMS),
        "properties": {"price": rng.randint(1, 9_999) / 100},
    }


def count_lake_events(project: Project) -> Counter[str]:
    """Count each event id of the load in `events`; empty if there is no lake yet."""
    lake = Lake(project.paths.lake)
    if not lake.exists("events"):
        return Counter()
    events = lake.events(columns=["event_id", "type"])
    return Counter(
        event_id for event_id in events["event_id"].to_pylist() if event_id.startswith("t")
    )


def kill_under_load(up: Up, load: Load, roles: Sequence[str], times: int) -> None:
    """Kill each role so often under load, wait until everything is in the lake, and stop."""
    ledger = load.ledger
    try:
        load.start()
        for _ in range(times):
            for role in roles:
                before = len(ledger.acked)
                up.kill(role)
                # The load goes on before the next one dies, so that kills meet work under way.
                until(
                    lambda seen=before: len(ledger.acked) > seen + 5,
                    60,
                    f"nothing was acknowledged after {role} was killed",
                )
        load.stop()
        _wait_until_arrived(up, ledger)
    finally:
        up.stop()


def _wait_until_arrived(up: Up, ledger: Ledger) -> None:
    """Wait up to five minutes, as the machine may be slow, and warn after two."""

    def has_arrived() -> bool:
        return ledger.acked <= count_lake_events(up.project).keys()

    try:
        until(has_arrived, 120, lambda: _describe_missing(up, ledger))
    except AssertionError as error:
        warnings.warn(f"late, two minutes after the last kill: {error}", stacklevel=2)
        until(has_arrived, 180, lambda: _describe_missing(up, ledger))


def _describe_missing(up: Up, ledger: Ledger) -> str:
    """Describe the missing events, where they wait, and the roles' output."""
    missing = sorted(ledger.acked - count_lake_events(up.project).keys())
    command = [sys.executable, "-m", "tailorbird", "-C", str(up.project.root), "doctor"]
    doctor = subprocess.run(
        command, capture_output=True, text=True, timeout=120, check=False
    ).stdout
    role_log = up.log.read_text()[-6_000:]
    return (
        f"{len(missing)} of {len(ledger.acked)} did not reach the lake by themselves, as "
        f"{missing[:3]}\n{doctor}\n{role_log}"
    )


def find_violations(project: Project, ledger: Ledger) -> list[str]:
    """Return what is wrong; empty if nothing is."""
    counts_by_id = count_lake_events(project)
    violations = [
        f"acknowledged and lost: {event_id}"
        for event_id in sorted(ledger.acked - counts_by_id.keys())[:5]
    ]
    violations += [
        f"refused and in the lake: {event_id}"
        for event_id in sorted(ledger.refused & counts_by_id.keys())[:5]
    ]
    violations += [
        f"in the lake {count} times: {event_id}"
        for event_id, count in counts_by_id.items()
        if count > 1
    ][:5]
    violations += [
        f"in the lake and never sent: {event_id}"
        for event_id in sorted(counts_by_id.keys() - ledger.sent)[:5]
    ]
    bodies = b"\n".join(Lake(project.paths.lake).table("quarantine")["body"].to_pylist())
    violations += [
        f"refused and not in quarantine: {each}"
        for each in sorted(ledger.refused)
        if f'"{each}"'.encode() not in bodies
    ][:5]
    report = verify(project.paths.lake, deep=True)
    if not report.is_clean:
        violations.append(f"the lake does not verify: {report}")
    return violations + find_wrong_persons(project)[:5] + find_unequal_state(project)


def _resolve_persons(events: pa.Table) -> dict[str, str]:
    """Return the person of each user of the load, by the merges among the events."""
    rows = events.filter(pc.equal(events["type"], "merge")).sort_by(
        [("ts", "ascending"), ("p", "ascending")]
    )
    columns = (rows[name].to_pylist() for name in ("user_id", "p", "person"))
    last_merge_by_user = {
        user: Merge(ts, log_position, merged_into)
        for ts, user, log_position, merged_into in zip(
            rows["ts"].cast("int64").to_pylist(), *columns, strict=True
        )
    }
    return {user: resolve_merged_user(user, last_merge_by_user.get)[0] for user in PEOPLE}


def find_wrong_persons(project: Project) -> list[str]:
    """Return events of another person than identifies and merges imply.

    They are read in the order of the routed log by independent code. Several partitions are not
    checked: a router learns of another's merges at a time that the log does not show.
    """
    if project.stream.partition_count > 1:
        return []
    events = Lake(project.paths.lake).events()
    columns = ("event_id", "type", "ts", "p", "user_id", "anonymous_id", "person")
    rows = (
        events.select(columns)
        .set_column(2, "ts", events["ts"].cast("int64"))
        .sort_by("p")
        .to_pylist()
    )
    identifies_by_visitor: dict[str, list[tuple[int, int, str]]] = defaultdict(list)
    merges_by_user: dict[str, list[tuple[int, int, str]]] = defaultdict(list)
    violations = []
    for row in rows:
        user, visitor, ts_and_p = row["user_id"], row["anonymous_id"], (row["ts"], row["p"])
        if row["type"] == "merge":
            merges_by_user[user].append((*ts_and_p, row["person"]))
            continue
        if row["type"] == "identify":
            identifies_by_visitor[visitor].append((*ts_and_p, user))
        if user is None and visitor is not None:
            user = max(
                (
                    candidate
                    for candidate in identifies_by_visitor[visitor]
                    if candidate[0] <= row["ts"]
                ),
                default=(0, 0, None),
            )[2]
        last_merge_by_user = {
            candidate: Merge(*max(earlier_merges))
            for candidate, merges in merges_by_user.items()
            if (earlier_merges := [merge for merge in merges if merge[0] <= row["ts"]])
        }
        person = (
            f"anon:{visitor}"
            if user is None and visitor is not None
            else user and resolve_merged_user(user, last_merge_by_user.get)[0]
        )
        if person != row["person"]:
            violations.append(
                f"{row['event_id']} ({row['type']}) is of {row['person']} in the lake, and "
                f"of {person} by what came before it"
            )
    return violations


def find_unequal_state(project: Project) -> list[str]:
    """Compare features as a server reads them with those from the lake at the same (t, p)."""
    events = Lake(project.paths.lake).events()
    newest_ts = int(pc.max(events["ts"].cast("int64")).as_py())
    persons = sorted({person for person in events["person"].to_pylist() if person})
    features = project.features
    reader = Reader(project.paths.state, features, workers=project.workers)
    rows = [
        reader.read(
            ReadRequest(
                person=person,
                anonymous_id=None,
                session_id=None,
                device="phone",
                country="NO",
                local_hour=12,
                now=newest_ts + 1,
            ),
            ITEMS,
        )
        for person in persons
    ]
    violations = [
        f"{user} is read as {actual} in the state, as {by_lake} in the lake"
        for user, by_lake in _resolve_persons(events).items()
        if (actual := reader.read(ReadRequest(user_id=user, now=newest_ts + 1), ITEMS[:1]).person)
        != by_lake
    ]
    reader.close()
    count = len(persons)
    requests = Requests(
        t=np.array([row.t for row in rows]),
        log_position=stack_positions([row.log_positions or row.log_position for row in rows]),
        person=persons,
        session_id=[None] * count,
        device=["phone"] * count,
        country=["NO"] * count,
        local_hour=np.full(count, 12),
        row_request=np.repeat(np.arange(count), len(ITEMS)),
        row_item=ITEMS * count,
    )
    recomputed = backfill(features, events, requests)
    numeric = np.concatenate([row.numeric for row in rows])
    is_equal = (numeric.view(np.uint32) == recomputed.numeric.view(np.uint32)) | (
        np.isnan(numeric) & np.isnan(recomputed.numeric)
    )
    for row, column in np.argwhere(~is_equal)[:5].tolist():
        value_name = (
            f"{features.numeric[column]} of {persons[row // len(ITEMS)]}, {ITEMS[row % len(ITEMS)]}"
        )
        violations.append(
            f"state differs from the lake: {value_name}: {numeric[row, column]} against "
            f"{recomputed.numeric[row, column]}"
        )
    if not (np.concatenate([row.categorical for row in rows]) == recomputed.categorical).all():
        violations.append("state differs from the lake in a categorical feature")
    return violations
