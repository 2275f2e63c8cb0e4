"""Erasure from the router's file: dedup index, identities, profiles and responses.

The log's blocks are deleted first, once all readers have applied them. Then the file is rewritten,
so that neither free pages nor the WAL keep anything. For topics see `router.erasure.topics`.
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
from tailorbird.router.decide import attribution, dedup
from tailorbird.router.decide.dedup import ENTRY, Entries, compute_fingerprints
from tailorbird.router.routed_log import pruned
from tailorbird.stream import EmbeddedWriter

_decode_responses = msgspec.msgpack.Decoder(list[attribution.RememberedResponse]).decode


class ErasedCounts(msgspec.Struct, frozen=True):
    """Counts of what was erased from the router's tables."""

    blocks: int = 0
    repeats: int = 0
    identities: int = 0
    profiles: int = 0
    answers: int = 0
    mentions: int = 0


class Mentions(Protocol):
    """Mentions of the erased people in profiles and queries of others."""

    def in_text(self, text: str) -> bool:
        """Return whether a text mentions one of them."""
        ...

    def rewritten(self, text: str) -> str | None:
        """Return a JSON object without the mentions; None where there are none."""
        ...

    def renamed(self, id_: str) -> str:
        """Return a new id for an event or request id that mentions one of them, else the id."""
        ...


def erase_from_file(
    log: EmbeddedWriter,
    before: int,
    *,
    users: Collection[str],
    visitors: Collection[str],
    events: Collection[tuple[str, str, str]],
    requests: Collection[str],
    mentions: Mentions,
) -> ErasedCounts:
    """Erase people from the router's file, whose writer is `log`.

    Args:
        before: every block ends at or before it, and no reader needs one.
        users, visitors: user ids and anonymous ids whose identities and profiles are deleted;
            anonymous ids that somebody else used too are not among them.
        events: kind of subject ("u" or "a"), subject, event id.
        requests: request ids of the responses to delete.
        mentions: removed from profiles of items and of others.
    """
    blocks = 0
    while count := log.prune_batch(
        before, before_delete=partial(pruned.summarize_blocks, log.connection)
    ):
        blocks += count
        faults.at("erase.routed_blocks")
    with log.transaction() as connection:
        counts = erase_from_tables(
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
    return msgspec.structs.replace(counts, blocks=blocks)


def erase_from_tables(
    connection: apsw.Connection,
    *,
    users: Collection[str],
    visitors: Collection[str],
    events: Collection[tuple[str, str, str]],
    requests: Collection[str],
    mentions: Mentions,
) -> ErasedCounts:
    """Erase people from the tables alone, within a transaction; see `erase`."""
    dedup_entries = _delete_dedup_entries(connection, _fingerprint_entries(events))
    identities = _delete(connection, "identity", "user_id", users) + _delete(
        connection, "identity", "anonymous_id", visitors
    )
    identities += _delete(connection, "merge", "user_id", users)
    connection.executemany(
        "UPDATE merge SET merged_into = user_id WHERE merged_into = ?", [(user,) for user in users]
    )
    profiles = _delete(connection, "profile", "kind = 'user' AND id", users)
    responses = _delete_responses(connection, frozenset(requests))
    mentions_removed = _remove_mentions(
        connection, "profile", ("kind", "id", "ts", "p"), mentions.rewritten
    ) + remove_item_mentions(connection, mentions)
    mentions_removed += _rename_profile_versions(connection, mentions) + _remove_response_mentions(
        connection, mentions
    )
    return ErasedCounts(0, dedup_entries, identities, profiles, responses, mentions_removed)


def remove_item_mentions(connection: apsw.Connection, mentions: Mentions) -> int:
    """Remove mentions from the item summary and return how many items had some."""
    return _remove_mentions(connection, "pruned_item", ("item_id",), mentions.rewritten)


def _remove_mentions(
    connection: apsw.Connection,
    table: str,
    key: tuple[str, ...],
    rewrite: Callable[[str], str | None],
) -> int:
    rows = connection.execute(f"SELECT properties, {', '.join(key)} FROM {table}")
    changed_rows = [
        (new_text, *key_values)
        for text, *key_values in rows
        if (new_text := rewrite(text)) is not None
    ]
    where = " AND ".join(f"{name} = ?" for name in key)
    connection.executemany(f"UPDATE {table} SET properties = ? WHERE {where}", changed_rows)
    return len(changed_rows)


def _rename_profile_versions(connection: apsw.Connection, mentions: Mentions) -> int:
    """Rename profile versions, which are event ids, where they mention an erased person."""
    rows = connection.execute("SELECT DISTINCT version FROM profile").fetchall()
    changed_rows = [(new, old) for (old,) in rows if (new := mentions.renamed(old)) != old]
    connection.executemany("UPDATE profile SET version = ? WHERE version = ?", changed_rows)
    return len(changed_rows)


def _remove_response_mentions(connection: apsw.Connection, mentions: Mentions) -> int:
    count = 0
    for id_, data in connection.execute("SELECT id, answers FROM answer_run").fetchall():
        responses = _decode_responses(data)
        rewritten_responses = [_without_mentions(response, mentions) for response in responses]
        if changed_count := sum(
            new != old for new, old in zip(rewritten_responses, responses, strict=True)
        ):
            connection.execute(
                "UPDATE answer_run SET answers = ? WHERE id = ?",
                (msgspec.msgpack.encode(rewritten_responses), id_),
            )
            count += changed_count
    return count


def _without_mentions(
    response: attribution.RememberedResponse, mentions: Mentions
) -> attribution.RememberedResponse:
    query = None if response.query and mentions.in_text(response.query) else response.query
    return msgspec.structs.replace(
        response, query=query, request_id=mentions.renamed(response.request_id)
    )


def _fingerprint_entries(events: Collection[tuple[str, str, str]]) -> Entries:
    subjects = [
        Event(
            id_,
            "",
            user_id=subject_id if subject_kind == "u" else None,
            anonymous_id=subject_id if subject_kind == "a" else None,
        )
        for subject_kind, subject_id, id_ in events
    ]
    entries = np.zeros(len(subjects), ENTRY)
    if subjects:
        hashes = compute_fingerprints(subjects)
        entries["key"], entries["fingerprint_rest"] = hashes[:, 0], hashes[:, 1]
    return entries


def _delete(connection: apsw.Connection, table: str, column: str, values: Collection[str]) -> int:
    before = connection.total_changes()
    connection.executemany(
        f"DELETE FROM {table} WHERE {column} = ?", [(value,) for value in values]
    )
    return connection.total_changes() - before


def _delete_dedup_entries(connection: apsw.Connection, erased: Entries) -> int:
    count = 0
    for id_, data in connection.execute("SELECT id, entries FROM dedup_run").fetchall():
        entries = np.frombuffer(data, ENTRY)
        retained = entries[~_is_among(entries, erased)]
        if len(retained) < len(entries):
            connection.execute(
                "UPDATE dedup_run SET entries = ? WHERE id = ?", (retained.tobytes(), id_)
            )
            count += len(entries) - len(retained)
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
        retained = entries[~_is_among(entries, erased)]
        if len(retained) < len(entries):
            dedup.rewrite_segment(connection, segment, retained)
            count += len(entries) - len(retained)
    return count


def _is_among(entries: Entries, erased: Entries) -> np.ndarray:
    is_erased = np.isin(entries["key"], erased["key"])
    if is_erased.any():
        compute_fingerprints = {(entry[0], entry[1]) for entry in erased.tolist()}
        is_erased[is_erased] = [
            (entry[0], entry[1]) in compute_fingerprints for entry in entries[is_erased].tolist()
        ]
    return is_erased


def _delete_responses(connection: apsw.Connection, requests: frozenset[str]) -> int:
    count = 0
    for id_, data in connection.execute("SELECT id, answers FROM answer_run").fetchall():
        responses = _decode_responses(data)
        retained = [response for response in responses if response.request_id not in requests]
        if len(retained) < len(responses):
            connection.execute(
                "UPDATE answer_run SET answers = ? WHERE id = ?",
                (msgspec.msgpack.encode(retained), id_),
            )
            count += len(responses) - len(retained)
    return count
