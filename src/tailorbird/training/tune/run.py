"""Tuning, start to end: rows of several splits → trials of each architecture under one budget → the
best few again → what is taken.

Rows are made in `training.tune.rows`, fits done in `training.tune.fits`, trials asked and told in
`training.tune.study`, the choice made in `training.tune.choose` and kept for training in
`training.tune.tuned`. Nothing of the test part is looked at: what tuning is worth is told by
`tailorbird train`, once.
"""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from tailorbird.errors import UsageError
from tailorbird.events import Clock, to_iso
from tailorbird.features import FeatureSet
from tailorbird.lake import Lake
from tailorbird.places import Place
from tailorbird.ranking.slot import Slot
from tailorbird.ranking.targets import is_amount
from tailorbird.training.resuming import UNFINISHED, Unfinished, alone
from tailorbird.training.settings import Progress, TrainSettings
from tailorbird.training.tune.architectures import NETS, Architecture, architectures
from tailorbird.training.tune.choose import Choice, choose, finalists_of
from tailorbird.training.tune.fits import open_fits, split_name
from tailorbird.training.tune.rows import Split, encode_splits, lay_out, told
from tailorbird.training.tune.space import Space, Value
from tailorbird.training.tune.study import (
    JOURNAL,
    Budget,
    Pruner,
    Sampler,
    Search,
    Trial,
    open_journal,
)

_DONE = "done"
KEPT = (
    2  # form in which splits and fits lie in a study's folder: of another one, a study begins anew
)


@dataclass(frozen=True)
class TuneSettings:
    """How settings are looked for.

    Attributes:
        train: what is tuned is a training by these settings: window, rows, borders, columns that
            are left out.
        names: architectures; each gets the same budget. trials, seconds: of each architecture at
        most, whichever ends first; 0 is no limit. Seconds are those that fits take.
        sampler: `tpe` learns which settings do well together, `random` does not.
        pruner: which trials are given up before all splits were fitted: those below the `median`,
            all but the best half at each split (`halving`), or `none`.
        splits, seeds: every finalist is fitted on each split under each seed; `finalists` of them
        beside the defaults. requests, judged: of training, and of each split to judge by, at most.
        workers: processes.
    """

    train: TrainSettings = field(default_factory=TrainSettings)
    names: tuple[str, ...] = ("gbdt",)
    trials: int = 40
    seconds: float = 0.0
    sampler: Sampler = "tpe"
    pruner: Pruner = "median"
    splits: int = 3
    seeds: int = 3
    finalists: int = 4
    judged: int = 3_000
    workers: int = 1
    seed: int = 7

    def __post_init__(self) -> None:
        for name, least in (
            ("splits", 1),
            ("seeds", 1),
            ("finalists", 1),
            ("workers", 1),
            ("judged", 1),
            ("trials", 0),
        ):
            if getattr(self, name) < least:
                raise UsageError(
                    f"expected at least {least}, got {getattr(self, name)}", where=f"--{name}"
                )
        if not self.trials and not self.seconds:
            raise UsageError(
                "without --trials and --time a search has no end", fix="tailorbird tune --trials 40"
            )


@dataclass(frozen=True)
class TuneReport:
    """What came of it.

    Attributes:
        trials: of each architecture, in order.
        importance: of each architecture, share of what trials differ by that each setting explains.
        settings: what a training should be given; empty where the defaults stay.
        about: sizes and times of the splits, the budget, the spaces.
    """

    slot: str
    trials: Mapping[str, tuple[Trial, ...]]
    choice: Choice
    importance: Mapping[str, Mapping[str, float]]
    spaces: Mapping[str, Space]
    settings: Mapping[str, Value]
    about: dict[str, Any]
    resumed: bool

    @property
    def until(self) -> int:
        """The moment that nothing that had a say was later than, microseconds."""
        return int(self.about["test_from_us"])

    def plain(self) -> dict[str, Any]:
        """As JSON."""
        choice = self.choice
        chosen = {
            "architecture": choice.taken.trial.architecture,
            "settings": dict(self.settings),
            "why": choice.why,
        }
        return {
            "slot": self.slot,
            "chosen": {**chosen, "default": choice.taken.trial.default},
            "finalists": [one.plain() for one in choice.finalists],
            "reference": choice.reference.name,
            "trials": [one.plain() for each in self.trials.values() for one in each],
            "importance": {
                name: {setting: round(share, 4) for setting, share in each.items()}
                for name, each in self.importance.items()
            },
            "about": self.about,
            "resumed": self.resumed,
        }


def tune(
    features: FeatureSet,
    slot: Slot,
    *,
    lake: Place,
    clock: Clock,
    out: Path,
    settings: TuneSettings = TuneSettings(),
    spaces: Mapping[str, Space] | None = None,
    more: bool = False,
    progress: Progress = lambda stage, done, total: None,
) -> TuneReport:
    """Look for better settings than the defaults.

    Args:
        out: folder that the study is kept in. One that was cut short goes on, as of its own
            beginning; one that came to its end begins anew, unless `more` trials of it are asked
            for.
        spaces: what is tried of each architecture, where it is not what the architecture says.

    Raises:
        NotReadyError: there is too little to judge each split by.
        UsageError: there is no study that more could be asked of.
        LockedError: another process tunes there.
    """
    tried = [
        (one, (spaces or {}).get(one.name) or one.whole_space())
        for one in architectures(settings.names)
    ]
    with alone(out / "lock", f"slot {slot.name} is tuned"):
        return _tune(features, slot, lake, clock, out / UNFINISHED, settings, tried, more, progress)


def _tune(
    features: FeatureSet,
    slot: Slot,
    lake: Place,
    clock: Clock,
    folder: Path,
    settings: TuneSettings,
    tried: Sequence[tuple[Architecture, Space]],
    more: bool,
    progress: Progress,
) -> TuneReport:
    untuned = [head for head in slot.objective if is_amount(head)]
    if len(untuned) == len(slot.objective):
        raise UsageError(
            f"slot {slot.name} asks for nothing but {', '.join(untuned)}, an expected "
            "amount, of which nothing is tuned",
            fix="train without tuning, or give its formula a chance, such as click",
        )
    asked = _asked(features, slot, lake, settings, tried)
    _begin(folder, more=more)
    unfinished = Unfinished(folder, asked, clock.now())
    if more and not unfinished.resumed:
        shutil.rmtree(folder, ignore_errors=True)
        raise UsageError(
            "the last study was of other settings or declarations",
            where="--more",
            fix="leave --more out: it begins anew",
        )
    train = settings.train.hurried()
    splits, about = _splits(
        features, slot, Lake(lake), unfinished, settings, train, [one for one, _ in tried], progress
    )
    storage = open_journal(folder)
    budget = Budget(settings.trials, settings.seconds)
    with open_fits(folder, train, settings.workers) as fits:
        trials, importance = {}, {}
        for architecture, space in tried:
            mine = splits[architecture.columns]
            first = space.clipped(architecture.sized(architecture.defaults, *_size(mine[-1])))
            search = Search(
                storage,
                architecture,
                space,
                first,
                range(len(mine)),
                fits,
                settings.sampler,
                settings.pruner,
                settings.seed,
            )
            search.run(budget, partial(_told, progress, architecture.name, budget))
            trials[architecture.name], importance[architecture.name] = (
                tuple(search.trials()),
                search.importance(),
            )
        seeds = range(settings.seed, settings.seed + settings.seeds)
        people = [split.judge.person for split in next(iter(splits.values()))]
        choice = choose(
            finalists_of(trials, settings.finalists),
            people,
            seeds,
            fits,
            partial(progress, "finalists"),
        )
    (folder / _DONE).touch()
    taken = choice.taken.trial
    new = {} if taken.default and taken.architecture == "gbdt" else dict(taken.settings)
    about |= {
        "as_of": to_iso(unfinished.now),
        "schema_hash": features.schema_hash,
        "seed": settings.seed,
        "source": about["source"],
    }
    about["budget"] = {
        "trials": settings.trials,
        "seconds": settings.seconds,
        "sampler": settings.sampler,
        "pruner": settings.pruner,
    }
    about["spaces"] = {one.name: space.plain() for one, space in tried}
    spent = {
        name: {"trials": len(each), "seconds": round(sum(one.seconds for one in each), 1)}
        for name, each in trials.items()
    }
    about["spent"] = spent
    about["untuned"] = (
        f"{', '.join(untuned)}: trials are ordered and judged by the rest of the formula; "
        "training learns it all the same"
        if untuned
        else ""
    )
    known = {one.name: space for one, space in tried}
    return TuneReport(slot.name, trials, choice, importance, known, new, about, unfinished.resumed)


def _asked(
    features: FeatureSet,
    slot: Slot,
    lake: Place,
    settings: TuneSettings,
    tried: Sequence[tuple[Architecture, Space]],
) -> dict[str, Any]:
    """What decides the trials; how many there are, and who fits them, does not."""
    free = ("trials", "seconds", "workers", "finalists", "seeds", "names", "train")
    mine = {name: value for name, value in asdict(settings).items() if name not in free}
    spaces = {one.name: space.plain() for one, space in tried}
    slot_told = {
        "name": slot.name,
        "objective": dict(slot.objective),
        "attribution": slot.attribution,
        "denominator": slot.denominator,
    }
    transforms = [repr(one) for one in features.transforms]
    training = {**asdict(settings.train), "scheme": repr(settings.train.scheme)}
    more = {
        "kept": KEPT,
        "train": training,
        "schema": features.schema_hash,
        "transforms": transforms,
        "lake": str(lake),
    }
    return {**mine, **more, "slot": slot_told, "spaces": spaces}


def _begin(folder: Path, *, more: bool) -> None:
    """Leave what is to go on, and clear away what came to its end."""
    done = (folder / _DONE).exists()
    if more:
        if not (folder / JOURNAL).exists():
            raise UsageError(
                "there is no study here that more trials could be asked of",
                where="--more",
                fix="tailorbird tune begins one",
            )
        (folder / _DONE).unlink(missing_ok=True)
    elif done:
        shutil.rmtree(folder)


def _size(split: Split) -> tuple[int, int]:
    """Positives of the first head, and rows, of what a split learns from."""
    head = next(iter(split.objective))
    return int(split.train.labels[head].sum()), len(split.train.matrix)


def _told(progress: Progress, name: str, budget: Budget, trials: int, seconds: float) -> None:
    if budget.trials:
        progress(f"trials of {name}", trials, budget.trials)
    else:
        progress(
            f"seconds of {name}", min(round(seconds), round(budget.seconds)), round(budget.seconds)
        )


def _splits(
    features: FeatureSet,
    slot: Slot,
    lake: Lake,
    unfinished: Unfinished,
    settings: TuneSettings,
    train: TrainSettings,
    asked: Sequence[Architecture],
    progress: Progress,
) -> tuple[dict[str, list[Split]], dict[str, Any]]:
    """The splits as each way of taking columns has them, as an earlier try left them or made anew;
    and what is told of them.
    """
    found: dict[str, list[Split]] = {}
    about: dict[str, Any] = {}
    for preset in dict.fromkeys(one.columns for one in asked):
        making = _Making(
            features, slot, lake, unfinished.now, settings, train, preset == NETS, progress
        )
        kept = unfinished.arrays(f"about {preset}", making.told)
        about |= msgspec.json.decode(kept["told"].tobytes())
        found[preset] = [
            Split.of(unfinished.arrays(split_name(preset, number), partial(making.arrays, number)))
            for number in range(settings.splits)
        ]
    return found, about


@dataclass
class _Making:
    """Makes the splits of one way of taking columns, all of them when the first one is asked for."""

    features: FeatureSet
    slot: Slot
    lake: Lake
    now: int
    settings: TuneSettings
    train: TrainSettings
    nets: bool
    progress: Progress
    made: list[Split] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)

    def arrays(self, number: int) -> Mapping[str, npt.NDArray]:
        if not self.made:
            ground = lay_out(
                self.features,
                self.slot,
                self.lake,
                self.now,
                self.settings.splits,
                self.train,
                self.progress,
            )
            judged = self.settings.judged
            made = encode_splits(
                ground,
                self.features,
                self.slot,
                self.train,
                judged_max=judged,
                progress=self.progress,
                nets=self.nets,
            )
            self.made = [split for split, _ in made]
            self.facts = told(ground, self.made)
        return self.made[number].arrays()

    def told(self) -> Mapping[str, npt.NDArray]:
        self.arrays(0)
        return {"told": np.frombuffer(msgspec.json.encode(self.facts), np.uint8)}
