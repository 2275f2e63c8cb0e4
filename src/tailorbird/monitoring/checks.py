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
from tailorbird.monitoring.verdict import NONE, Check, build_check

REPEATS_MAX = 0.2
REPEATED_ACTIONS_MAX, REPEATED_ACTIONS_ROWS = 0.2, 100
LATE_MAX = 0.02
NULLS_MAX, NULLS_ROWS = 0.15, 100  # largest change in the share of nulls
PSI_MAX, PSI_ROWS = 0.25, 200  # the conventional limit of a shift
ORPHANS_MAX, UNSEEN_MAX, CLICKS_MIN = 0.05, 0.2, 20
SKEW_US, SKEW_MAX, SKEW_ROWS, SKEW_PEOPLE = (
    2 * MINUTE,
    0.1,
    30,
    5,
)  # the clocks of a few people are no fault of the site
BOTS_MAX, ONE_PERSON_MAX, ONE_PERSON_ROWS = 0.15, 0.05, 1_000
REFUSED_MAX, REFUSED_ROWS = 0.05, 20


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
    duplicated_rows = (
        day.events.num_rows - pc.count_distinct(_event_keys(day.events)).as_py()
        if day.events.num_rows
        else 0
    )
    repeated_rows = sum(day.repeated.values())
    share = day.repeats / max(1, day.events.num_rows)
    problems = [f"{duplicated_rows:,} events stand twice in the table"] * bool(duplicated_rows) + [
        f"{repeated_rows:,} raw rows became more than one row"
    ] * bool(repeated_rows)
    if share > REPEATS_MAX:
        problems.append(
            f"{day.repeats:,} events were sent again ({share:.0%}): a client retries too often"
        )
    checked, repeated_actions = _count_repeated_actions(day.events)
    if checked >= REPEATED_ACTIONS_ROWS and repeated_actions > REPEATED_ACTIONS_MAX * checked:
        problems.append(
            f"{repeated_actions / checked:.0%} of the events repeat another of that second, under an id "
            "of their own: a client sends twice"
        )
    return build_check(
        "duplicates",
        day.events.num_rows,
        problems,
        share,
        REPEATS_MAX,
        f"{day.repeats:,} repeats were dropped, none is left",
    )


def check_gaps(day: Day) -> Check:
    """Check that every raw row between the day's first and last is in a table."""
    problems = [
        f"{count:,} raw rows of {partition} are in no table; tailorbird lake verify"
        for partition, count in day.missing.items()
        if count
    ]
    return build_check(
        "gaps",
        len(day.missing),
        problems,
        sum(day.missing.values()),
        0,
        "every raw row is accounted for",
    )


def check_late(day: Day) -> Check:
    """Check the share of events that arrived too late to count in features.

    Their day's report is already written.
    """
    share = day.too_late / max(1, day.received)
    problems = (
        [
            f"{day.too_late:,} events came too late to count in features ({share:.0%} of "
            "what came in)"
        ]
        if share > LATE_MAX
        else []
    )
    return build_check(
        "late", day.received, problems, share, LATE_MAX, f"{share:.1%} came too late to count"
    )


def check_nulls(day: Day) -> Check:
    """Check the share of null columns by event type against the days before."""
    reference, problems, largest, checked = merge_profiles(day.earlier_days), [], 0.0, 0
    if reference is not None:
        for type_, rows in day.profile.types.items():
            if min(rows, reference.types[type_]) < NULLS_ROWS:
                continue
            for column in {
                column for kind, column in (*day.profile.nulls, *reference.nulls) if kind == type_
            }:
                checked += 1
                share = day.profile.nulls[type_, column] / rows
                day_counts = [
                    {
                        "null": earlier_day.nulls[type_, column],
                        "": earlier_day.types[type_] - earlier_day.nulls[type_, column],
                    }
                    for earlier_day in day.earlier_days
                ]
                usual = usual_shares(day_counts, NULLS_ROWS)["null"]
                largest = max(largest, abs(share - usual))
                if abs(share - usual) > NULLS_MAX:
                    problems.append(
                        f"{share:.0%} of {type_} have no {column}, {usual:.0%} are usual"
                    )
    return build_check(
        "nulls",
        checked,
        sorted(problems),
        largest,
        NULLS_MAX,
        "columns are as full as usual",
        "no days before to compare with",
    )


def check_categories(day: Day) -> Check:
    """Check the distribution of categorical columns by population stability index."""
    problems, largest, checked = [], 0.0, 0
    for column, value_counts in day.profile.categories.items():
        before = [profile.categories[column] for profile in day.earlier_days]
        if min(sum(value_counts.values()), sum(sum(value.values()) for value in before)) < PSI_ROWS:
            continue
        checked += 1
        index, most_shifted = stability_index(value_counts, usual_shares(before, PSI_ROWS))
        largest = max(largest, index)
        if index > PSI_MAX:
            problems.append(f"{column} has shifted (PSI {index:.2f}), most of all {most_shifted}")
    return build_check(
        "categories",
        checked,
        problems,
        largest,
        PSI_MAX,
        "values are spread as usual",
        "too few events to compare",
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
        return Check("orphans", NONE, 0.0, ORPHANS_MAX, "hardly any click names an answer")
    has_answer = pc.is_in(
        clicks["request_id"], value_set=pa.array(sorted(day.answered_requests), pa.string())
    )
    share = 1 - (pc.sum(has_answer).as_py() or 0) / clicks.num_rows
    seen_pairs = _seen_items(day.events)
    problems = (
        [f"{share:.0%} of the clicks name an answer that is not in the lake"]
        if share > ORPHANS_MAX
        else []
    )
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
        unseen = sum(pair not in seen_pairs for pair in pairs) / max(1, len(pairs))
        if unseen > UNSEEN_MAX:
            problems.append(f"{unseen:.0%} of the clicks are on items without an impression")
    return build_check(
        "orphans",
        clicks.num_rows,
        problems,
        share,
        ORPHANS_MAX,
        "clicks follow answers and impressions",
    )


def check_skew(day: Day) -> Check:
    """Check the share of a device's events that were sent by a wrong clock.

    Clients that do not report when they send count as right.
    """
    events = without_profiles(day.events)
    events = events.filter(pc.not_equal(events["type"], "answer"))
    is_off = (
        np.abs(
            micros(events["received_at"])
            - micros(pc.coalesce(events["sent_at"], events["received_at"]))
        )
        > SKEW_US
    )
    device = np.array([name or "without a device" for name in events["device"].to_pylist()], object)
    person = np.array([name or "" for name in events["person"].to_pylist()], object)
    problems, largest, checked = [], 0.0, pc.count(events["sent_at"]).as_py()
    for name in sorted(set(device.tolist())):
        device_is_off = is_off[device == name]
        if len(device_is_off) < SKEW_ROWS:
            continue
        largest = max(largest, float(device_is_off.mean()))
        if (
            device_is_off.mean() > SKEW_MAX
            and len(set(person[device == name][device_is_off].tolist())) >= SKEW_PEOPLE
        ):
            problems.append(
                f"the clocks of {device_is_off.mean():.0%} of the events of {name} are off by more "
                f"than {format_duration(SKEW_US)}"
            )
    ok_text = f"the clocks of at most {largest:.1%} of a device's events are off"
    return build_check(
        "skew", checked, problems, largest, SKEW_MAX, ok_text, "clients do not say when they send"
    )


def check_bots(day: Day) -> Check:
    """Check the share of known bots, and for people who are too active to be human."""
    rows, reference = day.events.num_rows, merge_profiles(day.earlier_days)
    share = day.profile.bots / max(1, day.profile.rows)
    usual = reference.bots / reference.rows if reference is not None and reference.rows else 0.0
    problems = (
        [f"{share:.0%} of the events are of bots, {usual:.0%} are usual"]
        if share > usual + BOTS_MAX
        else []
    )
    human = day.events.filter(pc.fill_null(pc.not_equal(day.events["agent"], "bot"), True))
    person_counts = pc.value_counts(pc.drop_null(human["person"]))
    counts = person_counts.field("counts").to_numpy()
    busy_people = int(np.sum(counts > max(ONE_PERSON_ROWS, ONE_PERSON_MAX * rows)))
    if busy_people:
        problems.append(
            f"{busy_people:,} people made more than {ONE_PERSON_MAX:.0%} of all events each; they "
            "are not marked as bots"
        )
    return build_check(
        "bots", rows, problems, share, usual + BOTS_MAX, f"{share:.1%} of the events are of bots"
    )


def check_refused(day: Day) -> Check:
    """Check the share of events that violated the contract."""
    count = sum(day.refused.values())
    share = count / max(1, count + day.accepted)
    problems = []
    if share > REFUSED_MAX and count >= REFUSED_ROWS:
        problems = [
            f"{rows:,} were refused: {code}"
            for code, rows in sorted(day.refused.items(), key=lambda item: -item[1])
        ]
    return build_check(
        "refused",
        count + day.accepted,
        problems,
        share,
        REFUSED_MAX,
        f"{count:,} events were refused ({share:.1%})",
    )


def check_uniqueness(day: Day, expectations: DayExpectations) -> Check:
    """Check that properties declared unique differ in all events of the day.

    A property that no event has is named, but not judged.
    """
    problems: list[str] = []
    missing_properties: list[str] = []
    for type_, names in expectations.unique.items():
        typed_events = day.events.filter(pc.equal(day.events["type"], type_))
        values: list[dict[str, Any]] = [
            msgspec.json.decode(text) if text else {}
            for text in typed_events["properties"].to_pylist()
        ]
        for name in names:
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
    checked = sum(map(len, expectations.unique.values())) - len(missing_properties)
    skip_reason = "; ".join(missing_properties) or "contract.toml declares none"
    return build_check(
        "uniqueness",
        checked,
        problems,
        len(problems),
        0,
        "; ".join(["as declared", *missing_properties]),
        skip_reason,
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
