"""A small site on which faults are tried: a project, what was sent to it, and what it acknowledged.

What a client sends is a function of a seed and a number, so that whoever judges knows it without
being told. A click that follows an answer carries its request, so that an answer that is lost, or
comes too late, shows in the lake.
"""

import json
import random
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
from tests.faults.names import ITEMS
from tests.faults.oracle import an_event
from tests.faults.roles import make_project

from tailorbird.config import Project, open_project
from tailorbird.events import SystemClock
from tailorbird.events.answer_record import AnswerRecord
from tailorbird.serving.door import EventCollector

CLOCK = SystemClock()
PRODUCER = "serve-1"


@dataclass
class Told:
    """What the ledger outside knows: ids by what became of them, and the bodies of which no answer
    came.

    `named_by`: the command that told the operator what it found wrong.
    """

    seed: int
    acked: set[str] = field(default_factory=set)
    refused: set[str] = field(default_factory=set)
    sent: set[str] = field(default_factory=set)
    bodies: int = 0  # that were sent and answered for sure, from 0 on
    answered: set[int] = field(default_factory=set)  # bodies behind those
    named_by: str = ""

    def take(self, messages: Iterable[dict[str, Any]]) -> None:
        for said in messages:
            if "acked" in said:
                self.acked.update(said["acked"])
                self.refused.update(said["refused"])
                self.answered.add(said["body"])

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
        found = json.loads(path.read_text())
        return cls(
            **{
                name: set(value) if isinstance(value, list) else value
                for name, value in found.items()
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

    def told(self) -> Told:
        return Told.read(self.ledger)

    def door(self, **options: Any) -> EventCollector:
        project = self.project
        return EventCollector(project.paths.stream, PRODUCER, project.plan, CLOCK, **options)


def make_site(folder: Path, seed: int) -> Site:
    folder.mkdir(parents=True)
    make_project(folder / "shop")
    site = Site(folder)
    Told(seed).write(site.ledger)
    return site


def body(seed: int, number: int) -> list[dict[str, Any]]:
    """What the client sends as its `number`-th request: some events, now and then one that was sent
    before.
    """
    rng = random.Random(f"{seed}/{number}")
    events = [an_event(rng, f"t{seed}-{number}-{n}") for n in range(rng.randint(2, 5))]
    items = {
        "event_id": f"t{seed}-{number}-a",
        "type": "click",
        "user_id": f"u{number % 25}",
        "item_id": ITEMS[number % 30],
    }
    events.append({**items, "request_id": f"r{seed}-{number}"})
    device = {
        "anonymous_id": f"d{number % 2}"
    }  # passed on from body to body: the click is of whom the body before the last named
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
        again = [
            event
            for event in body_of_its_own(seed, rng.randrange(number))
            if event["type"] != "nonsense"
        ]
        events += again[:1]
    return events


def body_of_its_own(seed: int, number: int) -> list[dict[str, Any]]:
    """A body without what was sent before."""
    rng = random.Random(f"{seed}/{number}")
    return [an_event(rng, f"t{seed}-{number}-{n}") for n in range(rng.randint(2, 5))]


def answer(seed: int, number: int) -> tuple[bytes, AnswerRecord]:
    """The answer that the click of a body follows: its event, and what it read."""
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
    record = AnswerRecord(
        request_id=f"r{seed}-{number}", ts=now, p=1, commit=1, schema_hash="abc", items=items
    )
    return msgspec.json.encode(event), record


def submit(
    door: EventCollector, seed: int, number: int, *, answered: bool = True
) -> dict[str, Any]:
    """Send a body, after the answer that it follows; what the door said of it, as the ledger has
    it.
    """
    if answered:
        door.record_answer(*answer(seed, number))
    events = body(seed, number)
    decisions = door.submit(json.dumps(events).encode())
    pairs = list(zip(events, decisions, strict=True))
    return {
        "body": number,
        "acked": [event["event_id"] for event, each in pairs if each.accepted],
        "refused": [event["event_id"] for event, each in pairs if not each.accepted],
    }
