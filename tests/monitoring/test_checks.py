"""Daily checks on a lake of nine days: whole days pass every check, and each fault fails exactly
the check that is for it.
"""

import io
import json
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from tests.support.commands import environment

from tailorbird.events import DAY, HOUR, MINUTE, SECOND, SimulatedClock, to_iso
from tailorbird.events.contract.schema import QUARANTINE, ROUTED
from tailorbird.lake import Lake, LakeRole
from tailorbird.monitoring import daily
from tailorbird.monitoring.amounts import DayExpectations
from tailorbird.monitoring.verdict import Check
from tailorbird.stream import Block, open_writer, routed_path

FIRST = 20_000  # a day since 1970
LAST = FIRST + 8
ROWS = 1_200
EXPECTATIONS = DayExpectations({"purchase": ("order_id",)}, {"purchase": 10}, {"click": 2 * HOUR})


def events_of(day):
    """A day's events as lists, by column: answers, impressions, clicks on them, views and
    purchases, fifty an hour.
    """
    rng = np.random.default_rng(day)
    count = np.arange(ROWS)
    kinds = np.array(["answer", "impression", "click", "view", "purchase"])[count % 5]
    request = [
        f"r{day}-{k // 5}" if kind in ("answer", "impression", "click") else None
        for k, kind in zip(count, kinds, strict=True)
    ]
    ts = day * DAY + count * (DAY // ROWS) + 1
    return {
        "event_id": [f"e{day}-{k}" for k in count],
        "type": kinds.tolist(),
        "ts": ts.tolist(),
        "sent_at": (ts + SECOND).tolist(),
        "received_at": (ts + 2 * SECOND).tolist(),
        "person": [f"u{k}" for k in rng.integers(0, 300, ROWS)],
        "session_id": [f"s{k // 10}" for k in count],
        "item_id": [
            None if kind in ("answer", "impression") else f"i{k // 5 % 40}"
            for k, kind in zip(count, kinds, strict=True)
        ],
        "items": [
            [f"i{k // 5 % 40}", "i99"] if kind in ("answer", "impression") else None
            for k, kind in zip(count, kinds, strict=True)
        ],
        "request_id": request,
        "device": [("phone", "desktop")[k] for k in rng.integers(0, 2, ROWS)],
        "country": [("NO", "SE", "DK")[k] for k in rng.integers(0, 3, ROWS)],
        "agent": ["bot" if k < 0.02 else "person" for k in rng.random(ROWS)],
        "slot": ["home" if kind == "answer" else None for kind in kinds],
        "properties": [
            json.dumps({"order_id": f"o{day}-{k}"}) if kind == "purchase" else None
            for k, kind in zip(count, kinds, strict=True)
        ],
        "counts": [True] * ROWS,
    }


def without(columns, keep):
    return {
        name: [value for value, is_kept in zip(values, keep, strict=True) if is_kept]
        for name, values in columns.items()
    }


def changed(columns, name, value, where):
    columns_now = dict(columns)
    pairs = zip(columns[name], columns["type"], range(len(columns["type"])), strict=True)
    columns_now[name] = [value(old, k) if where(kind, k) else old for old, kind, k in pairs]
    return columns_now


def block(kind, columns, schema):
    rows = len(next(iter(columns.values())))
    arrays = [
        pa.array(columns[field.name], field.type)
        if field.name in columns
        else pa.nulls(rows, field.type)
        for field in schema
    ]
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, schema) as writer:
        writer.write_table(pa.table(arrays, schema=schema))
    return Block(kind, rows, sink.getvalue().to_pybytes())


def make_lake(
    folder,
    fault=lambda columns: columns,
    *,
    hole=False,
    refused=0,
    doubled=0,
    first=FIRST,
    of_day=events_of,
):
    """A lake whose last day has a fault."""
    folder.mkdir(parents=True, exist_ok=True)
    raw = 0
    with open_writer(routed_path(folder / "stream"), partition="routed", first_position=1) as log:
        for day in range(first, LAST + 1):
            columns = of_day(day)
            if day == LAST:
                columns = fault(columns)
            rows = len(columns["type"])
            places = np.arange(raw, raw + rows)
            if day == LAST and hole:
                places[rows // 2 :] += 3
            if day == LAST and doubled:
                columns = {name: values + values[:doubled] for name, values in columns.items()}
                places = np.concatenate(
                    [places, np.arange(places[-1] + 1, places[-1] + 1 + doubled)]
                )
            rows = len(places)
            of_log = {
                "p": range(log.end(), log.end() + rows),
                "timeless": [False] * rows,
                "raw_partition": ["collector"] * rows,
                "raw_offset": places.tolist(),
                "raw_row": [0] * rows,
            }
            log.append([block("events", {**columns, **of_log}, ROUTED)])
            raw = int(places[-1]) + 1
            if day == LAST and refused:
                received = [LAST * DAY + k for k in range(refused)]
                of_row = {
                    "code": ["missing"] * refused,
                    "raw_offset": list(range(raw, raw + refused)),
                    "raw_row": [0] * refused,
                }
                columns = {
                    "received_at": received,
                    "body": [b"{}"] * refused,
                    "raw_partition": ["collector"] * refused,
                    **of_row,
                }
                log.append([block("quarantine", columns, QUARANTINE)])
                raw += refused
    clock = SimulatedClock((LAST + 1) * DAY + HOUR)
    with LakeRole(folder / "stream", folder / "lake", clock=clock) as role:
        role.drain()
    return Lake(folder / "lake")


def watch_days(path, folder, clock, stop, target, retry_s=daily.RETRY_S) -> None:
    """Run the schedule with short pauses."""
    daily.run_daily_checks(
        path,
        folder,
        clock,
        stop,
        expectations=EXPECTATIONS,
        delay_us=HOUR,
        alert_target=target,
        extra_checks=lambda number: (),
        poll_s=0.01,
        retry_s=retry_s,
    )


def check(lake, further=lambda number: ()):
    return daily.check_day(lake, LAST, (LAST + 1) * DAY + HOUR, EXPECTATIONS, further)


def late(columns):
    """Some of what came in on the day happened three days before, whose report was written long
    ago.
    """
    back = changed(columns, "ts", lambda old, k: old - 3 * DAY, lambda kind, k: k % 20 == 3)
    return changed(back, "counts", lambda *_: False, lambda kind, k: k % 20 == 3)


FAULTS = {
    "total": ({}, lambda day: without(day, [k // 5 % 5 == 0 for k in range(ROWS)])),
    "hours": (
        {},
        lambda day: without(day, [not 13 * HOUR <= ts % DAY < 14 * HOUR for ts in day["ts"]]),
    ),
    "duplicates": ({"doubled": 4}, lambda day: day),
    "gaps": ({"hole": True}, lambda day: day),
    "late": ({}, late),
    "nulls": (
        {},
        lambda day: changed(
            day, "session_id", lambda *_: None, lambda kind, k: kind == "click" and k % 2
        ),
    ),
    "categories": (
        {},
        lambda day: changed(day, "country", lambda *_: "XX", lambda kind, k: k % 3 == 0),
    ),
    "orphans": (
        {},
        lambda day: changed(
            day, "request_id", lambda old, k: f"x{k}", lambda kind, k: kind == "click" and k % 2
        ),
    ),
    "skew": (
        {},
        lambda day: changed(
            day, "sent_at", lambda old, k: old - 10 * MINUTE, lambda kind, k: k % 4 == 0
        ),
    ),
    "bots": ({}, lambda day: changed(day, "agent", lambda *_: "bot", lambda kind, k: k % 3 == 0)),
    "refused": ({"refused": 150}, lambda day: day),
    "volume": (
        {},
        lambda day: changed(
            day, "type", lambda *_: "view", lambda kind, k: kind == "purchase" and k > 40
        ),
    ),
    "freshness": (
        {},
        lambda day: changed(
            day, "type", lambda *_: "view", lambda kind, k: kind == "click" and k > ROWS - 130
        ),
    ),
    "uniqueness": (
        {},
        lambda day: changed(
            day,
            "properties",
            lambda *_: '{"order_id": "o1"}',
            lambda kind, k: kind == "purchase" and k < 20,
        ),
    ),
}


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    return make_lake(tmp_path_factory.mktemp("good"))


def test_a_sound_day_passes_every_check(good):
    report = check(good)
    assert report.rows == ROWS
    assert {one.name: one.status for one in report.checks} == dict.fromkeys(FAULTS, "ok")


def test_where_another_system_answers_clicks_follow_what_was_seen(tmp_path):
    def without_answers(day):
        day_columns = events_of(day)
        return without(day_columns, [kind != "answer" for kind in day_columns["type"]])

    day_columns = {
        one.name: one for one in check(make_lake(tmp_path, of_day=without_answers)).checks
    }
    assert day_columns["orphans"].status == "ok"
    stray = make_lake(tmp_path / "stray", FAULTS["orphans"][1], of_day=without_answers)
    assert {one.name: one for one in check(stray).checks}["orphans"].status == "failed"


@pytest.mark.parametrize("name", FAULTS)
def test_each_fault_fails_its_own_check_and_no_other(tmp_path, name):
    options, fault = FAULTS[name]
    report = check(make_lake(tmp_path, fault, **options))
    also_failing = {
        "volume": {"categories"},
        "total": {"hours"},
    }  # a type that is all but gone is a shift, too; and a day is made of hours
    assert {one.name for one in report.failed_checks} - also_failing.get(name, set()) == {name}
    (failed,) = [one for one in report.failed_checks if one.name == name]
    assert failed.explanation
    assert failed.details


def test_a_missing_impression_is_detected(tmp_path):
    lake = make_lake(
        tmp_path,
        lambda day: changed(
            day, "items", lambda *_: ["i99"], lambda kind, k: kind == "impression" and k % 2
        ),
    )
    (failed,) = check(lake).failed_checks
    assert (failed.name, "without an impression" in failed.explanation) == ("orphans", True)


def test_clicks_on_what_another_system_answered_are_distinguished(tmp_path):
    def of_others(day):
        """Every second request, with what was seen of it and the click, is another system's: there
        is no answer of ours.
        """
        return changed(
            day,
            "request_id",
            lambda old, k: f"x{k // 5}",
            lambda kind, k: kind in ("impression", "click") and k // 5 % 2,
        )

    (failed,) = check(make_lake(tmp_path, of_others)).failed_checks
    assert (failed.name, "another system gives some" in failed.explanation) == ("orphans", True)
    (failed,) = check(make_lake(tmp_path / "stray", FAULTS["orphans"][1])).failed_checks
    assert "another system" not in failed.explanation


def test_one_person_who_is_no_person_is_detected(tmp_path):
    lake = make_lake(
        tmp_path,
        lambda day: changed(day, "person", lambda *_: "crawler", lambda kind, k: k < 1_100),
    )
    (failed,) = check(lake).failed_checks
    assert (failed.name, "people made more than" in failed.explanation) == ("bots", True)


def test_extra_checks_are_in_the_report(good):
    report = check(
        good,
        lambda number: [Check("features", "failed", 3.0, 0.0, f"3 values differ on day {number}")],
    )
    assert [one.explanation for one in report.failed_checks] == [f"3 values differ on day {LAST}"]


def test_of_a_day_in_progress_only_finished_hours_are_judged(good):
    report = daily.check_day(good, LAST, LAST * DAY + 6 * HOUR, EXPECTATIONS)
    assert report.rows == ROWS // 4
    assert "hours" not in {one.name for one in report.failed_checks}
    assert {one.explanation for one in report.checks if one.name in ("total", "volume")} == {
        "the day is not over"
    }


def test_without_days_before_shifts_are_not_judged(good):
    report = daily.check_day(good, FIRST, (LAST + 1) * DAY, DayExpectations())
    status = {one.name: one.status for one in report.checks}
    assert [status[name] for name in ("hours", "total", "nulls", "categories", "volume")] == [
        "none"
    ] * 5
    assert "failed" not in status.values()


def test_reports_are_stored_with_a_page_of_all_days(tmp_path, good):
    folder = tmp_path / "checks"
    for day in (LAST - 1, LAST):
        page = daily.save_report(
            folder,
            daily.check_day(
                good,
                day,
                (LAST + 1) * DAY + 3 * HOUR,
                EXPECTATIONS,
                lambda number: [Check("features", "failed", 1, 0, "<b>")],
            ),
        )
    assert [report.day for report in daily.read_reports(folder)] == ["2024-10-12", "2024-10-11"]
    text = page.read_text()
    assert "2024-10-11" in text
    assert "&lt;b&gt;" in text
    assert "http:" not in text, "it shows without a network"
    assert "https:" not in text, "it shows without a network"
    assert daily.find_due_days(folder, (LAST + 1) * DAY + 2 * HOUR, HOUR) == [
        LAST - k for k in range(2, 7)
    ], "those without a report"
    assert daily.find_due_days(folder, (LAST + 2) * DAY + 2 * HOUR, HOUR)[:2] == [
        LAST + 1,
        LAST - 2,
    ]
    assert daily.find_due_days(folder, (LAST + 1) * DAY + 2 * HOUR, 3 * HOUR)[0] == LAST - 2, (
        "the last day is not over for long enough"
    )


def test_a_day_checked_by_hand_in_progress_is_checked_again_when_it_is_over(tmp_path, good):
    folder = tmp_path / "checks"
    daily.save_report(folder, daily.check_day(good, LAST, LAST * DAY + 6 * HOUR, EXPECTATIONS))
    assert daily.find_due_days(folder, (LAST + 1) * DAY + 2 * HOUR, HOUR)[0] == LAST
    daily.save_report(folder, daily.check_day(good, LAST, (LAST + 1) * DAY + HOUR, EXPECTATIONS))
    assert daily.find_due_days(folder, (LAST + 1) * DAY + 2 * HOUR, HOUR)[0] == LAST - 1


def test_a_run_by_hand_uses_no_alert_from_the_schedule(tmp_path):
    assert daily.is_alert_due(tmp_path, FAILING, "a-program")
    assert not daily.is_alert_due(tmp_path, FAILING, ""), "nobody is to be told"
    for has_unsent_alert in (True, False):
        daily.save_report(
            tmp_path, msgspec.structs.replace(FAILING, has_unsent_alert=has_unsent_alert)
        )
        assert daily.is_alert_due(tmp_path, FAILING, "a-program") is has_unsent_alert
    assert not daily.is_alert_due(tmp_path, daily.DayReport("2024-10-11", "", 3, []), "a-program")


FAILING = daily.DayReport(
    "2024-10-12", "", 3, [Check("gaps", "failed", 1.0, 0.0, "a row is missing")]
)


def test_a_command_is_alerted_of_a_failure(tmp_path):
    alert_file = tmp_path / "told.json"
    command = (
        f'{sys.executable} -c "import sys; open({str(alert_file)!r}, '
        "'w').write(sys.stdin.read())\""
    )
    assert daily.send_alert(command, FAILING) == ""
    assert msgspec.json.decode(alert_file.read_bytes(), type=daily.DayReport) == FAILING
    alert_file.unlink()
    assert daily.send_alert(command, daily.DayReport("2024-10-12", "", 3, [])) == ""
    assert not alert_file.exists(), "nothing failed"
    assert "status 3; it is started without a shell" in daily.send_alert(
        f'{sys.executable} -c "raise SystemExit(3)"', FAILING
    )
    assert "did not go out" in daily.send_alert("no-such-program-anywhere", FAILING)


def test_a_url_is_alerted_of_a_failure():
    got = []

    class Receiver(BaseHTTPRequestHandler):
        def do_POST(self):
            got.append(io.BytesIO(self.rfile.read(int(self.headers["content-length"]))).read())
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_):
            pass

    server = HTTPServer(("127.0.0.1", 0), Receiver)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        assert (
            daily.send_alert(f"http://127.0.0.1:{server.server_port}/hook?token=secret", FAILING)
            == ""
        )
    finally:
        server.shutdown()
        server.server_close()
    assert msgspec.json.decode(got[0])["checks"][0]["explanation"] == "a row is missing"
    failed = daily.send_alert(f"http://127.0.0.1:{server.server_port}/hook?token=secret", FAILING)
    assert failed
    assert "secret" not in failed


@pytest.mark.slow
def test_the_schedule_checks_yesterday_and_missed_days_once_and_alerts(tmp_path):
    lake = make_lake(tmp_path, FAULTS["gaps"][1], hole=True)
    for day in (LAST - k for k in (1, 2, 4, 5, 6)):
        daily.save_report(
            tmp_path / "checks",
            daily.DayReport(to_iso(day * DAY)[:10], to_iso((day + 1) * DAY + HOUR), ROWS, []),
        )
    alert_file, stop = tmp_path / "told.json", threading.Event()
    command = (
        f"{sys.executable} -c \"import sys; open({str(alert_file)!r}, 'a').write(sys.stdin.read() "
        '+ chr(10))"'
    )
    clock = SimulatedClock((LAST + 1) * DAY + 2 * HOUR)
    thread = threading.Thread(
        target=watch_days, args=(lake.path, tmp_path / "checks", clock, stop, command), daemon=True
    )
    thread.start()
    waited = threading.Event()
    for _ in range(600):
        if (
            alert_file.exists()
            and alert_file.read_text()
            and len(daily.read_reports(tmp_path / "checks")) == 7
        ):
            break
        waited.wait(0.05)
    stop.set()
    thread.join(20)
    (line,) = alert_file.read_text().splitlines()
    assert [one["name"] for one in json.loads(line)["checks"] if one["status"] == "failed"] == [
        "gaps"
    ]
    assert [report.day for report in daily.read_reports(tmp_path / "checks")] == [
        f"2024-10-{day:02}" for day in range(12, 5, -1)
    ]


def test_the_schedule_alerts_on_a_day_without_any_event(tmp_path, good):
    alert_file, stop = tmp_path / "told.json", threading.Event()
    command = (
        f"{sys.executable} -c \"import sys; open({str(alert_file)!r}, 'a').write(sys.stdin.read() "
        '+ chr(10))"'
    )
    clock = SimulatedClock((LAST + 2) * DAY + 2 * HOUR)
    thread = threading.Thread(
        target=watch_days, args=(good.path, tmp_path / "checks", clock, stop, command), daemon=True
    )
    thread.start()
    waited = threading.Event()
    for _ in range(600):
        if alert_file.exists() and alert_file.read_text().endswith("\n"):
            break
        waited.wait(0.05)
    stop.set()
    thread.join(20)
    report = msgspec.json.decode(alert_file.read_text().splitlines()[0], type=daily.DayReport)
    assert (report.day, report.rows, report.newest_before) == ("2024-10-13", 0, "2024-10-12")
    newest = to_iso(
        good.table("events")
        .filter(pc.equal(good.table("events")["type"], "click"))["ts"]
        .cast("int64")
        .to_numpy()
        .max()
    )
    assert {one.name: one.explanation for one in report.failed_checks} == {
        "hours": "00:00 has 0 events, 50 are usual",
        "total": "the day has no event at all, 1,200 are usual",
        "volume": "0 events of type purchase, at least 10 are declared",
        "freshness": f"the newest click is of {newest}; one within 2h is declared",
    }


def test_freshness_over_days_reads_the_days_before(good):
    later = daily.check_day(
        good,
        LAST + 2,
        (LAST + 3) * DAY,
        msgspec.structs.replace(EXPECTATIONS, fresh_within={"click": 2 * DAY}),
    )
    assert "freshness" in {one.name for one in later.failed_checks}
    fine = daily.check_day(
        good,
        LAST + 1,
        (LAST + 2) * DAY,
        msgspec.structs.replace(EXPECTATIONS, fresh_within={"click": 2 * DAY}),
    )
    assert "freshness" not in {one.name for one in fine.failed_checks}


def watched(lake, folder, target, until) -> None:
    """Run the schedule until something holds."""
    stop, waited = threading.Event(), threading.Event()
    clock = SimulatedClock((LAST + 2) * DAY + 2 * HOUR)
    thread = threading.Thread(
        target=watch_days, args=(lake.path, folder, clock, stop, target, 0.05), daemon=True
    )
    thread.start()
    for _ in range(600):
        if until():
            break
        waited.wait(0.05)
    stop.set()
    thread.join(20)
    assert until()


def test_an_alert_that_did_not_go_out_is_tried_again(tmp_path, good):
    folder, alert_file = tmp_path / "checks", tmp_path / "told.json"
    watched(
        good,
        folder,
        "no-such-program-anywhere",
        lambda: any(report.has_unsent_alert for report in daily.read_reports(folder)),
    )
    command = (
        f"{sys.executable} -c \"import sys; open({str(alert_file)!r}, 'a').write(sys.stdin.read() "
        '+ chr(10))"'
    )
    watched(
        good,
        folder,
        command,
        lambda: not any(report.has_unsent_alert for report in daily.read_reports(folder)),
    )
    assert "2024-10-13" in {
        msgspec.json.decode(line, type=daily.DayReport).day
        for line in alert_file.read_text().splitlines()
    }


_WATCH = """
import sys, threading
from pathlib import Path
from tests.monitoring.test_checks import DAY, HOUR, LAST, watch_days
from tailorbird.events import SimulatedClock

lake, folder, target = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
watch_days(lake, folder, SimulatedClock((LAST + 2) * DAY + 2 * HOUR), threading.Event(), target)
"""


@pytest.mark.slow
def test_an_alert_is_sent_though_the_role_is_killed_while_it_does(tmp_path, good):
    folder, alert_file = tmp_path / "checks", tmp_path / "told.json"
    kills = f'{sys.executable} -c "import os; os.kill(os.getppid(), 9)"'
    role = [sys.executable, "-c", _WATCH, str(good.path), str(folder), kills]
    assert subprocess.run(role, env=environment(), timeout=120, check=False).returncode == -9
    assert [report.day for report in daily.read_reports(folder)] == ["2024-10-13"]
    command = (
        f"{sys.executable} -c \"import sys; open({str(alert_file)!r}, 'a').write(sys.stdin.read() "
        '+ chr(10))"'
    )
    watched(
        good,
        folder,
        command,
        lambda: (
            alert_file.exists()
            and not any(report.has_unsent_alert for report in daily.read_reports(folder))
        ),
    )
    assert "2024-10-13" in {
        msgspec.json.decode(line, type=daily.DayReport).day
        for line in alert_file.read_text().splitlines()
    }


def test_a_day_in_progress_alerts_once_it_is_complete(tmp_path, good):
    """Check that failures of a day in progress are not alerted, unlike those found afterwards."""
    folder, alert_file = tmp_path / "checks", tmp_path / "told.json"
    fails = [Check("gaps", "failed", 1.0, 0.0, "a row is missing")]
    for day, at in (
        (LAST + 2, (LAST + 2) * DAY + HOUR),
        (LAST, (LAST + 1) * DAY + 2 * HOUR),
        (LAST - 9, (LAST + 1) * DAY + 2 * HOUR),
    ):
        report = daily.DayReport(to_iso(day * DAY)[:10], to_iso(at), ROWS, fails)
        daily.save_report(
            folder,
            msgspec.structs.replace(
                report, has_unsent_alert=daily.is_alert_due(folder, report, "a-program")
            ),
        )
    command = (
        f"{sys.executable} -c \"import sys; open({str(alert_file)!r}, 'a').write(sys.stdin.read() "
        '+ chr(10))"'
    )
    last = to_iso(LAST * DAY)[:10]
    watched(
        good,
        folder,
        command,
        lambda: (
            not any(
                report.has_unsent_alert
                for report in daily.read_reports(folder)
                if report.day == last
            )
        ),
    )
    days = {
        msgspec.json.decode(line, type=daily.DayReport).day
        for line in alert_file.read_text().splitlines()
    }
    assert last in days
    assert days.isdisjoint({to_iso((LAST + 2) * DAY)[:10], to_iso((LAST - 9) * DAY)[:10]})


def test_days_before_the_first_event_are_of_no_use(good):
    assert not daily.check_day(good, FIRST - 1, (LAST + 1) * DAY, EXPECTATIONS).has_content


@pytest.mark.parametrize("days", [7, 8, 30])
def test_a_site_that_has_been_silent_for_long_is_reported(good, days):
    report = daily.check_day(good, LAST + days, (LAST + days + 1) * DAY, EXPECTATIONS)
    assert report.has_content
    assert {one.name for one in report.failed_checks} == {"total", "volume", "freshness"} | (
        {"hours"} if days < 6 else set()
    )
    (total,) = [one for one in report.failed_checks if one.name == "total"]
    context = "1,200 are usual" if days == 7 else "nor has any since 2024-10-12"
    assert total.explanation == f"the day has no event at all, {context}"


def with_catalogue(day, rows):
    """The day's events, with as many profiles of items, of the day's first hour."""
    events = events_of(day)
    of_item = {
        "event_id": lambda k: f"c{day}-{k}",
        "type": lambda k: "item",
        "ts": lambda k: day * DAY + k,
        "counts": lambda k: True,
        "received_at": lambda k: day * DAY + k,
        "item_id": lambda k: f"i{k}",
    }
    return {
        name: values + [of_item.get(name, lambda k: None)(k) for k in range(rows)]
        for name, values in events.items()
    }


def test_a_catalogue_sent_again_does_not_count_as_visitors(tmp_path):
    report = check(make_lake(tmp_path, lambda day: with_catalogue(LAST, 3_000)))
    assert not report.failed_checks


def test_a_site_with_catalogue_updates_but_no_visitors_is_reported(tmp_path):
    def no_visitor(day):
        return without(with_catalogue(LAST, 300), [False] * ROWS + [True] * 300)

    report = daily.check_day(
        make_lake(tmp_path, no_visitor), LAST, (LAST + 1) * DAY, DayExpectations()
    )
    assert "total" in {one.name for one in report.failed_checks}


def test_a_young_site_is_not_compared_with_what_its_catalogue_was_before(tmp_path):
    def of_day(day):
        events = with_catalogue(day, 30)
        return events if day == LAST else without(events, [False] * ROWS + [True] * 30)

    report = daily.check_day(
        make_lake(tmp_path, of_day=of_day), LAST, (LAST + 1) * DAY, DayExpectations()
    )
    assert not report.failed_checks


def again(columns):
    """All sent twice at once, under ids of their own."""
    return {
        name: values + ([f"{one}-again" for one in values] if name == "event_id" else values)
        for name, values in columns.items()
    }


def test_what_is_sent_twice_under_ids_of_its_own_is_detected(tmp_path):
    report = check(make_lake(tmp_path, again))
    assert {one.name for one in report.failed_checks} == {"duplicates", "total", "uniqueness"}
    (failed,) = [one for one in report.failed_checks if one.name == "duplicates"]
    assert failed.explanation == (
        "50% of the events repeat another of that second, under an id of their own: a client "
        "sends twice"
    )


def test_a_weekday_that_is_always_closed_is_no_fault(tmp_path):
    def of_day(day):
        return (
            without(events_of(day), [k % 10 == 0 for k in range(ROWS)])
            if day % 7 == LAST % 7
            else events_of(day)
        )

    report = daily.check_day(
        make_lake(tmp_path, of_day=of_day), LAST, (LAST + 1) * DAY, DayExpectations()
    )
    assert not [one for one in report.failed_checks if one.name in ("hours", "total")]


def test_the_days_after_a_day_that_was_wrong_are_right(tmp_path):
    def of_day(day):
        columns = events_of(day)
        if day != LAST - 1:
            return columns
        wrong = changed(columns, "country", lambda *_: "XX", lambda kind, k: True)
        return changed(wrong, "session_id", lambda *_: None, lambda kind, k: kind == "click")

    lake = make_lake(tmp_path, of_day=of_day, first=LAST - 4)
    yesterday = daily.check_day(lake, LAST - 1, LAST * DAY, DayExpectations())
    assert {one.name for one in yesterday.failed_checks} == {"nulls", "categories"}
    assert not check(lake).failed_checks


def test_an_hour_without_the_one_person_that_it_has_as_a_rule_is_no_fault(tmp_path):
    def person(day):
        return changed(day, "person", lambda old, k: f"u{k // 50}", lambda kind, k: True)

    lake = make_lake(
        tmp_path,
        lambda day: without(day, [k // 50 != 7 for k in range(ROWS)]),
        of_day=lambda day: person(events_of(day)),
    )
    assert not check(lake).failed_checks


def test_clocks_of_a_few_who_alone_say_when_they_sent_are_no_fault(tmp_path):
    def off(day):
        late = lambda old, k: old - HOUR if k % 25 == 0 else None  # noqa: E731
        return changed(day, "sent_at", late, lambda kind, k: True)

    assert not check(make_lake(tmp_path, off)).failed_checks
    assert [
        one.name for one in check(make_lake(tmp_path / "more", FAULTS["skew"][1])).failed_checks
    ] == ["skew"]


def test_a_day_that_is_all_but_empty_is_detected_where_hours_are_too_small_to_judge(tmp_path):
    few = [k % (ROWS // 360) == 0 for k in range(ROWS)]
    events = {
        day: without(events_of(day), few if day < LAST else [k == 3 for k in range(ROWS)])
        for day in range(FIRST, LAST + 1)
    }
    report = daily.check_day(
        make_lake(tmp_path, of_day=events.__getitem__), LAST, (LAST + 1) * DAY, DayExpectations()
    )
    checks = {one.name: one for one in report.checks}
    assert (checks["total"].status, checks["total"].explanation) == (
        "failed",
        "the day's events are 1, 400 are usual",
    )
    assert (checks["hours"].status, checks["hours"].explanation) == (
        "none",
        "no hour that is over has 20 events as a rule",
    )


def test_a_unique_property_that_no_event_has_is_not_judged_and_named(tmp_path):
    lake = make_lake(tmp_path, first=LAST)
    checks = daily.check_day(
        lake, LAST, (LAST + 1) * DAY, DayExpectations({"purchase": ("oder_id",)})
    ).checks
    (unique,) = (one for one in checks if one.name == "uniqueness")
    assert (unique.status, unique.explanation) == ("none", "no purchase has a property oder_id")


@pytest.mark.parametrize(
    ("name", "value"),
    [("query", "boots"), ("price", 5.0), ("quantity", 2.0), ("rating", 4.0), ("dwell_ms", 900.0)],
)
def test_a_property_with_a_column_of_its_own_can_be_declared_as_unique(tmp_path, name, value):
    lake = make_lake(
        tmp_path,
        lambda day: {**day, name: [value if kind == "purchase" else None for kind in day["type"]]},
        first=LAST,
    )
    expectations = DayExpectations({"purchase": (name,), "click": (name,)})
    (failed,) = daily.check_day(lake, LAST, (LAST + 1) * DAY, expectations).failed_checks
    assert (failed.name, failed.details) == (
        "uniqueness",
        [f"{ROWS // 5 - 1:,} purchase repeat a {name} of another"],
    )
