"""Command lines, parsed as the program does."""

import re
import shlex

from cyclopts import App


def assert_parses(app: App, line: str) -> None:
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
