"""State that one training of a net leaves to the next: weights for a warm start, logs by epoch.

An incremental training uses a rolling buffer: the rows since the last training and as many before
them. It neither forgets at once nor costs more as the window grows. Weights and their ids are in
`models.deep.warm`.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from tailorbird.errors import StorageError, UsageError
from tailorbird.events import DAY, Clock, SystemClock, to_iso
from tailorbird.features import FeatureSet
from tailorbird.models.deep.fitting import OnEpoch
from tailorbird.models.deep.layout import Layout
from tailorbird.models.deep.logs import EventLog, group_tags, log_to_mlflow
from tailorbird.ranking.slot import Slot
from tailorbird.training.fit.resume import UNFINISHED_FOLDER, UnfinishedRun, hold_exclusive
from tailorbird.training.settings import CONTINUATION, NO_CONTINUATION, TrainSettings

if TYPE_CHECKING:
    from tailorbird.models.deep.model import DeepModel
    from tailorbird.models.deep.parameters import DeepParameters
    from tailorbird.models.deep.warm import StateMetadata

Keys = npt.NDArray[np.uint64]

INCREMENTAL_EPOCHS_MAX = 2  # maximum of an incremental training


@contextmanager
def open_working_folder(
    work_folder: Path | None,
    features: FeatureSet,
    slot: Slot,
    settings: TrainSettings,
    clock: Clock,
) -> Iterator[tuple[UnfinishedRun | None, TrainSettings]]:
    """Open the folders of a net in `work_folder`, and resume a killed training as of its own time.

    Trees keep no state, since growing them again is faster than loading them. A training that was
    killed a day ago or longer is not resumed.

    Raises:
        LockedError: another process trains a net for this slot and would write the same files.
    """
    if work_folder is None or settings.architecture == "gbdt":
        yield None, settings
        return
    with hold_exclusive(
        work_folder / f"{slot.name}.lock", f"a net for slot {slot.name} is trained"
    ):
        yield _prepare_folders(work_folder, features, slot, settings, clock)


def _prepare_folders(
    work_folder: Path, features: FeatureSet, slot: Slot, settings: TrainSettings, clock: Clock
) -> tuple[UnfinishedRun, TrainSettings]:
    run_settings = {
        "settings": replace(settings, checkpoint=None, logs=None, warm=None),
        "schema": features.schema_hash,
        "slot": slot.name,
        "objective": dict(slot.objective),
        "as_of": 0 if isinstance(clock, SystemClock) else clock.now(),
    }
    folder = work_folder / UNFINISHED_FOLDER / slot.name
    unfinished_run = UnfinishedRun(folder, run_settings, clock.now())
    if clock.now() - unfinished_run.started_at > DAY:
        unfinished_run.discard()
        unfinished_run = UnfinishedRun(folder, run_settings, clock.now())
    started_text = to_iso(unfinished_run.started_at)[:19].replace(":", "")
    run_name = f"{slot.name}-{settings.architecture}-{started_text}"
    return unfinished_run, replace(
        settings,
        checkpoint=folder,
        logs=work_folder / "logs" / run_name,
        warm=work_folder / "warm" / slot.name,
    )


@dataclass(frozen=True)
class WarmStart:
    """The start of a training.

    Attributes:
        rows_since: older rows are left out, microseconds; None takes all.
        summary: sentence for the report, "" for a training from scratch.
    """

    layout: Layout
    parameters: dict[str, Any]
    weights: Mapping[str, npt.NDArray] | None = None
    rows_since: int | None = None
    summary: str = ""


def begin_training(
    architecture: str,
    parameters: dict[str, Any],
    layout: Layout,
    keys_by_column: Mapping[int, Keys],
    heads: tuple[str, ...],
    train_until: int,
    settings: TrainSettings,
) -> WarmStart:
    """Start from the last state if requested and compatible; else from scratch, with the reason."""
    scratch_start = WarmStart(layout, parameters)
    if not settings.incremental or settings.warm is None:
        return scratch_start
    from tailorbird.models.deep.parameters import resolve_parameters
    from tailorbird.models.deep.warm import load_warm_state, series_name, warm_start

    resolved_parameters = resolve_parameters(architecture, parameters)
    state_folder = settings.warm / series_name(architecture, resolved_parameters, layout, heads)
    warm_state = load_warm_state(state_folder, before=train_until)
    if warm_state is None:
        return start_from_scratch(
            layout,
            parameters,
            _explain_missing_state(
                warm_folder=settings.warm,
                state_folder=state_folder,
                architecture=architecture,
                parameters=resolved_parameters,
                layout=layout,
                heads=heads,
            ),
        )
    try:
        remapped_start = warm_start(warm_state, layout, keys_by_column, heads)
    except UsageError as error:
        return start_from_scratch(layout, parameters, error.message)
    summary = (
        f"{CONTINUATION}weights of the last training: {remapped_start.added:,} new ids got a row, "
        f"{remapped_start.dropped:,} lost theirs"
    )
    incremental_parameters = {
        **parameters,
        "epochs": min(INCREMENTAL_EPOCHS_MAX, resolved_parameters.epochs),
    }
    return WarmStart(
        remapped_start.layout,
        incremental_parameters,
        remapped_start.weights,
        2 * warm_state.trained_until - train_until,
        summary,
    )


def _explain_missing_state(
    warm_folder: Path,
    state_folder: Path,
    architecture: str,
    parameters: "DeepParameters",
    layout: Layout,
    heads: tuple[str, ...],
) -> str:
    """Return why there are no weights to start from."""
    from tailorbird.models.deep.warm import read_newest_meta

    if any(state_folder.glob("*.npz")):
        return "the trainings before it know as much, or more"
    states = [
        state
        for folder in sorted(warm_folder.glob(f"{architecture}-*"))
        if (state := read_newest_meta(folder)) is not None
    ]
    if states:
        last_state = max(states, key=lambda state: state.trained_until)
        differences = _describe_differences(last_state, parameters, layout, heads)
        return f"the training of {architecture} before it {differences}"
    return (
        f"there was no training of {architecture} before"
        if any(warm_folder.glob("*/*.npz"))
        else "there was no training before"
    )


def _describe_differences(
    last_state: "StateMetadata",
    parameters: "DeepParameters",
    layout: Layout,
    heads: tuple[str, ...],
) -> str:
    """Return how a training differed, so that its weights do not fit."""
    from tailorbird.models.deep.warm import SHAPE_PARAMETERS

    differences = []
    if lost_heads := [head for head in last_state.heads if head not in heads]:
        differences.append(
            f"learned {', '.join(lost_heads)} too, which this one cannot or is not asked to"
        )
    if new_heads := [head for head in heads if head not in last_state.heads]:
        differences.append(f"did not learn {', '.join(new_heads)}")
    if (last_state.layout.columns, last_state.layout.numeric_indexes) != (
        layout.columns,
        layout.numeric_indexes,
    ):
        differences.append("had other columns")
    if differing_names := [
        name
        for name in SHAPE_PARAMETERS
        if getattr(last_state.parameters, name) != getattr(parameters, name)
    ]:
        differences.append(f"had other parameters ({', '.join(differing_names)})")
    return " and ".join(differences) or "had its heads in another order"


def start_from_scratch(layout: Layout, parameters: dict[str, Any], reason: str) -> WarmStart:
    """Start from scratch although a warm start was requested."""
    return WarmStart(layout, parameters, summary=f"{NO_CONTINUATION}{reason}")


def save_state(
    deep: "DeepModel", keys_by_column: Mapping[int, Keys], train_until: int, settings: TrainSettings
) -> str:
    """Save the weights for the next training and log to MLflow; return a warning or ""."""
    if settings.warm is not None:
        from tailorbird.models.deep.checkpoint import copy_weights
        from tailorbird.models.deep.warm import (
            WarmState,
            remove_old_series,
            save_warm_state,
            series_name,
        )

        state_folder = settings.warm / series_name(
            deep.architecture, deep.parameters, deep.layout, deep.heads
        )
        save_warm_state(
            state_folder,
            WarmState(
                architecture=deep.architecture,
                parameters=deep.parameters,
                heads=deep.heads,
                layout=deep.layout,
                keys=keys_by_column,
                weights=copy_weights(deep.net),
                trained_until=train_until,
            ),
        )
        remove_old_series(settings.warm)
    if not settings.mlflow:
        return ""
    try:
        was_logged = log_to_mlflow(
            deep.architecture,
            {"architecture": deep.architecture, **vars(deep.parameters)},
            deep.curve,
            settings.mlflow,
        )
    except StorageError as error:  # a failing log does not lose the model
        return error.message
    return (
        ""
        if was_logged
        else "MLflow was told nothing, as it is not installed: pip install mlflow-skinny"
    )


def make_epoch_logger(folder: Path | None) -> OnEpoch | None:
    """Return a callback that writes metrics by epoch for TensorBoard."""
    if folder is None:
        return None
    event_log = EventLog(folder)
    return lambda epoch, metrics: event_log.append_scalars(epoch, group_tags(metrics))
