"""Experiments and the versions of the registry: before a start, for a promotion, in a report."""

from dataclasses import replace

import pyarrow as pa
import pyarrow.compute as pc

from tailorbird.config.project import Project
from tailorbird.config.schemas import champion_features
from tailorbird.errors import UsageError, suggest_name
from tailorbird.events import SystemClock, to_iso
from tailorbird.experiments.assign import SEGMENTS, Experiment
from tailorbird.experiments.metrics import Metric
from tailorbird.lake import Lake
from tailorbird.registry import Registry, StartedExperiment, read_experiments

RESPONSES_MIN = 300  # of a slot, after which an event that belongs to them is missing
VALUE_COLUMNS = {"dwell_s": "dwell_ms", "revenue": "price"}  # value of a metric → column


def check_startable(project: Project, declared: Experiment) -> dict[str, str]:
    """Return the version of each arm that names one.

    Raises:
        UsageError: an arm names a version that cannot serve, or nothing logs a metric.
        DeclarationError: it is not clear who is eligible.
    """
    if declared.where:
        from tailorbird.ranking.policy.condition import compile_condition

        fields = champion_features(project).user_fields
        compile_condition(declared.where, user_fields=fields, where=f"experiment {declared.name}")
    _require_logged_events(project, declared)
    return _resolve_versions(project, declared)


def _resolve_versions(project: Project, declared: Experiment) -> dict[str, str]:
    """Return the version of each arm that names one, verified and of the champion's features."""
    registry, versions = Registry(project.paths.registry, clock=SystemClock()), {}
    schema = champion_features(project).schema_hash
    for arm, version in declared.versions.items():
        where = f"experiment {declared.name}, arm {arm}"
        try:
            folder = registry.resolve(version)
        except UsageError as error:
            raise UsageError(error.message, where=where, fix=error.fix) from None
        trained_on = registry.verify(folder.name).schema_hash
        if trained_on != schema:
            raise UsageError(
                f"{folder.name} was trained on the features {trained_on}, and servers read those of"
                f" the champion, {schema}",
                where=where,
                fix="train a version on the champion's features, or promote one with these first",
            )
        versions[arm] = folder.name
    return versions


def require_arm(project: Project, slot: str, arm: str) -> None:
    """Refuse an EXPERIMENT:ARM that was never started in a slot.

    Raises:
        UsageError: there is no such experiment in the slot, or it has no such arm.
    """
    experiments = read_experiments(project.paths.registry).experiments
    arms = [
        f"{experiment.name}:{name}"
        for experiment in experiments
        for name in experiment.declaration["arms"]
    ]
    arm_prefixes = {f"{experiment.name}:" for experiment in experiments if experiment.slot == slot}
    if arm not in arms or not arm.startswith(tuple(arm_prefixes)):
        raise UsageError(
            f"slot {slot} has run no arm {arm!r}",
            where="--arm",
            fix=suggest_name(arm, arms, f"use one of {', '.join(arms) or 'none: start one'}"),
        )


def _require_logged_events(project: Project, declared: Experiment) -> None:
    """Refuse a metric or an exposure whose events the lake has never seen.

    What belongs to responses of the slot may begin to be logged once there are some.
    """
    lake = Lake(project.paths.lake)
    if not lake.exists("events"):
        return
    events = lake.events(columns=("type", "slot", *VALUE_COLUMNS.values()))
    types = [event_type for event_type in events["type"].unique().to_pylist() if event_type]
    is_answer = pc.and_kleene(
        pc.equal(events["type"], "answer"), pc.equal(events["slot"], declared.slot)
    )
    has_responses = (pc.sum(is_answer).as_py() or 0) >= RESPONSES_MIN
    needed_fields = [("exposure", "slot", declared.exposure)]
    for metric in (declared.metric, *declared.guardrails):
        name = f"metric {metric.name}"
        needed_fields += [(name, metric.scope, event_type) for event_type in metric.event_types]
    for name, scope, event in needed_fields:
        if types and event not in types and (scope == "site" or has_responses):
            raise UsageError(
                f"nothing logs {event!r}",
                where=f"experiment {declared.name}, {name}",
                fix=suggest_name(event, types, f"use one of {', '.join(sorted(types))}"),
            )
    for metric in (declared.metric, *declared.guardrails):
        _require_logged_value(declared, metric, events)


def _require_logged_value(declared: Experiment, metric: Metric, events: pa.Table) -> None:
    """Refuse a metric whose value none of its events in the lake has."""
    value = "dwell_s" if metric.dwell else metric.event_value
    if (column := VALUE_COLUMNS.get(value)) is None:
        return
    found = events.filter(pc.is_valid(events[column]))["type"].unique().to_pylist()
    count = pc.sum(pc.equal(events["type"], metric.event_type)).as_py() or 0
    if metric.event_type not in found and count >= RESPONSES_MIN:
        types_with_field = ", ".join(sorted(name for name in found if name)) or "none"
        raise UsageError(
            f"nothing logs {column} of {metric.event_type!r}",
            where=f"experiment {declared.name}, metric {metric.name}",
            fix=f"log it, or take an event that has it: {types_with_field}",
        )


def warn_of_shared_learning(
    project: Project, started: StartedExperiment, events: pa.Table
) -> list[str]:
    """Return warnings of models that learned from the traffic of several arms meanwhile."""
    rows = events.filter(
        pc.and_kleene(
            pc.equal(events["type"], "answer"), pc.equal(events["experiment"], started.name)
        )
    )
    experiment = Experiment.from_dict(started.declaration)
    registry, warnings = Registry(project.paths.registry, clock=SystemClock()), []
    arms_and_models = rows.group_by(["arm", "model"]).aggregate([]).sort_by("arm").to_pylist()
    for arm, version in (
        (served_arm["arm"], served_arm["model"]) for served_arm in arms_and_models
    ):
        is_version = bool(version) and (registry.path / version).is_dir()
        if not is_version or arm not in experiment.arms or experiment.policy_of(arm) != "model":
            continue  # also the fallback, and a version that an imported log names
        info = registry.info(version)
        own_log = f"{started.name}:{arm}"
        if info.learned_until > started.started_at and info.arm != own_log:
            warnings.append(
                f"Warning: {version}, which served the arm {arm}, learned from the traffic of other"
                f" arms until {to_iso(info.learned_until)[:16]}, so the arms grow alike. A version"
                f" that learns from its own arm: tailorbird train --arm {own_log}"
            )
    return warnings


def frozen_attribution(project: Project, started: StartedExperiment) -> tuple[str, str]:
    """Return the attribution window of an experiment, and a note if slots.py says another."""
    slot = project.slots.get(started.slot)
    if not started.attribution:
        note = f"Attribution is that of slots.py today: the start of {started.name} kept none."
        return project.slot(started.slot).attribution, note
    if slot is None or slot.attribution == started.attribution:
        return started.attribution, ""
    note = (
        f"The slot's attribution is {slot.attribution} in slots.py; {started.attribution}, frozen "
        "at the start, counts."
    )
    return started.attribution, note


def drop_unknown_segments(experiment: Experiment) -> tuple[Experiment, str]:
    """Return the experiment without segments that no response has, and a note of these."""
    known_segments = [name for name in experiment.segments if name in SEGMENTS]
    unknown_segments = [name for name in experiment.segments if name not in SEGMENTS]
    if not unknown_segments:
        return experiment, ""
    note = f"No response has the segments {', '.join(unknown_segments)}; there are {', '.join(SEGMENTS)}."
    return replace(experiment, segments=known_segments), note


def find_objection(project: Project, started: StartedExperiment, version: str) -> str:
    """Return what an experiment says instead of a version; "" if it decided for this one.

    Of an arm without a declared version, the one that served all of its responses counts.
    """
    if started.state != "decided":
        return f"it is {started.state}, and has decided for no version"
    arm = started.decision
    declared = started.versions.get(arm, "")
    served_versions = [declared] if declared else _served_versions(project, started, arm)
    if served_versions == [version]:
        return ""
    if len(served_versions) == 1:
        return f"it decided for {arm}, which {served_versions[0]} served, and not for {version}"
    who = " and ".join(served_versions) if served_versions else "no version in the lake"
    return (
        f"it decided for {arm}, which {who} served; an arm stands for one version if it declares "
        f'it: versions={{"{arm}": "{version}"}}'
    )


def _served_versions(project: Project, started: StartedExperiment, arm: str) -> list[str]:
    """Return the versions of the registry that answered in an arm, by the lake."""
    lake, registry = Lake(project.paths.lake), Registry(project.paths.registry, clock=SystemClock())
    experiment = Experiment.from_dict(started.declaration)
    if experiment.policy_of(arm) != "model" or not lake.exists("events"):
        return []
    events = lake.events(
        ("type", "experiment", "arm", "model"), started.started_at, started.stopped_at
    )
    rows = events.filter(
        (pc.field("type") == "answer")
        & (pc.field("experiment") == started.name)
        & (pc.field("arm") == arm)
    )
    names = [name for name in rows["model"].unique().to_pylist() if name]
    return sorted(name for name in names if (registry.path / name).is_dir())
