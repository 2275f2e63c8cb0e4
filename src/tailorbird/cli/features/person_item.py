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
    (stored,) = pseudonymise_ids([f"{prefix}{value}"], project.pseudonyms())
    return f"{field}:{stored.removeprefix(prefix)}"


@dataclass(frozen=True)
class PersonItemQuery:
    """The entities to show: a person, an item or both, as of `t`.

    Attributes:
        kind: `user`, `anonymous` or `item`.
        person: id of the person; "" for an item alone.
        positions: routed positions up to which events count, one per part; None for all.
        now: the present time.
    """

    kind: str
    person: str
    item: str
    t: int
    positions: list[int] | None
    now: int

    @property
    def request(self):
        from tailorbird.features import ReadRequest

        user, anonymous = (
            (self.person or None, None) if self.kind != "anonymous" else (None, self.person)
        )
        return ReadRequest(anonymous_id=anonymous, user_id=user, now=self.t)

    def title(self, person: str) -> str:
        who = [] if self.kind == "item" else [person or "nobody"]
        return " and ".join([*who, *([self.item] if self.item else [])])


def check_name(project: "Project", name: str) -> None:
    feature_of_similarity = {
        similarity.name: similarity.of for similarity in project.features.similarities
    }
    if name in feature_of_similarity:
        problem = f"{name} is made by a model's table, which events do not have"
        raise UsageError(
            problem,
            where="--why",
            fix=f"--why {feature_of_similarity[name]} shows what it is made of; recommend --explain, what it did",
        )
    names = [feature.name for feature in project.features.features]
    if name not in names:
        raise UsageError(
            f"features.py declares no feature {name!r}",
            fix=suggest_name(name, names, "tailorbird features list"),
        )


def entity_values(
    project: "Project", query: PersonItemQuery, row: "np.ndarray"
) -> dict[str, float]:
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


def resolve_positions(project: "Project", positions: list[int] | None) -> tuple[int, ...]:
    """Return the given positions, one per part or one for all; by default all that the lake has."""
    from tailorbird.lake import Lake

    newest = Lake(project.paths.lake).newest_p()
    if positions and max(positions) > newest:
        raise NotReadyError(
            f"the lake knows events up to {newest:,}, not {max(positions):,}",
            fix="wait a second, or tailorbird run lake",
        )
    return tuple(positions) if positions else (newest,)


def find_person(project: "Project", query: PersonItemQuery, p: int) -> str:
    if query.kind == "anonymous":
        return resolve_anonymous(project, query.person, p)
    return _merged_user(project, query.person, p) if query.person else ""


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


def event_condition(query: PersonItemQuery, person: str) -> str:
    """Return the SQL condition for the events of the person, or of the item alone."""
    return _item_condition(query.item) if query.kind == "item" else f"person = {_quote(person)}"


def _item_condition(item: str) -> str:
    return f"(item_id = {_quote(item)} OR list_contains(items, {_quote(item)}))"


def entities_without_events(project: "Project", query: PersonItemQuery, person: str) -> list[str]:
    """Return those of the person and the item that have no event in the lake."""
    from tailorbird.lake import Lake

    conditions = (
        [] if query.kind == "item" else [(person or query.person, f"person = {_quote(person)}")]
    )
    conditions += [(query.item, _item_condition(query.item))] if query.item else []
    lake = Lake(project.paths.lake)
    return [
        name
        for name, where in conditions
        if not lake.sql(f"SELECT 1 FROM events WHERE {where} LIMIT 1").num_rows
    ]


def print_without_events(names: list[str]) -> None:
    for name in names:
        console().print(
            f"\nThe lake has no event of {name}: what is counted is 0, and the rest is missing."
        )


def newest_events(
    project: "Project", where: str, count: int, *, before: int | None = None, p: int | None = None
) -> list[dict]:
    from tailorbird.events import to_iso
    from tailorbird.lake import Lake

    if count <= 0:
        return []
    if before is not None:
        where += f" AND ts < TIMESTAMP '{to_iso(before)}' AND p <= {p}"
    query = (
        f"SELECT {EVENTS_SELECT} FROM events WHERE {where} ORDER BY ts DESC, event_id DESC LIMIT "
        f"{int(count)}"
    )
    return Lake(project.paths.lake).sql(query).to_pylist()


def _quote(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def none_if_missing(value: float | None) -> float | None:
    return value if value is not None and value == value else None
