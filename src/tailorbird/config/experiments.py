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


def check_startable(project: Project, experiment: Experiment) -> dict[str, str]:
    """Return the version of each arm that names one.

    Raises:
        UsageError: an arm names a version that cannot serve, or nothing logs a metric.
        DeclarationError: it is not clear who is eligible.
    """
    if experiment.where:
        from tailorbird.ranking.policy.condition import compile_condition

        user_fields = champion_features(project).user_fields
        compile_condition(
            experiment.where, user_fields=user_fields, where=f"experiment {experiment.name}"
        )
    _require_logged_events(project, experiment)
    return _resolve_versions(project, experiment)


def _resolve_versions(project: Project, experiment: Experiment) -> dict[str, str]:
    """Return the version of each arm that names one, verified and of the champion's features."""
    registry = Registry(project.paths.registry, clock=SystemClock())
    version_by_arm = {}
    champion_schema = champion_features(project).schema_hash
    for arm, version in experiment.versions.items():
        where = f"experiment {experiment.name}, arm {arm}"
        try:
            folder = registry.resolve(version)
        except UsageError as error:
            raise UsageError(error.message, where=where, fix=error.fix) from None
        version_schema = registry.verify(folder.name).schema_hash
        if version_schema != champion_schema:
            raise UsageError(
                f"{folder.name} was trained on the features {version_schema}, and servers read those of"
                f" the champion, {champion_schema}",
                where=where,
                fix="train a version on the champion's features, or promote one with these first",
            )
        version_by_arm[arm] = folder.name
    return version_by_arm


def require_arm(project: Project, slot: str, arm: str) -> None:
    """Refuse an EXPERIMENT:ARM that was never started in a slot.

    Raises:
        UsageError: there is no such experiment in the slot, or it has no such arm.
    """
    experiments = read_experiments(project.paths.registry).experiments
    arm_labels = [
        f"{experiment.name}:{name}"
        for experiment in experiments
        for name in experiment.declaration["arms"]
    ]
    arm_prefixes = {f"{experiment.name}:" for experiment in experiments if experiment.slot == slot}
    if arm not in arm_labels or not arm.startswith(tuple(arm_prefixes)):
        raise UsageError(
            f"slot {slot} has run no arm {arm!r}",
            where="--arm",
            fix=suggest_name(
                arm, arm_labels, f"use one of {', '.join(arm_labels) or 'none: start one'}"
            ),
        )


def _require_logged_events(project: Project, experiment: Experiment) -> None:
    """Refuse a metric or an exposure whose events the lake has never seen.

    What belongs to responses of the slot may begin to be logged once there are some.
    """
    lake = Lake(project.paths.lake)
    if not lake.exists("events"):
        return
    events = lake.events(columns=("type", "slot", *VALUE_COLUMNS.values()))
    logged_types = [event_type for event_type in events["type"].unique().to_pylist() if event_type]
    is_answer = pc.and_kleene(
        pc.equal(events["type"], "answer"), pc.equal(events["slot"], experiment.slot)
    )
    has_responses = (pc.sum(is_answer).as_py() or 0) >= RESPONSES_MIN
    required_events = [("exposure", "slot", experiment.exposure)]
    for metric in (experiment.metric, *experiment.guardrails):
        required_by = f"metric {metric.name}"
        required_events += [
            (required_by, metric.scope, event_type) for event_type in metric.event_types
        ]
    for required_by, scope, event in required_events:
        if logged_types and event not in logged_types and (scope == "site" or has_responses):
            raise UsageError(
                f"nothing logs {event!r}",
                where=f"experiment {experiment.name}, {required_by}",
                fix=suggest_name(
                    event, logged_types, f"use one of {', '.join(sorted(logged_types))}"
                ),
            )
    for metric in (experiment.metric, *experiment.guardrails):
        _require_logged_value(experiment, metric, events)


def _require_logged_value(experiment: Experiment, metric: Metric, events: pa.Table) -> None:
    """Refuse a metric whose value none of its events in the lake has."""
    value_name = "dwell_s" if metric.dwell else metric.event_value
    if (column := VALUE_COLUMNS.get(value_name)) is None:
        return
    types_with_value = events.filter(pc.is_valid(events[column]))["type"].unique().to_pylist()
    event_count = pc.sum(pc.equal(events["type"], metric.event_type)).as_py() or 0
    if metric.event_type not in types_with_value and event_count >= RESPONSES_MIN:
        types_with_field = ", ".join(sorted(name for name in types_with_value if name)) or "none"
        raise UsageError(
            f"nothing logs {column} of {metric.event_type!r}",
            where=f"experiment {experiment.name}, metric {metric.name}",
            fix=f"log it, or take an event that has it: {types_with_field}",
        )


def warn_of_shared_learning(
    project: Project, started: StartedExperiment, events: pa.Table
) -> list[str]:
    """Return warnings of models that learned from the traffic of several arms meanwhile."""
    responses = events.filter(
        pc.and_kleene(
            pc.equal(events["type"], "answer"), pc.equal(events["experiment"], started.name)
        )
    )
    experiment = Experiment.from_dict(started.declaration)
    registry = Registry(project.paths.registry, clock=SystemClock())
    warnings = []
    arms_and_models = responses.group_by(["arm", "model"]).aggregate([]).sort_by("arm").to_pylist()
    for arm, version in (
        (served_arm["arm"], served_arm["model"]) for served_arm in arms_and_models
    ):
        is_stored_version = bool(version) and (registry.path / version).is_dir()
        if (
            not is_stored_version
            or arm not in experiment.arms
            or experiment.policy_of(arm) != "model"
        ):
            continue  # also the fallback, and a version that an imported log names
        info = registry.info(version)
        arm_label = f"{started.name}:{arm}"
        if info.learned_until > started.started_at and info.arm != arm_label:
            warnings.append(
                f"Warning: {version}, which served the arm {arm}, learned from the traffic of other"
                f" arms until {to_iso(info.learned_until)[:16]}, so the arms grow alike. A version"
                f" that learns from its own arm: tailorbird train --arm {arm_label}"
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
    declared_version = started.versions.get(arm, "")
    served_versions = (
        [declared_version] if declared_version else _served_versions(project, started, arm)
    )
    if served_versions == [version]:
        return ""
    if len(served_versions) == 1:
        return f"it decided for {arm}, which {served_versions[0]} served, and not for {version}"
    versions_text = " and ".join(served_versions) if served_versions else "no version in the lake"
    return (
        f"it decided for {arm}, which {versions_text} served; an arm stands for one version if it declares "
        f'it: versions={{"{arm}": "{version}"}}'
    )


def _served_versions(project: Project, started: StartedExperiment, arm: str) -> list[str]:
    """Return the versions of the registry that answered in an arm, by the lake."""
    lake = Lake(project.paths.lake)
    registry = Registry(project.paths.registry, clock=SystemClock())
    experiment = Experiment.from_dict(started.declaration)
    if experiment.policy_of(arm) != "model" or not lake.exists("events"):
        return []
    events = lake.events(
        ("type", "experiment", "arm", "model"), started.started_at, started.stopped_at
    )
    responses = events.filter(
        (pc.field("type") == "answer")
        & (pc.field("experiment") == started.name)
        & (pc.field("arm") == arm)
    )
    version_names = [name for name in responses["model"].unique().to_pylist() if name]
    return sorted(name for name in version_names if (registry.path / name).is_dir())
