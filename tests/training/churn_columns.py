"""What churn models of tests read of a person: when they bought last and first, and how often."""

from tailorbird.features import Entity, count, time_since, time_since_first


def habits(user: Entity) -> None:
    time_since("since", user, "purchase")
    time_since_first("age", user, "purchase")
    count("bought", user, "purchase", window="56d", hop="7d")
