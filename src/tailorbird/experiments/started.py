"""What the reports of planned and of interleaved experiments share."""

from dataclasses import dataclass
from typing import Any

import msgspec

from tailorbird.events import parse_duration
from tailorbird.experiments.assign import Experiment
from tailorbird.experiments.checks import Check
from tailorbird.experiments.plain_data import replace_not_finite


@dataclass(frozen=True)
class Run:
    """A started experiment at the time of its report; times in microseconds.

    Attributes:
        notes: shown at the end of the report.
    """

    experiment: Experiment
    started_at: int
    now: int
    stopped_at: int = 0
    state: str = "running"
    notes: tuple[str, ...] = ()

    @property
    def until(self) -> int:
        """Events before this time count."""
        return min(self.now, self.stopped_at) if self.stopped_at else self.now

    @property
    def planned_end(self) -> int:
        return self.started_at + parse_duration(self.experiment.duration)

    @property
    def is_over(self) -> bool:
        return bool(self.stopped_at) or self.until >= self.planned_end

    def fields(self) -> dict[str, Any]:
        """Return the fields of `StartedReport` that follow from the declaration and the times."""
        names = ("slot", "hypothesis", "owner", "unit", "stopping", "level")
        return {
            "experiment": self.experiment.name,
            **{name: getattr(self.experiment, name) for name in names},
            "state": self.state,
            "started_at": self.started_at,
            "until": self.until,
            "planned_end": self.planned_end,
            "notes": self.notes,
        }


@dataclass(frozen=True, kw_only=True)
class StartedReport:
    """The report of a started experiment; `colour` is green, amber or red.

    Attributes:
        verdict: one sentence for people who did not set it up, and `advice` what to do.
    """

    experiment: str
    slot: str
    hypothesis: str
    owner: str
    unit: str
    stopping: str
    level: float
    state: str
    started_at: int
    until: int
    planned_end: int
    colour: str
    verdict: str
    advice: str
    checks: tuple[Check, ...]
    notes: tuple[str, ...] = ()

    @property
    def summary(self) -> str:
        """The result in one sentence."""
        return self.verdict

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain data; what is not finite becomes None."""
        return {"summary": self.summary, **replace_not_finite(msgspec.to_builtins(self))}
