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
from tailorbird.router.decide.dedup import ENTRY_DTYPE, Entries, compute_fingerprints
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

    def redact_json(self, text: str) -> str | None:
        """Return a JSON object without the mentions; None where there are none."""
        ...

    def rename(self, id_: str) -> str:
        """Return a new id for an event or request id that mentions one of them, else the id."""
        ...


def erase_from_file(
    log: EmbeddedWriter,
    before: int,
    *,
    user_ids: Collection[str],
    anonymous_ids: Collection[str],
    event_keys: Collection[tuple[str, str, str]],
    request_ids: Collection[str],
    mentions: Mentions,
) -> ErasedCounts:
    """Erase people from the router's file, whose writer is `log`.

    Args:
        before: every block ends at or before it, and no reader needs one.
        user_ids, anonymous_ids: those whose identities and profiles are deleted; anonymous ids
            that somebody else used too are not among them.
        event_keys: kind of subject ("u" or "a"), subject, event id.
        request_ids: request ids of the responses to delete.
        mentions: removed from profiles of items and of others.
    """
    blocks = 0
    while block_count := log.prune_batch(
        before, on_delete=partial(pruned.summarize_blocks, log.connection)
    ):
        blocks += block_count
        faults.fire_if_armed("erase.routed_blocks")
    with log.transaction() as connection:
        counts = erase_from_tables(
            connection,
            user_ids=user_ids,
            anonymous_ids=anonymous_ids,
            event_keys=event_keys,
            request_ids=request_ids,
            mentions=mentions,
        )
        faults.fire_if_armed("erase.routed_tables")
    log.shrink()
    faults.fire_if_armed("erase.routed_file")
    return msgspec.structs.replace(counts, blocks=blocks)


def erase_from_tables(
    connection: apsw.Connection,
    *,
    user_ids: Collection[str],
    anonymous_ids: Collection[str],
    event_keys: Collection[tuple[str, str, str]],
    request_ids: Collection[str],
    mentions: Mentions,
) -> ErasedCounts:
    """Erase people from the tables alone, within a transaction; see `erase`."""
    dedup_entries = _delete_dedup_entries(connection, _build_dedup_entries(event_keys))
    identities = _delete_rows(connection, "identity", "user_id", user_ids) + _delete_rows(
        connection, "identity", "anonymous_id", anonymous_ids
    )
    identities += _delete_rows(connection, "merge", "user_id", user_ids)
    connection.executemany(
        "UPDATE merge SET merged_into = user_id WHERE merged_into = ?",
        [(user,) for user in user_ids],
    )
    profiles = _delete_rows(connection, "profile", "kind = 'user' AND id", user_ids)
    responses = _delete_responses(connection, frozenset(request_ids))
    mentions_removed = _remove_mentions(
        connection, "profile", ("kind", "id", "ts", "p"), mentions.redact_json
    ) + remove_item_mentions(connection, mentions)
    mentions_removed += _rename_profile_versions(connection, mentions) + _remove_response_mentions(
        connection, mentions
    )
    return ErasedCounts(
        repeats=dedup_entries,
        identities=identities,
        profiles=profiles,
        answers=responses,
        mentions=mentions_removed,
    )


def remove_item_mentions(connection: apsw.Connection, mentions: Mentions) -> int:
    """Remove mentions from the item summary and return how many items had some."""
    return _remove_mentions(connection, "pruned_item", ("item_id",), mentions.redact_json)


def _remove_mentions(
    connection: apsw.Connection,
    table: str,
    key_columns: tuple[str, ...],
    rewrite: Callable[[str], str | None],
) -> int:
    rows = connection.execute(f"SELECT properties, {', '.join(key_columns)} FROM {table}")
    changed_rows = [
        (new_text, *key_values)
        for text, *key_values in rows
        if (new_text := rewrite(text)) is not None
    ]
    where_sql = " AND ".join(f"{name} = ?" for name in key_columns)
    connection.executemany(f"UPDATE {table} SET properties = ? WHERE {where_sql}", changed_rows)
    return len(changed_rows)


def _rename_profile_versions(connection: apsw.Connection, mentions: Mentions) -> int:
    """Rename profile versions, which are event ids, where they mention an erased person."""
    rows = connection.execute("SELECT DISTINCT version FROM profile").fetchall()
    changed_rows = [
        (new_version, old_version)
        for (old_version,) in rows
        if (new_version := mentions.rename(old_version)) != old_version
    ]
    connection.executemany("UPDATE profile SET version = ? WHERE version = ?", changed_rows)
    return len(changed_rows)


def _remove_response_mentions(connection: apsw.Connection, mentions: Mentions) -> int:
    count = 0
    for batch_id, data in connection.execute("SELECT id, answers FROM answer_run").fetchall():
        responses = _decode_responses(data)
        rewritten_responses = [_without_mentions(response, mentions) for response in responses]
        if changed_count := sum(
            new != old for new, old in zip(rewritten_responses, responses, strict=True)
        ):
            connection.execute(
                "UPDATE answer_run SET answers = ? WHERE id = ?",
                (msgspec.msgpack.encode(rewritten_responses), batch_id),
            )
            count += changed_count
    return count


def _without_mentions(
    response: attribution.RememberedResponse, mentions: Mentions
) -> attribution.RememberedResponse:
    query = None if response.query and mentions.in_text(response.query) else response.query
    return msgspec.structs.replace(
        response, query=query, request_id=mentions.rename(response.request_id)
    )


def _build_dedup_entries(event_keys: Collection[tuple[str, str, str]]) -> Entries:
    erased_events = [
        Event(
            event_id,
            "",
            user_id=subject_id if subject_kind == "u" else None,
            anonymous_id=subject_id if subject_kind == "a" else None,
        )
        for subject_kind, subject_id, event_id in event_keys
    ]
    entries = np.zeros(len(erased_events), ENTRY_DTYPE)
    if erased_events:
        fingerprints = compute_fingerprints(erased_events)
        entries["key"] = fingerprints[:, 0]
        entries["fingerprint_rest"] = fingerprints[:, 1]
    return entries


def _delete_rows(
    connection: apsw.Connection, table: str, column_condition: str, values: Collection[str]
) -> int:
    """Delete the rows with these values of a column, and return how many there were.

    `column_condition` is the name of the column, which another condition may precede.
    """
    changes_before = connection.total_changes()
    connection.executemany(
        f"DELETE FROM {table} WHERE {column_condition} = ?", [(value,) for value in values]
    )
    return connection.total_changes() - changes_before


def _delete_dedup_entries(connection: apsw.Connection, erased_entries: Entries) -> int:
    count = 0
    for run_id, data in connection.execute("SELECT id, entries FROM dedup_run").fetchall():
        entries = np.frombuffer(data, ENTRY_DTYPE)
        retained_entries = entries[~_is_among(entries, erased_entries)]
        if len(retained_entries) < len(entries):
            connection.execute(
                "UPDATE dedup_run SET entries = ? WHERE id = ?",
                (retained_entries.tobytes(), run_id),
            )
            count += len(entries) - len(retained_entries)
    for (segment_id,) in connection.execute("SELECT id FROM dedup_segment").fetchall():
        pages = connection.execute(
            "SELECT entries FROM dedup_page WHERE segment = ? ORDER BY page", (segment_id,)
        ).fetchall()
        if not pages:
            fix = (
                "stop all roles, keep a copy of the file, look at the disk, and see what is "
                "left elsewhere: tailorbird lake verify"
            )
            raise DamageError(
                f"the index of repeats has lost the pages of segment {segment_id}",
                where=connection.filename,
                fix=fix,
            )
        entries = np.concatenate([np.frombuffer(data, ENTRY_DTYPE) for (data,) in pages])
        retained_entries = entries[~_is_among(entries, erased_entries)]
        if len(retained_entries) < len(entries):
            dedup.rewrite_segment(connection, segment_id, retained_entries)
            count += len(entries) - len(retained_entries)
    return count


def _is_among(entries: Entries, erased_entries: Entries) -> np.ndarray:
    is_erased = np.isin(entries["key"], erased_entries["key"])
    if is_erased.any():
        erased_fingerprints = set(_list_fingerprints(erased_entries))
        is_erased[is_erased] = [
            fingerprint in erased_fingerprints
            for fingerprint in _list_fingerprints(entries[is_erased])
        ]
    return is_erased


def _list_fingerprints(entries: Entries) -> list[tuple[int, int]]:
    return list(zip(entries["key"].tolist(), entries["fingerprint_rest"].tolist(), strict=True))


def _delete_responses(connection: apsw.Connection, request_ids: frozenset[str]) -> int:
    count = 0
    for batch_id, data in connection.execute("SELECT id, answers FROM answer_run").fetchall():
        responses = _decode_responses(data)
        retained_responses = [
            response for response in responses if response.request_id not in request_ids
        ]
        if len(retained_responses) < len(responses):
            connection.execute(
                "UPDATE answer_run SET answers = ? WHERE id = ?",
                (msgspec.msgpack.encode(retained_responses), batch_id),
            )
            count += len(responses) - len(retained_responses)
    return count
