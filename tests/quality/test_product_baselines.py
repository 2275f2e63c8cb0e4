"""Live baselines equal a plain reference on random logs, and know nothing of the future."""

from collections import Counter, defaultdict

import numpy as np
import pytest
from benchmarks.quality.product import baselines
from benchmarks.quality.product.log import Log, Questions
from benchmarks.quality.product.sets import Cut

from tailorbird.events import DAY, HOUR

ITEMS, PEOPLE, SESSIONS = 12, 6, 25


def draw_log(seed: int, rows: int = 150) -> tuple[Log, Questions]:
    """Draw a log with sessions of one person each, some invalid rows, and questions."""
    rng = np.random.default_rng(seed)
    ts = np.sort(rng.integers(0, 20, rows) * HOUR // 2 + rng.integers(0, 10, rows) * DAY)
    session = np.sort(rng.integers(0, SESSIONS, rows) + rng.integers(0, 3, rows)) - 1
    owner = rng.integers(-1, PEOPLE, SESSIONS + 3)
    person = np.where(session >= 0, owner[session], -1)
    item = np.minimum(rng.geometric(0.25, rows), ITEMS) - 1
    valid = rng.random(rows) < 0.9
    codes = np.array([str(code) for code in range(ITEMS)])
    at = np.sort(rng.choice(np.arange(rows // 3, rows), 30, replace=False))
    log = Log(ts, person, session, item, valid, codes, codes, rows // 3, Cut(0, 0, 1 << 60))
    return log, Questions.before(log, at, np.arange(31), item[at])


class Reference:
    """A plain implementation that goes through the rows before a position."""

    def __init__(self, log: Log, at: int, hide: bool) -> None:
        self.now = int(log.ts[at]) - 1
        self.rows = [row for row in range(at) if log.valid[row]]
        self.log, self.person, self.session = log, int(log.person[at]), int(log.session[at])
        self.own = [int(log.item[row]) for row in self.rows if log.person[row] == self.person]
        self.own = self.own if self.person >= 0 else []
        self.hidden = set(self.own) if hide else set()

    def of_session(self, session: int) -> list[int]:
        return [int(self.log.item[row]) for row in self.rows if self.log.session[row] == session]

    def best(self, scores: dict[int, object]) -> list[int]:
        listed = [(score, -code) for code, score in scores.items() if code not in self.hidden]
        return [-code for _, code in sorted(listed, reverse=True)][: baselines.SIZE]

    def context(self) -> tuple[int, list[int]]:
        """Return the current session, or the person's last one, with its items."""
        session = self.session
        if not self.of_session(session) or session < 0:
            mine = [row for row in self.rows if self.log.person[row] == self.person >= 0]
            session = int(self.log.session[mine[-1]]) if mine else -1
        return session, self.of_session(session) if session >= 0 else []

    def popular(self) -> dict[str, list[int]]:
        counts = []
        for window in baselines.WINDOW_BY_BASELINE.values():
            newest = [row for row in self.rows if self.log.ts[row] >= self.now - window]
            counts.append(Counter(int(self.log.item[row]) for row in newest))
        lists = {}
        for place, name in enumerate(baselines.WINDOW_BY_BASELINE):
            chain = counts[place : place + 3]
            some = {code for each in chain for code in each}
            lists[name] = self.best({code: tuple(each[code] for each in chain) for code in some})
        return lists

    def own_items(self) -> list[int]:
        count = Counter(self.own)
        newest = {code: place for place, code in enumerate(self.own)}
        self.hidden = set()
        return self.best({code: (count[code], newest[code]) for code in count})

    def own_items_and_popular(self) -> list[int]:
        recent = [row for row in self.rows if self.log.ts[row] >= self.now - 28 * DAY]
        popular = Counter(int(self.log.item[row]) for row in recent)
        own = Counter(self.own)
        self.hidden = set()
        share = baselines.POPULARITY_WEIGHT / max(1, len(recent))
        return self.best({code: own[code] + popular[code] * share for code in {*own, *popular}})

    def co_occurrence(self, last_only: bool) -> list[int]:
        _, items = self.context()
        count: Counter[int] = Counter()
        for given in dict.fromkeys(items[-1:] if last_only else items):
            for session in {int(self.log.session[row]) for row in self.rows} - {-1}:
                items_ = set(self.of_session(session))
                if given in items_:
                    count.update(items_ - {given})
        return self.best(dict(count))

    def shared(self) -> list[tuple[int, list[int], list[int]]]:
        """Return sessions that share an item, newest first, with common items and all items."""
        own, items = self.context()
        by_age = reversed([int(self.log.session[row]) for row in self.rows])
        neighbours_ = []
        for session in dict.fromkeys(by_age):
            items_ = self.of_session(session)
            common = [item for item in dict.fromkeys(reversed(items)) if item in items_]
            if common and session not in (-1, own):
                neighbours_.append((session, common, items_))
        return neighbours_

    def vsknn(self, sample: int, k: int) -> list[int]:
        _, items = self.context()
        place = {item: at + 1 for at, item in enumerate(items)}
        near = []
        for _, common, items_ in self.shared()[:sample]:
            similarity = sum(place[item] / len(items) for item in common)
            near.append((similarity, len(items) - place[common[0]] + 1, items_))
        score: dict[int, float] = defaultdict(float)
        for similarity, back, items_ in sorted(near, key=lambda neighbour: -neighbour[0])[:k]:
            for item in set(items_):
                score[item] += similarity * (1 / back)
        return self.best(dict(score))

    def stan(self, sample: int, k: int, position: float, recency: float, closeness: float) -> list[int]:
        _, items = self.context()
        place = {item: at + 1 for at, item in enumerate(items)}
        near = []
        for which, common, items_ in self.shared()[:sample]:
            similarity = sum(np.exp((place[item] - len(items)) / position) for item in common)
            newest = max(row for row in self.rows if self.log.session[row] == which)
            similarity = similarity / np.sqrt(len(items_))
            near.append((similarity * np.exp(-(self.now - self.log.ts[newest]) / recency), items_))
        score: dict[int, float] = defaultdict(float)
        for similarity, items_ in sorted(near, key=lambda neighbour: -neighbour[0])[:k]:
            star = max(at for at, item in enumerate(items_) if item in place)
            for at, item in enumerate(items_):
                score[item] += similarity * np.exp(-abs(at - star) / closeness)
        return self.best(dict(score))


def listed_codes(row: np.ndarray) -> list[int]:
    return [code for code in row.tolist() if code >= 0]


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("hide", [False, True])
def test_lists_equal_the_reference(seed: int, hide: bool) -> None:
    log, questions = draw_log(seed)
    rows, queries = baselines.find_rows(log, questions, hide)
    context = baselines.find_contexts(rows, queries)
    lists = baselines.list_popular_items(rows, queries) | baselines.list_own_items(rows, queries)
    lists["all"] = baselines.list_co_occurring(rows, queries, context)
    lists["last"] = baselines.list_co_occurring(rows, queries, baselines.last_rows(context))
    for q, at in enumerate(questions.at.tolist()):
        reference = Reference(log, at, hide)
        expected = reference.popular()
        expected |= {"all": reference.co_occurrence(False), "last": reference.co_occurrence(True)}
        expected |= {"own_items_and_popular": reference.own_items_and_popular()}
        expected |= {"own_items": reference.own_items()}
        assert {name: listed_codes(each[q]) for name, each in lists.items()} == expected


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize(("sample", "k"), [(1_000, 500), (5, 3), (4, 4)])
@pytest.mark.parametrize("hide", [False, True])
def test_neighbours_equal_the_reference(seed: int, sample: int, k: int, hide: bool) -> None:
    log, questions = draw_log(seed)
    rows, queries = baselines.find_rows(log, questions, hide)
    context = baselines.find_contexts(rows, queries)
    lists = baselines.list_session_neighbours(rows, queries, context, baselines.vsknn_recipe(k, sample))
    expected = [Reference(log, at, hide).vsknn(sample, k) for at in questions.at.tolist()]
    assert [listed_codes(row) for row in lists] == expected
    stan = (0.7, 2.0 * DAY, 0.9)
    lists = baselines.list_session_neighbours(rows, queries, context, baselines.stan_recipe(k, sample, *stan))
    expected = [Reference(log, at, hide).stan(sample, k, *stan) for at in questions.at.tolist()]
    assert [listed_codes(row) for row in lists] == expected


def test_later_rows_change_nothing() -> None:
    log, questions = draw_log(7)
    at = int(questions.at[10])
    earlier = Questions.before(log, questions.at[:11], np.arange(12), questions.truth[:11])
    cut = {name: getattr(log, name)[: at + 1] for name in ("ts", "person", "session", "item")}
    short = Log(**cut, valid=log.valid[: at + 1], people=log.people, items=log.items, test_from=log.test_from, cut=log.cut)
    for log_, other in ((log, short), (short, log)):
        rows, queries = baselines.find_rows(log_, earlier, False)
        other_rows, other_queries = baselines.find_rows(other, earlier, False)
        context = baselines.find_contexts(rows, queries)
        other_context = baselines.find_contexts(other_rows, other_queries)
        first, second = (
            baselines.list_session_neighbours(rows, queries, context, baselines.VSKNN_RECIPE),
            baselines.list_session_neighbours(other_rows, other_queries, other_context, baselines.VSKNN_RECIPE),
        )
        assert (first == second).all()


def test_short_lists_are_filled_with_what_they_lack() -> None:
    lists = np.array([[4, -1, -1], [1, 2, 3]])
    more = np.array([[4, 5, 6], [7, 8, 9]])
    assert baselines.fill_lists(lists, more).tolist() == [[4, 5, 6], [1, 2, 3]]
