"""Several routers on partitions, and what they decided."""

from pathlib import Path
from typing import Any
from uuid import uuid4

from tests.support.network.brokers import CLIENT_OPTIONS
from tests.support.router.stream import NOW, PLAN
from tests.support.router.topics import Topics

from tailorbird.events import SimulatedClock
from tailorbird.router import Router, open_router

PARTITION_COUNT = 3


ANONYMOUS_IDS = [f"v{number}" for number in range(8)]


class PartitionedTopics(Topics):
    """A site whose topics have three partitions."""

    def __init__(self, folder: Path, servers: str, prefix: str) -> None:
        super().__init__(folder, servers, prefix)
        from tailorbird.stream.kafka import Cluster
        from tailorbird.stream.kafka.logs import KafkaLogSet

        self.stream = KafkaLogSet(
            Cluster(servers, prefix, options=CLIENT_OPTIONS, partitions=PARTITION_COUNT), folder
        )

    def router(self) -> Any:
        self.stream._listed_producers.clear()
        return open_router(self.stream, PLAN, clock=SimulatedClock(NOW))

    def share(self, partition: int) -> Any:
        """The router of one partition, on a machine of its own."""
        self.stream._listed_producers.clear()
        folder = self.folder / f"machine-{uuid4().hex[:6]}"
        folder.mkdir()
        return Router(self.stream.share(partition, folder), PLAN, clock=SimulatedClock(NOW))


def make_profile_events() -> list[dict[str, Any]]:
    """Return profiles that any event may refer to: items, users, and merges of u0 to u3."""
    items = [
        {
            "event_id": f"i{n}",
            "type": "item",
            "item_id": f"i{n}",
            "ts": NOW - 9,
            "properties": {"price": n},
        }
        for n in range(5)
    ]
    users = [
        {
            "event_id": f"u{n}",
            "type": "user",
            "user_id": f"u{n}",
            "ts": NOW - 9,
            "properties": {"plan": f"p{n}"},
        }
        for n in range(5)
    ]
    merges = [
        {
            "event_id": f"m{n}",
            "type": "merge",
            "user_id": f"u{n}",
            "properties": {"merged_into": f"u{n + 1}"},
        }
        for n in range(3)
    ]
    return items + users + merges


def make_visitor_events(round_number: int) -> list[tuple[dict[str, Any], str]]:
    """Return events of some visitors: a response, identifies, clicks, a duplicate, invalid rows."""
    events = []
    for index, anonymous_id in enumerate(ANONYMOUS_IDS):
        visitor = {"anonymous_id": anonymous_id}
        request_id = f"r{round_number}-{index}"
        answer = {
            "type": "answer",
            "request_id": request_id,
            "items": ["i1", "i2"],
            "answer": {"slot": "s", "propensities": [1.0, 0.5]},
        }
        events += [
            ({**visitor, **answer, "event_id": f"a{round_number}-{index}"}, "server"),
            (
                {
                    **visitor,
                    "event_id": f"n{round_number}-{index}",
                    "type": "identify",
                    "user_id": f"u{(index + round_number) % 5}",
                },
                "collector",
            ),
            (
                {
                    **visitor,
                    "event_id": f"c{round_number}-{index}",
                    "type": "click",
                    "item_id": "i2",
                    "request_id": request_id,
                },
                "collector",
            ),
            (
                {
                    **visitor,
                    "event_id": f"c{round_number // 2}-{index}",
                    "type": "click",
                    "item_id": "i1",
                },
                "collector",
            ),
            (
                {
                    "event_id": f"d{round_number}-{index}",
                    "type": "click",
                    "user_id": f"u{index % 5}",
                    "item_id": f"i{index % 5}",
                },
                "collector",
            ),
            ({"event_id": "bad"}, "collector"),
        ]
    return events


def post_round(site: Any, round_number: int) -> None:
    site.now += 1_000
    events = make_visitor_events(round_number)
    for source in ("server", "collector"):
        site.post(
            *[event for event, event_source in events if event_source == source], source=source
        )
