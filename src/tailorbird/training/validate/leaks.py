"""Looks for what makes figures too good to be true: columns that know the answer or the future, and
a log that repeats itself.

    too good       alone it tells positives from negatives almost perfectly, or far better than any other column does
    looks ahead    another value once what came after the request is taken away
    timeless       a value from a profile without a time, which is valid from the beginning and may know what came later
    dated back     a profile of an item came in later than the time that it is valid from, by which indexes of past moments hold it;
                   of a user one was imported that may say what was known only when it was exported
    repeated       the same person did the same with the same item, again and again after exactly the same time

The first is a guess by size, the second a proof. The others are facts about the log that need
somebody's judgement.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from tailorbird.events import DAY, HOUR, SECOND, micros
from tailorbird.features import FeatureSet
from tailorbird.lake import Lake
from tailorbird.models.interactions import Interactions
from tailorbird.training.dataset import Dataset
from tailorbird.training.dated_back import told_of_dated_back
from tailorbird.training.giveaways import giveaways
from tailorbird.training.matrix import Featured, featured
from tailorbird.training.rows import Material

Matrix = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]

REQUESTS = 12  # looked at one by one
# of the events that repeat an earlier one: so many after exactly the same time are no chance
REPEATED = 0.01
REPEATS_MIN = 20
COARSE = 0.1  # of the events at the same place of the hour: their times are days or hours

LEAK, LOOK = "leak", "look"


@dataclass(frozen=True)
class Finding:
    """Attributes:
    severity: `leak` where figures cannot be believed before it is mended, `look` where somebody has
    to judge. what: a column, or the log.
    """

    severity: str
    what: str
    why: str

    def plain(self) -> dict[str, Any]:
        return {"severity": self.severity, "what": self.what, "why": self.why}


def too_good(names: Sequence[str], matrix: Matrix, label: npt.NDArray, head: str) -> list[Finding]:
    """Columns that alone tell more of a target than an honest one could, or far more than all
    others do.
    """
    told = giveaways(names, matrix, label)
    found = [Finding(LEAK, name, f"{why} for {head}") for name, why in told.known.items()]
    return found + [Finding(LEAK, name, why) for name, why in told.told_of_ahead(head).items()]


def looks_ahead(
    material: Material, data: Dataset, features: FeatureSet, *, seed: int = 0
) -> list[Finding]:
    """Columns whose values change once later events, or profiles without a time, are taken away.

    Later is what happened at or after the request's time, and what happened before it but was
    routed after the position as of which the request's features were read: a profile or a click
    that came in late is as unknown as one of tomorrow.

    Args:
        data: the rows of requests; some of the requests are looked at, one by one.
    """
    events = material.events
    ts, p = micros(events["ts"]), events["p"].to_numpy()
    timeless = pc.fill_null(events["timeless"], False).to_numpy(zero_copy_only=False)
    rng = np.random.default_rng(seed)
    chosen = np.sort(rng.choice(data.requests, min(data.requests, REQUESTS), replace=False))
    ahead: dict[str, int] = {}
    rows = 0
    for place in chosen:
        one = data.take(np.array([place]))
        known = timeless | (
            (ts < one.t[0]) & (p <= one.p[0].max())
        )  # of several parts the one that had read furthest
        whole, cut = (
            _rows(one, features, each) for each in (events, events.filter(pa.array(known)))
        )
        rows += one.rows
        for name, count in differences(whole, cut).items():
            ahead[name] = ahead.get(name, 0) + count
    found = [
        Finding(
            LEAK,
            name,
            f"of {rows:,} rows {count:,} have another value once what came, or came in, "
            "after the request is taken away",
        )
        for name, count in ahead.items()
    ]
    if timeless.any():
        some = data.take(chosen)
        untold = differences(
            _rows(some, features, events), _rows(some, features, events.filter(pa.array(~timeless)))
        )
        why = (
            "have a value from a profile without a time, which is valid from the beginning: it "
            "must be one that was known all along"
        )
        found += [
            Finding(LOOK, name, f"of {rows:,} rows {count:,} {why}")
            for name, count in untold.items()
            if name not in ahead
        ]
    return found


def _rows(data: Dataset, features: FeatureSet, events: pa.Table) -> Featured:
    return next(featured(data, features, events, rows_max=max(1, data.rows)))


def differences(one: Featured, other: Featured) -> dict[str, int]:
    """Column, or sequence, → rows that differ in any bit; two missing values are equal."""
    found = {}
    for place, name in enumerate(one.rows.numeric_names):
        a, b = one.rows.numeric[:, place], other.rows.numeric[:, place]
        found[name] = int(np.count_nonzero(~((a == b) | (np.isnan(a) & np.isnan(b)))))
    for place, name in enumerate(one.rows.categorical_names):
        found[name] = int(
            np.count_nonzero(one.rows.categorical[:, place] != other.rows.categorical[:, place])
        )
    lengths = np.diff(one.part.offsets)
    for name, sequence in one.rows.sequences.items():
        beside = other.rows.sequences[name]
        changed = [
            request
            for request in range(len(lengths))
            if sequence.of(request).lists() != beside.of(request).lists()
        ]
        found[f"sequence {name}"] = int(lengths[changed].sum())
    return {name: count for name, count in found.items() if count}


def dated_back(material: Material) -> list[Finding]:
    """Whether profiles of items came in later than they are valid from: indexes of past moments
    hold what nobody may have known then.
    """
    items = material.items
    if "received_at" not in items.column_names or not items.num_rows:
        return []
    known = items.filter(pc.invert(pc.fill_null(items["timeless"], False)))
    late = micros(pc.coalesce(known["received_at"], known["valid_from"])) - micros(
        known["valid_from"]
    )
    count = int(np.count_nonzero(late > HOUR))
    if not count:
        return []
    told = (
        f"{count:,} of {known.num_rows:,} profiles with a time came in over an hour after it, "
        f"at most {late.max() / DAY:,.1f} days"
    )
    why = (
        f"{told}: columns of indexes know what they say from that time on, which must be "
        "something that was known then"
    )
    return [Finding(LOOK, "items", why)]


def imported_back(lake: Lake, features: FeatureSet) -> list[Finding]:
    """What `told_of_dated_back` finds of the profiles that features read."""
    return [Finding(LOOK, what, why) for what, why in told_of_dated_back(lake, features)]


def repeated(seen: Mapping[str, Interactions], borders: Sequence[int]) -> list[Finding]:
    """Whether the log holds things twice, so that what is judged was learned from: an import that
    ran again with other times or ids.

    Where many events stand at the same place of the hour, as those do that are known by the day or
    the hour alone, whole hours between two of them say nothing: whatever people do again is then
    whole days or hours later.

    Args:
        seen: what people did, by type: a click and the view that it opened are not the same done
            twice.
        borders: moments between what is learned from and what is judged.
    """
    found = [_again(each) for each in seen.values()]
    lag, at = (
        np.concatenate([np.zeros(0, np.int64), *(each[place] for each in found)])
        for place in (0, 1)
    )
    told = _by_chance(
        lag, at, np.concatenate([np.zeros(0, np.int64), *(each.ts for each in seen.values())])
    )
    lag, at = lag[~told], at[~told]
    if not len(lag):
        return []
    values, counts = np.unique(lag, return_counts=True)
    most = int(np.argmax(counts))
    count, after = int(counts[most]), int(values[most])
    if count < REPEATS_MIN or count < REPEATED * len(lag):
        return []
    earlier = at[lag == after] - after
    across = sum(
        int(np.count_nonzero((earlier < border) & (earlier + after >= border)))
        for border in borders
    )
    when = "at the very same time" if after == 0 else f"exactly {after / SECOND:,.6g} s later"
    told = (
        f"{count:,} times somebody did the same with the same item {when}: "
        f"{count / len(lag):.1%} of all that was done again"
    )
    more = (
        f"; {across:,} of them lie on both sides of a border between what is learned from "
        "and what is judged"
        if across
        else ""
    )
    return [Finding(LEAK if across else LOOK, "the log", told + more)]


def _again(seen: Interactions) -> tuple[Ints, Ints]:
    """How long after the last time somebody did it with an item again, and when."""
    known = np.flatnonzero((seen.person >= 0) & (seen.item >= 0))
    order = known[np.lexsort((seen.ts[known], seen.item[known], seen.person[known]))]
    person, item, ts = seen.person[order], seen.item[order], seen.ts[order]
    again = (person[1:] == person[:-1]) & (item[1:] == item[:-1])
    return (ts[1:] - ts[:-1])[again], ts[1:][again]


def _by_chance(lag: Ints, at: Ints, ts: Ints) -> npt.NDArray[np.bool_]:
    """Which of what was done again is whole hours later because the times are no finer."""
    places, counts = np.unique(ts % HOUR, return_counts=True)
    return (lag % HOUR == 0) & np.isin(at % HOUR, places[counts >= COARSE * len(ts)])


def of_the_ranking(signals: Mapping[str, Any]) -> list[Finding]:
    """What `features rank` called out, from its figures."""
    return [
        Finding(LEAK, one["name"], f"`features rank` called it too good: {one['why']}")
        for one in signals.get("signals", ())
        if one.get("verdict") == "too good: leak?"
    ]
