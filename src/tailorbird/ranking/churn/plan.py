"""The plan of a churn bundle: its models and their parts."""

from typing import Literal

import msgspec

from tailorbird.ranking.churn.bg_nbd import BgNbdColumns
from tailorbird.ranking.churn.pareto_nbd import ParetoNbdColumns
from tailorbird.registry import Head

PLAN_FILE = "churn.json"


class Part(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One model of the ensemble.

    `kind` is `direct` for P(active in the window), `hazard` for P(active in the next period),
    `count` for expected purchases.
    """

    head: str
    kind: Literal["direct", "hazard", "count"]


class ChurnPlan(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The recipe of a churn score; `churn.json` of the bundle, times in microseconds.

    Attributes:
        types, window, gap: event types, window and gap as declared.
        active: only people active within this time are scored; 0 is unlimited.
        period, periods: of the hazard.
        read_until: no columns are read later, since the models never saw evicted state; see
            `training.tasks.churn.rolling_origin.feature_horizon`.
        parts: the models; P(churn) is the mean of their log-odds, before calibration.
        scale: factor of the expected purchases.
        bg_nbd, pareto_nbd: extra models of expected purchases, averaged with the `count`
            models; None without.
    """

    name: str
    types: tuple[str, ...]
    window: int
    gap: int
    active: int
    period: int
    periods: int
    read_until: int
    parts: tuple[Part, ...]
    scale: float = 1.0
    bg_nbd: BgNbdColumns | None = None
    pareto_nbd: ParetoNbdColumns | None = None

    def heads(self, calibration: str) -> list[Head]:
        """Return the heads of a bundle with this plan; counts are not calibrated."""
        return [
            Head(
                part.head,
                f"model/{part.head}.onnx",
                calibration="none" if part.kind == "count" else calibration,
            )
            for part in self.parts
        ]

    def files(self) -> dict[str, bytes]:
        """Return the file of a bundle that states the plan."""
        return {PLAN_FILE: msgspec.json.encode(self)}

    @property
    def has_hazards(self) -> bool:
        return any(part.kind == "hazard" for part in self.parts)

    def moments(self, now: int) -> list[int]:
        """Return the times at which columns are read: now, and the start of each period.

        All are read with what is known now.
        """
        starts = (
            [now + self.gap + k * self.period for k in range(self.periods)]
            if self.has_hazards
            else []
        )
        return [now, *(max(min(start, self.read_until), now) for start in starts)]
