"""Live baselines equal plain Python on drawn logs, and know nothing of the future."""

from collections import Counter, defaultdict

import numpy as np
import pytest
from benchmarks.quality.product import baselines
from benchmarks.quality.product.log import Log, Questions
from benchmarks.quality.product.sets import Cut

from tailorbird.events import DAY, HOUR

ITEMS, PEOPLE, SESSIONS = 12, 6, 25


def drawn(seed: int, rows: int = 150) -> tuple[Log, Questions]:
    """A log whose sessions have one person each, some rows that do not count, and questions."""
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


class Slow:
    """What is known before a position, by going through the rows."""

    def __init__(self, log: Log, at: int, hide: bool) -> None:
        self.now = int(log.ts[at]) - 1
        self.rows = [row for row in range(at) if log.valid[row]]
        self.log, self.person, self.session = log, int(log.person[at]), int(log.session[at])
        self.own = [int(log.item[row]) for row in self.rows if log.person[row] == self.person]
        self.own = self.own if self.person >= 0 else []
        self.hidden = set(self.own) if hide else set()

    def of_session(self, which: int) -> list[int]:
        return [int(self.log.item[row]) for row in self.rows if self.log.session[row] == which]

    def best(self, scores: dict[int, object]) -> list[int]:
        listed = [(score, -code) for code, score in scores.items() if code not in self.hidden]
        return [-code for _, code in sorted(listed, reverse=True)][: baselines.SIZE]

    def context(self) -> tuple[int, list[int]]:
        """The session that is known of, and its items."""
        which = self.session
        if not self.of_session(which) or which < 0:
            mine = [row for row in self.rows if self.log.person[row] == self.person >= 0]
            which = int(self.log.session[mine[-1]]) if mine else -1
        return which, self.of_session(which) if which >= 0 else []

    def popular(self) -> dict[str, list[int]]:
        counts = []
        for window in baselines.WINDOWS.values():
            newest = [row for row in self.rows if self.log.ts[row] >= self.now - window]
            counts.append(Counter(int(self.log.item[row]) for row in newest))
        found = {}
        for place, name in enumerate(baselines.WINDOWS):
            chain = counts[place : place + 3]
            some = {code for each in chain for code in each}
            found[name] = self.best({code: tuple(each[code] for each in chain) for code in some})
        return found

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
        share = baselines.ALPHA / max(1, len(recent))
        return self.best({code: own[code] + popular[code] * share for code in {*own, *popular}})

    def co_occurrence(self, last_only: bool) -> list[int]:
        _, items = self.context()
        count: Counter[int] = Counter()
        for given in dict.fromkeys(items[-1:] if last_only else items):
            for which in {int(self.log.session[row]) for row in self.rows} - {-1}:
                held = set(self.of_session(which))
                if given in held:
                    count.update(held - {given})
        return self.best(dict(count))

    def shared(self) -> list[tuple[int, list[int], list[int]]]:
        """Sessions that share an item, newest first; what they share, newest first; places."""
        own, items = self.context()
        by_age = reversed([int(self.log.session[row]) for row in self.rows])
        found = []
        for which in dict.fromkeys(by_age):
            held = self.of_session(which)
            common = [item for item in dict.fromkeys(reversed(items)) if item in held]
            if common and which not in (-1, own):
                found.append((which, common, held))
        return found

    def vsknn(self, sample: int, k: int) -> list[int]:
        _, items = self.context()
        place = {item: at + 1 for at, item in enumerate(items)}
        near = []
        for _, common, held in self.shared()[:sample]:
            likeness = sum(place[item] / len(items) for item in common)
            near.append((likeness, len(items) - place[common[0]] + 1, held))
        score: dict[int, float] = defaultdict(float)
        for likeness, back, held in sorted(near, key=lambda one: -one[0])[:k]:
            for item in set(held):
                score[item] += likeness * (1 / back)
        return self.best(dict(score))

    def stan(self, sample: int, k: int, position: float, recency: float, closeness: float) -> list[int]:
        _, items = self.context()
        place = {item: at + 1 for at, item in enumerate(items)}
        near = []
        for which, common, held in self.shared()[:sample]:
            likeness = sum(np.exp((place[item] - len(items)) / position) for item in common)
            newest = max(row for row in self.rows if self.log.session[row] == which)
            likeness = likeness / np.sqrt(len(held))
            near.append((likeness * np.exp(-(self.now - self.log.ts[newest]) / recency), held))
        score: dict[int, float] = defaultdict(float)
        for likeness, held in sorted(near, key=lambda one: -one[0])[:k]:
            star = max(at for at, item in enumerate(held) if item in place)
            for at, item in enumerate(held):
                score[item] += likeness * np.exp(-abs(at - star) / closeness)
        return self.best(dict(score))


def listed(row: np.ndarray) -> list[int]:
    return [code for code in row.tolist() if code >= 0]


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("hide", [False, True])
def test_lists_equal_those_of_plain_python(seed: int, hide: bool) -> None:
    log, questions = drawn(seed)
    rows, asked = baselines.find_rows(log, questions, hide)
    context = baselines.find_contexts(rows, asked)
    lists = baselines.list_popular_items(rows, asked) | baselines.list_own_items(rows, asked)
    lists["all"] = baselines.list_co_occurring(rows, asked, context)
    lists["last"] = baselines.list_co_occurring(rows, asked, baselines.last_rows(context))
    for q, at in enumerate(questions.at.tolist()):
        slow = Slow(log, at, hide)
        expected = slow.popular()
        expected |= {"all": slow.co_occurrence(False), "last": slow.co_occurrence(True)}
        expected |= {"own_items_and_popular": slow.own_items_and_popular()}
        expected |= {"own_items": slow.own_items()}
        assert {name: listed(each[q]) for name, each in lists.items()} == expected


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize(("sample", "k"), [(1_000, 500), (5, 3), (4, 4)])
@pytest.mark.parametrize("hide", [False, True])
def test_neighbours_equal_those_of_plain_python(seed: int, sample: int, k: int, hide: bool) -> None:
    log, questions = drawn(seed)
    rows, asked = baselines.find_rows(log, questions, hide)
    context = baselines.find_contexts(rows, asked)
    lists = baselines.list_session_neighbours(rows, asked, context, baselines.vsknn(k, sample))
    expected = [Slow(log, at, hide).vsknn(sample, k) for at in questions.at.tolist()]
    assert [listed(row) for row in lists] == expected
    stan = (0.7, 2.0 * DAY, 0.9)
    lists = baselines.list_session_neighbours(rows, asked, context, baselines.stan(k, sample, *stan))
    expected = [Slow(log, at, hide).stan(sample, k, *stan) for at in questions.at.tolist()]
    assert [listed(row) for row in lists] == expected


def test_what_comes_later_changes_nothing() -> None:
    log, questions = drawn(7)
    at = int(questions.at[10])
    earlier = Questions.before(log, questions.at[:11], np.arange(12), questions.truth[:11])
    cut = {name: getattr(log, name)[: at + 1] for name in ("ts", "person", "session", "item")}
    short = Log(**cut, valid=log.valid[: at + 1], people=log.people, items=log.items, test_from=log.test_from, cut=log.cut)
    for one, other in ((log, short), (short, log)):
        rows, asked = baselines.find_rows(one, earlier, False)
        more_rows, more_asked = baselines.find_rows(other, earlier, False)
        context = baselines.find_contexts(rows, asked)
        more = baselines.find_contexts(more_rows, more_asked)
        first, second = (
            baselines.list_session_neighbours(rows, asked, context, baselines.VSKNN),
            baselines.list_session_neighbours(more_rows, more_asked, more, baselines.VSKNN),
        )
        assert (first == second).all()


def test_short_lists_are_filled_with_what_they_lack() -> None:
    lists = np.array([[4, -1, -1], [1, 2, 3]])
    more = np.array([[4, 5, 6], [7, 8, 9]])
    assert baselines.fill_lists(lists, more).tolist() == [[4, 5, 6], [1, 2, 3]]
