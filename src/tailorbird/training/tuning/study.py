"""Search settings with Optuna: ask, fit split by split, tell, and prune early.

This one process asks and tells; a journal in the study's folder holds every trial, synced line by
line. A killed run resumes: interrupted trials are asked again, and their finished fits are reused
(`training.tuning.fits`). A draw depends on the seed, its number and the finished trials, so with
one worker the same seed gives the same trials, killed or not. With several workers, a draw that was
being fitted when a run was killed is drawn again, first of all the defaults.
"""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any, Literal

import numpy as np

from tailorbird.errors import ConfigError, TailorbirdError
from tailorbird.models.space import Choices, Value
from tailorbird.training.tuning.architectures import Architecture
from tailorbird.training.tuning.fits import FitExecutor, FitResult, FitSpec
from tailorbird.training.tuning.space import SearchSpace

try:
    import optuna
    from optuna.storages.journal import JournalFileBackend, JournalStorage
    from optuna.trial import FrozenTrial, TrialState
except ImportError:
    raise ConfigError(
        "Optuna is not installed", where="tailorbird tune", fix="pip install 'tailorbird[tune]'"
    ) from None

SamplerName = Literal["tpe", "random"]
PrunerName = Literal["median", "halving", "none"]

RANDOM_TRIALS = 8  # trials drawn at random before the sampler learns from them
PRUNING_STARTUP_TRIALS = 4  # completed trials before the median prunes
JOURNAL_FILE = "study.log"


@dataclass(frozen=True)
class Budget:
    """Budget of each architecture: trials and seconds of fits, whichever ends first.

    0 is no limit. The first trial, with the defaults, always runs.
    """

    trials: int
    seconds: float

    def allows(self, trials_done: int, seconds_spent: float) -> bool:
        if trials_done == 0:
            return True
        return (not self.trials or trials_done < self.trials) and (
            not self.seconds or seconds_spent < self.seconds
        )


@dataclass(frozen=True)
class Trial:
    """One trial.

    Attributes:
        settings: all tunable settings of the trial.
        params: those that the sampler drew.
        state: `complete`, `pruned` or `failed`.
        why: the reason of a failure.
        split_scores: NDCG@10 of each fitted split.
        value: mean over splits, if all were fitted.
    """

    architecture: str
    number: int
    settings: Mapping[str, Value]
    params: Mapping[str, Value]
    state: str
    split_scores: tuple[float, ...]
    value: float
    seconds: float
    is_default: bool
    why: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return the trial as JSON."""
        header = {
            "architecture": self.architecture,
            "number": self.number,
            "state": self.state,
            "default": self.is_default,
            "why": self.why,
        }
        figures = {
            "ndcg_10": round(self.value, 6) if np.isfinite(self.value) else None,
            "splits": [round(score, 6) for score in self.split_scores],
        }
        return {
            **header,
            **figures,
            "seconds": round(self.seconds, 3),
            "settings": dict(self.settings),
        }


def open_journal(folder: Path) -> JournalStorage:
    """Open the journal of a study's folder, truncating a half-written last line.

    No other process may write to it.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    path = folder / JOURNAL_FILE
    if path.exists():
        journal_bytes = path.read_bytes()
        complete_length = journal_bytes.rfind(b"\n") + 1
        if complete_length < len(journal_bytes):
            with path.open("r+b") as file:
                file.truncate(complete_length)
    (folder / f"{JOURNAL_FILE}.lock").unlink(missing_ok=True)
    return JournalStorage(JournalFileBackend(str(path)))


@dataclass
class _RunningTrial:
    """A trial whose splits are being fitted; `draw_number` counts draws, the defaults being 0."""

    trial: "optuna.Trial"
    settings: dict[str, Value]
    draw_number: int
    is_default: bool
    results: list[FitResult] = field(default_factory=list)

    @property
    def seconds(self) -> float:
        return sum(result.seconds for result in self.results)


@dataclass
class Search:
    """The search over the settings of one architecture.

    Args:
        start_settings: the defaults as reported to the sampler.
        split_order: the splits, in order of fitting.
    """

    storage: JournalStorage
    architecture: Architecture
    space: SearchSpace
    start_settings: Mapping[str, Value]
    split_order: Sequence[int]
    fit_executor: FitExecutor
    sampler: SamplerName
    pruner: PrunerName
    seed: int

    def __post_init__(self) -> None:
        self._study = optuna.create_study(
            storage=self.storage,
            study_name=self.architecture.name,
            direction="maximize",
            load_if_exists=True,
            pruner=self._create_pruner(),
        )
        for interrupted_trial in self._study.get_trials(
            deepcopy=False, states=(TrialState.RUNNING, TrialState.WAITING)
        ):
            self._study.tell(interrupted_trial.number, state=TrialState.FAIL, skip_if_finished=True)

    def list_trials(self) -> list[Trial]:
        """Return all finished trials, in order."""
        return [
            _to_trial(self.architecture.name, index, finished_trial)
            for index, finished_trial in enumerate(self._finished_trials())
        ]

    def _finished_trials(self) -> "list[FrozenTrial]":
        return [
            frozen_trial
            for frozen_trial in self._study.get_trials(deepcopy=False)
            if frozen_trial.state.is_finished() and "settings" in frozen_trial.user_attrs
        ]

    def run(self, budget: Budget, progress: Callable[[int, float], None]) -> None:
        """Run trials until the budget is used up; `progress` gets trials and seconds."""
        finished_trials = self.list_trials()
        trial_count = len(finished_trials)
        spent_seconds = sum(trial.seconds for trial in finished_trials)
        progress(trial_count, spent_seconds)
        used_draws = {
            finished_trial.user_attrs.get("draw", index)
            for index, finished_trial in enumerate(self._finished_trials())
        }  # older studies do not record it
        trial_by_future: dict[Future[FitResult], _RunningTrial] = {}
        while True:
            while len(trial_by_future) < self.fit_executor.workers and (
                0 not in used_draws
                or budget.allows(trial_count + len(trial_by_future), spent_seconds)
            ):
                running_trial = self._ask_trial(
                    next(draw_number for draw_number in count() if draw_number not in used_draws)
                )
                used_draws.add(running_trial.draw_number)
                trial_by_future[self._fit(running_trial)] = running_trial
            if not trial_by_future:
                return
            done_futures, _ = wait(trial_by_future, return_when=FIRST_COMPLETED)
            for future in sorted(
                done_futures, key=lambda future: trial_by_future[future].trial.number
            ):
                running_trial = trial_by_future.pop(future)
                if self._record_fit(running_trial, future):
                    trial_count = trial_count + 1
                    spent_seconds = spent_seconds + running_trial.seconds
                    progress(trial_count, spent_seconds)
                else:
                    trial_by_future[self._fit(running_trial)] = running_trial

    def _ask_trial(self, draw_number: int) -> _RunningTrial:
        self._study.sampler = self._create_sampler(draw_number)
        is_default = draw_number == 0
        if is_default:
            self._study.enqueue_trial(dict(self.start_settings))
        trial = self._study.ask(_to_distributions(self.space))
        settings = (
            self.architecture.defaults
            if is_default
            else {**self.architecture.defaults, **self.space.fixed, **trial.params}
        )
        return _RunningTrial(trial, dict(settings), draw_number, is_default)

    def _fit(self, running_trial: _RunningTrial) -> "Future[FitResult]":
        return self.fit_executor.submit(
            FitSpec(
                self.architecture.name,
                running_trial.settings,
                self.split_order[len(running_trial.results)],
                self.seed,
            )
        )

    def _record_fit(self, running_trial: _RunningTrial, future: "Future[FitResult]") -> bool:
        """Record the result of a fit, and return whether the trial has ended."""
        trial = running_trial.trial
        failure_reason = ""
        try:
            running_trial.results.append(future.result())
        except TailorbirdError as error:  # settings that cannot be fitted count as a failed trial
            failure_reason = error.message
        else:
            split_score = running_trial.results[-1].mean_ndcg
            failure_reason = "" if np.isfinite(split_score) else "what it gives is no number"
        if failure_reason:
            self._end_trial(running_trial, TrialState.FAIL, failure_reason)
            return True
        running_mean = float(np.mean([result.mean_ndcg for result in running_trial.results]))
        trial.report(running_mean, len(running_trial.results))
        if len(running_trial.results) == len(self.split_order):
            self._end_trial(running_trial, TrialState.COMPLETE)
            return True
        if not running_trial.is_default and self._should_prune(running_trial, running_mean):
            self._end_trial(running_trial, TrialState.PRUNED)
            return True
        return False

    def _should_prune(self, running_trial: _RunningTrial, running_mean: float) -> bool:
        """Return whether completed trials had a better mean after as many splits.

        Optuna's own median pruner compares the best running mean of a trial with the median, so it
        prunes nothing if the first split is easy.
        """
        if self.pruner != "median":
            return running_trial.trial.should_prune()
        step = len(running_trial.results)
        completed_trials = self._study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        completed_means = [
            trial.intermediate_values[step]
            for trial in completed_trials
            if step in trial.intermediate_values
        ]
        return len(completed_means) >= PRUNING_STARTUP_TRIALS and running_mean < float(
            np.median(completed_means)
        )

    def _end_trial(self, running_trial: _RunningTrial, state: TrialState, why: str = "") -> None:
        split_scores = [
            result.mean_ndcg for result in running_trial.results if np.isfinite(result.mean_ndcg)
        ]
        attributes = {
            "settings": running_trial.settings,
            "figures": split_scores,
            "seconds": running_trial.seconds,
            "draw": running_trial.draw_number,
            "default": running_trial.is_default,
            "why": why,
        }
        for name, value in attributes.items():
            running_trial.trial.set_user_attr(name, value)
        mean_score = float(np.mean(split_scores)) if state == TrialState.COMPLETE else None
        self._study.tell(running_trial.trial, mean_score, state=state)

    def _create_sampler(self, draw_number: int) -> "optuna.samplers.BaseSampler":
        seed = int(np.random.SeedSequence([self.seed, draw_number]).generate_state(1)[0])
        if self.sampler == "random":
            return optuna.samplers.RandomSampler(seed=seed)
        return optuna.samplers.TPESampler(
            seed=seed, multivariate=True, n_startup_trials=RANDOM_TRIALS
        )

    def _create_pruner(self) -> "optuna.pruners.BasePruner":
        if self.pruner == "halving":
            return optuna.pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=2)
        return optuna.pruners.NopPruner()  # `_should_prune` implements the median

    def measure_importance(self) -> dict[str, float]:
        """Return the share of variance that each setting explains, largest first.

        Empty if there are too few trials.
        """
        completed_trials = self._study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        if (
            len(completed_trials) < RANDOM_TRIALS
            or len({trial.value for trial in completed_trials}) < 2
        ):
            return {}
        importances = optuna.importance.get_param_importances(self._study)
        return {name: float(share) for name, share in importances.items() if np.isfinite(share)}


def _to_distributions(space: SearchSpace) -> dict[str, "optuna.distributions.BaseDistribution"]:
    distributions: dict[str, optuna.distributions.BaseDistribution] = {}
    for name, dimension in space.dimensions.items():
        if isinstance(dimension, Choices):
            distributions[name] = optuna.distributions.CategoricalDistribution(dimension.choices)
        elif space.is_integer(name):
            distributions[name] = optuna.distributions.IntDistribution(
                round(dimension.low), round(dimension.high), log=dimension.log
            )
        else:
            distributions[name] = optuna.distributions.FloatDistribution(
                dimension.low, dimension.high, log=dimension.log
            )
    return distributions


def _to_trial(architecture: str, number: int, frozen_trial: "FrozenTrial") -> Trial:
    """Convert a frozen trial; numbers count finished trials only.

    The study's own numbers include trials that a killed run left behind.
    """
    state_names = {
        TrialState.COMPLETE: "complete",
        TrialState.PRUNED: "pruned",
        TrialState.FAIL: "failed",
    }
    attributes = frozen_trial.user_attrs
    value = (
        float(frozen_trial.value)
        if frozen_trial.state == TrialState.COMPLETE and frozen_trial.value is not None
        else float("nan")
    )
    return Trial(
        architecture,
        number,
        attributes["settings"],
        dict(frozen_trial.params),
        state_names[frozen_trial.state],
        tuple(attributes["figures"]),
        value,
        float(attributes["seconds"]),
        bool(attributes["default"]),
        attributes["why"],
    )
