"""Parity of candidate lists: recompute each logged list from the lake and compare.

A response logs a checksum of each live list that it read, and the position of its tables in the
routed log. `tailorbird features verify` prints the report.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tailorbird.candidates.batch import CONTEXT_FIELDS, segment_keys
from tailorbird.candidates.contract import Contract
from tailorbird.candidates.protocol import GROUPS, CandidateRequest
from tailorbird.candidates.query import source_of, table_group
from tailorbird.candidates.replay import ReplayRequests, replay_requests
from tailorbird.errors import DeclarationError

Int64s = npt.NDArray[np.int64]

EXAMPLES_MAX = 20
LOGGED_COLUMNS = (
    "request_id",
    "candidate_lists",
    "candidate_digests",
    "candidate_positions",
    *CONTEXT_FIELDS,
)


@dataclass(frozen=True)
class UnequalList:
    """A list that was served differently from the recomputed one.

    `p` is the position of its tables.
    """

    request_id: str
    source: str
    p: int


@dataclass
class ListReport:
    """The result of a comparison.

    Attributes:
        responses, lists: compared.
        unequal: by source, lists with other items or another order.
        pending: responses whose tables are newer than the available events.
        examples: some of the unequal lists.
    """

    responses: int = 0
    lists: int = 0
    pending: int = 0
    unequal: dict[str, int] = field(default_factory=dict)
    examples: list[UnequalList] = field(default_factory=list)

    def add_unequal(self, unequal: UnequalList) -> None:
        """Record an unequal list."""
        self.unequal[unequal.source] = self.unequal.get(unequal.source, 0) + 1
        if len(self.examples) < EXAMPLES_MAX:
            self.examples.append(unequal)


def compare_lists(
    contract: Contract,
    events: pa.Table,
    responses: pa.Table,
    recent_by_response: list[tuple[npt.NDArray[np.uint64], Int64s]],
    *,
    complete_until: int,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> ListReport:
    """Recompute the lists of logged responses and compare their checksums.

    Args:
        contract: covers every source that a response read.
        events: columns `batch.EVENT_COLUMNS` of the lake's events, in log order, all of them.
        responses: rows of the lake's `answers` with the columns `LOGGED_COLUMNS`.
        recent_by_response: keys and times of the person's newest items as they were logged,
            oldest first.
        complete_until: the position up to which the events are complete.
    """
    report = ListReport()
    columns = {name: responses[name].to_pylist() for name in LOGGED_COLUMNS}
    compared_rows = []
    requests = []
    epochs_by_response = []
    for row, (names, positions) in enumerate(
        zip(columns["candidate_lists"], columns["candidate_positions"], strict=True)
    ):
        epoch_by_group = _epochs_by_group(names or (), positions or ())
        if not any(epoch_by_group.values()):
            continue
        if max(epoch_by_group.values()) > complete_until:
            report.pending += 1
            continue
        keys, times = recent_by_response[row]
        compared_rows.append(row)
        requests.append(
            CandidateRequest(
                keys, times, segment_keys({name: columns[name][row] for name in CONTEXT_FIELDS})
            )
        )
        epochs_by_response.append(epoch_by_group)
    sources = list(
        dict.fromkeys(
            name
            for row in compared_rows
            for name in columns["candidate_lists"][row]
            if is_source(name)
        )
    )
    replay = ReplayRequests(
        requests,
        {
            group: np.array([epoch[group] for epoch in epochs_by_response], np.int64)
            for group in GROUPS
        },
    )
    for indices, lists in (
        replay_requests(contract, events, replay, sources, progress=progress)
        if compared_rows
        else ()
    ):
        for index, request_lists in zip(indices.tolist(), lists, strict=True):
            row = compared_rows[index]
            report.responses += 1
            logged_lists = zip(
                *(
                    columns[name][row]
                    for name in ("candidate_lists", "candidate_digests", "candidate_positions")
                ),
                strict=True,
            )
            for name, digest, log_position in logged_lists:
                if not is_source(name):
                    continue
                report.lists += 1
                if request_lists.get(name).digest != digest:
                    report.add_unequal(UnequalList(columns["request_id"][row], name, log_position))
    return report


def _epochs_by_group(
    names: list[str] | tuple[()], positions: list[int] | tuple[()]
) -> Mapping[str, int]:
    """Return the position of the tables that a response read, by group; 0 for an unread group."""
    epochs = dict.fromkeys(GROUPS, 0)
    for name, log_position in zip(names, positions, strict=True):
        if is_source(name) and (group := table_group(name)):
            epochs[group] = max(epochs[group], log_position)
    return epochs


def is_source(name: str) -> bool:
    """Return whether a logged name is still a source."""
    try:
        source_of(name)
    except DeclarationError:
        return False
    return True
