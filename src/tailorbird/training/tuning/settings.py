"""Settings of a tuning."""

from dataclasses import dataclass, field

from tailorbird.errors import UsageError
from tailorbird.training.settings import TrainSettings
from tailorbird.training.tuning.study import PrunerName, SamplerName


@dataclass(frozen=True)
class TuneSettings:
    """Settings of the search.

    Attributes:
        train: the training that is tuned: window, rows, borders, excluded columns.
        architecture_names: architectures; each gets the same budget.
        trials, seconds: budget of each architecture, whichever ends first; 0 is no limit.
            Seconds count time spent in fits.
        sampler: `tpe` learns which settings do well together, `random` does not.
        pruner: which trials stop before all splits are fitted: those below the `median`, all but
            the best half at each split (`halving`), or `none`.
        splits, seeds: every finalist is fitted on each split under each seed.
        finalists: number of finalists besides the defaults.
        judged: maximum holdout requests of each split.
        workers: number of processes.
    """

    train: TrainSettings = field(default_factory=TrainSettings)
    architecture_names: tuple[str, ...] = ("gbdt",)
    trials: int = 40
    seconds: float = 0.0
    sampler: SamplerName = "tpe"
    pruner: PrunerName = "median"
    splits: int = 3
    seeds: int = 3
    finalists: int = 4
    judged: int = 3_000
    workers: int = 1
    seed: int = 7

    def __post_init__(self) -> None:
        for setting, minimum in (
            ("splits", 1),
            ("seeds", 1),
            ("finalists", 1),
            ("workers", 1),
            ("judged", 1),
            ("trials", 0),
        ):
            if getattr(self, setting) < minimum:
                raise UsageError(
                    f"expected at least {minimum}, got {getattr(self, setting)}",
                    where=f"--{setting}",
                )
        if not self.trials and not self.seconds:
            raise UsageError(
                "without --trials and --time a search has no end", fix="tailorbird tune --trials 40"
            )
