"""Features of a gift wholesaler's orders: frequency, recency, amount, regularity and trend."""

from tailorbird.features import (
    count,
    decayed,
    derived,
    entity,
    favourite,
    gap_mean,
    last,
    maximum,
    mean,
    time_since,
    time_since_first,
    total,
    variance,
)

user = entity("user")
day = 86_400

since = time_since("since", user, "purchase")
since_large = time_since("since_large", user, "purchase", where="price >= 300")
since_return = time_since("since_return", user, "return")
age = time_since_first("age", user, "purchase")
orders = count("orders", user, "purchase")
orders_30d = count("orders_30d", user, "purchase", window="30d", hop="3d")
orders_90d = count("orders_90d", user, "purchase", window="90d", hop="9d")
orders_180d = count("orders_180d", user, "purchase", window="180d", hop="15d")
orders_365d = count("orders_365d", user, "purchase", window="364d", hop="14d")
fading = decayed("fading", user, "purchase", half_life="25d")
fading_long = decayed("fading_long", user, "purchase", half_life="50d")
returns_180d = count("returns_180d", user, "return", window="180d", hop="15d")
spent = total("spent", user, "purchase", of="price", max=200_000)
spent_90d = total("spent_90d", user, "purchase", of="price", max=200_000, window="90d", hop="9d")
spent_365d = total(
    "spent_365d", user, "purchase", of="price", max=200_000, window="364d", hop="14d"
)
basket = mean("basket", user, "purchase", of="price", max=200_000)
spread = variance("spread", user, "purchase", of="price", unit=1, max=200_000)
largest = maximum("largest", user, "purchase", of="price", max=200_000)
last_price = last("last_price", user, "purchase", of="price")
lines = mean("lines", user, "purchase", of="properties.lines", unit=1, max=2_000)
units = mean("units", user, "purchase", of="properties.units", unit=1, max=100_000)
gap = gap_mean("gap", user, "purchase")
gap_last = gap_mean("gap_last", user, "purchase", length=4)
country = favourite("country", user, "purchase", of="properties.country", length=8)

silence = derived(
    "silence", f"since / (gap + {7 * day})"
)  # time away in multiples of the customer's usual gap
silence_last = derived("silence_last", f"since / (gap_last + {7 * day})")
rate = derived("rate", f"orders / (age + {45 * day}) * {day}")
stretch = derived("stretch", f"(age - since) / (age + {day})")
rising = derived("rising", "(orders_90d + 0.5) / (orders_365d + 2)")
missed = derived(
    "missed", f"orders * since / (age - since + {45 * day})"
)  # orders expected by now at the customer's own rate
missed_lately = derived("missed_lately", f"(orders_180d + 0.5) * since / {180 * day}")
usual_month = derived("usual_month", f"spent / (age + {45 * day}) * {30 * day}")
