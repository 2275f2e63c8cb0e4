"""The router on topics: the same decisions as on files, an index that the topic makes anew, and one
router at a time.
"""

from uuid import uuid4

import pytest
from tests.support.router.filling import post_mixed_events
from tests.support.router.topics import Topics, events_without_position

from tailorbird.errors import DamageError, LockedError


@pytest.fixture
def topics(servers, tmp_path):
    made = Topics(tmp_path / "one", servers, f"test-{uuid4().hex[:12]}")
    yield made
    made.close()


def test_what_is_decided_is_what_is_decided_on_files(topics, stream):
    for each in (topics, stream):
        post_mixed_events(each)
    assert topics.route(rows_max=7)[:3] == stream.route(rows_max=7)[:3]
    assert events_without_position(topics) == events_without_position(stream)
    for kind in ("quarantine", "duplicates"):
        assert topics.rows(kind) == stream.rows(kind)
    for stored in topics.blocks():  # p is where the row stands
        if stored.block.kind == "events":
            from tailorbird.router import to_table

            assert to_table(stored.block)["p"].to_pylist() == list(range(stored.offset, stored.end))


def test_an_index_is_made_anew_from_the_topic_on_another_machine(topics, servers, tmp_path, stream):
    post_mixed_events(topics)
    post_mixed_events(stream)
    with topics.router() as router:
        for _ in range(3):
            router.step(7)
    before = len(topics.events())
    elsewhere = Topics(tmp_path / "two", servers, topics.stream.cluster.prefix)
    elsewhere.route(rows_max=7)
    stream.route(rows_max=7)
    assert 0 < before < len(events_without_position(elsewhere))
    assert events_without_position(elsewhere) == events_without_position(stream)
    for query in (
        "SELECT producer, offset, newest FROM raw_position ORDER BY 1",
        "SELECT * FROM identity",
        "SELECT count(*) FROM profile",
    ):
        with elsewhere.router() as one, topics.router() as other:
            assert (
                one._log.connection.execute(query).fetchall()
                == other._log.connection.execute(query).fetchall()
            )


def test_of_two_routers_on_two_machines_the_newer_goes_on(topics, servers, tmp_path, stream):
    post_mixed_events(topics)
    post_mixed_events(stream)
    elsewhere = Topics(tmp_path / "two", servers, topics.stream.cluster.prefix)
    with topics.router() as zombie:
        zombie.step(7)
        with elsewhere.router() as router:
            router.step(7)
            for _ in range(2):
                with pytest.raises(LockedError, match="writes this log now"):
                    zombie.step(7)
            while router.step(7).rows:
                pass
    stream.route(rows_max=7)
    assert events_without_position(topics) == events_without_position(stream)
    assert topics.route()[:3] == (0, 0, 0)  # it takes up what the other did


def test_an_index_of_another_topic_is_refused(topics, servers):
    topics.router().close()
    other = Topics(topics.folder, servers, f"test-{uuid4().hex[:12]}")
    with pytest.raises(DamageError, match=r"this index is of kafka://.*\n.*move the file away"):
        other.router()
    post_mixed_events(topics)
    topics.route()
    with pytest.raises(
        DamageError, match=r"this index is of kafka://.*\n.*lost for good: docs/how-to/kafka\.md"
    ):
        other.router()
