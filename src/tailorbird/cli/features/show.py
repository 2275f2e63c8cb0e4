"""`tailorbird features show`: feature values of an entity, now or in the past, explained."""

from typing import TYPE_CHECKING

from tailorbird.cli.features.missing_fields import print_missing_fields
from tailorbird.cli.features.person_item import (
    EVENTS_SELECT,
    PersonItemQuery,
    entities_without_events,
    entity_values,
    event_condition,
    find_person,
    newest_events,
    none_if_missing,
    print_without_events,
    pseudonymise_entity,
    require_feature,
    resolve_positions,
)
from tailorbird.cli.output import Json, console, print_json, print_table
from tailorbird.errors import NotReadyError, UsageError

if TYPE_CHECKING:
    from tailorbird.config import Project

_EVENT_COLUMNS = ("ts", "type", "item_id", "request_id", "p")


def show(
    *about: str,
    item: str = "",
    events: int = 10,
    why: str = "",
    at: str = "",
    known: list[int] | None = None,
    json: Json = False,
) -> None:
    """Show the features of a user, an item or any other entity, with its newest events.

    Any entity works: an item, a session, a query, a category, or several together. The command then
    shows the features of exactly that entity. If the lake has no event of it, the command says so;
    counts are then 0, and other values are missing.

    With `--at` or `--known` it shows each feature as of that time, computed from the lake, next to
    the state's present value. With `--why` it shows one feature instead: its value by the lake and
    the events that it was computed from, now or in the past.

    Example:  tailorbird -C shop features show user:u000001

    Example:  tailorbird -C shop features show user:u000001 --item i00001

    Example:  tailorbird -C shop features show item:i00001

    Example:  tailorbird -C shop features show item.category:shoes

    Example:  tailorbird -C shop features show user:u000001 item.category:shoes

    Example:  tailorbird -C shop features show user:u000001 --at 2026-11-25 --known 51203

    Example:  tailorbird -C shop features show user:u000001 --why user_clicks_7d --at 2026-11-25

    Parameters
    ----------
    about:
        the entity: user:ID, anonymous:ID for an unidentified visitor, item:ID, session:ID,
        query:TEXT, item.NAME:VALUE or another field of an entity; several fields name one entity
    item:
        for a user, also show the features of this item and of both together
    events:
        number of events to show
    why:
        name of a feature to explain by its events
    at:
        show values as of just before this time; by default now
    known:
        use only events up to this routed position, such as an answer's p; by default everything in
        the lake; with several workers, given once for each part in order, such as an answer's
        positions
    """
    from tailorbird.config import open_project
    from tailorbird.events import SystemClock
    from tailorbird.platform.clocks import parse_time, response_clock

    if not about:
        raise UsageError(
            "expected user:ID, anonymous:ID, item:ID or another FIELD:VALUE",
            fix="tailorbird features show user:u000001",
        )
    kind, _, entity_id = about[0].partition(":")
    is_single_subject = (
        len(about) == 1 and kind in ("user", "anonymous", "item") and entity_id != ""
    )
    if not is_single_subject and item:
        raise UsageError(
            "expected one person to go with it",
            where="--item",
            fix=f"{' '.join(about)} item:{item}",
        )
    if kind == "item":
        if item:
            raise UsageError(
                "expected a person to go with it", where="--item", fix=f"user:ID --item {item}"
            )
        entity_id, item = "", entity_id
    if known and min(known) < 0:
        raise UsageError(
            f"expected a position, got {min(known)}",
            where="--known",
            fix="an answer's own is its p",
        )
    project = open_project(use_applied=True)
    about = tuple(pseudonymise_entity(project, text) for text in about)
    if is_single_subject and kind != "item":
        entity_id = about[0].partition(":")[2]
    clock, clock_note = response_clock("", project, SystemClock())
    as_of = parse_time(at, "--at") if at else clock.now()
    if clock_note and not at and not json:
        console().print(clock_note)
    if why:
        require_feature(project, why)
    if not is_single_subject:
        from tailorbird.cli.features.show_about import EntityQuery, explain_about, show_about

        query = EntityQuery(
            about, as_of, resolve_positions(project, known), bool(at) or bool(known), events
        )
        explain_about(project, query, why, json) if why else show_about(project, query, json)
    elif why:
        _explain(
            project, PersonItemQuery(kind, entity_id, item, as_of, known, clock.now()), why, json
        )
    elif at or known:
        _show_past(
            project, PersonItemQuery(kind, entity_id, item, as_of, known, clock.now()), events, json
        )
    else:
        _show_current(
            project, PersonItemQuery(kind, entity_id, item, as_of, None, as_of), events, json
        )


def _show_current(project: "Project", query: PersonItemQuery, event_count: int, json: bool) -> None:
    from tailorbird.events import to_iso

    rows = _read_state(project, query)
    person = rows.person or ""
    values = entity_values(project, query, rows.numeric[0])
    present_values = {key: value for key, value in values.items() if value == value}
    event_rows = newest_events(project, event_condition(query, person), event_count)
    names_without_events = entities_without_events(project, query, person)
    if json:
        print_json(
            {
                "person": person,
                "t": rows.t,
                "commit": rows.commit,
                "p": rows.log_position,
                "features": present_values,
                "events": event_rows,
                "unheard_of": names_without_events,
            }
        )
        return
    print_table(
        f"{query.title(person)} at {to_iso(rows.t)}, known up to {rows.log_position:,}",
        ["feature", "value"],
        list(present_values.items()),
        numeric_columns=["value"],
    )
    missing_features = [key for key, value in values.items() if value != value]
    if missing_features:
        console().print(f"missing: {', '.join(missing_features)}")
    print_without_events(names_without_events)
    print_table(
        "\nNewest events", EVENTS_SELECT.split(", "), [list(row.values()) for row in event_rows]
    )


def _show_past(project: "Project", query: PersonItemQuery, event_count: int, json: bool) -> None:
    """Show each feature as of the past, by the lake, next to the state's present value."""
    import numpy as np

    from tailorbird.events import to_iso
    from tailorbird.features.offline.backfill import Requests, backfill, event_columns
    from tailorbird.features.offline.positions import stack_positions
    from tailorbird.features.offline.profile_join import JoinedEvents
    from tailorbird.features.parity.sampled import required_events
    from tailorbird.lake import Lake

    lake = Lake(project.paths.lake)
    positions = resolve_positions(project, query.positions)
    log_position = max(positions)
    person = find_person(project, query, log_position)
    requests = Requests(
        np.array([query.as_of]),
        stack_positions([positions]),
        [person or None],
        np.zeros(1, np.intp),
        [query.item],
    )
    features = project.features
    past_rows = backfill(
        features,
        JoinedEvents(lake, features).table(
            event_columns(features), required_events(features, requests)
        ),
        requests,
    )
    past_values = entity_values(project, query, past_rows.numeric[0])
    try:
        current_values = entity_values(
            project, query, _read_state(project, query, as_of_now=True).numeric[0]
        )
    except NotReadyError:  # There is no state yet, or it is being built.
        current_values = {}
    event_rows = newest_events(
        project,
        event_condition(query, person),
        event_count,
        before=query.as_of,
        log_position=log_position,
    )
    names_without_events = entities_without_events(project, query, person)
    if json:
        present_values = {
            name: {key: value for key, value in values.items() if value == value}
            for name, values in (("features", past_values), ("now", current_values))
        }
        print_json(
            {
                "person": person,
                "t": query.as_of,
                "p": log_position,
                **present_values,
                "events": event_rows,
                "unheard_of": names_without_events,
            }
        )
        return
    title = (
        f"{query.title(person)} at {to_iso(query.as_of)} by the lake, known up to {log_position:,}"
    )
    rows = [
        (name, none_if_missing(value), none_if_missing(current_values.get(name)))
        for name, value in past_values.items()
    ]
    print_table(title, ["feature", "then", "now"], rows, numeric_columns=["then", "now"])
    print_without_events(names_without_events)
    print_table(
        "\nNewest events then",
        EVENTS_SELECT.split(", "),
        [list(row.values()) for row in event_rows],
    )


def _explain(project: "Project", query: PersonItemQuery, feature: str, json: bool) -> None:
    from tailorbird.events import to_iso
    from tailorbird.features import ReadRequest
    from tailorbird.features.explain import explain
    from tailorbird.features.offline.profile_join import JoinedEvents
    from tailorbird.features.reference.point_in_time import routed_events
    from tailorbird.lake import Lake, time_filter

    lake = Lake(project.paths.lake)
    positions = resolve_positions(project, query.positions)
    log_position = max(positions)
    person = find_person(project, query, log_position)
    events = routed_events(
        JoinedEvents(lake, project.features).table(where=time_filter(ts_to=query.as_of))
    )
    explanation = explain(
        project.features,
        feature,
        ReadRequest(person=person or None),
        query.item or None,
        query.as_of,
        positions,
        events,
    )
    rows = [{key: event.get(key) for key in _EVENT_COLUMNS} for event in explanation.events]
    if json:
        print_json(
            {
                "person": person,
                "feature": feature,
                "t": query.as_of,
                "p": log_position,
                "value": explanation.value,
                "lacks": explanation.missing_fields,
                "events": rows,
            }
        )
        return
    out = console()
    out.print(
        f"{feature} of {query.title(person)} at {to_iso(query.as_of)}, known up to "
        f"{log_position:,}: "
        f"{explanation.value}"
    )
    for feature_input in explanation.inputs:
        out.print(f"  {feature_input.name}: {feature_input.value}")
    entity_fields = {
        "user": f"{query.kind}:{query.person}" if query.person else "",
        "item": f"item:{query.item}" if query.item else "",
    }
    print_missing_fields(
        explanation,
        [entity_fields[field] for field in explanation.entity_fields if entity_fields.get(field)],
    )
    print_table(
        "",
        list(_EVENT_COLUMNS),
        [(to_iso(row["ts"] or 0), *list(row.values())[1:]) for row in rows],
    )


def _read_state(project: "Project", query: PersonItemQuery, *, as_of_now: bool = False):
    """Return the row of features that the state has, as of the query's time or as of now."""
    from dataclasses import replace

    from tailorbird.features.online.read import Reader

    reader = Reader(project.paths.state, project.features, workers=project.workers)
    try:
        return reader.read(
            replace(query.request, now=query.now) if as_of_now else query.request, [query.item]
        )
    finally:
        reader.close()
