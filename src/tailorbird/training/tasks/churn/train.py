"""Train a churn model, end to end.

Events → activity → grid of people at moments → leakage check → backtest over origins → metrics →
gate → fit on all known data → bundle → registry. `run_backtest` needs no registry; benchmarks call
it with their own windows.
"""

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from tailorbird.errors import NotReadyError
from tailorbird.events import DAY, Clock, to_iso
from tailorbird.features import FeatureSet
from tailorbird.features.offline.profile_join import JoinedEvents
from tailorbird.lake import Lake, time_filter
from tailorbird.models.export import largest_difference
from tailorbird.models.gbdt import Gbdt
from tailorbird.ranking.bundle import write_bundle
from tailorbird.ranking.churn.bundle import CHURN_HEAD, space_files
from tailorbird.ranking.churn.declaration import Churn
from tailorbird.ranking.churn.plan import ChurnPlan, Part
from tailorbird.registry import Registry
from tailorbird.registry import TrainingWindow as Span
from tailorbird.storage_paths import StoragePath
from tailorbird.training.bundle_files import LIBRARIES
from tailorbird.training.dataset.rows import log_end
from tailorbird.training.evaluation.bootstrap import Interval, flatten_tables
from tailorbird.training.evaluation.gate import Decision, Evidence, Rival, decide
from tailorbird.training.fit.trees import export_trees
from tailorbird.training.leakage.columns import describe_dominant_columns
from tailorbird.training.settings import Progress
from tailorbird.training.stage_times import StageTimer
from tailorbird.training.tasks.churn.backtest import ChurnBacktest, ChurnSettings, run_backtest
from tailorbird.training.tasks.churn.champion import (
    RECIPE,
    ChampionComparison,
    Recipe,
    compare_with_champion,
    load_champion,
)
from tailorbird.training.tasks.churn.contact import contact_curve
from tailorbird.training.tasks.churn.evaluation import CutMetrics
from tailorbird.training.tasks.churn.fit import (
    BLEND,
    HAZARD_MODELS,
    PURCHASES,
    FittedModels,
    fit_models_at,
)
from tailorbird.training.tasks.churn.labels import Window
from tailorbird.training.tasks.churn.model_choice import ModelChoice, choose_model
from tailorbird.training.tasks.churn.report import (
    ChurnReport,
    describe_choices,
    describe_day_mismatch,
    write_churn_card,
)
from tailorbird.training.tasks.churn.rolling_origin import (
    column_importance,
    feature_horizon,
    period_starts,
)
from tailorbird.training.tasks.churn.rows import needed_columns
from tailorbird.training.tasks.churn.training_rows import FitSettings

PARITY_ROWS = 10_000  # of the grid, over the whole history, on which model and export are compared
GOLDEN_SOURCE_ROWS = 2_000  # newest rows of the grid, from which the bundle takes its golden rows


def train_churn(
    features: FeatureSet,
    churn: Churn,
    *,
    lake: StoragePath,
    registry: Path,
    clock: Clock,
    reports: Path | None = None,
    settings: ChurnSettings = ChurnSettings(),
    by: str = "train",
    owner: str = "",
    promote: bool = True,
    progress: Progress = lambda stage, done, total: None,
) -> ChurnReport:
    """Train a churn model, judge it at past origins, and promote it if it passes the gate.

    Args:
        registry: the folder of this model alone, `Paths.churn(name)`.
        owner: the person responsible for the model, named in its card.
        reports: folder for the page `churn-NAME-VERSION.html`; None writes none.

    Raises:
        LeakError, NotReadyError: see `run_backtest`.
    """
    stage_timer = StageTimer(progress)
    now = clock.now()
    store = Registry(registry, clock=clock)
    stage_timer.report("read", 0, 1)
    champion = load_champion(store)
    events = _read_events(lake, (features, *champion.features), now)
    stage_timer.report("read", 1, 1)
    until = min(now, log_end(events) + settings.lateness_us)
    backtest = run_backtest(
        features, churn, events, now=until, settings=settings, progress=stage_timer.report
    )
    activity = backtest.activity
    cut_metrics = backtest.cut_metrics
    window = Window(activity.known_until, churn.gap_us, churn.window_us)
    stage_timer.report("last fit", 0, 1)
    fitted_models, choice = _fit_final(backtest, churn, window, settings.fit)
    stage_timer.report("last fit", 1, 1)
    stage_timer.report("champion", 0, 1)
    comparison = compare_with_champion(champion, churn, backtest.people, activity, backtest.cuts)
    stage_timer.report("champion", 1, 1)
    decision = _decide(cut_metrics[-1], backtest, comparison)
    all_notes = _compose_notes(churn, backtest, window, choice, comparison)
    notes = tuple(note for note in all_notes if note and note not in decision.reasons)
    about = {
        **_describe_training(churn, backtest, window, fitted_models),
        "owner": owner,
        RECIPE: Recipe(churn, settings.fit, settings.grid_rows).to_dict(),
    }
    curve = contact_curve(backtest.cuts[-1].probability, backtest.cuts[-1].churned, churn.contact)
    importance = column_importance(fitted_models, choice.model)
    with tempfile.TemporaryDirectory(prefix="tailorbird-churn-") as folder:
        _write_bundle(
            Path(folder) / "bundle",
            features,
            churn,
            backtest,
            fitted_models,
            choice,
            decision,
            about,
            notes,
            now,
            by,
        )
        version = store.add(Path(folder) / "bundle", by=by, why=decision.reason)
    is_promoted = decision.is_accepted and promote
    if is_promoted:
        store.promote(version, by=by, why=decision.reason)
    report = ChurnReport(
        version,
        is_promoted,
        comparison.version,
        decision,
        cut_metrics,
        choice,
        curve,
        importance,
        notes,
        about,
        stage_timer.stage_seconds,
    )
    if reports is None:
        return report
    from tailorbird.training.tasks.churn.page import write_page

    return replace(
        report, page_path=write_page(reports / f"churn-{churn.name}-{version}.html", report, churn)
    )


def _read_events(lake: StoragePath, features: Sequence[FeatureSet], now: int) -> pa.Table:
    """Return all events before `now` with the columns that these declarations need.

    Raises:
        NotReadyError: there is no event.
    """
    events = JoinedEvents(Lake(lake).pin_versions(), *features).table(
        needed_columns(*features), time_filter(ts_to=now)
    )
    if not events.num_rows:
        raise NotReadyError(
            "the lake holds no event yet", where=str(lake), fix="tailorbird import FORMAT PATH"
        )
    return events


def _fit_final(
    backtest: ChurnBacktest, churn: Churn, window: Window, settings: FitSettings
) -> tuple[FittedModels, ModelChoice]:
    """Fit the models to all known data, and choose one by the outcomes of the backtest."""
    fitted_models = fit_models_at(backtest.grid, backtest.activity, window, settings, churn.rfm)
    choice = choose_model(
        backtest.cuts,
        fitted_models.candidates,
        window,
        settings.half_life,
        fitted_models.count_models,
    )
    return fitted_models, choice


def _decide(
    last_metrics: CutMetrics, backtest: ChurnBacktest, comparison: ChampionComparison
) -> Decision:
    rivals = tuple(
        Rival(name, _negate(difference["log_loss"]), difference["log_loss"].value)
        for name, difference in last_metrics.differences.items()
    )
    smaller_class = int(min(last_metrics.cut.churned.sum(), (~last_metrics.cut.churned).sum()))
    champion = None if comparison.gain is None else Rival(comparison.version, comparison.gain, 0.0)
    return decide(
        Evidence(
            "log loss",
            rivals,
            champion,
            champion_note=comparison.unevaluated_note,
            user_count=smaller_class,
            leak_reasons=backtest.leaks,
        )
    )


def _negate(difference: Interval) -> Interval:
    """Return an interval of model − baseline, where lower is better, as a gain."""
    return Interval(-difference.value, -difference.high, -difference.low)


def _compose_notes(
    churn: Churn,
    backtest: ChurnBacktest,
    window: Window,
    choice: ModelChoice,
    comparison: ChampionComparison,
) -> tuple[str, ...]:
    """Return the report's notes; "" stands for one that does not apply."""
    notes = [backtest.vectors_note]
    judged_length = backtest.cuts[-1].scores.window.length
    if judged_length != window.length:
        notes.append(
            "the history is too short for the window: figures are of windows of "
            f"{judged_length / DAY:.0f} days, while "
            f"{window.length / DAY:.0f} are predicted"
        )
    if merged_count := backtest.cuts[-1].merged:
        notes.append(
            f"{merged_count:,} people were merged into another user within the last window: left "
            "out, as what became of them is unknown"
        )
    if churn.gap_us and set(HAZARD_MODELS) & set(backtest.cuts[-1].fitted.models):
        calibration_text = (
            ""
            if choice.calibrator.name == "none"
            else f"; calibration on past origins ({choice.calibrator.name}) corrects the level"
        )
        notes.append(f"hazards are read as if nobody came back within the gap{calibration_text}")
    notes.extend(describe_dominant_columns(backtest.dominant))
    notes.extend(describe_choices(backtest.cuts[-1].choice, choice, churn))
    if day_note := describe_day_mismatch(churn, backtest.grid, backtest.activity):
        notes.append(day_note)
    if churn.trust:
        notes.append(
            "trusted though they may read profiles of which nobody knows when what they say "
            f"was known: {', '.join(churn.trust)}"
        )
    return (*notes, comparison.unevaluated_note or comparison.note)


def _describe_training(
    churn: Churn, backtest: ChurnBacktest, window: Window, fitted_models: FittedModels
) -> dict[str, Any]:
    return {
        "churn": churn.name,
        "definition": churn.describe(),
        "window": {"from": backtest.activity.start_ts, "to": backtest.activity.known_until},
        "window_text": {
            "from": to_iso(backtest.activity.start_ts),
            "to": to_iso(backtest.activity.known_until),
        },
        "people": len(backtest.activity.people),
        "asked_now": len(backtest.activity.active_people(window.origin, churn.active_us)),
        "origins": [to_iso(metrics.cut.scores.window.origin) for metrics in backtest.cut_metrics],
        "rows": dict(fitted_models.rows),
        "columns": fitted_models.encoder.describe_columns(),
    }


def _write_bundle(
    folder: Path,
    features: FeatureSet,
    churn: Churn,
    backtest: ChurnBacktest,
    fitted_models: FittedModels,
    choice: ModelChoice,
    decision: Decision,
    about: Mapping[str, Any],
    notes: Sequence[str],
    now: int,
    by: str,
) -> None:
    """Write the bundle, after comparing each model with its export."""
    plan = build_plan(
        churn,
        fitted_models,
        choice,
        feature_horizon(backtest.activity.start_ts, backtest.activity.known_until),
    )
    is_newest = backtest.grid.moment == backtest.grid.moment.max()
    golden_candidates = fitted_models.matrix(
        backtest.grid.table.take(np.flatnonzero(is_newest)[:GOLDEN_SOURCE_ROWS])
    )
    parity_rows = np.unique(np.linspace(0, len(is_newest) - 1, PARITY_ROWS).astype(np.intp))
    onnx_by_name = {part.head: fitted_models.export(part.head) for part in plan.parts}
    parity_matrix = fitted_models.matrix(backtest.grid.table.take(parity_rows))
    parity = max(
        largest_difference(fitted_models.models[name], onnx_model, parity_matrix)
        for name, onnx_model in onnx_by_name.items()
    )
    last_metrics = backtest.cut_metrics[-1]
    heads = plan.heads(choice.calibrator.name)
    write_bundle(
        folder,
        created_at=now,
        features=features,
        encoder=fitted_models.encoder,
        models={head.file: onnx_by_name[head.name] for head in heads},
        heads=heads,
        index=None,
        golden=golden_candidates,
        calibration={CHURN_HEAD: choice.calibrator},
        window=Span(backtest.activity.start_ts, backtest.activity.known_until),
        metrics={
            "results": flatten_tables(last_metrics.results),
            "decision": list(decision.reasons),
            "accepted": decision.is_accepted,
            "about": dict(about),
            "parity": parity,
        },
        libraries=LIBRARIES,
        card=write_churn_card(churn, last_metrics, choice, decision, about, notes, by),
        tower=space_files(backtest.people.space, backtest.tower)
        if backtest.people.space is not None and backtest.tower is not None
        else None,
        trees={
            part.head: export_trees(model)
            for part in plan.parts
            if isinstance(model := fitted_models.models[part.head], Gbdt)
        },
        extra_files=plan.files(),
    )


def build_plan(
    churn: Churn, fitted_models: FittedModels, choice: ModelChoice, until: int
) -> ChurnPlan:
    """Return the scoring plan of a bundle, with the chosen models alone.

    No features are read after `until`.
    """
    model_names = (
        [name for name in fitted_models.candidates if name != BLEND]
        if choice.model == BLEND
        else [choice.model]
    )
    parts = [Part(name, "hazard" if name in HAZARD_MODELS else "direct") for name in model_names]
    if choice.count_model.startswith("trees"):
        parts.append(Part(PURCHASES, "count"))
    return ChurnPlan(
        churn.name,
        tuple(churn.types),
        churn.window_us,
        churn.gap_us,
        churn.active_us,
        churn.period_us,
        len(period_starts(Window(0, churn.gap_us, churn.window_us), churn, 1)),
        until,
        tuple(parts),
        choice.scale,
        fitted_models.bg_nbd if choice.count_model.endswith("bg_nbd") else None,
        fitted_models.pareto_nbd if choice.count_model == "pareto_nbd" else None,
    )
