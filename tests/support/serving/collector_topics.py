"""A collector whose raw log is a topic."""

import json
from pathlib import Path
from typing import Any

from tests.support.network.brokers import CLIENT_OPTIONS

from tailorbird.events import RoutePlan, SystemClock
from tailorbird.serving.collector.collector import EventCollector
from tailorbird.stream import open_reader

PLAN = RoutePlan()


def make_topic_stream(mock: Any, folder: Path, *, partitions: int = 1, timeout_s: float = 3) -> Any:
    from tailorbird.stream.kafka import Cluster
    from tailorbird.stream.kafka.logs import KafkaLogSet

    for topic, count in (("raw.s", partitions), ("answers.s", 1)):
        mock.make_topic(f"shop.{topic}", count)
    return KafkaLogSet(
        Cluster(
            mock.servers, "shop", options=CLIENT_OPTIONS, timeout_s=timeout_s, partitions=partitions
        ),
        folder,
    )


def make_collector(stream: Any, **settings: Any) -> EventCollector:
    return EventCollector(stream, "s", PLAN, SystemClock(), reopen_after_s=0.2, **settings)


def read_event_ids(stream: Any) -> list[str]:
    event_ids = []
    for address in stream.raw_logs().values():
        with open_reader(address) as reader:
            for stored_block in reader.read(0, bytes_max=1 << 30):
                body = json.loads(stored_block.block.payload)
                event_ids += [
                    event["event_id"] for event in (body if isinstance(body, list) else [body])
                ]
    return sorted(event_ids)
