"""The search: settings are asked of Optuna, fitted split by split, told back, and given up early
where others did better by then.

One process, this one, asks and tells; a journal in the study's folder holds every trial, synced
line by line. A run that was killed goes on: what it was in the middle of is asked again, and what
it had fitted is not fitted again (`training.tune.fits`). How a trial is drawn depends on the seed,
on its place among the draws and on the trials that are done, so that with one worker the same seed
gives the same trials, killed or not. With several, a draw that was being fitted when a run was
killed is drawn again, the defaults above all.
"""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any, Literal

import numpy as np

from tailorbird.errors import ConfigError, TailorbirdError
from tailorbird.training.tune.architectures import Architecture
from tailorbird.training.tune.fits import Fit, Fits, Found
from tailorbird.training.tune.space import Choices, Space, Value

try:
    import optuna
    from optuna.storages.journal import JournalFileBackend, JournalStorage
    from optuna.trial import FrozenTrial, TrialState
except ImportError:
    raise ConfigError(
        "Optuna is not installed", where="tailorbird tune", fix="pip install 'tailorbird[tune]'"
    ) from None

Sampler = Literal["tpe", "random"]
Pruner = Literal["median", "halving", "none"]

STARTUP = 8  # trials drawn at random before the sampler learns from them
UNPRUNED = 4  # trials that all splits are fitted for, before the median says anything
JOURNAL = "study.log"


@dataclass(frozen=True)
class Budget:
    """What every architecture may use alike: so many trials, so many seconds of fits, whichever
    ends first; 0 is no limit.

    The first trial, with the defaults, is done in any case.
    """

    trials: int
    seconds: float

    def left(self, trials: int, seconds: float) -> bool:
        if trials == 0:
            return True
        return (not self.trials or trials < self.trials) and (
            not self.seconds or seconds < self.seconds
        )


@dataclass(frozen=True)
class Trial:
    """One trial.

    Attributes:
        settings: all that can be tried, as they were; params: what the sampler was told of them.
        state: `complete`, `pruned` or `failed`; why: of a failed one.
        figures: NDCG@10 of each split that was fitted.
        value: their mean, where all were.
    """

    architecture: str
    number: int
    settings: Mapping[str, Value]
    params: Mapping[str, Value]
    state: str
    figures: tuple[float, ...]
    value: float
    seconds: float
    default: bool
    why: str = ""

    def plain(self) -> dict[str, Any]:
        """As JSON."""
        told = {
            name: getattr(self, name)
            for name in ("architecture", "number", "state", "default", "why")
        }
        figures = {
            "ndcg_10": round(self.value, 6) if np.isfinite(self.value) else None,
            "splits": [round(each, 6) for each in self.figures],
        }
        return {
            **told,
            **figures,
            "seconds": round(self.seconds, 3),
            "settings": dict(self.settings),
        }


def open_journal(folder: Path) -> JournalStorage:
    """The journal of a study's folder, which nobody else writes to; what a killed run left
    half-written is cut off.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    path = folder / JOURNAL
    if path.exists():
        data = path.read_bytes()
        whole = data.rfind(b"\n") + 1
        if whole < len(data):
            with path.open("r+b") as file:
                file.truncate(whole)
    (folder / f"{JOURNAL}.lock").unlink(missing_ok=True)
    return JournalStorage(JournalFileBackend(str(path)))


@dataclass
class _Running:
    trial: "optuna.Trial"
    settings: dict[str, Value]
    draw: int
    default: bool
    found: list[Found] = field(default_factory=list)

    @property
    def seconds(self) -> float:
        return sum(each.seconds for each in self.found)


@dataclass
class Search:
    """The search among the settings of one architecture.

    Args:
        first: what the sampler is told that the defaults are.
        order: the splits, in the order in which they are fitted.
    """

    storage: JournalStorage
    architecture: Architecture
    space: Space
    first: Mapping[str, Value]
    order: Sequence[int]
    fits: Fits
    sampler: Sampler
    pruner: Pruner
    seed: int

    def __post_init__(self) -> None:
        self._study = optuna.create_study(
            storage=self.storage,
            study_name=self.architecture.name,
            direction="maximize",
            load_if_exists=True,
            pruner=self._pruner(),
        )
        for left in self._study.get_trials(
            deepcopy=False, states=(TrialState.RUNNING, TrialState.WAITING)
        ):
            self._study.tell(left.number, state=TrialState.FAIL, skip_if_finished=True)

    def trials(self) -> list[Trial]:
        """All trials that came to an end, in order."""
        return [
            _plain(self.architecture.name, place, one) for place, one in enumerate(self._ended())
        ]

    def _ended(self) -> "list[FrozenTrial]":
        return [
            one
            for one in self._study.get_trials(deepcopy=False)
            if one.state.is_finished() and "settings" in one.user_attrs
        ]

    def run(self, budget: Budget, progress: Callable[[int, float], None]) -> None:
        """Try until the budget is used up; `progress` is told trials and seconds."""
        done = self.trials()
        trials, seconds = len(done), sum(each.seconds for each in done)
        progress(trials, seconds)
        drawn = {
            one.user_attrs.get("draw", place) for place, one in enumerate(self._ended())
        }  # older studies tell none
        running: dict[Future[Found], _Running] = {}
        while True:
            while len(running) < self.fits.workers and (
                0 not in drawn or budget.left(trials + len(running), seconds)
            ):
                one = self._ask(next(draw for draw in count() if draw not in drawn))
                drawn.add(one.draw)
                running[self._fit(one)] = one
            if not running:
                return
            ready, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in sorted(ready, key=lambda each: running[each].trial.number):
                one = running.pop(future)
                if self._told(one, future):
                    trials, seconds = trials + 1, seconds + one.seconds
                    progress(trials, seconds)
                else:
                    running[self._fit(one)] = one

    def _ask(self, draw: int) -> _Running:
        self._study.sampler = self._sampler(draw)
        defaults = draw == 0
        if defaults:
            self._study.enqueue_trial(dict(self.first))
        trial = self._study.ask(_distributions(self.space))
        tried = (
            self.architecture.defaults
            if defaults
            else {**self.architecture.defaults, **self.space.fixed, **trial.params}
        )
        return _Running(trial, dict(tried), draw, defaults)

    def _fit(self, one: _Running) -> "Future[Found]":
        return self.fits.submit(
            Fit(self.architecture.name, one.settings, self.order[len(one.found)], self.seed)
        )

    def _told(self, one: _Running, future: "Future[Found]") -> bool:
        """Take what came of a fit; whether the trial is at its end."""
        trial, why = one.trial, ""
        try:
            one.found.append(future.result())
        except (
            TailorbirdError
        ) as error:  # such settings cannot be fitted here: that is an answer too
            why = error.message
        else:
            mean = one.found[-1].mean
            why = "" if np.isfinite(mean) else "what it gives is no number"
        if why:
            self._end(one, TrialState.FAIL, why)
            return True
        running = float(np.mean([each.mean for each in one.found]))
        trial.report(running, len(one.found))
        if len(one.found) == len(self.order):
            self._end(one, TrialState.COMPLETE)
            return True
        if not one.default and self._given_up(one, running):
            self._end(one, TrialState.PRUNED)
            return True
        return False

    def _given_up(self, one: _Running, running: float) -> bool:
        """Whether others did better by now than a trial with this mean over its splits so far.

        Optuna's own median holds the best of a trial's running means against the median: where the
        first split is easy, nothing goes.
        """
        if self.pruner != "median":
            return one.trial.should_prune()
        step = len(one.found)
        complete = self._study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        others = [
            each.intermediate_values[step] for each in complete if step in each.intermediate_values
        ]
        return len(others) >= UNPRUNED and running < float(np.median(others))

    def _end(self, one: _Running, state: TrialState, why: str = "") -> None:
        figures = [each.mean for each in one.found if np.isfinite(each.mean)]
        told = {
            "settings": one.settings,
            "figures": figures,
            "seconds": one.seconds,
            "draw": one.draw,
            "default": one.default,
            "why": why,
        }
        for name, value in told.items():
            one.trial.set_user_attr(name, value)
        value = float(np.mean(figures)) if state == TrialState.COMPLETE else None
        self._study.tell(one.trial, value, state=state)

    def _sampler(self, draw: int) -> "optuna.samplers.BaseSampler":
        seed = int(np.random.SeedSequence([self.seed, draw]).generate_state(1)[0])
        if self.sampler == "random":
            return optuna.samplers.RandomSampler(seed=seed)
        return optuna.samplers.TPESampler(seed=seed, multivariate=True, n_startup_trials=STARTUP)

    def _pruner(self) -> "optuna.pruners.BasePruner":
        if self.pruner == "halving":
            return optuna.pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=2)
        return optuna.pruners.NopPruner()  # the median is `_given_up`'s own

    def importance(self) -> dict[str, float]:
        """Share of what the trials differ by that each setting explains, largest first; empty where
        there are too few trials.
        """
        complete = self._study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        if len(complete) < STARTUP or len({one.value for one in complete}) < 2:
            return {}
        found = optuna.importance.get_param_importances(self._study)
        return {name: float(share) for name, share in found.items() if np.isfinite(share)}


def _distributions(space: Space) -> dict[str, "optuna.distributions.BaseDistribution"]:
    found: dict[str, optuna.distributions.BaseDistribution] = {}
    for name, one in space.tried.items():
        if isinstance(one, Choices):
            found[name] = optuna.distributions.CategoricalDistribution(one.choices)
        elif space.whole(name):
            found[name] = optuna.distributions.IntDistribution(
                round(one.low), round(one.high), log=one.log
            )
        else:
            found[name] = optuna.distributions.FloatDistribution(one.low, one.high, log=one.log)
    return found


def _plain(architecture: str, number: int, one: "FrozenTrial") -> Trial:
    """Numbers are places among the trials that ended: the study's own go on behind those that a
    killed run left.
    """
    states = {
        TrialState.COMPLETE: "complete",
        TrialState.PRUNED: "pruned",
        TrialState.FAIL: "failed",
    }
    told = one.user_attrs
    value = (
        float(one.value)
        if one.state == TrialState.COMPLETE and one.value is not None
        else float("nan")
    )
    return Trial(
        architecture,
        number,
        told["settings"],
        dict(one.params),
        states[one.state],
        tuple(told["figures"]),
        value,
        float(told["seconds"]),
        bool(told["default"]),
        told["why"],
    )
