"""`tailorbird`: the list of commands, common options, and the handling of errors.

Command modules import heavy libraries only inside their functions, so that `--help` is fast.
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
from tailorbird.periodic import exit_process
from tailorbird.version import __version__

_HELP = """Turn a site's events into recommendations, learn from them, and measure the uplift.

Try it:  tailorbird demo

Your own site:  tailorbird init shop, then the commands that it prints.

Options before the command: `-C DIR` selects the project in DIR (by default the current folder or
one above it), `--debug` shows tracebacks.
"""

# Command → module in this package. The function is named after the command.
_MODULE_BY_COMMAND = {
    "init": "init",
    "import": "import_files",
    "check": "check",
    "up": "roles.up",
    "train": "training.train",
    "tune": "training.tune",
    "validate": "training.validate",
    "evaluate": "training.evaluate",
    "recommend": "recommend",
    "sql": "sql",
    "doctor": "doctor",
    "backup": "backup",
    "restore": "backup",
    "demo": "demo",
    "simulate": "simulate",
}
# Group → its help text, and the module of each of its commands.
_COMMANDS_BY_GROUP: dict[str, tuple[str, dict[str, str]]] = {
    "config": ("Settings and their sources.", {"show": "config"}),
    "run": (
        "Run a single role; `up` runs all of them.",
        {
            "serve": "roles.serve",
            "router": "roles.router",
            "worker": "roles.worker",
            "shuffle": "roles.shuffle",
            "candidates": "roles.candidates",
            "score": "roles.score",
            "lake": "roles.lake",
            "trainer": "roles.trainer",
        },
    ),
    "features": (
        "Show, rank, verify and change features.",
        {
            "list": "features.commands",
            "show": "features.show",
            "rank": "features.rank",
            "plan": "features.apply",
            "apply": "features.apply",
            "backfill": "features.backfill",
            "prune": "features.apply",
            "verify": "features.verify",
            "republish": "features.republish",
        },
    ),
    "score": ("Score all people into a file.", {"churn": "training.churn"}),
    "scores": ("Scores computed as events arrive.", {"tail": "scores"}),
    "models": (
        "Versions of the model bundle, and their rollout.",
        {
            "list": "models.commands",
            "show": "models.commands",
            "verify": "models.verify",
            "shadow": "models.rollout",
            "canary": "models.rollout",
            "promote": "models.commands",
            "rollback": "models.commands",
            "audit": "models.commands",
            "prune": "models.commands",
        },
    ),
    "formula": (
        "Value formulas of slots, changed without a new model.",
        dict.fromkeys(("show", "set", "reset"), "formula"),
    ),
    "rules": ("Rules of slots and what they cost.", {"report": "rules"}),
    "keys": ("Access keys.", dict.fromkeys(("create", "list", "revoke", "pseudonym"), "keys")),
    "checks": ("Daily data quality checks.", {"run": "checks"}),
    "monitor": (
        "Live figures of slots and versions, and what was decided.",
        dict.fromkeys(
            ("status", "figures", "approve", "decide", "drift", "notify", "silence"), "monitor"
        ),
    ),
    "experiment": (
        "Plan, run and report on experiments.",
        {
            "list": "experiments.runs",
            "plan": "experiments.runs",
            "start": "experiments.runs",
            "ramp": "experiments.runs",
            "stop": "experiments.runs",
            "decide": "experiments.runs",
            "report": "experiments.report",
            "estimate": "experiments.estimate",
        },
    ),
    "lake": (
        "Verify, repair and maintain the lake, replay rejected events, and erase people.",
        {
            "verify": "lake.commands",
            "repair": "lake.repair",
            "quarantine": "lake.commands",
            "replay": "lake.commands",
            "compact": "lake.upkeep",
            "vacuum": "lake.upkeep",
            "events": "lake.upkeep",
            "erase": "lake.privacy",
            "export-user": "lake.privacy",
        },
    ),
}
# Commands whose function cannot bear their name: a keyword, or a built-in.
_FUNCTION_BY_COMMAND = {"import": "import_files", "list": "list_", "export-user": "export_user"}

_COMMANDS_EXCLUDING_ERASURE = (
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
# These commands store what they read, so no erasure may run at the same time, as with roles.
# `import` takes care of it itself, since some of its uses need no project.

# Commands that continue where they were stopped.
_RESUMABLE_COMMANDS = (("features", "backfill"), ("features", "apply"), ("tune",))


def build_app() -> App:
    """Build the command line app, for running and for tests."""
    app = App(
        name="tailorbird",
        help=_HELP,
        version=__version__,
        help_format="markdown",
        result_action="return_value",
        suppress_keyboard_interrupt=False,  # `run` reports what an interrupted command leaves.
        default_parameter=Parameter(show_default=_format_default),
    )
    for name, module in _MODULE_BY_COMMAND.items():
        app.command(
            _exclude_erasure(name, _load_command(module, name)), name=name, version_flags=()
        )
    for name, (help_text, module_by_command) in _COMMANDS_BY_GROUP.items():
        # --version belongs to the app; a command without a version must not show it.
        group = App(name=name, help=help_text, version_flags=())
        for command, module in module_by_command.items():
            function = _exclude_erasure(f"{name} {command}", _load_command(module, command))
            group.command(function, name=command, version_flags=())
        app.command(group)
    return app


def _format_default(default: object) -> object:
    """Return a default as help shows it; None if the option's text describes it."""
    return None if default in ("", None, False) else default


def _load_command(module: str, command: str) -> Callable[..., object]:
    function = _FUNCTION_BY_COMMAND.get(command, command)
    return getattr(import_module(f"tailorbird.cli.{module}"), function)


def _exclude_erasure(name: str, command: Callable[..., object]) -> Callable[..., object]:
    """Return the command, wrapped to keep erasures from running if it is a role or stores reads."""
    is_role = name.startswith("run ")
    if name not in _COMMANDS_EXCLUDING_ERASURE and not is_role:
        return command

    @wraps(command)
    def run_guarded(*args: object, **options: object) -> object:
        from tailorbird.config import data_folder
        from tailorbird.config.erasures import hold_off_erasures

        with hold_off_erasures(data_folder(), create=is_role):
            return command(*args, **options)

    return run_guarded


def run(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit.

    The exit status is 0 for success, 1 for a failure, 2 for a usage error and 130 for an interrupt.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    debug = _pop_global_options(words)
    # The parser would take `-` for an option without a name.
    words = [STDIN if word == "-" else word for word in words]
    try:
        status = build_app()(words, exit_on_error=False, print_error=False)
        sys.stdout.flush()
    except CycloptsError as error:
        _print_error(f"{' '.join(str(error).split())}\n  fix: {_help_command(words)}")
        status = 2
    except TailorbirdError as error:
        if debug:
            raise
        _print_error(str(error))
        status = error.exit_status
    except SystemExit as exit_request:
        status = exit_request.code
    except KeyboardInterrupt:
        if any(tuple(words[: len(command)]) == command for command in _RESUMABLE_COMMANDS):
            _print_stderr("stopped; completed work is kept: run the same command again to continue")
        status = 130
    except BrokenPipeError:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115
        status = 0
    except OSError as error:
        message = _describe_os_error(error)
        if debug or message is None:
            raise
        _print_error(message)
        status = 1
    exit_code = status if isinstance(status, int) else 0
    if arguments is None and {"deltalake", "duckdb"} & sys.modules.keys():
        exit_process(exit_code)
    raise SystemExit(exit_code)


def _pop_global_options(words: list[str]) -> bool:
    """Remove `-C DIR`, `--project DIR` and `--debug` from the front; return whether to debug."""
    debug = bool(os.environ.get("TAILORBIRD_DEBUG"))
    while words and words[0] in ("-C", "--project", "--debug"):
        option = words.pop(0)
        if option == "--debug":
            debug = True
        elif not words:
            _print_error(f"{option} needs a folder, such as {option} shop")
            raise SystemExit(2)
        else:
            os.environ["TAILORBIRD_PROJECT"] = words.pop(0)
    return debug


def _help_command(words: list[str]) -> str:
    """Return the command that prints the help for these arguments."""
    command = (
        words[:1] if words[:1] and words[0] in {**_MODULE_BY_COMMAND, **_COMMANDS_BY_GROUP} else []
    )
    command += [
        word
        for word in words[1:2]
        if command and word in _COMMANDS_BY_GROUP.get(command[0], ("", {}))[1]
    ]
    return " ".join(["tailorbird", *command, "--help"])


def _describe_os_error(error: OSError) -> str | None:
    """Return a message for an error of the disk or the network; None if it looks like a bug."""
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


def _print_error(message: str) -> None:
    _print_stderr(f"error: {message}")


def _print_stderr(message: str) -> None:
    print(message, file=sys.stderr)
