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

FILE = "worker.json"
SHUFFLE_FILE = "shuffle.json"
SCORE_FILE = "score.json"


class Kind(msgspec.Struct, frozen=True, kw_only=True):
    """One kind of entity; see `features.state.eviction.EntityCounts`."""

    entities: int = 0
    state_bytes: int = 0
    expired: int = 0
    dropped: int = 0
    dropped_newest: int = 0


class CopiesFigures(msgspec.Struct, frozen=True, kw_only=True):
    """The lag of the copies behind the state; see `store.published.PublishStatus`."""

    at: int = 0
    commits: int = 0
    records: int = 0
    failing: bool = False


class Figures(msgspec.Struct, frozen=True, kw_only=True):
    """The figures of one worker.

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
    kinds: dict[str, Kind] = {}
    copies: CopiesFigures | None = None
    part: str = ""

    @property
    def dropped(self) -> dict[str, int]:
        """The kinds with entities dropped by a cap, and the newest event time of these."""
        return {name: kind.dropped_newest for name, kind in self.kinds.items() if kind.dropped}


_decoder = msgspec.json.Decoder(Figures)


def read_figures(folder: Path) -> Figures | None:
    """Return the worker's figures in `folder`, or None if missing or unreadable."""
    return _read(folder / FILE)


def _read(path: Path) -> Figures | None:
    try:
        return _decoder.decode(path.read_bytes())
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError):
        return None


def read_all_figures(state: Path, workers: int = 1) -> list[Figures]:
    """Return the figures of the workers of all states in a folder, sorted by schema."""
    paths = [path for part in all_parts(workers) for path in part.folder(state).glob(f"*/{FILE}")]
    figures = [
        read_figures(path.parent)
        for path in sorted(paths, key=lambda path: (path.parent.name, path))
    ]
    return [figure for figure in figures if figure is not None]


def figures_by_schema(state: Path, workers: int = 1) -> list[Figures]:
    """Return the merged figures of each schema; see `merge_figures`."""
    by_schema: dict[str, list[Figures]] = {}
    for all_figure in read_all_figures(state, workers):
        by_schema.setdefault(all_figure.schema_hash, []).append(all_figure)
    return [merge_figures(figures) for figures in by_schema.values()]


def read_schema_figures(state: Path, schema: str, workers: int = 1) -> Figures | None:
    """Return the merged figures of one schema's workers, or None if there are none."""
    figures = [read_figures(part.folder(state) / schema) for part in all_parts(workers)]
    available = [figure for figure in figures if figure is not None]
    return merge_figures(available) if available else None


def merge_figures(figures: Sequence[Figures]) -> Figures:
    """Merge the figures of workers that share a schema's entities.

    Sizes are added, and positions are those of the slowest worker. An event that concerns several
    parts is counted by the worker of each.
    """
    if len(figures) == 1:
        return figures[0]
    kinds = {
        name: Kind(
            **{
                field: sum(
                    getattr(figure.kinds[name], field) for figure in figures if name in figure.kinds
                )
                for field in _SUMMED_FIELDS
            },
            dropped_newest=max(
                figure.kinds[name].dropped_newest for figure in figures if name in figure.kinds
            ),
        )
        for name in dict.fromkeys(name for figure in figures for name in figure.kinds)
    }
    return Figures(
        schema_hash=figures[0].schema_hash,
        at=min(figure.at for figure in figures),
        rows=sum(figure.rows for figure in figures),
        behind=max(figure.behind for figure in figures),
        offset=min(figure.offset for figure in figures),
        capped=_sum_counts(figure.capped for figure in figures),
        unreadable=_sum_counts(figure.unreadable for figure in figures),
        converted=_sum_counts(figure.converted for figure in figures),
        kinds=kinds,
        copies=_merge_copies([figure.copies for figure in figures if figure.copies is not None]),
    )


def _merge_copies(copies: Sequence[CopiesFigures]) -> CopiesFigures | None:
    if not copies:
        return None
    return CopiesFigures(
        at=min(copy.at for copy in copies),
        commits=max(copy.commits for copy in copies),
        records=sum(copy.records for copy in copies),
        failing=any(copy.failing for copy in copies),
    )


def _sum_counts(counts: Iterable[dict[str, int]]) -> dict[str, int]:
    total: Counter[str] = Counter()
    for count in counts:
        total.update(count)
    return dict(total)


_SUMMED_FIELDS = ("entities", "state_bytes", "expired", "dropped")


def routed_log_offsets(state: Path, workers: int = 1) -> dict[str, int]:
    """Return the last reported read offset in the routed log of each worker and shuffle, by display
    name.
    """
    offsets = {
        " ".join(filter(None, ("worker", figures.schema_hash[:8], figures.part))): figures.offset
        for figures in read_all_figures(state, workers)
    }
    if workers > 1:
        shuffles = [_read(path) for path in sorted(state.glob(f"*/{SHUFFLE_FILE}"))]
        offsets |= {
            f"shuffle {shuffle.schema_hash[:8]}": shuffle.offset
            for shuffle in shuffles
            if shuffle is not None
        }
    score_offset = read_score_offset(state)
    return offsets if score_offset is None else offsets | {"score": score_offset}


def write_score_figures(state: Path, figures: Figures) -> None:
    """Write the progress of the score role, atomically, beside the states."""
    atomic_write(state / SCORE_FILE, msgspec.json.encode(figures))


def read_score_offset(state: Path) -> int | None:
    """Return the last reported read offset of the score role in the routed log, or None."""
    figures = _read(state / SCORE_FILE)
    return None if figures is None else figures.offset


def write_figures(folder: Path, figures: Figures) -> None:
    """Write the figures atomically."""
    atomic_write(folder / FILE, msgspec.json.encode(figures))


def write_shuffle_figures(state: Path, figures: Figures) -> None:
    """Write the progress of a schema's shuffle, atomically, beside its declarations."""
    atomic_write(state / figures.schema_hash / SHUFFLE_FILE, msgspec.json.encode(figures))
