"""Films are rated in sittings of some hundred, seconds apart: what the sitting was about so far, and what people rate lately."""

from tailorbird.features import attribute, count, derived, entity, mean, sequence, session, time_since

user = entity("user")
item = entity("item")
category = entity("item.category")
user_category = entity("user", "item.category")
everyone = entity()

ratings_30d = count("ratings_30d", item, "rating", window="30d")
ratings_180d = count("ratings_180d", item, "rating", window="180d", hop="15d")
ratings_400d = count("ratings_400d", item, "rating")
all_30d = count("all_30d", everyone, "rating", window="30d")
all_400d = count("all_400d", everyone, "rating")
rate_30d = derived("rate_30d", "ratings_30d / (all_30d + 1)")
rate_400d = derived("rate_400d", "ratings_400d / (all_400d + 1)")
trend = derived("trend", "ratings_180d / (ratings_400d + 1)")
since_rating = time_since("since_rating", item, "rating")
item_rating = mean("item_rating", item, "rating", of="rating", unit=0.5, max=5)
user_rating = mean("user_rating", user, "rating", of="rating", unit=0.5, max=5)
category_rating = mean("category_rating", user_category, "rating", of="rating", unit=0.5, max=5)

user_ratings = count("user_ratings", user, "rating")
user_category_ratings = count("user_category_ratings", user_category, "rating")
user_category_1d = count("user_category_1d", user_category, "rating", window="1d")
category_ratings = count("category_ratings", category, "rating")
taste = derived("taste", "user_category_ratings / (user_ratings + 1) / ((category_ratings + 1) / (all_400d + 1))")
sitting = derived("sitting", "user_category_1d / (user_ratings + 1)")
in_session = session("in_session", "rating")
recent = sequence("recent", user, "rating", length=64)

genre = attribute("genre", item, "category", kind="categorical")
year = attribute("year", item, "year", kind="numeric")
typical_year = mean("typical_year", user, "rating", of="item.year", unit=1, max=3000)
from_typical = derived("from_typical", "year - typical_year")
