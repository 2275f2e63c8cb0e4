"""A project that hides its people goes on with the key that it began with, also where one of the
two notes of it is lost or damaged.
"""

from pathlib import Path

import pytest
from tests.support.commands import assert_refused, must, must_json, tailorbird

from tailorbird.config.pseudonyms import FILE, pseudonyms_of
from tailorbird.errors import ConfigError

KEY, OTHER = "a key of thirty-two characters..", "another key of thirty-two chars.."
EVENT = (
    '{"event_id": "e1", "type": "click", "user_id": "u1", "item_id": "i1", "ts": '
    '"2026-11-20T12:00:00Z"}'
)


@pytest.fixture
def initialised(tmp_path: Path) -> tuple[Path, Path]:
    """The data and the lake of a project that began with `KEY`."""
    places = tmp_path / "data", tmp_path / "data" / "lake"
    assert pseudonyms_of(KEY, *places) is not None
    return places


def lose(file: Path) -> None:
    file.unlink()


def flip(file: Path) -> None:
    file.write_bytes(b"\x80" + file.read_bytes())


@pytest.mark.parametrize("harm", [lose, flip])
@pytest.mark.parametrize("which", [0, 1])
def test_either_fingerprint_refuses_another_key_and_is_rewritten(initialised, harm, which):
    file = initialised[which] / FILE
    intact = file.read_bytes()
    harm(file)
    for key, message in ((OTHER, "is not the key"), ("", "no key for them is set")):
        with pytest.raises(ConfigError, match=message):
            pseudonyms_of(key, *initialised)
    assert pseudonyms_of(KEY, *initialised, record_key=False) is not None
    assert not file.exists() or file.read_bytes() != intact, "who only looks writes nothing"
    assert pseudonyms_of(KEY, *initialised) is not None
    assert file.read_bytes() == intact


def test_without_an_intact_fingerprint_a_damaged_one_is_an_error(initialised):
    lose(initialised[0] / FILE)
    flip(initialised[1] / FILE)
    for key in (KEY, OTHER, ""):
        with pytest.raises(ConfigError, match="cannot be read"):
            pseudonyms_of(key, *initialised)


def test_a_project_of_before_the_second_note_gets_one(initialised):
    lose(initialised[1] / FILE)
    pseudonyms_of(KEY, *initialised)
    assert (initialised[1] / FILE).read_bytes() == (initialised[0] / FILE).read_bytes()


@pytest.mark.slow
def test_commands_detect_another_key_after_a_loss(tmp_path):
    must("init", tmp_path / "shop")
    source = tmp_path / "history.jsonl"
    source.write_text(EVENT)
    right, wrong = ({"TAILORBIRD_EVENTS__PSEUDONYM_KEY": key} for key in (KEY, OTHER))
    assert (
        must_json("-C", tmp_path / "shop", "import", "tailorbird", source, env=right)["accepted"]
        == 1
    )
    lose(tmp_path / "shop" / "data" / FILE)
    source.write_text(EVENT.replace("e1", "e2"))
    assert_refused(
        tailorbird("-C", tmp_path / "shop", "import", "tailorbird", source, env=wrong),
        "is not the key",
        status=2,
    )
    assert_refused(
        tailorbird("-C", tmp_path / "shop", "run", "serve", "--port", "0", env=wrong, timeout=60),
        "is not the key",
        status=2,
    )
    result = tailorbird("-C", tmp_path / "shop", "doctor", "--json", env=wrong)
    assert (result.returncode, "is not the key" in result.stdout) == (1, True)
    assert (
        must_json("-C", tmp_path / "shop", "import", "tailorbird", source, env=right)["routed"][
            "accepted"
        ]
        == 1
    )
