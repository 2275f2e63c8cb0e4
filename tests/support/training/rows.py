"""A lake with given rows."""

from typing import Any

import pyarrow as pa


class Lake:
    """Events alone."""

    path = "lake"

    def __init__(self, events: pa.Table) -> None:
        self._events = events

    def table(self, name: str, columns: str, where: Any) -> pa.Table:
        return self._events.select(columns)

    def exists(self, table: str) -> bool:
        return False
