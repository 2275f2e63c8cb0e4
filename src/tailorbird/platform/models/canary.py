"""The state of a canary: its figures beside those of the champion, and the verdict."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tailorbird.config import Project
from tailorbird.platform.frames import Frame

if TYPE_CHECKING:
    from tailorbird.monitoring.canary import CanaryVerdict
    from tailorbird.registry import Registry


@dataclass(frozen=True, repr=False)
class CanaryState:
    """How the canary does.

    Attributes:
        share: of the people that it answers.
        is_automatic: the trainer advances or ends it.
    """

    verdict: "CanaryVerdict"
    share: float
    is_automatic: bool

    def to_frame(self) -> Frame:
        """Return a row for the canary and one for the champion."""
        return Frame.from_rows(
            ["version", "is", "answers", "failed", "not_finite", "latency_ms_p95", "ctr"],
            [
                (
                    figures.version,
                    name,
                    figures.answers,
                    figures.failed,
                    figures.not_finite,
                    figures.latency_ms_p95,
                    figures.ctr,
                )
                for name, figures in (
                    ("canary", self.verdict.canary),
                    ("champion", self.verdict.champion),
                )
            ],
        )

    def to_dict(self) -> dict[str, Any]:
        """Return what `tailorbird models canary --json` prints."""
        verdict = self.verdict
        return {
            "share": self.share,
            "automatic": self.is_automatic,
            "action": verdict.action,
            "reason": verdict.reason,
            "uplift": {
                "value": verdict.uplift.value,
                "low": verdict.uplift.low,
                "high": verdict.uplift.high,
            },
            "versions": self.to_frame().to_pylist(),
        }

    @property
    def _header(self) -> str:
        verdict = self.verdict
        return (
            f"{verdict.canary.version} answers {self.share * 100:.3g}% of the people: "
            f"{verdict.action}. {verdict.reason}"
        )

    def __repr__(self) -> str:
        return f"{self._header}\n{self.to_frame()!r}"

    def _repr_html_(self) -> str:
        return self.to_frame().to_html(self._header)


def read_canary(project: Project, registry: "Registry") -> CanaryState:
    """Return how the canary does.

    Raises:
        NotReadyError: there is no canary.
    """
    from tailorbird.platform.runtime.canary import judge_canary

    verdict = judge_canary(project, registry)
    aliases = registry.aliases()
    return CanaryState(verdict, aliases.share, aliases.automatic)
