"""A reader who follows one body through the collector stays in a few files."""

import sys
import threading
from pathlib import Path
from types import FrameType

import pytest

from tailorbird.events import RoutePlan, SystemClock
from tailorbird.serving import collector
from tailorbird.serving.collector.collector import EventCollector

FOLDER = Path(collector.__file__).parent
BODY = b'[{"event_id": "e1", "type": "click", "user_id": "u1", "item_id": "i1"}]'


def _inside(frame: FrameType | None) -> FrameType | None:
    """Return the innermost frame that is in a file of the collector."""
    while frame is not None and Path(frame.f_code.co_filename).parent != FOLDER:
        frame = frame.f_back
    return frame


def test_one_body_enters_five_files_and_returns_six_times(
    tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    calls: set[tuple[str, str, str]] = set()  # calling file, called file and function
    is_followed = False

    def note(frame: FrameType, event: str, _: object) -> None:
        if event != "call" or not is_followed or (called := _inside(frame)) is not frame:
            return
        caller = _inside(frame.f_back)
        calls.add(
            (
                Path(caller.f_code.co_filename).name if caller else "",
                Path(called.f_code.co_filename).name,
                called.f_code.co_name,
            )
        )

    request.addfinalizer(lambda: threading.setprofile(None))
    request.addfinalizer(lambda: sys.setprofile(None))
    threading.setprofile(note)  # of the writer's thread
    with EventCollector(tmp_path, "serve-1", RoutePlan(), SystemClock()) as event_collector:
        sys.setprofile(note)
        is_followed = True
        assert [decision.accepted for decision in event_collector.submit(BODY)] == [True]
        is_followed = False
        sys.setprofile(None)
    returns = sorted(call for call in calls if call[0] and call[0] != call[1])
    assert {file for _, file, _ in calls} == {
        "collector.py",
        "queue.py",
        "body_check.py",
        "receipt_times.py",
        "writer.py",
    }
    assert len(returns) <= 6, returns
    assert ("writer.py", "queue.py", "count_committed") in returns
