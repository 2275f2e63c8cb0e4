"""Refused rows are replayed once, with their first time of receipt and origin, despite crashes."""

import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec
import pyarrow.compute as pc
import pytest

from tailorbird.events import MINUTE, SECOND, Receipt, RoutePlan, SimulatedClock
from tailorbird.events.adapters.webhook import body_to_lines
from tailorbird.events.clock import DAY
from tailorbird.events.contract.plan import EVENT_TYPES
from tailorbird.events.contract.verdict import Origin
from tailorbird.events.suppression import SuppressionList
from tailorbird.lake import Lake, LakeRole, verify
from tailorbird.lake.quarantine import (
    QuarantineFilter,
    read_samples,
    read_slices,
    summarize_reasons,
)
from tailorbird.lake.write.replay import ReplayReport, read_replayed_keys, replay
from tailorbird.router import Router
from tailorbird.stream import REPLAY_PRODUCER, Block, open_reader, open_writer, raw_path

NOW = 1_764_072_000_000_000  # 2025-11-25T12:00:00Z
OLD, MENDED = RoutePlan(), RoutePlan(event_types=(*EVENT_TYPES, "video_played"))
PLAYED = QuarantineFilter(("unknown_type",))


def played(number: int, **more: Any) -> dict[str, Any]:
    return {
        "event_id": f"e{number}",
        "type": "video_played",
        "user_id": "u",
        "item_id": "i",
        **more,
    }


class Site:
    """Logs and lake of a site; what is posted is routed and loaded by the plan that is given."""

    def __init__(self, folder: Path) -> None:
        self.stream, self.lake = folder / "stream", folder / "lake"
        self.now = NOW

    def post(self, *events: Any, source: str = "collector", format_: str = "") -> None:
        body = (
            msgspec.json.encode(events)
            if not format_
            else b"\n".join(body_to_lines(format_, msgspec.json.encode(events)))
        )
        receipt = Receipt(self.now, source, "ndjson" if format_ else "json", format_)
        rows = body.count(b"\n") + 1 if format_ else len(events)
        with open_writer(raw_path(self.stream, "serve-1"), partition="serve-1") as writer:
            writer.append([Block("body", rows, body, msgspec.json.encode(receipt))])
        self.now += SECOND

    def load(self, plan: RoutePlan = OLD) -> Counter[str]:
        counts: Counter[str] = Counter()
        with Router(self.stream, plan, clock=SimulatedClock(self.now)) as router:
            while (report := router.step()).rows:
                counts.update(
                    accepted=report.accepted, repeats=report.duplicates, refused=report.quarantined
                )
        with LakeRole(self.stream, self.lake, clock=SimulatedClock(self.now)) as role:
            role.drain()
        return +counts

    def replay(
        self, choice: QuarantineFilter = PLAYED, plan: RoutePlan = MENDED, **more: Any
    ) -> ReplayReport:
        return replay(
            self.lake,
            self.stream,
            choice,
            plan=plan,
            clock=SimulatedClock(self.now + MINUTE),
            **more,
        )

    def events(self, *columns: str) -> list[dict[str, Any]]:
        return Lake(self.lake).events(["p", *columns]).sort_by("p").to_pylist()


@pytest.fixture
def site(tmp_path: Path) -> Site:
    made = Site(tmp_path)
    made.post(
        played(1),
        {"event_id": "ok", "type": "click", "user_id": "u", "item_id": "i"},
        played(2, ts="2025-11-25T11:00:00Z"),
    )
    made.post(played(3, ts=5), played(4))
    assert made.load() == {
        "accepted": 1,
        "refused": 4,
    }  # e3 has no time that can be, but its type is looked at first
    return made


def test_what_is_accepted_now_is_taken_with_its_first_time_of_receipt(site: Site) -> None:
    report = site.replay()
    assert (report.examined, report.accepted, report.sent, report.refused) == (
        4,
        3,
        3,
        {"bad_time": 1},
    )
    assert report.by_reason == {"unknown_type": {"accepted": 3, "refused": 1}}
    assert "expected microseconds since 1970" in report.examples[0]
    assert site.load(MENDED) == {"accepted": 3}
    made = [
        one
        for one in site.events("event_id", "type", "received_at", "raw_partition")
        if one["type"] == "video_played"
    ]
    assert [one["event_id"] for one in made] == ["e1", "e2", "e4"]
    assert [int(one["received_at"].timestamp()) for one in made] == [
        NOW // SECOND,
        NOW // SECOND,
        NOW // SECOND + 1,
    ]
    assert {one["raw_partition"] for one in made} == {REPLAY_PRODUCER}
    assert verify(site.lake).is_clean


def test_each_row_records_its_origin(site: Site) -> None:
    site.replay()
    origins: dict[str, Origin] = {}
    with open_reader(raw_path(site.stream, REPLAY_PRODUCER)) as reader:
        for stored in reader.read(0):
            receipt = msgspec.json.decode(stored.block.receipt, type=Receipt)
            events = msgspec.json.decode(stored.block.payload)
            origins |= {
                event["event_id"]: origin
                for event, origin in zip(events, receipt.origins, strict=True)
            }
    assert origins == {
        "e1": Origin("serve-1", 0, 0),
        "e2": Origin("serve-1", 0, 2),
        "e4": Origin("serve-1", 3, 1),
    }
    assert read_replayed_keys(site.stream) == {
        ("serve-1", 0, 0),
        ("serve-1", 0, 2),
        ("serve-1", 3, 1),
    }


def test_rows_of_erased_people_are_refused_and_not_sent(site: Site) -> None:
    site.post(played(5, user_id="gone", ts="2025-11-25T11:00:00Z"), played(6, user_id="gone"))
    site.load()
    stopped = SuppressionList(b"").with_erased_subjects([("u", "gone")], site.now)
    dry = site.replay(dry_run=True, suppression_list=stopped)
    report = site.replay(suppression_list=stopped)
    assert dry.refused == report.refused == {"erased": 2, "bad_time": 1}
    assert dry.accepted == report.accepted == report.sent == 3
    assert site.load(MENDED) == {"accepted": report.sent}
    assert site.replay(suppression_list=stopped).refused["erased"] == 2


def test_a_second_replay_sends_nothing(site: Site) -> None:
    site.replay()
    again = site.replay()
    assert (again.examined, again.replayed_before, again.sent) == (1, 3, 0)
    site.load(MENDED)
    assert (site.replay().sent, site.load(MENDED)) == (0, {})


def test_a_dry_run_only_reports(site: Site) -> None:
    report = site.replay(dry_run=True)
    assert (report.accepted, report.refused) == (3, {"bad_time": 1})
    assert not raw_path(site.stream, REPLAY_PRODUCER).exists()
    assert site.load(MENDED) == {}


def test_before_the_fix_nothing_is_sent(site: Site) -> None:
    report = site.replay(plan=OLD)
    assert (report.sent, report.refused) == (0, {"unknown_type": 4})
    assert site.load() == {}


def test_what_its_sender_sent_again_meanwhile_is_a_repeat(site: Site) -> None:
    site.now += 30 * DAY  # far beyond what the router remembers
    site.post(played(1, ts=NOW, type="click"))
    site.load()
    report = site.replay()
    assert (report.accepted, report.repeats) == (2, 1)
    assert site.load(MENDED) == {"accepted": 2}
    assert Counter(one["event_id"] for one in site.events("event_id")) == {
        "ok": 1,
        "e1": 1,
        "e2": 1,
        "e4": 1,
    }
    assert site.replay().examined == 1


def test_a_row_that_was_refused_five_times_counts_once(tmp_path: Path) -> None:
    site = Site(tmp_path)
    for _ in range(5):
        site.post(played(1))
    site.load()
    assert site.replay().sent == 5
    assert site.load(MENDED) == {"accepted": 1, "repeats": 4}


def test_roles_with_the_old_declarations_refuse_it_once_more_and_it_can_be_replayed_again(
    site: Site,
) -> None:
    site.replay()
    assert site.load(OLD) == {"refused": 3}
    again = site.replay()
    assert (again.replayed_before, again.sent) == (3, 3)
    assert site.load(MENDED) == {"accepted": 3}


def test_only_what_is_chosen_is_sent(site: Site) -> None:
    assert site.replay(QuarantineFilter(("unknown_type",), since=NOW + SECOND)).sent == 1
    assert site.replay(QuarantineFilter(("bad_id",))).examined == 0
    assert site.replay(QuarantineFilter(path="$.properties")).examined == 0
    assert site.replay(QuarantineFilter(path="$.type")).sent == 2


def test_what_an_adapter_could_not_read_is_read_again_by_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = Site(tmp_path)
    track = {
        "type": "track",
        "messageId": "m1",
        "userId": "u",
        "event": "Product Clicked",
        "properties": {"article": "i7"},
    }
    site.post(track, {**track, "messageId": "m2", "properties": {}}, format_="segment")
    site.load()
    assert site.replay(QuarantineFilter(("missing",))).refused == {"missing": 2}
    monkeypatch.setattr(
        "tailorbird.events.adapters.segment._PRODUCT_ID_FIELDS", ("product_id", "sku", "article")
    )  # the adapter, mended
    report = site.replay(QuarantineFilter(("missing",)))
    assert (report.sent, report.refused) == (1, {"missing": 1})
    assert site.load() == {"accepted": 1}
    ((event_id, item),) = [
        (one["event_id"], one["item_id"]) for one in site.events("event_id", "item_id")
    ]
    assert (event_id, item) == ("m1", "i7")


def test_what_came_by_the_routes_of_another_system_is_read_again_by_its_adapter(
    tmp_path: Path,
) -> None:
    """Gorse's clients write through routes of their own, without a webhook."""
    site = Site(tmp_path)
    record = {
        "FeedbackType": "click",
        "UserId": "u",
        "ItemId": "i",
        "Timestamp": "2025-11-25T11:00:00Z",
    }
    unread = {
        "format": "gorse",
        "place": "x",
        "code": "missing",
        "path": "$.ItemId",
        "message": "no",
        "record": record,
    }
    with open_writer(
        raw_path(site.stream, "serve-1"), partition="serve-1"
    ) as writer:  # as an adapter of an older release left it
        receipt = msgspec.json.encode(Receipt(NOW, "collector", "ndjson", "gorse"))
        writer.append([Block("body", 1, msgspec.json.encode({"unread": unread}), receipt)])
    site.load()
    assert site.replay(QuarantineFilter(("missing",))).sent == 1
    site.load()
    assert [one["item_id"] for one in site.events("item_id")] == ["i"]


def test_what_a_client_sent_is_read_again_without_the_time_at_which_it_says_that_it_came_in(
    tmp_path: Path,
) -> None:
    """An archive is believed, a webhook is not, neither at first nor when the adapter that could
    not read it is mended.
    """
    site = Site(tmp_path)
    message = {
        "type": "identify",
        "messageId": "m1",
        "userId": "u",
        "traits": {"plan": "gold"},
        "receivedAt": "2025-11-01T00:00:00Z",
    }
    unread = {
        "format": "segment",
        "place": "x",
        "code": "missing",
        "path": "$.userId",
        "message": "no",
        "record": message,
    }
    with open_writer(
        raw_path(site.stream, "serve-1"), partition="serve-1"
    ) as writer:  # as an adapter of an older release left it
        for source, who in (("collector", "u"), ("import", "v")):
            body = msgspec.json.encode({"unread": {**unread, "record": {**message, "userId": who}}})
            writer.append(
                [
                    Block(
                        "body",
                        1,
                        body,
                        msgspec.json.encode(Receipt(NOW, source, "ndjson", "segment")),
                    )
                ]
            )
    site.load()
    assert site.replay(QuarantineFilter(("missing",))).sent == 2
    site.load()
    received = {
        one["user_id"]: int(one["received_at"].timestamp() * SECOND)
        for one in site.events("received_at", "user_id")
    }
    assert received == {"u": NOW, "v": 1_761_955_200_000_000}


def test_several_documents_in_one_row_do_not_pass_for_one(tmp_path: Path) -> None:
    site = Site(tmp_path)
    with open_writer(raw_path(site.stream, "serve-1"), partition="serve-1") as writer:
        two = b",".join(msgspec.json.encode(played(number, type="click")) for number in (1, 2))
        writer.append([Block("body", 1, two, msgspec.json.encode(Receipt(NOW)))])
    site.load()
    assert site.replay(QuarantineFilter(("malformed_json",))).refused == {"malformed_json": 1}


@pytest.mark.parametrize("rows_max", [1, 2, 3, 7, 100])
def test_slices_hold_each_row_once_in_order_of_receipt(tmp_path: Path, rows_max: int) -> None:
    site = Site(tmp_path)
    for number in range(6):
        site.post(
            *(played(10 * number + row) for row in range(number % 3 + 1)), {"event_id": "bad"}
        )
        site.now -= SECOND if number % 2 else 0  # several bodies of one moment
    site.load()
    pieces = [piece.to_pylist() for piece in read_slices(Lake(site.lake), PLAYED, rows_max)]
    rows = [
        (row["received_at"], row["raw_offset"], row["raw_row"]) for piece in pieces for row in piece
    ]
    assert rows == sorted(rows)
    assert len(rows) == len(set(rows)) == 12
    assert all(pieces)
    assert len(pieces) >= 12 // (rows_max + 3)


def test_reasons_have_counts_times_and_fields(site: Site) -> None:
    site.replay()
    (summaries,) = summarize_reasons(
        Lake(site.lake), QuarantineFilter(), read_replayed_keys(site.stream)
    )
    assert (
        summaries.code,
        summaries.rows,
        summaries.replayed,
        summaries.first,
        summaries.last,
    ) == ("unknown_type", 4, 3, NOW, NOW + SECOND)
    assert summaries.paths == {"$.type": 4}
    assert [row["raw_offset"] for row in read_samples(Lake(site.lake), QuarantineFilter(), 2)] == [
        3,
        3,
    ]


CHILD = """
import sys
from pathlib import Path
import msgspec
from tailorbird.events import RoutePlan, SimulatedClock
from tailorbird.lake import quarantine
from tailorbird.lake.write.replay import replay
plan = msgspec.json.decode(sys.argv[3], type=RoutePlan)
quarantine.read_slices.__defaults__ = (3,)  # many small transactions
clock = SimulatedClock(1_764_072_000_000_000)
replay(Path(sys.argv[1]), Path(sys.argv[2]), quarantine.QuarantineFilter(), plan=plan, clock=clock)
"""
SITES = [
    "stream.before_append",
    "stream.after_append",
    "replay.before_note",
    "replay.before_commit",
    "stream.before_commit",
    "stream.after_commit",
    "replay.after_commit",
]


@pytest.mark.slow
@pytest.mark.parametrize("fault", SITES)
@pytest.mark.parametrize("hit", [1, 3])
def test_a_kill_at_any_point_loses_nothing_and_doubles_nothing(
    tmp_path: Path, fault: str, hit: int
) -> None:
    site = Site(tmp_path)
    for number in range(12):
        site.post(played(number), {"event_id": f"n{number}"})
    site.load()
    command = [
        sys.executable,
        "-c",
        CHILD,
        str(site.lake),
        str(site.stream),
        msgspec.json.encode(MENDED).decode(),
    ]
    env = os.environ | {"TAILORBIRD_FAULTS": f"{fault}=kill@{hit}"}
    done = subprocess.run(
        command, env=env, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    after = site.replay(QuarantineFilter())
    assert after.replayed_before + after.accepted == 12
    assert site.load(MENDED) == {"accepted": 12}  # none was sent twice either
    assert site.replay(QuarantineFilter()).sent == 0
    table = Lake(site.lake).events(["event_id", "raw_partition"])
    assert sorted(table.column("event_id").to_pylist()) == sorted(
        f"e{number}" for number in range(12)
    )
    assert pc.all(pc.equal(table.column("raw_partition"), REPLAY_PRODUCER)).as_py()
    assert verify(site.lake).is_clean
