"""The score role: who is scored after which event, exactly once whatever dies, and what consumers
read.
"""

import os
import subprocess
import sys
import threading

import pytest
from tests.support.scored import DECLARED_SCORES, NOW, RoutedLog, RuleModels, make_score_role

from tailorbird.errors import DeclarationError, LockedError, NotReadyError
from tailorbird.events import HOUR, SimulatedClock
from tailorbird.ranking import ChurnScore, NextBest
from tailorbird.serving.scores.log import ScoreFeed
from tailorbird.serving.scores.role import EVENTS_MAX


@pytest.fixture
def routed(tmp_path):
    log = RoutedLog(tmp_path)
    yield log
    log.close()


def drain(scoring):
    while scoring.step().rows:
        pass


def scores(folder, start=0):
    feed = ScoreFeed(folder / "scores.db")
    try:
        return [score for page in feed.iterate_from(start) for score in page.scores]
    finally:
        feed.close()


def test_people_are_scored_as_their_events_arrive_and_not_too_often(routed, tmp_path):
    routed.append((1, "click", "old", 0))  # before the role was there: the past is not scored
    models = RuleModels()
    with make_score_role(tmp_path, models) as scoring:
        drain(scoring)
        routed.append(
            (2, "click", "ann", 0),
            (3, "view", "bob", 1),
            (4, "click", "ann", 5),
            (5, "click", "bob", 6),
        )
        routed.append(
            (6, "click", "ann", 10),
            (7, "click", "bot", 1, {"agent": "bot"}),
            (8, "click", "late", 1, {"counts": False}),
        )
        drain(scoring)
    scored = scores(tmp_path)
    assert [(score.p, score.name, score.person, score.items[0].item_id) for score in scored] == [
        (2, "home", "ann", "for-ann"),
        (5, "home", "bob", "for-bob"),
        (6, "home", "ann", "for-ann"),
    ]
    assert (scored[0].id, scored[0].event_id, scored[0].type, scored[0].ts, scored[0].model) == (
        "2-home",
        "e2",
        "click",
        NOW,
        "v0001",
    )
    assert scoring.figures.unscored_by_name == {"leaving": 1}
    with make_score_role(
        tmp_path, models
    ) as again:  # remembers who was scored lately, from the log
        routed.append((9, "click", "ann", 15), (10, "click", "bob", 30))
        drain(again)
    assert [score.p for score in scores(tmp_path)] == [2, 5, 6, 10]


def test_a_risk_that_crosses_the_threshold_is_told_once_and_so_is_its_return(routed, tmp_path):
    models, p = RuleModels({"ann": 0.5, "bob": 0.9}), iter(range(1, 100))
    for risk in (0.5, 0.8, 0.9, 0.65, 0.71, 0.6, 0.2, 0.75):  # 0.63 is where it has come back
        models.risks["ann"] = risk
        with make_score_role(
            tmp_path, models
        ) as scoring:  # opened anew each time: what is remembered is in the log
            scoring.step()
            routed.append((next(p), "view", "ann", 0))
            drain(scoring)
    scored = scores(tmp_path)
    assert [(score.gone, score.crossed) for score in scored] == [
        (0.8, "above"),
        (0.6, "below"),
        (0.75, "above"),
    ]
    assert (scored[0].name, scored[0].model) == ("leaving", "v0007")
    assert scored[0].reasons == ["orders is 0: raises the chance of leaving from 72% to 81%"]


def test_the_state_is_waited_for(routed, tmp_path):
    models, stop = RuleModels(reached_position=0), threading.Event()
    with make_score_role(tmp_path, models) as scoring:
        scoring.step()
        routed.append((1, "click", "ann", 0))
        stop.set()
        assert scoring.step(stop).rows == 0
        assert models.queries == []
        models.position = 1
        assert scoring.step(stop).scores == 1


@pytest.mark.slow
@pytest.mark.parametrize("site", ["score.scored", "score.before_append", "score.after_append"])
def test_killed_at_any_step_no_score_is_doubled_and_none_is_missing(routed, tmp_path, site):
    with make_score_role(tmp_path, RuleModels()) as scoring:
        scoring.step()
    for block in range(6):
        routed.append(
            *((1 + block * 20 + n, "click", f"u{n % 7}", block * 20 + n) for n in range(20))
        )
    for hit in (1, 2, 1):
        # one block a step, so that there is more than one step to die in
        small = "import runpy, tailorbird.serving.scores.role as s; s.BATCH_BYTES = 1; "
        code = small + "runpy.run_module('tests.support.scored', run_name='__main__')"
        env = {**os.environ, "TAILORBIRD_FAULTS": f"{site}=kill@{hit}"}
        done = subprocess.run(
            [sys.executable, "-c", code, str(tmp_path)], env=env, capture_output=True, check=False
        )
        assert done.returncode == -9, done.stderr.decode()
    with make_score_role(tmp_path, RuleModels()) as scoring:
        drain(scoring)
    scored = [(score.p, score.person) for score in scores(tmp_path)]
    last: dict[str, int] = {}
    expected = []
    for n in range(120):
        person = f"u{n % 20 % 7}"
        if n >= last.get(person, -10) + 10:
            last[person] = n
            expected.append((n + 1, person))
    assert scored == expected


def test_of_a_large_backlog_what_is_scored_is_appended_some_at_a_time(routed, tmp_path):
    """Else a role that is told to end, or killed, within the minutes that thousands take would
    begin them all again, each time.
    """
    with make_score_role(tmp_path, RuleModels()) as scoring:
        scoring.step()
        routed.append(
            *((n, "click" if n % 2 else "search", f"u{n}", 0) for n in range(1, 501))
        )  # one block
        taken = []
        while (report := scoring.step()).rows:
            taken.append((report.rows, report.scores))
            assert len(scores(tmp_path)) == sum(made for _, made in taken)
    assert taken == [(200, EVENTS_MAX), (200, EVENTS_MAX), (100, 50)]
    assert [score.p for score in scores(tmp_path)] == list(range(1, 501, 2))


def test_consumers_go_on_where_they_were_and_old_scores_go(routed, tmp_path):
    clock = SimulatedClock(NOW)
    feed = ScoreFeed(tmp_path / "scores.db")
    with pytest.raises(NotReadyError):
        feed.read(0)
    with make_score_role(tmp_path, RuleModels(), clock=clock, keep_us=HOUR) as scoring:
        scoring.step()
        routed.append((1, "click", "ann", 0), (2, "click", "bob", 0))
        drain(scoring)
        first = feed.read(0)
        assert ([score.person for score in first.scores], first.next) == (["ann", "bob"], 3)
        assert feed.read(first.next).scores == []
        clock.advance_to(NOW + 2 * HOUR)
        routed.append((3, "click", "cid", 200))
        drain(scoring)
        assert [score.person for score in feed.read(first.next).scores] == ["cid"]
        assert scoring.prune() == 1
        first_page = feed.read(0)
        assert ([score.person for score in first_page.scores], first_page.begins) == (["cid"], 3)
        with pytest.raises(LockedError), make_score_role(tmp_path, RuleModels()) as second:
            second.step()
    feed.close()


def test_no_risk_is_told_of_somebody_of_whom_nothing_is_known(routed, tmp_path):
    models, feed = RuleModels({"ann": 0.9, "new": 0.9}), ScoreFeed(tmp_path / "scores.db")
    models.strangers = {"new"}
    with make_score_role(tmp_path, models) as scoring:
        scoring.step()
        routed.append((1, "view", "new", 0), (2, "view", "ann", 0))
        drain(scoring)
        assert [(score.person, score.crossed) for score in feed.read(0).scores] == [
            ("ann", "above")
        ]
        models.strangers = set()
        routed.append((3, "view", "new", 1))
        drain(scoring)
    assert [(score.person, score.crossed) for score in feed.read(0).scores] == [
        ("ann", "above"),
        ("new", "above"),
    ]
    feed.close()


def test_who_is_above_is_known_when_the_block_that_says_so_is_deleted(routed, tmp_path):
    models, clock, feed = (
        RuleModels({"ann": 0.9, "bob": 0.9}),
        SimulatedClock(NOW),
        ScoreFeed(tmp_path / "scores.db"),
    )
    with make_score_role(tmp_path, models, clock=clock, keep_us=HOUR) as scoring:
        scoring.step()
        routed.append((1, "view", "ann", 0), (2, "view", "bob", 0))
        drain(scoring)
    models.risks["bob"] = (
        0.1  # is back on the first day, in the block that says again that both were above
    )
    for day in (1, 2, 3):
        clock.advance_to(NOW + day * 24 * HOUR)
        with make_score_role(tmp_path, models, clock=clock, keep_us=HOUR) as scoring:
            scoring.step()
            assert scoring.prune() == 0, "it must be said again first"
            routed.append((2 + day, "view", "bob", 0))
            drain(scoring)
            crossings = [(score.person, score.crossed) for score in feed.read(0).scores]
            assert (
                crossings
                == {
                    1: [("ann", "above"), ("bob", "above"), ("bob", "below")],
                    2: [("bob", "below")],
                    3: [],
                }[day]
            )
            assert scoring.prune() == 1
    with make_score_role(tmp_path, models, clock=clock, keep_us=HOUR) as scoring:
        for p, person, risk in ((6, "ann", 0.95), (7, "ann", 0.1), (8, "bob", 0.9)):
            models.risks[person] = risk
            scoring.step()
            routed.append((p, "view", person, 0))
            drain(scoring)
    assert [(score.person, score.crossed) for score in feed.read(0).scores] == [
        ("ann", "below"),
        ("bob", "above"),
    ]
    feed.close()


def test_who_is_scored_more_seldom_than_scores_are_kept_is_remembered_as_long(routed, tmp_path):
    clock, declared = SimulatedClock(NOW), [NextBest("home", on=["click"], every="3d")]
    with make_score_role(tmp_path, RuleModels(), declared, clock=clock, keep_us=HOUR) as scoring:
        scoring.step()
    for day in range(5):
        clock.advance_to(NOW + day * 24 * HOUR)
        with make_score_role(
            tmp_path, RuleModels(), declared, clock=clock, keep_us=HOUR
        ) as scoring:
            scoring.step()
            scoring.prune()
            routed.append(
                (1 + 2 * day, "click", f"u{day}", day * 24 * 60),
                (2 + 2 * day, "click", "u0", day * 24 * 60),
            )
            assert [scoring.step().scores, scoring.prune()] == [2 if day == 3 else 1, min(day, 1)]


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: NextBest("home", every="often"),
        lambda: NextBest("home", on=()),
        lambda: ChurnScore(above=1.5),
        lambda: ChurnScore(above=0.5, below=0.6),
        lambda: ChurnScore(on="view"),
    ],
)
def test_what_cannot_be_declared_is_refused(wrong):
    with pytest.raises(DeclarationError):
        wrong()


def test_what_is_declared_stands():
    assert [score.name for score in DECLARED_SCORES] == ["home", "leaving"]
    assert ChurnScore(above=0.7).below == pytest.approx(0.63)
