"""People get one message for each episode and decision, and a receiver that is down shows."""

import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from prometheus_client import CollectorRegistry, generate_latest
from tests.support.receivers import accept_only, receive_json, receive_mail
from tests.support.rollout_child import add_version, open_shop

from tailorbird.config.rollout_settings import NotifySection
from tailorbird.errors import ConfigError, UsageError
from tailorbird.events import DAY, HOUR, MINUTE, SimulatedClock
from tailorbird.monitoring.drift import causes as causes_module
from tailorbird.monitoring.drift.causes import OUTAGE, TASTE
from tailorbird.monitoring.drift.judgement import DriftRow, Judgement, store_judgement
from tailorbird.monitoring.notify import MESSAGE_KINDS
from tailorbird.monitoring.notify.collector import NotifyCollector
from tailorbird.platform.notify import (
    NotifyTask,
    collect_messages,
    describe_notify,
    read_receivers,
    send_test_messages,
    silence_cause,
)
from tailorbird.registry import Registry

pytest.importorskip("apprise", reason="no Apprise here")

NOON = 1_790_553_600_000_000 + 12 * HOUR
BOTS = DriftRow(
    "2026-09-28T10:00Z", "", "", "bots", "crawlers make 30%", "docs/operate/bots.md", "", {}
)


@pytest.fixture
def shop(tmp_path):
    """A shop with a roll-back by the trainer, and an episode of bots in two parts that goes on."""
    for _ in range(2):
        version = add_version(tmp_path, NOON - DAY)
        registry = Registry(tmp_path / "registry", clock=SimulatedClock(NOON - HOUR))
        registry.promote(version, by="trainer", why="the gate accepted it")
    registry.rollback(by="trainer", why="clicks fell by 31%")
    store_episodes(tmp_path, [BOTS, msgspec.structs.replace(BOTS, since="2026-09-28T11:00Z")])
    return tmp_path


def store_episodes(folder, rows: list[DriftRow]) -> None:
    store_judgement(folder / "monitoring", Judgement(NOON, rows))


def project_of(folder, *urls: str) -> Any:
    project = open_shop(folder)
    settings = msgspec.structs.replace(project.settings, notify=NotifySection(urls=list(urls)))
    return SimpleNamespace(paths=project.paths, settings=settings, slots=project.slots, churn={})


def task_at(project, now: int) -> NotifyTask:
    return NotifyTask(project, SimulatedClock(now))


def metrics_of(task: NotifyTask) -> str:
    registry = CollectorRegistry()
    registry.register(NotifyCollector(task.message_counts, task.failing_by_receiver))
    return generate_latest(registry).decode()


def test_mail_and_json_get_one_message_for_each_decision_and_cause(shop, monkeypatch):
    monkeypatch.setattr("apprise.NotifyBase.request_rate_per_sec", 0)  # Apprise waits between mails
    with receive_mail() as (smtp, mails), receive_json() as (http, bodies):
        mail = f"mailto://127.0.0.1:{smtp}?from=shop@example.com&to=ada@example.com"
        project = project_of(shop, f"json://127.0.0.1:{http}", mail)
        task_at(project, NOON).tick()
        titles = ["shop: rolled back to v0001", "shop: drift, bots"]
        assert [each["title"] for each in bodies] == titles
        assert [str(each["subject"]) for each in mails] == titles
        assert mails[0]["to"] == "ada@example.com"
        assert "clicks fell by 31%" in bodies[0]["message"]
        assert "docs/operate/rolled-back.md" in bodies[0]["message"]
        assert bodies[1]["message"].count("Since ") == 2, "both parts in one message"
        task_at(project, NOON + HOUR).tick()
        assert len(bodies) == len(mails) == 2, "nothing is repeated, also after a restart"
        task_at(project, NOON + 12 * HOUR).tick()
        assert [each["title"] for each in bodies[2:]] == titles[1:], "only what goes on"


def test_a_receiver_that_is_down_shows_and_gets_its_messages_later(shop):
    with receive_json() as (port, _):
        """Now closed: a port on which nothing listens."""
    with receive_json() as (other, bodies), accept_only() as silent:
        urls = (
            f"json://127.0.0.1:{port}",
            f"json://127.0.0.1:{silent}?cto=0.2&rto=0.2",
            "nosuch://service",
            f"json://127.0.0.1:{other}",
        )
        project = project_of(shop, *urls)
        task = task_at(project, NOON)
        task.tick()
        assert len(bodies) == 2, "the others get theirs"
        down, hung, unknown, up = task.failing_by_receiver()
        assert task.failing_by_receiver() == {down: True, hung: True, unknown: True, up: False}
        sentences = describe_notify(project, NOON)
        assert [name in text for name, text in zip((down, hung, unknown), sentences, strict=True)]
        assert "12:00Z" in sentences[0]
        assert "does not recognise" in sentences[2]
        exposed = metrics_of(task)
        assert f'tailorbird_notify_failing{{receiver="{down}"}} 1.0' in exposed
        assert f'messages_total{{outcome="sent",receiver="{up}"}} 2.0' in exposed
        assert down.startswith(f"json-127.0.0.1:{port}-"), "told from the other"
        with receive_json(port) as (_, late):
            task = task_at(project, NOON + 6 * MINUTE)
            task.tick()
            assert len(late) == 2
            assert not task.failing_by_receiver()[down]


@pytest.mark.parametrize("url", ["foo", "foo://x"])
def test_a_url_that_apprise_does_not_know_is_an_error_of_the_settings(shop, url):
    with pytest.raises(ConfigError, match="no URL that Apprise knows") as caught:
        read_receivers(project_of(shop, "json://127.0.0.1:1", url))
    assert "mailto://" in caught.value.fix


def test_the_name_of_a_receiver_has_no_secret(shop):
    urls = (
        "mailto://ada:hunter2@example.com",
        "slack://T0123456/B0123456/abcdefghijklmnopqrstuvwx",
    )
    mail, slack = (each.receiver for each in read_receivers(project_of(shop, *urls)))
    assert mail.startswith("mailto-example.com-")
    assert "hunter2" not in mail
    assert "T0123456" not in slack


def test_only_what_messages_are_about_can_be_silenced(shop):
    causes = Path(causes_module.__file__).read_text()
    for cause in (
        *re.findall(r'Cause\(\s*"([a-z -]+)"', causes),
        OUTAGE,
        TASTE,
        *MESSAGE_KINDS,
        "all",
    ):
        silence_cause(project_of(shop), SimulatedClock(NOON), cause, "1h")
    with pytest.raises(UsageError, match="no message has the cause 'catalog'") as caught:
        silence_cause(project_of(shop), SimulatedClock(NOON), "catalog", "1h")
    assert "catalogue swap" in caught.value.fix


def test_what_is_silenced_is_not_sent_until_the_silence_ends(shop):
    with receive_json() as (port, bodies):
        project = project_of(shop, f"json://127.0.0.1:{port}")
        for cause in ("bots", "rollback"):
            silences = silence_cause(project, SimulatedClock(NOON), cause, "2h")
        assert silences == {"bots": "2026-09-28T14:00Z", "rollback": "2026-09-28T14:00Z"}
        task_at(project, NOON + HOUR).tick()
        assert bodies == []
        assert describe_notify(project, NOON) == [
            "bots is silenced until 2026-09-28T14:00Z",
            "rollback is silenced until 2026-09-28T14:00Z",
        ]
        task_at(project, NOON + 3 * HOUR).tick()
        assert [each["title"] for each in bodies] == ["shop: drift, bots"], "it goes on"
        assert describe_notify(project, NOON + 3 * HOUR) == []


def test_every_kind_of_message(shop):
    registry = Registry(shop / "registry", clock=SimulatedClock(NOON))
    registry.record("reject", "v0002", by="trainer", why="its scores are no numbers")
    registry.record("reject", "v0001", by="ada", why="a person knows what they did")
    registry.record("propose promote", "v0002", by="trainer", why="the canary passed")
    rates = SimpleNamespace(group="v0002", requests=1_000, error_rate=0.02, empty_rate=0.0)
    few = SimpleNamespace(group="v0001", requests=99, error_rate=1.0, empty_rate=1.0)
    figures: Any = [("home", rates), ("home", few)]
    messages = collect_messages(project_of(shop), SimulatedClock(NOON), figures)
    assert [(each.kind, each.title) for each in messages] == [
        ("page", "shop: 2.0% errors in home"),
        ("rollback", "shop: rolled back to v0001"),
        ("refused", "shop: v0002 was refused"),
        ("approval", "shop: promote of v0002 waits for you"),
        ("drift", "shop: drift, bots"),
    ]


def test_slack_and_pagerduty_get_the_requests_that_they_document(tmp_path, monkeypatch):
    import requests

    sent: list[requests.PreparedRequest] = []

    def send(self, request, **options):
        sent.append(request)
        response = requests.Response()
        response.status_code = 202 if "pagerduty" in request.url else 200
        response._content = b"ok"
        return response

    monkeypatch.setattr(requests.adapters.HTTPAdapter, "send", send)
    key = "0123456789abcdef0123456789abcdef"
    token = "T0123456/B0123456/abcdefghijklmnopqrstuvwx"
    project = project_of(
        tmp_path, f"slack://{token}/#shop", f"pagerduty://{key}@apikey/shop/models"
    )
    assert [each.error for each in send_test_messages(project, SimulatedClock(NOON))] == ["", ""]
    slack, pager = sent
    assert slack.url == f"https://hooks.slack.com/services/{token}"
    assert "shop: a test message" in json.dumps(json.loads(slack.body or b""))
    assert pager.url == "https://events.pagerduty.com/v2/enqueue"
    event = json.loads(pager.body or b"")
    assert (event["routing_key"], event["event_action"]) == (key, "trigger")
    assert event["payload"]["severity"] == "info"
    assert (event["payload"]["source"], event["payload"]["component"]) == ("shop", "models")
    assert "2026-09-28T12:00:00Z" in event["payload"]["summary"]
