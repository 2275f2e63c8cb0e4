"""Every command says what it does, in one sentence first, and shows at least one example that
parses; every option is explained.
"""

import re
from pathlib import Path

import pytest
from docs.generate import commands_of, examples_of, prose_of
from tests.support.commands import must, tailorbird
from tests.support.programs.command_line import _without_options, assert_parses

from tailorbird.cli.main import build_app

COMMANDS = {" ".join(words): command for words, command in commands_of(build_app())}


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_has_a_summary_an_example_and_words_for_each_option(name: str) -> None:
    command = COMMANDS[name]
    prose, examples = prose_of(command), examples_of(command)
    assert prose
    assert prose[0].endswith(".")
    assert examples
    for example in examples:
        assert name.split()[1:] == _without_options(example)[1 : len(name.split())], example
    unexplained = [
        argument.names[0]
        for argument in command.assemble_argument_collection(parse_docstring=True)
        if not argument.parameter.help
    ]
    assert unexplained == []


@pytest.mark.parametrize(
    "example",
    sorted({example for command in COMMANDS.values() for example in examples_of(command)}),
)
def test_an_example_parses(example: str) -> None:
    assert_parses(build_app(), example)


def test_help_and_version_of_the_app() -> None:
    shown = must("--help")
    for name in COMMANDS:
        assert name.split()[1] in shown
    assert re.fullmatch(r"\d+\.\d+\.\d+\S*\n", must("--version"))


def test_help_of_a_group_lists_its_commands() -> None:
    shown = must("models", "--help")
    for name in ("list", "show", "promote", "rollback"):
        assert name in shown


def test_debug_prints_a_traceback(tmp_path: Path) -> None:
    done = tailorbird("--debug", "check", cwd=tmp_path)
    assert "Traceback" in done.stderr
    assert done.returncode != 0
