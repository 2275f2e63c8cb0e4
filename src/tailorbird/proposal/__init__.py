"""Declarations proposed from data: what `tailorbird init --from DATA` writes, and why.

files ──► columns (events.guess.sources) ──► facts ──► features.py, slots.py, [train] of
                                                tailorbird.toml ▲ figures of the log (statistics):
                                                repeats, sessions, which window tells what comes
                                                next
"""

import shlex
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path

import pyarrow.compute as pc

from tailorbird.errors import InputError
from tailorbird.events import EVENT_TYPES
from tailorbird.events.adapters import FORMATS, find_files, list_importable_files, recognise_format
from tailorbird.events.guess import (
    NO_HINTS,
    ROLE_OPTIONS,
    ROLE_QUESTIONS,
    AskError,
    MappingHints,
    SourceGuess,
    Trial,
    guess_files,
    try_mapping,
)
from tailorbird.events.guess.quoting import toml_string
from tailorbird.proposal.adapter_facts import facts_from_adapter
from tailorbird.proposal.facts import Reasons, choose_typical_user, derive_facts
from tailorbird.proposal.features import render_features
from tailorbird.proposal.slots import choose_train_window, render_slots

_FILES_LISTED_MAX = 5
_MAPPED_FORMATS = (
    None,
    "mapping",
    "movielens",
)  # formats read by a mapping, whose columns are described
_REFUSED_SHARE_MAX = (
    0.5  # share of the rows that may be refused where a project is made all the same
)


@dataclass
class Proposal:
    """The declarations proposed from the data.

    Attributes:
        types: event types of the data that are not built in, for `[events] types`.
        train_window: for `[train] window`.
        format: to import as; `mapping` is by the mapping.
        user: an active user to try it with; "" without user ids.
        trial: what the contract says of rows from all over the files.
        reasons: (column, feature or source, taken or left out, why), in the order in which they
            were decided.
        clicks_a_day, answers_a_day: what lists may expect: events of the target type, and visits.
            0 if the times are unknown.
    """

    mapping: str
    features: str
    slots: str
    types: list[str]
    train_window: str
    user: str
    trial: Trial
    format: str = "mapping"
    reasons: Reasons = field(default_factory=list)
    clicks_a_day: float = 0.0
    answers_a_day: float = 0.0


def propose(data: Path, now: int, hints: MappingHints = NO_HINTS) -> Proposal:
    """Read the CSV, JSON or Parquet files at `data` and propose declarations.

    `now` is in microseconds.

    Raises:
        InputError: no file holds events that could be used.
        AskError: one answer is needed; see `MappingHints`.
    """
    if (format_ := recognise_format(list_importable_files(data))) not in _MAPPED_FORMATS:
        return _propose_from_adapter(str(format_), data, now)
    files = find_files(data, FORMATS["mapping"].patterns)
    reasons: Reasons = []
    guesses, reason_by_left_out_file = guess_files(files, hints)
    reasons += [(file.name, "left out", why) for file, why in reason_by_left_out_file.items()]
    reasons += [
        (f"{guess.file.name}: {column.column}", column.role or "left out", column.why)
        for guess in guesses
        for column in guess.columns
    ]
    event_sources = [guess for guess in guesses if guess.kind == "events"]
    if not event_sources:
        raise InputError(
            "no file holds events (a user or a session, an item and a time): "
            f"{_describe_files(files, guesses, reasons)}",
            where=str(data),
            fix="rename the columns, as to user_id, item_id and timestamp, or write the mapping "
            "by hand: see docs/how-to/import.md",
        )
    main_source = max(event_sources, key=lambda guess: guess.file.stat().st_size)
    _require_roles(main_source, hints)
    same_layout_sources = [
        guess
        for guess in event_sources
        if _toml_without_file(guess) == _toml_without_file(main_source)
    ]
    other_event_files = {guess.file for guess in event_sources} - {main_source.file}
    chosen_sources = [
        main_source,
        *(
            guess
            for guess in guesses
            if guess.kind != "events" and guess.file not in other_event_files
        ),
    ]
    reasons += [
        (guess.file.name, "left out", "a second file of events; add its [[source]] by hand")
        for guess in event_sources
        if guess not in same_layout_sources
    ]
    mapping = (
        "# How the columns of the files become events and profiles; edit it, then import "
        "with --mapping.\n\n"
    )
    mapping += "\n".join(guess.toml for guess in chosen_sources)
    if len(same_layout_sources) > 1:
        pattern = _name_pattern([guess.file.name for guess in same_layout_sources])
        mapping = mapping.replace(
            f"file = {toml_string(main_source.file.name)}", f"file = {toml_string(pattern)}"
        )
        reasons.append(
            (
                pattern,
                "events",
                f"{len(same_layout_sources)} files with the same columns; figures below are of "
                f"{main_source.file.name}",
            )
        )
    facts = derive_facts(main_source, chosen_sources)
    custom_types = [name for name in main_source.types if name not in EVENT_TYPES]
    trial = try_mapping(mapping, files, now, custom_types)
    if trial.refused_share > _REFUSED_SHARE_MAX:
        fix = "write the mapping by hand: docs/how-to/import.md"
        raise InputError(f"hardly a row could be used\n{trial.warning}", where=str(data), fix=fix)
    reasons += [
        (name, "event type", "not built in, so it is declared in tailorbird.toml")
        for name in custom_types
    ]
    slots = render_slots(facts, reasons)
    features = render_features(facts, reasons)
    return Proposal(
        mapping=mapping,
        features=features,
        slots=slots,
        types=custom_types,
        train_window=choose_train_window(facts, reasons),
        user=choose_typical_user(_events_by_user(main_source)),
        trial=trial,
        format="mapping",
        reasons=reasons,
        clicks_a_day=facts.log_statistics.events_a_day,
        answers_a_day=facts.log_statistics.visits_a_day,
    )


def _require_roles(source: SourceGuess, hints: MappingHints) -> None:
    """Raise AskError where a role of the events is in doubt, or absent without a word.

    Raises:
        AskError: says what each candidate holds; its option answers it.
    """
    chosen = [(column.role, column.column) for column in source.columns if column.column]
    stated = dict(hints.roles)
    answers = " ".join(
        f"--{ROLE_OPTIONS[role]} {shlex.quote(column)}"
        for role, column in chosen
        if role in ROLE_OPTIONS and role not in {doubt.role for doubt in source.doubts}
    )
    for doubt in source.doubts:
        best = doubt.proposal or "none"
        choices = tuple(dict.fromkeys((best, *doubt.candidates, "none")))
        raise AskError(
            f"{ROLE_QUESTIONS[doubt.role]} {'; '.join(doubt.descriptions)}",
            where=str(source.file),
            fix=f"init --from … {answers} --{doubt.option} {shlex.quote(best)}"
            + (f" (or {', '.join(choices[1:])})" if choices[1:] else ""),
            choices=choices,
            option=doubt.option,
        )
    roles = {role for role, _ in chosen}
    roles |= {"user_id"} if "anonymous_id" in roles else set()
    for role in ("ts", "user_id", "item_id"):
        if role not in roles and stated.get(role) != "none":
            choices = ("none", *(column.column for column in source.columns if column.column))
            raise AskError(
                f"no column looks like it: {ROLE_QUESTIONS[role]} Its columns: "
                f"{', '.join(choices[1:])}",
                where=str(source.file),
                fix=f"init --from … {answers} --{ROLE_OPTIONS[role]} COLUMN (none: there is none)",
                choices=choices,
                option=ROLE_OPTIONS[role],
            )


def _propose_from_adapter(format_: str, data: Path, now: int) -> Proposal:
    """Propose from files that an adapter reads, without a mapping."""
    facts, custom_types, user = facts_from_adapter(format_, data, now)
    reasons: Reasons = [
        (data.name, format_, "its columns or records are those of this format: it needs no mapping")
    ]
    reasons += [
        (name, "event type", "not built in, so it is declared in tailorbird.toml")
        for name in custom_types
    ]
    slots = render_slots(facts, reasons)
    features = render_features(facts, reasons)
    return Proposal(
        mapping="",
        features=features,
        slots=slots,
        types=custom_types,
        train_window=choose_train_window(facts, reasons),
        user=user,
        trial=Trial(0, 0, [], []),
        format=format_,
        reasons=reasons,
        clicks_a_day=facts.log_statistics.events_a_day,
        answers_a_day=facts.log_statistics.visits_a_day,
    )


def _events_by_user(main_source: SourceGuess) -> dict[str, int]:
    """Count the events of each user in the sample."""
    column = next((column.column for column in main_source.columns if column.role == "user_id"), "")
    if not column:
        return {}
    counts = pc.value_counts(main_source.sample.column(column).drop_null()).to_pylist()
    return {
        f"{user:.15g}" if isinstance(user, float) else str(user): count
        for user, count in (entry.values() for entry in counts)
    }


def _toml_without_file(guess: SourceGuess) -> str:
    return guess.toml.replace(f"file = {toml_string(guess.file.name)}", "", 1)


def _name_pattern(names: list[str]) -> str:
    """Return a pattern that matches names with a common prefix or suffix."""
    prefix = _common_prefix(names)
    suffix = _common_prefix([name[len(prefix) :][::-1] for name in names])[::-1]
    return f"{prefix}*{suffix}"


def _common_prefix(names: list[str]) -> str:
    """Return the common prefix of all names."""
    pairs = zip(min(names), max(names), strict=False)
    return "".join(letter for letter, _ in takewhile(lambda pair: pair[0] == pair[1], pairs))


def _describe_files(files: list[Path], guesses: list[SourceGuess], reasons: Reasons) -> str:
    """Describe what each file was classified as, with its columns."""
    description_by_file = {
        guess.file.name: f"holds {guess.kind} by its columns "
        f"{', '.join(column.column for column in guess.columns if column.column)}"
        for guess in guesses
    }
    reason_by_file = {name: why for name, _, why in reasons}
    descriptions = [
        f"{file.name} {description_by_file.get(file.name) or reason_by_file.get(file.name, 'is left out')}"
        for file in files[:_FILES_LISTED_MAX]
    ]
    return "; ".join(descriptions) + (
        f"; and {len(files) - _FILES_LISTED_MAX} more" if len(files) > _FILES_LISTED_MAX else ""
    )
