"""Expected ends of a producer's logs: router and lake have read that far, so no log may end before.

A lost or older file that began again at 0 would give out positions a second time. Acknowledged rows
would be skipped until the file had grown past the expected end. So writers check it before they
open. A log that nobody opens any more would stop its readers for ever, so the router checks these
before it starts.
"""

import logging
from collections.abc import Mapping
from pathlib import Path

import apsw

from tailorbird.errors import LockedError, NotReadyError, TailorbirdError
from tailorbird.storage_paths import StoragePath
from tailorbird.stream import sqlite
from tailorbird.stream.log_set import log_set
from tailorbird.stream.opening import open_reader, open_writer
from tailorbird.stream.partitions import Stream, raw_logs, response_logs
from tailorbird.stream.released import try_read_released_positions

log = logging.getLogger(__name__)


def router_positions(stream: Stream) -> list[dict[str, int]]:
    """Return the raw positions of each router whose tables are on this machine, by log name."""
    positions_by_index: dict[
        str, dict[str, int]
    ] = {}  # by partition; of several files that routers left of one, the newest counts
    for path in log_set(stream).index_paths():
        try:
            connection = sqlite.connect_reader(path)
        except NotReadyError:
            continue
        try:
            rows = connection.execute("SELECT producer, offset FROM raw_position").fetchall()
        except apsw.SQLError:  # the file is being created
            continue
        finally:
            connection.close()
        positions = positions_by_index.setdefault(path.name, {})
        for producer, offset in rows:
            positions[producer] = max(offset, positions.get(producer, 0))
    return list(positions_by_index.values())


def read_expected_ends(
    stream: Stream, producer: str, lake: StoragePath | None
) -> Mapping[str, int]:
    """Return the highest position that router or lake have read of each log of `producer`, by stem.

    Positions that cannot be read are left out.
    """
    try:
        positions_by_router = router_positions(stream)
    except (apsw.Error, TailorbirdError) as error:
        log.warning(
            "%s: how far the router is cannot be read, so a lost log would not be noticed here: %s",
            producer,
            error,
        )
        positions_by_router = []
    released_positions = None if lake is None else try_read_released_positions(lake)
    logs = log_set(stream)
    names_by_stem = logs.raw_names_by_stem(producer)
    responses_stem = logs.response_log(producer).stem
    expected_ends = dict.fromkeys([*names_by_stem, responses_stem], 0)
    for raw_positions in positions_by_router:
        for stem, name in names_by_stem.items():
            expected_ends[stem] = max(expected_ends[stem], raw_positions.get(name, 0))
    if released_positions is not None:
        for stem, name in names_by_stem.items():
            expected_ends[stem] = max(
                expected_ends[stem],
                released_positions.archive.get(stem, 0),
                released_positions.routed.get(name, 0),
            )
        expected_ends[responses_stem] = max(
            expected_ends[responses_stem],
            released_positions.tables.get("answers", {}).get(responses_stem, 0),
        )
    return expected_ends


def set_short_logs_aside(stream: Stream, lake: StoragePath | None) -> list[Path]:
    """Set aside log files that end before what was read of them and that no process writes.

    A server does so with its own logs. Those of a server that is gone are left in a plain copy, for
    example. Topics are not touched.

    Returns:
        The files that hold what was left of the logs.
    """
    logs = log_set(stream)
    if logs.is_remote:
        return []
    producer_paths = [*raw_logs(logs.folder).items(), *response_logs(logs.folder).items()]
    expected_ends = {
        producer: read_expected_ends(logs, producer, lake) for producer, _ in producer_paths
    }
    damaged_tail_paths: list[Path] = []
    for producer, path in producer_paths:
        try:
            with open_reader(path) as reader:
                is_short = reader.end() < expected_ends[producer][path.stem]
            if is_short:
                with open_writer(
                    path, partition=producer, expected_ends=expected_ends[producer]
                ) as writer:
                    damaged_tail_paths += writer.damaged_tail_paths
        except LockedError:
            continue  # Its writer set it aside, or does so now.
        except TailorbirdError as error:
            log.warning("not set aside: %s", error)
    return damaged_tail_paths
