"""What one training of a net leaves to the next, and what it tells while it runs: weights to begin
with, logs by epoch.

A rolling buffer: an incremental training sees the rows since the last one and as many before them,
so that it neither forgets at once nor costs more as the window grows. The weights themselves and
their ids are in `models.deep.warm`.
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
from tailorbird.models.architectures import OnEpoch
from tailorbird.models.deep.layout import Layout
from tailorbird.models.deep.logs import EventLog, grouped, to_mlflow
from tailorbird.ranking.slot import Slot
from tailorbird.training.resuming import UNFINISHED, Unfinished, alone
from tailorbird.training.settings import TrainSettings

if TYPE_CHECKING:
    from tailorbird.models.deep.model import Deep
    from tailorbird.models.deep.parameters import DeepParameters
    from tailorbird.models.deep.warm import Meta

Keys = npt.NDArray[np.uint64]

EPOCHS = 2  # of an incremental training, at most


@contextmanager
def working(
    work: Path | None, features: FeatureSet, slot: Slot, settings: TrainSettings, clock: Clock
) -> Iterator[tuple[Unfinished | None, TrainSettings]]:
    """The folders of a net in `work`, and the training that was killed there, which this one goes
    on with as of its time.

    Trees keep nothing: they are grown again sooner than looked up. A training that was killed a day
    ago or longer is not gone on with.

    Raises:
        LockedError: another process trains a net for this slot: both would write the same files.
    """
    if work is None or settings.architecture == "gbdt":
        yield None, settings
        return
    with alone(work / f"{slot.name}.lock", f"a net for slot {slot.name} is trained"):
        yield _folders(work, features, slot, settings, clock)


def _folders(
    work: Path, features: FeatureSet, slot: Slot, settings: TrainSettings, clock: Clock
) -> tuple[Unfinished, TrainSettings]:
    asked = {
        "settings": replace(settings, checkpoint=None, logs=None, warm=None),
        "schema": features.schema_hash,
        "slot": slot.name,
        "objective": dict(slot.objective),
        "as_of": 0 if isinstance(clock, SystemClock) else clock.now(),
    }
    folder = work / UNFINISHED / slot.name
    unfinished = Unfinished(folder, asked, clock.now())
    if clock.now() - unfinished.now > DAY:
        unfinished.done()
        unfinished = Unfinished(folder, asked, clock.now())
    named = f"{slot.name}-{settings.architecture}-{to_iso(unfinished.now)[:19].replace(':', '')}"
    return unfinished, replace(
        settings, checkpoint=folder, logs=work / "logs" / named, warm=work / "warm" / slot.name
    )


@dataclass(frozen=True)
class Start:
    """How a training begins.

    Attributes:
        since: microseconds: older rows are left out; None takes all.
        told: a sentence for the report, "" for a training from scratch.
    """

    layout: Layout
    parameters: dict[str, Any]
    weights: Mapping[str, npt.NDArray] | None = None
    since: int | None = None
    told: str = ""


def begun(
    architecture: str,
    parameters: dict[str, Any],
    layout: Layout,
    keys: Mapping[int, Keys],
    heads: tuple[str, ...],
    until: int,
    settings: TrainSettings,
) -> Start:
    """From the last state, if that is asked for and there is one that fits; else from scratch, and
    why.
    """
    fresh = Start(layout, parameters)
    if not settings.incremental or settings.warm is None:
        return fresh
    from tailorbird.models.deep.parameters import settled
    from tailorbird.models.deep.warm import begin, load_warm, series_of

    asked = settled(architecture, parameters)
    series = settings.warm / series_of(architecture, asked, layout, heads)
    warm = load_warm(series, before=until)
    if warm is None:
        return afresh(
            layout,
            parameters,
            _nothing_to_go_on_with(settings.warm, series, architecture, asked, layout, heads),
        )
    try:
        start = begin(warm, layout, keys, heads)
    except UsageError as error:
        return afresh(layout, parameters, error.message)
    told = (
        f"went on from the weights of the last training: {start.new:,} new ids got a row, "
        f"{start.gone:,} lost theirs"
    )
    chosen = {**parameters, "epochs": min(EPOCHS, asked.epochs)}
    return Start(start.layout, chosen, start.weights, 2 * warm.trained_until - until, told)


def _nothing_to_go_on_with(
    warm: Path,
    series: Path,
    architecture: str,
    asked: "DeepParameters",
    layout: Layout,
    heads: tuple[str, ...],
) -> str:
    """Why there are no weights to begin with."""
    from tailorbird.models.deep.warm import newest_meta

    if any(series.glob("*.npz")):
        return "the trainings before it know as much, or more"
    found = [
        state
        for each in sorted(warm.glob(f"{architecture}-*"))
        if (state := newest_meta(each)) is not None
    ]
    if found:
        last = max(found, key=lambda state: state.trained_until)
        return f"the training of {architecture} before it {_otherwise(last, asked, layout, heads)}"
    return (
        f"there was no training of {architecture} before"
        if any(warm.glob("*/*.npz"))
        else "there was no training before"
    )


def _otherwise(
    last: "Meta", asked: "DeepParameters", layout: Layout, heads: tuple[str, ...]
) -> str:
    """In what a training was another, so that its weights mean something else."""
    from tailorbird.models.deep.warm import SHAPES

    told = []
    if lost := [head for head in last.heads if head not in heads]:
        told.append(f"learned {', '.join(lost)} too, which this one cannot or is not asked to")
    if gained := [head for head in heads if head not in last.heads]:
        told.append(f"did not learn {', '.join(gained)}")
    if (last.layout.columns, last.layout.numbers) != (layout.columns, layout.numbers):
        told.append("had other columns")
    if other := [name for name in SHAPES if getattr(last.parameters, name) != getattr(asked, name)]:
        told.append(f"had other parameters ({', '.join(other)})")
    return " and ".join(told) or "had its heads in another order"


def afresh(layout: Layout, parameters: dict[str, Any], why: str) -> Start:
    """From scratch, though the weights of the last training were asked for."""
    return Start(
        layout, parameters, told=f"trained from scratch, though --incremental was asked for: {why}"
    )


def keep(deep: "Deep", keys: Mapping[int, Keys], until: int, settings: TrainSettings) -> str:
    """Leave the next training its weights, and MLflow its figures; what a reader must know of it,
    or "".
    """
    if settings.warm is not None:
        from tailorbird.models.deep.checkpoint import weights
        from tailorbird.models.deep.warm import Warm, clear_series, save_warm, series_of

        series = settings.warm / series_of(
            deep.architecture, deep.parameters, deep.layout, deep.heads
        )
        save_warm(
            series,
            Warm(
                deep.architecture,
                deep.parameters,
                deep.heads,
                deep.layout,
                keys,
                weights(deep.net),
                until,
            ),
        )
        clear_series(settings.warm)
    if not settings.mlflow:
        return ""
    try:
        run = to_mlflow(
            deep.architecture,
            {"architecture": deep.architecture, **vars(deep.parameters)},
            deep.curve,
            settings.mlflow,
        )
    except StorageError as error:  # what was learned is not lost by where it is told
        return error.message
    return (
        "" if run else "MLflow was told nothing, as it is not installed: pip install mlflow-skinny"
    )


def epoch_log(folder: Path | None) -> OnEpoch | None:
    """Writes figures by epoch for TensorBoard."""
    if folder is None:
        return None
    log = EventLog(folder)
    return lambda epoch, figures: log.scalars(epoch, grouped(figures))
