"""Validation, start to end: is the way in which a model is trained sound, and what is it worth, for
whom, and by what?

Several origins in time; at each the model that training would fit (`training.validate.model`)
learns from the past and is judged on what follows, beside the baselines and beside other ways of
training (`training.validate.variants`). Leaks are looked for first (`training.validate.leaks`).
Nothing is promoted and nothing is kept but the report. All figures are of NDCG@10 with the slot's
formula, over all origins together, intervals over people.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
from scipy.stats import norm

from tailorbird.errors import UsageError
from tailorbird.events import Clock, to_iso
from tailorbird.features import FeatureSet
from tailorbird.lake import Lake
from tailorbird.places import Place
from tailorbird.ranking.slot import Slot
from tailorbird.training import metrics
from tailorbird.training.architecture import wants_net
from tailorbird.training.bootstrap import Interval, flat
from tailorbird.training.completing import Judged
from tailorbird.training.judge import PRIMARY, Evaluation, Judge, shares
from tailorbird.training.settings import AUTO, Progress, TrainSettings
from tailorbird.training.tune.architectures import Ask, Heads
from tailorbird.training.tune.rows import Ground, Part, Split, encode_splits, lay_out, told
from tailorbird.training.validate.leaks import (
    LEAK,
    Finding,
    dated_back,
    imported_back,
    looks_ahead,
    of_the_ranking,
    repeated,
    too_good,
)
from tailorbird.training.validate.model import TREES, ask_of, fit_model, settings_of
from tailorbird.training.validate.variants import Variant, variants_of

Floats = npt.NDArray[np.float64]
Found = TypeVar("Found")

NAME = "tailorbird"
OVERFIT = 0.1  # of the AUC between what was learned from and what follows: more is called over-fit


@dataclass(frozen=True)
class ValidateSettings:
    """How it is validated.

    Attributes:
        train: what is validated is a training by these settings, of the architecture that they
            name.
        splits: origins in time.
        judged: requests of each origin at most.
        variants: whether other ways of training are tried too, which takes most of the time.
        tuned_to: the architecture that the slot is tuned to, where another one was asked for.
    """

    train: TrainSettings = field(default_factory=TrainSettings)
    splits: int = 3
    judged: int = 6_000
    variants: bool = True
    seed: int = 7
    tuned_to: str = ""

    def __post_init__(self) -> None:
        for name in ("splits", "judged"):
            if getattr(self, name) < 1:
                raise UsageError(
                    f"expected at least 1, got {getattr(self, name)}", where=f"--{name}"
                )


@dataclass(frozen=True)
class Test:
    """A paired comparison: what the model is ahead of another by, and how likely as much would be
    by chance.

    Attributes:
        p: two-sided, by the width of the interval; adjusted: after Holm, over all tests of the
            report.
    """

    other: str
    kind: str
    gain: Interval
    p: float
    adjusted: float

    @property
    def verdict(self) -> str:
        if not np.isfinite(self.adjusted) or self.adjusted >= 0.05:
            return "may be chance"
        return "ahead" if self.gain.value > 0 else "behind"

    def plain(self) -> dict[str, Any]:
        chances = {"p": _rounded(self.p), "p_holm": _rounded(self.adjusted)}
        return {
            "other": self.other,
            "kind": self.kind,
            **flat({"gain": self.gain}),
            **chances,
            "verdict": self.verdict,
        }


@dataclass(frozen=True)
class Gap:
    """AUC and log loss of one head on what was learned from, what was watched, and what follows;
    rows weighted as they stand for others.
    """

    origin: str
    head: str
    auc: tuple[float, float, float]
    log_loss: tuple[float, float, float]

    @property
    def overfit(self) -> float:
        return self.auc[0] - self.auc[2]

    def plain(self) -> dict[str, Any]:
        names = ("train", "validation", "test")
        figures = {"auc": self.auc, "log_loss": self.log_loss}
        told = {
            f"{figure}_{name}": _rounded(value)
            for figure, values in figures.items()
            for name, value in zip(names, values, strict=True)
        }
        return {"origin": self.origin, "head": self.head, **told}


@dataclass(frozen=True)
class ValidationReport:
    """What came of it.

    Attributes:
        evaluation: of all origins together; its slices have each origin, new and known users,
            devices, the long tail and new items.
        tests: against baselines and other ways of training.
        curve: share of the requests learned from → NDCG@10; 1 is the model.
        findings: of the search for leaks, and over-fit heads.
        instead: that another architecture was asked for than the slot is tuned to; else empty.
    """

    slot: str
    evaluation: Evaluation
    tests: tuple[Test, ...]
    gaps: tuple[Gap, ...]
    curve: Mapping[float, Interval]
    findings: tuple[Finding, ...]
    notes: tuple[str, ...]
    about: dict[str, Any]
    instead: str = ""

    @property
    def architecture(self) -> str:
        """What was fitted, at each origin where `auto` chose."""
        return ", ".join(dict.fromkeys(one["architecture"] for one in self.about["splits"]))

    @property
    def leaks(self) -> tuple[Finding, ...]:
        return tuple(one for one in self.findings if one.severity == LEAK)

    def plain(self) -> dict[str, Any]:
        """As JSON."""
        curve = [
            {"share": share, **flat({PRIMARY: figure})} for share, figure in self.curve.items()
        ]
        more = {
            "tests": [one.plain() for one in self.tests],
            "gaps": [one.plain() for one in self.gaps],
            "learning_curve": curve,
        }
        told = {
            "findings": [one.plain() for one in self.findings],
            "notes": list(self.notes),
            "about": self.about,
        }
        return {
            "slot": self.slot,
            "instead": self.instead,
            **self.evaluation.plain(),
            **more,
            **told,
        }


def validate(
    features: FeatureSet,
    slot: Slot,
    *,
    lake: Place,
    clock: Clock,
    settings: ValidateSettings = ValidateSettings(),
    signals: Mapping[str, Any] | None = None,
    progress: Progress = lambda stage, done, total: None,
) -> ValidationReport:
    """Validate the training of a slot's model.

    Args:
        signals: figures of an earlier `features rank` on the slot, if there are any: its leaks are
            told, its subset is tried.

    Raises:
        NotReadyError: there is too little to judge each origin by.
        UsageError: there is no such architecture, it needs what is not installed, or it diverged.
    """
    train = settings.train.hurried()
    nets = wants_net(train)
    ground = lay_out(
        features, slot, Lake(lake), clock.now(), settings.splits, train, progress, whole=True
    )
    made = encode_splits(
        ground,
        features,
        slot,
        train,
        judged_max=settings.judged,
        progress=progress,
        evenly=True,
        nets=nets,
    )
    progress("leaks", 0, 1)
    findings = [
        *_found(made, ground, features, settings.seed),
        *imported_back(Lake(lake), features),
        *of_the_ranking(signals or {}),
    ]
    progress("leaks", 1, 1)
    variants = _variants(made[-1][0], features, settings, signals or {})
    ask = ask_of(train, settings.seed)
    models, scores, gone = _fitted(made, variants, ask, progress)
    panel = Judge(
        ground.material.history,
        shares(ground.material.history, 0),
        slot.objective,
        seed=settings.seed,
    )
    gaps: list[Gap] = []
    for number, ((split, judged), model) in enumerate(zip(made, models, strict=True)):
        origin = f"from {to_iso(ground.borders[number + 1])[:16]}"
        gaps += _gaps(origin, split, model)
        heads = model.probabilities(split.judge.matrix)
        panel.as_of(shares(ground.material.history, ground.borders[number + 1]))
        panel.add(
            judged.rows, {**scores[number], **judged.values}, heads, judged.slates, named=origin
        )
    evaluation = panel.result(NAME)
    kinds = {one.name: one.kind for one in variants}
    tests = holm(
        [(name, kinds.get(name, "baseline"), gain) for name, gain in evaluation.differences.items()]
    )
    fitted = [model.model.architecture for model in models]
    findings += _overfit(gaps, nets=fitted[-1] != TREES)
    instead = _instead(train.architecture, settings.tuned_to)
    notes = [ground.material.why, *_chosen(train.architecture, fitted, nets=nets), *gone]
    about = told(ground, [split for split, _ in made])
    about["splits"] = [
        {**one, "architecture": name} for one, name in zip(about["splits"], fitted, strict=True)
    ]
    about |= {
        "seed": settings.seed,
        "tuned": "; ".join(each for each in (train.tuned, instead) if each) or "no",
        "architecture": train.architecture,
        "settings": {name: settings_of(name, ask) for name in dict.fromkeys(fitted)},
    }
    return ValidationReport(
        slot.name,
        evaluation,
        tuple(tests),
        tuple(gaps),
        _curve(evaluation),
        tuple(findings),
        tuple(notes),
        about,
        instead,
    )


def _fitted(
    made: Sequence[tuple[Split, Judged]], variants: Sequence[Variant], ask: Ask, progress: Progress
) -> tuple[list[Heads], list[dict[str, Floats]], list[str]]:
    """The model of each origin, what it and each variant say of the origin's judged rows, and which
    variants are left out, in words.
    """
    architecture = ask.train.architecture
    models = _at_each(architecture, made, lambda split: fit_model(split, ask), progress)
    scores = [
        {NAME: model.value(split.judge.matrix)}
        for model, (split, _) in zip(models, made, strict=True)
    ]
    gone = []
    for one in variants:
        what = one.name if one.kind == "architecture" else f"{architecture}, {one.name}"
        values = _at_each(what, made, lambda split, one=one: one.value(split, ask), progress)
        found = [value for value in values if value is not None]
        if len(found) < len(made):  # at some origins alone it would be compared on other requests
            gone.append(
                f"{one.name} was left out: too little to learn from, or it diverged, at some origin"
            )
            continue
        for mine, value in zip(scores, found, strict=True):
            mine[one.name] = value
    return models, scores, gone


def _at_each(
    what: str,
    made: Sequence[tuple[Split, Judged]],
    fit: Callable[[Split], Found],
    progress: Progress,
) -> list[Found]:
    """What a fit gives at each origin; progress says what is fitted, and at how many of them it
    was.
    """
    found = []
    for number, (split, _) in enumerate(made):
        progress(what, number, len(made))
        found.append(fit(split))
    progress(what, len(made), len(made))
    return found


def _instead(architecture: str, tuned_to: str) -> str:
    return (
        f"All figures are of {architecture}, which was asked for, not of {tuned_to}, which "
        "the slot is tuned to"
        if tuned_to
        else ""
    )


def _chosen(architecture: str, fitted: Sequence[str], *, nets: bool) -> list[str]:
    """What `auto` took, in words."""
    if architecture != AUTO:
        return []
    if not nets:
        return [
            "auto took gbdt, as torch is not installed: pip install 'tailorbird[deep]' lets "
            "it try nets"
        ]
    return [f"auto took, by what each origin watched: {', '.join(fitted)}"]


def _found(
    made: Sequence[tuple[Split, Judged]], ground: Ground, features: FeatureSet, seed: int
) -> list[Finding]:
    """What the search for leaks finds in the largest split, and in the log."""
    split, judged = made[-1][0], made[-1][1].rows
    found = [
        one
        for head in split.objective
        for one in too_good(split.names, split.train.matrix, split.train.labels[head], head)
    ]
    once = {one.what: one for one in reversed(found)}
    known = list(reversed(once.values()))
    material = ground.material
    return [
        *known,
        *looks_ahead(material, judged, features, seed=seed),
        *dated_back(material),
        *repeated(material.by_type, ground.borders[:-1]),
    ]


def _variants(
    split: Split, features: FeatureSet, settings: ValidateSettings, signals: Mapping[str, Any]
) -> list[Variant]:
    if not settings.variants:
        return []
    keep = signals.get("subset", {}).get("keep", ())
    return variants_of(
        split.names, features, keep, defaults=bool(settings.train.tuned), layout=split.layout
    )


def _gaps(origin: str, split: Split, model: Heads) -> list[Gap]:
    found = []
    parts: list[tuple[Part, Mapping[str, Floats]]] = [
        (split.train, model.probabilities(split.train.matrix)),
        (split.watch, model.probabilities(split.served)),
        (split.judge, model.probabilities(split.judge.matrix)),
    ]
    for head in split.objective:
        areas = [metrics.auc(told[head], part.labels[head], part.weight) for part, told in parts]
        losses = [
            _weighted(metrics.log_losses(told[head], part.labels[head]), part.weight)
            for part, told in parts
        ]
        found.append(Gap(origin, head, tuple(areas), tuple(losses)))  # type: ignore[arg-type]
    return found


def _weighted(values: Floats, weight: Floats) -> float:
    """Their mean; NaN where nothing counts, as of requests of which no source found what was
    chosen.
    """
    return float(np.average(values, weights=weight)) if weight.sum() > 0 else float("nan")


def _overfit(gaps: Sequence[Gap], *, nets: bool) -> list[Finding]:
    found = []
    less = (
        "more dropout or weight decay, fewer epochs"
        if nets
        else "fewer leaves, more rows of a leaf"
    )
    for head in dict.fromkeys(one.head for one in gaps):
        mine = [one for one in gaps if one.head == head and np.isfinite(one.overfit)]
        gap = float(np.mean([one.overfit for one in mine])) if mine else 0.0
        if gap > OVERFIT:
            reached = (
                f"{np.mean([one.auc[0] for one in mine]):.3f} on what it learned from, "
                f"{np.mean([one.auc[2] for one in mine]):.3f} later"
            )
            fix = f"{less} or more data may help: tailorbird tune"
            found.append(Finding("look", f"head {head}", f"over-fit: an AUC of {reached}; {fix}"))
    return found


def holm(compared: Sequence[tuple[str, str, Interval]]) -> list[Test]:
    """Paired tests with the chance of each adjusted so that of all that are called different, none
    is by chance, 19 times of 20.

    Source: Holm, Scand. J. Statist. 6 (1979).
    """
    chances = []
    for _, _, gain in compared:
        error = (gain.high - gain.low) / (2 * 1.96)
        certain = 1.0 if gain.value == 0 else 0.0
        chance = float(2 * norm.sf(abs(gain.value) / error)) if error > 0 else certain
        chances.append(chance if gain.known else float("nan"))
    known = [place for place in np.argsort(chances, kind="stable") if np.isfinite(chances[place])]
    adjusted = [float("nan")] * len(compared)
    worst = 0.0
    for rank, place in enumerate(known):
        worst = max(worst, min(1.0, (len(known) - rank) * chances[place]))
        adjusted[place] = worst
    rows = zip(compared, chances, adjusted, strict=True)
    return [Test(name, kind, gain, chance, after) for (name, kind, gain), chance, after in rows]


def _curve(evaluation: Evaluation) -> dict[float, Interval]:
    from tailorbird.training.validate.variants import SHARES, amount_name

    found = {
        share: evaluation.figures[amount_name(share)][PRIMARY]
        for share in SHARES
        if amount_name(share) in evaluation.figures
    }
    return {**found, 1.0: evaluation.figures[NAME][PRIMARY]} if found else {}


def _rounded(value: float) -> float | None:
    return round(float(value), 6) if np.isfinite(value) else None
