"""What the simulated site's log tells of a person, to somebody who knows everything else: the
posterior of a taste, request by request.

Known is what is common to everybody and to people of a kind, what people of each kind may like and
how much, and how behaviour comes of it. Not known, and inferred for each request from what its
person did before it: the category tastes `own` (2, C), which turn, the style taste (6,), and for
what category the person came in each window of four hours. Clicks, passing over, reading and
searching all count:

    log p(taste | log) = Σ over windows log Σ over urges c p(c | lasting taste) · p(what was done |
    taste, c) + log prior

At its maximum, with the spread of each taste from the curvature there. The maximum is found by
Adam, for all requests at once.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from tailorbird.simulator import Site, behaviour
from tailorbird.simulator.behaviour import sigmoid
from tailorbird.simulator.taste import LEVEL, URGE, URGES_A_DAY
from tailorbird.simulator.world import Floats, Ints

OWN, STYLE = 0.45, 0.09  # spread of the tastes before anything was seen
DWELL_SLOPE, DWELL_SPREAD = 0.3, 0.7  # of the logarithm of the time on a page
STEPS, RATE = 150, 0.05
Rows = dict[str, npt.NDArray]


@dataclass(frozen=True)
class Taste:
    """Of each request: `own` (n, 2, C), its variance, `style` (n, 6), and `urge` (n, C): log odds
    of each urge from these hours' doings.
    """

    own: Floats
    variance: Floats
    style: Floats
    urge: Floats


def known_taste(site: Site, user: Ints, urge: Floats) -> Taste:
    """The lasting tastes as they are."""
    era = site.taste.eras[0]
    own = era.own[:, user].transpose(1, 0, 2)
    return Taste(own, np.zeros_like(own), era.style[user], urge)


def unknown_taste(site: Site, user: Ints) -> Taste:
    """Nothing of the person."""
    n, categories, styles = (
        len(user),
        site.taste.eras[0].season.size,
        site.taste.eras[0].style.shape[1],
    )
    own = np.zeros((n, 2, categories))
    return Taste(own, np.full_like(own, OWN**2), np.zeros((n, styles)), np.zeros((n, categories)))


def worth(
    site: Site,
    taste: Taste,
    request: int,
    user: int,
    day: float,
    items: Ints,
    weights: tuple[float, float],
) -> Floats:
    """Expected reward of each item for one request under what is known of its person."""
    truth, era, who, at = site.taste, site.taste.eras[0], np.array([user]), np.array([day])
    angle = truth.users.drift[user] * day
    turn = np.array([np.cos(angle), np.sin(angle)])
    lasting = (
        turn @ taste.own[request]
        + era.group[truth.users.country[user], truth.users.age_group[user]]
    )
    spread = turn**2 @ taste.variance[request]
    odds = 1.5 * lasting + taste.urge[request]
    urged = np.exp(odds - odds.max())
    category = site.items.category[items]
    urged = (urged / urged.sum())[category]
    common = _common(site, np.full(len(items), user), items, np.full(len(items), day))
    # Half the variance: chances are small, so their mean is about that of an exponential.
    utility = (
        common + (lasting + spread / 2)[category] + site.items.style[items] @ taste.style[request]
    )
    cart = behaviour.cart_chance(truth, who, items[None, :], at)[0]
    chance = (1 - urged) * sigmoid(utility) + urged * sigmoid(utility + URGE)
    return chance * (weights[0] + weights[1] * cart * behaviour.PURCHASE_GIVEN_CART)


def infer_taste(
    site: Site, seen: Rows, asked: Rows, user: Ints, day: Floats, *, taste: Taste | None = None
) -> Taste:
    """What is known of each request's person from before it; with `taste`, of the passing urge
    alone, the rest being known.
    """
    past = _Past(site, seen, asked, user, day)
    if taste is not None:
        own, style = (torch.tensor(each, dtype=torch.float32) for each in (taste.own, taste.style))
    else:
        own, style = _fitted(past, len(user), site)
    with torch.no_grad():
        _, _, evidence, chance = past.parts(own, style)
        inverse = torch.zeros_like(own)
        mine, turn = past.window_request[past.window], past.turn[past.window]
        for place in range(2):
            known = chance * (1 + DWELL_SLOPE**2 / DWELL_SPREAD**2) * turn[:, place] ** 2
            inverse[:, place].index_put_((mine, past.category), known, accumulate=True)
        variance = 1 / (inverse + 1 / OWN**2)
    urge = np.zeros(own[:, 0].shape)
    now = past.window_of == np.floor(day * URGES_A_DAY)[past.window_request.numpy()]
    urge[past.window_request.numpy()[now]] = evidence.numpy()[now]
    if taste is not None:
        return Taste(taste.own, taste.variance, taste.style, urge)
    return Taste(
        own.numpy().astype(np.float64),
        variance.numpy().astype(np.float64),
        style.numpy().astype(np.float64),
        urge,
    )


def _fitted(past: "_Past", n: int, site: Site) -> tuple[torch.Tensor, torch.Tensor]:
    own = torch.zeros(n, 2, site.taste.eras[0].season.size, requires_grad=True)
    style = torch.zeros(n, site.taste.eras[0].style.shape[1], requires_grad=True)
    optimiser = torch.optim.Adam([own, style], lr=RATE)
    for step in range(STEPS):
        for group in optimiser.param_groups:
            group["lr"] = RATE if step < 0.7 * STEPS else RATE / 4
        optimiser.zero_grad()
        base, prior, evidence, _ = past.parts(own, style)
        likelihood = base + torch.logsumexp(prior + evidence, 1).sum()
        loss = (own**2).sum() / (2 * OWN**2) + (style**2).sum() / (2 * STYLE**2) - likelihood
        loss.backward()
        optimiser.step()
    return own.detach(), style.detach()


class _Past:
    """What each request's person had done before it, in tensors; windows are numbered over all
    requests.
    """

    def __init__(self, site: Site, seen: Rows, asked: Rows, user: Ints, day: Floats) -> None:
        rows, mine = _before(seen, user, day)
        searches, searcher = _before(asked, user, day)
        both = ((mine, rows), (searcher, searches))
        keys = np.concatenate(
            [
                whose * 1_000_000 + np.floor(each["day"] * URGES_A_DAY).astype(np.int64)
                for whose, each in both
            ]
        )
        windows, place = np.unique(keys, return_inverse=True)
        whose, self.window_of = windows // 1_000_000, windows % 1_000_000
        angle = site.taste.users.drift[user[whose]] * (self.window_of + 0.5) / URGES_A_DAY
        self.window_request = torch.tensor(whose)
        self.turn = _tensor(np.stack([np.cos(angle), np.sin(angle)], axis=1))
        era, users = site.taste.eras[0], site.taste.users
        self.group = _tensor(era.group[users.country[user[whose]], users.age_group[user[whose]]])
        self.window, self.search_window = (
            torch.tensor(place[: len(mine)]),
            torch.tensor(place[len(mine) :]),
        )
        self.request, self.category = (
            torch.tensor(mine),
            torch.tensor(site.items.category[rows["item"]]),
        )
        self.common = _tensor(
            _common(site, rows["user"], rows["item"], rows["day"]) + rows["relevance"]
        )
        self.attention = _tensor(
            1 / (1 + behaviour.ATTENTION_LOST[users.device[rows["user"]]] * rows["position"])
        )
        self.style, self.quality = (
            _tensor(site.items.style[rows["item"]]),
            _tensor(site.items.quality[rows["item"]]),
        )
        self.clicked = _tensor(rows["click"])
        self.read = _tensor(np.log(np.maximum(rows["dwell_s"], 1.0)))
        self.searched, self.shelf = torch.tensor(searches["category"]), _tensor(searches["shelf"])

    def parts(
        self, own: torch.Tensor, style: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Log likelihood without any urge, of each window the log chance of each urge and what it
        adds, each row's chance of a click.
        """
        mine = torch.einsum("wt,wtc->wc", self.turn, own[self.window_request])
        lasting = mine + self.group
        utility = (
            self.common
            + lasting[self.window, self.category]
            + (style[self.request] * self.style).sum(1)
        )
        calm, urged = self._done(utility), self._done(utility + URGE)
        evidence = torch.zeros_like(mine).index_put(
            (self.window, self.category), urged - calm, accumulate=True
        )
        wanted = self.shelf + lasting[self.search_window]
        own_shelf = wanted.gather(1, self.searched[:, None])
        total = torch.logsumexp(wanted, 1, keepdim=True)
        # With an urge for c, shelf c weighs e^URGE times as much, and the sum over all shelves
        # grows by that.
        with_urge = torch.log(torch.exp(total) + (np.exp(URGE) - 1) * torch.exp(wanted))
        on_it = torch.nn.functional.one_hot(self.searched, mine.shape[1]) * URGE
        evidence = evidence.index_add(0, self.search_window, total - with_urge + on_it)
        chance = self.attention * torch.sigmoid(utility)
        return (
            calm.sum() + (own_shelf - total).sum(),
            torch.log_softmax(1.5 * lasting, 1),
            evidence,
            chance,
        )

    def _done(self, utility: torch.Tensor) -> torch.Tensor:
        chance = self.attention * torch.sigmoid(utility)
        usual = (
            np.log(18.0)
            + DWELL_SLOPE * torch.clamp(utility - LEVEL, -2, 4)
            + 0.35 * self.quality
            - 0.3
        )
        reading = (self.read - usual) ** 2 / (2 * DWELL_SPREAD**2)
        return self.clicked * (torch.log(chance) - reading) + (1 - self.clicked) * torch.log1p(
            -chance
        )


def _common(site: Site, user: Ints, item: Ints, day: Floats) -> Floats:
    """Utility without taste and urge; what prices mean to the person is known. SlateSpec (rows,)."""
    truth, era, category = site.taste, site.taste.eras[0], site.items.category[item]
    lasting = truth.lasting(user, day, era)
    whole = truth.utility(user, item[:, None], day)[:, 0] - lasting[np.arange(len(item)), category]
    return (
        whole
        - URGE * (category == truth.urge(user, day, lasting))
        - (era.style[user] * site.items.style[item]).sum(axis=1)
    )


def _before(rows: Rows, user: Ints, day: Floats) -> tuple[Rows, Ints]:
    """The rows, which are in order of user and day, of each request's person before it, and whose
    they are.
    """
    low, high = (np.searchsorted(rows["user"], user, side=side) for side in ("left", "right"))
    places = [
        np.arange(a, a + np.searchsorted(rows["day"][a:b], t))
        for a, b, t in zip(low, high, day, strict=True)
    ]
    mine = np.repeat(np.arange(len(user)), [len(each) for each in places])
    place = np.concatenate(places)
    return {name: column[place] for name, column in rows.items()}, mine


def _tensor(values: npt.NDArray) -> torch.Tensor:
    return torch.tensor(np.asarray(values), dtype=torch.float32)
