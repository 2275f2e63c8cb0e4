"""A ranking of the columns of a model, and a proposal which to keep."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from tailorbird.config import Project
from tailorbird.errors import UsageError
from tailorbird.platform.progress import Progress, no_progress
from tailorbird.platform.training import Notify, discard_note

if TYPE_CHECKING:
    from tailorbird.training.selection.signals import SignalReport


def rank_columns(
    project: Project,
    slot: str = "",
    *,
    target: str = "",
    window: str = "",
    as_of: str = "",
    folder: Path | None = None,
    progress: Progress = no_progress,
    notify: Notify = discard_note,
    **options: Any,
) -> "tuple[SignalReport, Path]":
    """Rank the columns by importance and cost; changes nothing. Continues an interrupted run.

    Args:
        slot: "" takes `train.slot`.
        target: label that columns should predict; "" is the first of the slot's objective.
        window: length of the past to learn from; "" is train.window.
        folder: of the report; by default signals-SLOT-TARGET in the project's reports.
        options: see `RankSettings`, such as `requests` and `tolerance`.

    Returns:
        The ranking, and its folder.
    """
    from tailorbird.platform.moment import clock_as_of
    from tailorbird.platform.train_options import window_us
    from tailorbird.training.selection.column_signals import RankSettings
    from tailorbird.training.selection.signals import rank_signals

    declared = project.slot(slot)
    label = target or next(iter(declared.objective))
    out = folder or project.paths.reports / f"signals-{declared.name}-{label}"
    if out.exists() and not out.is_dir():
        raise UsageError(f"{out} is a file", where="--out", fix="name a folder")
    report = rank_signals(
        project.features,
        declared,
        lake=project.paths.lake,
        clock=clock_as_of(as_of, project, notify=notify),
        out=out,
        target=label,
        settings=RankSettings(
            window_us=window_us(window, project), lateness_us=project.plan.lateness_us, **options
        ),
        event_types=project.plan.event_types,
        progress=progress,
    )
    return report, out
