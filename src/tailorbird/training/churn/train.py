"""Training of a churn model, start to end: events → activity → grid of people at moments → check
for leaks → walk over origins → figures → gate → fit on all that is known → bundle → registry.

`study` is the part that needs no registry: benchmarks call it with windows of their own.
"""

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import lightgbm
import numpy as np
import pyarrow as pa

from tailorbird.errors import BundleError, LeakError, NotReadyError, UsageError
from tailorbird.events import DAY, Clock, to_iso
from tailorbird.features import FeatureSet
from tailorbird.features.attached import AttachedEvents
from tailorbird.lake import Lake, span
from tailorbird.models.export import TOLERANCE, score_onnx
from tailorbird.models.gbdt import Gbdt
from tailorbird.places import Place
from tailorbird.ranking.churn import Churn
from tailorbird.ranking.churn_bundle import ChurnPlan, Part, space_files, write_churn_bundle
from tailorbird.ranking.churn_columns import columns_for
from tailorbird.ranking.tower import Space
from tailorbird.registry import Registry
from tailorbird.registry import Window as Span
from tailorbird.training.bootstrap import Interval
from tailorbird.training.churn.card import churn_card
from tailorbird.training.churn.contact import curve_of
from tailorbird.training.churn.fit import (
    BLEND,
    HAZARD,
    PURCHASES,
    FitSettings,
    Fitted,
    Grid,
    fit_at,
    labelled,
)
from tailorbird.training.churn.incumbent import (
    RECIPE,
    Against,
    Recipe,
    against_champion,
    champion_of,
)
from tailorbird.training.churn.judge import CutFigures, flat, judge
from tailorbird.training.churn.labels import Activity, Window, activity_of
from tailorbird.training.churn.report import ChurnReport, told_of_choices, told_of_days
from tailorbird.training.churn.rows import People, needed_columns
from tailorbird.training.churn.vectors import better, tower_before
from tailorbird.training.churn.walk import (
    CUTS_MAX,
    Choice,
    Cut,
    choose_by,
    grid_of,
    importance_of,
    read_until,
    starts_of,
    walk,
    windows_of,
)
from tailorbird.training.gate import Decision, Evidence, Rival, decide, not_judged
from tailorbird.training.giveaways import giveaways, notes_on_ahead
from tailorbird.training.rows import log_end
from tailorbird.training.settings import Progress
from tailorbird.training.towers import Learner, TowerSettings
from tailorbird.training.trees import trees_of
from tailorbird.training.watch import Watch

JUDGED_MAX = 6
PARITY_ROWS = (
    10_000  # of people at moments, over the whole history, on which model and export are compared
)
KNOWN_BY = "their time and when they came in (received_at)"
USUAL_ROWS = 2_000  # of people as they are now, of which the bundle keeps some


@dataclass(frozen=True)
class ChurnSettings:
    """How a churn model is trained.

    Attributes:
        cuts: at how many origins, at most, what is learned is held against what came; see
            `walk.windows_of`. The newest `JUDGED_MAX` get figures; those before only choose and
            calibrate for them.
        grid_rows: of people at moments, in all; asked: people scored at an origin.
        lateness_us: how late events may come: what is younger teaches nothing.
        vectors: of which size a tower is tried; None tries none.
        replicates: of the intervals.
    """

    fit: FitSettings = field(default_factory=FitSettings)
    cuts: int = CUTS_MAX
    grid_rows: int = 600_000
    asked: int = 50_000
    lateness_us: int = DAY
    vectors: TowerSettings | None = None
    replicates: int = 500


@dataclass(frozen=True)
class Study:
    """What was learned and seen at past origins.

    Attributes:
        figures: of the newest cuts, oldest first.
        leaks: columns that look as if they knew the answer.
        ahead: columns that alone tell far more than all others, with why.
        vectors: whether people's vectors are among the columns, and why, as a sentence; "" where
            none were tried.
        tower: files of their tower, if they are.
    """

    activity: Activity
    people: People
    grid: Grid
    cuts: list[Cut]
    figures: list[CutFigures]
    leaks: dict[str, str]
    ahead: dict[str, str]
    vectors: str = ""
    tower: Mapping[str, bytes] | None = None


def study(
    features: FeatureSet,
    churn: Churn,
    events: pa.Table,
    *,
    now: int,
    settings: ChurnSettings,
    windows: Sequence[Window] = (),
    learn_until: int = 0,
    progress: Progress = lambda stage, done, total: None,
) -> Study:
    """Learn at past origins and see what came.

    Args:
        events: `rows.needed_columns`, all that is known at `now`.
        windows: to be walked over, oldest first; by default those of `windows_of`.
        learn_until: rows are of moments before it; 0 for all. Only for holding the last part back
            as a whole.

    Raises:
        LeakError: a column looks past the origin; names it.
        NotReadyError: too little is known.
    """
    activity = activity_of(events, churn, now, settings.lateness_us)
    columns = columns_for(churn, features)
    people = People(features, events, activity, columns)
    known = activity.as_of(learn_until) if learn_until else activity
    windows = windows or windows_of(known, churn, settings.cuts)
    _refuse_leaks(people, activity, churn, windows)
    learner, space, told = _tower(features, events, activity, windows[0].origin, settings)
    wide = people if space is None else people.reading(columns, space)
    whole = grid_of(
        wide, known, churn, rows_max=settings.grid_rows, seed=settings.fit.seed, tell=progress
    )
    grid = whole if space is None else replace(whole, table=whole.table.only(columns))
    cuts = walk(
        grid,
        people,
        activity,
        churn,
        windows,
        settings.fit,
        asked_max=settings.asked,
        tell=progress,
    )
    tower = None
    if space is not None and learner is not None:
        by_vectors = walk(
            whole,
            wide,
            activity,
            churn,
            windows,
            settings.fit,
            asked_max=settings.asked,
            tell=progress,
        )
        kept, told = better(cuts, by_vectors, settings.fit.seed)
        if kept:
            people, grid, cuts, tower = wide, whole, by_vectors, learner.files(space)
    figures, judged = [], cuts[-JUDGED_MAX:]
    progress("figures", 0, len(judged))
    for place, cut in enumerate(judged):
        figures.append(judge(cut, replicates=settings.replicates, seed=settings.fit.seed))
        progress("figures", place + 1, len(judged))
    last = cuts[-1]
    matrix, label = labelled(
        last.fitted,
        grid,
        activity.as_of(last.scored.window.origin),
        last.scored.window,
        settings.fit,
    )
    told_away = giveaways(last.fitted.encoder.names, matrix, label)
    # Recency, frequency and age may well say most, as baselines do.
    ahead = {
        name: why
        for name, why in told_away.told_of_ahead("leaving").items()
        if name not in churn.rfm
    }
    return Study(activity, people, grid, cuts, figures, told_away.known, ahead, told, tower)


def _tower(
    features: FeatureSet, events: pa.Table, activity: Activity, origin: int, settings: ChurnSettings
) -> tuple[Learner | None, Space | None, str]:
    """A tower as of the first origin, or why there is none."""
    if settings.vectors is None:
        return None, None, ""
    try:
        return *tower_before(
            features, events, activity.people, origin, settings.vectors, settings.fit.seed
        ), ""
    except UsageError as error:
        return None, None, f"vectors of people were not tried: {error.message}"


def _refuse_leaks(
    people: People, activity: Activity, churn: Churn, windows: Sequence[Window]
) -> None:
    origins = list(dict.fromkeys((windows[len(windows) // 2].origin, windows[-1].origin)))
    present = [activity.as_of(origin).present(origin, churn.active_us) for origin in origins]
    asked = [(origin, who) for origin, who in zip(origins, present, strict=True) if len(who)]
    found = people.leaks([origin for origin, _ in asked], [who for _, who in asked])
    if refused := {name: why for name, why in found.items() if name not in churn.trust}:
        name, why = next(iter(refused.items()))
        more = f" (and {', '.join(list(refused)[1:])})" if len(refused) > 1 else ""
        fix = (
            f'leave_out=("{name}",) in churn.py, or trust=("{name}",) if it cannot know what '
            f"came later, or load profiles with {KNOWN_BY}"
        )
        raise LeakError(
            f"column {name}{more} looks past the origin: {why}",
            where=f"churn {churn.name}",
            fix=fix,
        )


def train_churn(
    features: FeatureSet,
    churn: Churn,
    *,
    lake: Place,
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
        registry: of this model alone: `Paths.churn(name)`.
        owner: who answers for the model; stands in its card.
        reports: folder that gets a page, `churn-NAME-VERSION.html`; None writes none.

    Raises:
        LeakError, NotReadyError: see `study`.
    """
    watch = Watch(progress)
    now, store = clock.now(), Registry(registry, clock=clock)
    watch.tell("read", 0, 1)
    source = Lake(lake).pinned()
    champion = champion_of(store)
    events = AttachedEvents(source, features, *champion.features).table(
        needed_columns(features, *champion.features), span(ts_to=now)
    )
    if not events.num_rows:
        raise NotReadyError(
            "the lake holds no event yet", where=str(lake), fix="tailorbird import FORMAT PATH"
        )
    watch.tell("read", 1, 1)
    until = min(now, log_end(events) + settings.lateness_us)
    found = study(features, churn, events, now=until, settings=settings, progress=watch.tell)
    activity, figures = found.activity, found.figures
    window = Window(activity.known, churn.gap_us, churn.window_us)
    watch.tell("last fit", 0, 1)
    fitted = fit_at(found.grid, activity, window, settings.fit, churn.rfm)
    choice = choose_by(found.cuts, fitted.candidates, window, settings.fit.half_life, fitted.counts)
    watch.tell("last fit", 1, 1)
    watch.tell("incumbent", 0, 1)
    against = against_champion(champion, churn, found.people, activity, found.cuts)
    watch.tell("incumbent", 1, 1)
    decision = _decide(figures[-1], found, against)
    told = (
        *((found.vectors,) if found.vectors else ()),
        *_notes(churn, found, window, choice),
        *_notes_on(against, decision),
    )
    about = {
        **_about(churn, found, window, fitted),
        "owner": owner,
        RECIPE: Recipe(churn, settings.fit, settings.grid_rows).plain(),
    }
    curve = curve_of(found.cuts[-1].probability, found.cuts[-1].gone, churn.contact)
    importance = importance_of(fitted, choice.model)
    with tempfile.TemporaryDirectory(prefix="tailorbird-churn-") as folder:
        _write(
            Path(folder) / "bundle",
            features,
            churn,
            found,
            fitted,
            choice,
            decision,
            about,
            told,
            now,
            by,
        )
        version = store.add(Path(folder) / "bundle", by=by, why=decision.reason)
    promoted = decision.promote and promote
    if promoted:
        store.promote(version, by=by, why=decision.reason)
    report = ChurnReport(
        version,
        promoted,
        against.version,
        decision,
        figures,
        choice,
        curve,
        importance,
        told,
        about,
        watch.seconds,
    )
    if reports is None:
        return report
    from tailorbird.training.churn.page import (
        write_page,
    )  # half a second of matplotlib, for those who want pictures

    return replace(
        report, report=write_page(reports / f"churn-{churn.name}-{version}.html", report, churn)
    )


def _decide(last: CutFigures, found: Study, against: Against) -> Decision:
    over = tuple(
        Rival(name, _turned(each["log_loss"]), each["log_loss"].value)
        for name, each in last.differences.items()
    )
    both = int(min(last.cut.gone.sum(), (~last.cut.gone).sum()))
    incumbent = None if against.gain is None else Rival(against.version, against.gain, 0.0)
    unjudged = not_judged(against.version, against.unjudged) if against.unjudged else ""
    return decide(
        Evidence("log loss", over, incumbent, unjudged=unjudged, people=both, leaks=found.leaks)
    )


def _notes_on(against: Against, decision: Decision) -> list[str]:
    note = not_judged(against.version, against.unjudged) if against.unjudged else against.note
    return [note] if note and note not in decision.reasons else []


def _turned(difference: Interval) -> Interval:
    """Of ours − theirs, where less is better: what we gain."""
    return Interval(-difference.value, -difference.high, -difference.low)


def _notes(churn: Churn, found: Study, window: Window, choice: Choice) -> tuple[str, ...]:
    notes = []
    judged = found.cuts[-1].scored.window.length
    if judged != window.length:
        notes.append(
            "the history is too short for the window: figures are of windows of "
            f"{judged / DAY:.0f} days, while "
            f"{window.length / DAY:.0f} are predicted"
        )
    if merged := found.cuts[-1].merged:
        notes.append(
            f"{merged:,} people were merged into another user within the last window: left "
            "out, as what became of them is unknown"
        )
    if churn.gap_us and set(HAZARD) & set(found.cuts[-1].fitted.models):
        corrected = (
            ""
            if choice.table.name == "none"
            else f"; calibration on past origins ({choice.table.name}) corrects the level"
        )
        notes.append(f"hazards are read as if nobody came back within the gap{corrected}")
    notes.extend(notes_on_ahead(found.ahead))
    notes.extend(told_of_choices(found.cuts[-1].choice, choice, churn))
    if told := told_of_days(churn, found.grid, found.activity):
        notes.append(told)
    if churn.trust:
        notes.append(
            "trusted though they may read profiles of which nobody knows when what they say "
            f"was known: {', '.join(churn.trust)}"
        )
    return tuple(notes)


def _about(churn: Churn, found: Study, window: Window, fitted: Fitted) -> dict[str, Any]:
    return {
        "churn": churn.name,
        "definition": churn.told(),
        "window": {"from": found.activity.first, "to": found.activity.known},
        "window_text": {"from": to_iso(found.activity.first), "to": to_iso(found.activity.known)},
        "people": len(found.activity.people),
        "asked_now": len(found.activity.present(window.origin, churn.active_us)),
        "origins": [to_iso(each.cut.scored.window.origin) for each in found.figures],
        "rows": dict(fitted.rows),
        "columns": fitted.encoder.told(),
    }


def _write(
    folder: Path,
    features: FeatureSet,
    churn: Churn,
    found: Study,
    fitted: Fitted,
    choice: Choice,
    decision: Decision,
    about: Mapping[str, Any],
    notes: Sequence[str],
    now: int,
    by: str,
) -> None:
    """Write the bundle, after holding each model against its export."""
    plan = plan_of(churn, fitted, choice, read_until(found.activity.first, found.activity.known))
    newest = found.grid.moment == found.grid.moment.max()
    present = fitted.matrix(found.grid.table.take(np.flatnonzero(newest)[:USUAL_ROWS]))
    spread = np.unique(np.linspace(0, len(newest) - 1, PARITY_ROWS).astype(np.intp))
    models = {part.head: fitted.export(part.head) for part in plan.parts}
    compared = fitted.matrix(found.grid.table.take(spread))
    parity = max(_parity(fitted, name, data, compared) for name, data in models.items())
    figures = found.figures[-1]
    write_churn_bundle(
        folder,
        plan,
        created_at=now,
        features=features,
        encoder=fitted.encoder,
        models=models,
        calibration=choice.table,
        golden=present,
        window=Span(found.activity.first, found.activity.known),
        metrics={
            "results": flat(figures.results),
            "decision": list(decision.reasons),
            "about": dict(about),
            "parity": parity,
        },
        libraries={"lightgbm": lightgbm.__version__, "pyarrow": str(pa.__version__)},
        card=churn_card(churn, figures, choice, decision, about, notes, by),
        space=space_files(found.people.space, found.tower)
        if found.people.space is not None and found.tower is not None
        else None,
        trees={
            part.head: trees_of(model)
            for part in plan.parts
            if isinstance(model := fitted.models[part.head], Gbdt)
        },
    )


def plan_of(churn: Churn, fitted: Fitted, choice: Choice, until: int) -> ChurnPlan:
    """How a bundle answers by what was learned, with the models of the choice alone; no columns are
    read after `until`.
    """
    single = (
        [name for name in fitted.candidates if name != BLEND]
        if choice.model == BLEND
        else [choice.model]
    )
    parts = [Part(name, "hazard" if name in HAZARD else "direct") for name in single]
    if choice.count.startswith("trees"):
        parts.append(Part(PURCHASES, "count"))
    return ChurnPlan(
        churn.name,
        tuple(churn.types),
        churn.window_us,
        churn.gap_us,
        churn.active_us,
        churn.period_us,
        len(starts_of(Window(0, churn.gap_us, churn.window_us), churn, 1)),
        until,
        tuple(parts),
        choice.scale,
        fitted.bg_nbd if choice.count.endswith("bg_nbd") else None,
        fitted.pareto_nbd if choice.count == "pareto_nbd" else None,
    )


def _parity(fitted: Fitted, name: str, data: bytes, matrix: np.ndarray) -> float:
    """The largest difference between a model and its export.

    Raises:
        BundleError: it is above the tolerance, relative to the value's size for a count.
    """
    ours = fitted.models[name].score(matrix)
    worst = float(
        (np.abs(ours - score_onnx(data, matrix)) / np.maximum(1.0, np.abs(ours))).max(initial=0.0)
    )
    if not worst <= TOLERANCE:
        raise BundleError(
            f"the exported model {name} differs from the trained one by {worst:.2g} (at most "
            f"{TOLERANCE:g} is allowed)"
        )
    return worst
