"""The score role where logs are topics: positions are those of the routed log, and of two roles one
goes on.
"""

from uuid import uuid4

import pytest
from tests.support.features import ipc
from tests.support.network.brokers import CLIENT_OPTIONS, yield_broker
from tests.support.scored import DECLARED_SCORES, NOW, RuleModels, make_rows

from tailorbird.errors import TailorbirdError
from tailorbird.events import HOUR, SimulatedClock
from tailorbird.serving.scores.log import ScoreFeed
from tailorbird.serving.scores.role import ScoreRole
from tailorbird.stream import Block, open_writer
from tailorbird.stream.kafka.cluster import Cluster
from tailorbird.stream.kafka.logs import KafkaLogSet

servers = pytest.fixture(scope="module")(yield_broker)


def test_scores_are_in_a_topic_once_whichever_role_writes_them(servers, tmp_path):
    cluster = Cluster(servers, f"test-{uuid4().hex[:12]}", options=CLIENT_OPTIONS, timeout_s=10)
    here, there = (KafkaLogSet(cluster, tmp_path / name) for name in ("here", "there"))

    def role(stream):
        stream.folder.mkdir(exist_ok=True)
        return ScoreRole(
            stream.routed,
            stream.scores,
            DECLARED_SCORES,
            RuleModels(),
            SimulatedClock(NOW),
            keep_us=HOUR,
        )

    with open_writer(here.routed, partition="routed", first_position=1) as routed:
        first, second = role(here), role(there)
        first.step()
        for block in range(4):
            some = make_rows(
                *((1 + block * 5 + n, "click", f"u{n}", block * 5 + n) for n in range(5))
            )
            routed.append([Block("events", 5, ipc(some))])
            if block == 1:
                assert first.step().scores > 0
            if block == 2:
                assert second.step().scores > 0  # another machine's takes over
        with pytest.raises(TailorbirdError):
            first.step()
        while second.step().rows:
            pass
        first.close()
        second.close()
    feed = ScoreFeed(here.scores)
    scored = [(score.p, score.person) for page in feed.iterate_from(0) for score in page.scores]
    feed.close()
    assert scored == [(n + 1 + again, f"u{n}") for again in (0, 10) for n in range(5)]
