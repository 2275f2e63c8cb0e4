"""Training, start to end, read in one sitting: window → requests → split → indexes → rows → features → heads → judgement → gate →
registry.

Everything is cut by time: heads learn from the first part, early stopping and calibration look at the second, every figure is of the
third. What is judged is the model over the index as of the test part's beginning; the bundle carries the same model over an index as of
now (`index_as_of` in its manifest), since a server that starts now should know today's items.
"""

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import lightgbm
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
from tailorbird.ranking.bundle import Bundle, write_bundle
from tailorbird.ranking.slot import Slot
from tailorbird.registry import Head, Registry, Window
from tailorbird.retrieval import Index
from tailorbird.training.card import model_card
from tailorbird.training.dataset import Dataset
from tailorbird.training.dated_back import told_of_dated_back
from tailorbird.training.evaluate import Scorer, foreign, judge, thinned, version_scorer
from tailorbird.training.fit import Fitted, Parts, fit
from tailorbird.training.gate import Decision, Evidence, decide, not_judged
from tailorbird.training.incremental import working
from tailorbird.training.indexes import IndexSeries, build_series, write_index
from tailorbird.training.item_to_item import Rolling
from tailorbird.training.judge import PRIMARY, Evaluation
from tailorbird.training.resuming import Unfinished
from tailorbird.training.retrieval import Chosen, choose_retrieval
from tailorbird.training.rows import Material, load_material
from tailorbird.training.settings import Progress, TrainReport, TrainSettings
from tailorbird.training.split import Split, split_at, split_by_time
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
        heads: targets that other slots ask for. There is one champion for all slots, so it carries their heads too, learned from this
            slot's rows; they have no part in the judgement or the gate. One with too few positives is left out, and said so.
        owner: who answers for the model; stands in its card.
        reports: folder that gets a page with tables and pictures, `VERSION.html`; None writes none.
        work: folder that nets keep things in between trainings: what a killed one goes on from, what the next one begins with, logs.
        promote: False keeps the model without promoting it, whatever the gate says.
        progress: called with (stage, done, total).

    Raises:
        NotReadyError: the lake has nothing to learn from yet.
        UsageError: what there is cannot be split or told apart.
        LockedError: another process trains a net for this slot.
    """
    with working(work, features, slot, (settings or TrainSettings()).hurried(), clock) as (unfinished, asked):
        return _train(features, slot, lake, registry, clock, reports, asked, heads, by, owner, promote, unfinished, progress)


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
    settings = replace(settings, index=settings.index_for(slot))
    now = clock.now() if unfinished is None else unfinished.now
    watch = Watch(progress)
    store = Registry(registry, clock=clock)

    watch.tell("read", 0, 1)
    champion, bundle, unjudged = _champion(store, features, slot)
    beside = [bundle.features] if bundle is not None and bundle.features is not None else []
    source = Lake(lake).pinned()  # what is loaded while this runs is for the next one
    material = load_material(source, features, slot, settings.wanted(now, heads), beside=beside)
    data = material.data
    split = _split(data, material, settings)
    watch.tell("read", 1, 1)
    chosen = _retrieval(material, features, slot, split, settings, watch)
    series = chosen.series
    rolling = series.rolling(material.codes)
    parts, dropped = _parts(material, data, split, series, rolling, settings)
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
    scorers: dict[str, Scorer] = {NAME: partial(fitted.score, series=series, objective=slot.objective)}
    if bundle is not None:
        scorers[champion] = version_scorer(bundle, series, slot.objective, features, material.events)
    before = split.validation_until
    evaluation = judge(
        material, features, parts.test, rolling, scorers, slot.objective, before=before, seed=settings.seed, progress=watch.tell
    )
    decision = _decide(evaluation, fitted, champion, unjudged)
    told = (
        material.why,
        *((f"went on with the training that was begun at {to_iso(now)} and cut short",) if unfinished and unfinished.resumed else ()),
        *((chosen.told,) if chosen.told else ()),
        *_tuned(settings, before),
        *fitted.notes,
        *(f"{what}: {why}" for what, why in told_of_dated_back(source, features, ("user",))),
        *_further(fitted, slot, store, champion),
        *_fairness(champion, bundle, unjudged, parts.test, before),
    )
    notes = tuple(note for note in told if note not in decision.reasons)
    about = {
        **_about(slot, material, data, split, parts, series, dropped, settings, now),
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
        _write(Path(folder), material, features, fitted, chosen, slot, settings, now, about, evaluation, decision, card)
        faults.at("train.before_add")
        version = store.add(Path(folder) / "bundle", by=by, why=decision.reason)
    faults.at("train.after_add")
    if unfinished is not None:
        unfinished.done()
    promoted = decision.promote and promote
    if promoted:
        store.promote(version, by=by, why=decision.reason)
    watch.tell("bundle", 1, 1)

    rows = {"train": parts.train.rows, "validation": parts.validation.rows, "test": evaluation.rows}
    report = TrainReport(version, promoted, champion, decision, evaluation, rows, tuple(fitted.models), notes, about, watch.seconds)
    return report if reports is None else _on_a_page(report, fitted, bundle, len(material.codes), reports)


def _retrieval(material: Material, features: FeatureSet, slot: Slot, split: Split, settings: TrainSettings, watch: Watch) -> Chosen:
    """The indexes over time, with vectors where they were asked for and found more."""
    series = build_series(
        material.events,
        material.items,
        _moments(material.data, split, settings),
        settings.index,
        room=settings.room,
        progress=partial(watch.tell, "index"),
    )
    return choose_retrieval(
        material,
        features,
        slot,
        series,
        (split.train_until, split.validation_until),
        settings.retrieval,
        settings.tower,
        seed=settings.seed,
        tell=partial(watch.tell, "vectors"),
    )


def _on_a_page(report: TrainReport, fitted: Fitted, incumbent: Bundle | None, items: int, reports: Path) -> TrainReport:
    """The report with what an answer costs by each that was judged, and the page that it is written on."""
    from tailorbird.training.pareto import baseline_us, bundle_us, model_us, priced  # half a second of matplotlib, for who wants pictures
    from tailorbird.training.report import write_report

    looked_up = baseline_us(items)
    us = {name: looked_up for name in report.evaluation.figures if name not in (NAME, report.incumbent)}
    us[NAME] = model_us(fitted.exported, _heads(fitted), fitted.golden)
    if incumbent is not None:
        us[report.incumbent] = bundle_us(incumbent)
    report = replace(report, priced=tuple(one.plain() for one in priced(report.evaluation, us)))
    return replace(report, report=write_report(reports / f"{report.version}.html", report, fitted.models))


def _heads(fitted: Fitted) -> list[Head]:
    """Where a bundle finds each head."""
    return [Head(head, at.file, column=at.column) for head, at in fitted.places.items()]


def _read_from(source: Lake, data: Dataset) -> dict[str, Any]:
    """By which the set can be drawn again: `Lake(path, at=versions.from_plain(about["lake"]))` gives the same rows."""
    return {"lake": plain(source.at or {}), "rows_digest": data.digest()}


def _split(data: Dataset, material: Material, settings: TrainSettings) -> Split:
    gap = material.label_window
    if settings.test_from:
        return split_at(data.t, settings.validation_from or settings.test_from, settings.test_from, gap=gap)
    return split_by_time(data.t, gap=gap)


def _moments(data: Dataset, split: Split, settings: TrainSettings) -> list[int]:
    """When indexes are built: over the training part, at both borders, and at regular times if asked.

    The first part of the training requests only fills the first index: a model that learns from rows without any would trust it less.
    """
    last = int(data.t[split.test[-1]])
    borders = [split.train_until, split.validation_until]
    if settings.index_every_us:
        every = settings.index_every_us
        return [*range(int(data.t[split.train[0]]) // every * every, last + 1, every), *borders]
    places = np.linspace(0, len(split.train), settings.index_parts + 2).astype(int)[1:-1]
    return [*(int(data.t[split.train[place]]) for place in places), *borders]


def _parts(
    material: Material, data: Dataset, split: Split, series: IndexSeries, rolling: Rolling, settings: TrainSettings
) -> tuple[Parts, int]:
    """The rows of the three parts, and how many training requests lie before the first index or beyond the number asked for."""
    train = split.train[series.place_of(data.t[split.train]) >= 0]
    train = thinned(train, settings.requests, settings.seed)
    if not len(train):
        raise UsageError("no training request is left after the first index", fix="train on a longer window")
    held = thinned(split.validation, settings.test_requests, settings.seed)
    test = thinned(split.test, settings.test_requests, settings.seed)
    learned, watched = (material.complete(data.take(chosen), rolling, sampled=True) for chosen in (train, held))
    known = learned.known_at(split.train_until), watched.known_at(split.validation_until)
    return Parts(*known, data.take(test)), len(split.train) - len(train)


def _champion(store: Registry, features: FeatureSet, slot: Slot) -> tuple[str, Bundle | None, str]:
    """The champion's version, its bundle if it can be judged on the slot, and else why not; an index without a model is no incumbent."""
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


def _decide(evaluation: Evaluation, fitted: Fitted, champion: str, unjudged: str) -> Decision:
    over = {name: gain for name, gain in evaluation.differences.items() if name != champion}
    against = evaluation.differences.get(champion)
    return decide(Evidence(PRIMARY, over, against, champion, unjudged, evaluation.people, fitted.leaks))


def _further(fitted: Fitted, slot: Slot, store: Registry, champion: str) -> list[str]:
    """What other slots gain and lose by this model, which is judged on this slot alone."""
    notes = []
    if gained := [head for head in fitted.models if head not in slot.objective]:
        notes.append(
            f"carries {', '.join(gained)} for other slots, learned from the rows of slot {slot.name}; the gate does not look at it"
        )
    before = next((info.heads for info in store.versions() if info.version == champion), ())
    if lost := [head for head in before if head not in fitted.models]:
        notes.append(f"does not predict {', '.join(lost)}, as the incumbent {champion} does: slots that ask for it would lose it")
    return notes


def _fairness(champion: str, incumbent: Bundle | None, unjudged: str, test: Dataset, before: int) -> list[str]:
    """What a reader must know of the comparison with the incumbent."""
    if unjudged:
        return [not_judged(champion, unjudged)]
    if incumbent is None or incumbent.manifest.window.ts_to <= before:
        return []
    share = float(np.mean(test.t < incumbent.manifest.window.ts_to))
    return [f"the incumbent {incumbent.version} learned from {share:.0%} of the test requests, so the comparison favours it"]


def _tuned(settings: TrainSettings, before: int) -> list[str]:
    """Whether settings were tuned, and whether that saw what the model is judged on."""
    if not settings.tuned:
        return []
    if settings.tuned_until <= before:
        return [settings.tuned]
    return [f"{settings.tuned}: this reaches into the test part, which begins at {to_iso(before)}, so figures flatter the model"]


def _about(
    slot: Slot,
    material: Material,
    data: Dataset,
    split: Split,
    parts: Parts,
    series: IndexSeries,
    dropped: int,
    settings: TrainSettings,
    now: int,
) -> dict[str, Any]:
    """What a reader must know to trust the figures, as JSON."""
    borders = {"from": parts.train.t[0], "train_until": split.train_until, "test_from": split.validation_until, "test_to": data.t[-1]}
    judged = series.moments[series.place_of(parts.test.t)]
    return {
        "slot": slot.name,
        "objective": dict(slot.objective),
        "source": "logged answers" if material.logged else "what people chose: candidates are drawn",
        "scheme": dict(parts.train.scheme),
        "window": {name: int(moment) for name, moment in borders.items()},
        "window_text": {name: to_iso(int(moment)) for name, moment in borders.items()},
        "requests": {"train": parts.train.requests, "validation": parts.validation.requests, "test": parts.test.requests},
        "dropped": {"label window reaches over a border": split.dropped, "before the first index or above the limit": dropped},
        "index_judged_as_of": [to_iso(int(judged.min())), to_iso(int(judged.max()))],
        "index_served_as_of": to_iso(now),
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
    write_index(folder / "index", material.events, material.items, now, settings.index)
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
        metrics={**evaluation.plain(), "decision": list(decision.reasons), "about": dict(about), "parity": fitted.parity},
        libraries={"lightgbm": lightgbm.__version__, "pyarrow": str(pa.__version__)},
        card=card,
        trees={head: trees_of(model) for head, model in fitted.models.items() if isinstance(model, Gbdt)},
        tower=tower,
    )
