"""Send messages about episodes of drift and decisions on models; silence them."""

from collections import Counter
from collections.abc import Callable, Sequence
from itertools import groupby
from typing import Any

import msgspec

from tailorbird.config import Project
from tailorbird.errors import NotReadyError
from tailorbird.events import DAY, Clock, parse_duration, to_iso, to_minute
from tailorbird.monitoring.figures import Figures
from tailorbird.monitoring.notify import (
    Ledger,
    Message,
    Receiver,
    check_urls,
    deliver,
    open_receivers,
    read_ledger,
    read_silences,
    silence,
)
from tailorbird.platform.drift import RUNBOOKS, read_open_episodes
from tailorbird.platform.models.churn_figures import churn_decisions
from tailorbird.platform.rollout import AUTHORS, WaitingStep, waiting_steps
from tailorbird.platform.runtime.churn import describe_waiting
from tailorbird.platform.runtime.overdue import Overdue, read_overdue
from tailorbird.registry import AuditEntry, Registry

NOTIFY_S = 15.0  # between two looks for something to send
LOOKBACK_US = DAY  # decisions older than this are not sent any more
PAGE_RATE, PAGE_REQUESTS = 0.01, 100  # share of failed responses in an hour that pages, of as many
_REFUSAL_ACTIONS = ("end canary", "reject")
LiveFigures = Callable[[], Sequence[tuple[str, Figures]]]


class ReceiverState(msgspec.Struct, frozen=True):
    """A receiver of `notify.urls`: since when it accepts no message, and why; "" if it does."""

    receiver: str
    failing_since: str
    error: str


class NotifyTask:
    """Sends what happened to the receivers of `notify.urls`, in a thread of the trainer.

    Args:
        figures: returns the figures of the last hour, as `platform.monitoring.FiguresTask` has.
    """

    def __init__(self, project: Project, clock: Clock, figures: LiveFigures = tuple) -> None:
        self._project, self._clock, self._figures = project, clock, figures
        self._receivers: list[Receiver] | None = None
        self._ledger = Ledger()
        self._counts: Counter[tuple[str, str]] = Counter()

    def tick(self) -> None:
        """Send what is due."""
        settings = self._project.settings.notify
        if not settings.urls:
            return
        if self._receivers is None:
            self._receivers = open_receivers(settings.urls)
        now = self._clock.now()
        self._ledger = deliver(
            [
                message
                for message in collect_messages(self._project, self._clock, self._figures())
                if not settings.about or message.kind in settings.about
            ],
            self._receivers,
            self._project.paths.monitoring,
            now,
            repeat_us=parse_duration(settings.repeat),
            on_send=self._count,
        )

    def counts(self) -> Counter[tuple[str, str]]:
        """Return messages by receiver and outcome, `sent` or `failed`."""
        return self._counts.copy()

    def failing(self) -> dict[str, bool]:
        """Return each receiver, and whether it accepts no message."""
        return {
            receiver.name: receiver.name in self._ledger.failing
            for receiver in self._receivers or ()
        }

    def _count(self, receiver: str, accepted: bool) -> None:
        self._counts[receiver, "sent" if accepted else "failed"] += 1


def collect_messages(
    project: Project, clock: Clock, figures: Sequence[tuple[str, Figures]] = ()
) -> list[Message]:
    """Return messages about what goes on, and about the decisions of the last day."""
    name = project.settings.project.name
    audit = Registry(project.paths.registry, clock=clock).audit()
    return [
        *_page_messages(name, figures),
        *_decision_messages([*audit, *churn_decisions(project, clock)], name, clock.now()),
        *(_churn_message(name, text) for text in describe_waiting(project, clock)),
        *(_waiting_message(name, step) for step in waiting_steps(audit)),
        *(_overdue_message(name, entry) for entry in read_overdue(project, clock)),
        *_episode_messages(name, read_open_episodes(project, clock)),
    ]


def _page_messages(name: str, figures: Sequence[tuple[str, Figures]]) -> list[Message]:
    return [
        Message(
            "page",
            subject,
            f"page/{subject}/{slot}/{row.group}",
            f"{name}: {rate:.1%} {subject} in {slot}",
            f"Of {row.requests:,} responses of {row.group} in the last hour.\n"
            f"Runbook: {RUNBOOKS}/errors.md",
            repeats=True,
        )
        for slot, row in figures
        for subject, rate in (("errors", row.error_rate), ("empty lists", row.empty_rate))
        if row.requests >= PAGE_REQUESTS and rate > PAGE_RATE
    ]


def _decision_messages(audit: Sequence[AuditEntry], name: str, now: int) -> list[Message]:
    recent = [audit_entry for audit_entry in audit if audit_entry.at > now - LOOKBACK_US]
    own_entries = [audit_entry for audit_entry in recent if audit_entry.by in AUTHORS]
    return [
        message
        for audit_entry in own_entries
        if (message := _decision_message(name, audit_entry)) is not None
    ]


def _decision_message(name: str, entry: AuditEntry) -> Message | None:
    if entry.action == "rollback":
        kind, title, page = "rollback", f"rolled back to {entry.version}", "rolled-back.md"
    elif entry.action in _REFUSAL_ACTIONS:
        kind, title, page = "refused", f"{entry.version} was refused", "canary-ended.md"
    else:
        return None
    body = f"{entry.why}\n{to_minute(entry.at)}. Runbook: {RUNBOOKS}/{page}"
    return Message(kind, kind, f"{kind}/{entry.version}/{entry.at}", f"{name}: {title}", body)


def _waiting_message(name: str, step: WaitingStep) -> Message:
    return Message(
        "approval",
        "approval",
        f"approval/{step.version}/{step.since}",
        f"{name}: {step.step.replace('_', ' ')} of {step.version} waits for you",
        f"{step.why}\nSince {to_minute(step.since)}. "
        f'tailorbird monitor approve --why "…"\nRunbook: {RUNBOOKS}/canary-ended.md',
        repeats=True,
    )


def _churn_message(name: str, text: str) -> Message:
    body = f"{text}\nRunbook: {RUNBOOKS}/churn.md"
    title = f"{name}: a churn model waits for you"
    return Message("approval", "approval", f"approval/{text}", title, body, repeats=True)


def _overdue_message(name: str, entry: Overdue) -> Message:
    return Message(
        "refused",
        "training",
        f"training/{entry.slot}/{entry.since}",
        f"{name}: the training of {entry.slot} could not run",
        f"Due since {to_minute(entry.since)}. {entry.why}.\n"
        f"{entry.fix}\nRunbook: {RUNBOOKS}/training.md",
        repeats=True,
    )


def _episode_messages(name: str, rows: Sequence[Any]) -> list[Message]:
    """Return one message for each cause, so that its episodes come together."""
    messages = []
    by_cause = sorted(rows, key=lambda row: (row.cause, row.since))
    for cause, group in groupby(by_cause, key=lambda row: row.cause):
        episodes = list(group)
        body = "\n".join(f"Since {row.since}: {row.evidence}." for row in episodes)
        body += f"\nRunbook: {episodes[0].runbook}"
        messages.append(
            Message("drift", cause, f"drift/{cause}", f"{name}: drift, {cause}", body, repeats=True)
        )
    return messages


def send_test(project: Project, clock: Clock) -> list[ReceiverState]:
    """Send a test message to each receiver, and return who accepted it.

    Raises:
        NotReadyError: `notify.urls` is empty.
        ConfigError: Apprise does not know a URL.
    """
    name, now = project.settings.project.name, clock.now()
    text = f"Sent at {to_iso(now)[:19]}Z by tailorbird monitor notify --test."
    test = Message("approval", "test", "test", f"{name}: a test message", text)
    return [
        ReceiverState(receiver.name, to_minute(now) if error else "", error)
        for receiver in _receivers_of(project)
        for error in [receiver.send(test)]
    ]


def read_receivers(project: Project) -> list[ReceiverState]:
    """Return the receivers, and which of them failed when the trainer last sent something."""
    failing = read_ledger(project.paths.monitoring).failing
    return [
        ReceiverState(receiver.name, to_minute(failure.since), failure.error)
        if (failure := failing.get(receiver.name))
        else ReceiverState(receiver.name, "", "")
        for receiver in _receivers_of(project)
    ]


def _receivers_of(project: Project) -> list[Receiver]:
    urls = project.settings.notify.urls
    if not urls:
        raise NotReadyError(
            "nobody is told of anything",
            where="notify.urls",
            fix='TAILORBIRD_NOTIFY__URLS="mailto://…", see docs/how-to/monitor.md',
        )
    check_urls(urls)
    return open_receivers(urls)


def check_receivers(project: Project) -> None:
    """Check the URLs of `notify.urls`, before roles start.

    Raises:
        ConfigError: Apprise does not know one.
    """
    if project.settings.notify.urls:
        check_urls(project.settings.notify.urls)


def silence_cause(project: Project, clock: Clock, cause: str, duration: str) -> dict[str, str]:
    """Send no messages about a cause for a while; return what is silenced, and until when.

    Args:
        cause: a cause of drift, a kind of message such as `rollback`, or `all`.
        duration: such as `2h`; "" ends the silence.
    """
    now = clock.now()
    until = now + parse_duration(duration) if duration else now
    silences = silence(project.paths.monitoring, cause, until, now)
    return {name: to_minute(end) for name, end in silences.items()}


def describe_notify(project: Project, now: int) -> list[str]:
    """Return a sentence for each receiver that fails and for each silence, for the status."""
    folder = project.paths.monitoring
    failing = read_ledger(folder).failing if project.settings.notify.urls else {}
    return [
        *(
            f"receiver {name} accepts no message since {to_minute(state.since)}: {state.error}"
            for name, state in failing.items()
        ),
        *(
            f"{name} is silenced until {to_minute(until)}"
            for name, until in read_silences(folder, now).items()
        ),
    ]
