"""The network between the roles and their servers fails: broker, Valkey and bucket, in turn and
together.

All roles run as `tailorbird up` starts them, with their logs in topics, their records in a Valkey
and their lake in a bucket, each behind a line that is cut or falls silent under load. Disconnected
roles wait and go on by themselves, and requests are answered all the while.
"""

import json
import os
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.support.lines import Line, open_line
from tests.support.names import ITEMS
from tests.support.network.brokers import NAMED_BROKER, broker, needs_kafka, on_kafka
from tests.support.network.bucket import BUCKET, s3_server
from tests.support.network.ports import free_port
from tests.support.network.stores import needs_valkey, start_server
from tests.support.oracle import Ledger, Load, count_lake_events, find_violations
from tests.support.roles import Up, make_project, until

from tailorbird.config import Project, open_project
from tailorbird.errors import NotReadyError
from tailorbird.events import SystemClock
from tailorbird.platform.runtime.roles import drain

pytestmark = [
    pytest.mark.slow,
    needs_kafka,
    needs_valkey,
    pytest.mark.skipif(
        bool(NAMED_BROKER),
        reason="a broker of one's own names its own address, which no line stands before",
    ),
]
APART_S = 4.0  # longer than the collector waits for a delivery, below
ASK = json.dumps({"slot": "home", "user_id": "u1", "size": 3}).encode()


@dataclass(frozen=True)
class Site:
    project: Project
    lines: dict[str, Line]


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with ExitStack() as stack:
        lines = {
            name: stack.enter_context(open_line(port=free_port() if name == "broker" else 0))
            for name in ("broker", "Valkey", "bucket")
        }
        broker_port = lines["broker"].port
        servers = {
            "broker": stack.enter_context(broker(tmp_path, advertised_port=broker_port)),
            "Valkey": stack.enter_context(start_server(tmp_path / "valkey")).url,
            "bucket": stack.enter_context(s3_server()),
        }
        for name, url in servers.items():
            lines[name].target = int(url.rpartition(":")[2])
        project = on_kafka(
            make_project(tmp_path / "shop"), f"127.0.0.1:{broker_port}", 'timeout = "2s"\n'
        )
        with (project.root / "tailorbird.toml").open("a") as file:
            file.write(
                f'\n[lake]\nurl = "s3://{BUCKET}/network/lake"\n\n[store]\nurl = '
                f'"valkey://127.0.0.1:{lines["Valkey"].port}"\n'
            )
        yield Site(open_project(project.root), lines)


def _ask(port: int) -> tuple[int, tuple[str, ...]]:
    """Return the status of a response, 0 for one without items, and its degraded parts."""
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/v1/recommend", ASK, {"content-type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request, timeout=10) as response:
            answer = json.loads(response.read())
            return response.status if answer["items"] else 0, tuple(answer.get("degraded", ()))
    except urllib.error.HTTPError as error:
        return error.code, ()


def _stock(port: int) -> None:
    """Send the items that the slot may show."""
    rows = [
        {
            "event_id": f"item-{item}",
            "type": "item",
            "item_id": item,
            "properties": {"category": "c", "stock": 5},
        }
        for item in ITEMS
    ]
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/v1/events",
        json.dumps(rows).encode(),
        {"content-type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=30) as response:
        assert json.loads(response.read())["accepted"] == len(rows)


def _ask_while_apart(
    lines: list[Line], kind: str, port: int
) -> Counter[tuple[int, tuple[str, ...]]]:
    """Return the responses while the lines are cut, or silent."""
    for each in lines:
        each.cut() if kind == "cut" else each.silence()
    answers: Counter[tuple[int, tuple[str, ...]]] = Counter()
    until_s = time.monotonic() + APART_S  # the duration of the cut, not a wait for something
    while time.monotonic() < until_s:
        answers[_ask(port)] += 1
        time.sleep(0.05)
    for each in lines:
        each.open()
    return answers


def _in(project: Project) -> set[str]:
    try:
        return set(count_lake_events(project))
    except NotReadyError:
        return set()


def test_whoever_is_cut_off_waits_and_goes_on_by_itself(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project, ledger = site.project, Ledger(tmp_path / "ledger.jsonl")
    with monkeypatch.context() as of_the_roles:  # the judge uses the bucket directly
        of_the_roles.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{site.lines['bucket'].port}")
        up = Up(project).wait(120)
    load = Load(up.port, ledger)
    try:
        _stock(up.port)
        load.start()
        until(
            lambda: bool(ledger.acked & _in(project)),
            120,
            f"nothing reaches the lake; see {up.log}",
        )
        until(lambda: _ask(up.port)[0] == 200, 60, f"nothing is answered; see {up.log}")
        alone = [[name] for name in site.lines]
        nightly = bool(os.environ.get("NIGHTLY"))
        for kind in ("cut", "silent"):
            for names in (*(alone if nightly or kind == "silent" else []), [*site.lines]):
                answers = _ask_while_apart([site.lines[name] for name in names], kind, up.port)
                assert {status for status, _ in answers} == {200}, (kind, names, answers)
                before = len(ledger.acked)
                until(
                    lambda seen=before: len(ledger.acked) > seen + 20,
                    90,
                    f"nothing is taken after {names} {kind}; see {up.log}",
                )
        load.stop()
        until(
            lambda: ledger.acked <= _in(project),
            180,
            f"what was acknowledged did not reach the lake by itself; see {up.log}",
        )
    finally:
        up.stop()
    assert all(each.refused for each in site.lines.values()), "nobody asked for what was cut off"
    assert all(each.delayed for each in site.lines.values()), "nobody asked for what was silent"
    drain(project, SystemClock(), progress=lambda *_: None)
    assert ledger.refused, "the load sends events that must be refused"
    assert find_violations(project, ledger) == []
