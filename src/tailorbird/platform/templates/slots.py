"""The places of the site that show something: where candidates come from, what is forbidden, what
is aimed at, what is tried.

A request names a slot; `tailorbird recommend --slot home --user u000001` asks from the shell.
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
    objective={"click": 1.0, "purchase": 5.0},  # what a click and a purchase are worth
    rules=["item.stock > 0"],
    hide_seen=("purchase",),
    per_category=5,
    explore=Explore(
        rate=0.2, pool=50
    ),  # one item in five answers is drawn by chance, with a known probability
    # what the model brings, measured on people who get no model:
    # experiment=Experiment("home-model", arms={"popular": 0.5, "model": 0.5}),
)

search = Slot("search", size=24, sources={"search": 200}, objective={"click": 1.0}, hide_seen=())
