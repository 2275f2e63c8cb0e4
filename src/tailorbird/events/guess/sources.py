"""A mapping proposed for CSV, JSON and Parquet files from column names and values, with reasons.

Rules are few and visible. A name is looked up in a table of usual names (`names`). Values decide
the time format, whether a country is a two-letter code, and what is constant in all events of an
item (`attributes`). `kind` separates events from profiles, `tables.forms` detects how text is
written.
"""

from collections.abc import Collection, Sequence
from pathlib import Path

import pyarrow as pa

from tailorbird.errors import InputError
from tailorbird.events.guess.attributes import find_attributes
from tailorbird.events.guess.event_types import (
    are_ratings,
    count_event_types,
    explain_type,
    get_stem,
    map_type_values,
    to_slug,
)
from tailorbird.events.guess.facts import TableFacts
from tailorbird.events.guess.inspection import Inspection, choose_ts_format, inspect_table
from tailorbird.events.guess.joins import join_tables
from tailorbird.events.guess.kind import IS_CURRENT_NAMES, VALID_TO_NAMES, classify_rows
from tailorbird.events.guess.names import (
    ATTRIBUTE_NAMES,
    CONTEXT_FIELD_NAMES,
    PROPERTY_NAMES,
    find_usual_columns,
    has_usual_name,
    normalise_name,
)
from tailorbird.events.guess.quoting import toml_string
from tailorbird.events.guess.roles import assign_roles, is_mostly_later
from tailorbird.events.guess.text import format_source, guess_ts_unit
from tailorbird.events.guess.values import (
    NO_HINTS,
    AskError,
    ColumnGuess,
    MappingHints,
    SourceGuess,
)

_PROFILE_REASONS = {
    "ts": "an attribute: what the row says was not all known then, so the profile has no time of "
    "its own",
    "type": "an attribute of the profile",
}


_TITLE_NAMES = tuple(name for name in ATTRIBUTE_NAMES["title"] if name != "description")
_PRICE_NAMES = ATTRIBUTE_NAMES["price"]  # an event keeps its price, whatever else it tells
_NOUN_PHRASE_BY_KIND = {"items": "an item", "users": "a user"}


def guess_sources(
    file: Path, hints: MappingHints = NO_HINTS, *, profiled_kinds: Collection[str] = ()
) -> list[SourceGuess]:
    """Propose how the rows of a file become events or profiles.

    A file of events gives a second source of profiles where columns say what an item or a user is:
    the same in all of its rows.

    Args:
        profiled_kinds: `items` or `users` with profiles in another file, so that events give none.

    Raises:
        InputError: the file is empty, has neither an item nor a user, or has no header.
        AskError: day and month cannot be told apart.
    """
    return _guess_file(file, inspect_table(file, hints), hints, profiled_kinds)


def _guess_file(
    file: Path, inspection: Inspection, hints: MappingHints, profiled_kinds: Collection[str]
) -> list[SourceGuess]:
    """Propose sources from the inspection of a file; see `guess_sources`."""
    table_spec, sample, notes = inspection
    names = sample.schema.names
    table = TableFacts(sample)
    roles, column_guesses, doubts = assign_roles(table, hints, file.name)
    _require_item_or_user(file, names, roles)
    row_kind = classify_rows(sample, roles, get_stem(file))
    kind = row_kind.name
    if kind != "events":
        roles, column_guesses = _to_profile_roles(roles, column_guesses, row_kind.ts)
    if row_kind.why:
        column_guesses.append(ColumnGuess("", f'kind = "{kind}"', row_kind.why))
    if kind == "events":
        _require_events(file, names, roles)
    ts_format = choose_ts_format(file, table_spec, sample, roles, hints)
    column_guesses += _guess_constants(file, sample, kind, roles, ts_format)
    decided_columns = {guess.column for guess in [*notes, *column_guesses]}
    unassigned_columns = [name for name in names if name not in decided_columns]
    owner_by_attribute = (
        _find_attribute_owners(sample, roles, unassigned_columns, profiled_kinds)
        if kind == "events"
        else {}
    )
    column_guesses = [
        *notes,
        *column_guesses,
        *(
            _guess_unassigned_column(sample, name, kind, roles, owner_by_attribute)
            for name in unassigned_columns
        ),
    ]
    ts_unit = guess_ts_unit(sample.column(roles["ts"])) if "ts" in roles else "us"
    type_counts, type_by_value = (
        (count_event_types(sample, roles, get_stem(file)), map_type_values(sample, roles))
        if kind == "events"
        else ({}, {})
    )
    toml = format_source(file, kind, sample, roles, column_guesses, table_spec, ts_format)
    first_guess = SourceGuess(
        file=file,
        kind=kind,
        columns=column_guesses,
        toml=toml,
        ts_unit=ts_unit,
        types=type_counts,
        values=type_by_value,
        table_spec=table_spec,
        ts_format=ts_format,
        sample=sample,
        doubts=tuple(doubts),
    )
    return [
        first_guess,
        *(
            _profile_source(first_guess, owner, roles, owner_by_attribute)
            for owner in ("items", "users")
            if owner in owner_by_attribute.values()
        ),
    ]


def _require_item_or_user(file: Path, names: Sequence[str], roles: dict[str, str]) -> None:
    if "item_id" not in roles and "user_id" not in roles:
        raise InputError(
            f"no column looks like an item or a user: {', '.join(names)}",
            where=str(file),
            fix="write the mapping by hand: see docs/how-to/import.md",
        )
    if {"property", "value"} <= set(names):
        fix = "make a column of each property, a row of each item, and give that file"
        raise InputError("holds one property a row, which is no profile", where=str(file), fix=fix)


def _require_events(file: Path, names: Sequence[str], roles: dict[str, str]) -> None:
    has_user_and_item = "item_id" in roles and {"user_id", "anonymous_id"} & roles.keys()
    if "ts" not in roles and not has_user_and_item:
        raise InputError(
            "its rows are no events (a user and an item, or a time) and no profiles (each a "
            "different item or user, or several of one with"
            " the time from which each holds, such as valid_from);"
            f" its columns: {', '.join(names)}",
            where=str(file),
            fix="write the mapping by hand: see docs/how-to/import.md",
        )


def _to_profile_roles(
    roles: dict[str, str], columns: Sequence[ColumnGuess], valid_from: str | None
) -> tuple[dict[str, str], list[ColumnGuess]]:
    """Return roles and columns of a profile: its time is that from which the row holds, if any."""
    profile_roles = dict(roles)
    guesses = list(columns)
    for role in ("ts", "type"):
        if role in profile_roles:
            name = profile_roles.pop(role)
            guesses = [guess for guess in guesses if guess.column != name]
            guesses.append(ColumnGuess(name, f"properties.{to_slug(name)}", _PROFILE_REASONS[role]))
    if valid_from is not None:
        profile_roles["ts"] = valid_from
        guesses = [guess for guess in guesses if guess.column != valid_from]
        guesses.append(ColumnGuess(valid_from, "ts", "from then on the row holds"))
    return profile_roles, guesses


def _guess_constants(
    file: Path, sample: pa.RecordBatch, kind: str, roles: dict[str, str], ts_format: str
) -> list[ColumnGuess]:
    """Return what holds for all rows and is in no column: no time, a time format, one type."""
    guesses = []
    if kind == "events" and "ts" not in roles:
        why = (
            "no column is a time (ISO 8601, or seconds since 1970): each row counts as "
            "of its import"
        )
        guesses.append(ColumnGuess("", "ts", why))
    if ts_format:
        mapping_line = f"ts_format = {toml_string(ts_format)}"
        guesses.append(ColumnGuess("", mapping_line, "so its times are written"))
    if kind == "events" and "type" not in roles:
        (only_type,) = count_event_types(sample, roles, get_stem(file))
        why = explain_type(sample, roles, get_stem(file))
        guesses.append(ColumnGuess("", f"type = {toml_string(only_type)}", why))
    return guesses


def _find_attribute_owners(
    sample: pa.RecordBatch,
    roles: dict[str, str],
    names: Sequence[str],
    profiled_kinds: Collection[str],
) -> dict[str, str]:
    """Return column → `items` or `users`, for columns that say what an item or a user is."""
    owners = find_attributes(
        sample, roles, [name for name in names if not _find_context_field(name)]
    )
    return {name: owner for name, owner in owners.items() if owner not in profiled_kinds}


def _guess_unassigned_column(
    sample: pa.RecordBatch,
    name: str,
    kind: str,
    roles: dict[str, str],
    owner_by_attribute: dict[str, str],
) -> ColumnGuess:
    """Return what a column is that has no role."""
    ts = roles.get("ts")
    if kind == "events" and ts and is_mostly_later(sample.column(name), sample.column(ts)):
        why = (
            f"left out: a time behind {ts}, which nobody knew then, a leak; add it "
            "by hand if it was planned"
        )
        return ColumnGuess(name, "", why)
    owner = owner_by_attribute.get(name, "")
    if owner and not (owner == "items" and has_usual_name(name, _PRICE_NAMES)):
        noun_phrase = _NOUN_PHRASE_BY_KIND[owner]
        why = f"the same in all events of {noun_phrase}: an attribute, read as a profile"
        return ColumnGuess(name, "", why)
    return _guess_column(sample, name, kind, has_versions=ts is not None)


def guess_files(
    files: Sequence[Path], hints: MappingHints = NO_HINTS
) -> tuple[list[SourceGuess], dict[Path, str]]:
    """Return the proposals for some files, and the files left out with a reason.

    Raises:
        InputError: nothing can be made of the only file.
        AskError: one answer is needed.
    """
    guesses_by_file: dict[Path, list[SourceGuess]] = {}
    inspections: dict[Path, Inspection] = {}
    skipped_files: dict[Path, str] = {}
    for file in files:
        try:
            inspections[file] = inspect_table(file, hints)
        except InputError as error:
            if len(files) == 1:
                raise
            skipped_files[file] = error.message
    inspections, joined_files = join_tables(inspections, hints)
    skipped_files |= joined_files
    for file in [file for file in inspections if file not in joined_files]:
        try:
            guesses_by_file[file] = _guess_file(file, inspections[file], hints, ())
        except AskError:
            raise
        except InputError as error:
            if len(files) == 1:
                raise
            skipped_files[file] = error.message
    profiled_kinds = {guesses[0].kind for guesses in guesses_by_file.values()}
    for file, guesses in guesses_by_file.items():
        if any(guess.kind in profiled_kinds for guess in guesses[1:]):
            guesses_by_file[file] = _guess_file(file, inspections[file], hints, profiled_kinds)
    return [guess for guesses in guesses_by_file.values() for guess in guesses], skipped_files


def _profile_source(
    event_source: SourceGuess, kind: str, roles: dict[str, str], owner_by_attribute: dict[str, str]
) -> SourceGuess:
    """Return the source of the profiles contained in a file of events."""
    role = {"items": "item_id", "users": "user_id"}[kind]
    columns = [
        ColumnGuess(
            roles[role],
            role,
            f"each {_NOUN_PHRASE_BY_KIND[kind].split()[-1]} once, with what its events say of it",
        )
    ]
    used_columns: set[str] = set()
    for name in [name for name, owner in owner_by_attribute.items() if owner == kind]:
        typical_names = (
            target_name
            for target_name, names in ATTRIBUTE_NAMES.items()
            if kind == "items" and target_name not in used_columns and has_usual_name(name, names)
        )
        last_part = normalise_name(name.rpartition(".")[2])
        target_name = next(
            typical_names, to_slug(normalise_name(name) if last_part in used_columns else last_part)
        )
        used_columns.add(target_name)
        columns.append(
            ColumnGuess(
                name,
                f"properties.{target_name}",
                f"the same in all events of {_NOUN_PHRASE_BY_KIND[kind]}",
            )
        )
    owner_role = {role: roles[role]}
    toml = format_source(
        event_source.file,
        kind,
        event_source.sample,
        owner_role,
        columns,
        event_source.table_spec,
        "",
        is_distinct=True,
    )
    return SourceGuess(
        event_source.file,
        kind,
        columns,
        toml,
        "us",
        {},
        {},
        event_source.table_spec,
        "",
        event_source.sample,
    )


def _guess_column(
    sample: pa.RecordBatch, name: str, kind: str, *, has_versions: bool
) -> ColumnGuess:
    column = sample.column(name)
    if kind != "events" and has_versions and name.lower() in VALID_TO_NAMES | IS_CURRENT_NAMES:
        return ColumnGuess(
            name,
            "",
            "left out: when a row ceased to hold was not known when it began to, a leak; add "
            "it by hand if it was",
        )
    if kind == "items" and find_usual_columns(sample.schema.names, _TITLE_NAMES)[:1] == [name]:
        return ColumnGuess(name, "properties.title", "what an item is called")
    if kind != "events":
        return ColumnGuess(name, f"properties.{to_slug(name)}", "an attribute of the profile")
    if role := _find_context_field(name):
        if role == "country" and not _holds_country_codes(column):
            return ColumnGuess(
                name,
                f"properties.{to_slug(name)}",
                "a country, but not in two letters, so it stays a property",
            )
        return ColumnGuess(name, f"context.{role}", "its name is usual for it")
    if name.lower() == "score" and not are_ratings(column):
        return ColumnGuess(
            name,
            "properties.score",
            'kept as it is; if people gave it: type = "rating", and in properties rating = "score"',
        )
    for role, names in PROPERTY_NAMES.items():
        if has_usual_name(name, names):
            if (
                role == "query"
                or pa.types.is_integer(column.type)
                or pa.types.is_floating(column.type)
            ):
                return ColumnGuess(name, f"properties.{role}", "its name is usual for it")
            return ColumnGuess(
                name,
                f"properties.{to_slug(name)}_text",
                f"named like {role}, but it holds no numbers",
            )
    if name.lower().endswith(("_size", "_total")):
        return ColumnGuess(
            name,
            "",
            "left out: it looks like a total that is known only afterwards, a leak; add it "
            "by hand if not",
        )
    return ColumnGuess(name, f"properties.{to_slug(name)}", "kept as a property of the event")


def _find_context_field(name: str) -> str:
    """Return the context field that a column is by its name, or ""."""
    return next(
        (
            role
            for role, names in CONTEXT_FIELD_NAMES.items()
            if normalise_name(name).removeprefix("context_") in names
        ),
        "",
    )


def _holds_country_codes(column: pa.Array) -> bool:
    if not pa.types.is_string(column.type):
        return False
    return all(
        len(value) == 2 and value.isalpha() for value in column.drop_null().unique().to_pylist()
    )
