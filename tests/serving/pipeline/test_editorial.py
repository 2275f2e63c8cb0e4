"""Editorial lists in whole answers: a source with a quota, under the slot's rules, and changed
while it serves.
"""

import time

import numpy as np
import pytest
from tests.support.serving.pipeline import ResponseRecorder
from tests.support.shops import serving_shop

from tailorbird.atomic_write import atomic_write
from tailorbird.errors import DeclarationError
from tailorbird.events import SimulatedClock
from tailorbird.ranking import Slot
from tailorbird.serving.messages import RecommendQuery
from tailorbird.serving.models.schemas import SingleSchema
from tailorbird.serving.pipeline.editorial import LiveEditorialLists, check_lists
from tailorbird.serving.pipeline.pipeline import Pipeline
from tailorbird.serving.pipeline.protocols import FixedBundle

SLOT = Slot(
    "home",
    size=6,
    sources={"editorial:summer": 3, "popular": 2},
    rules=["item.stock > 0"],
    deny=["i35"],
    hide_seen=(),
)


@pytest.fixture
def lists(tmp_path):
    path = tmp_path / "lists.toml"
    path.write_text(
        'summer = ["nobody-knows-this", "i33", "i30", "i35", "i31", "i30", "i32", "i20"]'
    )
    live = LiveEditorialLists(path, poll_s=0.01)
    live.start()
    yield path, live
    live.stop()


@pytest.fixture
def ask(features, bundle, lists, live):
    def ask(slot=SLOT, answers=None):
        pipeline = Pipeline(
            slots={"home": slot},
            bundle_selector=FixedBundle(bundle),
            feature_provider=SingleSchema(features, serving_shop.FakeReader(features)),
            response_log=answers,
            clock=SimulatedClock(serving_shop.NOW),
            rng=np.random.default_rng(0),
            editorial_lists=lists[1],
            table_provider=live,
        )
        return pipeline.answer(RecommendQuery(slot="home", user_id="u1"))

    return ask


def of_list(answer):
    return {item.item_id for item in answer.items if item.source == "editorial:summer"}


def test_a_list_gives_as_many_as_the_slot_says_of_what_may_be_shown(ask):
    response_log = ResponseRecorder()
    answer = ask(answers=response_log)
    assert of_list(answer) == {"i30", "i31", "i32"}, (
        "i33 is out of stock, i35 denied, and one nobody knows"
    )
    assert len(answer.items) == 5
    assert {item.reason_code for item in answer.items if item.source == "editorial:summer"} == {
        "editorial"
    }
    assert (
        response_log.records[0].candidate_sources,
        response_log.records[0].candidate_counts,
    ) == (["editorial:summer", "popular"], [3, 2])


def test_a_change_is_taken_in_while_it_serves_and_what_cannot_be_read_changes_nothing(
    ask, lists, caplog
):
    path, _ = lists
    atomic_write(path, b'summer = ["i20"]')
    until(lambda: of_list(ask()) == {"i20"})
    atomic_write(path, b"summer = [20]")
    until(lambda: "expected a list of item ids" in caplog.text)
    assert of_list(ask()) == {"i20"}
    path.unlink()
    until(lambda: of_list(ask()) == set())
    assert len(ask().items) == 5, "popular gives what the list lacks"


def test_a_file_that_is_being_written_is_not_taken_in_half_way(tmp_path):
    path = tmp_path / "lists.toml"
    path.write_text('summer = ["i1"]')
    live = LiveEditorialLists(path)
    before = live.keys_by_list["summer"].tolist()
    assert len(before) == 1
    with path.open("w") as file:
        assert not live.reload_if_changed()
        file.write('summer = ["i1", "i2"]\nwinter = [')
        file.flush()
        assert not live.reload_if_changed()
        file.write('"i3"]\n')
    assert not live.reload_if_changed()
    assert live.keys_by_list["summer"].tolist() == before, (
        "empty, then half of it, then all of it, each seen once"
    )
    assert live.reload_if_changed()
    assert {name: keys.size for name, keys in live.keys_by_list.items()} == {
        "summer": 2,
        "winter": 1,
    }
    assert not live.reload_if_changed()


def until(holds):
    end = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("summer = 3", "lists.toml: summer: expected a list of item ids, in quotes"),
        ('summer = ["i1", ""]', "lists.toml: summer: expected a list"),
        ("summer = [", "lists.toml: "),
        ('winter = ["i1"]', "slot home, sources: there is no list 'summer'"),
    ],
)
def test_what_is_wrong_with_lists_is_told(lists, text, message):
    lists[0].write_text(text)
    with pytest.raises(DeclarationError, match=message):
        check_lists(lists[0], [SLOT])


@pytest.mark.parametrize("source", ["editorial", "editorial:", "editorial:a b", "editorial:a:b"])
def test_a_list_without_a_name_is_no_source(source):
    with pytest.raises(DeclarationError, match="names no list"):
        Slot("home", sources={source: 3})
