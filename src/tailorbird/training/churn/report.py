"""What a training of a churn model came to, for people (`training.churn.page`) and as JSON."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tailorbird.events import DAY, to_iso
from tailorbird.ranking.churn import Churn
from tailorbird.training.churn.contact import Curve
from tailorbird.training.churn.fit import Grid
from tailorbird.training.churn.judge import CutFigures, flat
from tailorbird.training.churn.labels import Activity
from tailorbird.training.churn.walk import Choice, cuts_to_calibrate, history_of
from tailorbird.training.gate import Decision

EVENTS_A_DAY = 1.2  # from where a column of frequency counts no days


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


def told_of_choices(judged: Choice, shipped: Choice, churn: Churn) -> list[str]:
    """Sentences: that nothing is calibrated, or that what was judged is not what the bundle has,
    and what it would take.
    """
    if shipped.unproven:
        return [f"not calibrated: {shipped.unproven}; {_takes(churn, judged=False)}"]
    if _named(judged) == _named(shipped):
        return []
    why = (
        f"{judged.unproven}; {_takes(churn, judged=True)}"
        if judged.unproven
        else "that was the better choice"
    )
    return [
        f"the bundle has {_named(shipped)}, while the gate, the diagram and the list of whom "
        f"to contact judge {_named(judged)}: by the "
        f"last origin {why}"
    ]


def told_of_days(churn: Churn, grid: Grid, activity: Activity) -> str:
    """That BG/NBD, which is fitted on days, reads a column that counts each event of a day; ""
    where these are as many.
    """
    if not churn.rfm or churn.per != "day":
        return ""
    moment = int(grid.moment.max())
    newest = np.flatnonzero(grid.moment == moment)
    counted = grid.table.numeric[newest, grid.table.columns.numeric.index(churn.frequency)]
    days = activity.as_of(moment).rfm(grid.person[newest], moment).frequency
    known = np.isfinite(counted)
    each = float(counted[known].sum() / max(days[known].sum(), 1.0))
    if each < EVENTS_A_DAY:
        return ""
    return (
        f"{churn.frequency} counts {each:.1f} events for each day with any, while BG/NBD is "
        'fitted on days (per="day"): it takes people '
        'for more frequent than they are; send one event a purchase, or say per="event" in churn.py'
    )


def _named(choice: Choice) -> str:
    name = choice.table.name
    return f"{choice.model} {'without calibration' if name == 'none' else f'calibrated by {name}'}"


def _takes(churn: Churn, *, judged: bool) -> str:
    cuts = cuts_to_calibrate(churn, judged=judged)
    days = -(-history_of(churn, cuts) // DAY)
    return f"that takes {cuts} origins, which a history of {days} days has (--quick asks at two)"


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
            name: {
                "people": int(each.count.sum()),
                "calibration_error_debiased": round(each.debiased, 6),
            }
            for name, each in figures.slices.items()
        },
    }
