"""Sticky assignment to the arms of an experiment, by hash alone: no table, no coordination, the
same answer on every server.

    bucket(person) = hash64(salt + "/" + person) mod 10_000, and each arm owns a run of buckets in
    the order declared

The salt is the experiment's name unless told otherwise, so that experiments are independent of each
other. Fixed test vectors hold the assignment: an upgrade never moves anybody.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from tailorbird.errors import DeclarationError
from tailorbird.events.keys import hash64

BUCKETS = 10_000


@dataclass(frozen=True)
class Experiment:
    """An A/B experiment.

    Args:
        name: stands in the log with each answer.
        arms: arm → share of traffic; shares sum to at most 1, and who is in no arm gets the slot's
            own policy.
        policies: arm → policy, where the arm is not named after its policy.
        control: the arm that others are compared with; the first one unless told otherwise.
        salt: changes who is in which arm; the name unless told otherwise.
    """

    name: str
    arms: Mapping[str, float]
    policies: Mapping[str, str] = field(default_factory=dict)
    control: str = ""
    salt: str = ""

    def __post_init__(self) -> None:
        if (
            not self.arms
            or any(share <= 0 for share in self.arms.values())
            or sum(self.arms.values()) > 1 + 1e-9
        ):
            raise DeclarationError(
                f"expected shares above 0 that sum to at most 1, got {dict(self.arms)}",
                where=f"experiment {self.name}",
            )
        if self.control and self.control not in self.arms:
            raise DeclarationError(
                f"the control {self.control!r} is no arm", where=f"experiment {self.name}"
            )

    @property
    def control_arm(self) -> str:
        """The arm that the others are compared with."""
        return self.control or next(iter(self.arms))

    def policy_of(self, arm: str) -> str:
        """The policy that an arm's people get."""
        return self.policies.get(arm, arm)


def assign(experiment: Experiment, person: str) -> str:
    """The arm of a person, or "" if the arms leave a share of traffic free and the person is in it."""
    bucket = _bucket(experiment.salt or experiment.name, person)
    upper = 0.0
    for arm, share in experiment.arms.items():
        upper += share
        if bucket < round(upper * BUCKETS):
            return arm
    return ""


def in_share(salt: str, share: float, person: str) -> bool:
    """Whether a person is among the first `share` of all; who is in a share is in every larger one.

    >>> sum(in_share("canary-v0002", 0.05, f"u{number}") for number in range(2_000))
    104
    """
    return _bucket(salt, person) < round(share * BUCKETS)


def _bucket(salt: str, person: str) -> int:
    return hash64(f"{salt}/{person}") % BUCKETS
