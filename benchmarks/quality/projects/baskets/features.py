"""Groceries are bought again and again: how often this household buys this product, how long ago, and whether it is due."""

from tailorbird.features import attribute, context, count, derived, entity, mean, sequence, time_since

user = entity("user")
item = entity("item")
category = entity("item.category")
user_item = entity("user", "item")
user_category = entity("user", "item.category")
everyone = entity()

mine_28d = count("mine_28d", user_item, "purchase", window="28d", hop="2d")
mine_91d = count("mine_91d", user_item, "purchase", window="91d", hop="7d")
mine_ever = count("mine_ever", user_item, "purchase")
since_mine = time_since("since_mine", user_item, "purchase")
category_28d = count("category_28d", user_category, "purchase", window="28d", hop="2d")
category_ever = count("category_ever", user_category, "purchase")
since_category = time_since("since_category", user_category, "purchase")
lines_28d = count("lines_28d", user, "purchase", window="28d", hop="2d")
lines_ever = count("lines_ever", user, "purchase")
since_basket = time_since("since_basket", user, "purchase")

sold_7d = count("sold_7d", item, "purchase", window="7d", hop="1d")
sold_28d = count("sold_28d", item, "purchase", window="28d", hop="2d")
sold_ever = count("sold_ever", item, "purchase")
sold_category_28d = count("sold_category_28d", category, "purchase", window="28d", hop="2d")
all_7d = count("all_7d", everyone, "purchase", window="7d", hop="1d")
all_28d = count("all_28d", everyone, "purchase", window="28d", hop="2d")
item_price = mean("item_price", item, "purchase", of="price", unit=0.01, max=1_000, window="91d", hop="7d")

rate_7d = derived("rate_7d", "sold_7d / (all_7d + 1)")
rate_28d = derived("rate_28d", "sold_28d / (all_28d + 1)")
in_category = derived("in_category", "sold_28d / (sold_category_28d + 1)")
trend = derived("trend", "sold_7d / (sold_28d + 1)")
share_28d = derived("share_28d", "mine_28d / (lines_28d + 1)")
share_ever = derived("share_ever", "mine_ever / (lines_ever + 1)")
loyalty = derived("loyalty", "mine_ever / (category_ever + 1)")
category_share = derived("share_of_category", "category_28d / (lines_28d + 1)")
repeats = derived("repeats", "mine_ever / (sold_ever + 1)")

recent = sequence("recent", user, "purchase", length=128)
department = attribute("department", item, "department", kind="categorical")
brand = attribute("brand", item, "brand", kind="categorical")
local_hour = context("local_hour")
