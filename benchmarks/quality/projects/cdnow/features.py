"""Features from purchases alone: when, how many discs, and for how much."""

from tailorbird.features import (
    count,
    derived,
    entity,
    first,
    gap_mean,
    last,
    maximum,
    mean,
    time_since,
    time_since_first,
    total,
)

user = entity("user")

since = time_since("since", user, "purchase")
age = time_since_first("age", user, "purchase")
bought = count("bought", user, "purchase")
bought_28d = count("bought_28d", user, "purchase", window="28d", hop="7d")
bought_91d = count("bought_91d", user, "purchase", window="91d", hop="7d")
spent = total("spent", user, "purchase", of="price", max=5_000)
basket = mean("basket", user, "purchase", of="price", max=5_000)
largest = maximum("largest", user, "purchase", of="price", max=5_000)
discs = mean("discs", user, "purchase", of="properties.discs", unit=1, max=200)
last_price = last("last_price", user, "purchase", of="price")
first_price = first("first_price", user, "purchase", of="price")
gap = gap_mean("gap", user, "purchase")

day = 86_400
silence = derived(
    "silence", f"since / (gap + {7 * day})"
)  # time away in multiples of the customer's usual gap
rate = derived("rate", f"bought / (age + {33 * day}) * {day}")
stretch = derived(
    "stretch", f"(age - since) / (age + {day})"
)  # the share of the customer's time up to the last purchase
