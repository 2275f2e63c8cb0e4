"""`tailorbird`: the list of commands, the options that all share, and what happens to an error.

Modules of commands import what is heavy only inside their functions, so that `--help` answers at
once.
"""

import errno
import os
import sys
from collections.abc import Callable, Sequence
from functools import wraps
from importlib import import_module

from cyclopts import App, CycloptsError, Parameter

from tailorbird.cli.output import STDIN
from tailorbird.errors import TailorbirdError
from tailorbird.loops import exit_process
from tailorbird.version import __version__

_HELP = """Turn a site's events into recommendations, learn from what happens next, and prove that it helped.

First evening:  tailorbird demo

Your own site:  tailorbird init shop, then the lines that it prints.

Options before the command: `-C DIR` works on the project in DIR (else the folder you are in, or one above it),
`--debug` shows tracebacks.
"""

# command → module and function in this package
_VERBS = {
    "init": "init:init",
    "import": "import_files:import_files",
    "check": "check:check",
    "up": "up:up",
    "train": "train:train",
    "tune": "tune:tune",
    "validate": "validate:validate",
    "evaluate": "evaluate:evaluate",
    "recommend": "recommend:recommend",
    "sql": "sql:sql",
    "doctor": "doctor:doctor",
    "demo": "demo:demo",
    "simulate": "simulate:simulate",
}
_GROUPS: dict[str, tuple[str, tuple[str, ...]]] = {
    "config": ("Settings and where each came from.", ("show",)),
    "run": (
        "Run one role in this terminal, as `up` does with all.",
        ("serve", "router", "worker", "shuffle", "candidates", "score", "lake", "trainer"),
    ),
    "features": (
        "Look at features, rank them, hold their readings against each other, and change "
        "what is declared.",
        ("list", "show", "rank", "plan", "apply", "backfill", "prune", "verify", "republish"),
    ),
    "score": ("Score everybody at once, into a file.", ("churn",)),
    "scores": ("What was scored as events came in.", ("tail",)),
    "models": (
        "Versions of the bundle, and which one answers.",
        ("list", "show", "verify", "shadow", "canary", "promote", "rollback"),
    ),
    "formula": (
        "What an item is worth to a slot, changed without a new model.",
        ("show", "set", "reset"),
    ),
    "rules": ("What a slot asks for beside value.", ("report",)),
    "keys": ("Who may send events and ask for answers.", ("create", "list", "revoke", "pseudonym")),
    "checks": ("Is the data of a day whole, and as usual.", ("run",)),
    "experiment": ("What the arms of an experiment did.", ("report",)),
    "lake": (
        "Check the lake and mend it, see what was refused and send it again, keep it small, "
        "read it as it was, erase people.",
        (
            "verify",
            "repair",
            "quarantine",
            "replay",
            "compact",
            "vacuum",
            "events",
            "erase",
            "export-user",
        ),
    ),
}

_OWN_MODULE = {
    "score churn": "churn",
    "features rank": "features_rank",
    "features republish": "features_republish",
    "models verify": "models_verify",
    "models shadow": "models_rollout",
    "models canary": "models_rollout",
    "lake repair": "lake_repair",
    **{f"lake {command}": "lake_upkeep" for command in ("compact", "vacuum", "events")},
    **{f"lake {command}": "lake_privacy" for command in ("erase", "export-user")},
}  # commands of a group that are not in the group's module

_READERS = (
    "train",
    "tune",
    "validate",
    "score churn",
    "checks run",
    "rules report",
    "features backfill",
    "features rank",
    "features apply",
    "features republish",
    "lake events",
    "lake export-user",
    "lake replay",
)
# They write down what they read: no erasure beside them. Nor beside roles; `import` sees to it
# itself, since not each needs a project.

_GO_ON = (
    ("features", "backfill"),
    ("features", "apply"),
    ("tune",),
)  # begin where they were stopped


def build_app() -> App:
    """The command line as an object, for running and for tests."""
    app = App(
        name="tailorbird",
        help=_HELP,
        version=__version__,
        help_format="markdown",
        result_action="return_value",
        suppress_keyboard_interrupt=False,  # `run` says what an interrupted command leaves
        default_parameter=Parameter(show_default=_told),
    )
    for name, target in _VERBS.items():
        module, _, function = target.partition(":")
        app.command(_beside_no_erasure(name, _load(module, function)), name=name, version_flags=())
    for name, (text, commands) in _GROUPS.items():
        group = App(
            name=name, help=text, version_flags=()
        )  # --version is of the whole, and not an option of a command that has none
        for command in commands:
            module = _OWN_MODULE.get(f"{name} {command}", name)
            function = _load(
                module, f"{command}_" if command == "list" else command.replace("-", "_")
            )
            group.command(
                _beside_no_erasure(f"{name} {command}", function), name=command, version_flags=()
            )
        app.command(group)
    return app


def _told(default: object) -> object:
    """A default as help shows it: none where the option's own text says what happens without it."""
    return None if default in ("", None, False) else default


def _load(module: str, function: str) -> Callable[..., object]:
    return getattr(import_module(f"tailorbird.cli.{module}"), function)


def _beside_no_erasure(name: str, command: Callable[..., object]) -> Callable[..., object]:
    """The command, which holds erasures off while it is at work if it is a role, or one of those
    that write down what they read.
    """
    role = name.startswith("run ")
    if name not in _READERS and not role:
        return command

    @wraps(command)
    def held(*args: object, **options: object) -> object:
        from tailorbird.config import data_folder
        from tailorbird.config.erasures import hold_off_erasures

        with hold_off_erasures(data_folder(), make=role):
            return command(*args, **options)

    return held


def run(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit: 0 if all went well, 1 if not, 2 for a wrong use, 130 if
    interrupted.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    debug = _take_options(words)
    words = [
        STDIN if word == "-" else word for word in words
    ]  # which the parser takes for an option without a name
    try:
        status = build_app()(words, exit_on_error=False, print_error=False)
        sys.stdout.flush()
    except CycloptsError as error:
        _say(f"{' '.join(str(error).split())}\n  fix: {_help_for(words)}")
        status = 2
    except TailorbirdError as error:
        if debug:
            raise
        _say(str(error))
        status = error.exit_status
    except SystemExit as end:
        status = end.code
    except KeyboardInterrupt:
        if any(tuple(words[: len(each)]) == each for each in _GO_ON):
            _tell("stopped; what is done is kept: run the same command again, and it goes on")
        status = 130
    except BrokenPipeError:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115
        status = 0
    except OSError as error:
        sentence = _sentence(error)
        if debug or sentence is None:
            raise
        _say(sentence)
        status = 1
    code = status if isinstance(status, int) else 0
    if arguments is None and {"deltalake", "duckdb"} & sys.modules.keys():
        exit_process(code)
    raise SystemExit(code)


def _take_options(words: list[str]) -> bool:
    """Take `-C DIR`, `--project DIR` and `--debug` off the front; whether to debug."""
    debug = bool(os.environ.get("TAILORBIRD_DEBUG"))
    while words and words[0] in ("-C", "--project", "--debug"):
        option = words.pop(0)
        if option == "--debug":
            debug = True
        elif not words:
            _say(f"{option} needs a folder, such as {option} shop")
            raise SystemExit(2)
        else:
            os.environ["TAILORBIRD_PROJECT"] = words.pop(0)
    return debug


def _help_for(words: list[str]) -> str:
    """The command whose help tells how it is used."""
    command = words[:1] if words[:1] and words[0] in {**_VERBS, **_GROUPS} else []
    command += [
        word for word in words[1:2] if command and word in _GROUPS.get(command[0], ("", ()))[1]
    ]
    return " ".join(["tailorbird", *command, "--help"])


def _sentence(error: OSError) -> str | None:
    """A user's sentence for what the disk or the network refused; None if it looks like a bug of
    ours.
    """
    where = f"{error.filename}: " if error.filename else ""
    if error.errno is None:
        return None
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return (
            f"{where}not permitted ({os.strerror(error.errno)})\n  fix: choose a folder that "
            "you may write to"
        )
    if error.errno == errno.ENOSPC:
        return (
            f"{where}the disk is full; nothing that was acknowledged is lost\n  fix: free some "
            "space, then run the same command again"
        )
    if error.errno in (errno.ENOTDIR, errno.EISDIR, errno.ENOENT, errno.EEXIST) and error.filename:
        return f"{where}{os.strerror(error.errno).lower()}\n  fix: choose another path"
    return None


def _say(message: str) -> None:
    _tell(f"error: {message}")


def _tell(message: str) -> None:
    print(message, file=sys.stderr)
