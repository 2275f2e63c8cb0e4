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
    slug_of,
    stem_of,
    type_reason,
    types_of,
    values_of,
)
from tailorbird.events.guess.inspection import Inspection, inspect_table, ts_format_of
from tailorbird.events.guess.joins import join_tables
from tailorbird.events.guess.kind import IS_CURRENT_NAMES, VALID_TO_NAMES, classify_rows
from tailorbird.events.guess.names import (
    ATTRIBUTES,
    CONTEXT,
    PROPERTIES,
    find_usual_columns,
    has_usual_name,
    normalise_name,
)
from tailorbird.events.guess.quoting import toml_string
from tailorbird.events.guess.roles import is_later, roles_of
from tailorbird.events.guess.text import source_text, unit_of
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


_TITLES = tuple(name for name in ATTRIBUTES["title"] if name != "description")
_PRICES = ATTRIBUTES["price"]  # an event keeps its price, whatever else it tells
_WITH_ARTICLE = {"items": "an item", "users": "a user"}


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
    form, sample, notes = inspection
    names = sample.schema.names
    roles, columns = roles_of(sample, hints)
    _require_item_or_user(file, names, roles)
    row_kind = classify_rows(sample, roles, stem_of(file))
    kind = row_kind.name
    if kind != "events":
        roles, columns = _as_profile(roles, columns, row_kind.ts)
    if row_kind.why:
        columns.append(ColumnGuess("", f'kind = "{kind}"', row_kind.why))
    if kind == "events":
        _require_events(file, names, roles)
    ts_format = ts_format_of(file, form, sample, roles, hints)
    columns += _guess_constants(file, sample, kind, roles, ts_format)
    taken = {guess.column for guess in [*notes, *columns]}
    unassigned_columns = [name for name in names if name not in taken]
    attribute_owners = (
        _find_attribute_owners(sample, roles, unassigned_columns, profiled_kinds)
        if kind == "events"
        else {}
    )
    columns = [
        *notes,
        *columns,
        *(_guess_rest(sample, name, kind, roles, attribute_owners) for name in unassigned_columns),
    ]
    unit = unit_of(sample.column(roles["ts"])) if "ts" in roles else "us"
    types, values = (
        (types_of(sample, roles, stem_of(file)), values_of(sample, roles))
        if kind == "events"
        else ({}, {})
    )
    lines = source_text(file, kind, sample, roles, columns, form, ts_format)
    first_guess = SourceGuess(
        file, kind, columns, lines, unit, types, values, form, ts_format, sample
    )
    return [
        first_guess,
        *(
            _profile_source(first_guess, owner, roles, attribute_owners)
            for owner in ("items", "users")
            if owner in attribute_owners.values()
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
    is_pair = "item_id" in roles and {"user_id", "anonymous_id"} & roles.keys()
    if "ts" not in roles and not is_pair:
        raise InputError(
            "its rows are no events (a user and an item, or a time) and no profiles (each a "
            "different item or user, or several of one with"
            " the time from which each holds, such as valid_from);"
            f" its columns: {', '.join(names)}",
            where=str(file),
            fix="write the mapping by hand: see docs/how-to/import.md",
        )


def _as_profile(
    roles: dict[str, str], columns: Sequence[ColumnGuess], valid_from: str | None
) -> tuple[dict[str, str], list[ColumnGuess]]:
    """Return roles and columns of a profile: its time is that from which the row holds, if any."""
    profile_roles, guesses = dict(roles), list(columns)
    for role in ("ts", "type"):
        if role in profile_roles:
            name = profile_roles.pop(role)
            guesses = [guess for guess in guesses if guess.column != name]
            guesses.append(ColumnGuess(name, f"properties.{slug_of(name)}", _PROFILE_REASONS[role]))
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
        form = f"ts_format = {toml_string(ts_format)}"
        guesses.append(ColumnGuess("", form, "so its times are written"))
    if kind == "events" and "type" not in roles:
        (only,) = types_of(sample, roles, stem_of(file))
        why = type_reason(sample, roles, stem_of(file))
        guesses.append(ColumnGuess("", f"type = {toml_string(only)}", why))
    return guesses


def _find_attribute_owners(
    sample: pa.RecordBatch,
    roles: dict[str, str],
    names: Sequence[str],
    profiled_kinds: Collection[str],
) -> dict[str, str]:
    """Return the columns that say what an item or a user is, with `items` or `users`."""
    owners = find_attributes(sample, roles, [name for name in names if not _context_of(name)])
    return {name: owner for name, owner in owners.items() if owner not in profiled_kinds}


def _guess_rest(
    sample: pa.RecordBatch,
    name: str,
    kind: str,
    roles: dict[str, str],
    attribute_owners: dict[str, str],
) -> ColumnGuess:
    """Return what a column is that has no role."""
    ts = roles.get("ts")
    if kind == "events" and ts and is_later(sample.column(name), sample.column(ts)):
        why = (
            f"left out: a time behind {ts}, which nobody knew then, a leak; add it "
            "by hand if it was planned"
        )
        return ColumnGuess(name, "", why)
    owner = attribute_owners.get(name, "")
    if owner and not (owner == "items" and has_usual_name(name, _PRICES)):
        why = f"the same in all events of {_WITH_ARTICLE[owner]}: an attribute, read as a profile"
        return ColumnGuess(name, "", why)
    return _guess_column(sample, name, kind, versions=ts is not None)


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
    left_out: dict[Path, str] = {}
    for file in files:
        try:
            inspections[file] = inspect_table(file, hints)
        except InputError as error:
            if len(files) == 1:
                raise
            left_out[file] = error.message
    inspections, joined = join_tables(inspections, hints)
    left_out |= joined
    for file in [file for file in inspections if file not in joined]:
        try:
            guesses_by_file[file] = _guess_file(file, inspections[file], hints, ())
        except AskError:
            raise
        except InputError as error:
            if len(files) == 1:
                raise
            left_out[file] = error.message
    profiled_kinds = {guesses[0].kind for guesses in guesses_by_file.values()}
    for file, guesses in guesses_by_file.items():
        if any(guess.kind in profiled_kinds for guess in guesses[1:]):
            guesses_by_file[file] = _guess_file(file, inspections[file], hints, profiled_kinds)
    return [guess for guesses in guesses_by_file.values() for guess in guesses], left_out


def _profile_source(
    main: SourceGuess, kind: str, roles: dict[str, str], attribute_owners: dict[str, str]
) -> SourceGuess:
    """Return the source of the profiles contained in a file of events."""
    role = {"items": "item_id", "users": "user_id"}[kind]
    columns = [
        ColumnGuess(
            roles[role],
            role,
            f"each {_WITH_ARTICLE[kind].split()[-1]} once, with what its events say of it",
        )
    ]
    used_columns: set[str] = set()
    for name in [name for name, owner in attribute_owners.items() if owner == kind]:
        typical_names = (
            target_name
            for target_name, names in ATTRIBUTES.items()
            if kind == "items" and target_name not in used_columns and has_usual_name(name, names)
        )
        last = normalise_name(name.rpartition(".")[2])
        target_name = next(
            typical_names, slug_of(normalise_name(name) if last in used_columns else last)
        )
        used_columns.add(target_name)
        columns.append(
            ColumnGuess(
                name,
                f"properties.{target_name}",
                f"the same in all events of {_WITH_ARTICLE[kind]}",
            )
        )
    only = {role: roles[role]}
    toml = source_text(main.file, kind, main.sample, only, columns, main.form, "", distinct=True)
    return SourceGuess(main.file, kind, columns, toml, "us", {}, {}, main.form, "", main.sample)


def _guess_column(sample: pa.RecordBatch, name: str, kind: str, *, versions: bool) -> ColumnGuess:
    column = sample.column(name)
    if kind != "events" and versions and name.lower() in VALID_TO_NAMES | IS_CURRENT_NAMES:
        return ColumnGuess(
            name,
            "",
            "left out: when a row ceased to hold was not known when it began to, a leak; add "
            "it by hand if it was",
        )
    if kind == "items" and find_usual_columns(sample.schema.names, _TITLES)[:1] == [name]:
        return ColumnGuess(name, "properties.title", "what an item is called")
    if kind != "events":
        return ColumnGuess(name, f"properties.{slug_of(name)}", "an attribute of the profile")
    if role := _context_of(name):
        if role == "country" and not _two_letters(column):
            return ColumnGuess(
                name,
                f"properties.{slug_of(name)}",
                "a country, but not in two letters, so it stays a property",
            )
        return ColumnGuess(name, f"context.{role}", "its name is usual for it")
    if name.lower() == "score" and not are_ratings(column):
        return ColumnGuess(
            name,
            "properties.score",
            'kept as it is; if people gave it: type = "rating", and in properties rating = "score"',
        )
    for role, names in PROPERTIES.items():
        if has_usual_name(name, names):
            if (
                role == "query"
                or pa.types.is_integer(column.type)
                or pa.types.is_floating(column.type)
            ):
                return ColumnGuess(name, f"properties.{role}", "its name is usual for it")
            return ColumnGuess(
                name,
                f"properties.{slug_of(name)}_text",
                f"named like {role}, but it holds no numbers",
            )
    if name.lower().endswith(("_size", "_total")):
        return ColumnGuess(
            name,
            "",
            "left out: it looks like a total that is known only afterwards, a leak; add it "
            "by hand if not",
        )
    return ColumnGuess(name, f"properties.{slug_of(name)}", "kept as a property of the event")


def _context_of(name: str) -> str:
    """Return the context field that a column is by its name, or ""."""
    return next(
        (
            role
            for role, names in CONTEXT.items()
            if normalise_name(name).removeprefix("context_") in names
        ),
        "",
    )


def _two_letters(column: pa.Array) -> bool:
    if not pa.types.is_string(column.type):
        return False
    return all(
        len(value) == 2 and value.isalpha() for value in column.drop_null().unique().to_pylist()
    )
