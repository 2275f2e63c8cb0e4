"""Sticky assignment to the arms of an experiment by hash, without a table or coordination.

    bucket(person) = hash64(salt + "/" + person) mod 10_000

Each arm owns a run of buckets in the order declared. The salt defaults to the experiment's name, so
experiments are independent of each other. FixedBundle test vectors pin the assignment: an upgrade never
moves anybody.
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
        name: logged with each response.
        arms: arm → share of traffic; shares sum to at most 1, and people in no arm get the
            slot's own policy.
        policies: arm → policy, if the arm is not named after its policy.
        control: the arm that others are compared with; by default the first.
        salt: changes the assignment; by default the name.
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
        """Return the policy of an arm."""
        return self.policies.get(arm, arm)


def assign(experiment: Experiment, person: str) -> str:
    """Return the arm of a person, or "" if the person is in no arm."""
    bucket = _bucket(experiment.salt or experiment.name, person)
    upper = 0.0
    for arm, share in experiment.arms.items():
        upper += share
        if bucket < round(upper * BUCKETS):
            return arm
    return ""


def in_share(salt: str, share: float, person: str) -> bool:
    """Return whether a person is in the first `share` of all people.

    Larger shares contain smaller ones.

    >>> sum(in_share("canary-v0002", 0.05, f"u{number}") for number in range(2_000))
    104
    """
    return _bucket(salt, person) < round(share * BUCKETS)


def _bucket(salt: str, person: str) -> int:
    return hash64(f"{salt}/{person}") % BUCKETS
