"""Output of parity reports: as JSON, and for people."""

import shlex
from typing import TYPE_CHECKING

from tailorbird.cli.output import console, print_table, this_command

if TYPE_CHECKING:
    from tailorbird.features.parity.recompute import Difference, ParityReport


_EXAMPLES_MAX = 5


def reports_to_dict(
    reports: "dict[str, ParityReport]",
    logged: "ParityReport",
    sampled: "ParityReport",
    unequal: dict[str, int],
) -> dict:
    return {
        "schemas": {
            schema: {
                "answers": report.answers,
                "compared": report.compared,
                "unequal": report.unequal,
            }
            for schema, report in reports.items()
        },
        "answers": logged.answers,
        "skipped": logged.skipped,
        "exempt": logged.exempt,
        "pending": logged.pending,
        "samples": sampled.answers,
        "compared": logged.compared + sampled.compared,
        "unequal": logged.unequal + sampled.unequal,
        "dropped": logged.dropped + sampled.dropped,
        "by_feature": unequal,
        "examples": [
            {**vars(example), "explain": explaining(example)}
            for example in (*logged.examples, *sampled.examples)[:_EXAMPLES_MAX]
        ],
    }


def print_reports(
    reports: "dict[str, ParityReport]",
    logged: "ParityReport",
    sampled: "ParityReport",
    unequal: dict[str, int],
    reason: str,
) -> None:
    out = console()
    out.print(
        f"{logged.answers:,} answers, {logged.compared:,} values compared, "
        f"{logged.unequal:,} unequal."
    )
    if len(reports) > 1:
        rows = [
            (schema, report.answers, report.compared, report.unequal)
            for schema, report in reports.items()
        ]
        numbers = ["answers", "compared", "unequal"]
        print_table("By schema", ["schema", *numbers], rows, right=numbers)
    if logged.pending:
        out.print(f"{logged.pending:,} answers wait for the lake.")
    text = (
        f"not compared: {reason}"
        if reason
        else f"{sampled.compared:,} values compared, {sampled.unequal:,} unequal."
    )
    out.print(f"{sampled.answers:,} people of the lake as the state has them now, {text}")
    if dropped := logged.dropped + sampled.dropped:
        out.print(
            f"{dropped:,} more differ, of entities that may have been dropped: there were "
            "more than entities_max."
        )
    if not unequal:
        return
    print_table(
        "Unequal, by feature", ["feature", "values"], list(unequal.items()), right=["values"]
    )
    for example in (*logged.examples, *sampled.examples)[:_EXAMPLES_MAX]:
        out.print(f"\n{example.feature}: read {example.logged}, the lake says {example.recomputed}")
        out.print(f"  {explaining(example)}")


def explaining(difference: "Difference") -> str:
    """Return the command that explains a value."""
    from tailorbird.events import to_iso

    anonymous = difference.person.startswith("anon:")
    entity = (
        f"anonymous:{difference.person[5:]}" if anonymous else f"user:{difference.person or '-'}"
    )
    item = f" --item {shlex.quote(difference.item)}" if difference.item else ""
    position_options = "".join(f" --known {p}" for p in difference.positions or (difference.p,))
    return (
        f"{this_command()} features show {shlex.quote(entity)}{item} --why "
        f"{difference.feature} --at "
        f"{to_iso(difference.t)}{position_options}"
    )
