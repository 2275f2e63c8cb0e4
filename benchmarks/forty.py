"""The forty mixed features that the benchmarks of the feature engine share, and their events.

    12 windows   6 ratios   4 decays   3 distinct   5 of sequence and session
    6 profile attributes   4 on composites

Events are `TYPES` of people about items, with a price. Items have a category, a brand and a price;
users have a plan, an age and a segment. Features are about six entities: user, item, item.category,
everyone, and two composites.
"""

from tailorbird.features import (
    FeatureSet,
    attribute,
    count,
    decayed,
    distinct,
    entity,
    gap_mean,
    mean,
    ratio,
    sequence,
    session,
    session_depth,
    session_length,
    time_since,
    total,
)

TYPES = ("impression", "view", "click", "purchase")
ITEM_ATTRIBUTES = ("category", "brand", "price")
USER_ATTRIBUTES = ("plan", "age", "segment")
SEQUENCE_LENGTH = 64


def forty_features() -> FeatureSet:
    """Return the declarations of the forty features."""
    user, item, category, everyone = (
        entity("user"),
        entity("item"),
        entity("item.category"),
        entity(),
    )
    user_category, item_country = entity("user", "item.category"), entity("item", "country")
    money = {"of": "price", "unit": 0.01, "max": 10_000}
    windows = [
        *(
            count(f"item_clicks_{window}", item, "click", window=window)
            for window in ("1h", "1d", "7d", "30d")
        ),
        *(
            count(f"user_clicks_{window}", user, "click", window=window)
            for window in ("1h", "1d", "7d", "30d")
        ),
        *(
            total(f"user_spend_{window}", user, "purchase", **money, window=window)
            for window in ("1d", "30d")
        ),
        total("item_sold_7d", item, "purchase", **money, window="7d"),
        mean("user_price_60d", user, "purchase", **money, window="60d"),
    ]
    ratios = [
        ratio("item_ctr_1d", item, "click", "impression", window="1d", prior=category, weight=20),
        ratio("item_ctr_7d", item, "click", "impression", window="7d", prior=category, weight=20),
        ratio("item_bought_7d", item, "purchase", "click", window="7d", prior=everyone, weight=20),
        ratio(
            "category_ctr_7d",
            category,
            "click",
            "impression",
            window="7d",
            prior=everyone,
            weight=100,
        ),
        ratio("user_ctr_7d", user, "click", "impression", window="7d", prior=0.05, weight=10),
        ratio("user_bought_30d", user, "purchase", "click", window="30d"),
    ]
    decays = [
        decayed("item_heat_1h", item, "click", half_life="1h"),
        decayed("item_heat_3d", item, ["view", "click"], half_life="3d"),
        decayed("user_heat_1d", user, "click", half_life="1d"),
        decayed("user_spend_7d_half", user, "purchase", **money, half_life="7d"),
    ]
    distincts = [
        distinct("item_reach_1d", item, ["view", "click"], of="user", window="1d"),
        distinct("user_items_7d", user, "click", of="item", window="7d"),
        distinct(
            "user_categories_30d", user, "click", of="item.category", precision=4, window="30d"
        ),
    ]
    sequences = [
        sequence("recent", user, ["click", "purchase"], length=SEQUENCE_LENGTH),
        gap_mean("user_gap", user, "click"),
        session("session_clicks", "click"),
        session_length("session_events"),
        session_depth("session_items"),
    ]
    attributes = [
        attribute("item_category", item, "category", kind="categorical"),
        attribute("item_brand", item, "brand", kind="categorical"),
        attribute("item_price", item, "price", kind="numeric"),
        attribute("user_plan", user, "plan", kind="categorical"),
        attribute("user_age", user, "age", kind="numeric"),
        attribute("user_segment", user, "segment", kind="categorical"),
    ]
    composites = [
        count("mine_clicks_30d", user_category, "click", window="30d"),
        ratio(
            "mine_ctr_7d",
            user_category,
            "click",
            "impression",
            window="7d",
            prior=category,
            weight=5,
        ),
        time_since("mine_since", user_category, "click"),
        count("item_here_7d", item_country, "click", window="7d"),
    ]
    return FeatureSet.from_declarations(
        [*windows, *ratios, *decays, *distincts, *sequences, *attributes, *composites]
    )
