"""Proposes a mapping for CSV, JSON and Parquet files from the names and values of their columns, and says why.

Rules are few and visible: a name is looked up in a table of usual names (`names`); values decide how a time is written, whether a
country is a two-letter code, and what is the same in all events of an item (`attributes`). Whether a file holds events or profiles stands
in `kind`, how its text is written in `tables.forms`.
"""

import json
import re
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow as pa

from tailorbird.errors import InputError
from tailorbird.events.adapters.attributes import attributes_of
from tailorbird.events.adapters.kind import HOLDS_UNTIL, NOT_THEN, STILL_HOLDS, can_be_time, kind_of, typical
from tailorbird.events.adapters.names import ATTRIBUTES, CONTEXT, INDEXES, PROPERTIES, ROLES, called, named, normal
from tailorbird.events.tables.columns import read_columns, read_sample, writes_decimal_comma
from tailorbird.events.tables.encodings import encoding_of
from tailorbird.events.tables.files import bare_suffix
from tailorbird.events.tables.forms import PLAIN, TableForm, first_row, has_header, sniff_delimiter
from tailorbird.events.tables.times import forms_of_times, parse_times

_TYPE_VALUES = {"addtocart": "cart", "add_to_cart": "cart", "carts": "cart", "transaction": "purchase", "order": "purchase",
                "orders": "purchase", "buy": "purchase", "purchased": "purchase",
                "clicks": "click", "pageview": "view", "page_view": "view"}  # fmt: skip
_OF_PROFILES = {
    "ts": "an attribute: what the row says was not all known then, so the profile has no time of its own",
    "type": "an attribute of the profile",
}


_RATING_MAX = 100
_TYPES_MAX = 100  # event types of a site; more are something else, such as titles
_TITLES = tuple(name for name in ATTRIBUTES["title"] if name != "description")
_PRICES = ATTRIBUTES["price"]  # an event keeps its price, whatever else it tells
_PURCHASES = frozenset(("order", "orders", "purchase", "purchases", "transaction", "transactions", "sales", "bestellungen", "invoices"))
_ONE = {"items": "an item", "users": "a user"}


class AskError(InputError):
    """Files leave something open that one answer settles: `choices` are what may be answered."""

    def __init__(self, message: str, *, where: str = "", fix: str = "", choices: tuple[str, ...] = ()) -> None:
        self.choices = choices
        super().__init__(message, where=where, fix=fix)


@dataclass(frozen=True)
class ColumnGuess:
    """What was decided about one column."""

    column: str
    role: str
    why: str


@dataclass(frozen=True)
class SourceGuess:
    """What was decided about one file.

    Attributes:
        kind: `events`, `items` or `users`.
        toml: says so, for mapping.toml.
        types: event types of the first rows, most frequent first, as the mapping calls them.
        values: of the column of types, what the file writes → the event type.
        form: how the file is written.
        ts_format: of its times, where they are not ISO 8601.
        sample: rows from all over the file.
    """

    file: Path
    kind: str
    columns: list[ColumnGuess]
    toml: str
    ts_unit: str
    types: dict[str, int]
    values: dict[str, str]
    form: TableForm
    ts_format: str
    sample: pa.RecordBatch


@dataclass(frozen=True)
class Answers:
    """What a user says about files where their content leaves it open.

    Attributes:
        columns: names of the columns, where the first line does not have them.
        ts_format: of times, for `strptime`.
    """

    columns: tuple[str, ...] = ()
    ts_format: str = ""


NO_ANSWERS = Answers()


def guess_sources(file: Path, answers: Answers = NO_ANSWERS, *, told: Collection[str] = ()) -> list[SourceGuess]:
    """Propose how the rows of a file become events or profiles.

    A file of events gives a second source of profiles where columns say what an item or a user is: the same in all of its rows.

    Args:
        told: `items` or `users` where another file has their profiles, so that events give none.

    Raises:
        InputError: the file is empty, has neither an item nor a user, or has no header.
        AskError: day and month cannot be told apart.
    """
    form, sample, notes = _read(file, answers)
    names = sample.schema.names
    roles, columns = _roles(sample, answers)
    if "item_id" not in roles and "user_id" not in roles:
        raise InputError(
            f"no column looks like an item or a user: {', '.join(names)}",
            where=str(file),
            fix="write the mapping by hand: see docs/how-to/import.md",
        )
    if {"property", "value"} <= set(names):
        fix = "make a column of each property, a row of each item, and give that file"
        raise InputError("holds one property a row, which is no profile", where=str(file), fix=fix)
    found = kind_of(sample, roles, _stem(file))
    kind = found.name
    for role in [role for role in ("ts", "type") if role in roles and kind != "events"]:
        name = roles.pop(role)
        columns = [*(one for one in columns if one.column != name), ColumnGuess(name, f"properties.{_slug(name)}", _OF_PROFILES[role])]
    if kind != "events" and found.ts is not None:
        roles["ts"] = found.ts
        columns = [*(one for one in columns if one.column != found.ts), ColumnGuess(found.ts, "ts", "from then on the row holds")]
    if found.why:
        columns.append(ColumnGuess("", f'kind = "{kind}"', found.why))
    if kind == "events" and "ts" not in roles and not ("item_id" in roles and {"user_id", "anonymous_id"} & roles.keys()):
        raise InputError(
            "its rows are no events (a user and an item, or a time) and no profiles (each a different item or user, or several of one with"
            " the time from which each holds, such as valid_from);"
            f" its columns: {', '.join(names)}",
            where=str(file),
            fix="write the mapping by hand: see docs/how-to/import.md",
        )
    if kind == "events" and "ts" not in roles:
        columns.append(ColumnGuess("", "ts", "no column is a time (ISO 8601, or seconds since 1970): each row counts as of its import"))
    ts_format = _ts_format(file, form, sample, roles, answers)
    if ts_format:
        columns.append(ColumnGuess("", f"ts_format = {quoted(ts_format)}", "so its times are written"))
    given = {entry.column for entry in columns}
    columns = [*notes, *columns]
    free = [name for name in names if name not in given and name not in {note.column for note in notes}]
    of_whom = {} if kind != "events" else attributes_of(sample, roles, [name for name in free if not _is_context(name)])
    of_whom = {name: whose for name, whose in of_whom.items() if whose not in told}
    for name in free:
        if name in of_whom and not (called(name, _PRICES) and of_whom[name] == "items"):
            columns.append(ColumnGuess(name, "", f"the same in all events of {_ONE[of_whom[name]]}: an attribute, read as a profile"))
        else:
            columns.append(_rest(sample, name, kind, versions="ts" in roles))
    unit = _ts_unit(sample.column(roles["ts"])) if "ts" in roles else "us"
    types, values = (_types(sample, roles, _stem(file)), _values(sample, roles)) if kind == "events" else ({}, {})
    lines = _toml(file, kind, sample, roles, columns, form, ts_format)
    first = SourceGuess(file, kind, columns, lines, unit, types, values, form, ts_format, sample)
    return [first, *(_of_events(first, whose, roles, of_whom) for whose in ("items", "users") if whose in of_whom.values())]


def guess_files(files: Sequence[Path], answers: Answers = NO_ANSWERS) -> tuple[list[SourceGuess], dict[Path, str]]:
    """Return what is proposed for each of some files, and which are left out and why.

    Raises:
        InputError: nothing can be made of the only file.
        AskError: one answer is needed.
    """
    found: dict[Path, list[SourceGuess]] = {}
    left_out: dict[Path, str] = {}
    for file in files:
        try:
            found[file] = guess_sources(file, answers)
        except AskError:
            raise
        except InputError as error:
            if len(files) == 1:
                raise
            left_out[file] = error.message
    told = {guesses[0].kind for guesses in found.values()}
    for file, guesses in found.items():
        if any(guess.kind in told for guess in guesses[1:]):
            found[file] = guess_sources(file, answers, told=told)
    return [guess for guesses in found.values() for guess in guesses], left_out


def _read(file: Path, answers: Answers) -> tuple[TableForm, pa.RecordBatch, list[ColumnGuess]]:
    """Return how a file is written, rows from all over it, and what was decided by that."""
    notes: list[ColumnGuess] = []
    form = PLAIN
    if bare_suffix(file) in (".csv", ".tsv", ".txt"):
        if (encoding := encoding_of(file)) != "utf-8":
            notes.append(ColumnGuess("", "text", f"its encoding is {encoding}"))
        form = TableForm(sniff_delimiter(file), columns=answers.columns)
        if not answers.columns and not has_header(file, form):
            example = ", ".join(first_row(file, form)[:8])
            fix = "name its columns in their order, such as: --columns user_id,timestamp,item_id"
            raise InputError(f"its first line is no header: {example}", where=str(file), fix=fix)
    sample = read_sample(file, form)
    if form is not PLAIN and any(map(writes_decimal_comma, sample.columns)):
        form = replace(form, decimal=",")
        sample = read_sample(file, form)
    if form.delimiter:
        notes.append(ColumnGuess("", f"delimiter = {quoted(form.delimiter)}", "its first lines have it"))
    if form.decimal == ",":
        notes.append(ColumnGuess("", 'decimal = ","', "all numbers of a column have one, or points between thousands"))
    if sample.num_rows == 0:
        raise InputError("holds no row", where=str(file))
    for name in sample.schema.names:
        if name.lower() in INDEXES and _counts_rows(sample.column(name)):
            notes.append(ColumnGuess(name, "", "left out: it numbers the rows, as pandas' index does"))
    return form, sample, notes


def _counts_rows(column: pa.Array) -> bool:
    head = column.slice(0, 1_000)
    if not pa.types.is_integer(head.type) or head.null_count:
        return False
    first = head[0].as_py()
    return first in (0, 1) and head.to_pylist() == list(range(first, first + len(head)))


def _of_events(main: SourceGuess, kind: str, roles: dict[str, str], of_whom: dict[str, str]) -> SourceGuess:
    """Return the source of the profiles that stand in a file of events."""
    role = {"items": "item_id", "users": "user_id"}[kind]
    columns = [ColumnGuess(roles[role], role, f"each {_ONE[kind].split()[-1]} once, with what its events say of it")]
    taken: set[str] = set()
    for name in [name for name, whose in of_whom.items() if whose == kind]:
        usual = (to for to, names in ATTRIBUTES.items() if kind == "items" and to not in taken and called(name, names))
        last = normal(name.rpartition(".")[2])
        to = next(usual, _slug(normal(name) if last in taken else last))
        taken.add(to)
        columns.append(ColumnGuess(name, f"properties.{to}", f"the same in all events of {_ONE[kind]}"))
    only = {role: roles[role]}
    toml = _toml(main.file, kind, main.sample, only, columns, main.form, "")
    toml = toml.replace(f'kind = "{kind}"\n', f'kind = "{kind}"\ndistinct = true\n')
    return SourceGuess(main.file, kind, columns, toml, "us", {}, {}, main.form, "", main.sample)


def _ts_format(file: Path, form: TableForm, sample: pa.RecordBatch, roles: dict[str, str], answers: Answers) -> str:
    """Return how the times of a file are written; "" for ISO 8601 and numbers."""
    if "ts" not in roles or not pa.types.is_string(sample.column(roles["ts"]).type):
        return ""
    found = forms_of_times(sample.column(roles["ts"]))
    if answers.ts_format and (found is None or "" not in found.forms):
        return answers.ts_format
    if found is None:
        return ""
    if len(found.forms) == 1:
        return found.forms[0]
    fits = dict.fromkeys(found.forms, 0)
    for batch in read_columns(file, [roles["ts"]], texts=frozenset(roles["ts"]), broken=[], form=form):
        for one in fits:
            times = parse_times(batch.column(0), one, "UTC")
            fits[one] += len(times) - times.null_count
    best = [one for one, count in fits.items() if count == max(fits.values())]
    if len(best) == 1:
        return best[0]
    raise AskError(
        f'day and month of {roles["ts"]} cannot be told apart, as in "{found.example}"',
        where=str(file),
        fix=f"say which comes first: --ts-format {' or --ts-format '.join(quoted(one) for one in best)}",
        choices=tuple(best),
    )


def _roles(sample: pa.RecordBatch, answers: Answers) -> tuple[dict[str, str], list[ColumnGuess]]:
    roles: dict[str, str] = {}
    columns: list[ColumnGuess] = []
    names = sample.schema.names
    for role, usual in ROLES.items():
        for name in named(names, usual):
            if role in roles or name in roles.values() or not _may_be(role, sample.column(name), answers):
                continue
            roles[role] = name
            columns.append(ColumnGuess(name, role, "its name is usual for it"))
    times = [name for name in names if pa.types.is_timestamp(sample.column(name).type) or name.lower().endswith("_date")]
    times = [name for name in times if name.lower() not in NOT_THEN and can_be_time(sample.column(name))]
    if "ts" not in roles and len(times) == 1:
        roles["ts"] = times[0]
        columns.append(ColumnGuess(times[0], "ts", "the only column of times"))
    if "session_id" in roles and "user_id" not in roles and "anonymous_id" not in roles:
        roles["anonymous_id"] = roles["session_id"]
        columns.append(ColumnGuess(roles["session_id"], "anonymous_id", "there is no user, so each session is a person of its own"))
    return roles, columns


def _may_be(role: str, column: pa.Array, answers: Answers) -> bool:
    """Whether the values of a column allow a role."""
    if role == "ts":
        return can_be_time(column) or bool(answers.ts_format and pa.types.is_string(column.type))
    if role == "type":
        return pa.types.is_string(column.type) and len(column.unique()) <= _TYPES_MAX
    if role in ("session_id", "user_id", "item_id") and column.null_count > len(column) / 2:
        return False
    return not pa.types.is_nested(column.type)


def _rest(sample: pa.RecordBatch, name: str, kind: str, *, versions: bool) -> ColumnGuess:
    column = sample.column(name)
    if kind != "events" and versions and name.lower() in HOLDS_UNTIL | STILL_HOLDS:
        return ColumnGuess(
            name,
            "",
            "left out: when a row ceased to hold was not known when it began to, a leak; add it by hand if it was",
        )
    if kind == "items" and named(sample.schema.names, _TITLES)[:1] == [name]:
        return ColumnGuess(name, "properties.title", "what an item is called")
    if kind != "events":
        return ColumnGuess(name, f"properties.{_slug(name)}", "an attribute of the profile")
    for role, names in CONTEXT.items():
        if normal(name).removeprefix("context_") in names:
            if role == "country" and not _two_letters(column):
                return ColumnGuess(name, f"properties.{_slug(name)}", "a country, but not in two letters, so it stays a property")
            return ColumnGuess(name, f"context.{role}", "its name is usual for it")
    if name.lower() == "score" and not _are_ratings(column):
        return ColumnGuess(
            name, "properties.score", 'kept as it is; if people gave it: type = "rating", and in properties rating = "score"'
        )
    for role, names in PROPERTIES.items():
        if called(name, names):
            if role == "query" or pa.types.is_integer(column.type) or pa.types.is_floating(column.type):
                return ColumnGuess(name, f"properties.{role}", "its name is usual for it")
            return ColumnGuess(name, f"properties.{_slug(name)}_text", f"named like {role}, but it holds no numbers")
    if name.lower().endswith(("_size", "_total")):
        return ColumnGuess(name, "", "left out: it looks like a total that is known only afterwards, a leak; add it by hand if not")
    return ColumnGuess(name, f"properties.{_slug(name)}", "kept as a property of the event")


def _is_context(name: str) -> bool:
    return any(normal(name).removeprefix("context_") in names for names in CONTEXT.values())


def _are_ratings(column: pa.Array) -> bool:
    """Whether scores are what people give, in whole or half points, and not what a program computed."""
    known = column.drop_null()
    if not (pa.types.is_integer(known.type) or pa.types.is_floating(known.type)) or not len(known):
        return False
    return all(0 <= value <= _RATING_MAX and value * 2 == int(value * 2) for value in known.unique().to_pylist())


def _two_letters(column: pa.Array) -> bool:
    if not pa.types.is_string(column.type):
        return False
    return all(len(value) == 2 and value.isalpha() for value in column.drop_null().unique().to_pylist())


def _slug(name: str) -> str:
    """Return a name as a property is written."""
    return "".join(letter if letter.isalnum() else "_" for letter in name.lower())


def _ts_unit(column: pa.Array) -> str:
    if not (pa.types.is_integer(column.type) or pa.types.is_floating(column.type)):
        return "us"
    usual = typical(column) or 0
    return "s" if usual < 1e11 else "ms" if usual < 1e14 else "us"


def _toml(
    file: Path, kind: str, sample: pa.RecordBatch, roles: dict[str, str], columns: list[ColumnGuess], form: TableForm, ts_format: str
) -> str:
    lines = ["[[source]]", f"file = {quoted(file.name)}", f'kind = "{kind}"']
    lines += [f"delimiter = {quoted(form.delimiter)}"] if form.delimiter else []
    lines += ['decimal = ","'] if form.decimal == "," else []
    lines += [f"columns = [{', '.join(map(quoted, form.columns))}]"] if form.columns else []
    if kind == "events":
        lines.append(_type_line(sample, roles, _stem(file)))
    if "ts" in roles:
        lines.append(f"ts = {quoted(roles['ts'])}")
        unit = _ts_unit(sample.column(roles["ts"]))
        if unit != "us":
            lines.append(f'ts_unit = "{unit}"')
        if ts_format:
            lines.append(f"ts_format = {quoted(ts_format)}")
    lines += [
        f"{role} = {quoted(roles[role])}"
        for role in ("event_id", "user_id", "anonymous_id", "session_id", "item_id", "request_id")
        if role in roles
    ]
    for section in ("context", "properties"):
        chosen = [entry for entry in columns if entry.role.startswith(section + ".")]
        if chosen:
            lines.append(f"[source.{section}]")
            lines += [f"{key(entry.role.partition('.')[2])} = {quoted(entry.column)}" for entry in chosen]
    return "\n".join(lines) + "\n"


def _stem(file: Path) -> str:
    return _slug(file.name.partition(".")[0])


def quoted(text: str) -> str:
    """A TOML string."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def key(name: str) -> str:
    """A TOML key, in quotes where it needs them."""
    return name if name.isascii() and name.replace("_", "a").replace("-", "a").isalnum() else quoted(name)


def _types(sample: pa.RecordBatch, roles: dict[str, str], stem: str) -> dict[str, int]:
    """Event types, most frequent first, as the mapping will call them."""
    if "type" not in roles:
        return {_one_type(sample, roles, stem): sample.num_rows}
    found = Counter(str(value) for value in sample.column(roles["type"]).to_pylist() if value is not None)
    renamed: Counter[str] = Counter()
    for value, count in found.items():
        renamed[_TYPE_VALUES.get(value.lower(), value)] += count
    return dict(renamed.most_common())


def _values(sample: pa.RecordBatch, roles: dict[str, str]) -> dict[str, str]:
    """What the column of types holds, as it is written → the event type."""
    if "type" not in roles:
        return {}
    seen = [str(value) for value in sample.column(roles["type"]).unique().to_pylist() if value is not None]
    return {value: _TYPE_VALUES.get(value.lower(), value) for value in seen}


def _type_line(sample: pa.RecordBatch, roles: dict[str, str], stem: str) -> str:
    if "type" not in roles:
        return f'type = "{_one_type(sample, roles, stem)}"'
    seen = [str(value) for value in sample.column(roles["type"]).unique().to_pylist() if value is not None]
    values = ", ".join(f'{quoted(value)} = "{_TYPE_VALUES[value.lower()]}"' for value in seen if value.lower() in _TYPE_VALUES)
    return f"type = {{ column = {quoted(roles['type'])}, values = {{ {values} }} }}"


def _one_type(sample: pa.RecordBatch, roles: dict[str, str], stem: str) -> str:
    """The type of all rows of a file that has no column of types."""
    names = {name.lower() for name in sample.schema.names}
    if "item_id" not in roles:
        return stem
    if names & {"rating", "stars"} or any(name.lower() == "score" and _are_ratings(sample.column(name)) for name in sample.schema.names):
        return "rating"
    bought = names & {"basket_id", "invoice", "order_id", "sales_value"} or named(sample.schema.names, PROPERTIES["quantity"])
    return "purchase" if bought or _PURCHASES & set(re.split(r"[^a-z]+", stem)) else "click"
