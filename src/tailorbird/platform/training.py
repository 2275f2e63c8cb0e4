"""Training, evaluation, tuning and backtests of a project, as commands, notebooks and the trainer
call them.
"""

import getpass
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tailorbird.config import Project
from tailorbird.config.schemas import for_training
from tailorbird.errors import NotReadyError, UsageError, suggest_name
from tailorbird.events import SECOND, SystemClock, parse_duration, to_iso
from tailorbird.features import FeatureSet
from tailorbird.lake import Lake
from tailorbird.platform.moment import clock_as_of
from tailorbird.platform.progress import Progress, no_progress
from tailorbird.ranking import Churn, Slot
from tailorbird.registry import Registry
from tailorbird.training.settings import TrainSettings

if TYPE_CHECKING:
    from tailorbird.training.churn.train import ChurnReport
    from tailorbird.training.judge import Evaluation
    from tailorbird.training.settings import TrainReport
    from tailorbird.training.tune.run import TuneReport, TuneSettings
    from tailorbird.training.validate.run import ValidationReport

Rows = Literal["auto", "answers", "clicks"]
Position = Literal["column", "weights", "none"]
Retrieval = Literal["", "auto", "tables", "sequence"]
Architecture = Literal["gbdt", "mlp", "dcn", "shared", "mmoe", "auto"]
Notify = Callable[[str], None]

REQUESTS = 25_000  # as ten minutes of two cores and 8 GB of memory allow


def ignore_note(note: str) -> None:
    """Tell nobody."""


@dataclass(frozen=True)
class TrainOptions:
    """How a slot's model is trained; each as the command's option of the same name.

    Attributes:
        window: how much of the past to learn from, such as `14d`; "" takes `train.window`.
        quick: fewer rows and trees.
        budget: a time, such as `2m`, that requests and trees are chosen to fit into.
        requests: how many to learn from at most; 0 takes all.
        rows: logged answers, or clicks with the candidates of that moment.
        architecture: "" takes what tuning chose, or `gbdt`.
        retrieval: where candidates come from; "" takes `train.retrieval`.
        incremental: of a net: go on from the weights of the last training.
        parameters: of a net: what differs from the architecture's own.
        processes: of a net: how many share each batch.
        position: how the place of a logged row counts.
        leave_out: columns that the model must not see.
        untuned: leave out of account what tuning chose.
        seed: of all draws.
    """

    window: str = ""
    quick: bool = False
    budget: str = ""
    requests: int = REQUESTS
    rows: Rows = "auto"
    architecture: Architecture | Literal[""] = ""
    retrieval: Retrieval = ""
    incremental: bool = False
    parameters: Mapping[str, Any] | None = None
    processes: int = 1
    position: Position = "column"
    leave_out: Sequence[str] = ()
    untuned: bool = False
    seed: int = 7

    def settings(self, project: Project, slot: Slot) -> TrainSettings:
        """Resolve the options over the project's settings and what tuning chose.

        Raises:
            UsageError: options that do not go together, or a column that does not exist.
        """
        from tailorbird.training.budget import measure_speed, plan_budget
        from tailorbird.training.tune.tuned import FILE, apply_tuned

        settings = replace(
            base_settings(
                project,
                window=self.window,
                rows=self.rows,
                leave_out=self.leave_out,
                quick=self.quick,
            ),
            requests=self.requests,
            architecture=self.architecture or "gbdt",
            retrieval=self.retrieval
            or ("tables" if self.quick else project.settings.train.retrieval),
            incremental=self.incremental,
            parameters=checked_parameters(self.parameters or {}, self.architecture or "gbdt"),
            processes=self.processes,
            position=self.position,
            seed=self.seed,
            mlflow=os.environ.get("MLFLOW_TRACKING_URI", ""),
        )
        if not self.untuned:
            path = project.root / FILE
            settings = apply_tuned(
                settings, slot.name, path, architecture_requested=bool(self.architecture)
            )
        if self.budget:
            lake = Lake(project.paths.lake)
            events = lake.count("events") if lake.exists("events") else 0
            seconds = span_of(self.budget, "--budget") / SECOND
            settings = plan_budget(seconds, measure_speed(), events).apply(settings)
        check_settings(settings, bool(self.parameters))
        return settings

    def of_slots_alone(self) -> list[str]:
        """Return the options that were given and say nothing to a churn model."""
        default = TrainOptions()
        both = ("quick", "leave_out", "seed")
        return [
            name
            for name in self.__dataclass_fields__
            if name not in both and getattr(self, name) != getattr(default, name)
        ]


def train(
    project: Project,
    name: str = "",
    options: TrainOptions | None = None,
    *,
    promote: bool = True,
    as_of: str = "",
    by: str = "",
    progress: Progress = no_progress,
    notify: Notify = ignore_note,
) -> "TrainReport | ChurnReport":
    """Train a model for a slot, or of churn, judge it beside baselines, and promote it if it
    passes the gate.

    Args:
        name: a slot of slots.py, a churn model of churn.py; "" takes `train.slot`.
        as_of: train as if it were this time; `latest` is the end of the log.
        by: who signs in the registry; the name of this account unless told otherwise.
        notify: gets what a reader must know, in a sentence.

    Raises:
        UsageError: options that do not go together.
        NotReadyError: the lake is empty, or holds too little to learn from.
    """
    from tailorbird.training.baseline import ensure_champion
    from tailorbird.training.train import train as train_slot

    options = options or TrainOptions()
    settled = for_training(project, SystemClock())
    project = settled.project
    if settled.notice:
        notify(settled.notice)
    declared, by = project.slot_or_churn(name), by or getpass.getuser()
    if isinstance(declared, Churn):
        clock = clock_as_of(as_of, project, notify=notify)
        return _train_churn(project, name, options, promote, clock, by, progress)
    settings = options.settings(project, declared)
    paths, clock = project.paths, clock_as_of(as_of, project, notify=notify)
    ensure_champion(
        project.features,
        lake=paths.lake,
        registry=paths.registry,
        clock=clock,
        by=by,
        owner=project.settings.project.owner,
        meaning=project.meaning,
    )
    return train_slot(
        project.features,
        declared,
        lake=paths.lake,
        registry=paths.registry,
        reports=paths.reports,
        clock=clock,
        settings=settings,
        heads=[head for other in project.slots.values() for head in other.objective],
        by=by,
        owner=project.settings.project.owner,
        promote=promote,
        work=paths.data / "training",
        progress=progress,
    )


def _train_churn(
    project: Project,
    name: str,
    options: TrainOptions,
    promote: bool,
    clock: Any,
    by: str,
    progress: Progress,
) -> "ChurnReport":
    from tailorbird.training.churn.fit import FitSettings
    from tailorbird.training.churn.train import ChurnSettings, train_churn
    from tailorbird.training.churn.vectors import SMALL

    if given := options.of_slots_alone():
        flags = [f"--{option.replace('_', '-')}" for option in given]
        raise UsageError(
            f"{name} is a churn model, and {', '.join(flags)} {'are' if flags[1:] else 'is'} "
            "of a slot's",
            where=flags[0],
            fix=f"leave out {', '.join(flags)}; how {name} is learned stands in churn.py, such as "
            "its window",
        )
    churn = project.churn[name]
    without = known_columns(options.leave_out, project.features)
    churn = replace(churn, leave_out=(*churn.leave_out, *without))
    quick = options.quick
    settings = ChurnSettings(
        FitSettings(seed=options.seed),
        lateness_us=project.plan.lateness_us,
        vectors=None if quick or project.settings.train.retrieval == "tables" else SMALL,
    )
    if quick:
        settings = replace(
            settings,
            cuts=2,
            grid_rows=100_000,
            asked=10_000,
            replicates=200,
            fit=replace(settings.fit, rows=30_000),
        )
    return train_churn(
        project.features,
        churn,
        lake=project.paths.lake,
        registry=project.paths.churn(name),
        reports=project.paths.reports,
        clock=clock,
        settings=settings,
        by=by,
        owner=project.settings.project.owner,
        promote=promote,
        progress=progress,
    )


@dataclass(frozen=True)
class Evaluated:
    """An evaluation with what its reader must know.

    Attributes:
        slot: whose requests were judged.
        learned_until: version → the moment up to which it has learned, ISO 8601.
        note: why another version than the champion was judged, "" otherwise.
    """

    slot: str
    evaluation: "Evaluation"
    learned_until: dict[str, str]
    note: str = ""

    def plain(self) -> dict[str, Any]:
        """Return it as JSON."""
        return {
            "slot": self.slot,
            "learned_until": self.learned_until,
            "source": self.evaluation.about["source"],
            **self.evaluation.to_dict(),
        }


def evaluate(
    project: Project,
    versions: Sequence[str] = (),
    *,
    slot: str = "",
    window: str = "",
    quick: bool = False,
    rows: Rows = "auto",
    as_of: str = "",
    progress: Progress = no_progress,
    notify: Notify = ignore_note,
) -> Evaluated:
    """Judge the champion, or the versions named, beside all baselines on the newest part of what
    the lake holds. Changes nothing.

    Raises:
        NotReadyError: there is no champion yet, or no model.
    """
    from tailorbird.training.evaluate import evaluate as evaluate_versions

    declared = project.slot(slot)
    clock = clock_as_of(as_of, project, notify=notify)
    registry = Registry(project.paths.registry, clock=clock)
    chosen, note = _versions_to_judge(registry, versions)
    learned = {version: to_iso(registry.verify(version).window.ts_to) for version in chosen}
    evaluation = evaluate_versions(
        project.features,
        declared,
        tuple(chosen),
        lake=project.paths.lake,
        registry=project.paths.registry,
        clock=clock,
        settings=TrainSettings(
            window_us=window_of(window, project),
            lateness_us=project.plan.lateness_us,
            quick=quick,
            rows=rows,
        ),
        progress=progress,
    )
    return Evaluated(declared.name, evaluation, learned, note)


def _versions_to_judge(registry: Registry, versions: Sequence[str]) -> tuple[list[str], str]:
    """Return the versions to judge, and what to say of the choice: a champion without a model is
    judged as the baseline that it is.
    """
    if not versions and registry.champion() is None:
        names = ", ".join(info.version for info in registry.versions())
        fix = (
            f"tailorbird evaluate VERSION judges one of {names}"
            if names
            else "tailorbird train makes one"
        )
        raise NotReadyError("there is no champion to judge yet", where=str(registry.path), fix=fix)
    chosen = [registry.resolve(name).name for name in versions or ("champion",)]
    if versions or registry.info(chosen[0]).heads:
        return chosen, ""
    models = [info.version for info in registry.versions() if info.heads]
    if not models:
        problem = f"{chosen[0]} has no model, and no other version has one"
        raise NotReadyError(problem, where=str(registry.path), fix="tailorbird train")
    return (
        models[-1:],
        f"{chosen[0]} answers, by a baseline that stands among the others. Judged is the "
        f"newest model, {models[-1]}.",
    )


def tune(
    project: Project,
    slot: str,
    settings: "TuneSettings",
    *,
    space: Path | None = None,
    more: bool = False,
    as_of: str = "",
    progress: Progress = no_progress,
    notify: Notify = ignore_note,
) -> "TuneReport":
    """Look for better settings than the defaults on several splits in time. Keeps nothing:
    `keep_tuned` does.

    Args:
        project: as `for_training` gives it.
        space: a file that says what is tried; None takes tune.toml.
        more: go on with the last study.
    """
    from tailorbird.training.tune.architectures import ARCHITECTURES
    from tailorbird.training.tune.run import tune as run_study
    from tailorbird.training.tune.space import FILE, override_spaces

    if space is not None and not space.is_file():
        raise UsageError("no such file", where=f"--space {space}")
    spaces = override_spaces(
        space or project.root / FILE,
        {name: one.full_space() for name, one in ARCHITECTURES.items()},
    )
    declared = project.slot(slot)
    return run_study(
        project.features,
        declared,
        lake=project.paths.lake,
        clock=clock_as_of(as_of, project, notify=notify),
        out=project.paths.data / "tune" / declared.name,
        settings=settings,
        spaces=spaces,
        extend=more,
        progress=progress,
    )


def keep_tuned(project: Project, report: "TuneReport") -> bool:
    """Write what tuning chose to tuned.toml, where training takes it; whether anything was."""
    from tailorbird.training.tune.tuned import FILE, build_tuned, write_tuned

    if not report.settings:
        return False
    taken = report.choice.winner
    gain = f"{taken.gain:+.4f} (spread {taken.spread:.4f}) over {report.choice.reference.name}"
    write_tuned(
        project.root / FILE,
        report.slot,
        build_tuned(taken.trial.architecture, report.settings, report.until, gain),
    )
    return True


def backtest(
    project: Project,
    slot: str = "",
    options: TrainOptions | None = None,
    *,
    splits: int = 3,
    variants: bool = True,
    as_of: str = "",
    progress: Progress = no_progress,
    notify: Notify = ignore_note,
) -> "ValidationReport":
    """Train the slot's model at several origins in time and judge it on what follows; look for
    leaks, and hold it against itself with less. Changes nothing.

    Args:
        options: as for `train`; budget, requests and retrieval are not heeded.
        splits: origins in time.
        variants: try less data, fewer columns and unseen people too.
    """
    import msgspec

    from tailorbird.training.tune.tuned import FILE, apply_tuned, read_tuned
    from tailorbird.training.validate.run import ValidateSettings, validate

    options = options or TrainOptions()
    project = for_training(project, SystemClock()).project
    declared = project.slot(slot)
    settings = replace(
        base_settings(
            project,
            window=options.window,
            rows=options.rows,
            leave_out=options.leave_out,
            quick=options.quick,
        ),
        architecture=options.architecture or "gbdt",
        parameters=checked_parameters(options.parameters or {}, options.architecture or "gbdt"),
        seed=options.seed,
    )
    tuned_to = ""
    if not options.untuned:
        path = project.root / FILE
        settings = apply_tuned(
            settings, declared.name, path, architecture_requested=bool(options.architecture)
        )
        tuned = read_tuned(path).get(declared.name)
        tuned_to = tuned.architecture if tuned and not settings.tuned else ""
    check_parameters(settings, bool(options.parameters))
    target = next(iter(declared.objective))
    signals = project.paths.reports / f"signals-{declared.name}-{target}" / "signals.json"
    try:
        ranked = msgspec.json.decode(signals.read_bytes())
    except (OSError, msgspec.DecodeError):  # nobody ranked features, or the file is cut short
        ranked = None
    return validate(
        project.features,
        declared,
        lake=project.paths.lake,
        clock=clock_as_of(as_of, project, notify=notify),
        settings=ValidateSettings(
            train=settings, splits=splits, variants=variants, seed=options.seed, tuned_to=tuned_to
        ),
        signals=ranked if isinstance(ranked, dict) else None,
        progress=progress,
    )


def base_settings(
    project: Project, *, window: str, rows: Rows, leave_out: Sequence[str], quick: bool
) -> TrainSettings:
    """Return what training, tuning and backtests take alike from their options and the project."""
    return TrainSettings(
        window_us=window_of(window, project),
        lateness_us=project.plan.lateness_us,
        quick=quick,
        rows=rows,
        leave_out=known_columns(leave_out, project.features),
        meaning=project.meaning,
    )


def window_of(text: str, project: Project) -> int:
    """Return the microseconds of `--window`, or of the project's own where that is not given."""
    return (
        span_of(text, "--window")
        if text
        else span_of(project.settings.train.window, "train.window")
    )


def span_of(text: str, option: str) -> int:
    """Return the microseconds of a duration that an option gives."""
    try:
        return parse_duration(text)
    except UsageError as error:
        raise UsageError(error.message, where=option) from None


def known_columns(names: Sequence[str], features: FeatureSet) -> tuple[str, ...]:
    """Return the columns of `--leave-out`. Raises UsageError where one does not exist."""
    from tailorbird.features.declare import CANDIDATE_COLUMN, COMPUTED_NAMES, VECTOR_NAMES

    columns = (
        *features.numeric,
        *features.categorical,
        *COMPUTED_NAMES,
        *VECTOR_NAMES,
        *(one.name for one in features.similarities),
        *(one.output for one in features.transforms),
    )
    if wrong := [
        name for name in names if name not in columns and not CANDIDATE_COLUMN.fullmatch(name)
    ]:
        fix = suggest_name(wrong[0], columns, "tailorbird features list")
        raise UsageError(f"there is no column {wrong[0]!r}", where="--leave-out", fix=fix)
    return tuple(names)


def checked_parameters(parameters: Mapping[str, Any], architecture: str) -> dict[str, Any]:
    """Return the parameters of a net. Raises UsageError where the architecture has none of a name."""
    from tailorbird.models.deep.parameters import DEFAULTS, resolve_parameters

    resolve_parameters(architecture if architecture in DEFAULTS else "mmoe", dict(parameters))
    return dict(parameters)


def check_settings(settings: TrainSettings, parameters: bool) -> None:
    """Raise UsageError where options do not go together."""
    check_parameters(settings, parameters)
    if settings.incremental and settings.architecture == "gbdt":
        raise UsageError(
            "trees are grown anew each time: no weights to go on from",
            where="--incremental",
            fix="--architecture mmoe",
        )
    if settings.requests < 0:
        raise UsageError(f"expected 0 or more, got {settings.requests}", where="--requests")
    if settings.processes < 1:
        raise UsageError(f"expected at least 1, got {settings.processes}", where="--processes")
    if settings.processes > 1 and settings.architecture == "gbdt":
        raise UsageError(
            "trees are grown by the threads of one process",
            where="--processes",
            fix="--architecture mmoe",
        )


def check_parameters(settings: TrainSettings, parameters: bool) -> None:
    """Raise UsageError where parameters of nets are given to trees."""
    if parameters and settings.architecture == "gbdt":
        raise UsageError(
            "these are parameters of nets, and trees were asked for",
            where="--parameters",
            fix="--architecture mmoe",
        )
