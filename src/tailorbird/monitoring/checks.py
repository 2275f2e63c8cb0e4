"""Daily data checks: functions of a `Day` that return whether something is wrong, and what.

Each compares the day with itself or with the days before, and returns `none` if there is too little
data. Limits are next to the checks. They are wide, because people ignore a check that fails every
week. `monitoring.amounts` checks event counts.
"""

from collections.abc import Callable, Collection, Sequence
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tailorbird.events import MINUTE, SECOND, format_duration, micros
from tailorbird.events.contract.envelope import PROPERTY_COLUMNS
from tailorbird.monitoring.amounts import (
    DayExpectations,
    check_freshness,
    check_hours,
    check_total,
    check_volume,
)
from tailorbird.monitoring.day import Day, without_profiles
from tailorbird.monitoring.usual import merge_profiles, stability_index, usual_shares
from tailorbird.monitoring.verdict import NOT_JUDGED, Check, build_check

REPEATS_MAX = 0.2  # events sent again over those of the day
REPEATED_ACTIONS_MAX = 0.2
REPEATED_ACTIONS_ROWS_MIN = 100
LATE_MAX = 0.02  # share of the events received
# largest change in the share of nulls
NULLS_MAX = 0.15
NULLS_ROWS_MIN = 100
# the conventional limit of a shift
PSI_MAX = 0.25
PSI_ROWS_MIN = 200
# shares of the clicks
ORPHANS_MAX = 0.05
UNSEEN_MAX = 0.2
CLICKS_MIN = 20
# off by this; share of events
SKEW_US = 2 * MINUTE
SKEW_MAX = 0.1
SKEW_ROWS_MIN = 30
SKEW_PEOPLE_MIN = 5  # the clocks of a few people are no fault of the site
# above the usual share; share
BOTS_MAX = 0.15
ONE_PERSON_MAX = 0.05
ONE_PERSON_ROWS_MIN = 1_000
REFUSED_MAX = 0.05
REFUSED_ROWS_MIN = 20


def run_checks(
    day: Day, expectations: DayExpectations, extra_checks: Sequence[Check] = ()
) -> list[Check]:
    """Run all checks of a day, and append the extra checks."""
    return [check(day) for check in _CHECKS] + [
        check_volume(day, expectations),
        check_freshness(day, expectations),
        check_uniqueness(day, expectations),
        *extra_checks,
    ]


def check_duplicates(day: Day) -> Check:
    """Check that no event is in the table twice, and that few were sent twice.

    An event sent twice may have one id or two.
    """
    duplicated_rows = 0
    if day.events.num_rows:
        duplicated_rows = len(day.events) - pc.count_distinct(_event_keys(day.events)).as_py()
    repeated_rows = sum(day.repeated_by_partition.values())
    share = day.repeat_count / max(1, day.events.num_rows)
    problems = [f"{duplicated_rows:,} events stand twice in the table"] * bool(duplicated_rows) + [
        f"{repeated_rows:,} raw rows became more than one row"
    ] * bool(repeated_rows)
    if share > REPEATS_MAX:
        problems.append(
            f"{day.repeat_count:,} events were sent again ({share:.0%}): a client retries too often"
        )
    action_count, repeated_actions = _count_repeated_actions(day.events)
    repeated_share = repeated_actions / max(1, action_count)
    if action_count >= REPEATED_ACTIONS_ROWS_MIN and repeated_share > REPEATED_ACTIONS_MAX:
        problems.append(
            f"{repeated_share:.0%} of the events repeat another of that second, under an id "
            "of their own: a client sends twice"
        )
    return build_check(
        "duplicates",
        judged_count=day.events.num_rows,
        problems=problems,
        value=share,
        limit=REPEATS_MAX,
        ok_text=f"{day.repeat_count:,} repeats were dropped, none is left",
    )


def check_gaps(day: Day) -> Check:
    """Check that every raw row between the day's first and last is in a table."""
    problems = [
        f"{count:,} raw rows of {partition} are in no table; tailorbird lake verify"
        for partition, count in day.missing_by_partition.items()
        if count
    ]
    return build_check(
        "gaps",
        judged_count=len(day.missing_by_partition),
        problems=problems,
        value=sum(day.missing_by_partition.values()),
        limit=0,
        ok_text="every raw row is accounted for",
    )


def check_late(day: Day) -> Check:
    """Check the share of events that arrived too late to count in features.

    Their day's report is already written.
    """
    share = day.too_late_count / max(1, day.received_count)
    problems = []
    if share > LATE_MAX:
        text = f"{day.too_late_count:,} events came too late to count in features"
        problems = [f"{text} ({share:.0%} of what came in)"]
    return build_check(
        "late",
        judged_count=day.received_count,
        problems=problems,
        value=share,
        limit=LATE_MAX,
        ok_text=f"{share:.1%} came too late to count",
    )


def check_nulls(day: Day) -> Check:
    """Check the share of null columns by event type against the days before."""
    reference = merge_profiles(day.earlier_days)
    problems = []
    largest_change = 0.0
    checked_count = 0
    if reference is not None:
        for type_, rows in day.profile.type_counts.items():
            if min(rows, reference.type_counts[type_]) < NULLS_ROWS_MIN:
                continue
            for column in {
                column
                for event_type, column in (*day.profile.null_counts, *reference.null_counts)
                if event_type == type_
            }:
                checked_count += 1
                share = day.profile.null_counts[type_, column] / rows
                earlier_counts = [
                    {
                        "null": earlier_day.null_counts[type_, column],
                        "": earlier_day.type_counts[type_] - earlier_day.null_counts[type_, column],
                    }
                    for earlier_day in day.earlier_days
                ]
                usual_share = usual_shares(earlier_counts, NULLS_ROWS_MIN)["null"]
                largest_change = max(largest_change, abs(share - usual_share))
                if abs(share - usual_share) > NULLS_MAX:
                    problems.append(
                        f"{share:.0%} of {type_} have no {column}, {usual_share:.0%} are usual"
                    )
    return build_check(
        "nulls",
        judged_count=checked_count,
        problems=sorted(problems),
        value=largest_change,
        limit=NULLS_MAX,
        ok_text="columns are as full as usual",
        skip_reason="no days before to compare with",
    )


def check_categories(day: Day) -> Check:
    """Check the distribution of categorical columns by population stability index."""
    problems = []
    largest_psi = 0.0
    checked_count = 0
    for column, value_counts in day.profile.category_counts.items():
        earlier_counts = [profile.category_counts[column] for profile in day.earlier_days]
        earlier_rows = sum(sum(counts.values()) for counts in earlier_counts)
        if min(sum(value_counts.values()), earlier_rows) < PSI_ROWS_MIN:
            continue
        checked_count += 1
        usual = usual_shares(earlier_counts, PSI_ROWS_MIN)
        psi, most_shifted = stability_index(value_counts, usual)
        largest_psi = max(largest_psi, psi)
        if psi > PSI_MAX:
            problems.append(f"{column} has shifted (PSI {psi:.2f}), most of all {most_shifted}")
    return build_check(
        "categories",
        judged_count=checked_count,
        problems=problems,
        value=largest_psi,
        limit=PSI_MAX,
        ok_text="values are spread as usual",
        skip_reason="too few events to compare",
    )


def check_orphans(day: Day) -> Check:
    """Check that clicks name existing responses and items with an impression.

    If another system serves some responses, nothing in an event says which one a click follows, so
    the check fails and says so.
    """
    clicks = day.events.filter(
        pc.and_(pc.equal(day.events["type"], "click"), pc.is_valid(day.events["request_id"]))
    )
    if clicks.num_rows < CLICKS_MIN:
        return Check("orphans", NOT_JUDGED, 0.0, ORPHANS_MAX, "hardly any click names an answer")
    has_answer = pc.is_in(
        clicks["request_id"], value_set=pa.array(sorted(day.answered_requests), pa.string())
    )
    share = 1 - (pc.sum(has_answer).as_py() or 0) / clicks.num_rows
    seen_pairs = _seen_items(day.events)
    problems = []
    if share > ORPHANS_MAX:
        problems = [f"{share:.0%} of the clicks name an answer that is not in the lake"]
    if problems and _is_mostly_in(
        clicks.filter(pc.invert(has_answer))["request_id"].to_pylist(),
        {request for request, _ in seen_pairs},
    ):
        problems[0] += (
            "; most of these were reported as seen: answers were lost, or another system "
            "gives some (leave their request_id out)"
        )
    if seen_pairs and not problems:
        matched = clicks.filter(has_answer)
        pairs = list(
            zip(matched["request_id"].to_pylist(), matched["item_id"].to_pylist(), strict=True)
        )
        unseen_share = sum(pair not in seen_pairs for pair in pairs) / max(1, len(pairs))
        if unseen_share > UNSEEN_MAX:
            problems.append(f"{unseen_share:.0%} of the clicks are on items without an impression")
    return build_check(
        "orphans",
        judged_count=clicks.num_rows,
        problems=problems,
        value=share,
        limit=ORPHANS_MAX,
        ok_text="clicks follow answers and impressions",
    )


def check_skew(day: Day) -> Check:
    """Check the share of a device's events that were sent by a wrong clock.

    Clients that do not report when they send count as right.
    """
    events = without_profiles(day.events)
    events = events.filter(pc.not_equal(events["type"], "answer"))
    sent_at = pc.coalesce(events["sent_at"], events["received_at"])
    is_clock_wrong = np.abs(micros(events["received_at"]) - micros(sent_at)) > SKEW_US
    device_names = events["device"].to_pylist()
    devices = np.array([name or "without a device" for name in device_names], object)
    persons = np.array([name or "" for name in events["person"].to_pylist()], object)
    problems = []
    largest_share = 0.0
    checked_count = pc.count(events["sent_at"]).as_py()
    for name in sorted(set(devices.tolist())):
        is_wrong_on_device = is_clock_wrong[devices == name]
        if len(is_wrong_on_device) < SKEW_ROWS_MIN:
            continue
        largest_share = max(largest_share, float(is_wrong_on_device.mean()))
        persons_off = set(persons[devices == name][is_wrong_on_device].tolist())
        if is_wrong_on_device.mean() > SKEW_MAX and len(persons_off) >= SKEW_PEOPLE_MIN:
            problems.append(
                f"the clocks of {is_wrong_on_device.mean():.0%} of the events of {name} are off by "
                f"more than {format_duration(SKEW_US)}"
            )
    ok_text = f"the clocks of at most {largest_share:.1%} of a device's events are off"
    return build_check(
        "skew",
        judged_count=checked_count,
        problems=problems,
        value=largest_share,
        limit=SKEW_MAX,
        ok_text=ok_text,
        skip_reason="clients do not say when they send",
    )


def check_bots(day: Day) -> Check:
    """Check the share of known bots, and for people who are too active to be human."""
    rows = day.events.num_rows
    reference = merge_profiles(day.earlier_days)
    share = day.profile.bot_count / max(1, day.profile.event_count)
    usual_share = 0.0
    problems = []
    if reference is not None and reference.event_count:
        usual_share = reference.bot_count / reference.event_count
    if share > usual_share + BOTS_MAX:
        problems = [f"{share:.0%} of the events are of bots, {usual_share:.0%} are usual"]
    human_events = day.events.filter(pc.fill_null(pc.not_equal(day.events["agent"], "bot"), True))
    person_counts = pc.value_counts(pc.drop_null(human_events["person"]))
    counts = person_counts.field("counts").to_numpy()
    busy_people = int(np.sum(counts > max(ONE_PERSON_ROWS_MIN, ONE_PERSON_MAX * rows)))
    if busy_people:
        problems.append(
            f"{busy_people:,} people made more than {ONE_PERSON_MAX:.0%} of all events each; they "
            "are not marked as bots"
        )
    return build_check(
        "bots",
        judged_count=rows,
        problems=problems,
        value=share,
        limit=usual_share + BOTS_MAX,
        ok_text=f"{share:.1%} of the events are of bots",
    )


def check_refused(day: Day) -> Check:
    """Check the share of events that violated the contract."""
    count = sum(day.refused_by_reason.values())
    share = count / max(1, count + day.accepted_count)
    problems = []
    if share > REFUSED_MAX and count >= REFUSED_ROWS_MIN:
        problems = [
            f"{rows:,} were refused: {code}"
            for code, rows in sorted(day.refused_by_reason.items(), key=lambda item: -item[1])
        ]
    return build_check(
        "refused",
        judged_count=count + day.accepted_count,
        problems=problems,
        value=share,
        limit=REFUSED_MAX,
        ok_text=f"{count:,} events were refused ({share:.1%})",
    )


def check_uniqueness(day: Day, expectations: DayExpectations) -> Check:
    """Check that properties declared unique differ in all events of the day.

    A property that no event has is named, but not judged.
    """
    problems: list[str] = []
    missing_properties: list[str] = []
    for type_, property_names in expectations.unique.items():
        typed_events = day.events.filter(pc.equal(day.events["type"], type_))
        values: list[dict[str, Any]] = [
            msgspec.json.decode(text) if text else {}
            for text in typed_events["properties"].to_pylist()
        ]
        for name in property_names:
            property_values = (
                typed_events[name].to_pylist()
                if name in PROPERTY_COLUMNS
                else [value.get(name) for value in values]
            )
            encoded_values = [
                msgspec.json.encode(value) for value in property_values if value is not None
            ]
            if repeated_values := len(encoded_values) - len(set(encoded_values)):
                problems.append(f"{repeated_values:,} {type_} repeat a {name} of another")
            if not encoded_values:
                missing_properties.append(f"no {type_} has a property {name}")
    checked_count = sum(map(len, expectations.unique.values())) - len(missing_properties)
    skip_reason = "; ".join(missing_properties) or "contract.toml declares none"
    return build_check(
        "uniqueness",
        judged_count=checked_count,
        problems=problems,
        value=len(problems),
        limit=0,
        ok_text="; ".join(["as declared", *missing_properties]),
        skip_reason=skip_reason,
    )


_CHECKS: tuple[Callable[[Day], Check], ...] = (
    check_hours,
    check_total,
    check_duplicates,
    check_gaps,
    check_late,
    check_nulls,
    check_categories,
    check_orphans,
    check_skew,
    check_bots,
    check_refused,
)


def _count_repeated_actions(events: pa.Table) -> tuple[int, int]:
    """Count events with an item or query, and those that repeat another in the same second."""
    actions = without_profiles(events)
    actions = actions.filter(pc.or_(pc.is_valid(actions["item_id"]), pc.is_valid(actions["query"])))
    actions = actions.append_column("second", pa.array(micros(actions["ts"]) // SECOND))
    distinct_actions = actions.group_by(
        ["person", "type", "item_id", "query", "request_id", "second"]
    ).aggregate([])
    return actions.num_rows, actions.num_rows - distinct_actions.num_rows


def _event_keys(events: pa.Table) -> pa.Array:
    subject = pc.coalesce(events["person"], events["item_id"], pa.scalar(""))
    return pc.binary_join_element_wise(events["event_id"], subject, "\x1f")


def _is_mostly_in(values: Sequence[str], members: Collection[str]) -> bool:
    return 2 * sum(value in members for value in values) > len(values)


def _seen_items(events: pa.Table) -> set[tuple[str, str]]:
    impressions = events.filter(pc.equal(events["type"], "impression"))
    pairs: set[tuple[str, str]] = set()
    for request, item, items in zip(
        *(impressions[name].to_pylist() for name in ("request_id", "item_id", "items")), strict=True
    ):
        pairs.update((request, item) for item in (items or []))
        if item is not None:
            pairs.add((request, item))
    return pairs
