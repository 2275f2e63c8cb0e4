"""Which columns to keep, and what that loses: columns are proposed for removal step by step, and a
step that loses is taken back.

    leaks → not distinguishable from chance → redundant members of clusters → unstable and not
    proven on later data

Each step is tried on the part that is chosen by. If the model is worse there without columns that
seemed to be chance, outside the noise, they are tried in halves; if it is worse without others by
more than is tolerated, one by one. Those that it cannot do without stay. What the whole subset
loses is then told on the part that is judged by, which had no say in any of this.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.stats import norm

from tailorbird.models.gbdt import Gbdt, GbdtSettings, fit_gbdt
from tailorbird.training.bootstrap import Bootstrap, Interval
from tailorbird.training.importance import quality
from tailorbird.training.signal_rows import Ground, SignalRows
from tailorbird.training.stability import UNSTABLE

Floats = npt.NDArray[np.float64]

SIGNAL, NULL, REDUNDANT, DRIFTING, LEAK = (
    "signal",
    "null",
    "redundant",
    "unstable",
    "too good: leak?",
)
UNDECIDED = "too few requests to decide"
ENOUGH = 200  # requests with something to find; with fewer, that nothing shows says nothing
WORTH = 0.01  # of the judged figure: a column that may well be worth this much is not called null
# models whose figures are averaged: two fits of one and the same set of columns differ as well
SEEDS = 3
Z_OF_NULLS = 3.0


@dataclass(frozen=True)
class Signal:
    """All that was found of one column.

    Attributes:
        entity: what it is of; "" for the request, derived columns, and those computed from the
            index.
        of_request: never differs within a request, so that it can order items only together with
            other columns.
        importance: drop of the judged figure on later data when it is permuted, with its interval
            over people.
        gain: share of the gain of small trees; null_z: standard deviations above the null,
            above_nulls: above all of the null fits, and above what they give to the typical column.
        bits, bits_z: mutual information with the target less its null's.
        drift: worst of the periods; missing: share of later rows.
        cluster: number of its cluster, 0 without one; together: importance of the whole cluster.
        verdict: one of the six; why in words; kept: whether it stays in the proposed subset.
        place: file and line of the declaration, "" for computed columns.
    """

    name: str
    kind: str
    entity: str
    place: str
    of_request: bool
    importance: Interval
    gain: float
    null_z: float
    above_nulls: bool
    bits: float
    bits_z: float
    drift: float
    drifts: tuple[float, ...]
    missing: float
    record_bytes: int
    request_bytes: int
    finish_us: float
    cluster: int = 0
    together: Interval | None = None
    verdict: str = SIGNAL
    why: str = ""
    kept: bool = True

    @property
    def liked(self) -> bool:
        """Whether trees got more from it than from any shuffle of the labels."""
        return self.above_nulls and self.null_z >= Z_OF_NULLS

    @property
    def unstable(self) -> bool:
        return self.drift >= UNSTABLE

    def plain(self) -> dict[str, Any]:
        """As JSON."""
        told = {
            name: getattr(self, name)
            for name in self.__dataclass_fields__
            if name not in ("importance", "together", "drifts")
        }
        told |= interval_plain("importance", self.importance) | {
            "drifts": list(self.drifts),
            "unstable": self.unstable,
        }
        told |= interval_plain("cluster_importance", self.together) if self.together else {}
        return {
            name: None if isinstance(value, float) and not np.isfinite(value) else value
            for name, value in told.items()
        }


@dataclass(frozen=True)
class Step:
    """Columns that were tried without: `loss` is of all that is out by then, full − without, on the
    part that is chosen by.
    """

    reason: str
    columns: tuple[str, ...]
    loss: Interval
    kept_out: bool

    def plain(self) -> dict[str, Any]:
        return {
            "reason": self.reason,
            "columns": list(self.columns),
            "taken_back": not self.kept_out,
        } | interval_plain("loss", self.loss)


@dataclass(frozen=True)
class Subset:
    """What is proposed.

    Attributes:
        keep, remove: names of columns.
        steps: how it came about. full, subset: the judged figure of both on the part that is judged
        by; loss: full − subset, paired.
    """

    keep: tuple[str, ...]
    remove: tuple[str, ...]
    steps: tuple[Step, ...]
    full: Interval
    subset: Interval
    loss: Interval
    about: Mapping[str, Any] = field(default_factory=dict)

    def plain(self) -> dict[str, Any]:
        """As JSON."""
        figures = (
            interval_plain("full", self.full)
            | interval_plain("subset", self.subset)
            | interval_plain("loss", self.loss)
        )
        told = {
            "keep": list(self.keep),
            "remove": list(self.remove),
            "steps": [step.plain() for step in self.steps],
        }
        return told | figures | dict(self.about)


def interval_plain(name: str, interval: Interval) -> dict[str, float | None]:
    """name, name_low, name_high."""
    ends = ((name, interval.value), (f"{name}_low", interval.low), (f"{name}_high", interval.high))
    return {key: round(float(value), 6) if np.isfinite(value) else None for key, value in ends}


def beyond_chance(intervals: Sequence[Interval], *, level: float = 0.05) -> list[bool]:
    """Which figures are above 0, such that of those said to be no more than `level` are expected to
    be chance.

    Source: Benjamini and Hochberg, J. R. Statist. Soc. B 57 (1995); one-sided, by the width of the
    intervals.
    """
    error = np.array([(one.high - one.low) / (2 * 1.96) for one in intervals])
    value = np.array([one.value for one in intervals])
    known = np.isfinite(error) & (error > 0)
    chance = np.ones(len(intervals))
    chance[known] = norm.sf(value[known] / error[known])
    ordered = np.sort(chance)
    below = np.flatnonzero(ordered <= level * (1 + np.arange(len(ordered))) / max(len(ordered), 1))
    limit = ordered[below[-1]] if len(below) else -1.0
    return [bool(one <= limit) for one in chance]


def judged(signals: Sequence[Signal], leaks: Mapping[str, str], requests: int) -> list[Signal]:
    """The signals with their verdicts; `requests` with something to find are what their importance
    was measured on.
    """
    honest = [one for one in signals if one.name not in leaks]
    clusters = {
        one.cluster: [other for other in honest if other.cluster == one.cluster]
        for one in honest
        if one.cluster
    }
    standing = {number: max(members, key=_worth).name for number, members in clusters.items()}
    together = [members[0].together or members[0].importance for members in clusters.values()]
    tested = beyond_chance([*(one.importance for one in honest), *together])
    proven = {one.name for one, found in zip(honest, tested, strict=False) if found}
    proven_clusters = {
        number for number, found in zip(clusters, tested[len(honest) :], strict=True) if found
    }
    found = [
        replace(
            one,
            **_verdict(
                one, clusters.get(one.cluster, [one]), standing, proven, proven_clusters, leaks
            ),
        )
        for one in signals
    ]
    return [
        replace(one, **_undecided(one, requests)) if one.verdict == NULL else one for one in found
    ]


def _undecided(one: Signal, requests: int) -> dict[str, Any]:
    """`verdict` and `why` of a column that would be null, where these requests cannot tell; nothing
    where they can.
    """
    if requests < ENOUGH:
        return {
            "verdict": UNDECIDED,
            "why": f"{requests:,} later requests with something to find; {ENOUGH:,} are the least "
            "to call it null by",
        }
    highest = max(each.high for each in (one.importance, one.together) if each is not None)
    if highest >= WORTH:
        return {
            "verdict": UNDECIDED,
            "why": f"it may be chance, and it may be worth {highest:.3f}: the interval has both",
        }
    return {}


def _verdict(
    one: Signal,
    members: Sequence[Signal],
    standing: Mapping[int, str],
    proven: set[str],
    proven_clusters: set[int],
    leaks: Mapping[str, str],
) -> dict[str, Any]:
    """`verdict` and `why` of one signal; `members` are those of its cluster, itself included."""
    if one.name in leaks:
        return {"verdict": LEAK, "why": leaks[one.name], "kept": False}
    helps = one.cluster in proven_clusters or any(each.name in proven for each in members)
    if not helps and not any(each.liked for each in members):
        return {"verdict": NULL, "why": "what it does on later data and for trees may be chance"}
    first = standing.get(one.cluster, one.name)
    if one.name != first:
        return {"verdict": REDUNDANT, "why": f"{first} stands for it"}
    if one.unstable and not helps:
        return {
            "verdict": DRIFTING,
            "why": f"drift {one.drift:.2f}, and later data do not prove that it helps nevertheless",
        }
    why = "proven on later data" if helps else "trees get more of it than of shuffled labels"
    return {
        "verdict": SIGNAL,
        "why": why + (f", though it drifts ({one.drift:.2f})" if one.unstable else ""),
    }


def _worth(one: Signal) -> tuple[float, ...]:
    """Who stands for a cluster: more important, telling more, cheaper, more often there."""
    return (
        round(one.importance.value, 6) if np.isfinite(one.importance.value) else 0.0,
        one.bits,
        -one.request_bytes,
        -one.missing,
    )


@dataclass(frozen=True)
class Contest:
    """Models of different columns on the same requests.

    Attributes:
        kept: what keeps the figures of a fit under a name, so that a run that was cut short need
            not repeat it.
    """

    ground: Ground
    settings: GbdtSettings
    seed: int
    kept: Callable[[str, Callable[[], Floats]], Floats]

    def model(self, columns: Sequence[str], seed: int) -> Gbdt:
        """The model of some columns."""
        places = self.places(columns)
        train, watch = (rows.sample(places) for rows in (self.ground.train, self.ground.watch))
        categorical = [name for name in self.ground.categorical if name in columns]
        return fit_gbdt(
            train, watch, list(columns), replace(self.settings, seed=seed), categorical=categorical
        )

    def places(self, columns: Sequence[str]) -> list[int]:
        return [self.ground.names.index(name) for name in columns]

    def figures(self, columns: Sequence[str]) -> tuple[Floats, Floats]:
        """The judged figure of each request of the part to choose by and of the one to judge by,
        mean over the seeds.
        """
        ground = self.ground
        sizes = (ground.choose.requests, ground.judge.requests)
        total = np.zeros(sum(sizes))
        for seed in range(self.seed, self.seed + SEEDS):
            total += self.kept(
                f"fit {seed} {' '.join(columns)}", lambda seed=seed: self._fit(columns, seed)
            )
        total /= SEEDS
        return total[: sizes[0]], total[sizes[0] :]

    def _fit(self, columns: Sequence[str], seed: int) -> Floats:
        model, places = self.model(columns, seed), self.places(columns)
        parts = (self.ground.choose, self.ground.judge)
        return np.concatenate(
            [quality(model, np.ascontiguousarray(rows.matrix[:, places]), rows) for rows in parts]
        )


def bootstrap_of(rows: SignalRows, seed: int) -> Bootstrap:
    """Replicates over the people of some requests; who is not known stands alone."""
    person = np.where(rows.person < 0, -1 - np.arange(rows.requests), rows.person)
    return Bootstrap(np.unique(person, return_inverse=True)[1], seed=seed)


def propose(
    contest: Contest,
    signals: Sequence[Signal],
    tolerance: float,
    *,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[Subset, list[Signal]]:
    """Drop step by step what the verdicts say, and judge what is left; second, the signals with
    whether they stay.

    Args:
        tolerance: how much the judged figure may fall by a redundant or unstable column on the part
            that is chosen by.
    """
    ground = contest.ground
    honest = [one.name for one in signals if one.verdict != LEAK]
    choosing, judging = (
        bootstrap_of(ground.choose, contest.seed),
        bootstrap_of(ground.judge, contest.seed),
    )
    progress(0, 4)
    full = contest.figures(honest)
    keep, after, steps = honest, full, []
    order = {one.name: one.importance.value for one in signals}
    for done, reason in enumerate((NULL, REDUNDANT, DRIFTING), 1):
        progress(done, 4)
        names = sorted(
            (one.name for one in signals if one.verdict == reason), key=lambda name: order[name]
        )
        lots = [names] if len(names) < len(keep) else []
        while lots:
            lot = lots.pop(0)
            if not lot:
                continue
            found = contest.figures([name for name in keep if name not in lot])
            loss, more = (
                choosing.difference(full[0], found[0]),
                choosing.difference(after[0], found[0]),
            )
            if loss.low <= 0 and (reason == NULL or more.value <= tolerance):
                keep, after = [name for name in keep if name not in lot], found
                steps.append(Step(reason, tuple(lot), loss, True))
            elif len(lot) == 1:
                steps.append(Step(reason, tuple(lot), loss, False))
            elif reason == NULL:  # there are many of them, and few that matter
                lots = [lot[: len(lot) // 2], lot[len(lot) // 2 :], *lots]
            else:
                lots = [[name] for name in lot]
    told = [replace(one, kept=one.name in keep) for one in signals]
    remove = tuple(one.name for one in signals if one.name not in keep)
    all_of_them, some_of_them = judging.means([full[1], after[1]])
    loss = judging.difference(full[1], after[1])
    progress(4, 4)
    return Subset(tuple(keep), remove, tuple(steps), all_of_them, some_of_them, loss), told
