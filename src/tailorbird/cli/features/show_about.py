"""`tailorbird features show` for sessions, queries, categories and combined entities."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tailorbird.cli.output import console, print_json, print_table
from tailorbird.errors import NotReadyError, UsageError

if TYPE_CHECKING:
    import pyarrow as pa

    from tailorbird.config import Project
    from tailorbird.features.subject import Subject

_EVENT_COLUMNS = ("ts", "type", "person", "item_id", "request_id", "p")


@dataclass(frozen=True)
class EntityQuery:
    """The arguments of `features show` for an entity.

    Attributes:
        as_of: time to show values as of, microseconds.
        positions: routed positions up to which events count, one per worker if there are
            several.
        is_past: show values of the past by the lake, instead of present ones by the state.
        event_count: number of the newest events to show.
    """

    entity_texts: Sequence[str]
    as_of: int
    positions: tuple[int, ...]
    is_past: bool
    event_count: int

    @property
    def log_position(self) -> int:
        return max(self.positions)


def show_about(project: "Project", query: EntityQuery, json: bool) -> None:
    """Show each numeric feature of exactly this entity, and its newest events."""
    from tailorbird.events import to_iso
    from tailorbird.features.subject import Subject

    subject = Subject.parse(query.entity_texts, project.features)
    person = _find_person(project, subject, query.log_position)
    result: dict[str, Any] = {
        "about": dict(subject.field_values),
        "person": person,
        "t": query.as_of,
        "p": query.log_position,
    }
    if query.is_past:
        result["features"] = subject.values(
            project.features,
            person,
            query.as_of,
            query.positions,
            _countable_events(project, subject, query.as_of),
        )
        try:
            result["now"] = _read_state(project, subject, result)
        except NotReadyError:  # There is no state yet, or it is being built.
            result["now"] = {}
        result |= {"t": query.as_of, "p": query.log_position}
    else:
        result["features"] = _read_state(project, subject, result)
    newest_rows = [
        _event_row(event)
        for event in subject.newest_events(
            _subject_events(project, subject, person, result), person, max(1, query.event_count)
        )
    ]
    result |= {
        "unheard_of": [] if newest_rows else [subject.title],
        "events": newest_rows[: max(0, query.event_count)],
    }
    if json:
        print_json(
            result
            | {name: _drop_missing(result[name]) for name in ("features", "now") if name in result}
        )
        return
    title = f"{subject.title} at {to_iso(result['t'])}, known up to {result['p']:,}"
    if query.is_past:
        rows = [
            (name, _none_if_missing(value), _none_if_missing(result["now"].get(name)))
            for name, value in result["features"].items()
        ]
        print_table(title, ["feature", "then", "now"], rows, numeric_columns=["then", "now"])
    else:
        print_table(
            title,
            ["feature", "value"],
            list(_drop_missing(result["features"]).items()),
            numeric_columns=["value"],
        )
        missing_features = [name for name, value in result["features"].items() if value != value]
        if missing_features:
            console().print(f"missing: {', '.join(missing_features)}")
    if not newest_rows:
        console().print(
            f"\nThe lake has no event of {subject.title}: what is counted is 0, and the rest "
            "is missing."
        )
    print_table(
        "\nNewest events" + (" then" if query.is_past else ""),
        list(_EVENT_COLUMNS),
        [list(event.values()) for event in result["events"]],
    )


def explain_about(project: "Project", query: EntityQuery, feature: str, json: bool) -> None:
    """Explain one feature by its events."""
    from tailorbird.cli.features.missing_fields import print_missing_fields
    from tailorbird.events import to_iso
    from tailorbird.features.explain import explain
    from tailorbird.features.reference.point_in_time import routed_events
    from tailorbird.features.subject import Subject

    subject = Subject.parse(query.entity_texts, project.features)
    if feature not in subject.columns(project.features):
        alternatives = ", ".join(subject.columns(project.features))
        raise UsageError(
            f"{feature} is not about {subject.title} alone",
            where="--why",
            fix=f"one of {alternatives}; or say about what else it is",
        )
    person = _find_person(project, subject, query.log_position)
    events = routed_events(_countable_events(project, subject, query.as_of))
    explanation = explain(
        project.features,
        feature,
        subject.to_read_request(query.as_of, person),
        subject.item or None,
        query.as_of,
        query.positions,
        events,
    )
    rows = [_event_row(event) for event in explanation.events]
    if json:
        feature_explanation = {
            "feature": feature,
            "t": query.as_of,
            "p": query.log_position,
            "value": explanation.value,
            "lacks": explanation.missing_fields,
            "events": rows,
        }
        print_json({"about": dict(subject.field_values), **feature_explanation})
        return
    out = console()
    out.print(
        f"{feature} of {subject.title} at {to_iso(query.as_of)}, known up to "
        f"{query.log_position:,}: "
        f"{explanation.value}"
    )
    for feature_input in explanation.inputs:
        out.print(f"  {feature_input.name}: {feature_input.value}")
    print_missing_fields(explanation, query.entity_texts)
    print_table("", list(_EVENT_COLUMNS), [list(row.values()) for row in rows])


def _read_state(project: "Project", subject: "Subject", result: dict[str, Any]) -> dict[str, float]:
    """Return each feature by the present state; adds its time and person to `result`."""
    from tailorbird.events import SystemClock
    from tailorbird.features.online.read import Reader

    reader = Reader(project.paths.state, project.features, workers=project.workers)
    try:
        rows = reader.read(subject.to_read_request(SystemClock().now()), [subject.item])
    finally:
        reader.close()
    result |= {
        "person": rows.person or result["person"],
        "t": rows.t,
        "p": rows.log_position,
        "commit": rows.commit,
    }
    columns = subject.columns(project.features)
    return {
        name: value
        for name, value in zip(project.features.numeric, rows.numeric[0].tolist(), strict=True)
        if name in columns
    }


def _find_person(project: "Project", subject: "Subject", log_position: int) -> str:
    """Return the person that the subject names, or ""."""
    from tailorbird.cli.features.person_item import resolve_anonymous
    from tailorbird.features.subject import ANONYMOUS

    anonymous = subject.field_values.get(ANONYMOUS)
    return (
        subject.field_values.get("user", "")
        if anonymous is None
        else resolve_anonymous(project, anonymous, log_position)
    )


def _countable_events(project: "Project", subject: "Subject", as_of: int) -> "pa.Table":
    """Return all events that the subject's columns may count."""
    import pyarrow.dataset as ds

    from tailorbird.features.offline.profile_join import JoinedEvents
    from tailorbird.lake import Lake, time_filter

    is_countable = ds.field("type").isin(list(subject.event_types(project.features)))
    return JoinedEvents(Lake(project.paths.lake), project.features).table(
        where=time_filter(ts_to=as_of) & is_countable
    )


def _subject_events(
    project: "Project", subject: "Subject", person: str, result: dict[str, Any]
) -> "list[pa.Table]":
    """Return the events of the subject in order of time."""
    import pyarrow.dataset as ds

    from tailorbird.features.offline.profile_join import JoinedEvents
    from tailorbird.lake import Lake, time_filter

    event_filter = time_filter(ts_to=result["t"]) & (ds.field("p") <= result["p"])
    for field, column in (
        ("user", "person"),
        ("anonymous", "person"),
        ("session", "session_id"),
        ("device", "device"),
        ("country", "country"),
    ):
        if field in subject.field_values:
            event_filter &= ds.field(column) == (
                person if column == "person" else subject.field_values[field]
            )
    events = JoinedEvents(Lake(project.paths.lake), project.features).table(where=event_filter)
    return [events.sort_by([("ts", "ascending"), ("event_id", "ascending")]).combine_chunks()]


def _event_row(event: Any) -> dict[str, Any]:
    from tailorbird.events import to_iso

    return {
        name: to_iso(event["ts"]) if name == "ts" else event.get(name) for name in _EVENT_COLUMNS
    }


def _drop_missing(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value == value}


def _none_if_missing(value: Any) -> Any:
    return value if value is not None and value == value else None
