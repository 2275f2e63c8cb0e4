"""Writing anew what the lake has: other rows in tables, other bodies in the archive, no past. Only
an erasure asks for it.

Whoever calls holds the lake as its writer (`lake.role`). A change that fails half-way stops the
role, as a failed step does.
"""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass

import pyarrow as pa

from tailorbird import faults
from tailorbird.lake.archive import Archive, Archived
from tailorbird.lake.delta import DurableTable
from tailorbird.stream import Block, Stored

Told = Callable[[int], None]


@dataclass(frozen=True)
class Rewriting:
    """What `LakeRole.rewriting` gives.

    Attributes:
        whole: within it, what fails leaves the role stopped.
        renew: keeps the lock of the lake; what takes long must not outlast it.
        publish: says what was written.
    """

    tables: Mapping[str, DurableTable]
    archive: Archive
    whole: Callable[[], AbstractContextManager[None]]
    renew: Callable[[], None]
    publish: Callable[[], None]

    def rows(
        self,
        changes: Mapping[str, Callable[[pa.Table], pa.Table | None]],
        told: Told = lambda done: None,
    ) -> dict[str, int]:
        """Put other rows in the place of those that `changes` says, table by table; how many files
        were written anew.
        """
        with self.whole():
            found = {
                name: self.tables[name].rewrite(change, self._holding_on(told))
                for name, change in changes.items()
            }
            self.publish()
            return found

    def bodies(
        self, change: Callable[[Archived, Stored], Block | None], told: Told = lambda done: None
    ) -> tuple[int, str, str]:
        """Put other bodies in the place of those that `change` says; how many files, and the
        manifest's checksum before and after.
        """
        with self.whole():
            before = self.archive.chain
            return self.archive.rewrite(change, self._holding_on(told)), before, self.archive.chain

    def forget_past(self) -> None:
        """Delete what only the past needs, of every table, now: no old version is read after this
        whose files were written anew.
        """
        with self.whole():
            for table in self.tables.values():
                self.renew()
                table.forget_past()
                faults.at("erase.past_of_a_table")
            self.publish()

    def _holding_on(self, told: Told) -> Told:
        def beat(done: int) -> None:
            self.renew()
            told(done)

        return beat
