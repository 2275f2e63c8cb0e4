"""What monitoring reads of a registry, which this package does not import."""

from collections.abc import Sequence
from typing import Protocol

CHAMPION_CHANGES = ("promote", "rollback")  # actions after which another version is the champion


class AuditEntry(Protocol):
    """A line of the registry's audit log."""

    @property
    def at(self) -> int: ...
    @property
    def action(self) -> str: ...
    @property
    def version(self) -> str: ...
    @property
    def by(self) -> str: ...
    @property
    def why(self) -> str: ...


class Aliases(Protocol):
    """The aliases of a registry."""

    @property
    def champion(self) -> str: ...
    @property
    def previous(self) -> str: ...
    @property
    def canary(self) -> str: ...
    @property
    def shadow(self) -> str: ...
    @property
    def share(self) -> float: ...


class RegistryReader(Protocol):
    """A registry."""

    def aliases(self) -> Aliases: ...
    def audit(self) -> Sequence[AuditEntry]: ...
