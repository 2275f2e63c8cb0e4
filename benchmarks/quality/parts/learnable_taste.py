"""The posterior of a person's taste, request by request, given all else about the simulated site.

Known are the effects common to everybody and to people of a kind, what people of each kind may like
and how much, and how behaviour follows from it. Unknown, and inferred for each request from what
its person did before it, are the category tastes `own` (2, C), which rotate, the style taste (6,),
and the category that the person came for in each window of four hours. Clicks, skips, dwell time
and searches all count:

    log p(taste | log) = Σ over windows log Σ over urges c p(c | lasting taste) · p(behaviour |
    taste, c) + log prior

The estimate is its maximum, with the variance of each taste from the curvature there. Adam finds
the maximum for all requests at once.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from tailorbird.simulator import Site, behaviour
from tailorbird.simulator.behaviour import sigmoid
from tailorbird.simulator.taste import LEVEL, URGE_WEIGHT, URGE_WINDOWS_A_DAY
from tailorbird.simulator.world import Floats, Ints

OWN, STYLE = 0.45, 0.09  # spread of the tastes before anything was seen
DWELL_SLOPE, DWELL_SPREAD = 0.3, 0.7  # of the logarithm of the time on a page
STEPS, RATE = 150, 0.05
Rows = dict[str, npt.NDArray]


@dataclass(frozen=True)
class Taste:
    """Tastes of each request's person.

    Attributes:
        own_taste: (n, 2, C), with its variance.
        style: (n, 6).
        urge_log_odds: (n, C), log odds of each urge from behaviour in the current window.
    """

    own_taste: Floats
    variance: Floats
    style: Floats
    urge_log_odds: Floats


def known_taste(site: Site, user: Ints, urge: Floats) -> Taste:
    """Return the true lasting tastes."""
    era = site.taste.eras[0]
    own = era.own_taste[:, user].transpose(1, 0, 2)
    return Taste(own, np.zeros_like(own), era.style[user], urge)


def unknown_taste(site: Site, user: Ints) -> Taste:
    """Return tastes of people about whom nothing is known."""
    n, categories, styles = (
        len(user),
        site.taste.eras[0].season.size,
        site.taste.eras[0].style.shape[1],
    )
    own = np.zeros((n, 2, categories))
    return Taste(own, np.full_like(own, OWN**2), np.zeros((n, styles)), np.zeros((n, categories)))


def expected_reward(
    site: Site,
    taste: Taste,
    request: int,
    user: int,
    day: float,
    items: Ints,
    weights: tuple[float, float],
) -> Floats:
    """Return the expected reward of each item for one request, given its person's taste."""
    truth, era, user_, day_ = site.taste, site.taste.eras[0], np.array([user]), np.array([day])
    angle = truth.users.drift[user] * day
    rotation = np.array([np.cos(angle), np.sin(angle)])
    lasting_taste = (
        rotation @ taste.own_taste[request]
        + era.group_taste[truth.users.country[user], truth.users.age_group[user]]
    )
    spread = rotation**2 @ taste.variance[request]
    odds = 1.5 * lasting_taste + taste.urge_log_odds[request]
    urge_chance = np.exp(odds - odds.max())
    category = site.items.category[items]
    urge_chance = (urge_chance / urge_chance.sum())[category]
    common_utility = _common_utility(
        site, np.full(len(items), user), items, np.full(len(items), day)
    )
    # Half the variance: chances are small, so their mean is about that of an exponential.
    utility = (
        common_utility
        + (lasting_taste + spread / 2)[category]
        + site.items.style[items] @ taste.style[request]
    )
    cart = behaviour.cart_probability(truth, user_, items[None, :], day_)[0]
    chance = (1 - urge_chance) * sigmoid(utility) + urge_chance * sigmoid(utility + URGE_WEIGHT)
    return chance * (weights[0] + weights[1] * cart * behaviour.PURCHASE_GIVEN_CART)


def infer_taste(
    site: Site, seen: Rows, searches: Rows, user: Ints, day: Floats, *, taste: Taste | None = None
) -> Taste:
    """Infer the taste of each request's person from earlier behaviour.

    With `taste`, only the passing urge is inferred, and the rest is known.
    """
    history = _History(site, seen, searches, user, day)
    if taste is not None:
        own, style = (
            torch.tensor(array, dtype=torch.float32) for array in (taste.own_taste, taste.style)
        )
    else:
        own, style = _fit_taste(history, len(user), site)
    with torch.no_grad():
        _, _, evidence, chance = history.likelihood_parts(own, style)
        inverse = torch.zeros_like(own)
        request, turn = history.window_request[history.window], history.turn[history.window]
        for axis in range(2):
            precision = chance * (1 + DWELL_SLOPE**2 / DWELL_SPREAD**2) * turn[:, axis] ** 2
            inverse[:, axis].index_put_((request, history.category), precision, accumulate=True)
        variance = 1 / (inverse + 1 / OWN**2)
    urge = np.zeros(own[:, 0].shape)
    is_current = (
        history.window_of == np.floor(day * URGE_WINDOWS_A_DAY)[history.window_request.numpy()]
    )
    urge[history.window_request.numpy()[is_current]] = evidence.numpy()[is_current]
    if taste is not None:
        return Taste(taste.own_taste, taste.variance, taste.style, urge)
    return Taste(
        own.numpy().astype(np.float64),
        variance.numpy().astype(np.float64),
        style.numpy().astype(np.float64),
        urge,
    )


def _fit_taste(history: "_History", n: int, site: Site) -> tuple[torch.Tensor, torch.Tensor]:
    own = torch.zeros(n, 2, site.taste.eras[0].season.size, requires_grad=True)
    style = torch.zeros(n, site.taste.eras[0].style.shape[1], requires_grad=True)
    optimiser = torch.optim.Adam([own, style], lr=RATE)
    for step in range(STEPS):
        for group in optimiser.param_groups:
            group["lr"] = RATE if step < 0.7 * STEPS else RATE / 4
        optimiser.zero_grad()
        base, prior, evidence, _ = history.likelihood_parts(own, style)
        likelihood = base + torch.logsumexp(prior + evidence, 1).sum()
        loss = (own**2).sum() / (2 * OWN**2) + (style**2).sum() / (2 * STYLE**2) - likelihood
        loss.backward()
        optimiser.step()
    return own.detach(), style.detach()


class _History:
    """Earlier behaviour of each request's person, in tensors.

    Windows are numbered over all requests.
    """

    def __init__(self, site: Site, views: Rows, asked: Rows, user: Ints, day: Floats) -> None:
        rows, view_request = _rows_before(views, user, day)
        search_rows, search_request = _rows_before(asked, user, day)
        requests_and_rows = ((view_request, rows), (search_request, search_rows))
        keys = np.concatenate(
            [
                window_request * 1_000_000
                + np.floor(rows_["day"] * URGE_WINDOWS_A_DAY).astype(np.int64)
                for window_request, rows_ in requests_and_rows
            ]
        )
        windows, window_index = np.unique(keys, return_inverse=True)
        row_request, self.window_of = windows // 1_000_000, windows % 1_000_000
        angle = (
            site.taste.users.drift[user[row_request]] * (self.window_of + 0.5) / URGE_WINDOWS_A_DAY
        )
        self.window_request = torch.tensor(row_request)
        self.turn = _tensor(np.stack([np.cos(angle), np.sin(angle)], axis=1))
        era, users = site.taste.eras[0], site.taste.users
        self.group_taste = _tensor(
            era.group_taste[users.country[user[row_request]], users.age_group[user[row_request]]]
        )
        self.window, self.search_window = (
            torch.tensor(window_index[: len(view_request)]),
            torch.tensor(window_index[len(view_request) :]),
        )
        self.request, self.category = (
            torch.tensor(view_request),
            torch.tensor(site.items.category[rows["item"]]),
        )
        self.common = _tensor(
            _common_utility(site, rows["user"], rows["item"], rows["day"]) + rows["relevance"]
        )
        self.attention = _tensor(
            1 / (1 + behaviour.ATTENTION_DECAY[users.device[rows["user"]]] * rows["position"])
        )
        self.style, self.quality = (
            _tensor(site.items.style[rows["item"]]),
            _tensor(site.items.quality[rows["item"]]),
        )
        self.clicked = _tensor(rows["click"])
        self.log_dwell = _tensor(np.log(np.maximum(rows["dwell_s"], 1.0)))
        self.searched_category, self.category_appeal = (
            torch.tensor(search_rows["category"]),
            _tensor(search_rows["shelf"]),
        )

    def likelihood_parts(
        self, own: torch.Tensor, style: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return the parts of the log likelihood.

        These are the log likelihood without any urge; for each window the log chance of each urge
        and its evidence; and each row's chance of a click.
        """
        personal = torch.einsum("wt,wtc->wc", self.turn, own[self.window_request])
        lasting_taste = personal + self.group_taste
        utility = (
            self.common
            + lasting_taste[self.window, self.category]
            + (style[self.request] * self.style).sum(1)
        )
        without_urge, with_urge_ = (
            self._log_likelihood(utility),
            self._log_likelihood(utility + URGE_WEIGHT),
        )
        evidence = torch.zeros_like(personal).index_put(
            (self.window, self.category), with_urge_ - without_urge, accumulate=True
        )
        category_scores = self.category_appeal + lasting_taste[self.search_window]
        own_shelf = category_scores.gather(1, self.searched_category[:, None])
        total = torch.logsumexp(category_scores, 1, keepdim=True)
        # With an urge for c, shelf c weighs e^URGE_WEIGHT times as much, and the sum over all shelves
        # grows by that.
        with_urge = torch.log(
            torch.exp(total) + (np.exp(URGE_WEIGHT) - 1) * torch.exp(category_scores)
        )
        urge_on_searched = (
            torch.nn.functional.one_hot(self.searched_category, personal.shape[1]) * URGE_WEIGHT
        )
        evidence = evidence.index_add(0, self.search_window, total - with_urge + urge_on_searched)
        chance = self.attention * torch.sigmoid(utility)
        return (
            without_urge.sum() + (own_shelf - total).sum(),
            torch.log_softmax(1.5 * lasting_taste, 1),
            evidence,
            chance,
        )

    def _log_likelihood(self, utility: torch.Tensor) -> torch.Tensor:
        chance = self.attention * torch.sigmoid(utility)
        expected_log_dwell = (
            np.log(18.0)
            + DWELL_SLOPE * torch.clamp(utility - LEVEL, -2, 4)
            + 0.35 * self.quality
            - 0.3
        )
        dwell_error = (self.log_dwell - expected_log_dwell) ** 2 / (2 * DWELL_SPREAD**2)
        return self.clicked * (torch.log(chance) - dwell_error) + (1 - self.clicked) * torch.log1p(
            -chance
        )


def _common_utility(site: Site, user: Ints, item: Ints, day: Floats) -> Floats:
    """Return utility without taste and urge, but with the person's price sensitivity, (rows,)."""
    truth, era, category = site.taste, site.taste.eras[0], site.items.category[item]
    lasting_taste = truth.lasting_taste(user, day, era)
    utility = (
        truth.utility(user, item[:, None], day)[:, 0]
        - lasting_taste[np.arange(len(item)), category]
    )
    return (
        utility
        - URGE_WEIGHT * (category == truth.urge_category(user, day, lasting_taste))
        - (era.style[user] * site.items.style[item]).sum(axis=1)
    )


def _rows_before(rows: Rows, user: Ints, day: Floats) -> tuple[Rows, Ints]:
    """Return each request's earlier rows of its person, and the request that each row belongs to.

    Rows are in order of user and day.
    """
    low, high = (np.searchsorted(rows["user"], user, side=side) for side in ("left", "right"))
    positions = [
        np.arange(a, a + np.searchsorted(rows["day"][a:b], t))
        for a, b, t in zip(low, high, day, strict=True)
    ]
    request = np.repeat(np.arange(len(user)), [len(positions_) for positions_ in positions])
    positions_of_rows = np.concatenate(positions)
    return {name: column[positions_of_rows] for name, column in rows.items()}, request


def _tensor(values: npt.NDArray) -> torch.Tensor:
    return torch.tensor(np.asarray(values), dtype=torch.float32)
