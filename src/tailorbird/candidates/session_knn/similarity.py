"""Nearest-session methods V-SkNN and STAN, which recommend the continuations of similar sessions.

Both take the `sample` newest sessions that share an item with the context s, keep the `k` most
similar and add up what these hold:

    score(i) = Σ over neighbours n of sim(s, n) · decay(s, n, i), where n holds i

**V-SkNN** (Ludewig and Jannach, UMUAI 28, 2018, section 3.2.3): sim(s, n) = Σ of w(p, l) over the
 items of s that n holds, divided by the number of different items in s, where p is the item's place
 in s, from 1, and l the length of s; decay = v(x), where x is how many steps before its end s has
 its newest item that n holds; optionally × (1 + idf_weight · idf(i)). w and v are one of
 `Weighting`.

**STAN** (Garg, Gupta, Malhotra, Vig, Shroff, SIGIR 2019, equations 2 to 6): w1 = exp((p − l) / λ1);
 sim = Σ w1 over common items ÷ (√Σ w1² over s · √|n|) · exp(−(t − t_n) / λ2), t_n the time of n's
 last interaction; decay = exp(−|place of i in n − place of i* in n| / λ3), i* the item of s that
 stands last in n.

Where the papers leave a choice, we follow what their authors published with
(github.com/rn5l/session-rec), except for ties: the newer session comes first. The context is the
last `CONTEXT_MAX` items; an item occurs in it at its last place.

Here are the settings, and what both have in common as tables of weights in place of formulas. The
sessions themselves, and how they are asked, are in `sessions`.
"""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from tailorbird.events.clock import DAY

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Weighting = Literal["same", "div", "linear", "quadratic", "log"]

CONTEXT_MAX = 50


@dataclass(frozen=True)
class SessionSearch:
    """The common form of both methods.

    Attributes:
        k, sample: as in `VSkNN`.
        position_weights: (length, place − 1): of an item of the context.
        uses_cosine: whether likeness is divided by both norms, else by the number of items of the
            context.
        recency_us: λ2, microseconds; infinite where time does not count.
        step_decay: (steps back − 1,): of the newest common item.
        position_scale: λ3, places; infinite where places do not count.
        idf_weight: as in `VSkNN`.
    """

    k: int
    sample: int
    position_weights: Floats
    uses_cosine: bool
    recency_us: float
    step_decay: Floats
    position_scale: float
    idf_weight: float = 0.0

    def idf_factors(self, session_counts: Ints, session_count: int) -> Floats:
        """Return factors that lift rare items, (items,), by the number of sessions with each."""
        if not self.idf_weight:
            return np.ones(len(session_counts))
        return 1 + self.idf_weight * np.log(max(session_count, 1) / np.maximum(session_counts, 1))


@dataclass(frozen=True)
class VSkNN:
    """V-SkNN; see the module. The defaults are those of its paper's implementation.

    Attributes:
        k: how many neighbours count.
        sample: of how many of the newest sessions they are taken.
        weighting: w, of an item's place in the context.
        weighting_score: v, of how far back the newest common item is.
        idf_weight: how much rare items are lifted; 0 not at all.
    """

    k: int = 100
    sample: int = 1_000
    weighting: Weighting = "div"
    weighting_score: Weighting = "div"
    idf_weight: float = 0.0

    def to_search(self) -> SessionSearch:
        lengths = np.arange(CONTEXT_MAX + 1)[:, None]
        positions = np.arange(1, CONTEXT_MAX + 1)[None, :]
        weight = np.where(
            positions <= lengths,
            _position_weights(self.weighting, positions, np.maximum(lengths, 1)),
            0.0,
        )
        decay = _step_decays(self.weighting_score, np.arange(1, CONTEXT_MAX + 1))
        return SessionSearch(
            k=self.k,
            sample=self.sample,
            position_weights=weight,
            uses_cosine=False,
            recency_us=math.inf,
            step_decay=decay,
            position_scale=math.inf,
            idf_weight=self.idf_weight,
        )


@dataclass(frozen=True)
class STAN:
    """STAN; see the module. The defaults are those of its paper's implementation.

    Attributes:
        k, sample: as in `VSkNN`.
        position: λ1, in places.
        recency_us: λ2.
        closeness: λ3, in places.
    """

    k: int = 500
    sample: int = 5_000
    position: float = 1.02
    recency_us: float = 5.0 * DAY
    closeness: float = 2.05

    def to_search(self) -> SessionSearch:
        lengths = np.arange(CONTEXT_MAX + 1)[:, None]
        positions = np.arange(1, CONTEXT_MAX + 1)[None, :]
        weight = np.where(
            positions <= lengths, np.exp(np.minimum(positions - lengths, 0) / self.position), 0.0
        )
        return SessionSearch(
            k=self.k,
            sample=self.sample,
            position_weights=weight,
            uses_cosine=True,
            recency_us=float(self.recency_us),
            step_decay=np.ones(CONTEXT_MAX),
            position_scale=self.closeness,
        )


def _position_weights(name: Weighting, position: Ints, length: Ints) -> Floats:
    steps_back = length - position
    if name == "linear":
        return np.where(position <= 10, 1 - 0.1 * steps_back, 0.0)
    if name == "log":
        return 1 / np.log10(np.maximum(steps_back, 0) + 1.7)
    return {
        "same": np.ones_like(position / length),
        "div": position / length,
        "quadratic": (position / length) ** 2,
    }[name]


def _step_decays(name: Weighting, steps: Ints) -> Floats:
    if name == "linear":
        return np.where(steps <= 100, 1 - 0.1 * steps, 0.0)
    if name == "log":
        return 1 / np.log10(steps + 1.7)
    return {"same": np.ones(len(steps)), "div": 1.0 / steps, "quadratic": 1.0 / steps**2}[name]
