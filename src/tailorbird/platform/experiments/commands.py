"""Experiments of a project: list, plan, start, ramp, stop, decide and report."""

import getpass
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from tailorbird.config import Project
from tailorbird.config.experiments import (
    check_startable,
    drop_unknown_segments,
    frozen_attribution,
    warn_of_shared_learning,
)
from tailorbird.errors import NotReadyError, UsageError, suggest_name
from tailorbird.events import DAY, Clock, SystemClock, parse_duration, to_iso
from tailorbird.experiments.assign import BUCKETS, Experiment
from tailorbird.experiments.interleaving import (
    EVENT_COLUMNS,
    RESPONSE_COLUMNS,
    InterleavingReport,
    interleaving_report,
)
from tailorbird.experiments.plan import Plan, plan_experiment
from tailorbird.experiments.report import Report, experiment_report
from tailorbird.experiments.trial import TrialReport, trial_report
from tailorbird.experiments.units import UNIT_COLUMNS
from tailorbird.experiments.views.timeline import TimelineEvent
from tailorbird.lake import Lake
from tailorbird.monitoring.drift.judgement import EPISODES_FILE
from tailorbird.platform.clocks import clock_as_of, parse_time
from tailorbird.platform.drift import read_episodes
from tailorbird.platform.experiments.estimate import plan_drawn_shares
from tailorbird.registry import Experiments, Registry, StartedExperiment, read_experiments

MODEL_CHANGES = ("promote", "rollback", "canary", "end canary", "formula")
LIST_COLUMNS = ("experiment", "slot", "state", "ramp", "layer", "rule", "since", "decision")


def list_experiments(project: Project) -> list[tuple[Any, ...]]:
    """Return rows of `LIST_COLUMNS`: splits of slots, declared and started experiments."""
    experiments = read_experiments(project.paths.registry)
    rows: list[tuple[Any, ...]] = [
        (slot.experiment.name, slot.name, "permanent", 1.0, "", "", "", "")
        for slot in project.slots.values()
        if slot.experiment is not None
    ]
    for experiment in experiments.experiments:
        changed_at = max(experiment.started_at, experiment.stopped_at, experiment.decided_at)
        stopping_rule = experiment.declaration["stopping"]
        rows.append(
            (
                experiment.name,
                experiment.slot,
                experiment.state,
                experiment.ramp,
                experiment.layer,
                stopping_rule,
                to_iso(changed_at)[:16],
                experiment.decision,
            )
        )
    rows += [
        (
            experiment.name,
            experiment.slot,
            "declared",
            0.0,
            experiment.layer_name,
            experiment.stopping,
            "",
            "",
        )
        for experiment in project.experiments.values()
        if experiments.get(experiment.name) is None
    ]
    return rows


def freeze_declaration(
    experiment: Experiment,
    *,
    ramp: float,
    versions: Mapping[str, str] | None = None,
    attribution: str = "",
) -> StartedExperiment:
    """Return the declaration as the registry keeps it, with its hash.

    Args:
        versions: arm → version of the model that serves it.
        attribution: of the slot.
    """
    return StartedExperiment(
        name=experiment.name,
        slot=experiment.slot,
        layer=experiment.layer_name,
        digest=experiment.digest,
        declaration=experiment.to_dict(),
        size=round(experiment.share * BUCKETS),
        ramp=ramp,
        versions=dict(versions or {}),
        attribution=attribution,
    )


def start_experiment(
    project: Project,
    name: str,
    *,
    ramp: float = 1.0,
    by: str = "",
    why: str,
    clock: Clock | None = None,
) -> StartedExperiment:
    """Freeze a declaration of experiments.py by its hash, and run it.

    Args:
        ramp: share of its units that takes part at first.
        clock: of the events; by default the project's.

    Raises:
        UsageError: nothing has that name, an arm names a version that cannot serve, nothing logs a
            metric, or `Experiments.start` refuses it.
        DeclarationError: it is not clear who is eligible.
    """
    experiment = _find_declared(project, name)
    versions = check_startable(project, experiment)
    attribution = project.slots[experiment.slot].attribution
    frozen_experiment = freeze_declaration(
        experiment, ramp=ramp, versions=versions, attribution=attribution
    )
    audit_reason = f"{experiment.digest[:12]}: {why}"
    return _apply_change(
        project,
        "start",
        name,
        frozen_experiment,
        by=by,
        why=why,
        audit_reason=audit_reason,
        clock=clock,
    )


def change_experiment(
    project: Project,
    action: str,
    name: str,
    *arguments: Any,
    by: str = "",
    why: str,
    clock: Clock | None = None,
) -> StartedExperiment:
    """Ramp, stop or decide an experiment.

    Raises:
        UsageError: its state does not allow that.
    """
    audit_reason = f"{', '.join(str(value) for value in arguments)}: {why}" if arguments else why
    return _apply_change(
        project,
        action,
        name,
        name,
        *arguments,
        by=by,
        why=why,
        audit_reason=audit_reason,
        clock=clock,
    )


def plan_declared(
    project: Project, name: str, *, since: str = "", drawn_shares: bool = False
) -> Plan:
    """Plan a declared experiment from the slot's responses in the lake.

    Args:
        drawn_shares: also replay responses to see what off-policy evaluation could tell of the arms
            if the slot drew a share of its slates, see `plan_drawn_shares`.
        since: length of the period to learn from; by default the planned duration, as far as the
            lake reaches.

    Raises:
        NotReadyError: the lake has too few units of the slot.
        UsageError: it is interleaved.
    """
    experiment = _find_declared(project, name)
    if experiment.is_interleaved:
        raise UsageError(
            "interleaving needs no plan: its report may be read at any time",
            where=f"experiment {name}",
            fix=f'tailorbird experiment start {name} --why "…"',
        )
    slot = project.slots[experiment.slot]
    now = project.clock().now()
    period_us = parse_duration(since or experiment.duration)
    days = max(int(period_us // DAY), 1)
    events = Lake(project.paths.lake).events(
        columns=UNIT_COLUMNS,
        ts_from=now - days * DAY - parse_duration(experiment.history),
        ts_to=now,
    )
    plan = plan_experiment(
        events, experiment, now=now, attribution=parse_duration(slot.attribution), days=days
    )
    if not drawn_shares:
        return plan
    shares = plan_drawn_shares(project, experiment, days=plan.duration_days, since=since)
    return replace(plan, drawn_shares=shares)


def report_experiment(
    project: Project, name: str = "", *, since: str = "", as_of: str = ""
) -> Report | TrialReport | InterleavingReport:
    """Report on a started experiment by its name, or on the split of a slot.

    Args:
        name: an experiment or a slot; "" takes `train.slot`.
        since: only the last while of a slot's split, such as `14d`.
        as_of: a time to report at instead of now, or `latest`.

    Raises:
        UsageError: the slot runs no experiment, or `as_of` is before its start.
        NotReadyError: the experiment is declared, but not started.
    """
    experiments = read_experiments(project.paths.registry)
    if name and (started_experiment := experiments.get(name)) is not None:
        return _report_started(project, started_experiment, as_of)
    if name in project.experiments:
        raise NotReadyError(
            "it is not started",
            where=f"experiment {name}",
            fix=f'tailorbird experiment start {name} --why "…"',
        )
    slot = project.slot(name)
    if slot.experiment is None:
        running_names = [
            experiment.name
            for experiment in experiments.experiments
            if experiment.slot == slot.name
        ]
        if len(running_names) == 1:
            return _report_started(project, _require_started(experiments, running_names[0]), as_of)
        raise UsageError(
            f"slot {slot.name} runs no experiment",
            fix=f"name one of {', '.join(running_names)}"
            if running_names
            else f"declare one in {project.root / 'experiments.py'}, and start it",
        )
    stop_ts = _resolve_as_of(project, as_of) if as_of else None
    return experiment_report(
        Lake(project.paths.lake),
        slot.experiment,
        slot.name,
        ts_from=(stop_ts or SystemClock().now()) - parse_duration(since) if since else None,
        ts_to=stop_ts,
        denominator=slot.denominator,
        attribution=parse_duration(slot.attribution),
    )


def _report_started(
    project: Project, started_experiment: StartedExperiment, as_of: str = ""
) -> TrialReport | InterleavingReport:
    """Report on a planned experiment, which is a trial of its arms or interleaves them."""
    experiment = Experiment.from_dict(started_experiment.declaration)
    now = _resolve_as_of(project, as_of) if as_of else project.clock().now()
    if as_of and now < started_experiment.started_at:
        raise UsageError(
            f"experiment {started_experiment.name} was started at "
            f"{to_iso(started_experiment.started_at)}",
            where=f"--as-of {as_of}",
            fix="name a later time",
        )
    started_experiment = started_experiment.as_of(now)
    lake = Lake(project.paths.lake)
    stop_ts = started_experiment.stopped_at or now
    notes = [
        f"{to_iso(change.at)[:16]} {change.action} by {change.by}"
        f"{f' to {change.ramp:g}' if change.action == 'ramp' else ''}: {change.why}"
        for change in started_experiment.changes
    ]
    declared_experiment = project.experiments.get(started_experiment.name)
    if declared_experiment is not None and declared_experiment.digest != started_experiment.digest:
        notes.append("experiments.py differs from what was started; the frozen declaration counts.")
    attribution, attribution_note = frozen_attribution(project, started_experiment)
    experiment, segments_note = drop_unknown_segments(experiment)
    notes += [note for note in (attribution_note, segments_note) if note]
    report_options: dict[str, Any] = {
        "started_at": started_experiment.started_at,
        "stopped_at": started_experiment.stopped_at,
        "now": now,
        "attribution": parse_duration(attribution),
        "state": started_experiment.state,
        "notes": tuple(notes),
    }
    if experiment.is_interleaved:
        events = lake.events(EVENT_COLUMNS, started_experiment.started_at, stop_ts)
        responses = lake.responses(RESPONSE_COLUMNS, started_experiment.started_at, stop_ts)
        return interleaving_report(events, responses, experiment, **report_options)
    history_us = parse_duration(experiment.history)
    columns = (*UNIT_COLUMNS, "model")
    events = lake.events(
        columns=columns, ts_from=started_experiment.started_at - history_us, ts_to=stop_ts
    )
    version_notes = [
        f"{version} serves the arm {arm}." for arm, version in started_experiment.versions.items()
    ]
    warnings = warn_of_shared_learning(project, started_experiment, events)
    report_options["notes"] = (*warnings, *version_notes, *notes)
    decided_by = started_experiment.changes[-1].by if started_experiment.decision else ""
    report_options |= {"decision": started_experiment.decision, "decided_by": decided_by}
    return trial_report(events, experiment, timeline=list_changes(project), **report_options)


def _resolve_as_of(project: Project, as_of: str) -> int:
    return clock_as_of(as_of, project, allow_lateness=False).now()


def list_changes(project: Project) -> list[TimelineEvent]:
    """Return what changed in a project: models, experiments, and episodes of drift."""
    registry = Registry(project.paths.registry, clock=SystemClock())
    events = [
        TimelineEvent(entry.at, "model", f"{entry.action} {entry.version}: {entry.why}")
        for entry in registry.audit()
        if entry.action in MODEL_CHANGES
    ]
    events += [
        TimelineEvent(change.at, "experiment", f"{change.action} {experiment.name}: {change.why}")
        for experiment in read_experiments(project.paths.registry).experiments
        for change in experiment.changes
    ]
    events += [
        TimelineEvent(
            parse_time(row.since, EPISODES_FILE), "incident", f"{row.cause}: {row.evidence}"
        )
        for row in read_episodes(project, SystemClock())
    ]
    return events


def _apply_change(
    project: Project,
    action: str,
    name: str,
    *arguments: Any,
    by: str,
    why: str,
    audit_reason: str,
    clock: Clock | None,
) -> StartedExperiment:
    """Apply a method of `Experiments` to those of the registry, with `audit_reason` in its log."""
    author = by or getpass.getuser()
    changed_at = (
        clock or project.clock()
    ).now()  # the time of events, also where a log ended long ago

    def apply_action(experiments: Experiments) -> Experiments:
        return getattr(experiments, action)(*arguments, by=author, why=why, at=changed_at)

    registry = Registry(project.paths.registry, clock=SystemClock())
    return _require_started(
        registry.change_experiments(action, name, apply_action, by=author, why=audit_reason), name
    )


def _find_declared(project: Project, name: str) -> Experiment:
    if name not in project.experiments:
        if any(
            slot.experiment is not None and slot.experiment.name == name
            for slot in project.slots.values()
        ):
            problem = f"{name!r} is a permanent split of slots.py, which runs already"
            fix = "move it to experiments.py"
        else:
            names = list(project.experiments)
            problem = f"experiments.py declares no experiment {name!r}"
            fix = suggest_name(
                name, names, f"use one of {', '.join(names)}" if names else "declare one there"
            )
        raise UsageError(problem, where=str(project.root / "experiments.py"), fix=fix)
    return project.experiments[name]


def _require_started(experiments: Experiments, name: str) -> StartedExperiment:
    started_experiment = experiments.get(name)
    assert started_experiment is not None, name
    return started_experiment
