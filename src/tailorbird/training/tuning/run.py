"""Run a tuning: rows of several splits → trials of each architecture → finalists → winner.

`training.tuning.rows` makes the rows, `training.tuning.fits` runs the fits, `training.tuning.study`
runs the trials, `training.tuning.choose` chooses, and `training.tuning.tuned` stores the choice for
training. The test part is never read: `tailorbird train` shows once what tuning is worth.
"""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from tailorbird.errors import UsageError
from tailorbird.events import Clock, to_iso
from tailorbird.features import FeatureSet
from tailorbird.lake import Lake
from tailorbird.models.space import Value
from tailorbird.platform.frames import Frame
from tailorbird.ranking.policy.targets import is_amount_head
from tailorbird.ranking.slot import Slot
from tailorbird.storage_paths import StoragePath
from tailorbird.training.fit.resume import UNFINISHED_FOLDER, UnfinishedRun, hold_exclusive
from tailorbird.training.settings import Progress
from tailorbird.training.tuning.architectures import Architecture, select_architectures
from tailorbird.training.tuning.choose import TuningDecision, choose_finalist, select_finalists
from tailorbird.training.tuning.fits import FitExecutor, open_executor
from tailorbird.training.tuning.load_splits import load_splits
from tailorbird.training.tuning.settings import TuneSettings
from tailorbird.training.tuning.space import SearchSpace
from tailorbird.training.tuning.splits import Split
from tailorbird.training.tuning.study import JOURNAL_FILE, Budget, Search, Trial, open_journal

_COMPLETE_MARKER = "done"
STUDY_FORMAT = (
    2  # format of splits and fits in a study's folder; a study in another format starts again
)


@dataclass(frozen=True, repr=False)
class TuneReport:
    """The result of a tuning.

    Attributes:
        trials: of each architecture, in order.
        importance: by architecture, share of the variance of trials that each setting explains.
        settings: the settings to train with; empty if the defaults stay.
        about: sizes and times of the splits, the budget, the spaces.
    """

    slot: str
    trials: Mapping[str, tuple[Trial, ...]]
    choice: TuningDecision
    importance: Mapping[str, Mapping[str, float]]
    spaces: Mapping[str, SearchSpace]
    settings: Mapping[str, Value]
    about: dict[str, Any]
    resumed: bool

    @property
    def until(self) -> int:
        """End of the data that took part in the choice, microseconds."""
        return int(self.about["test_from_us"])

    def to_frame(self) -> Frame:
        """Return the last few trials, as they were compared."""
        return Frame.from_rows(
            ["trial", "ndcg_10", "gain", "spread", "gain_minus_spread", "fit_s"],
            [
                (
                    finalist.name,
                    float(finalist.ndcg.mean()),
                    finalist.gain,
                    finalist.spread,
                    finalist.score,
                    finalist.seconds,
                )
                for finalist in self.choice.finalists
            ],
        )

    def __repr__(self) -> str:
        return f"slot {self.slot}: {self.choice.why}\n{self.to_frame()!r}"

    def _repr_html_(self) -> str:
        return self.to_frame().to_html(f"slot {self.slot}: {self.choice.why}")

    def to_dict(self) -> dict[str, Any]:
        """Return the report as JSON."""
        choice = self.choice
        choice_dict = {
            "architecture": choice.winner.trial.architecture,
            "settings": dict(self.settings),
            "why": choice.why,
        }
        return {
            "slot": self.slot,
            "chosen": {**choice_dict, "default": choice.winner.trial.is_default},
            "finalists": [finalist.to_dict() for finalist in choice.finalists],
            "reference": choice.reference.name,
            "trials": [
                trial.to_dict()
                for architecture_trials in self.trials.values()
                for trial in architecture_trials
            ],
            "importance": {
                name: {setting: round(share, 4) for setting, share in importances.items()}
                for name, importances in self.importance.items()
            },
            "about": self.about,
            "resumed": self.resumed,
        }


def tune(
    features: FeatureSet,
    slot: Slot,
    *,
    lake: StoragePath,
    clock: Clock,
    out: Path,
    settings: TuneSettings = TuneSettings(),
    spaces: Mapping[str, SearchSpace] | None = None,
    extend: bool = False,
    progress: Progress = lambda stage, done, total: None,
) -> TuneReport:
    """Search for better settings than the defaults.

    Args:
        out: folder of the study. An interrupted study resumes as of its own start; a finished
            one starts again, unless `extend` is set.
        spaces: search spaces that replace the architectures' own.

    Raises:
        NotReadyError: there is too little data to evaluate each split.
        UsageError: there is no study to extend.
        LockedError: another process tunes there.
    """
    search_spaces = [
        (architecture, (spaces or {}).get(architecture.name) or architecture.build_search_space())
        for architecture in select_architectures(settings.architecture_names)
    ]
    with hold_exclusive(out / "lock", f"slot {slot.name} is tuned"):
        return _tune(
            features,
            slot,
            lake,
            clock,
            out / UNFINISHED_FOLDER,
            settings,
            search_spaces,
            extend,
            progress,
        )


def _tune(
    features: FeatureSet,
    slot: Slot,
    lake: StoragePath,
    clock: Clock,
    folder: Path,
    settings: TuneSettings,
    search_spaces: Sequence[tuple[Architecture, SearchSpace]],
    extend: bool,
    progress: Progress,
) -> TuneReport:
    untuned_heads = _find_untuned_heads(slot)
    unfinished_run = _open_study(
        folder,
        _build_study_key(features, slot, lake, settings, search_spaces),
        clock,
        extend=extend,
    )
    train_settings = settings.train.with_quick_applied()
    splits_by_column_set, about = load_splits(
        features,
        slot,
        Lake(lake),
        unfinished_run,
        settings,
        train_settings,
        [architecture for architecture, _ in search_spaces],
        progress,
    )
    with open_executor(folder, train_settings, settings.workers) as fit_executor:
        trials_by_architecture, importance_by_architecture = _run_searches(
            folder, settings, search_spaces, splits_by_column_set, fit_executor, progress
        )
        choice = choose_finalist(
            select_finalists(trials_by_architecture, settings.finalists),
            [split.holdout.person for split in next(iter(splits_by_column_set.values()))],
            range(settings.seed, settings.seed + settings.seeds),
            fit_executor,
            partial(progress, "finalists"),
        )
    (folder / _COMPLETE_MARKER).touch()
    winner = choice.winner.trial
    tuned_settings = (
        {} if winner.is_default and winner.architecture == "gbdt" else dict(winner.settings)
    )
    about |= {"as_of": to_iso(unfinished_run.started_at), "schema_hash": features.schema_hash}
    about |= _describe_study(settings, search_spaces, trials_by_architecture, untuned_heads)
    space_by_architecture = {architecture.name: space for architecture, space in search_spaces}
    return TuneReport(
        slot.name,
        trials_by_architecture,
        choice,
        importance_by_architecture,
        space_by_architecture,
        tuned_settings,
        about,
        unfinished_run.is_resumed,
    )


def _find_untuned_heads(slot: Slot) -> list[str]:
    """Return the heads that are not tuned, and refuse a slot that has no other."""
    untuned_heads = [head for head in slot.objective if is_amount_head(head)]
    if len(untuned_heads) == len(slot.objective):
        raise UsageError(
            f"slot {slot.name} asks for nothing but {', '.join(untuned_heads)}, an expected "
            "amount, of which nothing is tuned",
            fix="train without tuning, or give its formula a chance, such as click",
        )
    return untuned_heads


def _open_study(
    folder: Path, study_key: Mapping[str, Any], clock: Clock, *, extend: bool
) -> UnfinishedRun:
    """Resume the study of a folder if it is of this key, and begin one otherwise."""
    _prepare_folder(folder, extend=extend)
    unfinished_run = UnfinishedRun(folder, study_key, clock.now())
    if extend and not unfinished_run.is_resumed:
        shutil.rmtree(folder, ignore_errors=True)
        raise UsageError(
            "the last study was of other settings or declarations",
            where="--more",
            fix="leave --more out: it begins anew",
        )
    return unfinished_run


def _run_searches(
    folder: Path,
    settings: TuneSettings,
    search_spaces: Sequence[tuple[Architecture, SearchSpace]],
    splits_by_column_set: Mapping[str, Sequence[Split]],
    fit_executor: FitExecutor,
    progress: Progress,
) -> tuple[dict[str, tuple[Trial, ...]], dict[str, dict[str, float]]]:
    """Return the trials of each architecture, and the importance of its settings."""
    storage = open_journal(folder)
    budget = Budget(settings.trials, settings.seconds)
    trials_by_architecture = {}
    importance_by_architecture = {}
    for architecture, space in search_spaces:
        architecture_splits = splits_by_column_set[architecture.column_set]
        start_settings = space.clip(
            architecture.adapt_defaults(
                architecture.defaults, *_count_training_rows(architecture_splits[-1])
            )
        )
        search = Search(
            storage,
            architecture,
            space,
            start_settings,
            range(len(architecture_splits)),
            fit_executor,
            settings.sampler,
            settings.pruner,
            settings.seed,
        )
        search.run(budget, partial(_report_progress, progress, architecture.name, budget))
        trials_by_architecture[architecture.name] = tuple(search.list_trials())
        importance_by_architecture[architecture.name] = search.measure_importance()
    return trials_by_architecture, importance_by_architecture


def _describe_study(
    settings: TuneSettings,
    search_spaces: Sequence[tuple[Architecture, SearchSpace]],
    trials_by_architecture: Mapping[str, Sequence[Trial]],
    untuned_heads: Sequence[str],
) -> dict[str, Any]:
    """Return what a report says of the study's budget, spaces and cost."""
    return {
        "seed": settings.seed,
        "budget": {
            "trials": settings.trials,
            "seconds": settings.seconds,
            "sampler": settings.sampler,
            "pruner": settings.pruner,
        },
        "spaces": {architecture.name: space.to_dict() for architecture, space in search_spaces},
        "spent": {
            name: {
                "trials": len(architecture_trials),
                "seconds": round(sum(trial.seconds for trial in architecture_trials), 1),
            }
            for name, architecture_trials in trials_by_architecture.items()
        },
        "untuned": (
            f"{', '.join(untuned_heads)}: trials are ordered and judged by the "
            "rest of the formula; "
            "training learns it all the same"
            if untuned_heads
            else ""
        ),
    }


def _build_study_key(
    features: FeatureSet,
    slot: Slot,
    lake: StoragePath,
    settings: TuneSettings,
    search_spaces: Sequence[tuple[Architecture, SearchSpace]],
) -> dict[str, Any]:
    """Return everything that determines the trials; a study resumes only with an equal key.

    The number of trials and workers is not part of it.
    """
    excluded_settings = (
        "trials",
        "seconds",
        "workers",
        "finalists",
        "seeds",
        "architecture_names",
        "train",
    )
    included_settings = {
        name: value for name, value in asdict(settings).items() if name not in excluded_settings
    }
    spaces = {architecture.name: space.to_dict() for architecture, space in search_spaces}
    slot_key = {
        "name": slot.name,
        "objective": dict(slot.objective),
        "attribution": slot.attribution,
        "denominator": slot.denominator,
    }
    transforms = [repr(transform) for transform in features.transforms]
    training_key = {**asdict(settings.train), "scheme": repr(settings.train.scheme)}
    context_key = {
        "study_format": STUDY_FORMAT,
        "train": training_key,
        "schema": features.schema_hash,
        "transforms": transforms,
        "lake": str(lake),
    }
    return {**included_settings, **context_key, "slot": slot_key, "spaces": spaces}


def _prepare_folder(folder: Path, *, extend: bool) -> None:
    """Keep an unfinished study, and clear a finished one."""
    is_complete = (folder / _COMPLETE_MARKER).exists()
    if extend:
        if not (folder / JOURNAL_FILE).exists():
            raise UsageError(
                "there is no study here that more trials could be asked of",
                where="--more",
                fix="tailorbird tune begins one",
            )
        (folder / _COMPLETE_MARKER).unlink(missing_ok=True)
    elif is_complete:
        shutil.rmtree(folder)


def _count_training_rows(split: Split) -> tuple[int, int]:
    """Return positives of the first head, and rows, of a split's training part."""
    head = next(iter(split.objective))
    return int(split.train.labels[head].sum()), len(split.train.matrix)


def _report_progress(
    progress: Progress, architecture: str, budget: Budget, trial_count: int, spent_seconds: float
) -> None:
    if budget.trials:
        progress(f"trials of {architecture}", trial_count, budget.trials)
    else:
        progress(
            f"seconds of {architecture}",
            min(round(spent_seconds), round(budget.seconds)),
            round(budget.seconds),
        )
