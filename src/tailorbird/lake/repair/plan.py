"""What a repair would do: the damaged files that can be had again, and those that cannot; and
putting a file back.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

from tailorbird.lake import durable
from tailorbird.places import Place


@dataclass(frozen=True)
class Mend:
    """A damaged file that can be had again."""

    where: str
    what: str
    source: str
    apply: Callable[[], object] = field(compare=False, repr=False)


@dataclass(frozen=True)
class Beyond:
    """A damaged file that cannot be had again, what is lost with it, and what is not."""

    where: str
    what: str
    lost: str
    kept: str = ""


@dataclass(frozen=True)
class Plan:
    """What would be done now. After that more may show, see `Repairer.run`."""

    mends: list[Mend] = field(default_factory=list)
    beyond: list[Beyond] = field(default_factory=list)


def put_aside(lake: Place, path: Place) -> None:
    """Take a damaged file out of the way, and keep it."""
    durable.move_aside(path, lake / "set-aside" / path.parent.name)


def put_back(lake: Place, path: Place, data: bytes) -> None:
    """Put a file's content in the place of the one that is damaged, or gone."""
    if path.exists():
        put_aside(lake, path)
    durable.make_folder(path.parent)
    durable.write_new(path, data)
    durable.sync_folder(path.parent)
