"""The person, item or both that `features show` is about, and their events in the lake."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tailorbird.cli.output import console
from tailorbird.errors import NotReadyError, UsageError, suggest_name

if TYPE_CHECKING:
    import numpy as np

    from tailorbird.config import Project


EVENTS_SELECT = "ts, type, item_id, request_id, counts"


def pseudonymise_entity(project: "Project", text: str) -> str:
    """Replace the id of a person by its pseudonym if the project uses pseudonyms."""
    from tailorbird.events.contract.envelope import ANONYMOUS_PREFIX
    from tailorbird.privacy.people import pseudonymise_ids

    field, _, value = text.partition(":")
    if not value or field not in ("user", "anonymous"):
        return text
    prefix = ANONYMOUS_PREFIX if field == "anonymous" else ""
    (stored_id,) = pseudonymise_ids([f"{prefix}{value}"], project.pseudonyms())
    return f"{field}:{stored_id.removeprefix(prefix)}"


@dataclass(frozen=True)
class PersonItemQuery:
    """The entities to show: a person, an item or both, as of a time.

    Attributes:
        kind: `user`, `anonymous` or `item`.
        person: id of the person; "" for an item alone.
        positions: routed positions up to which events count, one per worker's part of the
            entities; None for all.
        now: the present time.
    """

    kind: str
    person: str
    item: str
    as_of: int
    positions: list[int] | None
    now: int

    @property
    def request(self):
        from tailorbird.features import ReadRequest

        user, anonymous = (
            (self.person or None, None) if self.kind != "anonymous" else (None, self.person)
        )
        return ReadRequest(anonymous_id=anonymous, user_id=user, now=self.as_of)

    def title(self, person: str) -> str:
        entity_names = [] if self.kind == "item" else [person or "nobody"]
        return " and ".join([*entity_names, *([self.item] if self.item else [])])


def require_feature(project: "Project", name: str) -> None:
    feature_by_similarity = {
        similarity.name: similarity.of for similarity in project.features.similarities
    }
    if name in feature_by_similarity:
        problem = f"{name} is made by a model's table, which events do not have"
        raise UsageError(
            problem,
            where="--why",
            fix=f"--why {feature_by_similarity[name]} shows what it is made of; "
            "recommend --explain, what it did",
        )
    feature_names = [feature.name for feature in project.features.features]
    if name not in feature_names:
        raise UsageError(
            f"features.py declares no feature {name!r}",
            fix=suggest_name(name, feature_names, "tailorbird features list"),
        )


def entity_values(
    project: "Project", query: PersonItemQuery, numeric_row: "np.ndarray"
) -> dict[str, float]:
    """Return the numeric features of the entity.

    Features of items are included only with an item, and those of an item alone only if no other
    entity takes part in them.
    """
    column_names = set()
    for column in project.features.columns:
        item_field_flags = [name.partition(".")[0] == "item" for name in column.entity.split("+")]
        if (
            all(item_field_flags)
            if query.kind == "item"
            else query.item or not any(item_field_flags)
        ):
            column_names.add(column.name)
    return {
        name: value
        for name, value in zip(project.features.numeric, numeric_row.tolist(), strict=True)
        if name in column_names
    }


def resolve_positions(project: "Project", positions: list[int] | None) -> tuple[int, ...]:
    """Return the given positions, one per worker or one for all; by default all of the lake."""
    from tailorbird.lake import Lake

    newest_position = Lake(project.paths.lake).newest_log_position()
    if positions and max(positions) > newest_position:
        raise NotReadyError(
            f"the lake knows events up to {newest_position:,}, not {max(positions):,}",
            fix="wait a second, or tailorbird run lake",
        )
    return tuple(positions) if positions else (newest_position,)


def find_person(project: "Project", query: PersonItemQuery, log_position: int) -> str:
    if query.kind == "anonymous":
        return resolve_anonymous(project, query.person, log_position)
    return _merged_user(project, query.person, log_position) if query.person else ""


def resolve_anonymous(project: "Project", anonymous: str, log_position: int) -> str:
    """Return the user of an anonymous id, by its newest identify event and merges."""
    from tailorbird.lake import Lake

    query = (
        "SELECT user_id FROM events WHERE type = 'identify' AND anonymous_id = "
        f"{_quote_sql(anonymous)} AND p <= {log_position} "
        "ORDER BY ts DESC, p DESC LIMIT 1"
    )
    matches = Lake(project.paths.lake).sql(query)
    return (
        _merged_user(project, matches.column("user_id")[0].as_py(), log_position)
        if matches.num_rows
        else f"anon:{anonymous}"
    )


def _merged_user(project: "Project", user: str, log_position: int) -> str:
    """Return the user that a user was merged into, by the merges up to `log_position`."""
    import pyarrow.dataset as ds

    from tailorbird.events.merges import (
        MERGE_COLUMNS,
        resolve_merged_user,
        select_merges,
        to_merges,
    )
    from tailorbird.lake import Lake

    merges = Lake(project.paths.lake).table(
        "events", MERGE_COLUMNS, (ds.field("type") == "merge") & (ds.field("p") <= log_position)
    )
    return resolve_merged_user(user, dict(to_merges(select_merges(merges))).get)[0]


def event_condition(query: PersonItemQuery, person: str) -> str:
    """Return the SQL condition for the events of the person, or of the item alone."""
    return _item_condition(query.item) if query.kind == "item" else f"person = {_quote_sql(person)}"


def _item_condition(item: str) -> str:
    return f"(item_id = {_quote_sql(item)} OR list_contains(items, {_quote_sql(item)}))"


def entities_without_events(project: "Project", query: PersonItemQuery, person: str) -> list[str]:
    """Return those of the person and the item that have no event in the lake."""
    from tailorbird.lake import Lake

    conditions = (
        [] if query.kind == "item" else [(person or query.person, f"person = {_quote_sql(person)}")]
    )
    conditions += [(query.item, _item_condition(query.item))] if query.item else []
    lake = Lake(project.paths.lake)
    return [
        name
        for name, condition in conditions
        if not lake.sql(f"SELECT 1 FROM events WHERE {condition} LIMIT 1").num_rows
    ]


def print_without_events(names: list[str]) -> None:
    for name in names:
        console().print(
            f"\nThe lake has no event of {name}: what is counted is 0, and the rest is missing."
        )


def newest_events(
    project: "Project",
    condition: str,
    count: int,
    *,
    before: int | None = None,
    log_position: int | None = None,
) -> list[dict]:
    from tailorbird.events import to_iso
    from tailorbird.lake import Lake

    if count <= 0:
        return []
    if before is not None:
        condition += f" AND ts < TIMESTAMP '{to_iso(before)}' AND p <= {log_position}"
    query = (
        f"SELECT {EVENTS_SELECT} FROM events WHERE {condition} ORDER BY ts DESC, event_id DESC "
        "LIMIT "
        f"{int(count)}"
    )
    return Lake(project.paths.lake).sql(query).to_pylist()


def _quote_sql(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def none_if_missing(value: float | None) -> float | None:
    return value if value is not None and value == value else None
