"""Compute how many people to contact, and what contacting the top k is worth.

    value of one contact = P(gone) · success · value − cost

`success` is the share of people about to leave whom a contact retains. No model knows it: measure
it in an experiment that leaves some of the top alone. People who would leave and cannot be retained
rank as high here as people who can.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tailorbird.ranking.churn.declaration import Contact

Floats = npt.NDArray[np.float64]
CURVE_POINTS_MAX = 101


@dataclass(frozen=True)
class ContactCurve:
    """Cumulative metrics of the first k people in the list, for k = 1 … n; shape (n,) each.

    Attributes:
        recall: share of all churned people that is among the first k.
        lift: churn rate among the first k, relative to the overall rate.
        expected_value: value of contacting the first k, by the model's probabilities.
        realised_value: the same by the observed outcome; `success` is taken as given.
    """

    recall: Floats
    lift: Floats
    expected_value: Floats
    realised_value: Floats

    @property
    def best_k(self) -> int:
        """Return the k with the greatest expected value, 0 if no contact is worth its cost."""
        best_index = int(np.argmax(self.expected_value))
        return best_index + 1 if self.expected_value[best_index] > 0 else 0

    def points(self) -> list[dict[str, float]]:
        """Return at most 101 points of the curve, for a chart or JSON."""
        people_count = len(self.recall)
        positions = np.unique(
            np.linspace(0, people_count - 1, CURVE_POINTS_MAX).round().astype(np.intp)
        )
        columns = {
            "found": self.recall,
            "lift": self.lift,
            "expected": self.expected_value,
            "realised": self.realised_value,
        }
        return [
            {
                "share": (k + 1) / people_count,
                **{name: float(column[k]) for name, column in columns.items()},
            }
            for k in positions.tolist()
        ]


def contact_curve(
    probability: Floats, churned: npt.NDArray[np.bool_], contact: Contact
) -> ContactCurve:
    """Return the curve of people in order of falling probability; ties keep their input order.

    >>> contact = Contact(cost=1.0, value=10.0, success=0.5)
    >>> curve = contact_curve(np.array([0.9, 0.5, 0.1]), np.array([True, False, True]), contact)
    >>> curve.best_k, curve.realised_value.tolist()
    (2, [4.0, 3.0, 7.0])
    """
    order = np.argsort(-probability, kind="stable")
    sorted_probability = probability[order]
    sorted_churned = churned[order].astype(np.float64)
    k = np.arange(1, len(sorted_probability) + 1)
    total_churned = max(float(sorted_churned.sum()), 1e-12)
    cumulative_churned = np.cumsum(sorted_churned)
    retained_value = contact.success * contact.value
    churn_rate = max(float(sorted_churned.mean()) if len(sorted_churned) else 0.0, 1e-12)
    return ContactCurve(
        cumulative_churned / total_churned,
        cumulative_churned / k / churn_rate,
        np.cumsum(sorted_probability * retained_value - contact.cost),
        np.cumsum(sorted_churned * retained_value - contact.cost),
    )
