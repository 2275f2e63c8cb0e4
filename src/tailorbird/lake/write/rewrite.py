"""Rewrite rows of tables and bodies of the archive, and delete the history. Only for an erasure.

The caller is the lake's writer (`lake.write.role`). A change that fails part-way stops the role, as
a failed step does.
"""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass

import pyarrow as pa

from tailorbird import faults
from tailorbird.lake.delta.table import DurableTable
from tailorbird.lake.files.archive import Archive, ArchiveFile
from tailorbird.stream import Block, StoredBlock

Progress = Callable[[int], None]


@dataclass(frozen=True)
class LakeRewriter:
    """The rewriting operations of a lake role.

    Attributes:
        stop_on_error: a context in which an error stops the role.
        renew_lease: extend the lock of the lake during long operations.
        publish_positions: store the positions that were written.
    """

    tables: Mapping[str, DurableTable]
    archive: Archive
    stop_on_error: Callable[[], AbstractContextManager[None]]
    renew_lease: Callable[[], None]
    publish_positions: Callable[[], None]

    def rewrite_rows(
        self,
        changes: Mapping[str, Callable[[pa.Table], pa.Table | None]],
        progress: Progress = lambda file_count: None,
    ) -> dict[str, int]:
        """Replace rows of tables, and return the number of files rewritten by table."""
        with self.stop_on_error():
            counts = {
                name: self.tables[name].rewrite(change, self._with_lease_renewal(progress))
                for name, change in changes.items()
            }
            self.publish_positions()
            return counts

    def rewrite_bodies(
        self,
        change: Callable[[ArchiveFile, StoredBlock], Block | None],
        progress: Progress = lambda file_count: None,
    ) -> tuple[int, str, str]:
        """Replace bodies of the archive.

        Returns:
            The number of files rewritten, and the manifest's checksum before and after.
        """
        with self.stop_on_error():
            checksum_before = self.archive.checksum
            return (
                self.archive.rewrite(change, self._with_lease_renewal(progress)),
                checksum_before,
                self.archive.checksum,
            )

    def delete_history(self) -> None:
        """Delete the files that only old versions need, of every table.

        Old versions with rewritten files cannot be read after this.
        """
        with self.stop_on_error():
            for table in self.tables.values():
                self.renew_lease()
                table.delete_history()
                faults.fire_if_armed("erase.past_of_a_table")
            self.publish_positions()

    def _with_lease_renewal(self, progress: Progress) -> Progress:
        def renew_and_report(file_count: int) -> None:
            self.renew_lease()
            progress(file_count)

        return renew_and_report
