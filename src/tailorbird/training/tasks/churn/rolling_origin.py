"""Backtest over rolling origins: at each, fit what was known then, score people, and see the
outcome.

    cut 1     ─fit─┤ origin ── window ──┤
    cut 2              ─fit─┤ origin ── window ──┤
    cut 3                              ─fit─┤ origin ── window ──┤
                                       └ cut 1 is finished: it may choose and calibrate models

Nothing about a cut uses what was not known at its origin: neither models nor calibration nor the
choice of the model. The last cut, the judged one, estimates the quality of a bundle made now. Its
calibration is therefore chosen as the bundle's is, on `VALIDATION_CUTS` cuts. Each starts after an
earlier cut has finished, and finishes before the judged origin. With `CUTS_PER_WINDOW_MAX` cuts
from an origin to the end of its window that takes

    1 2 3  │ 4 5 6      │ 7 8 9    9 is judged; by its origin 1 to 6 are finished, and
    fitted   validation   judged   4, 5 and 6 began when 1, 2 and 3 were finished

The bundle, made when 9 is finished, is calibrated on 4 to 9, so six origins would do.
`training.tasks.churn.evaluation` computes the metrics of cuts.
"""

from collections.abc import Sequence

import numpy as np

from tailorbird.errors import NotReadyError
from tailorbird.events import DAY
from tailorbird.features.declare.limits import LOOK_BACK_MAX
from tailorbird.models.btyd import fit_bg_nbd
from tailorbird.models.logistic import fit_logistic
from tailorbird.ranking.churn.declaration import Churn
from tailorbird.training.settings import Progress
from tailorbird.training.tasks.churn.fit import (
    BLEND,
    DIRECT_MODELS,
    HAZARD_MODELS,
    FittedModels,
    fit_models_at,
)
from tailorbird.training.tasks.churn.labels import Activity, Floats, Ints, Rfm, Window
from tailorbird.training.tasks.churn.model_choice import (
    VALIDATION_CUTS,
    Cut,
    OriginScores,
    choose_model,
)
from tailorbird.training.tasks.churn.rows import AFTER_ALL_EVENTS, PeopleFeatures
from tailorbird.training.tasks.churn.training_rows import FitSettings, PersonMomentGrid

CUTS_PER_WINDOW_MAX = 3  # maximum cuts from an origin to the end of its window, gap included
CUTS_MAX = VALIDATION_CUTS + 2 * CUTS_PER_WINDOW_MAX  # enough to calibrate the last cut


def backtest_windows(activity: Activity, churn: Churn, cut_count: int) -> list[Window]:
    """Return the past windows of the backtest, oldest first, `cut_step_us` apart.

    Each has at least as long a history before it as it reaches ahead. If the history is too short
    for any, shorter windows start at a third, a half and two thirds of it.

    Raises:
        NotReadyError: the history is shorter than six periods.
    """
    length = churn.window_us
    known_until = activity.known_until
    first_ts = activity.start_ts
    last_origin = known_until - churn.gap_us - length
    origins = [
        last_origin - k * cut_step_us(churn)
        for k in range(cut_count)
        if known_until - first_ts >= required_history_us(churn, k + 1)
    ]
    if origins:
        return [Window(origin, churn.gap_us, length) for origin in reversed(origins)]
    short_length = (
        ((known_until - first_ts) // 3 - churn.gap_us) // churn.period_us * churn.period_us
    )
    if short_length < 2 * churn.period_us:
        problem = (
            f"the history of {(known_until - first_ts) / DAY:.0f} days is too "
            "short for a window of "
            f"{churn.window}"
        )
        raise NotReadyError(problem, fix="a shorter window or gap in churn.py, or a longer history")
    return [
        Window(first_ts + int((known_until - first_ts) * share), churn.gap_us, short_length)
        for share in (1 / 3, 1 / 2, 2 / 3)
    ]


def cut_step_us(churn: Churn) -> int:
    """Return the time between two cuts: a cut is finished by the `CUTS_PER_WINDOW_MAX`-th after it.

    It is a whole number of days if windows are at least days.
    """
    unit = min(DAY, churn.period_us)
    return -(-(churn.gap_us + churn.window_us) // (CUTS_PER_WINDOW_MAX * unit)) * unit


def required_history_us(churn: Churn, cut_count: int) -> int:
    """Return the length of a history that has so many cuts, in µs."""
    return (
        2 * (churn.gap_us + churn.window_us)
        + (cut_count - 1) * cut_step_us(churn)
        + churn.period_us
    )


def cuts_to_calibrate(churn: Churn, *, with_judged_cut: bool) -> int:
    """Return the number of cuts needed to calibrate a bundle, and the judged cut if asked."""
    cuts_per_window = -(-(churn.gap_us + churn.window_us) // cut_step_us(churn))
    return VALIDATION_CUTS + (2 if with_judged_cut else 1) * cuts_per_window


def build_grid(
    people: PeopleFeatures,
    activity: Activity,
    churn: Churn,
    *,
    rows_max: int,
    seed: int,
    progress: Progress = lambda stage, done, total: None,
) -> PersonMomentGrid:
    """Return people at moments one period apart; every third of a window is an origin.

    Moments go back from the end of the known activity. If there are too many people, they are
    sampled at each moment independently.
    """
    period = churn.period_us
    lookback = churn.active_us + churn.window_us if churn.active_us else 0
    moments = np.arange(
        activity.known_until - period, activity.start_ts + period, -period, dtype=np.int64
    )[::-1]
    if not len(moments):
        raise NotReadyError(
            "the history is shorter than two periods", fix="a longer history, or a shorter window"
        )
    origin_stride = max(1, round(churn.window_us / 3 / period))
    rng = np.random.default_rng(seed)
    person_by_moment = []
    ts_by_moment = []
    is_origin = []
    for index, moment_ts in enumerate(moments.tolist()):
        known_activity = activity.as_of(moment_ts)
        sampled_people = known_activity.active_people(moment_ts, lookback)
        if len(sampled_people) > (people_max := max(rows_max // len(moments), 100)):
            sampled_people = np.sort(rng.choice(sampled_people, people_max, replace=False))
        is_eligible = (
            np.isin(sampled_people, known_activity.active_people(moment_ts, churn.active_us))
            if churn.active_us
            else np.ones(len(sampled_people), bool)
        )
        person_by_moment.append(sampled_people)
        ts_by_moment.append(np.full(len(sampled_people), moment_ts, np.int64))
        is_origin.append(is_eligible & ((len(moments) - 1 - index) % origin_stride == 0))
    progress("features", 0, 1)
    person_codes = np.concatenate(person_by_moment)
    row_moments = np.concatenate(ts_by_moment)
    table = people.read_historical(person_codes, row_moments)
    progress("features", 1, 1)
    return PersonMomentGrid(row_moments, person_codes, table, np.concatenate(is_origin), period)


def feature_horizon(first_ts: int, known_until: int) -> int:
    """Return the last moment at which features may be read.

    If the log is shorter than the features' lookback, reading stops before any event would expire:
    a model that never saw expired events would not know what their absence means.
    """
    return (
        first_ts + LOOK_BACK_MAX - DAY
        if known_until - first_ts < LOOK_BACK_MAX
        else AFTER_ALL_EVENTS
    )


def period_starts(window: Window, churn: Churn, until: int) -> list[int]:
    """Return the start of each period of a window, capped at `until`."""
    period_count = max(1, round(window.length / churn.period_us))
    return [
        max(min(window.start + k * churn.period_us, until), window.origin)
        for k in range(period_count)
    ]


def score_people_at(
    fitted: FittedModels,
    people: PeopleFeatures,
    person: Ints,
    window: Window,
    churn: Churn,
    until: int,
) -> OriginScores:
    """Score people at a window's origin, with what is known then.

    Args:
        until: no features are read at a later moment; see `feature_horizon`.
    """
    starts = period_starts(window, churn, until) if set(HAZARD_MODELS) & set(fitted.models) else []
    tables = people.read_projected(window.origin, person, [window.origin, *starts])
    features_at_origin = tables[0]
    features_by_period = tables[1:]
    return OriginScores(
        window,
        person,
        fitted.churn_probabilities(features_at_origin, features_by_period),
        fitted.expected_purchases(features_at_origin, window),
    )


def run_cuts(
    grid: PersonMomentGrid,
    people: PeopleFeatures,
    activity: Activity,
    churn: Churn,
    windows: Sequence[Window],
    settings: FitSettings,
    *,
    scored_people_max: int,
    progress: Progress = lambda stage, done, total: None,
) -> list[Cut]:
    """Run the backtest over windows, oldest first; origins with too little data are skipped.

    Raises:
        NotReadyError: there is too little data at the last origin.
    """
    cuts: list[Cut] = []
    rng = np.random.default_rng([settings.seed, 1])
    for cut_index, window in enumerate(windows):
        progress("origins", cut_index, len(windows))
        known_activity = activity.as_of(window.origin)
        person = known_activity.active_people(window.origin, churn.active_us)
        if len(person) > scored_people_max:
            person = np.sort(rng.choice(person, scored_people_max, replace=False))
        outcome_activity = activity.as_of(window.stop)
        is_labelled = ~outcome_activity.had_identity_merge(person, window.origin, window.stop)
        person = person[is_labelled]
        merged_count = int(np.count_nonzero(~is_labelled))
        try:
            fitted = fit_models_at(grid, known_activity, window, settings, churn.rfm)
            baselines, baseline_expected_purchases = predict_baselines(
                known_activity, person, window, churn
            )
        except NotReadyError:
            if cut_index == len(windows) - 1:
                raise
            continue
        scores = score_people_at(
            fitted,
            people,
            person,
            window,
            churn,
            feature_horizon(known_activity.start_ts, window.origin),
        )
        purchase_counts = outcome_activity.count_activity(person, window.start, window.stop)
        finished_cuts = [cut for cut in cuts if cut.scores.window.stop <= window.origin]
        choice = choose_model(
            finished_cuts,
            tuple(scores.raw_probabilities),
            window,
            settings.half_life,
            tuple(scores.purchases),
        )
        probability = choice.calibrator.apply(scores.raw_probabilities[choice.model])
        expected_purchases = (
            scores.purchases[choice.count_model] * choice.scale if choice.count_model else None
        )
        frequency = known_activity.rfm(person, window.origin).frequency
        cuts.append(
            Cut(
                scores,
                purchase_counts == 0,
                purchase_counts,
                choice,
                probability,
                expected_purchases,
                baselines,
                baseline_expected_purchases,
                fitted,
                frequency,
                merged_count,
            )
        )
    progress("origins", len(windows), len(windows))
    return cuts


def predict_baselines(
    activity: Activity, person: Ints, window: Window, churn: Churn
) -> tuple[dict[str, Floats], dict[str, Floats]]:
    """Return P(gone) by each baseline, and expected purchases by count models.

    `recency` is a logistic regression on the time since the last purchase, `rfm_logistic` on
    frequency, age and amount too. Both learn from the newest origin whose window is finished, or
    from the middle of the known history if there is none. `bg_nbd_count` is P(none) of a Poisson
    number with BG/NBD's expectation: a different order, often better than `bg_nbd`.
    """
    origin = window.origin - window.gap - window.length
    length = window.length
    if origin <= activity.start_ts + churn.period_us:
        origin = activity.start_ts + (window.origin - activity.start_ts) // 2
        length = window.origin - origin - window.gap
    earlier_activity = activity.as_of(origin)
    earlier_people = earlier_activity.active_people(origin, churn.active_us)
    if length > 0:
        earlier_people = earlier_people[
            ~activity.had_identity_merge(earlier_people, origin, origin + window.gap + length)
        ]
    has_returned = (
        activity.count_activity(earlier_people, origin + window.gap, origin + window.gap + length)
        > 0
        if length > 0
        else np.zeros(0, bool)
    )
    if not 0 < np.count_nonzero(has_returned) < len(has_returned):
        raise NotReadyError("no earlier origin has people who came back and people who did not")
    past_features, current_features = (
        np.column_stack(value).astype(np.float32)
        for value in (
            earlier_activity.rfm(earlier_people, origin),
            activity.rfm(person, window.origin),
        )
    )
    probabilities = {
        name: 1
        - fit_logistic(
            past_features, has_returned, Rfm._fields, ignored_columns=ignored_columns
        ).score(current_features)
        for name, ignored_columns in (("recency", Rfm._fields[1:]), ("rfm_logistic", ()))
    }
    customers = activity.purchase_history(activity.active_people(window.origin), window.origin)
    model = fit_bg_nbd(customers)
    scored_customers = activity.purchase_history(person, window.origin)
    gap_days = window.gap / DAY
    window_days = window.length / DAY
    probabilities["bg_nbd"] = 1 - model.probability_returning(scored_customers, window_days)
    expected_purchases = model.expected_purchases(scored_customers, gap_days + window_days) - (
        model.expected_purchases(scored_customers, gap_days) if gap_days else 0.0
    )
    probabilities["bg_nbd_count"] = np.exp(-expected_purchases)
    return probabilities, {"bg_nbd": expected_purchases, "bg_nbd_count": expected_purchases}


def column_importance(fitted: FittedModels, model: str) -> dict[str, float]:
    """Return the share of the learned signal by column, averaged over a model's parts."""
    model_names = (
        [name for name in (*DIRECT_MODELS, *HAZARD_MODELS) if name in fitted.models]
        if model == BLEND
        else [model]
    )
    shares: dict[str, float] = {}
    for name in model_names:
        for column, share in fitted.models[name].importance().items():
            shares[column] = shares.get(column, 0.0) + share / len(model_names)
    return dict(sorted(shares.items(), key=lambda entry: -entry[1]))
