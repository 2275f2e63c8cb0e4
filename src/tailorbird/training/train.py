"""Training, start to end, read in one sitting: window → requests → split → candidates → features →
heads → judgement → gate → registry.

Everything is cut by time: heads learn from the first part, early stopping and calibration look at
the second, every figure is of the third. Candidates are those that servers would have had at each
request's moment, in all three parts. Where the gate refuses the model and nothing that was judged
serves yet, the best judged baseline becomes the champion.
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
from tailorbird.lake.versions import plain
from tailorbird.models.gbdt import Gbdt
from tailorbird.places import Place
from tailorbird.ranking.baseline import default_baselines
from tailorbird.ranking.bundle import Bundle, write_bundle
from tailorbird.ranking.live import LiveColumns
from tailorbird.ranking.slot import Slot
from tailorbird.registry import Head, Registry, Window
from tailorbird.retrieval import Index
from tailorbird.training.baseline import serve_best_baseline
from tailorbird.training.card import model_card
from tailorbird.training.clicks import sampled
from tailorbird.training.dataset import Dataset
from tailorbird.training.dated_back import told_of_dated_back
from tailorbird.training.evaluate import Scorer, foreign, joined_columns, judge, version_scorer
from tailorbird.training.fit import Fitted, Parts, fit
from tailorbird.training.gate import SUPERIORITY, Decision, Evidence, Rival, decide, not_judged
from tailorbird.training.incremental import working
from tailorbird.training.indexes import IndexSeries, build_series, write_index
from tailorbird.training.judge import PRIMARY, Evaluation, K
from tailorbird.training.replaying import Replay, live_columns
from tailorbird.training.resuming import Unfinished
from tailorbird.training.retrieval import Chosen, choose_retrieval
from tailorbird.training.rows import NEGATIVES, Material, load_material
from tailorbird.training.settings import QUICK_ANSWERS, Progress, TrainReport, TrainSettings
from tailorbird.training.split import Split, split_at, split_by_time
from tailorbird.training.thinned import thinned
from tailorbird.training.trees import trees_of
from tailorbird.training.watch import Watch

NAME = "tailorbird"


def train(
    features: FeatureSet,
    slot: Slot,
    *,
    lake: Place,
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
    """Train a model for a slot, judge it, and promote it if it passes the gate.

    Args:
        heads: targets that other slots ask for. There is one champion for all slots, so it carries
            their heads too, learned from this slot's rows; they have no part in the judgement or
            the gate. One with too few positives is left out, and said so.
        owner: who answers for the model; stands in its card.
        reports: folder that gets a page with tables and pictures, `VERSION.html`; None writes none.
        work: folder that nets keep things in between trainings: what a killed one goes on from,
            what the next one begins with, logs.
        promote: False keeps the model without promoting it, whatever the gate says.
        progress: called with (stage, done, total).

    Raises:
        NotReadyError: the lake has nothing to learn from yet.
        UsageError: what there is cannot be split or told apart.
        LockedError: another process trains a net for this slot.
    """
    with working(work, features, slot, (settings or TrainSettings()).hurried(), clock) as (
        unfinished,
        asked,
    ):
        return _train(
            features,
            slot,
            lake,
            registry,
            clock,
            reports,
            asked,
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
    lake: Place,
    registry: Path,
    clock: Clock,
    reports: Path | None,
    settings: TrainSettings,
    heads: Sequence[str],
    by: str,
    owner: str,
    promote: bool,
    unfinished: Unfinished | None,
    progress: Progress,
) -> TrainReport:
    now = clock.now() if unfinished is None else unfinished.now
    watch = Watch(progress)
    store = Registry(registry, clock=clock)

    watch.tell("read", 0, 1)
    champion, bundle, unjudged = _champion(store, features, slot)
    beside = [bundle.features] if bundle is not None and bundle.features is not None else []
    source = Lake(lake).pinned()  # what is loaded while this runs is for the next one
    material = load_material(source, features, slot, settings.wanted(now, heads), beside=beside)
    data = material.data
    split = split_requests(data, material, settings)
    watch.tell("read", 1, 1)
    chosen = _retrieval(material, features, slot, split, settings, watch)
    series = chosen.series
    rivals = _rivals(store, bundle, features, slot)
    plan = _Plan(live_columns(features, slot), default_baselines(slot.sources), chosen, slot)
    parts, dropped = _parts(material, features, data, split, plan, settings, watch)
    fitted = fit(
        material.events,
        features,
        parts,
        series,
        slot.objective,
        settings,
        position=material.logged and slot.denominator == "answer",
        label_window=material.label_window,
        progress=watch.tell,
        heads=heads,
    )
    before, recipe = split.validation_until, recipe_of(features, slot, settings)
    evaluation = _judged(
        material, features, parts, plan, series, fitted, rivals, slot, before, settings, watch
    )
    told_of_it = not_judged(champion, unjudged) if unjudged else ""
    judged = _Judged(
        evaluation, fitted, champion if bundle is not None else "", told_of_it, rivals, recipe
    )
    decision = decide(judged.evidence(store))
    told = (
        material.why,
        *(
            (f"went on with the training that was begun at {to_iso(now)} and cut short",)
            if unfinished and unfinished.resumed
            else ()
        ),
        *((chosen.told,) if chosen.told else ()),
        *((settings.budget["told"],) if settings.budget else ()),
        *_tuned(settings, before),
        *_sampled(parts, dropped),
        *fitted.notes,
        *(f"{what}: {why}" for what, why in told_of_dated_back(source, features, ("user",))),
        *_further(fitted, slot, store, champion),
        *_fairness(champion, bundle, unjudged, parts.test, before),
    )
    notes = tuple(note for note in told if note not in decision.reasons)
    about = {
        **_about(slot, material, data, split, parts, plan, dropped, settings, now),
        **({"budget": dict(settings.budget)} if settings.budget else {}),
        "recipe": recipe,
        "decided_by": decision.by,
        "anchor": judged.anchor_after(store, decision),
        "architecture": fitted.architecture,
        "owner": owner,
        "columns": fitted.encoder.told(),
        "calibration": {head: each.told for head, each in fitted.chosen.items()},
        **({"retrieval": dict(chosen.figures)} if chosen.figures else {}),
        **_read_from(source, data),
    }
    watch.tell("bundle", 0, 1)
    card = model_card(slot, evaluation, decision, about, notes, by)
    with tempfile.TemporaryDirectory(prefix="tailorbird-bundle-") as folder:
        _write(
            Path(folder),
            material,
            features,
            fitted,
            chosen,
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
        unfinished.done()
    promoted = decision.promote and promote
    instead = ""
    if promoted:
        store.promote(version, by=by, why=decision.reason)
    elif not decision.promote and promote:
        instead = serve_best_baseline(
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
    watch.tell("bundle", 1, 1)

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
        watch.seconds,
    )
    report = replace(report, instead=instead)
    return (
        report
        if reports is None
        else _on_a_page(report, fitted, bundle, len(material.codes), reports)
    )


@dataclass(frozen=True)
class _Plan:
    """Where candidates come from and which columns are read live, in all parts alike."""

    live: LiveColumns
    baselines: Sequence[str]
    chosen: Chosen
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
            near=self.chosen.near(),
        )

    @property
    def sources(self) -> dict[str, int]:
        return self.chosen.sources(self.slot)


def _retrieval(
    material: Material,
    features: FeatureSet,
    slot: Slot,
    split: Split,
    settings: TrainSettings,
    watch: Watch,
) -> Chosen:
    """The indexes over time, with vectors where they were asked for and found more."""
    moments = index_moments(material.data, split, settings)
    series = build_series(
        material.events, material.items, moments, progress=partial(watch.tell, "index")
    )
    return choose_retrieval(
        material,
        features,
        slot,
        series,
        (split.train_until, split.validation_until),
        settings.retrieval,
        settings.tower,
        held=material.data.take(split.validation),
        seed=settings.seed,
        tell=partial(watch.tell, "vectors"),
    )


def _on_a_page(
    report: TrainReport, fitted: Fitted, incumbent: Bundle | None, items: int, reports: Path
) -> TrainReport:
    """The report with what an answer costs by each that was judged, and the page that it is written
    on.
    """
    from tailorbird.training.pareto import (
        baseline_us,
        bundle_us,
        model_us,
        priced,
    )  # half a second of matplotlib, for who wants pictures
    from tailorbird.training.report import write_report

    looked_up = baseline_us(items)
    us = {
        name: looked_up
        for name in report.evaluation.figures
        if name not in (NAME, report.incumbent)
    }
    us[NAME] = model_us(fitted.exported, _heads(fitted), fitted.golden)
    if incumbent is not None:
        us[report.incumbent] = bundle_us(incumbent)
    report = replace(report, priced=tuple(one.plain() for one in priced(report.evaluation, us)))
    return replace(
        report, report=write_report(reports / f"{report.version}.html", report, fitted.models)
    )


def _sampled(parts: Parts, dropped: int) -> list[str]:
    """What was left out so that a training keeps to its time and memory."""
    if not dropped:
        return []
    learned = parts.train.requests
    return [
        f"learned from {learned:,} of {learned + dropped:,} requests, drawn evenly over the "
        "time; --requests says how many"
    ]


def _heads(fitted: Fitted) -> list[Head]:
    """Where a bundle finds each head."""
    return [Head(head, at.file, column=at.column) for head, at in fitted.places.items()]


def _read_from(source: Lake, data: Dataset) -> dict[str, Any]:
    """By which the set can be drawn again: `Lake(path, at=versions.from_plain(about["lake"]))`
    gives the same rows.
    """
    return {"lake": plain(source.at or {}), "rows_digest": data.digest()}


def split_requests(data: Dataset, material: Material, settings: TrainSettings) -> Split:
    """Cut the requests at the borders that were given, or by shares of them."""
    gap = material.label_window
    if settings.test_from:
        return split_at(
            data.t, settings.validation_from or settings.test_from, settings.test_from, gap=gap
        )
    return split_by_time(data.t, gap=gap)


def index_moments(data: Dataset, split: Split, settings: TrainSettings) -> list[int]:
    """Return when indexes are made: before the first request, over the training part, and at both
    borders.
    """
    places = np.linspace(0, len(split.train), settings.index_parts + 1).astype(int)[:-1]
    return [
        *(int(data.t[split.train[place]]) for place in places),
        split.train_until,
        split.validation_until,
    ]


def _parts(
    material: Material,
    features: FeatureSet,
    data: Dataset,
    split: Split,
    plan: _Plan,
    settings: TrainSettings,
    watch: Watch,
) -> tuple[Parts, int]:
    """The rows of the three parts, those of the test part without candidates yet, and how many
    training requests were left out.
    """
    limit = settings.requests
    if material.logged:  # as many rows as drawn requests would have
        limit = limit * (NEGATIVES + 1) // max(round(data.rows / max(data.requests, 1)), 1)
        limit = min(limit, QUICK_ANSWERS) if settings.quick else limit
    train = thinned(split.train, limit, settings.seed)
    held = thinned(split.validation, settings.test_requests, settings.seed)
    test = thinned(split.test, settings.test_requests, settings.seed)
    replay, told = plan.replay(material, features, plan.live), partial(watch.tell, "candidates")
    both = data.take(np.concatenate([train, held]))
    if material.scheme is None:
        rows = replace(both, live=replay.of_rows(both, progress=told)[0])
    else:
        rows = material.labelled(sampled(both, replay, material.scheme, NEGATIVES, told))
    border = int(np.searchsorted(rows.t, split.train_until))
    learned, watched = rows.take(np.arange(border)), rows.take(np.arange(border, rows.requests))
    if not learned.requests or not watched.requests:
        raise UsageError(
            "no request is left to learn from, or to watch", fix="train on a longer window"
        )
    known = learned.known_at(split.train_until), watched.known_at(split.validation_until)
    return Parts(*known, data.take(test), plan.live), len(split.train) - len(train)


@dataclass(frozen=True)
class _Rivals:
    """Bundles of the registry that are judged beside the new model: the champion, and the last that
    won by superiority.
    """

    bundles: Mapping[str, Bundle]
    champion: str = ""
    anchor: str = ""


def _rivals(store: Registry, champion: Bundle | None, features: FeatureSet, slot: Slot) -> _Rivals:
    if champion is None:
        return _Rivals({})
    named = str(champion.manifest.metrics.get("about", {}).get("anchor", ""))
    bundles = {champion.version: champion}
    known = {info.version: info.path for info in store.versions()}
    if named and named != champion.version and named in known:
        try:
            anchor = Bundle.load(known[named], schema_hash=None)
        except BundleError:
            return _Rivals(bundles, champion.version)
        readable = anchor.features is not None or anchor.schema_hash == features.schema_hash
        if readable and not foreign(anchor, slot):
            return _Rivals(bundles | {named: anchor}, champion.version, named)
    return _Rivals(bundles, champion.version)


def _judged(
    material: Material,
    features: FeatureSet,
    parts: Parts,
    plan: _Plan,
    series: IndexSeries,
    fitted: Fitted,
    rivals: _Rivals,
    slot: Slot,
    before: int,
    settings: TrainSettings,
    watch: Watch,
) -> Evaluation:
    """The new model, its rivals and all baselines on the test part."""
    live = joined_columns([plan.live, *(bundle.encoder.live for bundle in rivals.bundles.values())])
    scorers: dict[str, Scorer] = {
        NAME: partial(fitted.score, series=series, objective=slot.objective, live=live)
    }
    for version, bundle in rivals.bundles.items():
        scorers[version] = version_scorer(
            bundle, series, slot.objective, live, features, material.events
        )
    replay = plan.replay(material, features, live, baselines=plan.baselines)
    return judge(
        material,
        features,
        parts.test,
        replay,
        plan.sources,
        scorers,
        slot.objective,
        before=before,
        seed=settings.seed,
        progress=watch.tell,
    )


@dataclass(frozen=True)
class _Judged:
    """What came of the judgement, as the gate looks at it."""

    evaluation: Evaluation
    fitted: Fitted
    champion: str
    unjudged: str
    rivals: _Rivals
    recipe: str

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
        named = self.champion or evaluation.best_baseline
        coverage = f"coverage_{K}"
        figures = evaluation.figures
        return Evidence(
            PRIMARY,
            baselines,
            incumbent,
            anchor,
            self._is_fresher(),
            self.unjudged,
            evaluation.people,
            {head: each.mean_ratio for head, each in evaluation.heads.items()},
            figures[NAME][coverage].value,
            figures[named][coverage].value if named in figures else 0.0,
            self.fitted.leaks,
        )

    def anchor_after(self, store: Registry, decision: Decision) -> str:
        """The last model that won by superiority, once this one is the champion; "" for this one
        itself.
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


def recipe_of(features: FeatureSet, slot: Slot, settings: TrainSettings) -> str:
    """Return a hash of how a model is made, whatever data it learns from: two with the same one
    differ in freshness alone.
    """
    told = {
        "schema": features.schema_hash,
        "slot": {
            name: repr(getattr(slot, name))
            for name in ("sources", "columns", "objective", "formula", "hide_seen", "rules")
        },
        "transforms": repr(features.transforms),
        "similarities": repr(features.similarities),
        "settings": {name: repr(getattr(settings, name)) for name in _OF_RECIPE},
    }
    return blake2b(msgspec.json.encode(told, order="sorted"), digest_size=8).hexdigest()


# Of the settings, what says how a model is made: not what it is made of, nor which draws were made.
_OF_RECIPE = (
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


def _champion(store: Registry, features: FeatureSet, slot: Slot) -> tuple[str, Bundle | None, str]:
    """The champion's version, its bundle if it can be judged on the slot, and else why not; an
    index without a model is no incumbent.
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
    why = foreign(bundle, slot)
    return path.name, None if why else bundle, why


def _further(fitted: Fitted, slot: Slot, store: Registry, champion: str) -> list[str]:
    """What other slots gain and lose by this model, which is judged on this slot alone."""
    notes = []
    if gained := [head for head in fitted.models if head not in slot.objective]:
        notes.append(
            f"carries {', '.join(gained)} for other slots, learned from the rows of slot "
            f"{slot.name}; the gate does not look at it"
        )
    before = next((info.heads for info in store.versions() if info.version == champion), ())
    if lost := [head for head in before if head not in fitted.models]:
        notes.append(
            f"does not predict {', '.join(lost)}, as the incumbent {champion} does: slots "
            "that ask for it would lose it"
        )
    return notes


def _fairness(
    champion: str, incumbent: Bundle | None, unjudged: str, test: Dataset, before: int
) -> list[str]:
    """What a reader must know of the comparison with the incumbent."""
    if unjudged:
        return [not_judged(champion, unjudged)]
    if incumbent is None or incumbent.manifest.window.ts_to <= before:
        return []
    share = float(np.mean(test.t < incumbent.manifest.window.ts_to))
    return [
        f"the incumbent {incumbent.version} learned from {share:.0%} of the test requests, "
        "so the comparison favours it"
    ]


def _tuned(settings: TrainSettings, before: int) -> list[str]:
    """Whether settings were tuned, and whether that saw what the model is judged on."""
    if not settings.tuned:
        return []
    if settings.tuned_until <= before:
        return [settings.tuned]
    return [
        f"{settings.tuned}: this reaches into the test part, which begins at "
        f"{to_iso(before)}, so figures flatter the model"
    ]


def _about(
    slot: Slot,
    material: Material,
    data: Dataset,
    split: Split,
    parts: Parts,
    plan: _Plan,
    dropped: int,
    settings: TrainSettings,
    now: int,
) -> dict[str, Any]:
    """What a reader must know to trust the figures, as JSON."""
    borders = {
        "from": parts.train.t[0],
        "train_until": split.train_until,
        "test_from": split.validation_until,
        "test_to": data.t[-1],
    }
    return {
        "slot": slot.name,
        "objective": dict(slot.objective),
        "source": "logged answers" if material.logged else "what people chose",
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


def _write(
    folder: Path,
    material: Material,
    features: FeatureSet,
    fitted: Fitted,
    chosen: Chosen,
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
    if chosen.learner is not None:
        space = chosen.learner.indexed(chosen.learner.space(Index.open(folder / "index"), now))
        space.vectors.write(folder / "index")
        tower = chosen.learner.files(space)
    write_bundle(
        folder / "bundle",
        created_at=now,
        features=features,
        encoder=fitted.encoder,
        models=fitted.exported,
        heads=_heads(fitted),
        index=folder / "index",
        golden=fitted.golden,
        calibration=fitted.calibration,
        formula={head: weight for head, weight in slot.objective.items() if head in fitted.models},
        window=Window(about["window"]["from"], about["window"]["test_from"]),
        metrics={
            **evaluation.plain(),
            "decision": list(decision.reasons),
            "about": dict(about),
            "parity": fitted.parity,
        },
        libraries={"lightgbm": lightgbm.__version__, "pyarrow": str(pa.__version__)},
        card=card,
        trees={
            head: trees_of(model)
            for head, model in fitted.models.items()
            if isinstance(model, Gbdt)
        },
        tower=tower,
    )
