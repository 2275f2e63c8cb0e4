"""Churn within 39 weeks, which is as long as the known period."""

from tailorbird.ranking import Churn, Contact

churn = Churn(
    "churn",
    types=("purchase",),
    window="273d",
    period="7d",
    recency="since",
    frequency="bought",
    age="age",
    amount="spent",
    contact=Contact(cost=1.0, value=60.0, success=0.05),
)
