"""A small site for faults: a project, its traffic, and its acknowledgements.

A client's bodies are a function of a seed and a number, so that a judge can derive them. A click
that follows a response carries its request, so that a lost or late response shows in the lake.
"""

import json
import random
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
from tests.support.names import ITEMS
from tests.support.oracle import make_random_event
from tests.support.roles import make_project

from tailorbird.config import Project, open_project
from tailorbird.events import SystemClock
from tailorbird.events.answer_record import ResponseRecord
from tailorbird.serving.collector.collector import EventCollector

CLOCK = SystemClock()
PRODUCER = "serve-1"


@dataclass
class Told:
    """The outer ledger: ids by outcome, and the bodies without a response.

    `named_by`: the command that reported a problem to the operator.
    """

    seed: int
    acked: set[str] = field(default_factory=set)
    refused: set[str] = field(default_factory=set)
    sent: set[str] = field(default_factory=set)
    bodies: int = 0  # that were sent and answered for sure, from 0 on
    answered: set[int] = field(default_factory=set)  # bodies behind those
    named_by: str = ""

    def take(self, messages: Iterable[dict[str, Any]]) -> None:
        for message in messages:
            if "acked" in message:
                self.acked.update(message["acked"])
                self.refused.update(message["refused"])
                self.answered.add(message["body"])

    def write(self, path: Path) -> None:
        path.write_text(
            json.dumps(
                {
                    name: sorted(value) if isinstance(value, set) else value
                    for name, value in vars(self).items()
                }
            )
        )

    @classmethod
    def read(cls, path: Path) -> "Told":
        fields = json.loads(path.read_text())
        return cls(
            **{
                name: set(value) if isinstance(value, list) else value
                for name, value in fields.items()
            }
        )


@dataclass(frozen=True)
class Site:
    """A folder with the project in `shop`, and the ledger beside it."""

    folder: Path

    @property
    def project(self) -> Project:
        return open_project(self.folder / "shop")

    @property
    def ledger(self) -> Path:
        return self.folder / "ledger.json"

    def read_ledger(self) -> Told:
        return Told.read(self.ledger)

    def collector(self, **options: Any) -> EventCollector:
        project = self.project
        return EventCollector(project.paths.stream, PRODUCER, project.plan, CLOCK, **options)


def make_site(folder: Path, seed: int) -> Site:
    folder.mkdir(parents=True)
    make_project(folder / "shop")
    site = Site(folder)
    Told(seed).write(site.ledger)
    return site


def body(seed: int, number: int) -> list[dict[str, Any]]:
    """Return the client's `number`-th body: some events, now and then with an earlier one."""
    rng = random.Random(f"{seed}/{number}")
    events = [make_random_event(rng, f"t{seed}-{number}-{n}") for n in range(rng.randint(2, 5))]
    items = {
        "event_id": f"t{seed}-{number}-a",
        "type": "click",
        "user_id": f"u{number % 25}",
        "item_id": ITEMS[number % 30],
    }
    events.append({**items, "request_id": f"r{seed}-{number}"})
    device = {
        "anonymous_id": f"d{number % 2}"
    }  # shared by bodies: the click belongs to the user that the body before the last identified
    events.append(
        {
            "event_id": f"t{seed}-{number}-d",
            "type": "click",
            "item_id": ITEMS[number % 30],
            **device,
        }
    )
    events.append(
        {
            "event_id": f"t{seed}-{number}-i",
            "type": "identify",
            "user_id": f"u{number % 25}",
            **device,
        }
    )
    if number and rng.random() < 0.4:
        repeats = [
            event
            for event in body_of_its_own(seed, rng.randrange(number))
            if event["type"] != "nonsense"
        ]
        events += repeats[:1]
    return events


def body_of_its_own(seed: int, number: int) -> list[dict[str, Any]]:
    """Return a body without repeated events."""
    rng = random.Random(f"{seed}/{number}")
    return [make_random_event(rng, f"t{seed}-{number}-{n}") for n in range(rng.randint(2, 5))]


def answer(seed: int, number: int) -> tuple[bytes, ResponseRecord]:
    """Return the response that the click of a body follows: its event, and its record."""
    items = [ITEMS[(number + n) % 30] for n in range(3)]
    now = CLOCK.now()
    event = {
        "event_id": f"a{seed}-{number}",
        "type": "answer",
        "ts": now,
        "user_id": f"u{number % 25}",
        "request_id": f"r{seed}-{number}",
        "items": items,
        "answer": {
            "slot": "front",
            "arm": "model",
            "model": "v0001",
            "propensities": [1.0, 0.5, 0.25],
        },
    }
    record = ResponseRecord(
        request_id=f"r{seed}-{number}", ts=now, p=1, commit=1, schema_hash="abc", items=items
    )
    return msgspec.json.encode(event), record


def submit(
    collector: EventCollector, seed: int, number: int, *, answered: bool = True
) -> dict[str, Any]:
    """Send a body, after the response that it follows; return the outcome as the ledger has it."""
    if answered:
        collector.record_response(*answer(seed, number))
    events = body(seed, number)
    decisions = collector.submit(json.dumps(events).encode())
    pairs = list(zip(events, decisions, strict=True))
    return {
        "body": number,
        "acked": [event["event_id"] for event, each in pairs if each.accepted],
        "refused": [event["event_id"] for event, each in pairs if not each.accepted],
    }
