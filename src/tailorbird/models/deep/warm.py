"""State for warm starts: the weights of the last training, and the ids of its embedding rows.

Between two trainings, ids come and go. The row of an id that is still frequent moves to its new
position; a new id starts as the unknown, whose row was learned from rare ids; the row of an id that
is gone is dropped. Scales and cut points of numbers stay, because later layers depend on them, and
so do the widths of embeddings, whatever the sizes are now.

    FOLDER/SERIES/TRAINED_UNTIL.npz    w/NAME: weights; k/INDEX: ids (u64) of the codes of a
                                       column; meta: JSON

A series contains nets of one shape: other architectures, columns or heads cannot start from each
other, and must not replace each other.
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

STATES_MAX = 3
SERIES_MAX = 8  # per slot; old experiments with other parameters are removed
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
    """Metadata of a state: `WarmState` without its ids and weights."""

    architecture: str
    parameters: DeepParameters
    heads: tuple[str, ...]
    layout: Layout
    trained_until: int


@dataclass(frozen=True)
class WarmState:
    """The saved state of a training.

    Attributes:
        keys: position of a code column (of the newest items: of the candidate) → ids of its
            codes, from 2 on.
        trained_until: end of the training data, microseconds.
    """

    architecture: str
    parameters: DeepParameters
    heads: tuple[str, ...]
    layout: Layout
    keys: Mapping[int, Keys]
    weights: Arrays
    trained_until: int


@dataclass(frozen=True)
class WarmStart:
    """Weights to start from.

    Attributes:
        layout: layout of the new rows, with the old embedding widths.
        added, dropped: number of ids that gained and lost a row.
    """

    layout: Layout
    weights: Arrays
    added: int
    dropped: int


def series_name(
    architecture: str, parameters: DeepParameters, layout: Layout, heads: tuple[str, ...]
) -> str:
    """Return the name of the series of nets of this shape.

    How they are trained does not matter.
    """
    shape = [getattr(parameters, name) for name in SHAPES]
    shape_key = msgspec.json.encode([architecture, shape, layout.columns, layout.numbers, heads])
    return f"{architecture}-{blake2b(shape_key, digest_size=8).hexdigest()}"


def clear_series(folder: Path, *, keep: int = SERIES_MAX) -> None:
    """Keep the most recently trained series of a folder, and remove states outside any."""
    newest_by_folder = {
        entry: max((path.stem for path in entry.glob("*.npz")), default="")
        for entry in folder.iterdir()
        if entry.is_dir()
    }
    for old in sorted(newest_by_folder, key=lambda entry: (newest_by_folder[entry], entry.name))[
        :-keep
    ]:
        shutil.rmtree(old)
    for path in folder.glob("*.npz"):
        path.unlink()


def save_warm(folder: Path, warm: WarmState, *, keep: int = STATES_MAX) -> Path:
    """Save a state, and keep the newest `keep` of the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    meta = Meta(warm.architecture, warm.parameters, warm.heads, warm.layout, warm.trained_until)
    arrays: Arrays = {f"w/{name}": value for name, value in warm.weights.items()}
    arrays |= {f"k/{index}": np.asarray(keys, np.uint64) for index, keys in warm.keys.items()}
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


def load_warm(folder: Path, before: int | None = None) -> WarmState | None:
    """Return the newest state of a folder, or None.

    Args:
        before: only states trained on data before this time, microseconds. A training that is
            repeated, or was killed after saving, then starts from the same state.

    Raises:
        DamageError: the state cannot be read.
    """
    paths = sorted(
        path for path in folder.glob("*.npz") if before is None or path.stem < f"{before:020}"
    )
    if not paths:
        return None
    try:
        with np.load(paths[-1], allow_pickle=False) as archive:
            arrays = dict(archive)
        meta = msgspec.json.decode(arrays.pop("meta").tobytes(), type=Meta)
    except (OSError, ValueError, KeyError, zipfile.BadZipFile, msgspec.DecodeError) as error:
        raise DamageError(
            f"cannot be read: {error}",
            where=str(paths[-1]),
            fix="remove it, and train without --incremental",
        ) from error
    keys = {int(name[2:]): value for name, value in arrays.items() if name.startswith("k/")}
    weights = {name[2:]: value for name, value in arrays.items() if name.startswith("w/")}
    return WarmState(
        meta.architecture,
        meta.parameters,
        meta.heads,
        meta.layout,
        keys,
        weights,
        meta.trained_until,
    )


def read_newest_meta(folder: Path) -> Meta | None:
    """Return metadata of the newest state of a folder, or None if none is readable.

    Weights are not read.
    """
    for path in sorted(folder.glob("*.npz"))[-1:]:
        with (
            suppress(OSError, ValueError, KeyError, zipfile.BadZipFile, msgspec.DecodeError),
            np.load(path, allow_pickle=False) as archive,
        ):
            return msgspec.json.decode(archive["meta"].tobytes(), type=Meta)
    return None


def warm_start(
    warm: WarmState, layout: Layout, keys: Mapping[int, Keys], heads: tuple[str, ...]
) -> WarmStart:
    """Return the old weights, remapped for a net over the new rows.

    Raises:
        UsageError: the columns or the heads have changed.
    """
    if (
        warm.layout.columns != layout.columns
        or warm.layout.numbers != layout.numbers
        or warm.heads != heads
    ):
        changed_part = "heads" if warm.heads != heads else "columns"
        raise UsageError(
            f"the {changed_part} have changed since the last training",
            fix="train without --incremental",
        )
    tables = {index: f"codes.{number}.weight" for number, index in enumerate(layout.codes)}
    sizes = dict(layout.codes)
    if layout.history is not None:
        tables[layout.history.candidate], sizes[layout.history.candidate] = (
            "items.weight",
            layout.history.size,
        )
    weights, added, dropped = dict(warm.weights), 0, 0
    for index, table in tables.items():
        names = [name for name in weights if name.endswith(f".fields.{table}")]
        old, now = (
            warm.keys.get(index, np.zeros(0, np.uint64)),
            keys.get(index, np.zeros(0, np.uint64)),
        )
        for name in names:
            weights[name] = _remap_rows(weights[name], old, now, sizes[index], name)
        added += int(np.count_nonzero(~np.isin(now, old)))
        dropped += int(np.count_nonzero(~np.isin(old, now)))
    nominal = {**_embedding_sizes(warm.layout), **dict(warm.layout.nominal)}
    return WarmStart(replace(layout, nominal=nominal), weights, added, dropped)


def _remap_rows(table: npt.NDArray, old: Keys, now: Keys, size: int, name: str) -> npt.NDArray:
    """Return a table of `size` rows with the new ids' rows.

    Rows are missing, unknown, ids, and buckets that ids share, which stay as they are.
    """
    hashed_rows = len(table) - RESERVED - len(old)
    if hashed_rows != size - RESERVED - len(now):
        raise UsageError(
            f"{name} has other buckets than at the last training", fix="train without --incremental"
        )
    order = np.argsort(old)
    position = np.minimum(np.searchsorted(old[order], now), max(len(old) - 1, 0))
    is_retained = old[order][position] == now if len(old) else np.zeros(len(now), bool)
    rows = np.where(is_retained, RESERVED + (order[position] if len(old) else 0), UNKNOWN)
    return np.concatenate(
        [
            table[:RESERVED],
            table[rows],
            table[len(table) - hashed_rows :] if hashed_rows else table[:0],
        ]
    )


def _embedding_sizes(layout: Layout) -> dict[int, int]:
    """Return the sizes that determined the embedding widths."""
    history = {layout.history.candidate: layout.history.size} if layout.history else {}
    return {**dict(layout.codes), **history, **{bag.places[0]: bag.size for bag in layout.bags}}
