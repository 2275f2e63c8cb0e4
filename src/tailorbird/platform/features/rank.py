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
    from tailorbird.platform.clocks import clock_as_of
    from tailorbird.platform.train_options import parse_window
    from tailorbird.training.selection.column_signals import RankSettings
    from tailorbird.training.selection.signals import rank_signals

    slot_declaration = project.slot(slot)
    target_label = target or next(iter(slot_declaration.objective))
    report_folder = (
        folder or project.paths.reports / f"signals-{slot_declaration.name}-{target_label}"
    )
    if report_folder.exists() and not report_folder.is_dir():
        raise UsageError(f"{report_folder} is a file", where="--out", fix="name a folder")
    report = rank_signals(
        project.features,
        slot_declaration,
        lake=project.paths.lake,
        clock=clock_as_of(as_of, project, notify=notify),
        out=report_folder,
        target=target_label,
        settings=RankSettings(
            window_us=parse_window(window, project), lateness_us=project.plan.lateness_us, **options
        ),
        event_types=project.plan.event_types,
        progress=progress,
    )
    return report, report_folder
