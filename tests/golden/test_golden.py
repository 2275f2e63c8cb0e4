"""Names that go to disk and over the wire are those that were recorded."""

import pytest
from tests.golden.commands import LEFT_OUT, not_covered
from tests.golden.recordings import FOLDER, RECORDINGS, RENEW, SLOW, difference, file_name, path_of
from tests.golden.shapes import readable, shape
from tests.golden.site import RecordedShop, make_shop


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> RecordedShop:
    return make_shop(tmp_path_factory.mktemp("golden"))


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.slow if name in SLOW else ()) for name in RECORDINGS],
)
def test_names_are_as_recorded(name: str, shop: RecordedShop) -> None:
    if differing := difference(name, shop):
        renew = f"{RENEW} {file_name(name)}"
        pytest.fail(f"{differing}\nIf this change is intended, run: {renew}", pytrace=False)


def test_every_command_with_json_is_recorded_or_left_out_for_a_reason() -> None:
    assert not_covered() == set()
    assert all(LEFT_OUT.values())


def test_no_recording_is_left_over() -> None:
    assert set(FOLDER.rglob("*.json")) == {path_of(name) for name in RECORDINGS}


def test_a_shape_has_keys_and_types_and_no_values() -> None:
    value = {
        "rows": [{"n": 1, "seen": None}, {"n": 0.5, "seen": "now"}, {"n": 2}],
        "versions": {"v0001": {"ok": True}, "v0002": {"ok": False}},
        "empty": [],
    }
    assert shape(value, {"versions"}) == {
        "rows": [{"n": "float | integer", "seen?": "string"}],
        "versions": {"<...>": {"ok": "boolean"}},
        "empty": ["nothing seen"],
    }


def test_neighbours_of_one_shape_are_written_once() -> None:
    text = readable(shape({"b": {"n": 1}, "a": {"n": 2}, "c": {"m": 3}, "d": 4, "e": 5}))
    assert '"a, b": {\n  "n": "integer"\n }' in text
    assert text.count('"integer"') == 4


def test_a_changed_name_is_a_difference(
    shop: RecordedShop, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = RECORDINGS["routed"](shop)
    assert '"event_id: string"' in before
    monkeypatch.setitem(RECORDINGS, "routed", lambda _: before.replace("event_id", "event"))
    assert '-  "event_id: string"' in difference("routed", shop)
    assert '+  "event: string"' in difference("routed", shop)
