"""The daily checks: functions of a `Day` that say whether something is wrong with its data, and in words what.

Each compares the day with itself or with the days before, and says `none` where there is too little to judge by. Limits stand beside
the check; they are wide, since a check that fails every week is not read.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tailorbird.events import DAY, HOUR, MINUTE, micros, show_duration, to_iso
from tailorbird.monitoring.day import HISTORY_DAYS, OWN_COLUMNS, Day, Profile

OK, FAILED, NONE = "ok", "failed", "none"

HOUR_LOW, HOUR_HIGH, HOUR_ROWS = 0.5, 3.0, 20  # of the median of the same hour before; an hour with fewer rows is not judged
FEW_LOW, FEW_HIGH, FEW_ROWS = 0.1, 10.0, 200  # where an hour has few: people come in bursts, of which one more or less is no news
DAY_LOW, DAY_HIGH = 0.3, 5.0  # of the median of whole days before; a Sunday is no fault
REPEATS_MAX = 0.2
LATE_MAX = 0.02
NULLS_MAX, NULLS_ROWS = 0.15, 100  # the share of nulls may move so far
PSI_MAX, PSI_ROWS = 0.25, 200  # the usual limit of "has shifted"
ORPHANS_MAX, UNSEEN_MAX, CLICKS_MIN = 0.05, 0.2, 20
SKEW_US, SKEW_MAX, SKEW_ROWS, SKEW_PEOPLE = 2 * MINUTE, 0.1, 30, 5  # the clock of one person alone is theirs to mend
BOTS_MAX, ONE_PERSON_MAX, ONE_PERSON_ROWS = 0.15, 0.05, 1_000
REFUSED_MAX, REFUSED_ROWS = 0.05, 20
_SHOWN = 5
_FLOOR = 1e-3  # a value's share, for the logarithm


class Check(msgspec.Struct, frozen=True):
    """What one check found.

    Attributes:
        value, limit: the figure that it looks at, and past which it fails; for the history.
        told: a sentence.
        details: what is wrong, one thing each.
    """

    name: str
    status: str
    value: float
    limit: float
    told: str
    details: list[str] = []


class Wanted(msgspec.Struct, frozen=True):
    """What a project declares of its days: see `config.contract_file`."""

    unique: Mapping[str, Sequence[str]] = {}
    daily_min: Mapping[str, int] = {}
    fresh_within: Mapping[str, int] = {}


def run_checks(day: Day, wanted: Wanted, further: Sequence[Check] = ()) -> list[Check]:
    """All checks of a day, and what others found beside."""
    return [check(day) for check in _CHECKS] + [volume(day, wanted), freshness(day, wanted), uniqueness(day, wanted), *further]


def hours(day: Day) -> Check:
    """Each hour that is over, against the same hour of the days before."""
    wrong, worst, judged = [], 1.0, 0
    nothing = "no three days before to compare with" if len(day.before) < 3 else f"no hour that is over has {HOUR_ROWS} events as a rule"
    for hour in range(24):
        same = sorted(profile.hours[hour] for profile in day.before)
        expected = float(np.median(same)) if len(same) >= 3 else 0.0
        if expected < HOUR_ROWS or day.start + (hour + 1) * HOUR > day.until:
            continue
        judged += 1
        share = day.profile.hours[hour] / expected
        worst = min(worst, share)
        low, high = (HOUR_LOW, HOUR_HIGH) if expected >= FEW_ROWS else (FEW_LOW, FEW_HIGH)
        if not low <= share <= high:
            wrong.append(f"{hour:02}:00 has {day.profile.hours[hour]:,} events, {expected:,.0f} are usual")
    return _verdict("hours", judged, wrong, worst, HOUR_LOW, "every hour has about what is usual", nothing)


def total(day: Day) -> Check:
    """The whole day, once it is over, against the days before; a day without any event is a fault as soon as one before has some."""
    rows, usual = day.events.num_rows, float(np.median([profile.rows for profile in day.before])) if day.before else 0.0
    share, low, high = rows / usual if usual else 1.0, *((DAY_LOW, DAY_HIGH) if usual >= FEW_ROWS else (FEW_LOW, FEW_HIGH))
    if day.until < day.start + 24 * HOUR:
        return Check("total", NONE, share, low, "the day is not over")
    if day.before and not rows:
        wrong = [f"the day has no event at all, {usual:,.0f} are usual"]
        return _verdict("total", 1, wrong, share, low, "")
    judged = len(day.before) >= 3 and usual >= HOUR_ROWS
    wrong = [f"the day's events are {rows:,}, {usual:,.0f} are usual"] if judged and not low <= share <= high else []
    nothing = "no three days before to compare with" if len(day.before) < 3 else f"fewer than {HOUR_ROWS} events a day are usual"
    return _verdict("total", judged, wrong, share, low, f"{rows:,} events, {usual:,.0f} are usual", nothing)


def duplicates(day: Day) -> Check:
    """No event stands twice in the table; and not many were sent twice."""
    twice = day.events.num_rows - pc.count_distinct(_key(day.events)).as_py() if day.events.num_rows else 0
    rows = sum(day.repeated.values())
    share = day.repeats / max(1, day.events.num_rows)
    wrong = [f"{twice:,} events stand twice in the table"] * bool(twice) + [f"{rows:,} raw rows became more than one row"] * bool(rows)
    if share > REPEATS_MAX:
        wrong.append(f"{day.repeats:,} events were sent again ({share:.0%}): a client retries too often")
    return _verdict("duplicates", day.events.num_rows, wrong, share, REPEATS_MAX, f"{day.repeats:,} repeats were dropped, none is left")


def gaps(day: Day) -> Check:
    """Every raw row between the day's first and last is in a table."""
    wrong = [
        f"{count:,} raw rows of {partition} are in no table; tailorbird lake verify" for partition, count in day.missing.items() if count
    ]
    return _verdict("gaps", len(day.missing), wrong, sum(day.missing.values()), 0, "every raw row is accounted for")


def late(day: Day) -> Check:
    """Events that came so late that no feature counts them."""
    count = int(pc.sum(pc.invert(day.events["counts"])).as_py() or 0)
    share = count / max(1, day.events.num_rows)
    wrong = [f"{count:,} events came too late to count in features"] if share > LATE_MAX else []
    return _verdict("late", day.events.num_rows, wrong, share, LATE_MAX, f"{share:.1%} came too late to count")


def nulls(day: Day) -> Check:
    """The share of events of a type without a column, against the days before."""
    reference, wrong, worst, judged = _sum(day.before), [], 0.0, 0
    if reference is not None:
        for type_, rows in day.profile.types.items():
            if min(rows, reference.types[type_]) < NULLS_ROWS:
                continue
            for column in {column for kind, column in (*day.profile.nulls, *reference.nulls) if kind == type_}:
                judged += 1
                share = day.profile.nulls[type_, column] / rows
                usual = reference.nulls[type_, column] / reference.types[type_]
                worst = max(worst, abs(share - usual))
                if abs(share - usual) > NULLS_MAX:
                    wrong.append(f"{share:.0%} of {type_} have no {column}, {usual:.0%} are usual")
    return _verdict("nulls", judged, sorted(wrong), worst, NULLS_MAX, "columns are as full as usual", "no days before to compare with")


def categories(day: Day) -> Check:
    """How the values of a column are spread, against the days before: the population stability index."""
    reference, wrong, worst, judged = _sum(day.before), [], 0.0, 0
    for column, counted in day.profile.categories.items():
        usual = reference.categories[column] if reference is not None else {}
        if min(sum(counted.values()), sum(usual.values())) < PSI_ROWS:
            continue
        judged += 1
        index, moved = _stability(counted, usual)
        worst = max(worst, index)
        if index > PSI_MAX:
            wrong.append(f"{column} has shifted (PSI {index:.2f}), most of all {moved}")
    return _verdict("categories", judged, wrong, worst, PSI_MAX, "values are spread as usual", "too few events to compare")


def orphans(day: Day) -> Check:
    """Clicks that name an answer which there is not, or an item that nobody reported as seen."""
    clicks = day.events.filter(pc.and_(pc.equal(day.events["type"], "click"), pc.is_valid(day.events["request_id"])))
    if clicks.num_rows < CLICKS_MIN:
        return Check("orphans", NONE, 0.0, ORPHANS_MAX, "hardly any click names an answer")
    known = pc.is_in(clicks["request_id"], value_set=pa.array(sorted(day.answered), pa.string()))
    share = 1 - (pc.sum(known).as_py() or 0) / clicks.num_rows
    wrong = [f"{share:.0%} of the clicks name an answer that is not in the lake"] if share > ORPHANS_MAX else []
    seen = _seen(day.events)
    if seen and not wrong:
        named = clicks.filter(known)
        pairs = list(zip(named["request_id"].to_pylist(), named["item_id"].to_pylist(), strict=True))
        unseen = sum(pair not in seen for pair in pairs) / max(1, len(pairs))
        if unseen > UNSEEN_MAX:
            wrong.append(f"{unseen:.0%} of the clicks are on items without an impression")
    return _verdict("orphans", clicks.num_rows, wrong, share, ORPHANS_MAX, "clicks follow answers and impressions")


def skew(day: Day) -> Check:
    """How far the clocks of clients are off when they send, by device."""
    sent = day.events.filter(pc.is_valid(day.events["sent_at"]))
    off = np.abs(micros(sent["received_at"]) - micros(sent["sent_at"])) > SKEW_US
    device = np.array([each or "without a device" for each in sent["device"].to_pylist()], object)
    person = np.array([each or "" for each in sent["person"].to_pylist()], object)
    wrong, worst, judged = [], 0.0, 0
    for name in sorted(set(device.tolist())):
        mine = off[device == name]
        if len(mine) < SKEW_ROWS:
            continue
        judged += 1
        worst = max(worst, float(mine.mean()))
        if mine.mean() > SKEW_MAX and len(set(person[device == name][mine].tolist())) >= SKEW_PEOPLE:
            wrong.append(f"the clocks of {mine.mean():.0%} of the events of {name} are off by more than {show_duration(SKEW_US)}")
    return _verdict("skew", judged, wrong, worst, SKEW_MAX, "the clocks of clients are right", "clients do not say when they send")


def bots(day: Day) -> Check:
    """The share of known bots against the days before, and people who do too much to be people."""
    rows, reference = day.events.num_rows, _sum(day.before)
    share = day.profile.bots / max(1, rows)
    usual = reference.bots / reference.rows if reference is not None and reference.rows else 0.0
    wrong = [f"{share:.0%} of the events are of bots, {usual:.0%} are usual"] if share > usual + BOTS_MAX else []
    human = day.events.filter(pc.fill_null(pc.not_equal(day.events["agent"], "bot"), True))
    found = pc.value_counts(pc.drop_null(human["person"]))
    counts = found.field("counts").to_numpy()
    most = int(np.sum(counts > max(ONE_PERSON_ROWS, ONE_PERSON_MAX * rows)))
    if most:
        wrong.append(f"{most:,} people made more than {ONE_PERSON_MAX:.0%} of all events each; they are not marked as bots")
    return _verdict("bots", rows, wrong, share, usual + BOTS_MAX, f"{share:.1%} of the events are of bots")


def refused(day: Day) -> Check:
    """What broke the contract."""
    count = sum(day.refused.values())
    share = count / max(1, count + day.events.num_rows)
    wrong = []
    if share > REFUSED_MAX and count >= REFUSED_ROWS:
        wrong = [f"{rows:,} were refused: {code}" for code, rows in sorted(day.refused.items(), key=lambda each: -each[1])[:_SHOWN]]
    return _verdict("refused", count + day.events.num_rows, wrong, share, REFUSED_MAX, f"{count:,} events were refused ({share:.1%})")


def volume(day: Day, wanted: Wanted) -> Check:
    """At least as many events of a type as are declared, where the day is over."""
    over = day.until >= day.start + 24 * HOUR
    wrong = [
        f"{day.profile.types[type_]:,} events of type {type_}, at least {least:,} are declared"
        for type_, least in wanted.daily_min.items()
        if over and day.profile.types[type_] < least
    ]
    return _verdict("volume", len(wanted.daily_min) * over, wrong, len(wrong), 0, "as declared", "contract.toml declares none")


def freshness(day: Day, wanted: Wanted) -> Check:
    """The newest event of a type, of the day or of the week before, is as young as declared; older ones are not looked for."""
    wrong = []
    for type_, span in wanted.fresh_within.items():
        known = [profile.newest[type_] for profile in (day.profile, *day.before) if type_ in profile.newest]
        newest = max(known, default=day.start - HISTORY_DAYS * DAY)
        if day.until - newest > span:
            when = to_iso(newest) if known else f"{HISTORY_DAYS} days before the day, or older"
            wrong.append(f"the newest {type_} is of {when}; one within {show_duration(span)} is declared")
    return _verdict("freshness", len(wanted.fresh_within), wrong, len(wrong), 0, "as declared", "contract.toml declares none")


def uniqueness(day: Day, wanted: Wanted) -> Check:
    """Properties that are declared as unique differ in all events of the day."""
    wrong = []
    for type_, names in wanted.unique.items():
        of_type = day.events.filter(pc.equal(day.events["type"], type_))
        values: list[dict[str, Any]] = [msgspec.json.decode(text) if text else {} for text in of_type["properties"].to_pylist()]
        for name in names:
            found = of_type[name].to_pylist() if name in OWN_COLUMNS else [each.get(name) for each in values]
            given = [msgspec.json.encode(value) for value in found if value is not None]
            if twice := len(given) - len(set(given)):
                wrong.append(f"{twice:,} {type_} repeat a {name} of another")
    return _verdict("uniqueness", len(wanted.unique), wrong, len(wrong), 0, "as declared", "contract.toml declares none")


_CHECKS: tuple[Callable[[Day], Check], ...] = (hours, total, duplicates, gaps, late, nulls, categories, orphans, skew, bots, refused)


def _verdict(name: str, judged: int, wrong: list[str], value: float, limit: float, good: str, nothing: str = "no events") -> Check:
    if wrong:
        return Check(name, FAILED, float(value), float(limit), wrong[0], wrong[:_SHOWN])
    return Check(name, OK if judged else NONE, float(value), float(limit), good if judged else nothing)


def _sum(profiles: Sequence[Profile]) -> Profile | None:
    if not profiles:
        return None
    first = profiles[0]
    return Profile(
        sum(each.rows for each in profiles),
        first.hours,
        sum((each.types for each in profiles), type(first.types)()),
        sum((each.nulls for each in profiles), type(first.nulls)()),
        {name: sum((each.categories[name] for each in profiles), type(first.types)()) for name in first.categories},
        sum(each.bots for each in profiles),
        first.newest,
    )


def _stability(now: Mapping[str, int], usual: Mapping[str, int]) -> tuple[float, str]:
    values = sorted({*now, *usual})
    shares = [np.maximum(np.array([each.get(value, 0) for value in values]) / sum(each.values()), _FLOOR) for each in (now, usual)]
    parts = (shares[0] - shares[1]) * np.log(shares[0] / shares[1])
    most = int(np.argmax(parts))
    return float(parts.sum()), f"{values[most]}: {shares[0][most]:.0%}, {shares[1][most]:.0%} are usual"


def _key(events: pa.Table) -> pa.Array:
    subject = pc.coalesce(events["person"], events["item_id"], pa.scalar(""))
    return pc.binary_join_element_wise(events["event_id"], subject, "\x1f")


def _seen(events: pa.Table) -> set[tuple[str, str]]:
    shown = events.filter(pc.equal(events["type"], "impression"))
    pairs: set[tuple[str, str]] = set()
    for request, item, items in zip(*(shown[name].to_pylist() for name in ("request_id", "item_id", "items")), strict=True):
        pairs.update((request, each) for each in (items or []))
        if item is not None:
            pairs.add((request, item))
    return pairs
