"""Slots: the placements of a site that show items, declared in `slots.py`.

from tailorbird.experiments import Experiment
from tailorbird.ranking import Explore, Slot

home = Slot(
    "home",
    size=12,
    objective={"click": 1.0, "purchase": 8.0},
    sources={"item_knn": 200, "popular": 200, "new_items": 40},
    rules=["item.stock > 0"],
    explore=Explore(rate=0.2, pool=50),
    experiment=Experiment("home-model", arms={"popular": 0.5, "model": 0.5}),
)
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from tailorbird.candidates.contract import parse_source
from tailorbird.errors import DeclarationError, TailorbirdError
from tailorbird.events.clock import ATTRIBUTION_WINDOW, format_duration, parse_duration
from tailorbird.events.contract.envelope import ITEMS_BOUNDS
from tailorbird.experiments.assign import Experiment
from tailorbird.pages.notebook import notebook_repr
from tailorbird.ranking.policy.formula import parse_formula, require_items, validate_weights
from tailorbird.ranking.type_checks import require_types
from tailorbird.retrieval.synonyms import Synonyms

ARM_POLICIES = ("model", "popular", "recent", "random")
EXPLORATIONS = ("item", "swap", "plackett_luce")
DIVERSITIES = ("mmr", "dpp")
SOURCES = {"item_knn": 150, "trending": 150, "popular": 150, "new_items": 50}


@notebook_repr
@dataclass(frozen=True)
class Explore:
    """Exploration with known propensities, from position `first` on.

    `ranking.policy.exploration` explains each method.

    Args:
        method: `item`: with probability `rate` one position shows an item drawn evenly from the
            pool. `swap`: each pair of neighbours changes places with probability `rate`; the first
            pair begins at `first`. `plackett_luce`: all positions, at most 30, are drawn, by value
            and `temperature`.
        share: of `plackett_luce`: the share of requests whose slate is drawn. The others get the
            ranked slate. 0.1 lets the log judge other policies at a tenth of the cost.
        pool: the number of candidates after the slate that may enter it.
        temperature: of `plackett_luce`, as a share of the range of the values: at 0.1 the best of
            two items that are a tenth of the range apart comes first in 73 of 100 draws. To learn
            what a position is worth (`--position weights`), 0.3: at 0.1 weak items never come
            first.
    """

    rate: float = 0.1
    pool: int = 50
    first: int = 2
    method: str = "item"
    temperature: float = 0.1
    share: float = 1.0

    def __post_init__(self) -> None:
        require_types(self, "Explore")
        if self.method not in EXPLORATIONS:
            raise DeclarationError(
                f"unknown method {self.method!r}",
                where="Explore",
                fix=f"use one of {', '.join(EXPLORATIONS)}",
            )
        for name, is_valid, expectation in (
            ("rate", 0 <= self.rate <= 1, "a share from 0 to 1"),
            ("pool", self.pool >= 0, "a number of candidates"),
            ("first", self.first >= 1, "a position, from 1 on"),
            ("temperature", 0.01 <= self.temperature <= 100, "a number from 0.01 to 100"),
            ("share", 0 < self.share <= 1, "a share above 0 and at most 1"),
        ):
            if not is_valid:
                raise DeclarationError(
                    f"expected {expectation}, got {getattr(self, name)!r}", where=f"Explore {name}"
                )
        if self.share < 1 and self.method != "plackett_luce":
            raise DeclarationError(
                f"only plackett_luce draws a share of slates, not {self.method}",
                where="Explore share",
                fix='use rate, or method="plackett_luce"',
            )


@notebook_repr
@dataclass(frozen=True)
class Quota:
    """A quota: at most `most` items with one attribute value, such as 3 of a brand in the top 10.

    Where too few candidates keep to it, the best of the others fill the answer.

    Args:
        by: the attribute. An item without it is unrestricted.
        first: among how many positions from the top; 0 is the whole answer.
        window: among any so many consecutive positions; 0 is no window.
    """

    by: str
    most: int
    first: int = 0
    window: int = 0

    def __post_init__(self) -> None:
        require_types(self, f"Quota {self.by}")
        if self.most < 1 or self.first < 0 or self.window < 0 or (self.first and self.window):
            fix = 'such as Quota("brand", 3, first=10) or Quota("category", 1, window=2)'
            raise DeclarationError(
                "expected at least 1 item, and first or window, not both",
                where=f"Quota {self.by}",
                fix=fix,
            )


@notebook_repr
@dataclass(frozen=True)
class Boost:
    """A boost: multiplies the value of items by `factor` where `when` holds.

    `when` is a rule expression. 1.2 raises, 0.5 lowers.

    A negative value moves by the same share in the same direction.
    """

    when: str
    factor: float

    def __post_init__(self) -> None:
        require_types(self, "Boost")
        if not 0 < self.factor <= 1_000:
            raise DeclarationError(
                f"expected a factor above 0 and at most 1,000, got {self.factor!r}",
                where=f"Boost {self.when[:60]!r}",
            )


@notebook_repr
@dataclass(frozen=True)
class Pin:
    """A pin: puts an item at a position (from 1) where `when` holds, by default always.

    Of several pins for one position or item, the first declared wins. A pin never shows an item
    that rules forbid, the user has hidden, or the query excludes. Quotas, diversity and promotions
    yield to pins and count them; exploration leaves their positions unchanged.
    """

    item: str
    position: int = 1
    when: str = ""

    def __post_init__(self) -> None:
        require_types(self, f"Pin {self.item!r}")
        if self.position < 1 or not self.item:
            raise DeclarationError(
                f"expected an item and a position from 1 on, got {self.position!r}",
                where=f"Pin {self.item!r}",
            )


@dataclass(frozen=True)
class Promotion:
    """A promotion: a minimum share of items for which `when` holds in every prefix of a slate.

    It holds as far as candidates and quotas allow.

    Of the first m positions these are at least ⌊share * m⌋, the best of them by value: at 0.25 one
    of the first 4, two of the first 8.
    """

    when: str
    share: float

    def __post_init__(self) -> None:
        require_types(self, "Promotion")
        if not 0 < self.share <= 1:
            raise DeclarationError(
                f"expected a share above 0 and at most 1, got {self.share!r}",
                where=f"Promotion {self.when[:60]!r}",
            )

    def required_count(self, positions: int) -> int:
        """Return the minimum number of promoted items among the first positions."""
        return int(self.share * positions + 1e-9)


@dataclass(frozen=True)
class Cap:
    """A frequency cap: hides an item that a sequence of the user has `most` times within a time.

    For example `Cap("shown", 3, within="7d")`.

    The sequence is declared in features.py, such as `sequence("shown", user, ["impression"],
    length=200)`; it forgets what is older than its length, and so does the cap.
    """

    sequence: str
    most: int
    within: str = "7d"

    def __post_init__(self) -> None:
        require_types(self, f"Cap {self.sequence}")
        try:
            is_valid = parse_duration(self.within) > 0 and self.most >= 1
        except (ValueError, TailorbirdError):
            is_valid = False
        if not is_valid:
            fix = 'such as Cap("shown", 3, within="7d")'
            raise DeclarationError(
                "expected at least 1 and a time", where=f"Cap {self.sequence}", fix=fix
            )


@notebook_repr
@dataclass(frozen=True)
class Diversity:
    """Diversification of a slate by attributes that items share.

    See `ranking.policy.diversity`.

    Args:
        by: attributes; two items are as alike as the share of these in which they agree.
        method: `mmr` (maximal marginal relevance) or `dpp` (a determinantal point process, which
            looks at all pairs).
        balance: 1 is value alone, 0 is diversity alone.
        among: of how many of the best candidates the answer is made.
    """

    by: Sequence[str] = ("category", "brand")
    method: str = "mmr"
    balance: float = 0.7
    among: int = 100

    def __post_init__(self) -> None:
        require_types(self, "Diversity", exclude=("by",))
        if self.method not in DIVERSITIES:
            raise DeclarationError(
                f"unknown method {self.method!r}",
                where="Diversity",
                fix=f"use one of {', '.join(DIVERSITIES)}",
            )
        if not 0 <= self.balance <= 1 or self.among < 1 or not self.by or isinstance(self.by, str):
            fix = 'such as Diversity(by=["category", "brand"], balance=0.7)'
            raise DeclarationError(
                "expected attributes, a balance from 0 to 1, and at least one candidate",
                where="Diversity",
                fix=fix,
            )


@notebook_repr
@dataclass(frozen=True)
class Slot:
    """A placement that shows items.

    Args:
        name: as requests name it.
        size: how many items an answer has unless the request says otherwise.
        objective: the value formula: head → weight of its calibrated probability. A head is an
            event type such as `click`, or `dwell_30s`: a view of at least so long; or `return_7d`,
            whether the person comes back within seven days; or `dwell_s`, the seconds that are
            expected to be spent on it. See `ranking.policy.targets`.
        formula: the same as text, such as `1.0*click + 8.0*purchase + 0.002*dwell_s`, instead of
            `objective`. Either can be changed without a new model, see `ranking.policy.formula`.
        sources: candidate source → how many candidates it adds to those of the sources before it;
            see `candidates.contract`. What one lacks, the next gives more. Where training chose
            vectors of people, a share of them comes from `sequence`, unless it is named here.
        columns: further live sources whose rank and score the ranker reads, though they add no
            candidates, such as `popular:1h:device`.
        rules: expressions over `item.*`, `user.*` and `context.*` that an item must satisfy to be
            shown.
        boosts, pins, promotions, caps: merchandising, see `Boost`, `Pin`, `Promotion`, `Cap`.
        allow: ids of the only items that may be shown; empty for no such list. Items of `deny` are
            never shown.
        synonyms: groups of phrases with the same meaning in searches: `[["tv", "television"],
            ["hdd", "hard drive"]]`.
        hide_seen: leave out items with which the person had an event of these types, as far as a
            sequence of theirs keeps it.
        per_category: at most this many items of one category in an answer; 0 is no limit. Short for
            a `Quota`.
        quotas: limits on how many items of an answer share an attribute.
        diversity: makes items of an answer differ, or None.
        explore: exploration, or None.
        experiment: a permanent split of this slot, whose arms are named after policies
            (`ARM_POLICIES`), or None. Experiments with an end belong into experiments.py.
        denominator: `impression` (seen, reported by the client) or `answer`: what a rate is divided
            by.
        attribution: how long after an answer a click without a request_id still belongs to it, such
            as `30m`.
    """

    name: str
    size: int = 12
    objective: Mapping[str, float] = field(default_factory=lambda: {"click": 1.0})
    sources: Mapping[str, int] = field(default_factory=lambda: dict(SOURCES))
    columns: Sequence[str] = ()
    rules: Sequence[str] = ()
    hide_seen: Sequence[str] = ("purchase",)
    per_category: int = 0
    quotas: Sequence[Quota] = ()
    diversity: Diversity | None = None
    explore: Explore | None = None
    experiment: Experiment | None = None
    denominator: str = "impression"
    attribution: str = format_duration(ATTRIBUTION_WINDOW)
    formula: str = ""
    boosts: Sequence[Boost] = ()
    pins: Sequence[Pin] = ()
    promotions: Sequence[Promotion] = ()
    caps: Sequence[Cap] = ()
    allow: Collection[str] = ()
    deny: Collection[str] = ()
    synonyms: Sequence[Sequence[str]] = ()

    def __post_init__(self) -> None:
        where = f"slot {self.name}"
        require_types(self, where, exclude=("objective", "synonyms"))  # validated separately
        if self.formula:
            object.__setattr__(self, "objective", parse_formula(self.formula, where=where))
        object.__setattr__(
            self, "objective", validate_weights(self.objective, where=f"{where}, objective")
        )
        try:
            Synonyms.from_groups(self.synonyms)
        except ValueError as error:
            raise DeclarationError(
                str(error),
                where=f"{where}, synonyms",
                fix='such as synonyms=[["tv", "television"]]',
            ) from None
        for source in (*self.sources, *self.columns):
            try:
                parse_source(source)
            except DeclarationError as error:
                raise DeclarationError(error.message, where=where, fix=error.fix) from None
            if self.sources.get(source, 0) < 0:
                raise DeclarationError(
                    f"expected a number of candidates, got {self.sources[source]}",
                    where=f"{where}, sources, {source}",
                )
        if self.denominator not in ("impression", "answer"):
            raise DeclarationError(
                f"unknown denominator {self.denominator!r}",
                where=f"slot {self.name}",
                fix="use impression or answer",
            )
        require_items(self.objective, where=where)
        if not 1 <= self.size <= ITEMS_BOUNDS.high:  # an answer is an event too
            raise DeclarationError(
                f"expected a size from 1 to {ITEMS_BOUNDS.high}, got {self.size}",
                where=f"slot {self.name}",
            )
        if len({pin.position for pin in self.pins if not pin.when}) < sum(
            not pin.when for pin in self.pins
        ):
            raise DeclarationError(
                "two pins want the same position",
                where=where,
                fix="tell them apart by when=, or move one",
            )
        constraints = self.all_quotas or self.diversity or self.promotions or self.pins
        if constraints and self.explore is not None and self.explore.method == "plackett_luce":
            raise DeclarationError(
                "plackett_luce draws every position by value, and would keep to no quota, "
                "diversity, promotion or pin",
                where=f"slot {self.name}",
                fix='leave these away, or explore by method="item" or "swap"',
            )
        self._check_arms()

    @property
    def all_quotas(self) -> tuple[Quota, ...]:
        """All quotas, `per_category` among them."""
        return (
            *self.quotas,
            *((Quota("category", self.per_category),) if self.per_category else ()),
        )

    def _check_arms(self) -> None:
        if self.experiment is None:
            return
        for name in ("slots", "versions", "where", "is_interleaved"):
            if getattr(self.experiment, name):
                raise DeclarationError(
                    "a permanent split is not interleaved"
                    if name == "is_interleaved"
                    else f"a permanent split has no {name}=",
                    where=f"slot {self.name}",
                    fix="declare it in experiments.py, and start it",
                )
        for arm in self.experiment.arms:
            if self.experiment.policy_of(arm) not in ARM_POLICIES:
                fix = f"use one of {', '.join(ARM_POLICIES)}"
                raise DeclarationError(
                    f"arm {arm!r} names no policy", where=f"slot {self.name}", fix=fix
                )
