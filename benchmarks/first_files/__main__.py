"""Compare the roles proposed for each layout with those that its publisher documents.

    python -m benchmarks.first_files [--set development|held_out] [--json]

A role is `right`, `asked` (`init` stops with a question that offers the right column), `open` (it
stops with a question about another role first), `wrong` without a word, or of a layout that is
`refused` with a reason or whose reading ended in an `error`, which is a defect. A format with an
adapter is right if it is recognised. The values of a type's column are a role of their own.
A module in the folder of the set has its layouts in `LAYOUTS`.
"""

import argparse
import importlib
import json
import pkgutil
import sys
import tempfile
import traceback
from collections import Counter
from pathlib import Path

import numpy as np

from benchmarks.first_files.layout import CONSTANT, NONE, Layout
from benchmarks.quality.product.report import describe_provenance
from tailorbird.errors import InputError
from tailorbird.events.adapters.mapping.file import TypeColumn, parse_mapping
from tailorbird.events.guess import ROLE_OPTIONS, AskError
from tailorbird.platform.create import propose_from

ROWS = 3_000
ROLES = ("time", "person", "item", "type")
VALUES = "event_types"  # what the values of the type's column mean


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.first_files")
    parser.add_argument("--set", choices=("development", "held_out"), default="development")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    arguments = parser.parse_args()
    verdicts = {layout.name: judge(layout) for layout in list_layouts(arguments.set)}
    totals = Counter(verdict for roles in verdicts.values() for verdict in roles.values())
    report = {
        "benchmark": "first_files",
        "set": arguments.set,
        "layouts": verdicts,
        "totals": dict(totals),
        **describe_provenance(f"python -m benchmarks.first_files --set {arguments.set}"),
    }
    if arguments.json:
        print(json.dumps(report, indent=1))
        return
    for name, roles in verdicts.items():
        print(f"{name:<40}" + "  ".join(f"{role} {verdict}" for role, verdict in roles.items()))
    print(dict(totals))


def list_layouts(set_name: str) -> list[Layout]:
    """Return the layouts of a set."""
    package = importlib.import_module(f"benchmarks.first_files.{set_name}")
    modules = [
        importlib.import_module(f"{package.__name__}.{module.name}")
        for module in pkgutil.iter_modules(package.__path__)
    ]
    return [layout for module in modules for layout in getattr(module, "LAYOUTS", ())]


def judge(layout: Layout) -> dict[str, str]:
    """Return role → verdict for the files of a layout."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        layout.write(folder, np.random.default_rng(7), ROWS)
        try:
            files = sorted(folder.iterdir())
            proposal = propose_from(files[0] if len(files) == 1 else folder)
        except AskError as error:
            return {role: _judge_question(layout, role, error) for role in ROLES}
        except InputError:
            return dict.fromkeys(ROLES, "refused")
        except Exception:  # It counts as a row of the report, not as the end of it.
            print(f"{layout.name}: {traceback.format_exc()}", file=sys.stderr)
            return dict.fromkeys(ROLES, "error")
    if not proposal.mapping:  # An adapter reads this format.
        is_right = proposal.format == layout.name.partition("-")[0]
        return dict.fromkeys(ROLES, "right" if is_right else "wrong")
    source = next(
        source
        for source in parse_mapping(proposal.mapping, "proposal").source
        if source.kind == "events"
    )
    type_ = source.type
    proposed = {
        "time": source.ts,
        "person": source.user_id or source.anonymous_id,
        "item": source.item_id,
        "type": type_.column if isinstance(type_, TypeColumn) else CONSTANT + type_,
    }
    verdicts = {
        role: "right"
        if _is_right(getattr(layout, role), proposed[role], source.columns)
        else "wrong"
        for role in ROLES
    }
    if layout.event_types and isinstance(type_, TypeColumn):
        are_right = all(
            type_.values.get(value, value) in meaning.split("|")
            for value, meaning in layout.event_types.items()
        )
        verdicts[VALUES] = "right" if are_right else "wrong"
    return verdicts


def _judge_question(layout: Layout, role: str, error: AskError) -> str:
    if error.option not in ROLE_OPTIONS.values():
        return "asked"
    if role != error.option:
        return "open"  # what else is right shows once the question is answered
    answers = {
        name for answer in getattr(layout, role).split("|") for name in _name_choices(answer)
    }
    return "asked" if answers & set(error.choices) else "wrong"


def _name_choices(answer: str) -> list[str]:
    """Return how a question may call an answer: without a header, by number or the file's name."""
    file, _, name = answer.rpartition(":")
    if not name.startswith("#"):
        return [name or "none"]
    words = file.partition(".")[0].split("-")
    position = int(name[1:])
    return [f"c{position}", *words[position - 1 : position]]


def _is_right(truth: str, column: str | None, columns: tuple[str, ...]) -> bool:
    for answer in truth.split("|"):
        if answer == NONE or answer.startswith(CONSTANT):
            matches = answer == (column or NONE)
        else:
            name = answer.partition(":")[2]
            matches = column == (
                columns[int(name[1:]) - 1] if columns and name.startswith("#") else name
            )
        if matches:
            return True
    return False


if __name__ == "__main__":
    main()
