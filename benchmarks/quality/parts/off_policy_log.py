"""Logged contexts of the simulated site in which slates and clicks are drawn again and again.

Replayed once are, for each logged request: the slate distribution of the champion, which logs, and
of each bundle, by the code that estimates and serves; what each predicts; and the true chance of a
click on each item at each position. A run draws people with replacement, what the champion shows
them, and the simulator's clicks.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt

from tailorbird.events import DAY
from tailorbird.experiments.off_policy.sample import PolicySample
from tailorbird.ranking.policy.slate_distribution import (
    PlackettLuce,
    SlateDistribution,
    find_positions,
    marginal_table,
)
from tailorbird.ranking.slot import Slot
from tailorbird.simulator import Site
from tailorbird.simulator.behaviour import list_probabilities, sigmoid
from tailorbird.simulator.traffic import Requests, draw_reactions
from tailorbird.simulator.truth import visitor_numbers
from tailorbird.training.dataset.dataset import Dataset
from tailorbird.training.evaluation.estimate import LoggedResponses
from tailorbird.training.evaluation.off_policy import REWARD_SLATE_DRAWS, build_model_sample
from tailorbird.training.evaluation.slates import (
    ReplayedResponse,
    SlateReplay,
    mean_predictions_by_position,
)

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Contexts:
    """Logged requests; policies are numbered, and 0 is the one that logs.

    Attributes:
        user: (n,), the simulator's number.
        day: (n,), days since the site's start.
        logging: what the logging policy shows, places among `items`.
        items: (n, m), the simulator's numbers of what the log may show, then zeros.
        chance: (policies, n, m, k), probability of each item at each position.
        prediction: (policies, n, m), clicks that a policy's own model predicts.
        expected: (models, policies, n, k), predicted clicks of what a policy shows.
        truth: (policies, n), true expected clicks.
        left_out: responses of another size, and those with too few candidates.
        reproduced_share: share of the logged positions whose logged propensity the replay gives,
            to .05.
    """

    site: Site
    user: Ints
    day: Floats
    logging: Sequence[PlackettLuce]
    items: Ints
    chance: Floats
    prediction: Floats
    expected: Floats
    truth: Floats
    left_out: int
    reproduced_share: float

    @cached_property
    def rows_of_people(self) -> list[Ints]:
        """The requests of each person."""
        order = np.argsort(self.user, kind="stable")
        return np.split(order, np.flatnonzero(np.diff(self.user[order])) + 1)

    @property
    def values(self) -> Floats:
        """The true value of each policy: expected clicks per request."""
        return self.truth.mean(axis=1)

    @property
    def unsupported_share(self) -> Floats:
        """The share of each policy's choices that the log could never show."""
        return 1.0 - self.chance.sum(axis=2).mean(axis=(1, 2))


@dataclass(frozen=True)
class DrawnLog:
    """A log: rows of the contexts, whose person each is, shown places and clicks, (n, k)."""

    contexts: Contexts
    row: Ints
    person: Ints
    position_in_pool: Ints
    click: Floats

    @cached_property
    def weight(self) -> Floats:
        """The importance weight of each shown item by policy, shape (policies, n, k)."""
        columns = np.arange(self.position_in_pool.shape[1])
        chance = self.contexts.chance[:, self.row[:, None], self.position_in_pool, columns]
        return chance / chance[0]

    def sample(self, policy: int, model: int) -> PolicySample:
        """Return the sample of a policy, with the model of the reward of another one."""
        contexts = self.contexts
        return build_model_sample(
            reward=self.click,
            weight=self.weight[policy],
            person_codes=self.person,
            is_shown=np.ones(self.click.shape, bool),
            prediction=contexts.prediction[model][self.row[:, None], self.position_in_pool],
            expected=contexts.expected[model, policy, self.row],
            is_predicted=np.ones(self.click.shape, bool),
        )


def draw_log(contexts: Contexts, people: int, rng: np.random.Generator) -> DrawnLog:
    """Draw people with replacement, the slates that the logging policy shows, and clicks."""
    rows_of_people = contexts.rows_of_people
    rows_of_drawn_people = [
        rows_of_people[number] for number in rng.integers(len(rows_of_people), size=people)
    ]
    row = np.concatenate(rows_of_drawn_people)
    person = np.repeat(np.arange(people), [len(each) for each in rows_of_drawn_people])
    position_in_pool = np.stack([contexts.logging[number].draw(rng) for number in row]).astype(
        np.int64
    )
    user, day = contexts.user[row], contexts.day[row]
    requests = Requests(np.arange(len(row)), user, day, [""] * len(row))
    shown = contexts.items[row[:, None], position_in_pool]
    click = draw_reactions(rng, contexts.site.taste, None, requests, shown).click
    return DrawnLog(contexts, row, person, position_in_pool, click.astype(np.float64))


def policy_table(distribution: PlackettLuce) -> Floats:
    """Return the probability of each item of the pool at each position, shape (m, k)."""
    size = distribution.ranked.size
    assert (distribution.start, distribution.count) == (0, size), "every position is drawn"
    table = distribution.share * marginal_table(distribution.strengths, size)
    table[np.arange(size), np.arange(size)] += 1.0 - distribution.share  # the pool begins so
    return table


def read_contexts(log: LoggedResponses, slot: Slot, site: Site, seed: int) -> Contexts:
    """Replay the logged answers for the scorers of a log, of which the first one logged."""
    data = log.data
    assert slot.explore is not None
    (group,) = log.groups
    reader = ContextReader(data, tuple(group.scorers), site, (slot.size, slot.explore.pool), seed)
    slates = SlateReplay(
        features=log.features,
        slot=slot,
        data=data,
        index_series=log.index_series,
        scorers=group.scorers,
        outcome="click",
        training_data=log.training_data,
    )
    for response in slates.replay_responses(group.replay):
        reader.add(response)
    return reader.contexts()


class ContextReader:
    """Collects the contexts of replayed responses, for scorers of which the first one logged.

    Args:
        size: of the slate, and of the pool after it.
    """

    def __init__(
        self, data: Dataset, names: Sequence[str], site: Site, size: tuple[int, int], seed: int
    ) -> None:
        self._data, self._names, self._site = data, names, site
        (self._size, self._pool), self._left_out = size, 0
        self._user = visitor_numbers(
            data.person_vocabulary.values.take(data.person_codes).to_pylist()
        )
        self._item_number = np.array(
            [int(name[1:]) for name in data.item_vocabulary.values.to_pylist()]
        )
        self._rng = np.random.default_rng(seed)
        self._requests: list[int] = []
        self._logging: list[PlackettLuce] = []
        self._items: list[Ints] = []
        self._rows: list[tuple[Floats, Floats, Floats, Floats]] = []
        self._reproduced: list[npt.NDArray[np.bool_]] = []

    def add(self, response: ReplayedResponse) -> None:
        """Add one response; one of another size, or with too few candidates, is left out."""
        rows = slice(*self._data.offsets[response.request_index : response.request_index + 2])
        if rows.stop - rows.start != self._size or len(response.item_codes) < self._size:
            self._left_out += 1
            return
        policies = [_require_plackett_luce(response.distributions[name]) for name in self._names]
        logging = policies[0]
        request, size = response.request_index, logging.ranked.size
        shown = find_positions(self._data.item_codes[rows], response.item_codes)
        replayed_propensity = logging.propensities(shown)[0]
        self._reproduced.append(np.abs(replayed_propensity - self._data.propensity[rows]) < 0.05)
        pool = logging.pool
        tables, truths = zip(
            *(self._evaluate_policy(each, response.item_codes, request) for each in policies),
            strict=True,
        )
        chance = np.zeros((len(policies), size + self._pool, size))
        for number, each in enumerate(policies):
            places = find_positions(pool, each.pool)
            chance[number, np.flatnonzero(places >= 0)] = tables[number][places[places >= 0]]
        predictions = [response.predictions[name] for name in self._names]
        expected = np.stack(
            [
                mean_predictions_by_position(each, predictions, size, self._rng, REWARD_SLATE_DRAWS)
                for each in policies
            ],
            axis=1,
        )
        prediction, items = np.zeros(chance.shape[:2]), np.zeros(chance.shape[1], np.int64)
        prediction[:, : pool.size] = np.stack(predictions)[:, pool]
        items[: pool.size] = self._item_number[response.item_codes[pool]]
        self._requests.append(request)
        self._items.append(items)
        self._logging.append(replace(logging, ranked=np.arange(size), pool=np.arange(pool.size)))
        self._rows.append((chance, prediction, expected, np.array(truths)))

    def _evaluate_policy(
        self, policy: PlackettLuce, items: Ints, request: int
    ) -> tuple[Floats, float]:
        """Return the table of a policy, and its true expected clicks."""
        table = policy_table(policy)
        shown = self._item_number[items[policy.pool]][None, :]
        user, day = self._user[request : request + 1], self._days(request)
        chances = list_probabilities(self._site.taste, user, shown, day)
        rate = sigmoid(chances.utility)[0]
        examined = (chances.click[0] / rate)[: table.shape[1]]
        return table, float((table * rate[:, None] * examined).sum())

    def _days(self, request: int) -> Floats:
        return (self._data.t[request : request + 1] - self._site.start) / DAY

    def contexts(self) -> Contexts:
        """Return what was added."""
        chance, prediction, expected, truth = (
            np.stack([row[part] for row in self._rows]) for part in range(4)
        )
        request_rows = np.array(self._requests)
        return Contexts(
            site=self._site,
            user=self._user[request_rows],
            day=(self._data.t[request_rows] - self._site.start) / DAY,
            logging=self._logging,
            items=np.stack(self._items),
            chance=chance.transpose(1, 0, 2, 3),
            prediction=prediction.transpose(1, 0, 2),
            expected=expected.transpose(1, 2, 0, 3),
            truth=truth.T,
            left_out=self._left_out,
            reproduced_share=float(np.concatenate(self._reproduced).mean()),
        )


def _require_plackett_luce(distribution: SlateDistribution) -> PlackettLuce:
    assert isinstance(distribution, PlackettLuce), "the slot draws whole slates"
    return distribution
