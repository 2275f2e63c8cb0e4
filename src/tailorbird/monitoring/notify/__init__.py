"""Messages to people about episodes of drift and decisions on models.

messages    what a message says, and which are silenced
receivers   mail, chat and pager services, by Apprise
delivery    each message to each receiver, once or at most every few hours
"""

from tailorbird.monitoring.notify.delivery import DeliveryLedger, Failure, deliver, read_ledger
from tailorbird.monitoring.notify.messages import (
    MESSAGE_KINDS,
    Message,
    is_silenced,
    read_silences,
    silence,
)
from tailorbird.monitoring.notify.receivers import Receiver, check_urls, open_receivers

__all__ = [
    "MESSAGE_KINDS",
    "DeliveryLedger",
    "Failure",
    "Message",
    "Receiver",
    "check_urls",
    "deliver",
    "is_silenced",
    "open_receivers",
    "read_ledger",
    "read_silences",
    "silence",
]
