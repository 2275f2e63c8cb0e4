"""A server with prompt answers instead of a pipeline."""

from typing import Any

from tailorbird.serving.messages import (
    ChurnReason,
    ChurnResponse,
    Item,
    QueryError,
    RecommendResponse,
    ShownItem,
    Similar,
    SlotFormula,
)
from tailorbird.serving.scores.log import Scores

SHOWN_ITEM = ShownItem(
    item_id="i1", position=1, score=0.5, reason="Popular", reason_code="popular", source="popular"
)


class PromptPipeline:
    """A pipeline that answers at once, so that what is tested is HTTP."""

    def answer(self, query: Any) -> RecommendResponse:
        if query.slot != "home":
            raise QueryError("there is no slot of that name", path="$.slot", code="unknown_slot")
        return RecommendResponse(
            request_id="r1",
            slot=query.slot,
            items=[SHOWN_ITEM],
            arm="",
            model="v0001",
            degraded=[],
            t=1,
        )

    rank = answer

    def search(self, query: Any) -> RecommendResponse:
        return RecommendResponse(
            request_id="r1",
            slot="search",
            items=[SHOWN_ITEM],
            arm="",
            model="v0001",
            degraded=[],
            t=1,
        )

    def similar_items(self, item_id: str, size: int, slot: str = "") -> Similar | None:
        if item_id != "i1":
            return None
        return Similar(item_id=item_id, items=[SHOWN_ITEM][:size], model="v0001")

    def item(self, item_id: str) -> Item | None:
        return Item(item_id=item_id, attributes={"title": "Rain coat"}) if item_id == "i1" else None

    def top_items(
        self, source: str, size: int, category: str | None = None, slot: str = ""
    ) -> list[ShownItem]:
        return [SHOWN_ITEM][:size]

    def missing_parts(self) -> list[str]:
        return []


class PromptFormulas:
    """A registry of formulas that takes every one."""

    def describe_all(self) -> list[SlotFormula]:
        return [SlotFormula(slot="home", formula="1.0*click", version="", declared="1.0*click")]

    def put(self, slot: str, text: str, *, by: str, why: str) -> SlotFormula:
        return SlotFormula(
            slot=slot, formula=text, version="f0001", declared="1.0*click", by=by, why=why
        )


class PromptScores:
    """A log of scores in which nothing stands."""

    def read(self, start: int) -> Scores:
        return Scores(scores=[], next=start, begins=0)


class PromptChurn:
    """A churn model that answers at once."""

    def answer(self, user_id: str, name: str, *, explain: bool = False) -> ChurnResponse:
        if name != "churn":
            raise QueryError("there is no such model", path="model", code="unknown_model")
        why = (
            [
                ChurnReason(
                    "since", 0.5, "since is 9 days: raises the chance of leaving from 38% to 50%"
                )
            ]
            if explain
            else []
        )
        return ChurnResponse(
            user_id=user_id,
            name=name,
            model="v0001",
            gone=0.5,
            purchases=None,
            known=True,
            as_of=1,
            reasons=why,
        )


CLICK = {"event_id": "e1", "type": "click", "user_id": "u1", "item_id": "i1"}
