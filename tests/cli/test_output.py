"""Commands escape text that others wrote."""

import pytest

from tailorbird.cli.output import console, format_cell, print_table


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("a\x1b]0;b\x07\x9b2J\x7f", "a\\x1b]0;b\\x07\\x9b2J\\x7f"),
        ("Å\tb\nc", "Å\tb\nc"),
        (None, ""),
        (1234, "1,234"),
    ],
)
def test_nothing_is_shown_that_a_terminal_obeys(value: object, shown: str) -> None:
    assert format_cell(value) == shown


def test_a_table_escapes_control_characters(capsys: pytest.CaptureFixture[str]) -> None:
    print_table("Refused", ["type"], [("view\x1b[2J",)])
    output = capsys.readouterr().out
    assert "view\\x1b[2J" in output
    assert "\x1b" not in output


def test_square_brackets_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    console().print("pip install 'tailorbird[deep]'")
    assert capsys.readouterr().out == "pip install 'tailorbird[deep]'\n"
