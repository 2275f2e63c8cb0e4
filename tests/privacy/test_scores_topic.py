"""Erasing people whose scores lie in a topic: nothing of them is left there, the role goes on, and
consumers miss nothing after it.
"""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.network.brokers import needs_kafka
from tests.support.people import CANARY, CLOCK, Site, make_collected_events, read_all_topics
from tests.support.privacy.topics import find_canaries, make_topic_site
from tests.support.scored import RuleModels

from tailorbird.config import Project
from tailorbird.events import HOUR
from tailorbird.platform.runtime.roles import InProcessRoles
from tailorbird.privacy import erase, export_person
from tailorbird.ranking import NextBest
from tailorbird.serving.collector.collector import EventCollector
from tailorbird.serving.scores.log import ScoreFeed
from tailorbird.serving.scores.role import ScoreRole

pytestmark = [pytest.mark.slow, needs_kafka]
DECLARED = [NextBest("home", size=2, on=["click", "purchase"], every="1s")]


@pytest.fixture(params=[1, pytest.param(3, marks=pytest.mark.nightly)])
def site(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Site]:
    with make_topic_site(tmp_path, request.param, canaries=2, others=4) as made:
        yield made


def scored(project: Project, people: list[str], named: str, *, begun: bool) -> int:
    """Let people click, and score them; behind which position the log is then."""
    with ScoreRole(
        project.routed, project.stream.scores, DECLARED, RuleModels(), CLOCK, keep_us=24 * HOUR
    ) as role:
        if not begun:
            role.step()  # begins where the routed log ends
        with (
            EventCollector(
                project.stream,
                "serve-1",
                project.plan,
                CLOCK,
                suppression_list=project.suppression_list(),
            ) as collector,
            InProcessRoles(project, CLOCK) as roles,
        ):
            events = [
                {**event, "event_id": f"{event['event_id']}-{named}"}
                for user in people
                for event in make_collected_events(user)
            ]
            assert all(told.accepted for told in collector.submit(json.dumps(events).encode()))
            roles.drain()
        end = 0
        while (report := role.step()).rows:
            end = report.end
        return end


def people_in(project: Project, start: int = 0) -> set[str]:
    feed = ScoreFeed(project.stream.scores)
    found = {score.person for some in feed.iterate_from(start) for score in some.scores}
    feed.close()
    return found


def canaries_in(project: Project) -> int:
    return sum(CANARY in data for name, data in read_all_topics(project) if ".scores" in name)


def test_no_score_of_them_is_left_in_its_topic_and_the_role_goes_on(site: Site) -> None:
    project = site.project
    other = "other-user-003"
    end = scored(project, [*site.users, other], "before", begun=False)
    assert people_in(project) == {*site.users, other}
    assert canaries_in(project) > 0
    told = [
        one["person"]
        for one in export_person(project, site.users[:1], CLOCK)
        if one["source"] == "score"
    ]
    assert set(told) == {site.users[0]}, "who asks is told"

    done = erase(project, site.users, CLOCK)

    assert done.is_clean, done.searched.matches
    assert canaries_in(project) == 0
    assert find_canaries(site) == []
    assert people_in(project) == set(), (
        "the whole log is emptied: a consumer reads to its end before"
    )

    after = scored(project, [other], "after", begun=True)
    assert after > end, "positions go on"
    assert people_in(project, end) == {other}, (
        "a consumer that was at the end goes on there, and misses nothing"
    )
