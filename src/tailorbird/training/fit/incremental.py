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
    from tailorbird.models.deep.warm import Meta

Keys = npt.NDArray[np.uint64]

EPOCHS = 2  # maximum of an incremental training


@contextmanager
def open_working_folder(
    work: Path | None, features: FeatureSet, slot: Slot, settings: TrainSettings, clock: Clock
) -> Iterator[tuple[UnfinishedRun | None, TrainSettings]]:
    """Open the folders of a net in `work`, and resume a killed training as of its own time.

    Trees keep no state, since growing them again is faster than loading them. A training that was
    killed a day ago or longer is not resumed.

    Raises:
        LockedError: another process trains a net for this slot and would write the same files.
    """
    if work is None or settings.architecture == "gbdt":
        yield None, settings
        return
    with hold_exclusive(work / f"{slot.name}.lock", f"a net for slot {slot.name} is trained"):
        yield _prepare_folders(work, features, slot, settings, clock)


def _prepare_folders(
    work: Path, features: FeatureSet, slot: Slot, settings: TrainSettings, clock: Clock
) -> tuple[UnfinishedRun, TrainSettings]:
    fingerprint = {
        "settings": replace(settings, checkpoint=None, logs=None, warm=None),
        "schema": features.schema_hash,
        "slot": slot.name,
        "objective": dict(slot.objective),
        "as_of": 0 if isinstance(clock, SystemClock) else clock.now(),
    }
    folder = work / UNFINISHED_FOLDER / slot.name
    unfinished = UnfinishedRun(folder, fingerprint, clock.now())
    if clock.now() - unfinished.started_at > DAY:
        unfinished.discard()
        unfinished = UnfinishedRun(folder, fingerprint, clock.now())
    run_name = (
        f"{slot.name}-{settings.architecture}-{to_iso(unfinished.started_at)[:19].replace(':', '')}"
    )
    return unfinished, replace(
        settings, checkpoint=folder, logs=work / "logs" / run_name, warm=work / "warm" / slot.name
    )


@dataclass(frozen=True)
class WarmStart:
    """The start of a training.

    Attributes:
        since: older rows are left out, microseconds; None takes all.
        summary: sentence for the report, "" for a training from scratch.
    """

    layout: Layout
    parameters: dict[str, Any]
    weights: Mapping[str, npt.NDArray] | None = None
    since: int | None = None
    summary: str = ""


def begin_training(
    architecture: str,
    parameters: dict[str, Any],
    layout: Layout,
    keys: Mapping[int, Keys],
    heads: tuple[str, ...],
    until: int,
    settings: TrainSettings,
) -> WarmStart:
    """Start from the last state if requested and compatible; else from scratch, with the reason."""
    fresh = WarmStart(layout, parameters)
    if not settings.incremental or settings.warm is None:
        return fresh
    from tailorbird.models.deep.parameters import resolve_parameters
    from tailorbird.models.deep.warm import load_warm, series_name, warm_start

    settled_parameters = resolve_parameters(architecture, parameters)
    series = settings.warm / series_name(architecture, settled_parameters, layout, heads)
    warm = load_warm(series, before=until)
    if warm is None:
        return start_from_scratch(
            layout,
            parameters,
            _explain_missing_state(
                settings.warm, series, architecture, settled_parameters, layout, heads
            ),
        )
    try:
        start = warm_start(warm, layout, keys, heads)
    except UsageError as error:
        return start_from_scratch(layout, parameters, error.message)
    summary = (
        f"{CONTINUATION}weights of the last training: {start.added:,} new ids got a row, "
        f"{start.dropped:,} lost theirs"
    )
    incremental_parameters = {**parameters, "epochs": min(EPOCHS, settled_parameters.epochs)}
    return WarmStart(
        start.layout, incremental_parameters, start.weights, 2 * warm.trained_until - until, summary
    )


def _explain_missing_state(
    warm: Path,
    series: Path,
    architecture: str,
    parameters: "DeepParameters",
    layout: Layout,
    heads: tuple[str, ...],
) -> str:
    """Return why there are no weights to start from."""
    from tailorbird.models.deep.warm import read_newest_meta

    if any(series.glob("*.npz")):
        return "the trainings before it know as much, or more"
    states = [
        state
        for folder in sorted(warm.glob(f"{architecture}-*"))
        if (state := read_newest_meta(folder)) is not None
    ]
    if states:
        last = max(states, key=lambda state: state.trained_until)
        differences = _describe_differences(last, parameters, layout, heads)
        return f"the training of {architecture} before it {differences}"
    return (
        f"there was no training of {architecture} before"
        if any(warm.glob("*/*.npz"))
        else "there was no training before"
    )


def _describe_differences(
    last: "Meta", parameters: "DeepParameters", layout: Layout, heads: tuple[str, ...]
) -> str:
    """Return how a training differed, so that its weights do not fit."""
    from tailorbird.models.deep.warm import SHAPES

    differences = []
    if dropped := [head for head in last.heads if head not in heads]:
        differences.append(
            f"learned {', '.join(dropped)} too, which this one cannot or is not asked to"
        )
    if gained := [head for head in heads if head not in last.heads]:
        differences.append(f"did not learn {', '.join(gained)}")
    if (last.layout.columns, last.layout.numbers) != (layout.columns, layout.numbers):
        differences.append("had other columns")
    if differing_names := [
        name for name in SHAPES if getattr(last.parameters, name) != getattr(parameters, name)
    ]:
        differences.append(f"had other parameters ({', '.join(differing_names)})")
    return " and ".join(differences) or "had its heads in another order"


def start_from_scratch(layout: Layout, parameters: dict[str, Any], why: str) -> WarmStart:
    """Start from scratch although a warm start was requested."""
    return WarmStart(layout, parameters, summary=f"{NO_CONTINUATION}{why}")


def save_state(
    deep: "DeepModel", keys: Mapping[int, Keys], until: int, settings: TrainSettings
) -> str:
    """Save the weights for the next training and log to MLflow; return a warning or ""."""
    if settings.warm is not None:
        from tailorbird.models.deep.checkpoint import copy_weights
        from tailorbird.models.deep.warm import WarmState, clear_series, save_warm, series_name

        series = settings.warm / series_name(
            deep.architecture, deep.parameters, deep.layout, deep.heads
        )
        save_warm(
            series,
            WarmState(
                deep.architecture,
                deep.parameters,
                deep.heads,
                deep.layout,
                keys,
                copy_weights(deep.net),
                until,
            ),
        )
        clear_series(settings.warm)
    if not settings.mlflow:
        return ""
    try:
        run = log_to_mlflow(
            deep.architecture,
            {"architecture": deep.architecture, **vars(deep.parameters)},
            deep.curve,
            settings.mlflow,
        )
    except StorageError as error:  # a failing log does not lose the model
        return error.message
    return (
        "" if run else "MLflow was told nothing, as it is not installed: pip install mlflow-skinny"
    )


def make_epoch_logger(folder: Path | None) -> OnEpoch | None:
    """Return a callback that writes metrics by epoch for TensorBoard."""
    if folder is None:
        return None
    log = EventLog(folder)
    return lambda epoch, figures: log.scalars(epoch, group_tags(figures))
