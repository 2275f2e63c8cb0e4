"""What a project says of its indexes reaches every command that trains or judges."""

from types import SimpleNamespace

from tailorbird.cli.train import index_settings
from tailorbird.config.settings import Settings, TrainSection
from tailorbird.events import DAY, HOUR
from tailorbird.ranking import Slot
from tailorbird.retrieval.sessions import Plan


def project(*slots, **told):
    return SimpleNamespace(settings=Settings(train=TrainSection(**told)), slots={slot.name: slot for slot in slots})


def test_indexes_count_all_and_hold_no_sessions_unless_told():
    found = index_settings(project(Slot("home")))
    assert (found["index"].memory_us, found["index"].sessions, found["index_every_us"]) == (None, None, 0)
    assert found["index_room"] == 4 << 30


def test_memory_and_age_are_as_told_and_sessions_are_there_if_any_slot_asks():
    found = index_settings(project(Slot("home"), Slot("next", sources={"stan": 5}), index_memory="1d", index_every="1h", index_room_mb=100))
    assert (found["index"].memory_us, found["index"].sessions, found["index_every_us"]) == (DAY, Plan(), HOUR)
    assert found["index_room"] == 100 << 20
