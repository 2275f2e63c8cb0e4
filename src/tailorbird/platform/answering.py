"""Answer a request of a project in this process."""

import msgspec

from tailorbird.config import Project
from tailorbird.errors import NotReadyError
from tailorbird.events import SystemClock, to_iso
from tailorbird.platform.clocks import response_clock
from tailorbird.platform.inprocess import open_pipeline
from tailorbird.platform.results import Slate
from tailorbird.serving.messages import RecommendQuery, SearchQuery, decode

PRINTED_ATTRIBUTES = ("title", "price", "category")  # Attributes that are printed next to an item.


def resolve_slot_name(project: Project, name: str, query: str) -> str:
    """Return the slot of a request that may name none."""
    if name:
        return name
    return "search" if query and "search" in project.slots else project.settings.train.slot


def build_request_body(
    project: Project, *, slot: str, user_id: str, query: str, size: int, explain: bool
) -> dict[str, object]:
    """Return the request body as a server expects it."""
    body: dict[str, object] = {
        "slot": resolve_slot_name(project, slot, query),
        "explain": explain,
        "attributes": list(PRINTED_ATTRIBUTES),
    }
    body |= {"user_id": user_id} if user_id else {}
    body |= {"size": size} if size else {}
    body |= {"query": query} if query else {}
    return body


def answer(
    project: Project,
    *,
    slot: str = "",
    user_id: str = "",
    query: str = "",
    size: int = 0,
    as_of: str = "",
    explain: bool = False,
) -> Slate:
    """Answer as a server would, without logging the response. See `Project.recommend`."""
    body = build_request_body(
        project, slot=slot, user_id=user_id, query=query, size=size, explain=explain
    )
    # Encoded as JSON, so that an invalid value gives the same error as on a server.
    encoded_body = msgspec.json.encode(body)
    clock, note = response_clock(as_of, project, SystemClock())
    with open_pipeline(project, clock, seed=None) as pipeline:
        if query:
            response = pipeline.search(decode(encoded_body, msgspec.json.Decoder(SearchQuery)))
        else:
            response = pipeline.answer(decode(encoded_body, msgspec.json.Decoder(RecommendQuery)))
    if as_of and response.t > clock.now():
        response_time = to_iso(response.t)[:16].replace("T", " ")
        note = f"The features hold events up to {response_time} UTC: answered as of then."
    slate = Slate(response, note)
    require_items(slate, str(project.root))
    return slate


def require_items(slate: Slate, where: str) -> None:
    """Raise NotReadyError if no item is known yet."""
    if "index" in slate.response.degraded:
        raise NotReadyError(
            "there is nothing to recommend yet: no model, and no item is known",
            where=where,
            fix="tailorbird import FORMAT PATH, then tailorbird train",
        )
