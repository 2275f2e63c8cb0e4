"""Send messages about episodes of drift and decisions on models; silence them."""

from collections import Counter
from collections.abc import Callable, Sequence
from itertools import groupby

import msgspec

from tailorbird.config import Project
from tailorbird.errors import NotReadyError
from tailorbird.events import DAY, Clock, parse_duration, to_iso, to_iso_minute
from tailorbird.monitoring.drift.judgement import DriftRow
from tailorbird.monitoring.figures import Figures
from tailorbird.monitoring.notify import (
    DeliveryLedger,
    Message,
    Receiver,
    check_urls,
    deliver,
    open_receivers,
    read_ledger,
    read_silences,
    silence,
)
from tailorbird.platform.drift import RUNBOOK_FOLDER, read_open_episodes
from tailorbird.platform.models.churn_figures import churn_decisions
from tailorbird.platform.rollout import AUTHORS, WaitingStep, waiting_steps
from tailorbird.platform.runtime.churn import describe_waiting_steps
from tailorbird.platform.runtime.overdue import OverdueTraining, read_overdue
from tailorbird.registry import AuditEntry, Registry

NOTIFY_INTERVAL_S = 15.0
LOOKBACK_US = DAY  # decisions older than this are not sent any more
# share of failed responses in an hour that pages, of as many
PAGE_FAILURE_RATE = 0.01
PAGE_REQUESTS_MIN = 100
_REFUSAL_ACTIONS = ("end canary", "reject")
ReadLiveFigures = Callable[[], Sequence[tuple[str, Figures]]]


class ReceiverState(msgspec.Struct, frozen=True):
    """A receiver of `notify.urls`: since when it accepts no message, and why; "" if it does."""

    receiver: str
    failing_since: str
    error: str


class NotifyTask:
    """Sends what happened to the receivers of `notify.urls`, in a thread of the trainer.

    Args:
        read_live_figures: returns the figures of the last hour; `FiguresTask` has them.
    """

    def __init__(
        self, project: Project, clock: Clock, read_live_figures: ReadLiveFigures = tuple
    ) -> None:
        self._project = project
        self._clock = clock
        self._read_live_figures = read_live_figures
        self._receivers: list[Receiver] | None = None
        self._ledger = DeliveryLedger()
        self._message_counts: Counter[tuple[str, str]] = Counter()

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
                for message in collect_messages(
                    self._project, self._clock, self._read_live_figures()
                )
                if not settings.about or message.kind in settings.about
            ],
            self._receivers,
            self._project.paths.monitoring,
            now,
            repeat_us=parse_duration(settings.repeat),
            on_send=self._count_message,
        )

    def message_counts(self) -> Counter[tuple[str, str]]:
        """Return messages by receiver and outcome, `sent` or `failed`."""
        return self._message_counts.copy()

    def failing_by_receiver(self) -> dict[str, bool]:
        """Return each receiver, and whether it accepts no message."""
        return {
            receiver.name: receiver.name in self._ledger.failing
            for receiver in self._receivers or ()
        }

    def _count_message(self, receiver: str, is_accepted: bool) -> None:
        self._message_counts[receiver, "sent" if is_accepted else "failed"] += 1


def collect_messages(
    project: Project, clock: Clock, slot_figures: Sequence[tuple[str, Figures]] = ()
) -> list[Message]:
    """Return messages about what goes on, and about the decisions of the last day."""
    project_name = project.settings.project.name
    audit = Registry(project.paths.registry, clock=clock).audit()
    return [
        *_page_messages(project_name, slot_figures),
        *_decision_messages([*audit, *churn_decisions(project, clock)], project_name, clock.now()),
        *(_churn_message(project_name, text) for text in describe_waiting_steps(project, clock)),
        *(_waiting_message(project_name, step) for step in waiting_steps(audit)),
        *(_overdue_message(project_name, entry) for entry in read_overdue(project, clock)),
        *_episode_messages(project_name, read_open_episodes(project, clock)),
    ]


def _page_messages(project_name: str, slot_figures: Sequence[tuple[str, Figures]]) -> list[Message]:
    return [
        Message(
            "page",
            problem,
            key=f"page/{problem}/{slot}/{figures.group}",
            title=f"{project_name}: {rate:.1%} {problem} in {slot}",
            body=f"Of {figures.requests:,} responses of {figures.group} in the last hour.\n"
            f"Runbook: {RUNBOOK_FOLDER}/errors.md",
            repeats=True,
        )
        for slot, figures in slot_figures
        for problem, rate in (("errors", figures.error_rate), ("empty lists", figures.empty_rate))
        if figures.requests >= PAGE_REQUESTS_MIN and rate > PAGE_FAILURE_RATE
    ]


def _decision_messages(audit: Sequence[AuditEntry], project_name: str, now: int) -> list[Message]:
    recent_entries = [audit_entry for audit_entry in audit if audit_entry.at > now - LOOKBACK_US]
    own_entries = [audit_entry for audit_entry in recent_entries if audit_entry.by in AUTHORS]
    return [
        message
        for audit_entry in own_entries
        if (message := _decision_message(project_name, audit_entry)) is not None
    ]


def _decision_message(project_name: str, entry: AuditEntry) -> Message | None:
    if entry.action == "rollback":
        kind = "rollback"
        title = f"rolled back to {entry.version}"
        runbook_page = "rolled-back.md"
    elif entry.action in _REFUSAL_ACTIONS:
        kind = "refused"
        title = f"{entry.version} was refused"
        runbook_page = "canary-ended.md"
    else:
        return None
    body = f"{entry.why}\n{to_iso_minute(entry.at)}. Runbook: {RUNBOOK_FOLDER}/{runbook_page}"
    key = f"{kind}/{entry.version}/{entry.at}"
    return Message(kind, cause=kind, key=key, title=f"{project_name}: {title}", body=body)


def _waiting_message(project_name: str, step: WaitingStep) -> Message:
    return Message(
        "approval",
        cause="approval",
        key=f"approval/{step.version}/{step.since}",
        title=f"{project_name}: {step.action.replace('_', ' ')} of {step.version} waits for you",
        body=f"{step.why}\nSince {to_iso_minute(step.since)}. "
        f'tailorbird monitor approve --why "…"\nRunbook: {RUNBOOK_FOLDER}/canary-ended.md',
        repeats=True,
    )


def _churn_message(project_name: str, notice: str) -> Message:
    body = f"{notice}\nRunbook: {RUNBOOK_FOLDER}/churn.md"
    title = f"{project_name}: a churn model waits for you"
    key = f"approval/{notice}"
    return Message("approval", "approval", key, title=title, body=body, repeats=True)


def _overdue_message(project_name: str, entry: OverdueTraining) -> Message:
    return Message(
        "refused",
        cause="training",
        key=f"training/{entry.slot}/{entry.since}",
        title=f"{project_name}: the training of {entry.slot} could not run",
        body=f"Due since {to_iso_minute(entry.since)}. {entry.why}.\n"
        f"{entry.fix}\nRunbook: {RUNBOOK_FOLDER}/training.md",
        repeats=True,
    )


def _episode_messages(project_name: str, episodes: Sequence[DriftRow]) -> list[Message]:
    """Return one message for each cause, so that its episodes come together."""
    messages = []
    ordered_episodes = sorted(episodes, key=lambda episode: (episode.cause, episode.since))
    for cause, group in groupby(ordered_episodes, key=lambda episode: episode.cause):
        cause_episodes = list(group)
        body = "\n".join(
            f"Since {cause_episode.since}: {cause_episode.evidence}."
            for cause_episode in cause_episodes
        )
        body += f"\nRunbook: {cause_episodes[0].runbook}"
        title = f"{project_name}: drift, {cause}"
        messages.append(
            Message("drift", cause, f"drift/{cause}", title=title, body=body, repeats=True)
        )
    return messages


def send_test_messages(project: Project, clock: Clock) -> list[ReceiverState]:
    """Send a test message to each receiver, and return who accepted it.

    Raises:
        NotReadyError: `notify.urls` is empty.
        ConfigError: Apprise does not know a URL.
    """
    project_name = project.settings.project.name
    now = clock.now()
    text = f"Sent at {to_iso(now)[:19]}Z by tailorbird monitor notify --test."
    test_message = Message(
        "approval", "test", "test", title=f"{project_name}: a test message", body=text
    )
    return [
        ReceiverState(receiver.name, to_iso_minute(now) if error else "", error)
        for receiver in _receivers_of(project)
        for error in [receiver.send(test_message)]
    ]


def read_receivers(project: Project) -> list[ReceiverState]:
    """Return the receivers, and which of them failed when the trainer last sent something."""
    failure_by_receiver = read_ledger(project.paths.monitoring).failing
    return [
        ReceiverState(receiver.name, to_iso_minute(failure.since), failure.error)
        if (failure := failure_by_receiver.get(receiver.name))
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
    return {name: to_iso_minute(end) for name, end in silences.items()}


def describe_notify(project: Project, now: int) -> list[str]:
    """Return a sentence for each receiver that fails and for each silence, for the status."""
    folder = project.paths.monitoring
    failure_by_receiver = read_ledger(folder).failing if project.settings.notify.urls else {}
    return [
        *(
            f"receiver {name} accepts no message since {to_iso_minute(failure.since)}: {failure.error}"
            for name, failure in failure_by_receiver.items()
        ),
        *(
            f"{name} is silenced until {to_iso_minute(until)}"
            for name, until in read_silences(folder, now).items()
        ),
    ]
