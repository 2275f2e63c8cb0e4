"""Rows to fit churn models on: people at moments whose outcome is known at the origin."""

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from tailorbird.models.gbdt import GbdtSettings
from tailorbird.training.settings import check_seed
from tailorbird.training.tasks.churn.labels import Activity, Floats, Ints, Window
from tailorbird.training.tasks.churn.rows import FeatureTable


@dataclass(frozen=True)
class FitSettings:
    """Settings of the churn models.

    Attributes:
        gbdt: settings of all trees.
        penalty: L2 penalty of the logistic regressions.
        half_life: age in windows at which an origin weighs half; 0 weighs all origins the same.
        rows: maximum training rows of one model, sampled uniformly.
        seed: of all sampling.
    """

    gbdt: GbdtSettings = field(
        default_factory=lambda: GbdtSettings(trees=300, rate=0.05, patience=30, column_share=0.5)
    )
    penalty: float = 1.0
    half_life: float = 1.0
    rows: int = 100_000
    seed: int = 7

    def __post_init__(self) -> None:
        check_seed(self.seed)


@dataclass(frozen=True)
class PersonMomentGrid:
    """People at moments with their features at that time, from which training rows are made.

    Attributes:
        moment, person: shape (n,).
        is_origin: shape (n,), whether the moment is one of the sparser origins of whole-window
            models, and the person would have been scored then.
        period: time between two moments, µs.
    """

    moment: Ints
    person: Ints
    table: FeatureTable
    is_origin: npt.NDArray[np.bool_]
    period: int


@dataclass(frozen=True)
class TrainingRows:
    """Rows of a `PersonMomentGrid` with labels and weights."""

    table: FeatureTable
    person: Ints
    label: Floats
    weight: Floats


def select_window_rows(
    grid: PersonMomentGrid, activity: Activity, window: Window, settings: FitSettings
) -> TrainingRows:
    """Return rows of origins whose whole window is known; label: active in it."""
    return _select_labelled_rows(
        grid, activity, window, settings, grid.is_origin, window.gap, window.length
    )


def select_period_rows(
    grid: PersonMomentGrid, activity: Activity, window: Window, settings: FitSettings
) -> TrainingRows:
    """Return rows of every known period; label: active in it."""
    all_rows_mask = np.ones(len(grid.moment), bool)
    return _select_labelled_rows(grid, activity, window, settings, all_rows_mask, 0, grid.period)


def select_count_rows(
    grid: PersonMomentGrid, activity: Activity, window: Window, settings: FitSettings
) -> TrainingRows:
    """Return rows of origins with at least one known period, for the count model.

    The label is purchases scaled to a whole window; the weight is the known share of the window.
    """
    selected_rows = _select_rows(
        grid,
        activity,
        grid.is_origin,
        window.gap + grid.period,
        window.gap + window.length,
        settings,
    )
    label = np.zeros(len(selected_rows))
    weight = np.zeros(len(selected_rows))
    for moment in np.unique(grid.moment[selected_rows]).tolist():
        rows = np.flatnonzero(grid.moment[selected_rows] == moment)
        length = min(window.length, activity.known_until - moment - window.gap)
        start = moment + window.gap
        weight[rows] = length / window.length
        label[rows] = activity.count_activity(
            grid.person[selected_rows[rows]], start, start + length
        ) * (window.length / length)
    return TrainingRows(grid.table.take(selected_rows), grid.person[selected_rows], label, weight)


def _select_labelled_rows(
    grid: PersonMomentGrid,
    activity: Activity,
    window: Window,
    settings: FitSettings,
    eligible_mask: npt.NDArray[np.bool_],
    gap: int,
    length: int,
) -> TrainingRows:
    """Return rows of a mask; label: active within `length`, `gap` after the row's moment.

    A row's weight decays with its age.
    """
    selected_rows = _select_rows(
        grid, activity, eligible_mask, gap + length, gap + length, settings
    )
    moments = grid.moment[selected_rows]
    label = np.zeros(len(selected_rows))
    for moment in np.unique(moments).tolist():
        rows = np.flatnonzero(moments == moment)
        start = moment + gap
        label[rows] = (
            activity.count_activity(grid.person[selected_rows[rows]], start, start + length) > 0
        )
    weight = np.ones(len(selected_rows))
    if settings.half_life:
        weight = 0.5 ** ((window.origin - moments) / (settings.half_life * window.length))
    return TrainingRows(grid.table.take(selected_rows), grid.person[selected_rows], label, weight)


def _select_rows(
    grid: PersonMomentGrid,
    activity: Activity,
    eligible_mask: npt.NDArray[np.bool_],
    label_span: int,
    merge_span: int,
    settings: FitSettings,
) -> Ints:
    """Return rows of a mask whose label is known, sampled down to the row limit.

    A label is known if `label_span` µs after the row's moment are. People who were merged into
    another user within `merge_span` are excluded.
    """
    rows = np.flatnonzero(eligible_mask & (grid.moment + label_span <= activity.known_until))
    moment = grid.moment[rows]
    rows = rows[
        ~activity.had_identity_merge(
            grid.person[rows], moment, np.minimum(moment + merge_span, activity.known_until)
        )
    ]
    if len(rows) <= settings.rows:
        return rows
    return np.sort(np.random.default_rng(settings.seed).choice(rows, settings.rows, replace=False))
