"""Receivers of messages: mail, chat and pager services, by Apprise.

Apprise closes a connection that takes longer than 4 seconds to open or to answer; `?cto=` and
`?rto=` in a URL change that.
"""

import hashlib
import logging
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from tailorbird.errors import ConfigError
from tailorbird.monitoring.notify.messages import Message

if TYPE_CHECKING:
    from apprise import NotifyBase

# Services whose URL has a host that is no secret, unlike the token in that of a chat.
_SCHEMES_WITH_PUBLIC_HOST = ("json", "jsons", "xml", "xmls", "form", "forms", "mailto", "mailtos")
INSTALL_COMMAND = "pip install 'tailorbird[notify]'"
# Apprise's type of a message: it sets colours, and PagerDuty's severity.
_NOTIFY_TYPE_BY_KIND = {"page": "FAILURE", "approval": "INFO"}
log = logging.getLogger(__name__)


class Receiver(Protocol):
    """Something that people read."""

    @property
    def name(self) -> str:
        """The service, its host if that is no secret, and a checksum of its URL, which is."""
        ...

    def send(self, message: Message) -> str:
        """Send a message; return why that failed, or ""."""
        ...


def open_receivers(urls: Sequence[str]) -> list[Receiver]:
    """Return a receiver for each URL.

    One that cannot work reports why with each message, so that the others still get theirs.
    """
    try:
        from apprise import Apprise
    except ImportError:
        error = f"Apprise is not installed: {INSTALL_COMMAND}"
        return [_UnusableReceiver(_receiver_name(url), error) for url in urls]
    receivers: list[Receiver] = []
    for url in urls:
        service = Apprise.instantiate(url)
        name = _receiver_name(url)
        if service is None:
            receivers.append(_UnusableReceiver(name, "Apprise does not recognise its URL"))
        else:
            receivers.append(_AppriseReceiver(name, service))
    return receivers


class _UnusableReceiver:
    def __init__(self, name: str, error: str) -> None:
        self.name = name
        self._error = error

    def send(self, message: Message) -> str:
        return self._error


class _AppriseReceiver:
    def __init__(self, name: str, service: "NotifyBase") -> None:
        self.name = name
        self._service = service

    def send(self, message: Message) -> str:
        from apprise import LogCapture, NotifyType

        with LogCapture(level=logging.WARNING, fmt="%(message)s") as captured_log:
            try:
                is_sent = self._service.notify(
                    title=message.title,
                    body=message.body,
                    notify_type=getattr(
                        NotifyType, _NOTIFY_TYPE_BY_KIND.get(message.kind, "WARNING")
                    ),
                )
            except Exception as error:
                # A service of a hundred that fails in its own way must not stop the others.
                log.exception("%s", self.name)
                return f"{type(error).__name__} in its service"
        reasons = captured_log.getvalue().strip().splitlines()
        return "" if is_sent else (reasons[-1] if reasons else "it did not accept the message")


def check_urls(urls: Sequence[str]) -> None:
    """Check that Apprise knows the service of each URL; without Apprise, nothing is checked.

    Raises:
        ConfigError: it does not know one.
    """
    try:
        from apprise import Apprise
    except ImportError:
        return
    for number, url in enumerate(urls, 1):
        if Apprise.instantiate(url) is None:
            raise ConfigError(
                f"receiver {number}, {_receiver_name(url)}, is no URL that Apprise knows",
                where="notify.urls",
                fix="such as mailto://user:password@example.com, json://host:port/path, "
                "slack://A/B/C or pagerduty://key@apikey; see https://appriseit.com/services/",
            )


def _receiver_name(url: str) -> str:
    scheme, _, after_scheme = url.partition("://")
    host = re.split(r"[/?#]", after_scheme, maxsplit=1)[0].rpartition("@")[2]
    public_part = (
        f"{scheme[:16]}-{host}" if scheme in _SCHEMES_WITH_PUBLIC_HOST and host else scheme[:16]
    )
    return f"{public_part}-{hashlib.sha256(url.encode()).hexdigest()[:6]}"
