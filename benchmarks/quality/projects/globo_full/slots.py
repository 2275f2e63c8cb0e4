"""One place: the next article."""

from tailorbird.ranking import Slot

next_article = Slot("next", size=20, objective={"click": 1.0}, sources={"item_to_item": 200, "popular": 1000}, hide_seen=("click",))
