"""One place: the film to be rated next."""

from tailorbird.ranking import Slot

next_film = Slot("next", size=20, objective={"rating": 1.0}, sources={"item_to_item": 200, "popular": 1000}, hide_seen=("rating",))
