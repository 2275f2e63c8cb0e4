"""Backtest of a churn model, after a check for leaks."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import pyarrow as pa

from tailorbird.errors import LeakError, UsageError
from tailorbird.events import DAY
from tailorbird.features import FeatureSet
from tailorbird.ranking.churn.columns import churn_columns
from tailorbird.ranking.churn.declaration import Churn
from tailorbird.ranking.tower import Space
from tailorbird.training.fit.towers import TowerLearner, TowerSettings
from tailorbird.training.leakage.columns import find_leakage
from tailorbird.training.settings import Progress
from tailorbird.training.tasks.churn.evaluation import CutMetrics, evaluate_cut
from tailorbird.training.tasks.churn.fit import leakage_check_rows
from tailorbird.training.tasks.churn.labels import Activity, Window, build_activity
from tailorbird.training.tasks.churn.model_choice import Cut
from tailorbird.training.tasks.churn.rolling_origin import (
    CUTS_MAX,
    backtest_windows,
    build_grid,
    run_cuts,
)
from tailorbird.training.tasks.churn.rows import PeopleFeatures
from tailorbird.training.tasks.churn.training_rows import FitSettings, PersonMomentGrid
from tailorbird.training.tasks.churn.vectors import fit_tower_before, judge_vectors

EVALUATED_CUTS_MAX = 6

PROFILE_TIMES_HINT = "their time and when they came in (received_at)"


@dataclass(frozen=True)
class ChurnSettings:
    """Settings of a churn training.

    Attributes:
        cuts: maximum number of backtest origins, see `rolling_origin.backtest_windows`. The newest
            `EVALUATED_CUTS_MAX` are evaluated; earlier ones only choose and calibrate models.
        grid_rows: maximum rows of the grid of people at moments, which models learn from.
        scored_people_max: maximum people scored at an origin.
        lateness_us: how late events may arrive; newer events are not used.
        vectors: settings of the tower that is tried; None tries none.
        replicates: bootstrap replicates of the intervals.
    """

    fit: FitSettings = field(default_factory=FitSettings)
    cuts: int = CUTS_MAX
    grid_rows: int = 600_000
    scored_people_max: int = 50_000
    lateness_us: int = DAY
    vectors: TowerSettings | None = None
    replicates: int = 500


@dataclass(frozen=True)
class ChurnBacktest:
    """Models and outcomes at past origins.

    Attributes:
        cut_metrics: metrics of the newest cuts, oldest first.
        grid: the rows, one per person and moment, that the models learned from.
        leaks: columns that look like target leakage.
        dominant: columns that alone predict far more than all others, with the reason.
        vectors_note: a sentence on whether and why people's vectors are used; "" if they were not
            tried.
        tower: files of the tower, if vectors are used.
    """

    activity: Activity
    people: PeopleFeatures
    grid: PersonMomentGrid
    cuts: list[Cut]
    cut_metrics: list[CutMetrics]
    leaks: dict[str, str]
    dominant: dict[str, str]
    vectors_note: str = ""
    tower: Mapping[str, bytes] | None = None


def run_backtest(
    features: FeatureSet,
    churn: Churn,
    events: pa.Table,
    *,
    now: int,
    settings: ChurnSettings,
    windows: Sequence[Window] = (),
    learn_until: int = 0,
    progress: Progress = lambda stage, done, total: None,
) -> ChurnBacktest:
    """Fit models at past origins and compare them with what happened.

    Args:
        events: with `rows.needed_columns`, all that is known at `now`.
        windows: backtest windows, oldest first; by default those of `backtest_windows`.
        learn_until: training rows are of moments before it; 0 for all. Use it to hold the whole
            last part back.

    Raises:
        LeakError: a column looks past the origin.
        NotReadyError: too little is known.
    """
    activity = build_activity(events, churn, now, settings.lateness_us)
    columns = churn_columns(churn, features)
    people = PeopleFeatures(features, events, activity, columns)
    training_activity = activity.as_of(learn_until) if learn_until else activity
    windows = windows or backtest_windows(training_activity, churn, settings.cuts)
    _raise_on_leaks(people, activity, churn, windows)
    learner, space, vectors_note = _fit_tower(
        features, events, activity, windows[0].origin, settings
    )
    people_with_vectors = people if space is None else people.with_columns(columns, space)
    full_grid = build_grid(
        people_with_vectors,
        training_activity,
        churn,
        rows_max=settings.grid_rows,
        seed=settings.fit.seed,
        progress=progress,
    )
    grid = full_grid if space is None else replace(full_grid, table=full_grid.table.select(columns))
    run_cuts_on = partial(
        run_cuts,
        activity=activity,
        churn=churn,
        windows=windows,
        settings=settings.fit,
        scored_people_max=settings.scored_people_max,
        progress=progress,
    )
    cuts = run_cuts_on(grid, people)
    tower_files = None
    if space is not None and learner is not None:
        cuts_with_vectors = run_cuts_on(full_grid, people_with_vectors)
        use_vectors, vectors_note = judge_vectors(cuts, cuts_with_vectors, settings.fit.seed)
        if use_vectors:
            people = people_with_vectors
            grid = full_grid
            cuts = cuts_with_vectors
            tower_files = learner.export_files(space)
    cut_metrics = []
    evaluated_cuts = cuts[-EVALUATED_CUTS_MAX:]
    progress("figures", 0, len(evaluated_cuts))
    for cut_index, cut in enumerate(evaluated_cuts):
        cut_metrics.append(
            evaluate_cut(cut, replicates=settings.replicates, seed=settings.fit.seed)
        )
        progress("figures", cut_index + 1, len(evaluated_cuts))
    last_cut = cuts[-1]
    matrix, labels = leakage_check_rows(
        last_cut.fitted,
        grid,
        activity.as_of(last_cut.scores.window.origin),
        last_cut.scores.window,
        settings.fit,
    )
    leakage = find_leakage(last_cut.fitted.encoder.names, matrix, labels)
    # Recency, frequency and age may legitimately predict most, as baselines do.
    dominant_reasons = {
        name: why
        for name, why in leakage.describe_dominant("leaving").items()
        if name not in churn.rfm
    }
    return ChurnBacktest(
        activity,
        people,
        grid,
        cuts,
        cut_metrics,
        leakage.leaks,
        dominant_reasons,
        vectors_note,
        tower_files,
    )


def _fit_tower(
    features: FeatureSet, events: pa.Table, activity: Activity, origin: int, settings: ChurnSettings
) -> tuple[TowerLearner | None, Space | None, str]:
    """Return a tower as of the first origin, or the reason there is none."""
    if settings.vectors is None:
        return None, None, ""
    try:
        return *fit_tower_before(
            features, events, activity.people, origin, settings.vectors, settings.fit.seed
        ), ""
    except UsageError as error:
        return None, None, f"vectors of people were not tried: {error.message}"


def _raise_on_leaks(
    people: PeopleFeatures, activity: Activity, churn: Churn, windows: Sequence[Window]
) -> None:
    """Raise LeakError if a column that `churn.trust` does not vouch for looks past an origin."""
    origins = list(dict.fromkeys((windows[len(windows) // 2].origin, windows[-1].origin)))
    active_people = [
        activity.as_of(origin).active_people(origin, churn.active_us) for origin in origins
    ]
    origin_people = [
        (origin, people_at_origin)
        for origin, people_at_origin in zip(origins, active_people, strict=True)
        if len(people_at_origin)
    ]
    leaks = people.find_leaks(
        [origin for origin, _ in origin_people],
        [people_at_origin for _, people_at_origin in origin_people],
    )
    if untrusted_leaks := {
        name: reason for name, reason in leaks.items() if name not in churn.trust
    }:
        name, reason = next(iter(untrusted_leaks.items()))
        other_columns = (
            f" (and {', '.join(list(untrusted_leaks)[1:])})" if len(untrusted_leaks) > 1 else ""
        )
        fix = (
            f'leave_out=("{name}",) in churn.py, or trust=("{name}",) if it cannot know what '
            f"came later, or load profiles with {PROFILE_TIMES_HINT}"
        )
        raise LeakError(
            f"column {name}{other_columns} looks past the origin: {reason}",
            where=f"churn {churn.name}",
            fix=fix,
        )
