"""Sticky assignment to the arms of an experiment by hash, without a table or coordination.

    bucket(unit) = hash64(salt + "/" + unit) mod 10_000

Each arm owns a run of buckets in the order declared. The salt defaults to the experiment's name, so
experiments are independent of each other. Before that, three hashes of their own decide whether a
unit takes part in a started experiment: its layer, the global holdout, and the ramp. Fixed test
vectors pin all of them: an upgrade never moves anybody.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import msgspec

from tailorbird.errors import DeclarationError, TailorbirdError, suggest_name
from tailorbird.events.clock import parse_duration
from tailorbird.events.keys import hash64
from tailorbird.experiments.metrics import CLICKS_PER_ITEM, Metric
from tailorbird.pages.notebook import notebook_repr

BUCKETS = 10_000
UNITS = ("person", "session")
EXPOSURES = ("answer", "impression")
STOPPING_RULES = ("fixed", "group_sequential", "anytime")
SPENDING_FUNCTIONS = ("obrien_fleming", "pocock")
EXPERIMENT_KINDS = ("ab", "interleaving")
SEGMENTS = ("device", "country", "referrer")  # columns of a response that a report can split by
INTERLEAVED = "interleaved"  # logged as the arm of a response that was drafted from two arms
HOLDOUT_SALT = "holdout"


@notebook_repr
@dataclass(frozen=True)
class Experiment:
    """An A/B experiment: a permanent split in a slot of slots.py, or a plan in experiments.py.

    A plan runs from `tailorbird experiment start` to `stop`.

    Args:
        name: logged with each response.
        arms: arm → share of traffic; shares sum to at most 1, and units in no arm get the slot's
            own policy.
        policies: arm → policy, if the arm is not named after its policy.
        versions: arm → version of the model that serves it, or an alias such as `challenger`, which
            `start` resolves. Other arms are served by the champion.
        control: the arm that others are compared with; by default the first.
        salt: changes the assignment; by default the name.
        slot: the slot that it runs in.
        slots: arm → slot of slots.py whose formula, rules, sources and other settings it uses.
        hypothesis, owner: for the readers of the report.
        where: expression over `user.*` and `context.*`, as in rules of slots; requests for which it
            does not hold get no arm.
        unit: what is assigned and analysed, `person` or `session`.
        exposure: what makes a unit part of the analysis: its first `answer`, or the first
            `impression` of one.
        metric: the primary metric.
        guardrails: metrics that must not get worse.
        effect: minimum detectable effect, relative: 0.03 is +3 %.
        power: the chance of finding it.
        level: of intervals; 0.95 allows 5 % of false positives, on both sides together.
        duration: planned, such as `14d`.
        interval: time between analyses of a sequential plan.
        stopping: `fixed` (one analysis, at the end), `group_sequential` or `anytime`.
        spending: alpha spending of `group_sequential`.
        layer: experiments of one layer share no units, those of different layers are independent;
            by default the slot's name. Experiments of one slot need one layer.
        share: of the layer's units.
        holdout: share of all units that take part in no experiment with a holdout.
        segments: columns of the first response by which the report splits the effect: some of
            `SEGMENTS`.
        history: length of the period before a unit's exposure that CUPED uses.
        kind: `ab` gives each unit one arm; `interleaving` drafts each of its responses from two
            arms, see `ranking.policy.interleaving`.
    """

    name: str
    arms: Mapping[str, float]
    policies: Mapping[str, str] = field(default_factory=dict)
    control: str = ""
    salt: str = ""
    slot: str = ""
    slots: Mapping[str, str] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    where: str = ""
    hypothesis: str = ""
    owner: str = ""
    unit: str = "person"
    exposure: str = "answer"
    metric: Metric = CLICKS_PER_ITEM
    guardrails: Sequence[Metric] = ()
    effect: float = 0.05
    power: float = 0.8
    level: float = 0.95
    duration: str = "14d"
    interval: str = "1d"
    stopping: str = "group_sequential"
    spending: str = "obrien_fleming"
    layer: str = ""
    share: float = 1.0
    holdout: float = 0.0
    segments: Sequence[str] = ("device", "country")
    history: str = "28d"
    kind: str = "ab"

    def __post_init__(self) -> None:
        error_place = f"experiment {self.name}"
        self._check_arms(error_place)
        self._check_choices(error_place)
        self._check_durations(error_place)
        self._check_metrics(error_place)
        if self.is_interleaved:
            self._check_interleaving(error_place)

    def _check_arms(self, error_place: str) -> None:
        if (
            not self.arms
            or not all(share > 0 for share in self.arms.values())  # also NaN
            or sum(self.arms.values()) > 1 + 1e-9
        ):
            raise DeclarationError(
                f"expected shares above 0 that sum to at most 1, got {dict(self.arms)}",
                where=error_place,
                fix='such as arms={"old": 0.5, "new": 0.5}',
            )
        if self.control and self.control not in self.arms:
            raise DeclarationError(
                f"the control {self.control!r} is no arm",
                where=error_place,
                fix=f"use one of {', '.join(self.arms)}",
            )
        for name in ("policies", "slots", "versions"):
            for arm in getattr(self, name):
                if arm not in self.arms:
                    raise DeclarationError(
                        f"{name}: {arm!r} is no arm",
                        where=error_place,
                        fix=f"one of {list(self.arms)}",
                    )
        for arm in self.versions:
            if self.policy_of(arm) != "model":
                raise DeclarationError(
                    f"versions: arm {arm!r} has the policy {self.policy_of(arm)}, which no model"
                    " serves",
                    where=error_place,
                    fix="leave out one of the two",
                )
        if INTERLEAVED in self.arms:
            raise DeclarationError(f"{INTERLEAVED!r} is no name for an arm", where=error_place)

    def _check_choices(self, error_place: str) -> None:
        for name, allowed in (
            ("unit", UNITS),
            ("exposure", EXPOSURES),
            ("stopping", STOPPING_RULES),
            ("spending", SPENDING_FUNCTIONS),
            ("kind", EXPERIMENT_KINDS),
        ):
            value = getattr(self, name)
            if value not in allowed:
                fix = suggest_name(value, allowed, f"use one of {', '.join(allowed)}")
                raise DeclarationError(f"unknown {name} {value!r}", where=error_place, fix=fix)
        for name, is_valid, expectation in (
            ("effect", self.effect > 0, "a number above 0, such as 0.03 for +3 %"),
            ("power", 0.5 <= self.power < 1, "a number from 0.5 to below 1"),
            ("level", 0.5 <= self.level < 1, "a number from 0.5 to below 1"),
            ("share", 1 / BUCKETS <= self.share <= 1, "a share above 0 and at most 1"),
            ("holdout", 0 <= self.holdout < 1, "a share from 0 to below 1"),
        ):
            if not is_valid:
                raise DeclarationError(
                    f"{name}: got {getattr(self, name)!r}",
                    where=error_place,
                    fix=f"use {expectation}",
                )

    def _check_durations(self, error_place: str) -> None:
        for name in ("duration", "interval", "history"):
            try:
                parse_duration(getattr(self, name))
            except (ValueError, TailorbirdError):
                raise DeclarationError(
                    f"{name}: {getattr(self, name)!r} is no duration",
                    where=error_place,
                    fix="such as 7d",
                ) from None

    def _check_metrics(self, error_place: str) -> None:
        if isinstance(self.segments, str):
            raise DeclarationError(
                f"segments: got the text {self.segments!r}",
                where=error_place,
                fix=f'use a list, such as ["{self.segments}"]',
            )
        for metric in (self.metric, *self.guardrails):
            if not isinstance(metric, Metric):
                raise DeclarationError(
                    f"{metric!r} is no Metric",
                    where=error_place,
                    fix='such as Metric("orders", "conversion", event="purchase")',
                )
        names = [metric.name for metric in (self.metric, *self.guardrails)]
        if len(set(names)) < len(names):
            raise DeclarationError("two metrics have one name", where=error_place, fix="rename one")

    def _check_interleaving(self, error_place: str) -> None:
        if len(self.arms) != 2 or len(set(self.arms.values())) != 1:
            raise DeclarationError(
                f"interleaving takes two arms with equal shares, got {dict(self.arms)}",
                where=error_place,
                fix="such as arms={'old': 0.5, 'new': 0.5}",
            )
        if self.versions:
            raise DeclarationError(
                "interleaving drafts from one model, and its arms name versions",
                where=error_place,
                fix="leave out versions=, or the kind",
            )

    @property
    def is_interleaved(self) -> bool:
        """Return whether each response is drafted from both arms."""
        return self.kind == "interleaving"

    @property
    def control_arm(self) -> str:
        """The arm that the others are compared with."""
        return self.control or next(iter(self.arms))

    @property
    def treatments(self) -> tuple[str, ...]:
        """The arms that are compared with the control."""
        return tuple(arm for arm in self.arms if arm != self.control_arm)

    @property
    def layer_name(self) -> str:
        """The layer, by default of the slot."""
        return self.layer or self.slot

    def policy_of(self, arm: str) -> str:
        """Return the policy of an arm."""
        has_model = arm in self.slots or arm in self.versions
        return self.policies.get(arm, "model" if has_model else arm)

    def to_dict(self) -> dict[str, object]:
        """Return the declaration as plain data, as the registry keeps it."""
        return msgspec.to_builtins(self)

    @classmethod
    def from_dict(cls, declaration: Mapping[str, object]) -> "Experiment":
        """Return the experiment of a declaration that the registry kept."""
        return msgspec.convert(declaration, cls)

    @property
    def digest(self) -> str:
        """The SHA-256 of the declaration, by which a later change is noticed."""
        return hashlib.sha256(msgspec.json.encode(self, order="deterministic")).hexdigest()


@dataclass(frozen=True)
class Enrolment:
    """The units that take part in a started experiment.

    Attributes:
        first_bucket, bucket_count: its run of the layer's buckets.
        ramp: share of these units that take part so far; a larger one keeps them.
        versions: arm → version of the model that serves it, without aliases.
    """

    experiment: Experiment
    first_bucket: int = 0
    bucket_count: int = BUCKETS
    ramp: float = 1.0
    versions: Mapping[str, str] = field(default_factory=dict)

    def assign(self, unit: str) -> str:
        """Return the arm of a unit, or "" if it takes no part."""
        experiment = self.experiment
        bucket = _hash_to_bucket(f"layer/{experiment.layer_name}", unit)
        if not self.first_bucket <= bucket < self.first_bucket + self.bucket_count:
            return ""
        if experiment.holdout and is_in_share(HOLDOUT_SALT, experiment.holdout, unit):
            return ""
        salt = experiment.salt or experiment.name
        if self.ramp < 1 and not is_in_share(f"ramp/{salt}", self.ramp, unit):
            return ""
        return assign(experiment, unit)


def assign(experiment: Experiment, person: str) -> str:
    """Return the arm of a person, or "" if the person is in no arm."""
    bucket = _hash_to_bucket(experiment.salt or experiment.name, person)
    cumulative_share = 0.0
    for arm, share in experiment.arms.items():
        cumulative_share += share
        if bucket < round(cumulative_share * BUCKETS):
            return arm
    return ""


def is_in_share(salt: str, share: float, person: str) -> bool:
    """Return whether a person is in the first `share` of all people.

    Larger shares contain smaller ones.

    >>> sum(is_in_share("canary-v0002", 0.05, f"u{number}") for number in range(2_000))
    104
    """
    return _hash_to_bucket(salt, person) < round(share * BUCKETS)


def _hash_to_bucket(salt: str, person: str) -> int:
    return hash64(f"{salt}/{person}") % BUCKETS
