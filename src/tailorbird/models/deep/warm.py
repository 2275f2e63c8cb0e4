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
SHAPE_PARAMETERS = (
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
RESERVED_CODES = 2  # codes before the first id: missing and unknown
UNKNOWN_CODE = 1


class StateMetadata(msgspec.Struct, frozen=True):
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
    shape_values = [getattr(parameters, name) for name in SHAPE_PARAMETERS]
    shape_key = msgspec.json.encode(
        [architecture, shape_values, layout.columns, layout.numeric_indexes, heads]
    )
    return f"{architecture}-{blake2b(shape_key, digest_size=8).hexdigest()}"


def remove_old_series(folder: Path, *, series_max: int = SERIES_MAX) -> None:
    """Keep the most recently trained series of a folder, and remove states outside any."""
    newest_by_folder = {
        series_folder: max((path.stem for path in series_folder.glob("*.npz")), default="")
        for series_folder in folder.iterdir()
        if series_folder.is_dir()
    }
    for old_folder in sorted(
        newest_by_folder,
        key=lambda series_folder: (newest_by_folder[series_folder], series_folder.name),
    )[:-series_max]:
        shutil.rmtree(old_folder)
    for path in folder.glob("*.npz"):
        path.unlink()


def save_warm_state(folder: Path, state: WarmState, *, states_max: int = STATES_MAX) -> Path:
    """Save a state, and keep the newest `states_max` of the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    metadata = StateMetadata(
        state.architecture, state.parameters, state.heads, state.layout, state.trained_until
    )
    arrays: Arrays = {f"w/{name}": value for name, value in state.weights.items()}
    arrays |= {f"k/{index}": np.asarray(ids, np.uint64) for index, ids in state.keys.items()}
    arrays["meta"] = np.frombuffer(msgspec.json.encode(metadata), np.uint8)
    path = folder / f"{state.trained_until:020}.npz"
    temporary_path = path.with_suffix(".part")
    with temporary_path.open("wb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]
        file.flush()
        os.fsync(file.fileno())
    temporary_path.rename(path)
    for old_path in sorted(folder.glob("*.npz"))[:-states_max]:
        old_path.unlink()
    return path


def load_warm_state(folder: Path, before: int | None = None) -> WarmState | None:
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
        metadata = msgspec.json.decode(arrays.pop("meta").tobytes(), type=StateMetadata)
    except (OSError, ValueError, KeyError, zipfile.BadZipFile, msgspec.DecodeError) as error:
        raise DamageError(
            f"cannot be read: {error}",
            where=str(paths[-1]),
            fix="remove it, and train without --incremental",
        ) from error
    ids_by_column = {
        int(name[2:]): value for name, value in arrays.items() if name.startswith("k/")
    }
    weights = {name[2:]: value for name, value in arrays.items() if name.startswith("w/")}
    return WarmState(
        metadata.architecture,
        metadata.parameters,
        metadata.heads,
        metadata.layout,
        ids_by_column,
        weights,
        metadata.trained_until,
    )


def read_newest_meta(folder: Path) -> StateMetadata | None:
    """Return metadata of the newest state of a folder, or None if none is readable.

    Weights are not read.
    """
    for path in sorted(folder.glob("*.npz"))[-1:]:
        with (
            suppress(OSError, ValueError, KeyError, zipfile.BadZipFile, msgspec.DecodeError),
            np.load(path, allow_pickle=False) as archive,
        ):
            return msgspec.json.decode(archive["meta"].tobytes(), type=StateMetadata)
    return None


def warm_start(
    state: WarmState, layout: Layout, ids_by_column: Mapping[int, Keys], heads: tuple[str, ...]
) -> WarmStart:
    """Return the old weights, remapped for a net over the new rows.

    Raises:
        UsageError: the columns or the heads have changed.
    """
    if (
        state.layout.columns != layout.columns
        or state.layout.numeric_indexes != layout.numeric_indexes
        or state.heads != heads
    ):
        changed_part = "heads" if state.heads != heads else "columns"
        raise UsageError(
            f"the {changed_part} have changed since the last training",
            fix="train without --incremental",
        )
    table_name_by_column = {
        index: f"code_embeddings.{table_number}.weight"
        for table_number, index in enumerate(layout.code_cardinalities)
    }
    cardinality_by_column = dict(layout.code_cardinalities)
    if layout.history is not None:
        table_name_by_column[layout.history.candidate_index] = "item_embedding.weight"
        cardinality_by_column[layout.history.candidate_index] = layout.history.cardinality
    weights = dict(state.weights)
    added_count = 0
    dropped_count = 0
    for index, table_name in table_name_by_column.items():
        weight_names = [name for name in weights if name.endswith(f".fields.{table_name}")]
        old_ids = state.keys.get(index, np.zeros(0, np.uint64))
        new_ids = ids_by_column.get(index, np.zeros(0, np.uint64))
        for name in weight_names:
            weights[name] = _remap_rows(
                weights[name], old_ids, new_ids, cardinality_by_column[index], name
            )
        added_count += int(np.count_nonzero(~np.isin(new_ids, old_ids)))
        dropped_count += int(np.count_nonzero(~np.isin(old_ids, new_ids)))
    embedding_cardinalities = {
        **_embedding_cardinalities(state.layout),
        **dict(state.layout.embedding_cardinalities),
    }
    return WarmStart(
        replace(layout, embedding_cardinalities=embedding_cardinalities),
        weights,
        added_count,
        dropped_count,
    )


def _remap_rows(
    table: npt.NDArray, old_ids: Keys, new_ids: Keys, row_count: int, weight_name: str
) -> npt.NDArray:
    """Return a table of `row_count` rows with the new ids' rows.

    Rows are missing, unknown, ids, and buckets that ids share, which stay as they are.
    """
    bucket_count = len(table) - RESERVED_CODES - len(old_ids)
    if bucket_count != row_count - RESERVED_CODES - len(new_ids):
        raise UsageError(
            f"{weight_name} has other buckets than at the last training",
            fix="train without --incremental",
        )
    id_order = np.argsort(old_ids)
    sorted_positions = np.minimum(
        np.searchsorted(old_ids[id_order], new_ids), max(len(old_ids) - 1, 0)
    )
    is_retained = (
        old_ids[id_order][sorted_positions] == new_ids
        if len(old_ids)
        else np.zeros(len(new_ids), bool)
    )
    source_rows = np.where(
        is_retained,
        RESERVED_CODES + (id_order[sorted_positions] if len(old_ids) else 0),
        UNKNOWN_CODE,
    )
    return np.concatenate(
        [
            table[:RESERVED_CODES],
            table[source_rows],
            table[len(table) - bucket_count :] if bucket_count else table[:0],
        ]
    )


def _embedding_cardinalities(layout: Layout) -> dict[int, int]:
    """Return the sizes that determined the embedding widths."""
    history = {layout.history.candidate_index: layout.history.cardinality} if layout.history else {}
    return {
        **dict(layout.code_cardinalities),
        **history,
        **{bag.column_indexes[0]: bag.cardinality for bag in layout.bags},
    }
