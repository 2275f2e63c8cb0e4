"""What the door says of each event, and of itself: decisions, the reasons why it takes nothing, and
its figures.
"""

from dataclasses import dataclass
from typing import Protocol

import msgspec

from tailorbird.errors import StorageError
from tailorbird.events import Receipt, Refusal
from tailorbird.events.columnwise import Contract, Fields


class Decision(msgspec.Struct, frozen=True, omit_defaults=True):
    """What became of one event: accepted and durable, or refused, kept for quarantine, and why."""

    accepted: bool
    code: str = ""
    path: str = ""
    message: str = ""


class BusyError(StorageError):
    """More is coming in than the disk takes; nothing was kept of this call, and it may be sent
    again.
    """

    code = "busy"
    retry_after_s = 1


class ClosedError(StorageError):
    """The log cannot be written at the moment; nothing was acknowledged of this call."""

    code = "log_unavailable"
    retry_advice = "send the events again later"
    retry_after_s = 5


class UnknownOutcomeError(ClosedError):
    """The log failed while it took the events: they may be in it, or not. Sent again under the same
    ids they count once.
    """

    code = "outcome_unknown"
    again = (
        "they may be in the log or not: send them again under the same event_id, and they "
        "count once"
    )


class DiskFullError(StorageError):
    """Too little of the disk is free; nothing was taken of this call, and it may be sent again once
    there is room.
    """

    code = "disk_full"
    retry_after_s = 10


@dataclass(frozen=True)
class DoorFigures:
    """A snapshot of what went through the door since it was opened.

    Attributes:
        accepted: events acknowledged.
        refused: events refused, by code; they are in the log as well.
        batches: commits of the raw log.
        failures: commits that failed.
        answers: answers taken, synced or not.
        answers_waiting: answers that a crash now would lose.
        answers_dropped: answers given up because the log was full or broken.
        answers_lost: at most so many did the last run of this producer lose by dying.
        answers_ahead: answers dated further ahead of the clock than a client's clock may be, since
            what they read of is.
        clock_set_back: how often the clock was set back, and times of receipt with it.
        set_aside: files of damaged ends of this producer's logs, or of logs that were lost; they
            may hold what was acknowledged.
        queue_bytes: what waits for the writer.
        open: whether writes are taken.
    """

    accepted: int
    refused: dict[str, int]
    batches: int
    failures: int
    answers: int
    answers_waiting: int
    answers_dropped: int
    answers_lost: int
    answers_ahead: int
    clock_set_back: int
    set_aside: int
    queue_bytes: int
    open: bool


class AdmissionCheck(Protocol):
    """Whether a body may be taken, for its sender's sake; `limits.Admission` is what says so. What
    it refuses it raises.
    """

    def charge_rows(self, count: int) -> None:
        """It has so many rows in all, of which nothing was made yet; they are charged to its
        sender, each once.
        """
        ...

    def check_events(self, accepted: Fields) -> None:
        """These of them keep the contract."""
        ...

    def refund(self) -> None:
        """Nothing was taken, for another's sake; nothing is charged."""
        ...


def decide(
    body: bytes, receipt: Receipt, contract: Contract, admit: AdmissionCheck | None = None
) -> list[Decision]:
    """One decision for each row of a body, in order, by the contract that the router applies again.

    `admit` is shown the accepted events, and raises where the body is not to be taken at all.
    """
    checked = contract.check([(body, receipt)])
    rows = len(checked) + len(checked.refused)
    if admit is not None:
        admit.check_events(checked.fields)
    decisions = [_ACCEPTED] * rows
    for _, refusal in checked.refused:
        decisions[refusal.row] = _refusal(refusal)
    return decisions


_ACCEPTED = Decision(True)


def _refusal(refusal: Refusal) -> Decision:
    return Decision(False, refusal.code, refusal.path, refusal.message)
