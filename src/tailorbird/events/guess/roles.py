"""Roles of columns (time, person, session, item, type), by all evidence, jointly over a table.

A role has a class that scores a column, in points like log-odds. The assignment with the best total
wins. Where another column for a role would be nearly as good, the role is in doubt.
"""

from dataclasses import dataclass
from itertools import product
from typing import Protocol

import pyarrow as pa
import pyarrow.compute as pc

from tailorbird.events.guess.facts import ColumnFacts, TableFacts
from tailorbird.events.guess.values import ROLE_OPTIONS, ColumnGuess, Doubt, MappingHints
from tailorbird.events.guess.words import find_event_type

_TYPES_MAX = 100  # event types of a site; more are something else, such as titles
_CANDIDATES_MAX = 5  # of a role
_MARGIN_MIN = 1.0  # points by which an assignment must lead for its role to be beyond doubt
_IMPOSSIBLE = -100.0
_WORDS_OF_TEXT = 12.0  # on average, from which a text is prose or an object, not an identifier
_FULL_NAME = 4.0  # points where a name says nothing but the role
_PART_OF_NAME = 3.0
_OTHER_NAME = -5.0  # where it says something else


class Role(Protocol):
    """A role that at most one column has."""

    @property
    def key(self) -> str:
        """The key of the mapping."""

    def score(self, column: ColumnFacts, table: TableFacts) -> float:
        """Return the points of a column."""


def score_name(column: ColumnFacts, *concepts: str) -> float:
    """Return the points that a name gives a role that has one of these concepts."""
    facts = column.name_facts
    if not facts.head:
        return 0.0
    if not set(facts.readings) & set(concepts):
        return _OTHER_NAME
    other_concepts = set(facts.concepts) - {
        *facts.readings,
        *concepts,
        "identifier",
        "action",
        "creation",
        "action_detail",
    }
    points = _PART_OF_NAME if facts.has_other_words or other_concepts else _FULL_NAME
    return points - 2.0 * facts.has("secondary") - 0.5 * facts.has("coarser")


def score_identifier(column: ColumnFacts, table: TableFacts) -> float:
    """Return the points of values that identify something that comes back."""
    if (
        column.kind in ("nested", "boolean", "empty", "decimal", "time")
        or column.null_share > 0.5
        or column.mean_words > _WORDS_OF_TEXT
        or (column.is_plausible_time and not column.name_facts.head)
    ):
        return _IMPOSSIBLE
    points = 0.0
    if column.is_row_number or column.distinct == 1:
        points -= 3.0
    # A few values on many rows each are a category: people and items are more.
    is_category = column.distinct <= 25 and (table.rows > 400 or column.rows_per_value > 20)
    if column.rows_per_value < 1.05 or is_category:
        points -= 2.0
    else:
        points += 1.0
    if column.mean_words > 1.5:
        points -= 1.0
    # What a name says is not outweighed by an odd sample.
    return max(points, -2.0 if column.name_facts.head else -9.0) * table.weight


@dataclass(frozen=True)
class TimeRole:
    key: str = "ts"

    def score(self, column: ColumnFacts, table: TableFacts) -> float:
        if not column.is_time:
            return _IMPOSSIBLE
        points = score_name(column, "time")
        if column.kind in ("text", "time"):
            points += 2.0
        elif column.is_plausible_time:
            points += 1.5
        return points + (0.0 if column.distinct > 1 else -0.5)


@dataclass(frozen=True)
class PersonRole:
    key: str = "user_id"

    def score(self, column: ColumnFacts, table: TableFacts) -> float:
        points = score_name(column, "person", "anonymous")
        if points > 0 and column.name_facts.has("anonymous"):
            points -= 1.0
        if column.rows_per_value > 100 and not points:  # a country or a region, rather
            points -= 2.0 * table.weight
        points += 3.0 * (column.email_share > 0.9) + 0.5 * (column.hash_share > 0.9)
        return points + score_identifier(column, table)


@dataclass(frozen=True)
class SessionRole:
    key: str = "session_id"

    def score(self, column: ColumnFacts, table: TableFacts) -> float:
        points = score_name(column, "session")
        base = score_identifier(column, table)
        return base if base == _IMPOSSIBLE else points + 0.3 * base - 0.5


@dataclass(frozen=True)
class ItemRole:
    key: str = "item_id"

    def score(self, column: ColumnFacts, table: TableFacts) -> float:
        points = score_name(column, "item")
        concepts = set(column.name_facts.concepts)
        if (
            column.name_facts.head == "title"
            and concepts <= {"title", "item", "action"}
            and ("item" in concepts)
        ):
            points = 1.5  # what it is called may stand for it
        if column.email_share > 0.5:
            return _IMPOSSIBLE
        return points + score_identifier(column, table)


@dataclass(frozen=True)
class TypeRole:
    key: str = "type"

    def score(self, column: ColumnFacts, table: TableFacts) -> float:
        if column.kind != "text" or column.distinct > _TYPES_MAX or column.mean_words > 4:
            return _IMPOSSIBLE
        points = score_name(column, "event")
        if {"item", "person", "device", "state", "session"} & set(column.name_facts.concepts):
            points = _OTHER_NAME
        if column.examples and all(map(find_event_type, column.examples)):
            points += 3.0
        return points - 1.0


ROLES: tuple[Role, ...] = (TimeRole(), PersonRole(), SessionRole(), ItemRole(), TypeRole())
_DOUBTED = ("ts", "user_id", "item_id", "type")


def score_pairs(table: TableFacts, columns: dict[str, str]) -> float:
    """Return the points of how the columns of roles go together."""
    points = 0.0
    time = columns.get("ts")
    item = columns.get("item_id")
    person = columns.get("user_id")
    session = columns.get("session_id")
    who = person or session
    if item and who and (table.determines(item, who) or table.determines(who, item)):
        points -= 3.0
    if person and session:
        points += 1.0 if table.determines(session, person) else 0.0
        points -= 2.0 if table.determines(person, session) else 0.0
    if time and item and table.determines(item, time):
        points -= 3.0
    if time and person and table.determines(person, time):
        points -= 3.0
    if (type_ := columns.get("type")) and (
        (item and table.determines(item, type_)) or (person and table.determines(person, type_))
    ):
        points -= 3.0
    if item:
        points += _score_attributes(table, item, columns)
        points -= min(2.0, 6.0 * max(0.0, table.stickiness(item, time)))
    if person:
        points += min(2.0, 6.0 * max(0.0, table.stickiness(person, time)))
        span = table.median_span(person, time) if time else None
        points -= 2.0 if span is not None and span < 0.01 else 0.0
    if session and time:
        span = table.median_span(session, time)
        points += 0.0 if span is None else 1.5 if span < 0.02 else -1.5
    if time:
        points += _score_earliest(table, time)
    return points


def _score_attributes(table: TableFacts, item: str, columns: dict[str, str]) -> float:
    """Return the points of what a value says of the item: a title, a category, a price."""
    determined = [
        name
        for name, facts in table.columns.items()
        if name not in columns.values() and facts.distinct > 1 and table.determines(item, name)
    ]
    return min(1.5, 0.5 * len(determined))


def _score_earliest(table: TableFacts, time: str) -> float:
    """Return the points of a time that no other time of its row comes before."""
    other_times = [name for name, facts in table.columns.items() if facts.is_plausible_time]
    moments = table.times(time)
    later = [
        bool((table.times(name) >= moments).mean() > 0.9 and (table.times(name) > moments).any())
        for name in other_times
        if name != time
    ]
    return 0.7 * table.weight if later and all(later) else 0.0


def assign_roles(
    table: TableFacts, hints: MappingHints, file_name: str = ""
) -> tuple[dict[str, str], list[ColumnGuess], list[Doubt]]:
    """Return role → column, the reason for each, and the roles in doubt."""
    forced = hints.get_roles(file_name, list(table.columns))
    points_by_role = {role.key: _score_candidates(role, table, forced, hints) for role in ROLES}
    ranked = sorted(_score_assignments(table, points_by_role), key=lambda entry: -entry[0])
    best_total, best = ranked[0]
    roles = dict(best)
    guesses = [
        ColumnGuess(
            column,
            key,
            "as said"
            if key in forced
            else "its name is usual for it"
            if score_name(table.columns[column], *_concepts(key)) > 0
            else "what it holds fits best",
        )
        for key, column in roles.items()
    ]
    doubts = [
        doubt
        for key in _DOUBTED
        if key not in forced
        and (doubt := _find_doubt(key, best_total, best, ranked, points_by_role[key], table))
    ]
    _add_named_ids(table, roles, guesses)
    if "session_id" in roles and "user_id" not in roles and "anonymous_id" not in roles:
        roles["anonymous_id"] = roles["session_id"]
        why = "there is no user, so each session is a person of its own"
        guesses.append(ColumnGuess(roles["session_id"], "anonymous_id", why))
    return roles, guesses, doubts


def _concepts(key: str) -> tuple[str, ...]:
    return {
        "ts": ("time",),
        "user_id": ("person", "anonymous"),
        "session_id": ("session",),
        "item_id": ("item",),
        "type": ("event",),
    }[key]


def _score_candidates(
    role: Role, table: TableFacts, forced: dict[str, str], hints: MappingHints
) -> dict[str, float]:
    """Return the columns that may have a role, best first, with their points."""
    if role.key in forced:
        return {forced[role.key]: 50.0} if forced[role.key] else {}
    scores = {name: role.score(facts, table) for name, facts in table.columns.items()}
    if role.key == "ts" and hints.ts_format:
        for name, facts in table.columns.items():
            if scores[name] == _IMPOSSIBLE and facts.kind == "text":
                scores[name] = score_name(facts, "time")
    best = sorted(scores, key=lambda name: -scores[name])[:_CANDIDATES_MAX]
    return {name: scores[name] for name in best if scores[name] > -1.0}


def _score_assignments(
    table: TableFacts, points_by_role: dict[str, dict[str, float]]
) -> list[tuple[float, dict[str, str]]]:
    """Return every way to give the roles to different columns, with its points."""
    keys = list(points_by_role)
    assignments = []
    for names in product(*(("", *points_by_role[key]) for key in keys)):
        columns = {key: name for key, name in zip(keys, names, strict=True) if name}
        if len(set(columns.values())) == len(columns):
            total = sum(points_by_role[key][name] for key, name in columns.items())
            assignments.append((total, columns))
    # What pairs say is some points at most, so that far worse assignments need no look at it.
    best = max(total for total, _ in assignments)
    near = sorted(assignments, key=lambda entry: -entry[0])
    near = [entry for entry in near if entry[0] > best - 8.0][:1_000]
    return [
        (total + score_pairs(table, columns) * table.weight, columns) for total, columns in near
    ]


def _find_doubt(
    key: str,
    best_total: float,
    best: dict[str, str],
    ranked: list[tuple[float, dict[str, str]]],
    candidates: dict[str, float],
    table: TableFacts,
) -> Doubt | None:
    """Return the doubt about a role, if another column would be nearly as good."""
    total_by_column: dict[str, float] = {}
    for total, columns in ranked:
        total_by_column.setdefault(columns.get(key, ""), total)
    margin = min(
        (
            best_total - total
            for name, total in total_by_column.items()
            if name != best.get(key, "")
        ),
        default=10.0,
    )
    if margin >= _MARGIN_MIN or not candidates:
        return None
    order = sorted(
        (name for name in total_by_column if name), key=lambda name: -total_by_column[name]
    )
    return Doubt(
        key,
        ROLE_OPTIONS[key],
        best.get(key, ""),
        tuple(describe(table.columns[name]) for name in order),
        tuple(order),
        round(margin, 2),
    )


def describe(column: ColumnFacts) -> str:
    """Describe a column for a question."""
    examples = " ".join(example[:24] for example in column.examples)
    return (
        f"{column.name}: {column.distinct:,} different, {column.rows_per_value:.1f} rows each, "
        f"{examples} …"
    )


def _add_named_ids(table: TableFacts, roles: dict[str, str], guesses: list[ColumnGuess]) -> None:
    """Add further ids by their names, and move a device or cookie to its own key."""
    concept_by_key = {"anonymous_id": "anonymous", "event_id": "event_id", "request_id": "request"}
    person = roles.get("user_id")
    if person and table.columns[person].name_facts.has("anonymous"):
        roles["anonymous_id"] = roles.pop("user_id")
        guesses[:] = [
            ColumnGuess(guess.column, "anonymous_id", guess.why)
            if guess.role == "user_id"
            else guess
            for guess in guesses
        ]
    for key, concept in concept_by_key.items():
        for name, facts in table.columns.items():
            if (
                key not in roles
                and name not in roles.values()
                and facts.kind not in ("nested", "empty")
                and score_name(facts, concept) > 0
            ):
                roles[key] = name
                guesses.append(ColumnGuess(name, key, "its name is usual for it"))


def is_mostly_later(column: pa.Array, ts: pa.Array) -> bool:
    """Return whether a column is a time later than the event in most rows."""
    if not (
        pa.types.is_timestamp(column.type) and pa.types.is_timestamp(ts.type)
    ) or column.null_count == len(column):
        return False
    return pc.mean(pc.greater(column, ts).cast(pa.float64())).as_py() > 0.5
