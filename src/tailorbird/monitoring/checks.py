"""The daily checks: functions of a `Day` that say whether something is wrong with its data, and in
words what.

Each compares the day with itself or with the days before, and says `none` where there is too little
to judge by. Limits stand beside the check; they are wide, since a check that fails every week is
not read. How much came, and when, is `monitoring.amounts`.
"""

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tailorbird.events import MINUTE, SECOND, micros, show_duration
from tailorbird.monitoring.amounts import Wanted, freshness, hours, total, volume
from tailorbird.monitoring.day import OWN_COLUMNS, Day, Profile, by_people
from tailorbird.monitoring.verdict import NONE, Check, verdict

REPEATS_MAX = 0.2
ALIKE_MAX, ALIKE_ROWS = 0.2, 100
LATE_MAX = 0.02
NULLS_MAX, NULLS_ROWS = 0.15, 100  # the share of nulls may move so far
PSI_MAX, PSI_ROWS = 0.25, 200  # the usual limit of "has shifted"
DAYS_MIN = 3  # of which a median says more than their sum
ORPHANS_MAX, UNSEEN_MAX, CLICKS_MIN = 0.05, 0.2, 20
SKEW_US, SKEW_MAX, SKEW_ROWS, SKEW_PEOPLE = (
    2 * MINUTE,
    0.1,
    30,
    5,
)  # the clocks of a few people are theirs to mend
BOTS_MAX, ONE_PERSON_MAX, ONE_PERSON_ROWS = 0.15, 0.05, 1_000
REFUSED_MAX, REFUSED_ROWS = 0.05, 20
_FLOOR = 1e-3  # a value's share, for the logarithm


def run_checks(day: Day, wanted: Wanted, further: Sequence[Check] = ()) -> list[Check]:
    """All checks of a day, and what others found beside."""
    return [check(day) for check in _CHECKS] + [
        volume(day, wanted),
        freshness(day, wanted),
        uniqueness(day, wanted),
        *further,
    ]


def duplicates(day: Day) -> Check:
    """No event stands twice in the table; not many were sent twice, be it under one id or under
    two.
    """
    twice = (
        day.events.num_rows - pc.count_distinct(_key(day.events)).as_py()
        if day.events.num_rows
        else 0
    )
    rows = sum(day.repeated.values())
    share = day.repeats / max(1, day.events.num_rows)
    wrong = [f"{twice:,} events stand twice in the table"] * bool(twice) + [
        f"{rows:,} raw rows became more than one row"
    ] * bool(rows)
    if share > REPEATS_MAX:
        wrong.append(
            f"{day.repeats:,} events were sent again ({share:.0%}): a client retries too often"
        )
    judged, alike = _alike(day.events)
    if judged >= ALIKE_ROWS and alike > ALIKE_MAX * judged:
        wrong.append(
            f"{alike / judged:.0%} of the events repeat another of that second, under an id "
            "of their own: a client sends twice"
        )
    return verdict(
        "duplicates",
        day.events.num_rows,
        wrong,
        share,
        REPEATS_MAX,
        f"{day.repeats:,} repeats were dropped, none is left",
    )


def gaps(day: Day) -> Check:
    """Every raw row between the day's first and last is in a table."""
    wrong = [
        f"{count:,} raw rows of {partition} are in no table; tailorbird lake verify"
        for partition, count in day.missing.items()
        if count
    ]
    return verdict(
        "gaps",
        len(day.missing),
        wrong,
        sum(day.missing.values()),
        0,
        "every raw row is accounted for",
    )


def late(day: Day) -> Check:
    """Events that came in on the day, and so late that no feature counts them: when they happened
    is a day whose report is written.
    """
    share = day.too_late / max(1, day.came)
    wrong = (
        [
            f"{day.too_late:,} events came too late to count in features ({share:.0%} of "
            "what came in)"
        ]
        if share > LATE_MAX
        else []
    )
    return verdict("late", day.came, wrong, share, LATE_MAX, f"{share:.1%} came too late to count")


def nulls(day: Day) -> Check:
    """The share of events of a type without a column, against the days before."""
    reference, wrong, worst, judged = _sum(day.before), [], 0.0, 0
    if reference is not None:
        for type_, rows in day.profile.types.items():
            if min(rows, reference.types[type_]) < NULLS_ROWS:
                continue
            for column in {
                column for kind, column in (*day.profile.nulls, *reference.nulls) if kind == type_
            }:
                judged += 1
                share = day.profile.nulls[type_, column] / rows
                each = [
                    {
                        "null": one.nulls[type_, column],
                        "": one.types[type_] - one.nulls[type_, column],
                    }
                    for one in day.before
                ]
                usual = _usual(each, NULLS_ROWS)["null"]
                worst = max(worst, abs(share - usual))
                if abs(share - usual) > NULLS_MAX:
                    wrong.append(f"{share:.0%} of {type_} have no {column}, {usual:.0%} are usual")
    return verdict(
        "nulls",
        judged,
        sorted(wrong),
        worst,
        NULLS_MAX,
        "columns are as full as usual",
        "no days before to compare with",
    )


def categories(day: Day) -> Check:
    """How the values of a column are spread, against the days before: the population stability
    index.
    """
    wrong, worst, judged = [], 0.0, 0
    for column, counted in day.profile.categories.items():
        before = [profile.categories[column] for profile in day.before]
        if min(sum(counted.values()), sum(sum(each.values()) for each in before)) < PSI_ROWS:
            continue
        judged += 1
        index, moved = _stability(counted, _usual(before, PSI_ROWS))
        worst = max(worst, index)
        if index > PSI_MAX:
            wrong.append(f"{column} has shifted (PSI {index:.2f}), most of all {moved}")
    return verdict(
        "categories",
        judged,
        wrong,
        worst,
        PSI_MAX,
        "values are spread as usual",
        "too few events to compare",
    )


def orphans(day: Day) -> Check:
    """Clicks that name an answer which there is not, nor anything that was seen of it, or an item
    that nobody reported as seen.

    Where this system gives answers and another one does too, nothing in an event says whose a click
    follows: that is told, and fails.
    """
    clicks = day.events.filter(
        pc.and_(pc.equal(day.events["type"], "click"), pc.is_valid(day.events["request_id"]))
    )
    if clicks.num_rows < CLICKS_MIN:
        return Check("orphans", NONE, 0.0, ORPHANS_MAX, "hardly any click names an answer")
    known = pc.is_in(clicks["request_id"], value_set=pa.array(sorted(day.answered), pa.string()))
    share = 1 - (pc.sum(known).as_py() or 0) / clicks.num_rows
    seen = _seen(day.events)
    wrong = (
        [f"{share:.0%} of the clicks name an answer that is not in the lake"]
        if share > ORPHANS_MAX
        else []
    )
    if wrong and _mostly(
        clicks.filter(pc.invert(known))["request_id"].to_pylist(), {request for request, _ in seen}
    ):
        wrong[0] += (
            "; most of these were reported as seen: answers were lost, or another system "
            "gives some (leave their request_id out)"
        )
    if seen and not wrong:
        named = clicks.filter(known)
        pairs = list(
            zip(named["request_id"].to_pylist(), named["item_id"].to_pylist(), strict=True)
        )
        unseen = sum(pair not in seen for pair in pairs) / max(1, len(pairs))
        if unseen > UNSEEN_MAX:
            wrong.append(f"{unseen:.0%} of the clicks are on items without an impression")
    return verdict(
        "orphans",
        clicks.num_rows,
        wrong,
        share,
        ORPHANS_MAX,
        "clicks follow answers and impressions",
    )


def skew(day: Day) -> Check:
    """How many of a device's events were sent by a clock that is off. One that does not say when it
    sends counts as right.
    """
    events = by_people(day.events)
    events = events.filter(pc.not_equal(events["type"], "answer"))
    off = (
        np.abs(
            micros(events["received_at"])
            - micros(pc.coalesce(events["sent_at"], events["received_at"]))
        )
        > SKEW_US
    )
    device = np.array([each or "without a device" for each in events["device"].to_pylist()], object)
    person = np.array([each or "" for each in events["person"].to_pylist()], object)
    wrong, worst, judged = [], 0.0, pc.count(events["sent_at"]).as_py()
    for name in sorted(set(device.tolist())):
        mine = off[device == name]
        if len(mine) < SKEW_ROWS:
            continue
        worst = max(worst, float(mine.mean()))
        if (
            mine.mean() > SKEW_MAX
            and len(set(person[device == name][mine].tolist())) >= SKEW_PEOPLE
        ):
            wrong.append(
                f"the clocks of {mine.mean():.0%} of the events of {name} are off by more "
                f"than {show_duration(SKEW_US)}"
            )
    good = f"the clocks of at most {worst:.1%} of a device's events are off"
    return verdict(
        "skew", judged, wrong, worst, SKEW_MAX, good, "clients do not say when they send"
    )


def bots(day: Day) -> Check:
    """The share of known bots against the days before, and people who do too much to be people."""
    rows, reference = day.events.num_rows, _sum(day.before)
    share = day.profile.bots / max(1, day.profile.rows)
    usual = reference.bots / reference.rows if reference is not None and reference.rows else 0.0
    wrong = (
        [f"{share:.0%} of the events are of bots, {usual:.0%} are usual"]
        if share > usual + BOTS_MAX
        else []
    )
    human = day.events.filter(pc.fill_null(pc.not_equal(day.events["agent"], "bot"), True))
    found = pc.value_counts(pc.drop_null(human["person"]))
    counts = found.field("counts").to_numpy()
    most = int(np.sum(counts > max(ONE_PERSON_ROWS, ONE_PERSON_MAX * rows)))
    if most:
        wrong.append(
            f"{most:,} people made more than {ONE_PERSON_MAX:.0%} of all events each; they "
            "are not marked as bots"
        )
    return verdict(
        "bots", rows, wrong, share, usual + BOTS_MAX, f"{share:.1%} of the events are of bots"
    )


def refused(day: Day) -> Check:
    """What broke the contract, of all that came in with it."""
    count = sum(day.refused.values())
    share = count / max(1, count + day.taken)
    wrong = []
    if share > REFUSED_MAX and count >= REFUSED_ROWS:
        wrong = [
            f"{rows:,} were refused: {code}"
            for code, rows in sorted(day.refused.items(), key=lambda each: -each[1])
        ]
    return verdict(
        "refused",
        count + day.taken,
        wrong,
        share,
        REFUSED_MAX,
        f"{count:,} events were refused ({share:.1%})",
    )


def uniqueness(day: Day, wanted: Wanted) -> Check:
    """Properties that are declared as unique differ in all events of the day; one that no event has
    is not judged, and named.
    """
    wrong: list[str] = []
    absent: list[str] = []
    for type_, names in wanted.unique.items():
        of_type = day.events.filter(pc.equal(day.events["type"], type_))
        values: list[dict[str, Any]] = [
            msgspec.json.decode(text) if text else {} for text in of_type["properties"].to_pylist()
        ]
        for name in names:
            found = (
                of_type[name].to_pylist()
                if name in OWN_COLUMNS
                else [each.get(name) for each in values]
            )
            given = [msgspec.json.encode(value) for value in found if value is not None]
            if twice := len(given) - len(set(given)):
                wrong.append(f"{twice:,} {type_} repeat a {name} of another")
            if not given:
                absent.append(f"no {type_} has a property {name}")
    judged = sum(map(len, wanted.unique.values())) - len(absent)
    nothing = "; ".join(absent) or "contract.toml declares none"
    return verdict(
        "uniqueness", judged, wrong, len(wrong), 0, "; ".join(["as declared", *absent]), nothing
    )


_CHECKS: tuple[Callable[[Day], Check], ...] = (
    hours,
    total,
    duplicates,
    gaps,
    late,
    nulls,
    categories,
    orphans,
    skew,
    bots,
    refused,
)


def _sum(profiles: Sequence[Profile]) -> Profile | None:
    """The profiles as one; what is no count is that of the newest."""
    if not profiles:
        return None
    first = profiles[0]
    return replace(
        first,
        rows=sum(each.rows for each in profiles),
        types=sum((each.types for each in profiles), Counter()),
        nulls=sum((each.nulls for each in profiles), Counter()),
        categories={
            name: sum((each.categories[name] for each in profiles), Counter())
            for name in first.categories
        },
        bots=sum(each.bots for each in profiles),
    )


def _usual(days: Sequence[Mapping[str, int]], rows_min: int) -> dict[str, float]:
    """The share of each value on a usual day: the median of the days that have so many rows, so
    that a day on which something broke is not what is usual for the week after it. Where fewer than
    three have, it is that of all days together.
    """
    values = {value for each in days for value in each}
    large = [each for each in days if sum(each.values()) >= rows_min]
    if len(large) >= DAYS_MIN:
        medians = {
            value: float(np.median([each.get(value, 0) / sum(each.values()) for each in large]))
            for value in values
        }
        if (whole := sum(medians.values())) > 0:
            return {value: share / whole for value, share in medians.items()}
    rows = sum(sum(each.values()) for each in days)
    return {value: sum(each.get(value, 0) for each in days) / rows for value in values}


def _alike(events: pa.Table) -> tuple[int, int]:
    """Of the events that name an item or ask for something: how many there are, and how many say
    the same as another of that second.
    """
    said = by_people(events)
    said = said.filter(pc.or_(pc.is_valid(said["item_id"]), pc.is_valid(said["query"])))
    said = said.append_column("second", pa.array(micros(said["ts"]) // SECOND))
    different = said.group_by(
        ["person", "type", "item_id", "query", "request_id", "second"]
    ).aggregate([])
    return said.num_rows, said.num_rows - different.num_rows


def _stability(now: Mapping[str, int], usual: Mapping[str, float]) -> tuple[float, str]:
    values = sorted({*now, *usual})
    shares = [
        np.maximum(np.array([each.get(value, 0) for value in values]) / sum(each.values()), _FLOOR)
        for each in (now, usual)
    ]
    parts = (shares[0] - shares[1]) * np.log(shares[0] / shares[1])
    most = int(np.argmax(parts))
    return float(
        parts.sum()
    ), f"{values[most]}: {shares[0][most]:.0%}, {shares[1][most]:.0%} are usual"


def _key(events: pa.Table) -> pa.Array:
    subject = pc.coalesce(events["person"], events["item_id"], pa.scalar(""))
    return pc.binary_join_element_wise(events["event_id"], subject, "\x1f")


def _mostly(values: Sequence[str], among: Collection[str]) -> bool:
    return 2 * sum(value in among for value in values) > len(values)


def _seen(events: pa.Table) -> set[tuple[str, str]]:
    shown = events.filter(pc.equal(events["type"], "impression"))
    pairs: set[tuple[str, str]] = set()
    for request, item, items in zip(
        *(shown[name].to_pylist() for name in ("request_id", "item_id", "items")), strict=True
    ):
        pairs.update((request, each) for each in (items or []))
        if item is not None:
            pairs.add((request, item))
    return pairs
