"""Progress of a worker and size of its state, in a small file beside the state.

The file serves `/metrics` and comparisons. It is written atomically, every few seconds and at once
when a cap dropped entities. Its counters survive a restart and are deleted with the state.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec

from tailorbird.atomic_write import atomic_write
from tailorbird.features.state.key_partition import all_parts

PROGRESS_FILE = "worker.json"
SHUFFLE_FILE = "shuffle.json"
SCORE_FILE = "score.json"


class KindProgress(msgspec.Struct, frozen=True, kw_only=True):
    """One kind of entity; see `features.state.eviction.EntityCounts`."""

    entities: int = 0
    state_bytes: int = 0
    expired: int = 0
    dropped: int = 0
    dropped_newest: int = 0


class CopyLag(msgspec.Struct, frozen=True, kw_only=True):
    """The lag of the copies behind the state; see `store.published.PublishStatus`."""

    at: int = 0
    commits: int = 0
    records: int = 0
    failing: bool = False


class WorkerProgress(msgspec.Struct, frozen=True, kw_only=True):
    """The progress of one worker.

    Attributes:
        at: when they were measured, microseconds.
        rows: rows of the routed log applied since the state was created.
        behind: rows of the routed log not applied yet.
        offset: the next row of the routed log to read.
        capped: values clipped at their declared maximum, by the summed expression.
        unreadable: values that are no number or text as declared, by field.
        converted: truths and lists that were used as numbers, by field.
        kinds: by name of the entity.
        copies: None where nothing is copied.
        part: the part of the entities, where several workers share them, such as "part-0-of-3".
    """

    schema_hash: str
    at: int = 0
    rows: int = 0
    behind: int = 0
    offset: int = 0
    capped: dict[str, int] = {}
    unreadable: dict[str, int] = {}
    converted: dict[str, int] = {}
    kinds: dict[str, KindProgress] = {}
    copies: CopyLag | None = None
    part: str = ""

    @property
    def dropped(self) -> dict[str, int]:
        """The kinds with entities dropped by a cap, and the newest event time of these."""
        return {name: kind.dropped_newest for name, kind in self.kinds.items() if kind.dropped}


_decoder = msgspec.json.Decoder(WorkerProgress)


def read_worker_progress(folder: Path) -> WorkerProgress | None:
    """Return the worker's progress in `folder`, or None if missing or unreadable."""
    return _read_progress(folder / PROGRESS_FILE)


def _read_progress(path: Path) -> WorkerProgress | None:
    try:
        return _decoder.decode(path.read_bytes())
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError):
        return None


def read_all_progress(state: Path, workers: int = 1) -> list[WorkerProgress]:
    """Return the progress of the workers of all states in a folder, sorted by schema."""
    paths = [
        path
        for part in all_parts(workers)
        for path in part.folder(state).glob(f"*/{PROGRESS_FILE}")
    ]
    progress = [
        read_worker_progress(path.parent)
        for path in sorted(paths, key=lambda path: (path.parent.name, path))
    ]
    return [worker_progress for worker_progress in progress if worker_progress is not None]


def read_schemas_progress(state: Path, workers: int = 1) -> list[WorkerProgress]:
    """Return the merged progress of each schema; see `merge_progress`."""
    progress_by_schema: dict[str, list[WorkerProgress]] = {}
    for worker_progress in read_all_progress(state, workers):
        progress_by_schema.setdefault(worker_progress.schema_hash, []).append(worker_progress)
    return [merge_progress(progress) for progress in progress_by_schema.values()]


def read_schema_progress(state: Path, schema: str, workers: int = 1) -> WorkerProgress | None:
    """Return the merged progress of one schema's workers, or None if there are none."""
    progress = [read_worker_progress(part.folder(state) / schema) for part in all_parts(workers)]
    available_progress = [
        worker_progress for worker_progress in progress if worker_progress is not None
    ]
    return merge_progress(available_progress) if available_progress else None


def merge_progress(progress: Sequence[WorkerProgress]) -> WorkerProgress:
    """Merge the progress of workers that share a schema's entities.

    Sizes are added, and positions are those of the slowest worker. An event that concerns several
    parts is counted by the worker of each.
    """
    if len(progress) == 1:
        return progress[0]
    kinds = {
        name: KindProgress(
            **{
                field: sum(
                    getattr(worker_progress.kinds[name], field)
                    for worker_progress in progress
                    if name in worker_progress.kinds
                )
                for field in _SUMMED_FIELDS
            },
            dropped_newest=max(
                worker_progress.kinds[name].dropped_newest
                for worker_progress in progress
                if name in worker_progress.kinds
            ),
        )
        for name in dict.fromkeys(
            name for worker_progress in progress for name in worker_progress.kinds
        )
    }
    return WorkerProgress(
        schema_hash=progress[0].schema_hash,
        at=min(worker_progress.at for worker_progress in progress),
        rows=sum(worker_progress.rows for worker_progress in progress),
        behind=max(worker_progress.behind for worker_progress in progress),
        offset=min(worker_progress.offset for worker_progress in progress),
        capped=_sum_counts(worker_progress.capped for worker_progress in progress),
        unreadable=_sum_counts(worker_progress.unreadable for worker_progress in progress),
        converted=_sum_counts(worker_progress.converted for worker_progress in progress),
        kinds=kinds,
        copies=_merge_copies(
            [
                worker_progress.copies
                for worker_progress in progress
                if worker_progress.copies is not None
            ]
        ),
    )


def _merge_copies(copies: Sequence[CopyLag]) -> CopyLag | None:
    if not copies:
        return None
    return CopyLag(
        at=min(copy.at for copy in copies),
        commits=max(copy.commits for copy in copies),
        records=sum(copy.records for copy in copies),
        failing=any(copy.failing for copy in copies),
    )


def _sum_counts(counts: Iterable[dict[str, int]]) -> dict[str, int]:
    totals: Counter[str] = Counter()
    for count in counts:
        totals.update(count)
    return dict(totals)


_SUMMED_FIELDS = ("entities", "state_bytes", "expired", "dropped")


def routed_log_offsets(state: Path, workers: int = 1) -> dict[str, int]:
    """Return the last reported read offset in the routed log of each worker and shuffle, by display
    name.
    """
    offsets = {
        " ".join(filter(None, ("worker", progress.schema_hash[:8], progress.part))): progress.offset
        for progress in read_all_progress(state, workers)
    }
    if workers > 1:
        shuffles = [_read_progress(path) for path in sorted(state.glob(f"*/{SHUFFLE_FILE}"))]
        offsets |= {
            f"shuffle {shuffle.schema_hash[:8]}": shuffle.offset
            for shuffle in shuffles
            if shuffle is not None
        }
    score_offset = read_score_offset(state)
    return offsets if score_offset is None else offsets | {"score": score_offset}


def write_score_progress(state: Path, progress: WorkerProgress) -> None:
    """Write the progress of the score role, atomically, beside the states."""
    atomic_write(state / SCORE_FILE, msgspec.json.encode(progress))


def read_score_offset(state: Path) -> int | None:
    """Return the last reported read offset of the score role in the routed log, or None."""
    progress = _read_progress(state / SCORE_FILE)
    return None if progress is None else progress.offset


def write_worker_progress(folder: Path, progress: WorkerProgress) -> None:
    """Write the progress atomically."""
    atomic_write(folder / PROGRESS_FILE, msgspec.json.encode(progress))


def write_shuffle_progress(state: Path, progress: WorkerProgress) -> None:
    """Write the progress of a schema's shuffle, atomically, beside its declarations."""
    atomic_write(state / progress.schema_hash / SHUFFLE_FILE, msgspec.json.encode(progress))
