"""Load what the files of a project declare: slots, churn models, scores and experiments."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from tailorbird.errors import DeclarationError, suggest_name
from tailorbird.events import EVENT_TYPES
from tailorbird.events.clock import parse_duration
from tailorbird.experiments.assign import BUCKETS, SEGMENTS, Experiment
from tailorbird.project_file import run_file
from tailorbird.ranking import Churn, ChurnScore, NextBest, Slot
from tailorbird.ranking.scores import Score
from tailorbird.ranking.slot import ARM_POLICIES

EXPERIMENT_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
T = TypeVar("T")


def _load_declared(file: Path, *kinds: type[T]) -> list[T]:
    """Return the objects of some kinds that a file declares by name or in a list, each once."""
    objects = (
        element
        for value in run_file(file).values()
        for element in (value if isinstance(value, list | tuple) else (value,))
        if isinstance(element, kinds)
    )
    return list({id(declared): declared for declared in objects}.values())


def load_slots(file: Path) -> dict[str, Slot]:
    """Return the slots that slots.py declares, by name.

    Raises:
        DeclarationError: the file is missing, does not run, or gives two slots the same name.
    """
    slot_by_name: dict[str, Slot] = {}
    for slot in _load_declared(file, Slot):
        if slot.name in slot_by_name:
            raise DeclarationError(f"two slots are named {slot.name!r}", where=str(file))
        slot_by_name[slot.name] = slot
    if not slot_by_name:
        raise DeclarationError(
            "declares no Slot", where=str(file), fix="tailorbird init writes an example"
        )
    return slot_by_name


def load_churn(file: Path, types: Sequence[str] = EVENT_TYPES) -> dict[str, Churn]:
    """Return the churn models that churn.py declares, by name; none without the file.

    Args:
        types: the event types that the project knows.
    Raises:
        DeclarationError: the file does not run, repeats a name, or uses an event type that does
            not exist.
    """
    model_by_name: dict[str, Churn] = {}
    for churn in _load_declared(file, Churn) if file.exists() else ():
        if churn.name in model_by_name:
            raise DeclarationError(f"two are named {churn.name!r}", where=str(file))
        if unknown_types := [type_ for type_ in churn.types if type_ not in types]:
            fix = suggest_name(unknown_types[0], types, f"use some of {', '.join(types)}")
            raise DeclarationError(
                f"churn {churn.name}: {unknown_types[0]!r} is no event type",
                where=str(file),
                fix=fix,
            )
        model_by_name[churn.name] = churn
    return model_by_name


def load_scores(
    file: Path, types: Sequence[str], slots: Mapping[str, Slot], churn_models: Mapping[str, Churn]
) -> dict[str, Score]:
    """Return the scores that scores.py declares, by name; none without the file.

    Raises:
        DeclarationError: the file does not run, repeats a name, or uses an event type, a slot or a
            churn model that does not exist.
    """
    score_by_name: dict[str, Score] = {}
    for score in _load_declared(file, ChurnScore, NextBest) if file.exists() else ():
        if score.name in score_by_name:
            raise DeclarationError(
                f"two are named {score.name!r}", where=str(file), fix="give one of them a name="
            )
        reference, declared_names, kind = (
            (score.slot, slots, "slot of slots.py")
            if isinstance(score, NextBest)
            else (score.model, churn_models, "model of churn.py")
        )
        references = [
            (reference, list(declared_names), kind),
            *((type_, list(types), "event type") for type_ in score.on),
        ]
        for name, known_names, kind_name in references:
            if name not in known_names:
                fix = suggest_name(
                    name, known_names, f"use one of {', '.join(known_names) or 'none: declare one'}"
                )
                raise DeclarationError(
                    f"{score.name}: {name!r} is no {kind_name}", where=str(file), fix=fix
                )
        score_by_name[score.name] = score
    return score_by_name


def load_experiments(file: Path, slots: Mapping[str, Slot]) -> dict[str, Experiment]:
    """Return the experiments that experiments.py declares, by name; none without the file.

    Raises:
        DeclarationError: the file does not run, repeats a name, or an experiment has no treatment,
            or names a slot or a policy that does not exist.
    """
    experiment_by_name: dict[str, Experiment] = {}
    for experiment in _load_declared(file, Experiment) if file.exists() else ():
        if experiment.name in experiment_by_name:
            raise DeclarationError(
                f"two are named {experiment.name!r}", where=str(file), fix="rename one"
            )
        _check_experiment(experiment, slots, str(file))
        experiment_by_name[experiment.name] = experiment
    return experiment_by_name


def _check_experiment(experiment: Experiment, slots: Mapping[str, Slot], file: str) -> None:
    where = f"{file}: experiment {experiment.name}"
    slot_names = ", ".join(slots)
    for slot in (experiment.slot, *experiment.slots.values()):
        if slot not in slots:
            problem = f"{slot!r} is no slot of slots.py" if slot else "it names no slot"
            raise DeclarationError(problem, where=where, fix=f"use one of {slot_names}")
    permanent_split = slots[experiment.slot].experiment
    if permanent_split is not None:
        raise DeclarationError(
            f"slot {experiment.slot} has the permanent split {permanent_split.name}",
            where=where,
            fix="remove experiment= from the slot",
        )
    if not experiment.treatments:
        raise DeclarationError(
            "it has one arm and no control", where=where, fix="declare two arms or more"
        )
    for arm in experiment.arms:
        if experiment.policy_of(arm) not in ARM_POLICIES:
            raise DeclarationError(
                f"arm {arm!r} names no policy",
                where=where,
                fix=f"name it in policies= ({', '.join(ARM_POLICIES)}), slots= ({slot_names}) or "
                "versions=",
            )
    _check_servable(experiment, where)
    if experiment.is_interleaved:
        _check_interleaved(experiment, slots, where)


def _check_servable(experiment: Experiment, where: str) -> None:
    """Refuse what would start, and then never be served or reported."""
    if not EXPERIMENT_NAME.fullmatch(experiment.name):
        raise DeclarationError(
            f"{experiment.name!r} is no name for an experiment",
            where=where,
            fix="use letters, digits, -, _ and . and begin with a letter or a digit",
        )
    for arm, share in experiment.arms.items():
        if round(share * BUCKETS) < 1:
            raise DeclarationError(
                f"arm {arm!r} has the share {share:g}, so nobody gets it",
                where=where,
                fix=f"use at least {1 / BUCKETS:g}",
            )
    if parse_duration(experiment.interval) > parse_duration(experiment.duration):
        raise DeclarationError(
            f"the interval of analyses, {experiment.interval}, exceeds the duration, "
            f"{experiment.duration}",
            where=where,
            fix="use a shorter interval=, such as 1d",
        )
    for segment in experiment.segments:
        if segment not in SEGMENTS:
            raise DeclarationError(
                f"segments: no response has {segment!r}",
                where=where,
                fix=f"use some of {', '.join(SEGMENTS)}",
            )


def _check_interleaved(experiment: Experiment, slots: Mapping[str, Slot], where: str) -> None:
    """Refuse what a draft of two rankings would break: random arms, and constraints on a slate."""
    for arm in experiment.arms:
        if experiment.policy_of(arm) == "random":
            raise DeclarationError(f"arm {arm!r} has no ranking to draft from", where=where)
    for name in {experiment.slot, *experiment.slots.values()}:
        slot = slots[name]
        if (
            slot.pins
            or slot.promotions
            or any(quota.first or quota.window for quota in slot.all_quotas)
        ):
            raise DeclarationError(
                f"slot {name} has pins, promotions or quotas of some positions, which a drafted "
                "slate would break",
                where=where,
                fix='compare these arms by kind="ab"',
            )
