"""The features of users and items, shared by the stream, training and serving.

`tailorbird check` validates this file. `tailorbird features show user:u000001` shows values and the
events behind them. Windows are written 1h, 7d, 28d. Money is counted in `unit`s up to `max`, so
that sums are exact.
"""

from tailorbird.features import (
    attribute,
    context,
    count,
    derived,
    entity,
    last,
    mean,
    ratio,
    sequence,
    session,
    time_since,
    total,
)

user = entity("user")
item = entity("item")
category = entity("item.category")
user_category = entity("user", "item.category")
country_category = entity("country", "item.category")
age_category = entity("user.age_group", "item.category")
brand = entity("item.brand")
user_brand = entity("user", "item.brand")
everyone = entity()
PEOPLE = "agent != 'bot'"

# Items: popularity, now, recently and over a month. A rate over a month rests on four times as many
# clicks: where tastes change slowly, it tells more than last week's.
item_clicks_1d = count("item_clicks_1d", item, "click", window="1d", where=PEOPLE)
item_clicks_7d = count("item_clicks_7d", item, "click", window="7d", where=PEOPLE)
item_ctr_7d = ratio(
    "item_ctr_7d", item, "click", "impression", window="7d", prior=category, weight=20, where=PEOPLE
)
item_ctr_28d = ratio(
    "item_ctr_28d",
    item,
    "click",
    "impression",
    window="28d",
    prior=category,
    weight=50,
    where=PEOPLE,
)
item_purchases_28d = count("item_purchases_28d", item, "purchase", window="28d", where=PEOPLE)
item_cart_rate_28d = ratio(
    "item_cart_rate_28d",
    item,
    "cart",
    "click",
    window="28d",
    prior=category,
    weight=30,
    where=PEOPLE,
)
category_ctr_7d = ratio(
    "category_ctr_7d",
    category,
    "click",
    "impression",
    window="7d",
    prior=everyone,
    weight=100,
    where=PEOPLE,
)
category_ctr_28d = ratio(
    "category_ctr_28d",
    category,
    "click",
    "impression",
    window="28d",
    prior=everyone,
    weight=100,
    where=PEOPLE,
)
category_price_28d = mean(
    "category_price_28d", category, "click", of="item.price", unit=0.01, max=10_000, window="28d"
)
brand_ctr_28d = ratio(
    "brand_ctr_28d",
    brand,
    "click",
    "impression",
    window="28d",
    prior=everyone,
    weight=100,
    where=PEOPLE,
)

# People: habits.
user_clicks_7d = count("user_clicks_7d", user, "click", window="7d")
user_spend_28d = total(
    "user_spend_28d", user, "purchase", of="price", unit=0.01, max=10_000, window="28d"
)
user_price_28d = mean(
    "user_price_28d", user, "click", of="item.price", unit=0.01, max=10_000, window="28d"
)
user_since_click = time_since("user_since_click", user, "click")
user_last_category = last(
    "user_last_category", user, "click", of="item.category", kind="categorical"
)
user_recent = sequence("user_recent", user, ["click", "cart", "purchase"], length=64)
session_clicks = session("session_clicks", "click")

# People and items: affinity of a person to a category and to a brand.
user_category_clicks_1h = count("user_category_clicks_1h", user_category, "click", window="1h")
user_category_clicks_28d = count("user_category_clicks_28d", user_category, "click", window="28d")
user_category_ctr_28d = ratio(
    "user_category_ctr_28d",
    user_category,
    "click",
    "impression",
    window="28d",
    prior=category,
    weight=10,
)
user_brand_ctr_28d = ratio(
    "user_brand_ctr_28d", user_brand, "click", "impression", window="28d", prior=brand, weight=50
)

# Groups and items: affinity of a country, and of an age group if profiles have it, to a category.
country_category_ctr_28d = ratio(
    "country_category_ctr_28d",
    country_category,
    "click",
    "impression",
    window="28d",
    prior=category,
    weight=100,
    where=PEOPLE,
)
age_category_ctr_28d = ratio(
    "age_category_ctr_28d",
    age_category,
    "click",
    "impression",
    window="28d",
    prior=category,
    weight=100,
    where=PEOPLE,
)

# Profiles and the request.
item_category = attribute("category", item, "category", kind="categorical")
item_price = attribute("price", item, "price", kind="numeric")
on_sale = attribute("on_sale", item, "on_sale", kind="numeric")
device = context("device")
local_hour = context("local_hour")

# Derived: each rate relative to the category's, and their product, which trees are slow to find by
# themselves.
item_lift = derived("item_lift", "item_ctr_28d / category_ctr_28d")
user_lift = derived("user_lift", "user_category_ctr_28d / category_ctr_28d")
brand_lift = derived("brand_lift", "user_brand_ctr_28d / brand_ctr_28d")
country_lift = derived(
    "country_lift",
    "1 if missing(country_category_ctr_28d) else country_category_ctr_28d / category_ctr_28d",
)
age_lift = derived(
    "age_lift", "1 if missing(age_category_ctr_28d) else age_category_ctr_28d / category_ctr_28d"
)
expected_ctr = derived("expected_ctr", "item_ctr_28d * user_lift * country_lift * age_lift")
price_to_habit = derived("price_to_habit", "price / user_price_28d")
price_to_category = derived("price_to_category", "price / category_price_28d")
