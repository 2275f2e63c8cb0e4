"""The outcome of a rebuild: what is rebuilt and from where, and what has no second source."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Rebuild:
    """A corruption that a rebuild removes, and the source of the new content."""

    where: str
    what: str
    source: str


@dataclass(frozen=True)
class Unrecoverable:
    """A corruption that has no second source, and one sentence that says what is lost and why."""

    where: str
    what: str
    lost: str


@dataclass
class Plan:
    """The corruptions of a lake, by whether they can be rebuilt."""

    rebuilds: list[Rebuild] = field(default_factory=list)
    unrecoverable: list[Unrecoverable] = field(default_factory=list)
