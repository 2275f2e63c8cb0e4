"""Columns that churn models of tests read: recency, age and frequency."""

from tailorbird.features import Entity, count, time_since, time_since_first


def declare_habits(user: Entity) -> None:
    time_since("since", user, "purchase")
    time_since_first("age", user, "purchase")
    count("bought", user, "purchase", window="56d", hop="7d")
