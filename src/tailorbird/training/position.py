"""How likely a place of a list is looked at, learned from logged randomisation, and what clicks weigh by it.

An item further down is clicked less, because fewer look there and because worse items stand there. Where the logged policy drew items at
random, the second can be taken out: weighted by 1 ÷ propensity, the rows of each place are of the same mixture of items, and what is left
of the difference between places is examination (a position-based model: P(click) = P(looked at | place) · P(click | item)). Where only
what the client reported as seen is a row, that holds as well, as whether it does depends on the place and not on the item: what is found
is then how likely an item that was on the screen is looked at.

Source: Joachims, Swaminathan and Schnabel, WSDM 2017 (weights); propensities by randomisation, section 5 there.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tailorbird.errors import UsageError

Floats = npt.NDArray[np.float64]

CAP = 10.0  # of a weight: one click at a place that hardly anybody sees must not outweigh a hundred others
CLICKS_MIN = 20  # of a place, below which it is taken as the one before it
IMPORTANCE_MAX = 1_000.0  # of a row, in the mean over its place


@dataclass(frozen=True)
class Examination:
    """Attributes:
    chance: shape (places,), how likely each place is looked at, of the first one; ≤ 1, never rising.
    clicks: shape (places,), that it was learned from.
    """

    chance: Floats
    clicks: npt.NDArray[np.int64]

    def of(self, position: npt.NDArray) -> Floats:
        """The chance at each position (n,), from 1; beyond the last one learned, that one's."""
        return self.chance[np.clip(position, 1, len(self.chance)).astype(np.intp) - 1]


def examination(position: npt.NDArray, clicked: npt.NDArray, propensity: Floats) -> Examination:
    """Learn it from rows of what was shown.

    Args:
        position: shape (n,), from 1.
        clicked: shape (n,).
        propensity: shape (n,), with which probability the item was shown at that place.
    Raises:
        UsageError: nothing was shown, or nothing drawn at random, or nothing on the first place, or that was hardly clicked: there is
            nothing to learn from.
    """
    shown = position >= 1
    if not shown.any():
        fix = "ask for logged answers by --rows answers, or train without --position weights"
        raise UsageError("rows are drawn from what people chose, and stood at no place", where="--position weights", fix=fix)
    drawn = shown & (propensity < 1)
    if not drawn.any():
        raise UsageError("no logged row was drawn at random", fix="let the slot explore, or train without --position weights")
    place = position[drawn].astype(np.int64) - 1
    weight = np.minimum(1.0 / np.maximum(propensity[drawn], 1e-12), IMPORTANCE_MAX)
    good = clicked[drawn] > 0
    places = int(place.max()) + 1
    mass = np.bincount(place, weight, places)
    rate = np.bincount(place, weight * good, places) / np.maximum(mass, 1e-12)
    clicks = np.bincount(place, good, places).astype(np.int64)
    if not mass[0]:
        fix = "let the slot explore from the first place on, as Explore(first=1) does, or train without --position weights"
        raise UsageError("what stood on the first place was never drawn at random", fix=fix)
    if clicks[0] < CLICKS_MIN:
        raise UsageError(f"only {clicks[0]} clicks on the first place of drawn lists", fix="take a longer window")
    chance = np.ones(places)
    for each in range(1, places):
        found = rate[each] / rate[0] if clicks[each] >= CLICKS_MIN else chance[each - 1]
        chance[each] = min(found, chance[each - 1])
    return Examination(chance, clicks)


def click_weights(examined: Examination, position: npt.NDArray, label: npt.NDArray, *, cap: float = CAP) -> Floats:
    """What each row weighs, shape (n,): a positive 1 ÷ the chance that it was looked at, at most `cap`; everything else 1."""
    return np.where(label > 0, np.minimum(1.0 / np.maximum(examined.of(position), 1e-12), cap), 1.0)
