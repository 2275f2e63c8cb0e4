"""Historical features, recomputed from the lake at (t, p)."""
