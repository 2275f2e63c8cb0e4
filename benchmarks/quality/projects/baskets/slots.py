"""One place: what will be in the basket that this household is about to fill."""

from tailorbird.ranking import Slot

basket = Slot("basket", size=20, objective={"purchase": 1.0}, sources={"item_to_item": 200, "popular": 1000}, hide_seen=())
