"""Recorders and broken parts of a pipeline."""

from typing import Any

import msgspec

from tailorbird.errors import NotReadyError
from tailorbird.events import Event


class ResponseRecorder:
    """Keeps what would be logged, up to `room` responses."""

    def __init__(self, room: int = 1_000_000) -> None:
        self.events: list[Event] = []
        self.records = []
        self.room = room

    def record_response(self, event_body: Any, record: Any) -> bool:
        if len(self.records) >= self.room:
            return False
        self.events.append(msgspec.json.decode(event_body, type=Event))
        self.records.append(record)
        return True


class BrokenReader:
    """A store that is gone."""

    def read(self, request: Any, items: Any, item_keys: Any = None) -> Any:
        raise NotReadyError("there is no state")

    def person(self, request: Any) -> Any:
        raise NotReadyError("there is no state")


def item_numbers(answer: Any) -> list[int]:
    return [int(item.item_id[1:]) for item in answer.items]
