"""Churn scores of all people, as of a time."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tailorbird.config import Project
from tailorbird.errors import NotReadyError
from tailorbird.events import to_iso
from tailorbird.platform.clocks import clock_as_of
from tailorbird.platform.frames import Frame
from tailorbird.platform.progress import Progress, no_progress
from tailorbird.platform.training import Notify, discard_note

if TYPE_CHECKING:
    import pyarrow as pa

    from tailorbird.training.tasks.churn.score import ChurnScores


@dataclass(frozen=True, repr=False)
class ChurnResult:
    """Scores of people, the likeliest to leave first.

    Attributes:
        scores: the scores, and the segments that are most worth contacting.
        as_of: the time that they are as of, microseconds.
    """

    version: str
    scores: "ChurnScores"
    as_of: int

    @property
    def table(self) -> "pa.Table":
        """Columns person, gone, purchases, reasons and as_of."""
        return self.scores.table

    @property
    def age_us(self) -> int:
        """How long before `as_of` the log ends, microseconds."""
        return self.as_of - self.scores.until

    def to_frame(self) -> Frame:
        """Return a row for each person."""
        return Frame(self.table)

    def to_dict(self) -> dict[str, Any]:
        """Return what `tailorbird score churn --json` prints, without the file."""
        return {
            "version": self.version,
            "people": self.table.num_rows,
            "log_until": to_iso(self.scores.until),
            "segments": [segment.to_dict() for segment in self.scores.segments],
        }

    @property
    def _header(self) -> str:
        return (
            f"{self.version}: {self.table.num_rows:,} people, log until {to_iso(self.scores.until)}"
        )

    def __repr__(self) -> str:
        return f"{self._header}\n{self.to_frame()!r}"

    def _repr_html_(self) -> str:
        return self.to_frame().to_html(self._header)


def score_churn(
    project: Project,
    name: str = "churn",
    *,
    version: str = "champion",
    as_of: str = "",
    people_with_reasons: int = 1_000,
    progress: Progress = no_progress,
    notify: Notify = discard_note,
) -> ChurnResult:
    """Score all people that a churn model applies to.

    Args:
        name: a churn model of churn.py.
        version: a version or an alias.
        as_of: ISO 8601, or `latest`: just after the newest event.
        people_with_reasons: number of people, the likeliest to leave, to give reasons for.

    Raises:
        NotReadyError: there is no such version yet, or no person is eligible.
    """
    from tailorbird.ranking.churn.bundle import ChurnBundle
    from tailorbird.registry import Registry
    from tailorbird.training.tasks.churn.score import score_people

    churn = project.churn_model(name)
    clock = clock_as_of(as_of, project, allow_lateness=False, notify=notify)
    registry = Registry(project.paths.churn(name), clock=clock)
    versions = registry.versions()
    if not versions or (version == "champion" and registry.champion_folder() is None):
        score_newest_command = (
            f"score churn {name} --version {versions[-1].version} --out FILE" if versions else ""
        )
        raise NotReadyError(
            f"there is no {version} of {name} yet",
            fix=f"tailorbird {score_newest_command or f'train {name}'}",
        )
    bundle = ChurnBundle.load(registry.resolve(version), schema_hash=None)
    scores = score_people(
        bundle,
        churn,
        lake=project.paths.lake,
        now=clock.now(),
        reasons=max(people_with_reasons, 0),
        progress=progress,
    )
    return ChurnResult(bundle.version, scores, clock.now())
