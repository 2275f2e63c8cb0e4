"""Training, evaluation, tuning and backtests, for commands, notebooks and the trainer."""

import getpass
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from tailorbird.config import Project
from tailorbird.config.schemas import resolve_for_training
from tailorbird.errors import NotReadyError, UsageError
from tailorbird.events import Clock, SystemClock, to_iso
from tailorbird.platform.clocks import clock_as_of
from tailorbird.platform.progress import Progress, no_progress
from tailorbird.platform.results import EvaluationResult
from tailorbird.platform.train_options import (
    RowSource,
    TrainOptions,
    parse_window,
    reject_parameters_of_trees,
    validate_columns,
)
from tailorbird.ranking import Churn, Slot
from tailorbird.registry import Registry
from tailorbird.training.settings import TrainSettings

if TYPE_CHECKING:
    from tailorbird.training.backtests.report import ValidationReport
    from tailorbird.training.settings import TrainReport
    from tailorbird.training.tasks.churn.train import ChurnReport
    from tailorbird.training.tuning.run import TuneReport
    from tailorbird.training.tuning.settings import TuneSettings

Notify = Callable[[str], None]


def discard_note(note: str) -> None:
    """Discard the note."""


def train(
    project: Project,
    name: str = "",
    options: TrainOptions | None = None,
    *,
    promote: bool = True,
    as_of: str = "",
    by: str = "",
    progress: Progress = no_progress,
    notify: Notify = discard_note,
) -> "TrainReport | ChurnReport":
    """Train a ranking or churn model, and promote it if it passes the gate.

    Args:
        name: a slot of slots.py, a churn model of churn.py; "" takes `train.slot`.
        as_of: train as of this time; `latest` is the end of the log.
        by: author in the registry; by default the name of this account.
        notify: called with notices for the user.

    Raises:
        UsageError: options contradict each other.
        NotReadyError: the lake has too little data to learn from.
    """
    options = options or TrainOptions()
    schema_choice = resolve_for_training(project, SystemClock())
    project = schema_choice.project
    if schema_choice.notice:
        notify(schema_choice.notice)
    declaration = project.slot_or_churn(name)
    by = by or getpass.getuser()
    if isinstance(declaration, Churn):
        clock = clock_as_of(as_of, project, notify=notify)
        return train_churn_model(
            project, name, options, clock, promote=promote, by=by, progress=progress
        )
    settings = options.settings(project, declaration)
    return train_slot(
        project,
        clock_as_of(as_of, project, notify=notify),
        declaration,
        settings,
        by=by,
        promote=promote and not settings.arm,
        working_folder=project.paths.data / "training",
        progress=progress,
    )


def train_slot(
    project: Project,
    clock: Clock,
    slot: Slot,
    settings: TrainSettings,
    *,
    by: str,
    promote: bool = True,
    working_folder: Path | None = None,
    progress: Progress = no_progress,
) -> "TrainReport":
    """Train a slot's model in the folders of a project. A popularity baseline is promoted first if
    there is no champion.

    Args:
        working_folder: folder that nets keep between trainings, see `training.pipeline.train`;
            None keeps none.
    """
    from tailorbird.training.baseline_bundle import ensure_champion
    from tailorbird.training.pipeline import train

    paths = project.paths
    owner = project.settings.project.owner
    ensure_champion(
        project.features,
        lake=paths.lake,
        registry=paths.registry,
        clock=clock,
        by=by,
        owner=owner,
        meaning=project.meaning,
    )
    return train(
        project.features,
        slot,
        lake=paths.lake,
        registry=paths.registry,
        reports_folder=paths.reports,
        clock=clock,
        settings=settings,
        extra_heads=[
            head for other_slot in project.slots.values() for head in other_slot.objective
        ],
        by=by,
        owner=owner,
        promote=promote,
        working_folder=working_folder,
        progress=progress,
    )


def train_churn_model(
    project: Project,
    name: str,
    options: TrainOptions,
    clock: Clock,
    *,
    promote: bool,
    by: str,
    progress: Progress = no_progress,
) -> "ChurnReport":
    """Train a churn model in the folders of a project, see `train`."""
    from tailorbird.training.tasks.churn.backtest import ChurnSettings
    from tailorbird.training.tasks.churn.train import train_churn
    from tailorbird.training.tasks.churn.training_rows import FitSettings
    from tailorbird.training.tasks.churn.vectors import TOWER_SETTINGS

    if inapplicable_options := options.slot_only_options():
        flags = [f"--{option.replace('_', '-')}" for option in inapplicable_options]
        raise UsageError(
            f"{name} is a churn model, and {', '.join(flags)} {'are' if flags[1:] else 'is'} "
            "of a slot's",
            where=flags[0],
            fix=f"leave out {', '.join(flags)}; how {name} is learned stands in churn.py, such as "
            "its window",
        )
    churn = project.churn[name]
    excluded_columns = validate_columns(options.leave_out, project.features)
    churn = replace(churn, leave_out=(*churn.leave_out, *excluded_columns))
    quick = options.quick
    settings = ChurnSettings(
        FitSettings(seed=options.seed),
        lateness_us=project.plan.lateness_us,
        vectors=None if quick or project.settings.train.retrieval == "tables" else TOWER_SETTINGS,
    )
    if quick:
        settings = replace(
            settings,
            cuts=2,
            grid_rows=100_000,
            scored_people_max=10_000,
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


def evaluate(
    project: Project,
    versions: Sequence[str] = (),
    *,
    slot: str = "",
    window: str = "",
    quick: bool = False,
    rows: RowSource = "auto",
    as_of: str = "",
    progress: Progress = no_progress,
    notify: Notify = discard_note,
) -> EvaluationResult:
    """Compare the champion, or named versions, with all baselines on the newest data.

    Changes nothing.

    Raises:
        NotReadyError: there is no champion yet, or no model.
    """
    from tailorbird.training.evaluation.evaluate import evaluate as evaluate_versions

    slot_declaration = project.slot(slot)
    clock = clock_as_of(as_of, project, notify=notify)
    registry = Registry(project.paths.registry, clock=clock)
    selected_versions, note = _versions_to_evaluate(registry, versions)
    training_end_by_version = {
        version: to_iso(registry.verify(version).window.ts_to) for version in selected_versions
    }
    evaluation = evaluate_versions(
        project.features,
        slot_declaration,
        tuple(selected_versions),
        lake=project.paths.lake,
        registry=project.paths.registry,
        clock=clock,
        settings=TrainSettings(
            window_us=parse_window(window, project),
            lateness_us=project.plan.lateness_us,
            quick=quick,
            rows=rows,
        ),
        progress=progress,
    )
    return EvaluationResult(slot_declaration.name, evaluation, training_end_by_version, note)


def _versions_to_evaluate(registry: Registry, versions: Sequence[str]) -> tuple[list[str], str]:
    """Return the versions to evaluate, and a note on the choice.

    A champion without a model is a baseline, so the newest model is evaluated instead.
    """
    if not versions and registry.champion_folder() is None:
        version_names = ", ".join(info.version for info in registry.versions())
        fix = (
            f"tailorbird evaluate VERSION judges one of {version_names}"
            if version_names
            else "tailorbird train makes one"
        )
        raise NotReadyError("there is no champion to judge yet", where=str(registry.path), fix=fix)
    selected_versions = [registry.resolve(name).name for name in versions or ("champion",)]
    if versions or registry.info(selected_versions[0]).heads:
        return selected_versions, ""
    model_versions = [info.version for info in registry.versions() if info.heads]
    if not model_versions:
        problem = f"{selected_versions[0]} has no model, and no other version has one"
        raise NotReadyError(problem, where=str(registry.path), fix="tailorbird train")
    return (
        model_versions[-1:],
        f"{selected_versions[0]} answers, by a baseline that stands among the others. Judged is "
        "the "
        f"newest model, {model_versions[-1]}.",
    )


def tune(
    project: Project,
    slot: str,
    settings: "TuneSettings",
    *,
    space: Path | None = None,
    resume: bool = False,
    as_of: str = "",
    progress: Progress = no_progress,
    notify: Notify = discard_note,
) -> "TuneReport":
    """Search for better settings than the defaults on several splits in time.

    Stores nothing; `save_tuned_settings` does.

    Args:
        project: the project that `resolve_for_training` returns.
        space: file with the search space; None takes tune.toml.
        resume: continue the last study.
    """
    from tailorbird.training.tuning.architectures import find_architecture, list_tunable_names
    from tailorbird.training.tuning.run import tune as run_study
    from tailorbird.training.tuning.space import SPACE_FILE, override_spaces

    if space is not None and not space.is_file():
        raise UsageError("no such file", where=f"--space {space}")
    space_by_architecture = override_spaces(
        space or project.root / SPACE_FILE,
        {name: find_architecture(name).build_search_space() for name in list_tunable_names()},
    )
    slot_declaration = project.slot(slot)
    return run_study(
        project.features,
        slot_declaration,
        lake=project.paths.lake,
        clock=clock_as_of(as_of, project, notify=notify),
        out=project.paths.data / "tune" / slot_declaration.name,
        settings=settings,
        spaces=space_by_architecture,
        extend=resume,
        progress=progress,
    )


def save_tuned_settings(project: Project, report: "TuneReport") -> bool:
    """Write the tuned settings to tuned.toml, and return whether there were any."""
    from tailorbird.training.tuning.tuned import TUNED_FILE, build_tuned, write_tuned

    if not report.settings:
        return False
    winner = report.choice.winner
    gain_text = (
        f"{winner.gain:+.4f} (spread {winner.spread:.4f}) over {report.choice.reference.name}"
    )
    write_tuned(
        project.root / TUNED_FILE,
        report.slot,
        build_tuned(winner.trial.architecture, report.settings, report.until, gain_text),
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
    notify: Notify = discard_note,
) -> "ValidationReport":
    """Train the slot's model at several past cuts, evaluate each, and check for leakage.

    It is also compared with variants that use less data. Changes nothing.

    Args:
        options: as for `train`; budget, requests and retrieval are ignored.
        splits: number of past cuts.
        variants: also evaluate with less data, with fewer columns and on unseen people.
    """
    import msgspec

    from tailorbird.training.backtests.run import ValidateSettings, validate
    from tailorbird.training.tuning.tuned import TUNED_FILE, read_tuned

    options = options or TrainOptions()
    project = resolve_for_training(project, SystemClock()).project
    slot_declaration = project.slot(slot)
    settings = options.model_settings(project, slot_declaration)
    tuned_architecture = ""
    if not options.untuned:
        tuned = read_tuned(project.root / TUNED_FILE).get(slot_declaration.name)
        tuned_architecture = tuned.architecture if tuned and not settings.tuned else ""
    reject_parameters_of_trees(settings, bool(options.parameters))
    # Signals are the importances of columns that `tailorbird features rank` stored.
    target_label = next(iter(slot_declaration.objective))
    signals_file = (
        project.paths.reports / f"signals-{slot_declaration.name}-{target_label}" / "signals.json"
    )
    try:
        saved_signals = msgspec.json.decode(signals_file.read_bytes())
    except (OSError, msgspec.DecodeError):  # Features were never ranked, or the file is truncated.
        saved_signals = None
    return validate(
        project.features,
        slot_declaration,
        lake=project.paths.lake,
        clock=clock_as_of(as_of, project, notify=notify),
        settings=ValidateSettings(
            train=settings,
            splits=splits,
            variants=variants,
            seed=options.seed,
            tuned_to=tuned_architecture,
        ),
        signals=saved_signals if isinstance(saved_signals, dict) else None,
        progress=progress,
    )
