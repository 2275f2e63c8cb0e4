"""The slots of the site: their candidate sources, rules, objectives and experiments.

A request names a slot. Try one with `tailorbird recommend --slot home --user u000001`.
"""

# from tailorbird.experiments import Experiment
from tailorbird.ranking import Explore, Slot

home = Slot(
    "home",
    size=12,
    sources={
        "item_knn": 150,
        "trending": 60,
        "popular:7d:category": 100,
        "popular": 100,
        "new_items": 30,
    },
    objective={"click": 1.0, "purchase": 5.0},  # The value of a click and of a purchase.
    rules=["item.stock > 0"],
    hide_seen=("purchase",),
    # Variety at the price of clicks: at most so many items of one category.
    # per_category=5,
    # One item in every five answers is drawn at random, with a known probability.
    explore=Explore(rate=0.2, pool=50),
    # Measure the uplift of the model against people who get no model:
    # experiment=Experiment("home-model", arms={"popular": 0.5, "model": 0.5}),
)

search = Slot("search", size=24, sources={"search": 200}, objective={"click": 1.0}, hide_seen=())
