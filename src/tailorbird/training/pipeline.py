"""Training pipeline: requests → split → candidates → features → heads → evaluation → gate.

Everything is split by time: heads learn from the first part, early stopping and calibration use the
second, and every figure is of the third. In all parts, candidates are those that servers would have
had at each request's time. If the gate rejects the model and no evaluated model serves yet, the
best baseline becomes the champion.
"""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tailorbird import faults
from tailorbird.events import Clock, to_iso
from tailorbird.features import FeatureSet
from tailorbird.lake import Lake
from tailorbird.ranking.baseline import default_baselines
from tailorbird.ranking.bundle import Bundle
from tailorbird.ranking.slot import Slot
from tailorbird.registry import Registry
from tailorbird.storage_paths import Storage
from tailorbird.training.baseline_bundle import serve_best_baseline
from tailorbird.training.bundle_files import bundle_heads, write_model_bundle
from tailorbird.training.dataset.replay import select_live_columns
from tailorbird.training.dataset.rows import load_material
from tailorbird.training.evaluation.estimate import ChampionEstimate
from tailorbird.training.evaluation.figures import PRIMARY, Evaluation, K
from tailorbird.training.evaluation.gate import (
    SUPERIORITY,
    Decision,
    Evidence,
    Rival,
    decide,
    describe_unevaluated,
)
from tailorbird.training.fit.fit import FittedModel, fit
from tailorbird.training.fit.incremental import open_working_folder
from tailorbird.training.fit.resume import UnfinishedRun
from tailorbird.training.leakage.backdated import describe_backdated_profiles
from tailorbird.training.notes import (
    comparison_notes,
    describe_training,
    lake_provenance,
    other_slot_notes,
    tuning_notes,
)
from tailorbird.training.parts import (
    CandidatePlan,
    build_parts,
    build_retrieval,
    sampling_notes,
    split_requests,
)
from tailorbird.training.report.card import render_model_card
from tailorbird.training.rivals import (
    MODEL_NAME,
    Rivals,
    estimate_off_policy,
    evaluate_rivals,
    load_champion,
    load_rivals,
    recipe_hash,
)
from tailorbird.training.settings import Progress, TrainReport, TrainSettings
from tailorbird.training.stage_times import StageTimer


def train(
    features: FeatureSet,
    slot: Slot,
    *,
    lake: Storage,
    registry: Path,
    clock: Clock,
    reports: Path | None = None,
    settings: TrainSettings | None = None,
    heads: Sequence[str] = (),
    by: str = "train",
    owner: str = "",
    promote: bool = True,
    work: Path | None = None,
    progress: Progress = lambda stage, done, total: None,
) -> TrainReport:
    """Train a model for a slot, evaluate it, and promote it if it passes the gate.

    Args:
        heads: heads that other slots ask for. There is one champion for all slots, so it carries
            their heads too, learned from this slot's rows; they do not affect evaluation or gate.
            Heads with too few positives are left out, with a note.
        owner: who is responsible for the model; shown in its card.
        reports: folder for a page with tables and charts, `VERSION.html`; None writes none.
        work: folder that nets keep between trainings: state of a killed training, weights for the
            next one, logs.
        promote: False keeps the model without promoting it, whatever the gate decides.
        progress: called with (stage, done, total).

    Raises:
        NotReadyError: the lake has nothing to learn from yet.
        UsageError: the data cannot be split, or no row differs from another.
        LockedError: another process trains a net for this slot.
    """
    with open_working_folder(
        work, features, slot, (settings or TrainSettings()).resolve_quick(), clock
    ) as (unfinished, resolved):
        return _train(
            features,
            slot,
            lake,
            registry,
            clock,
            reports,
            resolved,
            heads,
            by,
            owner,
            promote,
            unfinished,
            progress,
        )


def _train(
    features: FeatureSet,
    slot: Slot,
    lake: Storage,
    registry: Path,
    clock: Clock,
    reports: Path | None,
    settings: TrainSettings,
    heads: Sequence[str],
    by: str,
    owner: str,
    promote: bool,
    unfinished: UnfinishedRun | None,
    progress: Progress,
) -> TrainReport:
    now = clock.now() if unfinished is None else unfinished.started_at
    timer = StageTimer(progress)
    store = Registry(registry, clock=clock)

    timer.report("read", 0, 1)
    champion, bundle, unjudged = load_champion(store, features, slot)
    other_features = [bundle.features] if bundle is not None and bundle.features is not None else []
    source = Lake(lake).pinned()  # data loaded during the training is for the next one
    material = load_material(
        source, features, slot, settings.row_settings(now, heads), other_features=other_features
    )
    data = material.data
    split = split_requests(data, material, settings)
    timer.report("read", 1, 1)
    retrieval = build_retrieval(material, features, slot, split, settings, timer)
    series = retrieval.series
    rivals = load_rivals(store, bundle, features, slot)
    plan = CandidatePlan(
        select_live_columns(features, slot), default_baselines(slot.sources), retrieval, slot
    )
    parts, dropped = build_parts(material, features, data, split, plan, settings, timer)
    fitted = fit(
        material.events,
        features,
        parts,
        series,
        slot.objective,
        settings,
        position=material.is_logged and slot.denominator == "answer",
        label_window=material.label_window,
        progress=timer.report,
        heads=heads,
    )
    test_from, recipe = split.validation_until, recipe_hash(features, slot, settings)
    evaluation = evaluate_rivals(
        material, features, parts, plan, series, fitted, rivals, slot, test_from, settings, timer
    )
    incumbent_note = describe_unevaluated(champion, unjudged) if unjudged else ""
    estimate = estimate_off_policy(
        source, material, features, split, plan, series, fitted, rivals, slot, settings, timer
    )
    judgement = _JudgedModel(
        evaluation,
        fitted,
        champion if bundle is not None else "",
        incumbent_note,
        rivals,
        recipe,
        estimate,
    )
    decision = decide(judgement.evidence(store))
    all_notes = (
        material.source_note,
        *(
            (f"went on with the training that was begun at {to_iso(now)} and cut short",)
            if unfinished and unfinished.is_resumed
            else ()
        ),
        *((retrieval.summary,) if retrieval.summary else ()),
        *((settings.budget["told"],) if settings.budget else ()),
        *tuning_notes(settings, test_from),
        *sampling_notes(parts, dropped),
        *fitted.notes,
        *(
            f"{profile_kind}: {why}"
            for profile_kind, why in describe_backdated_profiles(source, features, ("user",))
        ),
        *other_slot_notes(fitted, slot, store, champion),
        *comparison_notes(champion, bundle, unjudged, parts.test, test_from),
        *((estimate.summary,) if estimate is not None else ()),
    )
    notes = tuple(note for note in all_notes if note not in decision.reasons)
    about = {
        **describe_training(slot, material, data, split, parts, plan, dropped, settings, now),
        **({"budget": dict(settings.budget)} if settings.budget else {}),
        "recipe": recipe,
        "decided_by": decision.by,
        "anchor": judgement.anchor_after(store, decision),
        "architecture": fitted.architecture,
        "owner": owner,
        "columns": fitted.encoder.describe_columns(),
        "calibration": {
            head: choice.summary for head, choice in fitted.calibration_choices.items()
        },
        **({"retrieval": dict(retrieval.figures)} if retrieval.figures else {}),
        **({"off_policy": estimate.to_dict()} if estimate is not None else {}),
        **lake_provenance(source, data),
    }
    timer.report("bundle", 0, 1)
    card = render_model_card(slot, evaluation, decision, about, notes, by)
    with tempfile.TemporaryDirectory(prefix="tailorbird-bundle-") as folder:
        write_model_bundle(
            Path(folder),
            material,
            features,
            fitted,
            retrieval,
            slot,
            settings,
            now,
            about,
            evaluation,
            decision,
            card,
        )
        faults.at("train.before_add")
        version = store.add(Path(folder) / "bundle", by=by, why=decision.reason)
    faults.at("train.after_add")
    if unfinished is not None:
        unfinished.discard()
    promoted = decision.promote and promote
    fallback_version = ""
    if promoted:
        store.promote(version, by=by, why=decision.reason)
    elif not decision.promote and promote:
        fallback_version = serve_best_baseline(
            store,
            evaluation,
            features,
            slot,
            material,
            now,
            by=by,
            owner=owner,
            meaning=settings.meaning,
        )
    timer.report("bundle", 1, 1)

    rows = {"train": parts.train.rows, "validation": parts.validation.rows, "test": evaluation.rows}
    report = TrainReport(
        version,
        promoted,
        champion,
        decision,
        evaluation,
        rows,
        tuple(fitted.models),
        notes,
        about,
        timer.seconds,
        fallback_version=fallback_version,
    )
    return (
        report
        if reports is None
        else _add_report(report, fitted, bundle, len(material.codes), reports)
    )


def _add_report(
    report: TrainReport, fitted: FittedModel, incumbent: Bundle | None, items: int, reports: Path
) -> TrainReport:
    """Return the report with the cost of everything evaluated, and write its page."""
    # Importing matplotlib takes half a second, so only reports do it.
    from tailorbird.training.report.pareto import (
        measure_baseline_us,
        measure_bundle_us,
        measure_model_us,
        price_models,
    )
    from tailorbird.training.report.report import write_report

    lookup_us = measure_baseline_us(items)
    us = {
        name: lookup_us
        for name in report.evaluation.figures
        if name not in (MODEL_NAME, report.incumbent)
    }
    us[MODEL_NAME] = measure_model_us(fitted.exported, bundle_heads(fitted), fitted.golden)
    if incumbent is not None:
        us[report.incumbent] = measure_bundle_us(incumbent)
    report = replace(
        report, priced=tuple(price.to_dict() for price in price_models(report.evaluation, us))
    )
    return replace(
        report, report=write_report(reports / f"{report.version}.html", report, fitted.models)
    )


@dataclass(frozen=True)
class _JudgedModel:
    """The evaluation and its context, from which the gate decides."""

    evaluation: Evaluation
    fitted: FittedModel
    champion: str
    incumbent_note: str
    rivals: Rivals
    recipe: str
    estimate: ChampionEstimate | None

    def evidence(self, store: Registry) -> Evidence:
        evaluation = self.evaluation
        versions = set(self.rivals.bundles)
        baselines = tuple(
            self._to_rival(name) for name in evaluation.differences if name not in versions
        )
        incumbent = (
            self._to_rival(self.champion) if self.champion in evaluation.differences else None
        )
        anchor = (
            self._to_rival(self.rivals.anchor)
            if self.rivals.anchor in evaluation.differences
            else None
        )
        reference = self.champion or evaluation.best_baseline
        coverage = f"coverage_{K}"
        figures = evaluation.figures
        return Evidence(
            PRIMARY,
            baselines,
            incumbent,
            anchor,
            self._is_fresher(),
            self.incumbent_note,
            evaluation.people,
            {head: figures.mean_ratio for head, figures in evaluation.heads.items()},
            figures[MODEL_NAME][coverage].value,
            figures[reference][coverage].value if reference in figures else 0.0,
            self.fitted.leaks,
            estimate=self.estimate.summary if self.estimate is not None else "",
            is_estimated_worse=self.estimate is not None and self.estimate.is_worse,
        )

    def anchor_after(self, store: Registry, decision: Decision) -> str:
        """Return the last model that won by superiority, once this one is the champion.

        "" stands for this model itself.
        """
        if decision.by == SUPERIORITY or self.champion not in self.rivals.bundles:
            return ""
        return self.rivals.anchor or self.champion

    def _is_fresher(self) -> bool:
        bundle = self.rivals.bundles.get(self.champion)
        return (
            bundle is not None
            and bundle.manifest.metrics.get("about", {}).get("recipe") == self.recipe
        )

    def _to_rival(self, name: str) -> Rival:
        return Rival(
            name, self.evaluation.differences[name], self.evaluation.figures[name][PRIMARY].value
        )
