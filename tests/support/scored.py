"""A score role over a routed log of its own, with models that answer by rule. As a program: `python
-m tests.support.scored FOLDER`.
"""

import sys
from pathlib import Path
from typing import Any

from tests.support.features import ipc

from tailorbird.errors import NotReadyError
from tailorbird.events import HOUR, MINUTE, ROUTED, Clock, SimulatedClock
from tailorbird.ranking import ChurnScore, NextBest
from tailorbird.serving.messages import (
    ChurnReason,
    ChurnResponse,
    RecommendQuery,
    RecommendResponse,
    ShownItem,
)
from tailorbird.serving.scores.role import ScoreRole
from tailorbird.stream import Block, open_writer

NOW = 1_800_000_000_000_000
DECLARED_SCORES = [
    NextBest("home", size=2, on=["click"], every="10m"),
    ChurnScore("churn", above=0.7, on=["view"], name="leaving"),
]


class RuleModels:
    """Everybody's next best item is named after them; the risk of somebody is what `risks` says."""

    def __init__(
        self, risks: dict[str, float] | None = None, reached_position: int = 1 << 62
    ) -> None:
        self.risks, self.position, self.queries = dict(risks or {}), reached_position, []
        self.strangers = set()

    def refresh(self) -> None:
        pass

    def reached_position(self) -> int:
        return self.position

    def next_best(self, query: RecommendQuery) -> RecommendResponse:
        self.queries.append(query)
        shown = ShownItem(
            item_id=f"for-{query.user_id}",
            position=1,
            score=0.5,
            reason="",
            reason_code="for_you",
            source="popular",
        )
        return RecommendResponse(
            request_id="r",
            slot=query.slot,
            items=[shown],
            arm="",
            model="v0001",
            degraded=[],
            t=NOW,
        )

    def churn(self, user_id: str, model: str) -> ChurnResponse:
        if user_id not in self.risks:
            raise NotReadyError("there is no model")
        reasons = [
            ChurnReason("orders", 0.5, "orders is 0: raises the chance of leaving from 72% to 81%")
        ]
        return ChurnResponse(
            user_id=user_id,
            name=model,
            model="v0007",
            gone=self.risks[user_id],
            purchases=None,
            known=user_id not in self.strangers,
            as_of=NOW,
            reasons=reasons,
        )


def make_rows(*events: tuple[Any, ...]) -> list[dict[str, Any]]:
    """Routed rows from (p, type, person, minute, further columns)."""
    routed_rows = []
    for log_position, kind, person, minute, *further_columns in events:
        row = dict.fromkeys(ROUTED.names) | {
            "p": log_position,
            "event_id": f"e{log_position}",
            "type": kind,
            "person": person,
            "user_id": person,
            "ts": NOW + minute * MINUTE,
            "received_at": NOW,
            "agent": "person",
            "counts": True,
            "timeless": False,
            "raw_partition": "t",
            "raw_offset": log_position,
            "raw_row": 0,
        }
        routed_rows.append(row | (further_columns[0] if further_columns else {}))
    return routed_rows


class RoutedLog:
    """A router's log that a test writes."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "routed.db"
        self._writer = open_writer(self.path, partition="routed", first_position=1)

    def append(self, *events: tuple[Any, ...]) -> None:
        routed_rows = make_rows(*events)
        self._writer.append([Block("events", len(routed_rows), ipc(routed_rows))])

    def close(self) -> None:
        self._writer.close()


def make_score_role(
    folder: Path,
    models: RuleModels,
    declared_scores: list[NextBest | ChurnScore] = DECLARED_SCORES,
    keep_us: int = 7 * 24 * HOUR,
    clock: Clock | None = None,
) -> ScoreRole:
    return ScoreRole(
        folder / "routed.db",
        folder / "scores.db",
        declared_scores,
        models,
        clock or SimulatedClock(NOW),
        keep_us=keep_us,
    )


if __name__ == "__main__":
    target = Path(sys.argv[1])
    with make_score_role(target, RuleModels()) as scoring:
        while scoring.step().rows:
            pass
