"""What is told to somebody who shares a device: theirs, and what others say of them, and nothing
else of what others did on it.
"""

import json
from collections.abc import Sequence
from itertools import count
from pathlib import Path

import pytest
from tests.privacy.kit import CLOCK
from tests.privacy.test_people import click, people_of, sent

from tailorbird.config import Project
from tailorbird.events import DAY, HOUR, MINUTE, to_iso
from tailorbird.events.answer_record import AnswerRecord, encode_answers
from tailorbird.lake import Lake
from tailorbird.platform.roles import Roles
from tailorbird.privacy import erase, export_person, find_people
from tailorbird.serving.door import Door
from tailorbird.serving.score_log import KIND, Scored, encode_scores
from tailorbird.stream import Block, answers_path, open_writer, scores_path
from tailorbird.stream.importer import import_files

pytestmark = pytest.mark.slow

BEGUN = CLOCK.now() - 3 * HOUR
LOGIN = {"type": "identify", "item_id": None}
HERS, HIS = {"properties": {"note": "hers"}}, {"properties": {"note": "secret of robert"}}


def at(place: int) -> int:
    return BEGUN + place * MINUTE


def login(event_id: str, user: str, device: str, place: int) -> dict:
    return click(event_id, user, device, ts=at(place), **LOGIN)


def submit(project: Project, events: Sequence[dict]) -> list[bool]:
    with Door(project.paths.stream, "serve-1", project.plan, CLOCK) as door:
        return [one.accepted for one in door.submit(json.dumps(events).encode())]


def drain(project: Project) -> None:
    with Roles(project, CLOCK) as roles:
        roles.drain()


def told_of(project: Project, user: str, source: str) -> list[dict]:
    return [one for one in export_person(project, [user], CLOCK) if one["source"] == source]


def ids_of(project: Project, user: str, source: str) -> set[str]:
    """By their ids, the rows as they came in, or the events, that a person is told of."""
    return {
        json.loads(one["body"])["event_id"] if "body" in one else one["event_id"]
        for one in told_of(project, user, source)
    }


def all_of(project: Project, user: str) -> str:
    return json.dumps(
        [one for one in export_person(project, [user], CLOCK) if one["source"] != "person"]
    )


@pytest.fixture(params=[True, False])
def tablet(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Project, bool]:
    """A tablet that was Alice's from 20 on, Robert's from 40, and, where so, Alice's again from 60."""
    logins = [
        login("login a", "alice-1", "tablet-77", 20),
        login("login b", "robert-2", "tablet-77", 40),
    ]
    project = sent(
        tmp_path,
        [*logins, *([login("again", "alice-1", "tablet-77", 60)] if request.param else [])],
    )
    assert find_people(Lake(project.paths.lake), ["alice-1"]).shared == {"tablet-77"}
    return project, request.param


def rows_of(**more: object) -> list[dict]:
    """Rows that name the tablet; in no order of time, and the last without one."""
    return [
        click("at-50", visitor="tablet-77", ts=at(50), **HIS, **more),
        click("at-5", visitor="tablet-77", ts=at(5), **HERS, **more),
        click("at-39", visitor="tablet-77", ts=at(39), **HERS, **more),
        click("at-40", visitor="tablet-77", ts=at(40), **HIS, **more),
        click("robert's", "robert-2", "tablet-77", ts=at(30), **HIS, **more),
        click("alice's", "alice-1", "tablet-77", ts=at(45), **HERS, **more),
        click(
            "says",
            "robert-2",
            "tablet-77",
            ts=at(30),
            properties={"friend": "alice-1", "note": "secret of robert"},
            **more,
        ),
        click("now", visitor="tablet-77", **more),
    ]


def require_hers(project: Project, again: bool, source: str) -> None:
    assert ids_of(project, "alice-1", source) == {
        "at-5",
        "at-39",
        "alice's",
        *(["now"] if again else []),
    }
    said = {"source": "mention", "table": source, "properties": {"friend": "alice-1"}}
    assert [one for one in told_of(project, "alice-1", "mention") if one["table"] == source] == [
        said
    ]
    assert "robert" not in all_of(project, "alice-1")


def test_of_rows_that_wait_those_of_others_on_the_device_are_not_told(
    tablet: tuple[Project, bool],
) -> None:
    project, again = tablet
    assert all(submit(project, rows_of()))
    require_hers(project, again, "waiting")
    his = {"at-5", "at-40", "at-50", "robert's", "says", *([] if again else ["now"])}
    assert ids_of(project, "robert-2", "waiting") == his
    assert ids_of(project, "alice-1", "event") == {"login a", *(["again"] if again else [])}


def test_nor_of_refused_rows_be_it_that_they_wait(tablet: tuple[Project, bool]) -> None:
    project, again = tablet
    assert not any(submit(project, [one | {"item_id": ""} for one in rows_of()]))
    require_hers(project, again, "waiting")
    drain(project)
    require_hers(project, again, "refused")
    assert "waiting" not in {one["source"] for one in export_person(project, ["alice-1"], CLOCK)}


def test_of_a_refused_row_counts_when_it_may_have_been(
    tablet: tuple[Project, bool], tmp_path: Path
) -> None:
    """By the sender's clock as the contract has it; where the row says no time that can be, when it
    came in.
    """
    project, again = tablet
    hour_ahead = {"ts": at(30) + HOUR, "sent_at": CLOCK.now() + HOUR}
    rows = [
        click("an hour ahead", visitor="tablet-77", **hour_ahead),
        click("text", visitor="tablet-77", ts=to_iso(at(50))),
        click("far", visitor="tablet-77", ts=CLOCK.now() + 99 * DAY),
        click("bad", visitor="tablet-77", ts="yesterday"),
        click("number", 4711, "tablet-77", ts=at(30)),
        click("nested", {"id": "alice-1", "of": "x"}, "tablet-77", ts=at(30)),
        click("own", {"id": "alice-1"}, "tablet-77", ts=at(50)),
    ]
    assert not any(submit(project, [one | {"item_id": ""} for one in rows]))
    filed = {"filed at 30": {"ts": at(30)}, "filed at 50": {"ts": at(50)}, "filed without": {}}
    lines = [
        json.dumps(click(name, visitor="tablet-77", item_id="", **when))
        for name, when in filed.items()
    ]
    (tmp_path / "old.jsonl").write_text("\n".join(lines))
    import_files(
        project.paths.stream, "tailorbird", tmp_path / "old.jsonl", plan=project.plan, clock=CLOCK
    )
    hers = {"an hour ahead", "own", "filed at 30", *(["far", "bad"] if again else [])}
    for source in ("waiting", "refused"):
        assert ids_of(project, "alice-1", source) == hers
        drain(project)


def test_of_what_nobody_could_read_that_names_another_nothing_is_told(
    tablet: tuple[Project, bool],
) -> None:
    project, _ = tablet
    whole = {
        "event_id": "w",
        "type": "click",
        "user_id": "robert-2",
        "anonymous_id": "tablet-77",
        "properties": HIS["properties"],
    }
    his = json.dumps(whole | {"friend": "alice-1"}).encode()
    rows = [
        his[:-1],
        his.replace(b"w", b"\\ud800"),
        his.replace(b'"w"', b'"' + b"\xff" + b'"'),
        his.replace(b'"w"', b"[" * 5000 + b"]" * 5000),
        his.replace(b"robert-2", b"alice-1").replace(b"secret of robert", b"hers")[:-1],
    ]
    with Door(project.paths.stream, "serve-1", project.plan, CLOCK) as door:
        assert not any(one.accepted for one in door.submit(b"\n".join(rows), "ndjson"))
    for source in ("waiting", "refused"):
        assert [one["body"] for one in told_of(project, "alice-1", source)] == [rows[-1].decode()]
        assert told_of(project, "alice-1", "mention") == [
            {"source": "mention", "table": source, "friend": "alice-1"}
        ]
        assert "robert" not in all_of(project, "alice-1")
        drain(project)


def test_a_login_that_waits_ends_whose_a_device_was(tmp_path: Path) -> None:
    """Out of order, too; and the own one that is sent again, without a time, does not make it
    theirs once more.
    """
    project = sent(tmp_path, [login("login a", "alice-1", "tablet-77", 20)])
    assert find_people(Lake(project.paths.lake), ["alice-1"]).visitors == {"tablet-77"}
    again = {
        name: value
        for name, value in login("login a", "alice-1", "tablet-77", 0).items()
        if name != "ts"
    }
    rows = [
        click("at-50", visitor="tablet-77", ts=at(50), **HIS),
        again,
        login("login b", "robert-2", "tablet-77", 40),
        click("at-30", visitor="tablet-77", ts=at(30), **HERS),
        click("now", visitor="tablet-77", **HIS),
    ]
    assert all(submit(project, rows))
    assert ids_of(project, "alice-1", "waiting") == {"at-30", "login a"}
    assert "robert" not in all_of(project, "alice-1")


def test_an_event_that_came_before_the_login_that_says_whose_it_was_is_not_told_to_others(
    tmp_path: Path,
) -> None:
    rows = [
        click("at-50", visitor="tablet-77", ts=at(50), **HIS),
        click("at-30", visitor="tablet-77", ts=at(30), **HERS),
        login("login b", "robert-2", "tablet-77", 40),
        login("login a", "alice-1", "tablet-77", 60),
        click("at-70", visitor="tablet-77", ts=at(70), **HERS),
        click("at-55", visitor="tablet-77", ts=at(55), **HIS),
    ]
    project = sent(tmp_path, rows)
    assert people_of(project) == {"anon:tablet-77": 2, "robert-2": 2, "alice-1": 2}
    assert ids_of(project, "alice-1", "event") == {"at-30", "login a", "at-70"}
    assert ids_of(project, "robert-2", "event") == {"at-30", "login b", "at-50", "at-55"}
    assert "robert" not in all_of(project, "alice-1")


def test_an_erased_event_that_came_before_the_login_of_another_stays_away(tmp_path: Path) -> None:
    """By what is known since it would be Robert's, and count a second time for its item."""
    project = sent(tmp_path, [click("now", "carol-3")])
    early = [
        login("login a", "alice-1", "tablet-77", 20),
        click("at-50", visitor="tablet-77", ts=at(50)),
    ]
    late = [
        login("login b", "robert-2", "tablet-77", 40),
        click("at-55", visitor="tablet-77", ts=at(55)),
    ]
    files = [tmp_path / "early.jsonl", tmp_path / "late.jsonl"]
    for file, events in zip(files, (early, late), strict=True):
        old = [
            event | {"ts": event["ts"] - 400 * DAY} for event in events
        ]  # beyond the days of which each event is listed
        file.write_text("\n".join(map(json.dumps, old)))
        brought(project, file)
    assert people_of(project) == {"alice-1": 2, "robert-2": 2, "carol-3": 1}
    erase(project, ["alice-1"], CLOCK)
    before = people_of(project)
    assert "alice-1" not in before
    again = tmp_path / "again.jsonl"
    again.write_text("\n".join(file.read_text() for file in files))
    brought(project, again)
    assert people_of(project) == before


def brought(project: Project, file: Path) -> None:
    import_files(
        project.paths.stream,
        "tailorbird",
        file,
        plan=project.plan,
        clock=CLOCK,
        stopped=project.stopped(),
    )
    drain(project)


def test_scores_and_features_of_a_device_are_those_of_who_had_it(
    tablet: tuple[Project, bool],
) -> None:
    project, again = tablet
    assert all(
        submit(
            project,
            [
                click("before", visitor="tablet-77", ts=at(1)),
                *(click(f"his-{n}", "robert-2") for n in range(3)),
            ],
        )
    )
    drain(project)
    numbers = count(1)

    def score(
        name: str,
        person: str,
        place: int,
        user: str | None = None,
        visitor: str | None = "tablet-77",
    ) -> Scored:
        said = {
            "type": "click",
            "model": "v1",
            "ts": at(place),
            "scored_at": CLOCK.now(),
            "p": next(numbers),
        }
        return Scored(
            id=name,
            name="home",
            event_id=name,
            person=person,
            user_id=user,
            anonymous_id=visitor,
            **said,
        )

    scores = [
        score("before", "anon:tablet-77", 5),
        score("his time", "anon:tablet-77", 50),
        score("after", "anon:tablet-77", 70),
        score("hers", "alice-1", 30),
        score("her own", "alice-1", 50, "alice-1"),
        score("his", "robert-2", 30, "robert-2"),
    ]
    with open_writer(scores_path(project.stream), partition="scores", first=1) as log:
        log.append([Block(KIND, len(scores), encode_scores(scores))])
    told = {one["id"] for one in told_of(project, "alice-1", "score")}
    assert told == {"before", "hers", "her own", *(["after"] if again else [])}
    clicks = {
        one["person"]: one["user_clicks_7d"] for one in told_of(project, "alice-1", "feature")
    }
    assert clicks["anon:tablet-77"] == 1, (
        "of what was done before anybody was known, not of who was identified last"
    )


def test_what_another_asked_for_on_a_device_is_not_told(tmp_path: Path) -> None:
    """Nor on one that is, as far as events say, somebody else's alone."""
    logins = [
        login("a1", "alice-1", "tablet-77", 20),
        login("b1", "robert-2", "tablet-77", 40),
        login("a2", "alice-1", "phone-77", 20),
    ]
    project = sent(tmp_path, logins)

    def answer(name: str, person: str, place: int, user: str | None, visitor: str) -> AnswerRecord:
        return AnswerRecord(
            request_id=name,
            ts=at(place),
            p=1,
            commit=1,
            schema_hash="",
            person=person,
            user_id=user,
            anonymous_id=visitor,
            items=["i1"],
        )

    answers = [
        answer("degraded-5", "anon:tablet-77", 5, None, "tablet-77"),
        answer("degraded-50", "anon:tablet-77", 50, None, "tablet-77"),
        answer("hers", "alice-1", 30, None, "tablet-77"),
        answer("his", "robert-2", 50, None, "tablet-77"),
        answer("her phone", "alice-1", 30, None, "phone-77"),
        answer("degraded-phone", "anon:phone-77", 30, None, "phone-77"),
        answer("he on her phone", "robert-2", 30, "robert-2", "phone-77"),
    ]
    with open_writer(answers_path(project.paths.stream, "serve-1"), partition="serve-1") as log:
        log.append([Block("answers", len(answers), encode_answers(answers))])
    for source in ("waiting", "answer"):
        told = {one["request_id"] for one in told_of(project, "alice-1", source)}
        assert told == {"degraded-5", "hers", "her phone", "degraded-phone"}
        assert "robert" not in all_of(project, "alice-1")
        drain(project)
