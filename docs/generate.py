"""Writes the reference pages that follow from the code.

These are commands, settings, features and transforms, and the tables of the page of events. A test
fails when one is stale.

    python docs/generate.py             writes these pages of docs/reference
    python docs/generate.py --check     writes nothing; exit status 1 if a page is stale
"""

import inspect
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
from cyclopts import App

from tailorbird import features
from tailorbird.cli.main import build_app
from tailorbird.config import Settings
from tailorbird.config.settings import ENV_PREFIX, SECRET_SETTINGS
from tailorbird.events.contract.codes import CODE_DESCRIPTIONS
from tailorbird.events.contract.envelope import Context, Event, Properties
from tailorbird.events.contract.fields import (
    Bounds,
    Description,
    Pattern,
    ServerOwned,
    annotations_of,
)
from tailorbird.features import transforms
from tailorbird.features.declare.declarations import REQUEST_COLUMNS, RESERVED_COLUMNS
from tailorbird.features.declare.fields import CONTEXT_FIELDS, EVENT_FIELDS
from tailorbird.features.transform_steps import Step

FOLDER = Path(__file__).parent / "reference"
_SECTIONS = {"Args:": "Arguments", "Raises:": "Raises", "Attributes:": "Attributes"}
_MADE = "<!-- Made by docs/generate.py; edit the code, not this page. -->\n"


def commands_of(
    app: App, words: tuple[str, ...] = ("tailorbird",)
) -> Iterator[tuple[tuple[str, ...], App]]:
    """Yield each command with the words that call it, including those of groups."""
    for name in app:
        if name.startswith("-"):
            continue
        command = app[name]
        if command.default_command is None:
            yield from commands_of(command, (*words, name))
        else:
            yield (*words, name), command


def examples_of(command: App) -> list[str]:
    """Return the example command lines of a command's help."""
    return re.findall(
        r"^\s*Example:\s+(\S.*)$", inspect.getdoc(command.default_command) or "", re.MULTILINE
    )


def prose_of(command: App) -> list[str]:
    """Return the paragraphs of a command's help, the summary first, without examples and
    parameters.
    """
    text = (inspect.getdoc(command.default_command) or "").split("\nParameters\n")[0]
    paragraphs = [" ".join(part.split()) for part in text.split("\n\n")]
    return [part for part in paragraphs if part and not part.startswith("Example:")]


def commands() -> str:
    lines = [
        "# Commands",
        "",
        _MADE,
        "Before any command: `-C DIR` works on the project in `DIR` (else the folder you are "
        "in, or one above it), `--debug` shows "
        "tracebacks. After it: `--help`, and `--json` for one JSON object instead of text. A "
        "command ends with status 0 if all went "
        "well, 1 if not, 2 for a wrong use.",
        "",
    ]
    for words, command in commands_of(build_app()):
        lines += [f"## {' '.join(words)}", "", *(f"{part}\n" for part in prose_of(command))]
        lines += ["```sh", *examples_of(command), "```", ""]
        rows = [
            _parameter(argument)
            for argument in command.assemble_argument_collection(parse_docstring=True)
        ]
        if rows:
            lines += ["| parameter | what it does |", "|---|---|", *rows, ""]
    return "\n".join(lines)


def _parameter(argument: Any) -> str:
    positional = argument.field_info.kind in (
        inspect.Parameter.POSITIONAL_ONLY,
        inspect.Parameter.POSITIONAL_OR_KEYWORD,
    )
    several = argument.field_info.kind is inspect.Parameter.VAR_POSITIONAL
    name = (
        argument.names[0].lstrip("-").upper().replace("-", "_")
        if positional or several
        else " ".join(argument.names)
    )
    default = argument.field_info.default
    shown = (
        "" if default in ("", None, False, inspect.Parameter.empty) else f" Default: `{default}`."
    )
    needed = "" if not argument.required or positional else " Needed."
    help_ = " ".join((argument.parameter.help or "").split()).rstrip(".")
    return f"| `{name}{' …' if several else ''}` | {help_[:1].upper()}{help_[1:]}.{needed}{shown} |"


def settings() -> str:
    lines = [
        "# Settings",
        "",
        _MADE,
        "They stand in `tailorbird.toml` of the project; the environment goes before the file: "
        f"`[serve] port` is `{ENV_PREFIX}SERVE__PORT`. `tailorbird config show` prints each "
        "value and where it came from. "
        "Durations are written `90s`, `30m`, `6h`, `7d`, `2w`. A list in the environment is "
        "separated by commas. "
        "Unknown keys are refused.",
        "",
    ]
    for section in msgspec.structs.fields(Settings):
        lines += [f"## [{section.name}]", "", "| key | default | what it is |", "|---|---|---|"]
        for entry in msgspec.structs.fields(section.type):  # type: ignore[arg-type]
            description = next(
                str(meta.description) for meta in entry.type.__metadata__ if meta.description
            )  # type: ignore[union-attr]
            default = getattr(getattr(Settings(), section.name), entry.name)
            secret = (
                " Shown as stars everywhere."
                if f"{section.name}.{entry.name}" in SECRET_SETTINGS
                else ""
            )
            lines.append(
                f"| `{entry.name}` | `{msgspec.json.encode(default).decode()}` | "
                f"{description[:1].upper()}{description[1:]}.{secret} |"
            )
        lines.append("")
    lines += [
        "## Elsewhere",
        "",
        "| variable | what it does |",
        "|---|---|",
        "| `TAILORBIRD_PROJECT` | The project to work on, as `-C` does. |",
        "| `TAILORBIRD_KEY` | The key with which `recommend` asks a server. |",
        "| `TAILORBIRD_DEBUG` | Shows tracebacks, as `--debug` does. |",
        "",
    ]
    return "\n".join(lines)


def vocabulary() -> list[str]:
    """Return the functions for `features.py`: entities first, since all others refer to them."""
    names = [
        name
        for name in features.__all__
        if inspect.isfunction(getattr(features, name)) and name != "load_features"
    ]
    return sorted(names, key=lambda name: (name != "entity", name))


def features_page() -> str:
    lines = [
        "# Features",
        "",
        _MADE,
        "A project declares what is known about people and items in `features.py`, once; the "
        "stream keeps it up to date, training reads "
        "it as it was at any past moment, and answers use it: the same values, to the bit.",
        "",
        "```python",
        _EXAMPLE.strip(),
        "```",
        "",
        "A window is counted by tiles of `hop`, a twelfth of it by default: at a moment it "
        "holds the tile that goes on and as many "
        "whole ones before as fit into it, so `28d` reaches back 28 to 30⅓ days. A smaller "
        "`hop` is sharper, and costs more state.",
        "",
    ]
    for name in vocabulary():
        lines += _call(getattr(features, name))
    lines += [
        "## What expressions may name",
        "",
        "`where=` and `of=` see the columns of an event, and `item.x`, `user.x`, `properties.x`:",
        "",
        "| column | kind |",
        "|---|---|",
        *(f"| `{name}` | {kind} |" for name, kind in EVENT_FIELDS.items()),
        "",
        "A property or an attribute is what JSON says it is, event by event: one rule makes "
        "numbers and texts of it, "
        "whatever came before.",
        "",
        "| in JSON | as a number | as a text |",
        "|---|---|---|",
        "| `5`, `5.0`, `1e30` | the number | `5`, `5`, the whole number in full; others as "
        "short as they can be told apart |",
        '| `"5"`, `"five"` | missing, counted as unreadable | the text: `properties.n == '
        "'5'` holds for 5 and for \"5\" |",
        "| `true`, `false` | 1, 0, counted as converted | `true`, `false` |",
        "| `[5, 6]` | that of its first element, counted as converted | that of its first "
        "element |",
        "| `{}` | missing, counted as unreadable | missing, counted as unreadable |",
        "| `null`, `[]` | missing | missing |",
        "",
        "What is counted stands at `/metrics`, by field: `tailorbird_features_unreadable_total`, "
        "`tailorbird_features_converted_total`, and `tailorbird_features_capped_total` for "
        "what was above its `max`. "
        "A property that changes its type shows there.",
        "",
        f"No feature may be called {', '.join(f'`{name}`' for name in RESERVED_COLUMNS)}: every "
        "model sees columns of these names; "
        f"nor {', '.join(f'`{name}`' for name in REQUEST_COLUMNS)}, which stand beside the "
        "features in the rows of a backfill.",
        "",
        "`context` knows "
        f"{', '.join(f'`{name}` ({kind})' for name, kind in CONTEXT_FIELDS.items())}; "
        "`derived` names other numeric features.",
        "",
    ]
    return "\n".join(lines)


def transforms_page() -> str:
    """Return the page of the calls that make a transform and its steps."""
    functions = [
        function
        for _, function in inspect.getmembers(transforms, inspect.isfunction)
        if function.__module__ == transforms.__name__
    ]
    return_types = (transforms.Transform, Step)
    calls = [
        function
        for function in functions
        if isinstance(kind := inspect.signature(function).return_annotation, type)
        and issubclass(kind, return_types)
    ]
    calls.sort(
        key=lambda function: (function.__name__ != "transform", inspect.getsourcelines(function)[1])
    )
    lines = [
        "# Transforms",
        "",
        _MADE,
        "How a model sees a column, declared in `features.py`; how to use them is in "
        "[Transform columns for a model]"
        "(../how-to/transforms.md). All are imported from `tailorbird.features.transforms`.",
        "",
    ]
    return "\n".join([*lines, *(line for function in calls for line in _call(function))])


def events_page() -> str:
    """Return the page of events with its tables of fields and of codes made anew."""
    codes = ["| code | the event |", "|---|---|"]
    codes += [f"| `{code}` | {text} |" for code, text in CODE_DESCRIPTIONS.items()]
    page = (FOLDER / "events.md").read_text()
    for name, rows in (("fields", _event_fields()), ("codes", codes)):
        mark = f"<!-- {name}: made by docs/generate.py -->\n\n"
        start = page.index(mark) + len(mark)
        page = page[:start] + "\n".join(rows) + page[page.index("\n\n", start) :]
    return page


def _event_fields() -> list[str]:
    """Return a row for each described field; those that follow without words of their own share it.

    Fields that only the server sets are described elsewhere.
    """
    descriptions, bounds = annotations_of(Event, Description), annotations_of(Event, Bounds)
    server_owned = annotations_of(Event, ServerOwned)
    groups: list[list[str]] = []
    for name in Event.__struct_fields__:
        if name in descriptions:
            groups.append([name])
        elif name not in server_owned:
            groups[-1].append(name)
    rows = ["| field | what it is | bounds |", "|---|---|---|"]
    for names in groups:
        text, limits = (
            descriptions[names[0]].text,
            [bounds[name] for name in names if name in bounds],
        )
        if (within := _WITHIN.get(names[0])) is not None:
            text = f"{text} {_fields_within(within)}"
            limits += annotations_of(within, Bounds).values()
        lengths = dict.fromkeys(one.text for one in limits if one.unit)
        rows.append(f"| {', '.join(f'`{n}`' for n in names)} | {text} | {', '.join(lengths)} |")
    return rows


_WITHIN: dict[str, type] = {"context": Context, "properties": Properties}


def _fields_within(table: type) -> str:
    """Return the names of the fields within a field, with what a value may be but for its length."""
    limits = {name: one.text for name, one in annotations_of(table, Pattern).items()}
    limits |= {
        name: f"{one.low:,} to {one.high:,}"
        for name, one in annotations_of(table, Bounds).items()
        if not one.unit
    }
    return ", ".join(
        f"`{name}` ({limits[name]})" if name in limits else f"`{name}`"
        for name in table.__annotations__
    )


def _call(function: Callable[..., Any]) -> list[str]:
    """Return the section of a call: its signature and its docstring."""
    name = function.__name__
    signature = re.sub(
        r"(tailorbird\.features(?:\.\w+)*|collections\.abc|typing)\.",
        "",
        str(inspect.signature(function)).partition(" -> ")[0],
    )
    signature = re.sub(r"Optional\[(Literal\[[^\]]*\])\]", r"\1 | None", signature)
    return [
        f"## {name}",
        "",
        "```text",
        f"{name}{signature}",
        "```",
        "",
        _as_markdown(inspect.getdoc(function) or ""),
        "",
    ]


_EXAMPLE = """
from tailorbird.features import attribute, count, derived, entity, mean, ratio

user, item, category = entity("user"), entity("item"), entity("item.category")

item_clicks_7d = count("item_clicks_7d", item, "click", window="7d")
item_ctr_7d = ratio("item_ctr_7d", item, "click", "impression", window="7d", prior=category, weight=20)
user_price_28d = mean("user_price_28d", user, "click", of="item.price", unit=0.01, max=10_000, window="28d")
price = attribute("price", item, "price", kind="numeric")
price_to_habit = derived("price_to_habit", "price / user_price_28d")
"""


def _as_markdown(docstring: str) -> str:
    """Return a docstring as prose: its sections become lists, its examples code."""
    lines: list[str] = []
    for line in docstring.splitlines():
        stripped = line.strip()
        if stripped in _SECTIONS:
            lines += [f"**{_SECTIONS[stripped]}**", ""]
        elif line.startswith("        ") and lines and lines[-1].startswith("- "):
            lines[-1] += f" {stripped}"
        elif match := re.match(r"    ([\w, ]+): (.*)", line):
            lines.append(f"- `{match[1]}`: {match[2]}")
        else:
            lines.append(stripped)
    return "\n".join(lines).strip()


PAGES = {
    "commands.md": commands,
    "settings.md": settings,
    "features.md": features_page,
    "transforms.md": transforms_page,
    "events.md": events_page,
}


def main() -> int:
    stale = []
    for name, make in PAGES.items():
        text = make().rstrip() + "\n"
        file = FOLDER / name
        if not file.exists() or file.read_text() != text:
            stale.append(name)
            if "--check" not in sys.argv:
                file.write_text(text)
    if stale and "--check" in sys.argv:
        sys.stderr.write(f"stale: {', '.join(stale)}\n  fix: python docs/generate.py\n")
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
