"""The collector's decisions on events, the errors by which it refuses, and its figures."""

from dataclasses import dataclass
from typing import Protocol

import msgspec

from tailorbird.errors import StorageError
from tailorbird.events.contract.checked_batch import EventColumns


class Decision(msgspec.Struct, frozen=True, omit_defaults=True):
    """The decision on one event: accepted and durable, or refused and quarantined."""

    accepted: bool
    code: str = ""
    path: str = ""
    message: str = ""


class BusyError(StorageError):
    """The disk cannot keep up. Nothing of this call was stored, and it may be sent again."""

    code = "busy"
    retry_after_s = 1


class ClosedError(StorageError):
    """The log cannot be written at the moment. Nothing of this call was acknowledged."""

    code = "log_unavailable"
    retry_advice = "send the events again later"
    retry_after_s = 5


class UnknownOutcomeError(ClosedError):
    """The log failed while it took the events, so they may be in it or not. Resent under the
    same ids they count once.
    """

    code = "outcome_unknown"
    retry_advice = (
        "they may be in the log or not: send them again under the same event_id, and they "
        "count once"
    )


class DiskFullError(StorageError):
    """Too little disk space is free. Nothing of this call was stored, and it may be sent again once
    there is room.
    """

    code = "disk_full"
    retry_after_s = 10


@dataclass(frozen=True)
class CollectorFigures:
    """A snapshot of the collector's counters since it was opened.

    Attributes:
        accepted: events acknowledged.
        refused: events refused, by code; they are in the log as well.
        batches: commits of the raw log.
        failures: commits that failed.
        responses: answers taken, synced or not.
        responses_waiting: answers that a crash now would lose.
        responses_dropped: answers given up because the log was full or broken.
        responses_lost: upper bound of the responses that a crash of the last run lost.
        responses_ahead: answers dated further ahead of the clock than a client's clock may be,
            because the events that they
        read are.
        clock_set_back: how often the clock, and with it the receipt times, was set back.
        set_aside: files with damaged ends of this producer's logs, or with lost logs; they may hold
            acknowledged events.
        queue_bytes: bytes that wait for the writer.
        open: whether writes are accepted.
    """

    accepted: int
    refused: dict[str, int]
    batches: int
    failures: int
    responses: int
    responses_waiting: int
    responses_dropped: int
    responses_lost: int
    responses_ahead: int
    clock_set_back: int
    set_aside: int
    queue_bytes: int
    open: bool


class AdmissionCheck(Protocol):
    """Checks a body against its sender's limits, as `limits.Admission` does. Raises where it
    refuses.
    """

    def charge_rows(self, count: int) -> None:
        """Charge the total number of rows to the sender, each row once, before they are parsed."""
        ...

    def check_events(self, accepted: EventColumns) -> None:
        """Check the events that satisfy the contract."""
        ...

    def refund(self) -> None:
        """Refund the charge, because the body was not taken for another reason."""
        ...
