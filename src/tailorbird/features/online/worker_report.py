"""The result of a step of the worker."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class WorkerReport:
    """The result of a step: applied rows of the log (0: there was nothing), and the newest commit.

    `log_position` is the position that the commit stands for. By field: `capped` values were
    clipped at their declared maximum; `unreadable` ones are no number or text as declared, and are
    missing; `converted` ones are truths and lists that were used as numbers.
    """

    rows: int
    commit: int
    log_position: int
    capped: dict[str, int] = field(default_factory=dict)
    unreadable: dict[str, int] = field(default_factory=dict)
    converted: dict[str, int] = field(default_factory=dict)
