"""Estimate policies of a project from its log: versions, formulas, settings of slots, and arms."""

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from tailorbird.config import Project
from tailorbird.errors import DeclarationError, UsageError, suggest_name
from tailorbird.experiments.assign import Experiment
from tailorbird.platform.clocks import clock_as_of
from tailorbird.platform.train_options import parse_window
from tailorbird.platform.training import Notify, discard_note
from tailorbird.ranking.policy.formula import parse_usable_formula
from tailorbird.ranking.slot import Slot
from tailorbird.registry import Registry, read_experiments, read_formulas
from tailorbird.training.settings import TrainSettings

if TYPE_CHECKING:
    from tailorbird.experiments.plan import DrawnShare
    from tailorbird.training.evaluation.off_policy import OffPolicyReport
    from tailorbird.training.evaluation.policies import Policy

CHAMPION = "champion"
# Where a tenth of the slates is drawn, 100 to 300 answers tell as much as one of the model's own.
ESTIMATE_RESPONSES_MAX = 50_000
PLAN_RESPONSES_MAX = 1_000  # that are replayed to see what drawn slates would tell


def estimate_policy(
    project: Project,
    bundle: str = "",
    against: str = "",
    *,
    formula: str = "",
    settings_of: str = "",
    arm: str = "",
    slot: str = "",
    since: str = "",
    outcome: str = "click",
    as_of: str = "",
    notify: Notify = discard_note,
) -> "OffPolicyReport":
    """Estimate the value of a policy from the response log, beside that of another one.

    The policy is a version of the registry with the slot's settings, or with another formula or
    another slot's settings; or an arm of an experiment, with all that it is served with. Responses
    that either's model learned from are left out.

    Args:
        bundle: version or alias; by default the champion.
        against: version, alias or EXPERIMENT:ARM; by default the champion, and for an arm the
            control of its experiment.
        formula: value of an item, such as `click + 8*purchase`.
        settings_of: slot of slots.py whose formula, rules, sources and other settings apply.
        arm: EXPERIMENT:ARM, declared or started.
        slot: whose responses are replayed; "" takes that of the arm, or `train.slot`.
        since: length of the most recent period, such as `14d`; "" takes `train.window`.
        outcome: event type that counts as reward.

    Raises:
        UsageError: the policy is not named or equals the other one; there is no such version, slot
            or arm; or a version has no model for the slot.
        DeclarationError: the formula is none, or needs a head that the version lacks.
        NotReadyError: no response is left whose outcome is known.
    """
    from tailorbird.training.evaluation.estimate import estimate_policies

    if arm and (bundle or formula or settings_of):
        raise UsageError(
            "an arm names its version, formula and settings itself",
            where=f"--arm {arm}",
            fix="leave out --bundle, --formula and --settings-of",
        )
    if not (arm or bundle or formula or settings_of):
        raise UsageError(
            "nothing to estimate is named",
            fix="use --bundle VERSION, --formula TEXT, --settings-of SLOT or --arm EXPERIMENT:ARM",
        )
    if arm:
        experiment = _find_experiment(project, arm, "--arm")[0]
        replayed_slot = project.slot(slot or experiment.slot)
        new_policy = arm_policy(project, arm, replayed_slot)
        if not against and arm.partition(":")[2] == experiment.control_arm:
            raise UsageError(
                f"{arm} is the control of its experiment",
                where="--arm",
                fix=f"name another arm, or what it is compared with: --against {CHAMPION}",
            )
        against = against or f"{experiment.name}:{experiment.control_arm}"
    else:
        replayed_slot = project.slot(slot)
        new_policy = _version_policy(
            project, replayed_slot, bundle or CHAMPION, formula, settings_of
        )
    against = against or CHAMPION
    old_policy = (
        arm_policy(project, against, replayed_slot, option="--against")
        if ":" in against
        else _version_policy(project, replayed_slot, against)
    )
    clock = clock_as_of(as_of, project, notify=notify)
    return estimate_policies(
        project.features,
        replayed_slot,
        new_policy,
        old_policy,
        lake=project.paths.lake,
        registry=project.paths.registry,
        clock=clock,
        settings=_replay_settings(project, since, ESTIMATE_RESPONSES_MAX),
        outcome=outcome,
    )


def plan_drawn_shares(
    project: Project, experiment: Experiment, *, days: float, since: str = ""
) -> "tuple[DrawnShare, ...]":
    """Return what the log tells of an experiment's arms, by the share of slates that are drawn.

    Args:
        days: over which responses are logged.
        since: length of the most recent period whose responses are replayed.

    Raises:
        DeclarationError: the slot has quotas, diversity, promotions or pins.
        UsageError: the control is `random`.
        NotReadyError: no response is left whose outcome is known.
    """
    from tailorbird.training.evaluation.estimate import load_responses
    from tailorbird.training.evaluation.randomisation import drawn_policies, drawn_shares

    slot = project.slot(experiment.slot)
    arms = (experiment.control_arm, *experiment.treatments)
    control, *treatments = (arm_policy(project, f"{experiment.name}:{arm}", slot) for arm in arms)
    if control.order == "random":
        raise UsageError(
            f"the control {experiment.control_arm} draws every slate evenly already",
            where=f"experiment {experiment.name}, --drawn-shares",
            fix="leave out --drawn-shares",
        )
    event_type = experiment.metric.event_type
    outcome = event_type if event_type and event_type != "answer" else "click"
    try:
        policies = drawn_policies(control, treatments)
    except DeclarationError as error:
        raise DeclarationError(
            error.message,
            where=f"experiment {experiment.name}, --drawn-shares",
            fix="leave out --drawn-shares",
        ) from None
    response_log = load_responses(
        project.features,
        slot,
        policies,
        lake=project.paths.lake,
        registry=project.paths.registry,
        clock=project.clock(),
        settings=_replay_settings(project, since, PLAN_RESPONSES_MAX),
        outcome=outcome,
    )
    return drawn_shares(
        response_log, outcome, min(response_log.responses_per_day * days, ESTIMATE_RESPONSES_MAX)
    )


def _replay_settings(project: Project, since: str, responses_max: int) -> TrainSettings:
    return TrainSettings(
        window_us=parse_window(since, project, option="--since"),
        lateness_us=project.plan.lateness_us,
        test_requests=responses_max,
    )


def arm_policy(project: Project, arm: str, slot: Slot, *, option: str = "--arm") -> "Policy":
    """Return what serves an EXPERIMENT:ARM: its version, its slot's settings, or its baseline.

    Raises UsageError if there is no such experiment or arm, or it runs in another slot.
    """
    from tailorbird.training.evaluation.policies import Policy

    experiment, versions = _find_experiment(project, arm, option)
    name = arm.partition(":")[2]
    if name not in experiment.arms:
        raise UsageError(
            f"experiment {experiment.name} has no arm {name!r}",
            where=f"{option} {arm}",
            fix=suggest_name(name, experiment.arms, f"use one of {', '.join(experiment.arms)}"),
        )
    if project.slot(experiment.slot).name != slot.name:
        raise UsageError(
            f"experiment {experiment.name} runs in slot {experiment.slot}, and answers of slot "
            f"{slot.name} are replayed",
            where=f"{option} {arm}",
            fix="compare arms of one slot",
        )
    # An arm may be served with the formula, rules and sources of another slot.
    settings_slot = project.slot(experiment.slots[name]) if name in experiment.slots else slot
    return Policy(
        _with_formula_in_force(project, settings_slot),
        versions.get(name, CHAMPION),
        experiment.policy_of(name),
        arm,
    )


def _version_policy(
    project: Project, slot: Slot, version: str, formula: str = "", settings_of: str = ""
) -> "Policy":
    """Return a version with the slot's settings, or with another formula or slot's settings."""
    from tailorbird.training.evaluation.policies import Policy

    settings_slot = _with_formula_in_force(
        project, project.slot(settings_of) if settings_of else slot
    )
    registry = Registry(project.paths.registry, clock=project.clock())
    folder = registry.resolve(version)
    name = f"{folder.name} as {settings_of}" if settings_of else folder.name
    if formula:
        heads = registry.info(folder.name).heads
        objective = parse_usable_formula(formula, heads, model=folder.name, where="--formula")
        settings_slot = _with_objective(settings_slot, objective)
        name = f"{name} by {formula}"
    return Policy(settings_slot, folder.name, name=name)


def _with_formula_in_force(project: Project, slot: Slot) -> Slot:
    """Return a slot with the formula that servers use, which may have been set since."""
    from tailorbird.serving.pipeline.formulas import weights_in_force

    formulas = read_formulas(project.paths.registry)
    return _with_objective(slot, weights_in_force(formulas, slot))


def _with_objective(slot: Slot, objective: Mapping[str, float]) -> Slot:
    """Return a slot with another objective, whose own formula would replace it."""
    return replace(slot, objective=objective, formula="")


def _find_experiment(project: Project, arm: str, option: str) -> tuple[Experiment, dict[str, str]]:
    """Return the experiment of an EXPERIMENT:ARM, and the version of each arm that names one."""
    name = arm.partition(":")[0]
    started_experiments = read_experiments(project.paths.registry)
    if (started_experiment := started_experiments.get(name)) is not None:
        return Experiment.from_dict(started_experiment.declaration), dict(
            started_experiment.versions
        )
    if name in project.experiments:
        declared_experiment = project.experiments[name]
        return declared_experiment, dict(declared_experiment.versions)
    split_by_name = {
        slot.experiment.name: replace(slot.experiment, slot=slot.name)
        for slot in project.slots.values()
        if slot.experiment is not None
    }
    if name in split_by_name:
        return split_by_name[name], {}
    known_names = [
        *project.experiments,
        *(known_experiment.name for known_experiment in started_experiments.experiments),
        *split_by_name,
    ]
    raise UsageError(
        f"there is no experiment {name!r}",
        where=f"{option} {arm}",
        fix=suggest_name(
            name, known_names, "declare it in experiments.py, and name EXPERIMENT:ARM"
        ),
    )
