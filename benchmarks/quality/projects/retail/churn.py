"""Churn of customers who ordered within a year: no order in the next 90 days."""

from tailorbird.ranking import Churn, Contact

churn = Churn(
    "churn",
    types=("purchase",),
    window="90d",
    active="365d",
    period="9d",
    recency="since",
    frequency="orders",
    age="age",
    amount="spent",
    contact=Contact(cost=5.0, value=300.0, success=0.05),
)
