"""The check of a body in its submitter's thread, before it is queued.

body ─► pseudonyms ─► without erased people ─► decisions by the contract
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from tailorbird.events import Clock, Receipt, Refusal, RoutePlan
from tailorbird.events.contract.columnwise import Contract
from tailorbird.events.log_clock import LogClock
from tailorbird.events.pseudonyms import Pseudonyms
from tailorbird.events.suppression import SuppressionList
from tailorbird.serving.collector.decisions import AdmissionCheck, Decision

_FUTURE_TS_CODE = "ts_in_future"
log = logging.getLogger(__name__)


@dataclass(slots=True, frozen=True)
class CheckedBody:
    """A body and its decisions.

    Attributes:
        sender_body, body: with the rows of erased people, and without them.
        sender_decisions: decisions on `sender_body`. No sender can find out who was erased.
        decisions: decisions on `body`.
    """

    sender_body: bytes
    body: bytes
    receipt: Receipt
    sender_decisions: list[Decision]
    decisions: Sequence[Decision]


class BodyCheck:
    """Checks bodies; thread-safe.

    Args:
        pseudonyms, suppression_list, log_clock: see `EventCollector`.
    """

    def __init__(
        self,
        plan: RoutePlan,
        clock: Clock,
        pseudonyms: Pseudonyms | None,
        suppression_list: SuppressionList | None,
        log_clock: LogClock | None,
    ) -> None:
        self._contract = Contract(plan)
        self._event_types = plan.event_types
        self._clock = clock
        self._log_clock = log_clock
        self._pseudonyms = pseudonyms
        self._suppression_list = suppression_list or SuppressionList(b"")

    def check(
        self,
        body: bytes,
        encoding: str,
        source: str,
        format_: str,
        admission: AdmissionCheck | None,
    ) -> CheckedBody:
        """Check a body that is received now.

        Args:
            format_: the foreign format from which an adapter made the lines, or "".
            admission: checks the sender's limits, and raises if the body is not to be taken.
        """
        if self._pseudonyms is not None:
            body = self._pseudonyms.pseudonymise_body(
                body, encoding, is_foreign=bool(format_), event_types=self._event_types
            )
        receipt = Receipt(self._clock.now(), source, encoding, format_)
        remaining_body = self._suppression_list.filter_body(body, receipt)
        checked_body = self._decide(body, remaining_body, receipt, admission)
        if (
            self._log_clock is not None
            and self._log_clock.lag_us
            and self._is_present_time(checked_body, self._log_clock)
        ):
            self._log_clock.go_live()
            log.warning(
                "the first event of today came in: this project goes by today's time from now on"
            )
            return self.decide_again(checked_body, self._clock.now())
        return checked_body

    def decide_again(self, checked_body: CheckedBody, received_at: int) -> CheckedBody:
        """Repeat the decisions on a body with another time of receipt."""
        receipt = msgspec.structs.replace(checked_body.receipt, received_at=received_at)
        return self._decide(checked_body.sender_body, checked_body.body, receipt)

    def _decide(
        self,
        sender_body: bytes,
        body: bytes,
        receipt: Receipt,
        admission: AdmissionCheck | None = None,
    ) -> CheckedBody:
        sender_decisions = _decide_rows(sender_body, receipt, self._contract, admission)
        decisions = (
            sender_decisions if body is sender_body else _decide_rows(body, receipt, self._contract)
        )
        return CheckedBody(sender_body, body, receipt, sender_decisions, decisions)

    def _is_present_time(self, checked_body: CheckedBody, log_clock: LogClock) -> bool:
        """Return whether events show that the project has left the past of an old log.

        That is the case if they come from a page of the site, or carry a time that is in the future
        of the old log's clock but not of today's.
        """
        if checked_body.receipt.source.startswith("browser"):
            return True
        future_count = _count_future(checked_body.decisions)
        if not future_count:
            return False
        body_at_machine_time = self.decide_again(checked_body, log_clock.machine_now())
        return _count_future(body_at_machine_time.decisions) < future_count


def _count_future(decisions: Sequence[Decision]) -> int:
    return sum(decision.code == _FUTURE_TS_CODE for decision in decisions)


def _decide_rows(
    body: bytes, receipt: Receipt, contract: Contract, admission: AdmissionCheck | None = None
) -> list[Decision]:
    """Return one decision for each row of a body, in order, by the contract that the router applies
    again.

    `admission` checks the accepted events, and raises if the body is not to be taken at all.
    """
    checked_body = contract.check_bodies([(body, receipt)])
    row_count = len(checked_body) + len(checked_body.refusals)
    if admission is not None:
        admission.check_events(checked_body.fields)
    decisions = [_ACCEPTED_DECISION] * row_count
    for _, refusal in checked_body.refusals:
        decisions[refusal.row] = _to_decision(refusal)
    return decisions


_ACCEPTED_DECISION = Decision(True)


def _to_decision(refusal: Refusal) -> Decision:
    return Decision(False, refusal.code, refusal.path, refusal.message)
