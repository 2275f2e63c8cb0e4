"""A router whose logs are topics."""

from pathlib import Path
from typing import Any

import msgspec
from tests.support.network.brokers import CLIENT_OPTIONS
from tests.support.router.stream import NOW, PLAN, Stream

from tailorbird.events import Receipt, SimulatedClock
from tailorbird.router import Router
from tailorbird.stream import Block, open_reader, open_writer


class Topics(Stream):
    """The same site with its logs in topics."""

    def __init__(self, folder: Path, servers: str, prefix: str) -> None:
        super().__init__(folder)
        from tailorbird.stream.kafka import Cluster
        from tailorbird.stream.kafka.logs import KafkaLogSet

        folder.mkdir(exist_ok=True)
        self.stream = KafkaLogSet(Cluster(servers, prefix, options=CLIENT_OPTIONS), folder)
        self._writers = {}

    def _append(self, producer: str, rows: Any, body: bytes, receipt: Receipt) -> None:
        if producer not in self._writers:
            self._writers[producer] = open_writer(self.stream.raw(producer), partition=producer)
        self._writers[producer].append([Block("body", rows, body, msgspec.json.encode(receipt))])

    def router(self) -> Router:
        self.stream._listed_producers.clear()  # rather than wait until it looks again
        return Router(self.stream, PLAN, clock=SimulatedClock(NOW))

    def blocks(self) -> Any:
        with open_reader(self.stream.routed) as reader:
            return reader.read(reader.start(), bytes_max=1 << 40)

    def close(self) -> None:
        for writer in self._writers.values():
            writer.close()


def events_without_position(stream: Stream) -> list[dict[str, Any]]:
    return [{name: value for name, value in row.items() if name != "p"} for row in stream.events()]
