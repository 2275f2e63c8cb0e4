"""Whom to contact: how many of those who leave stand at the top of the list, and what contacting
the top k is worth.

    value of one contact = P(gone) · success · value − cost

`success`, the share of those who would leave that a contact keeps, is no model's knowledge: it
takes an experiment in which some of the top are left alone. Somebody who would leave and cannot be
kept stands as high here as one who can.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tailorbird.ranking.churn import Contact

Floats = npt.NDArray[np.float64]
POINTS = 101  # of a curve that is kept


@dataclass(frozen=True)
class Curve:
    """What the first k of the list hold and are worth, for k = 1 … n; shape (n,) each.

    Attributes:
        found: share of all who left that is among the first k.
        lift: their rate of leaving for that of all.
        expected: value of contacting the first k, by the model's probabilities.
        realised: the same by who left; what `success` says is taken as given.
    """

    found: Floats
    lift: Floats
    expected: Floats
    realised: Floats

    @property
    def best(self) -> int:
        """How many to contact: the k of the greatest expected value, 0 where no contact is worth
        its cost.
        """
        at = int(np.argmax(self.expected))
        return at + 1 if self.expected[at] > 0 else 0

    def points(self) -> list[dict[str, float]]:
        """At most a hundred and one points, for a picture or JSON."""
        size = len(self.found)
        places = np.unique(np.linspace(0, size - 1, POINTS).round().astype(np.intp))
        names = ("found", "lift", "expected", "realised")
        return [
            {"share": (k + 1) / size, **{name: float(getattr(self, name)[k]) for name in names}}
            for k in places.tolist()
        ]


def curve_of(probability: Floats, gone: npt.NDArray[np.bool_], contact: Contact) -> Curve:
    """The curve of people in order of falling probability; ties keep the order in which they come.

    >>> curve = curve_of(np.array([0.9, 0.5, 0.1]), np.array([True, False, True]), Contact(cost=1.0,
    value=10.0, success=0.5))
    >>> curve.best, curve.realised.tolist() (2, [4.0, 3.0, 7.0])
    """
    order = np.argsort(-probability, kind="stable")
    p, left = probability[order], gone[order].astype(np.float64)
    k = np.arange(1, len(p) + 1)
    total = max(float(left.sum()), 1e-12)
    cumulated = np.cumsum(left)
    kept = contact.success * contact.value
    rate = max(float(left.mean()) if len(left) else 0.0, 1e-12)
    return Curve(
        cumulated / total,
        cumulated / k / rate,
        np.cumsum(p * kept - contact.cost),
        np.cumsum(left * kept - contact.cost),
    )
