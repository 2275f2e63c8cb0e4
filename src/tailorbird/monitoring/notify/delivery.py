"""Deliver each message to each receiver, once or at most every few hours.

    MONITORING/notify.json    what each receiver got and when, and which receivers fail

Messages are derived anew from the registry and from open episodes at each tick. What a receiver has
got is all that is stored, so one that is down gets the message once it is up again, also after a
restart. A kill between sending and storing sends a message twice.
"""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from tailorbird.atomic_write import atomic_write
from tailorbird.events import DAY, MINUTE
from tailorbird.monitoring.notify.messages import Message, is_silenced, read_silences
from tailorbird.monitoring.notify.receivers import Receiver

DELIVERIES_FILE = "notify.json"
RETAINED_US = 30 * DAY  # after which a message is forgotten; longer than any is derived again
RETRY_US = 5 * MINUTE  # between attempts at a receiver that fails
log = logging.getLogger(__name__)

OnSend = Callable[[str, bool], None]  # receiver, whether it accepted the message


class Failure(msgspec.Struct, frozen=True):
    """Since when a receiver accepts no message, when it was last tried, microseconds, and why."""

    since: int
    tried_at: int
    error: str


class DeliveryLedger(msgspec.Struct):
    """By receiver: the time of each message that it got, by key; and those that fail."""

    sent: dict[str, dict[str, int]] = {}
    failing: dict[str, Failure] = {}


def read_ledger(folder: Path) -> DeliveryLedger:
    """Return what was delivered; an empty ledger before the first message."""
    try:
        return msgspec.json.decode((folder / DELIVERIES_FILE).read_bytes(), type=DeliveryLedger)
    except FileNotFoundError:
        return DeliveryLedger()
    except msgspec.MsgspecError as error:
        log.warning(
            "%s cannot be read, messages may be sent again: %s", folder / DELIVERIES_FILE, error
        )
        return DeliveryLedger()


def deliver(
    messages: Sequence[Message],
    receivers: Sequence[Receiver],
    folder: Path,
    now: int,
    *,
    repeat_us: int,
    on_send: OnSend = lambda receiver, accepted: None,
) -> DeliveryLedger:
    """Send what is due, and return the ledger, which is stored.

    A receiver that refuses a message gets no other for `RETRY_US`.

    Args:
        repeat_us: minimum time between two messages about the same ongoing episode.
    """
    ledger = read_ledger(folder)
    silences = read_silences(folder, now)
    stored_ledger = msgspec.json.encode(ledger)
    receiver_names = {receiver.name for receiver in receivers}
    ledger.failing = {
        name: entry for name, entry in ledger.failing.items() if name in receiver_names
    }
    ledger.sent = {
        name: {key: at for key, at in sent_times.items() if at > now - RETAINED_US}
        for name, sent_times in ledger.sent.items()
        if name in receiver_names
    }
    for receiver in receivers:
        failure = ledger.failing.get(receiver.name)
        if failure is not None and now - failure.tried_at < RETRY_US:
            continue
        sent_times = ledger.sent.setdefault(receiver.name, {})
        for message in messages:
            if not _is_due(message, sent_times, now, repeat_us):
                continue
            if is_silenced(message, silences):
                # What goes on is sent once the silence ends; what is over is not.
                if not message.repeats:
                    sent_times[message.key] = now
                continue
            error = receiver.send(message)
            on_send(receiver.name, not error)
            if error:
                _note_failure(ledger, receiver.name, error, now)
                break
            ledger.failing.pop(receiver.name, None)
            sent_times[message.key] = now
    if msgspec.json.encode(ledger) != stored_ledger:
        atomic_write(folder / DELIVERIES_FILE, msgspec.json.encode(ledger))
    return ledger


def _is_due(message: Message, sent_times: dict[str, int], now: int, repeat_us: int) -> bool:
    last_sent_at = sent_times.get(message.key)
    return last_sent_at is None or (message.repeats and now - last_sent_at >= repeat_us)


def _note_failure(ledger: DeliveryLedger, name: str, error: str, now: int) -> None:
    earlier_failure = ledger.failing.get(name)
    if earlier_failure is None:
        log.error("receiver %s accepts no message: %s", name, error)
    ledger.failing[name] = Failure(earlier_failure.since if earlier_failure else now, now, error)
