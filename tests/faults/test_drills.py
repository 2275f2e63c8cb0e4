"""Servers, stores and models die under a small load of the client; `make drills` has figures."""

import json
import socket
import subprocess
import sys
import time
from dataclasses import asdict, fields
from pathlib import Path

import numpy as np
import pytest
from docs import drills_page
from tests.faults.drills.__main__ import DRILLS
from tests.faults.drills.asking import Tally
from tests.faults.drills.child import Part
from tests.faults.drills.judging import DrillResult, judge
from tests.faults.drills.loads import Phase, sum_phases
from tests.faults.drills.site import ROOT
from tests.support.network.brokers import needs_kafka
from tests.support.network.ports import free_port
from tests.support.network.stores import needs_valkey
from tests.support.roles import until
from tests.support.shops import serving_shop

from tailorbird.events import SystemClock
from tailorbird.registry import Registry

linux = pytest.mark.skipif(sys.platform != "linux", reason="finds processes in /proc")
REQUESTS = 1_200
SMALL = [
    "store",
    "server",
    pytest.param("swap", marks=pytest.mark.nightly),
    pytest.param("slow", marks=pytest.mark.nightly),
    pytest.param("broker", marks=[needs_kafka, pytest.mark.nightly]),
]


@pytest.mark.slow
@needs_valkey
@linux
@pytest.mark.parametrize("drill", SMALL)
def test_every_request_is_answered_with_items(tmp_path: Path, drill: str) -> None:
    result = DRILLS[drill](tmp_path / "site", REQUESTS)
    assert result.requests == REQUESTS
    assert result.answered == REQUESTS, result.failures
    assert (result.events, result.events_lost) == (REQUESTS // 10, 0)
    assert result.faults >= 1


@pytest.mark.slow
def test_requests_to_a_starting_server_are_refused_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TAILORBIRD_FAULTS", "serving.before_bundle_load=stall:12")
    registry = Registry(tmp_path / "registry", clock=SystemClock())
    registry.promote(
        registry.add(
            serving_shop.write_shop_bundle(tmp_path / "bundle", serving_shop.feature_set())
        ),
        by="test",
        why="first",
    )
    port = free_port()
    part = json.dumps(asdict(Part(str(tmp_path), port=port)))
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.faults.drills.child", part],
        cwd=ROOT,
        stderr=subprocess.DEVNULL,
    )
    try:
        until(lambda: process.poll() is not None or connects(port), 90, "it does not listen")
        started = time.monotonic()
        until(
            lambda: process.poll() is not None or any((tmp_path / "run").glob("*serve-*.json")),
            90,
            "it did not start",
        )
        assert process.poll() is None
        assert time.monotonic() - started < 10, "the bundle was loaded before"
    finally:
        process.kill()
        process.wait()


def connects(port: int) -> bool:
    """Return True if something listens on the port."""
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True


@pytest.mark.nightly
@pytest.mark.slow
@needs_valkey
@linux
def test_more_than_a_server_can_answer_is_refused_and_the_rest_answered(tmp_path: Path) -> None:
    result = DRILLS["overload"](tmp_path / "site", 1_000)
    assert set(result.failures) <= {"it answered 503"}
    assert not [reason for reason in result.missed if not reason.startswith("goodput")], (
        "goodput is a figure of an idle machine"
    )
    assert result.more["goodput_10x"] > 0.4


def test_a_request_without_an_answer_is_seen_by_the_judge() -> None:
    tally = Tally(
        began=[0.0, 1.0, 2.0],
        ms=[5.0, 5.0, 500.0],
        lacked=["", "last_known", "!it took too long"],
        unsent=1,
    )
    result = judge("store", "", vars(tally), [(0.9, 3.0)], expected_code="previous_model")
    assert (
        result.requests,
        result.answered,
        result.requests_in_fault,
        result.labelled_in_fault,
    ) == (3, 2, 2, 1)
    assert result.p99_ms_fault is not None
    assert result.p99_ms_rest is not None
    assert result.p99_ms_fault > result.p99_ms_rest
    assert result.missed == [
        "availability 0.66667",
        "no answer says previous_model",
        "1 events still wait in the client",
    ]


def test_latency_is_none_without_requests_outside_the_fault() -> None:
    result = judge("store", "", vars(Tally(began=[1.0], ms=[5.0], lacked=[""])), [(0.0, 3.0)])
    assert (result.p50_ms_rest, result.p50_ms_fault) == (None, 5.0)


def test_a_refusal_without_overload_or_without_a_word_is_seen() -> None:
    def phase(*status: int, vague: int = 0) -> Phase:
        tally = {
            "ms": [5.0] * len(status),
            "status": list(status),
            "empty": 0,
            "unsent": 0,
            "without_retry_after": vague,
            "lacked": {"": 1},
        }
        return Phase(tally, 1, 1.0, 1.0, np.array([5.0]))

    result = sum_phases(
        DrillResult("overload", ""), [phase(200, 503), phase(200, 503, 503, vague=1)]
    )
    assert (result.requests, result.answered, result.requests_in_fault) == (5, 2, 3)
    assert result.missed == [
        "1 of 2 not answered without overload",
        "1 refused without a word on when to come again",
    ]


def test_page_figures_and_list_of_drills_agree() -> None:
    results = json.loads(drills_page.RESULTS.read_text())
    assert set(results) == set(DRILLS)
    for name, result in results.items():
        assert result["name"] == name
        assert {each.name for each in fields(DrillResult)} <= set(result)
        assert result["availability"] == result["answered"] / result["requests"]
    assert drills_page.PAGE.read_text() == drills_page.page(results), "python docs/drills_page.py"
