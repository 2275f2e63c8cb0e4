"""Topics keep what the newest backup lacks, so that a restored project can go on in them.

A backup holds no topic. Servers and the lake role delete rows of topics behind the positions in
`backed-up.json` beside `positions.json`, see `stream.released.read_prunable_positions`.
"""

from collections.abc import Mapping

from tailorbird.backup.snapshot import LakeSnapshot, SnapshotMovedError
from tailorbird.config import Project
from tailorbird.errors import TailorbirdError
from tailorbird.lake.files import durable
from tailorbird.stream import open_reader
from tailorbird.stream.released import (
    BACKUP_POSITIONS_FILE,
    POSITIONS_FILE,
    decode_with_checksum,
    encode_with_checksum,
)


def retain_topic_rows(
    project: Project, lake_snapshot: LakeSnapshot, taken_at: int, *, is_complete: bool
) -> None:
    """Let topics keep rows from the positions of a backup on.

    Args:
        is_complete: whether the backup exists; one that is under way leaves the hold of an earlier
            backup in place.

    Raises:
        SnapshotMovedError: rows after these positions were deleted meanwhile.
    """
    file = project.paths.lake / BACKUP_POSITIONS_FILE
    if not project.settings.stream.url or POSITIONS_FILE not in lake_snapshot.replaced_files:
        return
    if is_complete or not file.exists():
        durable.replace(
            file,
            encode_with_checksum(
                {
                    **decode_with_checksum(lake_snapshot.replaced_files[POSITIONS_FILE]),
                    "backed_up_at": taken_at,
                }
            ),
        )
    if not is_complete and (deleted_counts := deleted_rows(project, lake_snapshot.archive_ends)):
        raise SnapshotMovedError(f"topics were pruned: {', '.join(deleted_counts)}")


def deleted_rows(project: Project, archive_ends: Mapping[str, int]) -> dict[str, int] | None:
    """Return how many rows each topic lacks between the archive's end and its own beginning.

    Returns:
        The rows by log, or None if the brokers do not answer.
    """
    deleted_counts: dict[str, int] = {}
    try:
        for address in project.stream.raw_logs().values():
            with open_reader(address) as reader:
                deleted_counts[address.stem] = reader.start() - archive_ends.get(address.stem, 0)
    except TailorbirdError:
        return None
    return {log: count for log, count in deleted_counts.items() if count > 0}
