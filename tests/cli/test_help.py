"""Every command says what it does, in one sentence first, and shows at least one example that
parses; every option is explained.
"""

import re
import shlex
from pathlib import Path

import pytest
from cyclopts import App
from docs.generate import commands_of, examples_of, prose_of
from tests.support.commands import must, tailorbird

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
    parse(build_app(), example)


def parse(app: App, line: str) -> None:
    """Assert that the command line would be understood; nothing is run."""
    words = _without_options(line)
    assert words[0] == "tailorbird"
    app.parse_args(words[1:], exit_on_error=False, print_error=False)


def _without_options(line: str) -> list[str]:
    """The words of a command line without variables and options before the command, and without
    redirections and comments.
    """
    words = shlex.split(re.split(r"\s[>|]\s", line)[0], comments=True)
    while words and re.match(r"[A-Z_]+=", words[0]):
        del words[0]
    while words[1:2] and words[1] in ("-C", "--project", "--debug"):
        del words[1 : 2 if words[1] == "--debug" else 3]
    return words


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
