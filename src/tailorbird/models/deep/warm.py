"""What a later training begins with: the weights of the last one, and which ids its embeddings'
rows were of.

Between two trainings ids come and go. A row whose id is still frequent moves to its new place; a
new id begins as the unknown, whose row was learned from rare ones; the row of an id that is gone is
dropped. Scales and cut points of numbers stay, as layers were learned behind them, and so do the
widths of embeddings, whatever the sizes are by now.

    FOLDER/SERIES/TRAINED_UNTIL.npz    w/NAME: weights;  k/PLACE: ids (u64) of the codes of a column;  meta: JSON

A series is of nets of one shape: those of another architecture, of other columns or heads are no
beginning for each other, and one must not take the place of the other.
"""

import os
import shutil
import zipfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from hashlib import blake2b
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt

from tailorbird.errors import DamageError, UsageError
from tailorbird.models.deep.layout import Layout
from tailorbird.models.deep.parameters import DeepParameters

Keys = npt.NDArray[np.uint64]
Arrays = dict[str, npt.NDArray]

KEPT = 3
SERIES_KEPT = (
    8  # of a slot: what was tried with other parameters months ago is no beginning any more
)
SHAPES = (
    "hidden",
    "numeric",
    "bins",
    "width",
    "embedding_max",
    "crosses",
    "rank",
    "attention",
    "experts",
    "expert_hidden",
    "tower",
)
RESERVED = 2  # codes before the first id: missing and unknown
UNKNOWN = 1


class Meta(msgspec.Struct, frozen=True):
    """What a state is of: `Warm` without its ids and weights."""

    architecture: str
    parameters: DeepParameters
    heads: tuple[str, ...]
    layout: Layout
    trained_until: int


@dataclass(frozen=True)
class Warm:
    """The state of a training.

    Attributes:
        keys: place of a column that holds codes (of the newest items: of the candidate) → ids of
            its codes, from 2 on.
        trained_until: microseconds: nothing later was learned from.
    """

    architecture: str
    parameters: DeepParameters
    heads: tuple[str, ...]
    layout: Layout
    keys: Mapping[int, Keys]
    weights: Arrays
    trained_until: int


@dataclass(frozen=True)
class Begin:
    """Weights to begin with.

    Attributes:
        layout: of the new rows, with the old widths of embeddings.
        new, gone: ids that got a row, and that lost theirs.
    """

    layout: Layout
    weights: Arrays
    new: int
    gone: int


def series_of(
    architecture: str, parameters: DeepParameters, layout: Layout, heads: tuple[str, ...]
) -> str:
    """The name of the series that holds states of nets of this shape; how long they are trained,
    and how, does not matter.
    """
    shape = [getattr(parameters, name) for name in SHAPES]
    told = msgspec.json.encode([architecture, shape, layout.columns, layout.numbers, heads])
    return f"{architecture}-{blake2b(told, digest_size=8).hexdigest()}"


def clear_series(folder: Path, *, keep: int = SERIES_KEPT) -> None:
    """Keep only the series of a folder whose newest states are the newest, and no state that lies
    there by itself, from before series.
    """
    newest = {
        each: max((path.stem for path in each.glob("*.npz")), default="")
        for each in folder.iterdir()
        if each.is_dir()
    }
    for old in sorted(newest, key=lambda each: (newest[each], each.name))[:-keep]:
        shutil.rmtree(old)
    for path in folder.glob("*.npz"):
        path.unlink()


def save_warm(folder: Path, warm: Warm, *, keep: int = KEPT) -> Path:
    """Keep a state, and only the newest `keep` of a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    meta = Meta(warm.architecture, warm.parameters, warm.heads, warm.layout, warm.trained_until)
    arrays: Arrays = {f"w/{name}": value for name, value in warm.weights.items()}
    arrays |= {f"k/{place}": np.asarray(keys, np.uint64) for place, keys in warm.keys.items()}
    arrays["meta"] = np.frombuffer(msgspec.json.encode(meta), np.uint8)
    path = folder / f"{warm.trained_until:020}.npz"
    part = path.with_suffix(".part")
    with part.open("wb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]
        file.flush()
        os.fsync(file.fileno())
    part.rename(path)
    for old in sorted(folder.glob("*.npz"))[:-keep]:
        old.unlink()
    return path


def load_warm(folder: Path, before: int | None = None) -> Warm | None:
    """The newest state of a folder, or None.

    Args:
        before: microseconds: only states that learned from nothing at or after it. A training that
            was killed once its own state was kept, or is made again, so begins with what it began
            with.

    Raises:
        DamageError: it cannot be read.
    """
    paths = sorted(
        path for path in folder.glob("*.npz") if before is None or path.stem < f"{before:020}"
    )
    if not paths:
        return None
    try:
        with np.load(paths[-1], allow_pickle=False) as held:
            arrays = dict(held)
        meta = msgspec.json.decode(arrays.pop("meta").tobytes(), type=Meta)
    except (OSError, ValueError, KeyError, zipfile.BadZipFile, msgspec.DecodeError) as error:
        raise DamageError(
            f"cannot be read: {error}",
            where=str(paths[-1]),
            fix="remove it, and train without --incremental",
        ) from error
    keys = {int(name[2:]): value for name, value in arrays.items() if name.startswith("k/")}
    weights = {name[2:]: value for name, value in arrays.items() if name.startswith("w/")}
    return Warm(
        meta.architecture,
        meta.parameters,
        meta.heads,
        meta.layout,
        keys,
        weights,
        meta.trained_until,
    )


def newest_meta(folder: Path) -> Meta | None:
    """What the newest state of a folder is of, its weights unread; None where there is none that
    can be read.
    """
    for path in sorted(folder.glob("*.npz"))[-1:]:
        with (
            suppress(OSError, ValueError, KeyError, zipfile.BadZipFile, msgspec.DecodeError),
            np.load(path, allow_pickle=False) as held,
        ):
            return msgspec.json.decode(held["meta"].tobytes(), type=Meta)
    return None


def begin(warm: Warm, layout: Layout, keys: Mapping[int, Keys], heads: tuple[str, ...]) -> Begin:
    """The old weights as a net over the new rows can take them.

    Raises:
        UsageError: the columns or the heads have changed, so that the old layers mean something
            else.
    """
    if (
        warm.layout.columns != layout.columns
        or warm.layout.numbers != layout.numbers
        or warm.heads != heads
    ):
        what = "heads" if warm.heads != heads else "columns"
        raise UsageError(
            f"the {what} have changed since the last training", fix="train without --incremental"
        )
    tables = {place: f"codes.{number}.weight" for number, place in enumerate(layout.codes)}
    sizes = dict(layout.codes)
    if layout.history is not None:
        tables[layout.history.candidate], sizes[layout.history.candidate] = (
            "items.weight",
            layout.history.size,
        )
    weights, new, gone = dict(warm.weights), 0, 0
    for place, table in tables.items():
        names = [name for name in weights if name.endswith(f".fields.{table}")]
        old, now = (
            warm.keys.get(place, np.zeros(0, np.uint64)),
            keys.get(place, np.zeros(0, np.uint64)),
        )
        for name in names:
            weights[name] = _moved(weights[name], old, now, sizes[place], name)
        new += int(np.count_nonzero(~np.isin(now, old)))
        gone += int(np.count_nonzero(~np.isin(old, now)))
    nominal = {**_sizes(warm.layout), **dict(warm.layout.nominal)}
    return Begin(replace(layout, nominal=nominal), weights, new, gone)


def _moved(table: npt.NDArray, old: Keys, now: Keys, size: int, name: str) -> npt.NDArray:
    """A table of `size` rows: missing, unknown, the ids, then buckets that ids share, which stay as
    they are.
    """
    shared = len(table) - RESERVED - len(old)
    if shared != size - RESERVED - len(now):
        raise UsageError(
            f"{name} has other buckets than at the last training", fix="train without --incremental"
        )
    order = np.argsort(old)
    at = np.minimum(np.searchsorted(old[order], now), max(len(old) - 1, 0))
    known = old[order][at] == now if len(old) else np.zeros(len(now), bool)
    rows = np.where(known, RESERVED + (order[at] if len(old) else 0), UNKNOWN)
    return np.concatenate(
        [table[:RESERVED], table[rows], table[len(table) - shared :] if shared else table[:0]]
    )


def _sizes(layout: Layout) -> dict[int, int]:
    """What the widths of embeddings went by."""
    history = {layout.history.candidate: layout.history.size} if layout.history else {}
    return {**dict(layout.codes), **history, **{bag.places[0]: bag.size for bag in layout.bags}}
