"""What the router's file holds of people, taken out: the index of repeats, who an anonymous id is, profiles, answers.

The log's blocks are deleted before, which their readers have all taken in; then the file is written anew, so that neither free
pages nor the WAL keep anything.
"""

from collections.abc import Collection
from dataclasses import dataclass
from functools import partial

import apsw
import msgspec
import numpy as np

from tailorbird import faults
from tailorbird.events import Event
from tailorbird.router import attribution, dedup, pruned
from tailorbird.router.dedup import ENTRY, Entries, fingerprints
from tailorbird.stream import EmbeddedWriter

_answers = msgspec.msgpack.Decoder(list[attribution.Given]).decode


@dataclass(frozen=True)
class Forgotten:
    """What was taken out of the router's tables."""

    blocks: int = 0
    repeats: int = 0
    identities: int = 0
    profiles: int = 0
    answers: int = 0


def erase(
    log: EmbeddedWriter,
    before: int,
    *,
    users: Collection[str],
    visitors: Collection[str],
    events: Collection[tuple[str, str, str]],
    requests: Collection[str],
) -> Forgotten:
    """Take people out of the router's file, whose writer is `log`.

    Args:
        before: every block ends at or before it, and nobody needs one any more.
        users, visitors: whose identity and profiles go; anonymous ids that are somebody else's, too, are not among the visitors.
        events: mark of the subject ("u" or "a"), subject, event id.
        requests: the answers that are forgotten.
    """
    blocks = 0
    while some := log.prune_some(before, last_look=partial(pruned.sum_up, log.connection)):
        blocks += some
        faults.at("erase.routed_blocks")
    with log.transaction() as connection:
        repeats = _forget_repeats(connection, _prints(events))
        identities = _delete(connection, "identity", "user_id", users) + _delete(connection, "identity", "anonymous_id", visitors)
        profiles = _delete(connection, "profile", "kind = 'user' AND id", users)
        answers = _forget_answers(connection, frozenset(requests))
        faults.at("erase.routed_tables")
    log.shrink()
    faults.at("erase.routed_file")
    return Forgotten(blocks, repeats, identities, profiles, answers)


def _prints(events: Collection[tuple[str, str, str]]) -> Entries:
    subjects = [
        Event(id_, "", user_id=who if mark == "u" else None, anonymous_id=who if mark == "a" else None) for mark, who, id_ in events
    ]
    found = np.zeros(len(subjects), ENTRY)
    if subjects:
        prints = fingerprints(subjects)
        found["key"], found["check"] = prints[:, 0], prints[:, 1]
    return found


def _delete(connection: apsw.Connection, table: str, column: str, values: Collection[str]) -> int:
    before = connection.total_changes()
    connection.executemany(f"DELETE FROM {table} WHERE {column} = ?", [(value,) for value in values])
    return connection.total_changes() - before


def _forget_repeats(connection: apsw.Connection, gone: Entries) -> int:
    count = 0
    for id_, data in connection.execute("SELECT id, entries FROM dedup_run").fetchall():
        entries = np.frombuffer(data, ENTRY)
        kept = entries[~_among(entries, gone)]
        if len(kept) < len(entries):
            connection.execute("UPDATE dedup_run SET entries = ? WHERE id = ?", (kept.tobytes(), id_))
            count += len(entries) - len(kept)
    for (segment,) in connection.execute("SELECT id FROM dedup_segment").fetchall():
        pages = connection.execute("SELECT entries FROM dedup_page WHERE segment = ? ORDER BY page", (segment,)).fetchall()
        entries = np.concatenate([np.frombuffer(data, ENTRY) for (data,) in pages])
        kept = entries[~_among(entries, gone)]
        if len(kept) < len(entries):
            dedup.rewrite_segment(connection, segment, kept)
            count += len(entries) - len(kept)
    return count


def _among(entries: Entries, gone: Entries) -> np.ndarray:
    found = np.isin(entries["key"], gone["key"])
    if found.any():
        checks = {(one[0], one[1]) for one in gone.tolist()}
        found[found] = [(one[0], one[1]) in checks for one in entries[found].tolist()]
    return found


def _forget_answers(connection: apsw.Connection, requests: frozenset[str]) -> int:
    count = 0
    for id_, data in connection.execute("SELECT id, answers FROM answer_run").fetchall():
        answers = _answers(data)
        kept = [one for one in answers if one.request_id not in requests]
        if len(kept) < len(answers):
            connection.execute("UPDATE answer_run SET answers = ? WHERE id = ?", (msgspec.msgpack.encode(kept), id_))
            count += len(answers) - len(kept)
    return count
