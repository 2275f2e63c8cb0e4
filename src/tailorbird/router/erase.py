"""What the router's file holds of people, taken out: the index of repeats, who an anonymous id is,
profiles, answers.

The log's blocks are deleted before, which their readers have all taken in; then the file is written
anew, so that neither free pages nor the WAL keep anything. With topics, see `router.emptying`.
"""

from collections.abc import Callable, Collection
from functools import partial
from typing import Protocol

import apsw
import msgspec
import numpy as np

from tailorbird import faults
from tailorbird.errors import DamageError
from tailorbird.events import Event
from tailorbird.router import attribution, dedup, pruned
from tailorbird.router.dedup import ENTRY, Entries, fingerprints
from tailorbird.stream import EmbeddedWriter

_answers = msgspec.msgpack.Decoder(list[attribution.Given]).decode


class Forgotten(msgspec.Struct, frozen=True):
    """What was taken out of the router's tables."""

    blocks: int = 0
    repeats: int = 0
    identities: int = 0
    profiles: int = 0
    answers: int = 0
    mentions: int = 0


class Mentions(Protocol):
    """What mentions these people, in profiles of items and of others, and in what others looked
    for.
    """

    def in_text(self, text: str) -> bool:
        """Whether a text does."""
        ...

    def rewritten(self, text: str) -> str | None:
        """A JSON object without what does; None where nothing does."""
        ...

    def renamed(self, id_: str) -> str:
        """The id of an event or of a request of others; another where it does."""
        ...


def erase(
    log: EmbeddedWriter,
    before: int,
    *,
    users: Collection[str],
    visitors: Collection[str],
    events: Collection[tuple[str, str, str]],
    requests: Collection[str],
    mentions: Mentions,
) -> Forgotten:
    """Take people out of the router's file, whose writer is `log`.

    Args:
        before: every block ends at or before it, and nobody needs one any more. users, visitors:
        whose identity and profiles go; anonymous ids that are somebody else's, too, are not among
        the visitors.
        events: mark of the subject ("u" or "a"), subject, event id.
        requests: the answers that are forgotten.
        mentions: what profiles of items, and of others, lose.
    """
    blocks = 0
    while some := log.prune_some(before, last_look=partial(pruned.sum_up, log.connection)):
        blocks += some
        faults.at("erase.routed_blocks")
    with log.transaction() as connection:
        found = forget(
            connection,
            users=users,
            visitors=visitors,
            events=events,
            requests=requests,
            mentions=mentions,
        )
        faults.at("erase.routed_tables")
    log.shrink()
    faults.at("erase.routed_file")
    return msgspec.structs.replace(found, blocks=blocks)


def forget(
    connection: apsw.Connection,
    *,
    users: Collection[str],
    visitors: Collection[str],
    events: Collection[tuple[str, str, str]],
    requests: Collection[str],
    mentions: Mentions,
) -> Forgotten:
    """As `erase`, of the tables alone, within a transaction."""
    repeats = _forget_repeats(connection, _prints(events))
    identities = _delete(connection, "identity", "user_id", users) + _delete(
        connection, "identity", "anonymous_id", visitors
    )
    identities += _delete(connection, "merge", "user_id", users)
    connection.executemany(
        "UPDATE merge SET merged_into = user_id WHERE merged_into = ?", [(user,) for user in users]
    )
    profiles = _delete(connection, "profile", "kind = 'user' AND id", users)
    answers = _forget_answers(connection, frozenset(requests))
    unsaid = _unsay(
        connection, "profile", ("kind", "id", "ts", "p"), mentions.rewritten
    ) + unsay_items(connection, mentions)
    unsaid += _rename_versions(connection, mentions) + _unsay_answers(connection, mentions)
    return Forgotten(0, repeats, identities, profiles, answers, unsaid)


def unsay_items(connection: apsw.Connection, mentions: Mentions) -> int:
    """Take mentions out of what the log said of items (`router.pruned`), within a transaction; how
    many items had some.
    """
    return _unsay(connection, "pruned_item", ("item_id",), mentions.rewritten)


def _unsay(
    connection: apsw.Connection,
    table: str,
    key: tuple[str, ...],
    rewritten: Callable[[str], str | None],
) -> int:
    rows = connection.execute(f"SELECT properties, {', '.join(key)} FROM {table}")
    changed = [(found, *place) for text, *place in rows if (found := rewritten(text)) is not None]
    where = " AND ".join(f"{name} = ?" for name in key)
    connection.executemany(f"UPDATE {table} SET properties = ? WHERE {where}", changed)
    return len(changed)


def _rename_versions(connection: apsw.Connection, mentions: Mentions) -> int:
    """Give versions of profiles, which are ids of events, new names where they mention somebody."""
    rows = connection.execute("SELECT DISTINCT version FROM profile").fetchall()
    changed = [(new, old) for (old,) in rows if (new := mentions.renamed(old)) != old]
    connection.executemany("UPDATE profile SET version = ? WHERE version = ?", changed)
    return len(changed)


def _unsay_answers(connection: apsw.Connection, mentions: Mentions) -> int:
    count = 0
    for id_, data in connection.execute("SELECT id, answers FROM answer_run").fetchall():
        answers = _answers(data)
        kept = [_unsaid(one, mentions) for one in answers]
        if changed := sum(new != old for new, old in zip(kept, answers, strict=True)):
            connection.execute(
                "UPDATE answer_run SET answers = ? WHERE id = ?",
                (msgspec.msgpack.encode(kept), id_),
            )
            count += changed
    return count


def _unsaid(answer: attribution.Given, mentions: Mentions) -> attribution.Given:
    query = None if answer.query and mentions.in_text(answer.query) else answer.query
    return msgspec.structs.replace(
        answer, query=query, request_id=mentions.renamed(answer.request_id)
    )


def _prints(events: Collection[tuple[str, str, str]]) -> Entries:
    subjects = [
        Event(
            id_, "", user_id=who if mark == "u" else None, anonymous_id=who if mark == "a" else None
        )
        for mark, who, id_ in events
    ]
    found = np.zeros(len(subjects), ENTRY)
    if subjects:
        prints = fingerprints(subjects)
        found["key"], found["check"] = prints[:, 0], prints[:, 1]
    return found


def _delete(connection: apsw.Connection, table: str, column: str, values: Collection[str]) -> int:
    before = connection.total_changes()
    connection.executemany(
        f"DELETE FROM {table} WHERE {column} = ?", [(value,) for value in values]
    )
    return connection.total_changes() - before


def _forget_repeats(connection: apsw.Connection, gone: Entries) -> int:
    count = 0
    for id_, data in connection.execute("SELECT id, entries FROM dedup_run").fetchall():
        entries = np.frombuffer(data, ENTRY)
        kept = entries[~_among(entries, gone)]
        if len(kept) < len(entries):
            connection.execute(
                "UPDATE dedup_run SET entries = ? WHERE id = ?", (kept.tobytes(), id_)
            )
            count += len(entries) - len(kept)
    for (segment,) in connection.execute("SELECT id FROM dedup_segment").fetchall():
        pages = connection.execute(
            "SELECT entries FROM dedup_page WHERE segment = ? ORDER BY page", (segment,)
        ).fetchall()
        if not pages:
            fix = (
                "stop all roles, keep a copy of the file, look at the disk, and see what is "
                "left elsewhere: tailorbird lake verify"
            )
            raise DamageError(
                f"the index of repeats has lost the pages of segment {segment}",
                where=connection.filename,
                fix=fix,
            )
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
            connection.execute(
                "UPDATE answer_run SET answers = ? WHERE id = ?",
                (msgspec.msgpack.encode(kept), id_),
            )
            count += len(answers) - len(kept)
    return count
