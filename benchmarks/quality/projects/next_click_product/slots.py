"""One place: the next article. Sources as many as the ranker of `next_click` takes of each."""

from tailorbird.ranking import Slot

next_article = Slot(
    "next",
    size=20,
    objective={"click": 1.0},
    sources={"sessions": 60, "stan": 60, "item_to_item": 40, "trending": 80},
    hide_seen=("click",),
)
