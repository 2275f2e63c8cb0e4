"""What the reports of planned and of interleaved experiments share."""

from dataclasses import dataclass
from typing import Any

import msgspec

from tailorbird.events import DAY, parse_duration, to_iso
from tailorbird.experiments.assign import Experiment
from tailorbird.experiments.checks import Check
from tailorbird.experiments.plain_data import replace_not_finite


@dataclass(frozen=True)
class Run:
    """A started experiment at the time of its report; times in microseconds.

    Attributes:
        notes: shown at the end of the report.
        decision, decided_by: the chosen arm, and who chose it.
    """

    experiment: Experiment
    started_at: int
    now: int
    stopped_at: int = 0
    state: str = "running"
    notes: tuple[str, ...] = ()
    decision: str = ""
    decided_by: str = ""

    @property
    def until(self) -> int:
        """Events before this time count."""
        return min(self.now, self.stopped_at) if self.stopped_at else self.now

    @property
    def planned_end(self) -> int:
        return self.started_at + parse_duration(self.experiment.duration)

    @property
    def is_over(self) -> bool:
        """True if the plan's last analysis is reached; only a confidence sequence may end early."""
        is_anytime = self.experiment.stopping == "anytime" and self.stopped_at > 0
        return is_anytime or self.until >= self.planned_end

    @property
    def open_state(self) -> str:
        """The reason for no verdict before the plan's last analysis."""
        days = f"{max(self.planned_end - self.until, 0) / DAY:.1f}"
        if self.stopped_at:
            return f"Stopped {days} days before its planned end, without a verdict"
        end = to_iso(self.planned_end)[:16]
        return f"Not decided yet ({days} of {self.experiment.duration} left, until {end})"

    def report_fields(self) -> dict[str, Any]:
        """Return the fields of `RunReport` that follow from the declaration and the times."""
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
class RunReport:
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
