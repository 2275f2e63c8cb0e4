"""Declarations proposed from data: what `tailorbird init --from DATA` writes into its files, and why.

files ──► columns (events.adapters.guess) ──► facts ──► features.py, slots.py, [train] of tailorbird.toml
                                                ▲
                    figures of the log (statistics): repeats, sessions, which window tells what comes next
"""

from dataclasses import dataclass, field
from pathlib import Path

from tailorbird.cli.proposal.facts import Reasons, facts_of
from tailorbird.cli.proposal.features import features_text
from tailorbird.cli.proposal.slots import slots_text, train_window
from tailorbird.errors import InputError
from tailorbird.events import EVENT_TYPES
from tailorbird.events.adapters import SourceGuess, find_files, guess_source

_FILES_TOLD = 5


@dataclass
class Proposal:
    """What was found in the data and what is proposed from it.

    Attributes:
        ended_days: how long ago the newest event was; 0 where that cannot be told.
        types: event types of the data that are not built in, for `[events] types`.
        train_window: for `[train] window`.
        reasons: (column, feature or source, taken or left out, why), in the order in which they were decided.
    """

    mapping: str
    features: str
    slots: str
    types: list[str]
    ended_days: float
    train_window: str
    reasons: Reasons = field(default_factory=list)


def propose(data: Path, now: int) -> Proposal:
    """Read the CSV or Parquet files at `data` and propose declarations. `now` is in microseconds.

    Raises:
        InputError: no file holds events that could be used.
    """
    files = find_files(data, ("*.csv", "*.tsv", "*.parquet"))
    reasons: Reasons = []
    guesses: list[SourceGuess] = []
    for file in files:
        try:
            guess = guess_source(file)
        except InputError as error:
            reasons.append((file.name, "left out", error.message))
            continue
        guesses.append(guess)
        for column in guess.columns:
            reasons.append((f"{file.name}: {column.column}", column.role or "left out", column.why))
    events = [guess for guess in guesses if guess.kind == "events"]
    if not events:
        raise InputError(
            f"no file holds events (a user or a session, an item and a time): {_found(files, guesses, reasons)}",
            where=str(data),
            fix="rename the columns, as to user_id, item_id and timestamp, or write the mapping by hand: see docs/how-to/import.md",
        )
    main = max(events, key=lambda guess: guess.file.stat().st_size)
    chosen = [main, *(guess for guess in guesses if guess.kind != "events")]
    reasons += [
        (guess.file.name, "left out", "a second file of events; add its [[source]] by hand") for guess in events if guess is not main
    ]
    mapping = "# How the columns of the files become events and profiles; edit it, then import with --mapping.\n\n"
    mapping += "\n".join(guess.toml for guess in chosen)
    facts = facts_of(main, chosen, now)
    own = [name for name in main.types if name not in EVENT_TYPES]
    reasons += [(name, "event type", "not built in, so it is declared in tailorbird.toml") for name in own]
    slots = slots_text(facts, reasons)
    features = features_text(facts, reasons)
    return Proposal(mapping, features, slots, own, facts.log.ended_days, train_window(facts, reasons), reasons)


def _found(files: list[Path], guesses: list[SourceGuess], reasons: Reasons) -> str:
    """What each file was taken for instead, with its columns."""
    taken = {
        guess.file.name: f"holds {guess.kind} by its columns {', '.join(column.column for column in guess.columns if column.column)}"
        for guess in guesses
    }
    left_out = {name: why for name, _, why in reasons}
    told = [f"{file.name} {taken.get(file.name) or left_out.get(file.name, 'is left out')}" for file in files[:_FILES_TOLD]]
    return "; ".join(told) + (f"; and {len(files) - _FILES_TOLD} more" if len(files) > _FILES_TOLD else "")
