"""How likely a place of a list is looked at, learned from logged randomisation, and what clicks
weigh by it.

An item further down is clicked less, because fewer look there and because worse items stand there.
The second can be taken out of two places that the logged policy could exchange: weighed by 1 ÷
propensity, the rows of both are of the same mixture of items, and what is left of the difference is
examination (a position-based model: P(click) = P(looked at | place) · P(click | item)). So the
ratio of neighbouring places is taken from those answers alone whose randomisation could exchange
the two, and the ratios are multiplied from the first place on. What an answer exchanged is read off
the propensities of its rows:

- `plackett_luce`, an answer drawn evenly, mixtures of such: whatever was drawn could stand on each
  of the drawn places.
- `swap`: an item could stand on the two places of its pair alone, and says nothing about any other
  place. The pairs of one answer do not overlap; those of answers with `first=1` and of others with
  `first=2` do, and only together do they lead from the first place to the last.
- `item`: what is ranked on a place stands there or is not shown, so no two places have the same
  mixture. Such answers say nothing.

What could have been exchanged must have been, now and then. At a low temperature of `plackett_luce`
a weak item stands first once in many thousand answers: in the log, never. Its weight is missing
there and not further down, the first place looks better than it is, and the rest of the list hardly
looked at. The weights tell: over many draws, those of a place come to 1 an item that could stand
there, which is their mean, so places of the same answers have the same mean. Where one falls short
of another, items are missing, and that is refused.

Where only what the client reported as seen is a row, that holds as well, as whether it does depends
on the place and not on the item: what is found is then how likely an item that was on the screen is
looked at.

Source: Joachims, Swaminathan and Schnabel, WSDM 2017 (weights; propensities by randomisation,
section 5 there); Agarwal et al., WSDM 2019, and Fang, Agarwal and Joachims, SIGIR 2019 (only what
could be exchanged is compared: intervention harvesting).
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tailorbird.errors import UsageError
from tailorbird.training.exchanged import NEVER, PAIRS, Drawn, drawn_rows, links

Floats = npt.NDArray[np.float64]

# of a weight: one click at a place that hardly anybody sees must not outweigh a hundred others
CAP = 10.0
CLICKS_MIN = 20  # of a place, below which it is taken as the one before it
IMPORTANCE_MAX = 1_000.0  # of a row, in the mean over its place
# Of the mean weight that a place should have: it bounds how far items that are missing on one place
# alone can turn a ratio. Where 10 items could stand on each of six places, the lowest came to .81
# and more at temperatures from .2 on, of 1,000 answers; at .1 to .66 and less.
HELD_MIN = 0.75
_OTHERWISE = "or train without --position weights"
_EXPLORE = (
    'let the slot explore by Explore(method="plackett_luce", first=1, rate=1, '
    f"temperature=0.3), {_OTHERWISE}"
)


@dataclass(frozen=True)
class Examination:
    """Attributes:
    chance: shape (places,), how likely each place is looked at, of the first one; ≤ 1, never
    rising. clicks: shape (places,), that it was learned from.
    """

    chance: Floats
    clicks: npt.NDArray[np.int64]

    def of(self, position: npt.NDArray) -> Floats:
        """The chance at each position (n,), from 1; beyond the last one learned, that one's."""
        return self.chance[np.clip(position, 1, len(self.chance)).astype(np.intp) - 1]


def examination(
    position: npt.NDArray, clicked: npt.NDArray, propensity: Floats, request: npt.NDArray
) -> Examination:
    """Learn it from rows of what was shown.

    Args:
        position: shape (n,), from 1.
        clicked: shape (n,).
        propensity: shape (n,), with which probability the item was shown at that place.
        request: shape (n,), of which answer each row is.
    Raises:
        UsageError: nothing was shown, or nothing drawn at random, or nothing on the first place, or
            that was hardly clicked, or two neighbouring places were never exchanged, or items never
            stood on a place that could have: there is nothing to learn from.
    """
    shown = position >= 1
    if not shown.any():
        fix = f"ask for logged answers by --rows answers, {_OTHERWISE}"
        raise UsageError(
            "rows are drawn from what people chose, and stood at no place",
            where="--position weights",
            fix=fix,
        )
    if not (shown & (propensity < 1)).any():
        raise UsageError(
            "no logged row was drawn at random", fix=f"let the slot explore, {_OTHERWISE}"
        )
    rows = drawn_rows(position[shown], clicked[shown] > 0, propensity[shown], request[shown])
    told = rows.drawn & (rows.kind != NEVER)
    if not told.any():
        problem = (
            "no two places can be compared: answers were explored by method=item, which "
            "never moves an item to another place"
        )
        raise UsageError(problem, where="--position weights", fix=_EXPLORE)
    places = int(rows.place[told].max()) + 1
    clicks = np.bincount(rows.place[told & rows.clicked], minlength=places).astype(np.int64)
    return Examination(_chained(rows, clicks), clicks)


def click_weights(
    examined: Examination, position: npt.NDArray, label: npt.NDArray, *, cap: float = CAP
) -> Floats:
    """What each row weighs, shape (n,): a positive 1 ÷ the chance that it was looked at, at most
    `cap`; everything else 1.
    """
    return np.where(label > 0, np.minimum(1.0 / np.maximum(examined.of(position), 1e-12), cap), 1.0)


def _chained(rows: Drawn, clicks: npt.NDArray[np.int64]) -> Floats:
    """The chance at each place, as far down as there are clicks enough: the product of the ratios
    of neighbours.
    """
    places = len(clicks)
    weight = np.minimum(1.0 / np.maximum(rows.propensity, 1e-12), IMPORTANCE_MAX)
    together = np.where(rows.kind == PAIRS, 2, np.bincount(rows.answer, rows.drawn)[rows.answer])
    log_ratio, precision, linked = np.zeros(places), np.zeros(places), np.zeros(places, bool)
    first, compared = 0, []
    for upper in links(rows):
        lower = upper + 1
        at = rows.place[upper]
        linked |= np.bincount(at + 1, minlength=places)[:places] > 0
        above, below = (
            _rates(at, rows.clicked[upper], weight[upper], places),
            _rates(at, rows.clicked[lower], weight[lower], places),
        )
        compared.append(
            (
                above,
                below,
                np.bincount(at, together[upper], places)
                / np.maximum(np.bincount(at, minlength=places), 1),
            )
        )
        first += int(above.clicks[0])
        enough = np.minimum(above.clicks, below.clicks) >= CLICKS_MIN
        found = np.log(np.divide(below.rate, above.rate, out=np.ones(places), where=enough))
        # Of kinds of answers that tell the same ratio, each counts by how many clicks, all of one
        # weight, it is as good as.
        worth = (
            np.divide(
                1.0, 1.0 / np.maximum(above.worth, 1e-12) + 1.0 / np.maximum(below.worth, 1e-12)
            )
            * enough
        )
        log_ratio[1:] += (worth * found)[:-1]
        precision[1:] += worth[:-1]
    far = int(np.flatnonzero(clicks >= CLICKS_MIN).max(initial=0))
    _refuse_gaps(linked, clicks, far)
    if far and first < CLICKS_MIN:
        raise UsageError(
            f"only {first} clicks on the first place of drawn lists", fix="take a longer window"
        )
    for above, below, least in compared:
        _refuse_missing(above, below, least)
    steps = np.divide(log_ratio, precision, out=np.zeros(places), where=precision > 0)
    return np.minimum.accumulate(np.exp(np.cumsum(steps)))


def _refuse_gaps(linked: npt.NDArray[np.bool_], clicks: npt.NDArray[np.int64], far: int) -> None:
    """Raise where a place up to `far` was never exchanged with the one before it: nothing leads to
    it.
    """
    if not far and clicks[0] < CLICKS_MIN:
        raise UsageError(
            f"only {clicks[0]} clicks on the first place of drawn lists", fix="take a longer window"
        )
    gaps = np.flatnonzero(~linked[1 : far + 1]) + 1
    if not gaps.size:
        return
    if not clicks[0] and gaps[0] == 1:
        problem = "what stood on the first place was never drawn at random"
    else:
        names = ", ".join(f"{gap} and {gap + 1}" for gap in gaps[:3].tolist()) + (
            ", …" if gaps.size > 3 else ""
        )
        problem = f"no answer could have exchanged what stood on places {names}"
    overlap = (
        'log answers of Explore(method="swap", first=1) and, for as long, of first=2, so '
        "that the pairs overlap"
    )
    raise UsageError(problem, where="--position weights", fix=f"{overlap}; or {_EXPLORE}")


def _refuse_missing(above: "_Rates", below: "_Rates", least: Floats) -> None:
    """Raise where rows of a place weigh far less than those of another, or than so many items as
    were drawn: others never stood there.

    Neighbours are compared within the answers that have both, and the others by way of them:
    shorter answers may have had fewer items.
    """
    at = np.flatnonzero(np.minimum(above.clicks, below.clicks) >= CLICKS_MIN)
    if not at.size:
        return
    ratio = np.ones(len(least))
    ratio[at + 1] = below.mean[at] / above.mean[at]
    mean = above.mean[at[0]] * np.cumprod(ratio[at[0] : at[-1] + 2])
    worst, expected = int(mean.argmin()), max(float(mean.max()), float(least[at[0]]))
    if mean[worst] < HELD_MIN * expected:
        told = f"rows there weigh {mean[worst]:.1f} in the mean, and would weigh {expected:.1f}"
        problem = (
            f"place {at[0] + worst + 1} of drawn lists hardly ever had the items that other "
            f"places had, so they cannot be compared: {told}"
        )
        raise UsageError(
            problem,
            where="--position weights",
            fix=f"{_EXPLORE}; a low temperature or rate needs far more answers",
        )


@dataclass(frozen=True)
class _Rates:
    """Of the rows at each place: mean weight, weighed share that was clicked, clicks, and how many
    clicks of one weight they are worth.
    """

    mean: Floats
    rate: Floats
    clicks: npt.NDArray[np.int64]
    worth: Floats


def _rates(place: npt.NDArray, clicked: npt.NDArray, weight: Floats, places: int) -> _Rates:
    mass = np.bincount(place, weight, places)
    good = np.bincount(place, weight * clicked, places)
    squares = np.bincount(place, np.square(weight) * clicked, places)
    clicks = np.bincount(place, clicked, places).astype(np.int64)
    mean = mass / np.maximum(np.bincount(place, minlength=places), 1)
    return _Rates(
        mean, good / np.maximum(mass, 1e-12), clicks, np.square(good) / np.maximum(squares, 1e-12)
    )
