"""Training pipeline: requests → split → candidates → features → heads → evaluation → gate.

Everything is split by time: heads learn from the first part, early stopping and calibration use the
second, and every figure is of the third. In all parts, candidates are those that servers would have
had at each request's time. If the gate rejects the model and no evaluated model serves yet, the
best baseline becomes the champion.
"""

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from hashlib import blake2b
from pathlib import Path
from typing import Any

import lightgbm
import msgspec
import numpy as np
import pyarrow as pa

from tailorbird import faults
from tailorbird.errors import BundleError, UsageError
from tailorbird.events import Clock, to_iso
from tailorbird.features import FeatureSet
from tailorbird.lake import Lake
from tailorbird.lake.delta.versions import to_manifest
from tailorbird.models.gbdt import Gbdt
from tailorbird.ranking.baseline import default_baselines
from tailorbird.ranking.bundle import Bundle, write_bundle
from tailorbird.ranking.encode.live import LiveColumns
from tailorbird.ranking.own_models import code_digest, own_families
from tailorbird.ranking.slot import Slot
from tailorbird.registry import Head, Registry, Window
from tailorbird.retrieval import Index
from tailorbird.storage_paths import Storage
from tailorbird.training.baseline_bundle import serve_best_baseline
from tailorbird.training.dataset.clicks import sample_negatives
from tailorbird.training.dataset.dataset import Dataset
from tailorbird.training.dataset.indexes import IndexSeries, build_series, write_index
from tailorbird.training.dataset.replay import Replay, select_live_columns
from tailorbird.training.dataset.request_choice import NEGATIVES
from tailorbird.training.dataset.rows import Material, load_material
from tailorbird.training.dataset.sampling import thin
from tailorbird.training.dataset.split import Split, split_at, split_by_time
from tailorbird.training.evaluation.estimate import ChampionEstimate, estimate_against_champion
from tailorbird.training.evaluation.evaluate import (
    Scorer,
    evaluate_scorers,
    explain_mismatch,
    merge_live_columns,
    version_scorer,
)
from tailorbird.training.evaluation.figures import PRIMARY, Evaluation, K
from tailorbird.training.evaluation.gate import (
    SUPERIORITY,
    Decision,
    Evidence,
    Rival,
    decide,
    describe_unevaluated,
)
from tailorbird.training.fit.fit import FittedModel, Parts, fit
from tailorbird.training.fit.incremental import open_working_folder
from tailorbird.training.fit.resume import UnfinishedRun
from tailorbird.training.fit.retrieval import RetrievalChoice, choose_retrieval
from tailorbird.training.fit.trees import export_trees
from tailorbird.training.leakage.backdated import describe_backdated_profiles
from tailorbird.training.report.card import render_model_card
from tailorbird.training.settings import QUICK_ANSWER_REQUESTS, Progress, TrainReport, TrainSettings
from tailorbird.training.stage_times import StageTimer

MODEL_NAME = "tailorbird"


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
    champion, bundle, unjudged = _load_champion(store, features, slot)
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
    rivals = _load_rivals(store, bundle, features, slot)
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
    evaluation = _evaluate_rivals(
        material, features, parts, plan, series, fitted, rivals, slot, test_from, settings, timer
    )
    incumbent_note = describe_unevaluated(champion, unjudged) if unjudged else ""
    estimate = _estimate_off_policy(
        source, material, features, split, plan, series, fitted, rivals, slot, settings, timer
    )
    judgement = _Judgement(
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
        *_tuning_notes(settings, test_from),
        *_sampling_notes(parts, dropped),
        *fitted.notes,
        *(
            f"{profile_kind}: {why}"
            for profile_kind, why in describe_backdated_profiles(source, features, ("user",))
        ),
        *_other_slot_notes(fitted, slot, store, champion),
        *_comparison_notes(champion, bundle, unjudged, parts.test, test_from),
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


@dataclass(frozen=True)
class CandidatePlan:
    """Candidate retrieval, baselines and live columns, the same in all parts."""

    live: LiveColumns
    baselines: Sequence[str]
    retrieval: RetrievalChoice
    slot: Slot

    def replay(
        self,
        material: Material,
        features: FeatureSet,
        live: LiveColumns,
        *,
        baselines: Sequence[str] = (),
    ) -> Replay:
        return Replay(
            material.log,
            features,
            self.slot,
            material.codes,
            live,
            baselines=baselines,
            sources=self.sources,
            retriever=self.retrieval.retriever(),
        )

    @property
    def sources(self) -> dict[str, int]:
        return self.retrieval.sources(self.slot)


def build_retrieval(
    material: Material,
    features: FeatureSet,
    slot: Slot,
    split: Split,
    settings: TrainSettings,
    timer: StageTimer,
) -> RetrievalChoice:
    """Build the indexes over time, with vectors if requested and better."""
    moments = index_moments(material.data, split, settings)
    series = build_series(
        material.events, material.items, moments, progress=partial(timer.report, "index")
    )
    return choose_retrieval(
        material,
        features,
        slot,
        series,
        (split.train_until, split.validation_until),
        settings.retrieval,
        settings.tower,
        validation=material.data.take(split.validation),
        seed=settings.seed,
        progress=partial(timer.report, "vectors"),
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
    us[MODEL_NAME] = measure_model_us(fitted.exported, _bundle_heads(fitted), fitted.golden)
    if incumbent is not None:
        us[report.incumbent] = measure_bundle_us(incumbent)
    report = replace(
        report, priced=tuple(price.to_dict() for price in price_models(report.evaluation, us))
    )
    return replace(
        report, report=write_report(reports / f"{report.version}.html", report, fitted.models)
    )


def _sampling_notes(parts: Parts, dropped: int) -> list[str]:
    """Describe how many requests were sampled to limit time and memory."""
    if not dropped:
        return []
    learned = parts.train.requests
    return [
        f"learned from {learned:,} of {learned + dropped:,} requests, drawn evenly over the "
        "time; --requests says how many"
    ]


def _bundle_heads(fitted: FittedModel) -> list[Head]:
    """Return the location of each head in a bundle."""
    return [
        Head(head, head_file.file, column=head_file.column)
        for head, head_file in fitted.head_files.items()
    ]


def lake_provenance(source: Lake, data: Dataset) -> dict[str, Any]:
    """Return what the rows can be rebuilt from.

    `Lake(path, at=versions.from_manifest(about["lake"]))` gives the same rows.
    """
    return {"lake": to_manifest(source.at or {}), "rows_digest": data.digest()}


def split_requests(data: Dataset, material: Material, settings: TrainSettings) -> Split:
    """Split the requests at the given borders, or by shares."""
    gap = material.label_window
    if settings.test_from:
        return split_at(
            data.t, settings.validation_from or settings.test_from, settings.test_from, gap=gap
        )
    return split_by_time(data.t, gap=gap)


def index_moments(data: Dataset, split: Split, settings: TrainSettings) -> list[int]:
    """Return the times of indexes: over the training part, and both borders."""
    boundaries = np.linspace(0, len(split.train), settings.index_parts + 1).astype(int)[:-1]
    return [
        *(int(data.t[split.train[index]]) for index in boundaries),
        split.train_until,
        split.validation_until,
    ]


def build_parts(
    material: Material,
    features: FeatureSet,
    data: Dataset,
    split: Split,
    plan: CandidatePlan,
    settings: TrainSettings,
    timer: StageTimer,
) -> tuple[Parts, int]:
    """Return the rows of the three parts, and the number of training requests left out.

    The test part has no candidates yet.
    """
    limit = settings.requests
    if material.is_logged:  # as many rows as drawn requests would have
        limit = limit * (NEGATIVES + 1) // max(round(data.rows / max(data.requests, 1)), 1)
        limit = min(limit, QUICK_ANSWER_REQUESTS) if settings.quick else limit
    train = thin(split.train, limit, settings.seed)
    validation = thin(split.validation, settings.test_requests, settings.seed)
    test = thin(split.test, settings.test_requests, settings.seed)
    replay, report_progress = (
        plan.replay(material, features, plan.live),
        partial(timer.report, "candidates"),
    )
    combined = data.take(np.concatenate([train, validation]))
    if material.scheme is None:
        rows = replace(
            combined, live=replay.read_live_columns(combined, progress=report_progress)[0]
        )
    else:
        rows = material.add_labels(
            sample_negatives(combined, replay, material.scheme, NEGATIVES, report_progress)
        )
    border = int(np.searchsorted(rows.t, split.train_until))
    train_rows, validation_rows = (
        rows.take(np.arange(border)),
        rows.take(np.arange(border, rows.requests)),
    )
    if not train_rows.requests or not validation_rows.requests:
        raise UsageError(
            "no request is left to learn from, or to watch", fix="train on a longer window"
        )
    censored = train_rows.censor(split.train_until), validation_rows.censor(split.validation_until)
    return Parts(*censored, data.take(test), plan.live), len(split.train) - len(train)


@dataclass(frozen=True)
class _Rivals:
    """Registry bundles to compare with: the champion, and the last winner by superiority."""

    bundles: Mapping[str, Bundle]
    champion: str = ""
    anchor: str = ""


def _load_rivals(
    store: Registry, champion: Bundle | None, features: FeatureSet, slot: Slot
) -> _Rivals:
    if champion is None:
        return _Rivals({})
    anchor_version = str(champion.manifest.metrics.get("about", {}).get("anchor", ""))
    bundles = {champion.version: champion}
    paths = {info.version: info.path for info in store.versions()}
    if anchor_version and anchor_version != champion.version and anchor_version in paths:
        try:
            anchor = Bundle.load(paths[anchor_version], schema_hash=None)
        except BundleError:
            return _Rivals(bundles, champion.version)
        readable = anchor.features is not None or anchor.schema_hash == features.schema_hash
        if readable and not explain_mismatch(anchor, slot):
            return _Rivals(bundles | {anchor_version: anchor}, champion.version, anchor_version)
    return _Rivals(bundles, champion.version)


def _evaluate_rivals(
    material: Material,
    features: FeatureSet,
    parts: Parts,
    plan: CandidatePlan,
    series: IndexSeries,
    fitted: FittedModel,
    rivals: _Rivals,
    slot: Slot,
    test_from: int,
    settings: TrainSettings,
    timer: StageTimer,
) -> Evaluation:
    """Evaluate the new model, its rivals and all baselines on the test part."""
    live = merge_live_columns(
        [plan.live, *(bundle.encoder.live for bundle in rivals.bundles.values())]
    )
    scorers: dict[str, Scorer] = {
        MODEL_NAME: partial(fitted.score, series=series, objective=slot.objective, live=live)
    }
    for version, bundle in rivals.bundles.items():
        scorers[version] = version_scorer(
            bundle, series, slot.objective, live, features, material.events
        )
    replay = plan.replay(material, features, live, baselines=plan.baselines)
    return evaluate_scorers(
        material,
        features,
        parts.test,
        replay,
        plan.sources,
        scorers,
        slot.objective,
        as_of=test_from,
        seed=settings.seed,
        progress=timer.report,
    )


def _estimate_off_policy(
    source: Lake,
    material: Material,
    features: FeatureSet,
    split: Split,
    plan: CandidatePlan,
    series: IndexSeries,
    fitted: FittedModel,
    rivals: _Rivals,
    slot: Slot,
    settings: TrainSettings,
    timer: StageTimer,
) -> ChampionEstimate | None:
    """Estimate from the log what the new model and the champion earn; None without a champion."""
    champion = rivals.bundles.get(rivals.champion)
    if champion is None or not material.is_logged:
        return None
    live = merge_live_columns([plan.live, champion.encoder.live])
    scorers: dict[str, Scorer] = {
        MODEL_NAME: partial(fitted.score, series=series, objective=slot.objective, live=live),
        champion.version: version_scorer(
            champion, series, slot.objective, live, features, material.events
        ),
    }
    timer.report("off-policy", 0, 1)
    estimate = estimate_against_champion(
        source,
        material,
        features,
        slot,
        plan.replay(material, features, live),
        series,
        scorers,
        ts_from=max(split.validation_until, champion.manifest.window.ts_to),
        settings=settings,
    )
    timer.report("off-policy", 1, 1)
    return estimate


@dataclass(frozen=True)
class _Judgement:
    """The evaluation and its context, from which the gate decides."""

    evaluation: Evaluation
    fitted: FittedModel
    champion: str
    incumbent_note: str
    rivals: _Rivals
    recipe: str
    estimate: ChampionEstimate | None

    def evidence(self, store: Registry) -> Evidence:
        evaluation = self.evaluation
        versions = set(self.rivals.bundles)
        baselines = tuple(
            self._rival(name) for name in evaluation.differences if name not in versions
        )
        incumbent = self._rival(self.champion) if self.champion in evaluation.differences else None
        anchor = (
            self._rival(self.rivals.anchor)
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

    def _rival(self, name: str) -> Rival:
        return Rival(
            name, self.evaluation.differences[name], self.evaluation.figures[name][PRIMARY].value
        )


def recipe_hash(features: FeatureSet, slot: Slot, settings: TrainSettings) -> str:
    """Return a hash of how a model is made; models with the same hash differ only in data."""
    recipe = {
        "schema": features.schema_hash,
        "slot": {
            name: repr(getattr(slot, name))
            for name in ("sources", "columns", "objective", "formula", "hide_seen", "rules")
        },
        "transforms": repr(features.transforms),
        "similarities": repr(features.similarities),
        "settings": {name: repr(getattr(settings, name)) for name in _RECIPE_SETTINGS},
        **_own_recipe(settings),
    }
    return blake2b(msgspec.json.encode(recipe, order="sorted"), digest_size=8).hexdigest()


def _own_recipe(settings: TrainSettings) -> dict[str, str]:
    """Return which code of the project takes part in a training, if any does."""
    names = {*settings.beside, settings.architecture} & set(own_families())
    return {"models.py": f"{sorted(names)} {code_digest()}"} if names else {}


# Settings that define how a model is made: neither its data nor the random draws.
_RECIPE_SETTINGS = (
    "rows",
    "requests",
    "gbdt",
    "architecture",
    "retrieval",
    "tower",
    "position",
    "parameters",
    "leave_out",
    "preset",
    "shuffle",
)


def _load_champion(
    store: Registry, features: FeatureSet, slot: Slot
) -> tuple[str, Bundle | None, str]:
    """Return the champion's version, its bundle if it can be evaluated, and else the reason.

    An index without a model is no incumbent.
    """
    path = store.champion()
    if path is None:
        return "", None, ""
    try:
        bundle = Bundle.load(path, schema_hash=None)
    except BundleError as error:
        return path.name, None, f"cannot be loaded: {error.message}"
    if not bundle.heads:
        return "", None, ""
    if bundle.schema_hash != features.schema_hash and bundle.features is None:
        return path.name, None, "has another schema, whose declarations it does not bring"
    why = explain_mismatch(bundle, slot)
    return path.name, None if why else bundle, why


def _other_slot_notes(fitted: FittedModel, slot: Slot, store: Registry, champion: str) -> list[str]:
    """Describe what other slots gain and lose by this model, which is evaluated on this slot."""
    notes = []
    if gained := [head for head in fitted.models if head not in slot.objective]:
        notes.append(
            f"carries {', '.join(gained)} for other slots, learned from the rows of slot "
            f"{slot.name}; the gate does not look at it"
        )
    incumbent_heads = next(
        (info.heads for info in store.versions() if info.version == champion), ()
    )
    if dropped := [head for head in incumbent_heads if head not in fitted.models]:
        notes.append(
            f"does not predict {', '.join(dropped)}, as the incumbent {champion} does: slots "
            "that ask for it would lose it"
        )
    return notes


def _comparison_notes(
    champion: str, incumbent: Bundle | None, unjudged: str, test: Dataset, test_from: int
) -> list[str]:
    """Describe caveats of the comparison with the incumbent."""
    if unjudged:
        return [describe_unevaluated(champion, unjudged)]
    if incumbent is None or incumbent.manifest.window.ts_to <= test_from:
        return []
    share = float(np.mean(test.t < incumbent.manifest.window.ts_to))
    return [
        f"the incumbent {incumbent.version} learned from {share:.0%} of the test requests, "
        "so the comparison favours it"
    ]


def _tuning_notes(settings: TrainSettings, test_from: int) -> list[str]:
    """Describe whether settings were tuned, and whether tuning saw the test part."""
    if not settings.tuned:
        return []
    if settings.tuned_until <= test_from:
        return [settings.tuned]
    return [
        f"{settings.tuned}: this reaches into the test part, which begins at "
        f"{to_iso(test_from)}, so figures flatter the model"
    ]


def describe_training(
    slot: Slot,
    material: Material,
    data: Dataset,
    split: Split,
    parts: Parts,
    plan: CandidatePlan,
    dropped: int,
    settings: TrainSettings,
    now: int,
) -> dict[str, Any]:
    """Return facts about the training for its report, as JSON."""
    borders = {
        "from": parts.train.t[0],
        "train_until": split.train_until,
        "test_from": split.validation_until,
        "test_to": data.t[-1],
    }
    return {
        "slot": slot.name,
        "objective": dict(slot.objective),
        "source": "logged answers" if material.is_logged else "what people chose",
        "sources": plan.sources,
        "live_columns": list(plan.live.names),
        "scheme": dict(parts.train.scheme),
        "window": {name: int(moment) for name, moment in borders.items()},
        "window_text": {name: to_iso(int(moment)) for name, moment in borders.items()},
        "requests": {
            "train": parts.train.requests,
            "validation": parts.validation.requests,
            "test": parts.test.requests,
        },
        "dropped": {
            "label window reaches over a border": split.dropped,
            "above the limit": dropped,
        },
        "items_as_of": to_iso(now),
        "seed": settings.seed,
        "shuffled": settings.shuffle,
        "tuned": settings.tuned or "no",
    }


def write_model_bundle(
    folder: Path,
    material: Material,
    features: FeatureSet,
    fitted: FittedModel,
    retrieval: RetrievalChoice,
    slot: Slot,
    settings: TrainSettings,
    now: int,
    about: Mapping[str, Any],
    evaluation: Evaluation,
    decision: Decision,
    card: str,
) -> None:
    """Write the bundle, with an index as of now."""
    write_index(folder / "index", material.events, material.items, now, meaning=settings.meaning)
    tower = None
    if retrieval.learner is not None:
        space = retrieval.learner.add_inverted_file(
            retrieval.learner.space(Index.open(folder / "index"), now)
        )
        space.vectors.write(folder / "index")
        tower = retrieval.learner.export_files(space)
    write_bundle(
        folder / "bundle",
        created_at=now,
        features=features,
        encoder=fitted.encoder,
        models=fitted.exported,
        heads=_bundle_heads(fitted),
        index=folder / "index",
        golden=fitted.golden,
        calibration=fitted.calibration,
        formula={head: weight for head, weight in slot.objective.items() if head in fitted.models},
        window=Window(about["window"]["from"], about["window"]["test_from"]),
        metrics={
            **evaluation.to_dict(),
            "decision": list(decision.reasons),
            "accepted": decision.promote,
            "about": dict(about),
            "parity": fitted.parity,
        },
        libraries={"lightgbm": lightgbm.__version__, "pyarrow": str(pa.__version__)},
        card=card,
        trees={
            head: export_trees(model)
            for head, model in fitted.models.items()
            if isinstance(model, Gbdt)
        },
        tower=tower,
    )
