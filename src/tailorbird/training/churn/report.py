"""What a training of a churn model came to, for people (`training.churn.page`) and as JSON."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tailorbird.events import DAY, to_iso
from tailorbird.training.churn.contact import Curve
from tailorbird.training.churn.judge import CutFigures, flat
from tailorbird.training.churn.walk import Choice
from tailorbird.training.gate import Decision


@dataclass(frozen=True)
class ChurnReport:
    """What came of a training.

    Attributes:
        version, promoted, incumbent, decision: as in `training.settings.TrainReport`.
        choice: which model the bundle has, and why.
        curve: of whom to contact, on the last cut.
        importance: share of what was learned by column.
    """

    version: str
    promoted: bool
    incumbent: str
    decision: Decision
    figures: list[CutFigures]
    choice: Choice
    curve: Curve
    importance: dict[str, float]
    notes: tuple[str, ...]
    about: dict[str, Any]
    seconds: dict[str, float]
    report: Path | None = None

    @property
    def last(self) -> CutFigures:
        """The newest cut, which stands for what the bundle is worth."""
        return self.figures[-1]

    def plain(self) -> dict[str, Any]:
        """As JSON; `results` are of the last cut."""
        return {
            "version": self.version,
            "promoted": self.promoted,
            "reasons": list(self.decision.reasons),
            "incumbent": self.incumbent,
            "results": flat(self.last.results),
            "differences": flat(self.last.differences),
            "origins": [plain_cut(each) for each in self.figures],
            "choice": self.choice.told,
            "contact": {"best": self.curve.best, "curve": self.curve.points()},
            "importance": self.importance,
            "notes": list(self.notes),
            "about": self.about,
            "seconds": self.seconds,
            "report": str(self.report) if self.report else None,
        }


def plain_cut(figures: CutFigures) -> dict[str, Any]:
    """A cut as JSON."""
    window, cut = figures.cut.scored.window, figures.cut
    return {
        "origin": to_iso(window.origin),
        "window_days": window.length / DAY,
        "people": len(cut.gone),
        "gone": float(cut.gone.mean()),
        "merged": cut.merged,
        "choice": cut.choice.told,
        "results": flat(figures.results),
        "differences": flat(figures.differences),
        "slices": {
            name: {"people": int(each.count.sum()), "calibration_error_debiased": round(each.debiased, 6)}
            for name, each in figures.slices.items()
        },
    }
