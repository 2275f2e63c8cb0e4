"""`tailorbird features show`: feature values of an entity, now or in the past, explained."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tailorbird.cli.output import Json, console, print_json, print_table, this_command
from tailorbird.errors import NotReadyError, UsageError, suggest_name

if TYPE_CHECKING:
    import numpy as np

    from tailorbird.config import Project
    from tailorbird.features.explain import Explanation

_EVENT_COLUMNS = ("ts", "type", "item_id", "request_id", "p")
_EVENTS_SELECT = "ts, type, item_id, request_id, counts"


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
    from tailorbird.platform.moment import clock_of_answers, parse_time

    if not about:
        raise UsageError(
            "expected user:ID, anonymous:ID, item:ID or another FIELD:VALUE",
            fix="tailorbird features show user:u000001",
        )
    kind, _, name = about[0].partition(":")
    alone = len(about) == 1 and kind in ("user", "anonymous", "item") and name != ""
    if not alone and item:
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
        name, item = "", name
    if known and min(known) < 0:
        raise UsageError(
            f"expected a position, got {min(known)}",
            where="--known",
            fix="an answer's own is its p",
        )
    project = open_project(applied=True)
    about = tuple(_pseudonymised(project, text) for text in about)
    if alone and kind != "item":
        name = about[0].partition(":")[2]
    clock, note = clock_of_answers("", project, SystemClock())
    t = parse_time(at, "--at") if at else clock.now()
    if note and not at and not json:
        console().print(note)
    if why:
        _check_name(project, why)
    if not alone:
        from tailorbird.cli.features.show_about import EntityQuery, explain_about, show_about

        query = EntityQuery(
            about, t, _resolve_positions(project, known), bool(at) or bool(known), events
        )
        explain_about(project, query, why, json) if why else show_about(project, query, json)
    elif why:
        _explain(project, _EntityQuery(kind, name, item, t, known, clock.now()), why, json)
    elif at or known:
        _show_then(project, _EntityQuery(kind, name, item, t, known, clock.now()), events, json)
    else:
        _show_now(project, _EntityQuery(kind, name, item, t, None, t), events, json)


def _pseudonymised(project: "Project", text: str) -> str:
    """Replace the id of a person by its pseudonym if the project uses pseudonyms."""
    from tailorbird.events.contract.contract import ANONYMOUS_PREFIX
    from tailorbird.privacy.people import pseudonymise_ids

    field, _, value = text.partition(":")
    if not value or field not in ("user", "anonymous"):
        return text
    prefix = ANONYMOUS_PREFIX if field == "anonymous" else ""
    (stored,) = pseudonymise_ids([f"{prefix}{value}"], project.pseudonyms())
    return f"{field}:{stored.removeprefix(prefix)}"


@dataclass(frozen=True)
class _EntityQuery:
    """The entity to show: a person, an item or both, as of `t`, from events up to `known`.

    `name` is "" for an item alone, and `now` is the present time.
    """

    kind: str
    name: str
    item: str
    t: int
    known: list[int] | None
    now: int

    @property
    def request(self):
        from tailorbird.features import ReadRequest

        user, anonymous = (
            (self.name or None, None) if self.kind != "anonymous" else (None, self.name)
        )
        return ReadRequest(anonymous_id=anonymous, user_id=user, now=self.t)

    def title(self, person: str) -> str:
        who = [] if self.kind == "item" else [person or "nobody"]
        return " and ".join([*who, *([self.item] if self.item else [])])


def _show_now(project: "Project", query: _EntityQuery, events: int, json: bool) -> None:
    from tailorbird.events import to_iso

    rows = _read(project, query)
    person = rows.person or ""
    values = _entity_values(project, query, rows.numeric[0])
    present = {key: value for key, value in values.items() if value == value}
    newest = _newest_events(project, _event_condition(query, person), events)
    without_events = _entities_without_events(project, query, person)
    if json:
        print_json(
            {
                "person": person,
                "t": rows.t,
                "commit": rows.commit,
                "p": rows.p,
                "features": present,
                "events": newest,
                "unheard_of": without_events,
            }
        )
        return
    print_table(
        f"{query.title(person)} at {to_iso(rows.t)}, known up to {rows.p:,}",
        ["feature", "value"],
        list(present.items()),
        right=["value"],
    )
    missing = [key for key, value in values.items() if value != value]
    if missing:
        console().print(f"missing: {', '.join(missing)}")
    _print_without_events(without_events)
    print_table(
        "\nNewest events", _EVENTS_SELECT.split(", "), [list(row.values()) for row in newest]
    )


def _show_then(project: "Project", query: _EntityQuery, events: int, json: bool) -> None:
    """Show each feature as of the past, by the lake, next to the state's present value."""
    import numpy as np

    from tailorbird.events import to_iso
    from tailorbird.features.offline.backfill import Requests, backfill, event_columns
    from tailorbird.features.offline.positions import stack_positions
    from tailorbird.features.offline.profile_join import JoinedEvents
    from tailorbird.features.parity.sampled import required_events
    from tailorbird.lake import Lake

    lake, positions = Lake(project.paths.lake), _resolve_positions(project, query.known)
    p = max(positions)
    person = _person(project, query, p)
    requests = Requests(
        np.array([query.t]),
        stack_positions([positions]),
        [person or None],
        np.zeros(1, np.intp),
        [query.item],
    )
    features = project.features
    rows_then = backfill(
        features,
        JoinedEvents(lake, features).table(
            event_columns(features), required_events(features, requests)
        ),
        requests,
    )
    values_then = _entity_values(project, query, rows_then.numeric[0])
    try:
        values_now = _entity_values(project, query, _read(project, query, now=True).numeric[0])
    except NotReadyError:  # There is no state yet, or it is being built.
        values_now = {}
    newest = _newest_events(project, _event_condition(query, person), events, before=query.t, p=p)
    without_events = _entities_without_events(project, query, person)
    if json:
        present = {
            name: {key: value for key, value in values.items() if value == value}
            for name, values in (("features", values_then), ("now", values_now))
        }
        print_json(
            {
                "person": person,
                "t": query.t,
                "p": p,
                **present,
                "events": newest,
                "unheard_of": without_events,
            }
        )
        return
    title = f"{query.title(person)} at {to_iso(query.t)} by the lake, known up to {p:,}"
    rows = [
        (name, _none_if_missing(value), _none_if_missing(values_now.get(name)))
        for name, value in values_then.items()
    ]
    print_table(title, ["feature", "then", "now"], rows, right=["then", "now"])
    _print_without_events(without_events)
    print_table(
        "\nNewest events then", _EVENTS_SELECT.split(", "), [list(row.values()) for row in newest]
    )


def _explain(project: "Project", query: _EntityQuery, name: str, json: bool) -> None:
    from tailorbird.events import to_iso
    from tailorbird.features import ReadRequest
    from tailorbird.features.explain import explain
    from tailorbird.features.offline.profile_join import JoinedEvents
    from tailorbird.features.reference.reference import routed_events
    from tailorbird.lake import Lake, span

    lake, positions = Lake(project.paths.lake), _resolve_positions(project, query.known)
    p = max(positions)
    person = _person(project, query, p)
    events = routed_events(JoinedEvents(lake, project.features).table(where=span(ts_to=query.t)))
    explanation = explain(
        project.features,
        name,
        ReadRequest(person=person or None),
        query.item or None,
        query.t,
        positions,
        events,
    )
    rows = [{key: event.get(key) for key in _EVENT_COLUMNS} for event in explanation.events]
    if json:
        print_json(
            {
                "person": person,
                "feature": name,
                "t": query.t,
                "p": p,
                "value": explanation.value,
                "lacks": explanation.lacks,
                "events": rows,
            }
        )
        return
    out = console()
    out.print(
        f"{name} of {query.title(person)} at {to_iso(query.t)}, known up to {p:,}: "
        f"{explanation.value}"
    )
    for read in explanation.reads:
        out.print(f"  {read.name}: {read.value}")
    entity_fields = {
        "user": f"{query.kind}:{query.name}" if query.name else "",
        "item": f"item:{query.item}" if query.item else "",
    }
    print_missing_fields(
        explanation,
        [entity_fields[field] for field in explanation.about if entity_fields.get(field)],
    )
    print_table(
        "",
        list(_EVENT_COLUMNS),
        [(to_iso(row["ts"] or 0), *list(row.values())[1:]) for row in rows],
    )


def print_missing_fields(explanation: "Explanation", about: Sequence[str]) -> None:
    """Print why a value is missing for lack of a field, and how to pass the field."""
    for part in (explanation, *explanation.reads):
        if part.value == part.value or not part.lacks:
            continue
        fields = [name for name in part.lacks if "." not in name]
        attributes = [name for name in part.lacks if "." in name]
        if attributes:
            console().print(f"{part.name} is missing: no profile says {', '.join(attributes)}")
        if fields:
            arguments = " ".join(
                shlex.quote(text) for text in (*about, *(f"{name}:VALUE" for name in fields))
            )
            command = f"{this_command()} features show {arguments} --why {part.name}"
            console().print(
                f"{part.name} is missing: it is about {', '.join(fields)} too, which was not "
                f"said. Try {command}"
            )


def _check_name(project: "Project", name: str) -> None:
    similar = {similarity.name: similarity.of for similarity in project.features.similarities}
    if name in similar:
        problem = f"{name} is made by a model's table, which events do not have"
        raise UsageError(
            problem,
            where="--why",
            fix=f"--why {similar[name]} shows what it is made of; recommend --explain, what it did",
        )
    names = [feature.name for feature in project.features.features]
    if name not in names:
        raise UsageError(
            f"features.py declares no feature {name!r}",
            fix=suggest_name(name, names, "tailorbird features list"),
        )


def _read(project: "Project", query: _EntityQuery, *, now: bool = False):
    from dataclasses import replace

    from tailorbird.features.online.read import Reader

    reader = Reader(project.paths.state, project.features, workers=project.workers)
    try:
        return reader.read(
            replace(query.request, now=query.now) if now else query.request, [query.item]
        )
    finally:
        reader.close()


def _entity_values(project: "Project", query: _EntityQuery, row: "np.ndarray") -> dict[str, float]:
    """Return the numeric features of the entity.

    Features of items are included only with an item, and those of an item alone only if no other
    entity takes part in them.
    """
    columns = set()
    for column in project.features.columns:
        is_item_field = [name.partition(".")[0] == "item" for name in column.entity.split("+")]
        if all(is_item_field) if query.kind == "item" else query.item or not any(is_item_field):
            columns.add(column.name)
    return {
        name: value
        for name, value in zip(project.features.numeric, row.tolist(), strict=True)
        if name in columns
    }


def _resolve_positions(project: "Project", positions: list[int] | None) -> tuple[int, ...]:
    """Return the given positions, one per part or one for all; by default all that the lake has."""
    from tailorbird.lake import Lake

    newest = Lake(project.paths.lake).newest_p()
    if positions and max(positions) > newest:
        raise NotReadyError(
            f"the lake knows events up to {newest:,}, not {max(positions):,}",
            fix="wait a second, or tailorbird run lake",
        )
    return tuple(positions) if positions else (newest,)


def _person(project: "Project", query: _EntityQuery, p: int) -> str:
    if query.kind == "anonymous":
        return resolve_anonymous(project, query.name, p)
    return _merged_user(project, query.name, p) if query.name else ""


def resolve_anonymous(project: "Project", anonymous: str, p: int) -> str:
    """Return the user of an anonymous id, by the newest identify event and merges up to `p`."""
    from tailorbird.lake import Lake

    query = (
        "SELECT user_id FROM events WHERE type = 'identify' AND anonymous_id = "
        f"{_quote(anonymous)} AND p <= {p} "
        "ORDER BY ts DESC, p DESC LIMIT 1"
    )
    matches = Lake(project.paths.lake).sql(query)
    return (
        _merged_user(project, matches.column("user_id")[0].as_py(), p)
        if matches.num_rows
        else f"anon:{anonymous}"
    )


def _merged_user(project: "Project", user: str, p: int) -> str:
    """Return the user that a user was merged into, by the merges up to `p`."""
    import pyarrow.dataset as ds

    from tailorbird.events.merges import COLUMNS, merge_rows, merges_of, survivor
    from tailorbird.lake import Lake

    merges = Lake(project.paths.lake).table(
        "events", COLUMNS, (ds.field("type") == "merge") & (ds.field("p") <= p)
    )
    return survivor(user, dict(merges_of(merge_rows(merges))).get)[0]


def _event_condition(query: _EntityQuery, person: str) -> str:
    """Return the SQL condition for the events of the person, or of the item alone."""
    return _item_condition(query.item) if query.kind == "item" else f"person = {_quote(person)}"


def _item_condition(item: str) -> str:
    return f"(item_id = {_quote(item)} OR list_contains(items, {_quote(item)}))"


def _entities_without_events(project: "Project", query: _EntityQuery, person: str) -> list[str]:
    """Return those of the person and the item that have no event in the lake."""
    from tailorbird.lake import Lake

    conditions = (
        [] if query.kind == "item" else [(person or query.name, f"person = {_quote(person)}")]
    )
    conditions += [(query.item, _item_condition(query.item))] if query.item else []
    lake = Lake(project.paths.lake)
    return [
        name
        for name, where in conditions
        if not lake.sql(f"SELECT 1 FROM events WHERE {where} LIMIT 1").num_rows
    ]


def _print_without_events(names: list[str]) -> None:
    for name in names:
        console().print(
            f"\nThe lake has no event of {name}: what is counted is 0, and the rest is missing."
        )


def _newest_events(
    project: "Project", where: str, count: int, *, before: int | None = None, p: int | None = None
) -> list[dict]:
    from tailorbird.events import to_iso
    from tailorbird.lake import Lake

    if count <= 0:
        return []
    if before is not None:
        where += f" AND ts < TIMESTAMP '{to_iso(before)}' AND p <= {p}"
    query = (
        f"SELECT {_EVENTS_SELECT} FROM events WHERE {where} ORDER BY ts DESC, event_id DESC LIMIT "
        f"{int(count)}"
    )
    return Lake(project.paths.lake).sql(query).to_pylist()


def _quote(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _none_if_missing(value: float | None) -> float | None:
    return value if value is not None and value == value else None
