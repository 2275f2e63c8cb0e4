"""Output of parity reports: as JSON, and for people."""

import shlex
from typing import TYPE_CHECKING

from tailorbird.cli.output import console, print_table, this_command

if TYPE_CHECKING:
    from tailorbird.features.parity.recompute import Difference, ParityReport


_EXAMPLES_MAX = 5


def reports_to_dict(
    report_by_schema: "dict[str, ParityReport]",
    logged_report: "ParityReport",
    state_report: "ParityReport",
    unequal_by_feature: dict[str, int],
) -> dict:
    """Return the reports for JSON.

    `logged_report` compares logged answers, `state_report` a sample of the present state.
    """
    return {
        "schemas": {
            schema: {
                "answers": report.answers,
                "compared": report.compared,
                "unequal": report.unequal,
            }
            for schema, report in report_by_schema.items()
        },
        "answers": logged_report.answers,
        "skipped": logged_report.skipped,
        "exempt": logged_report.exempt,
        "pending": logged_report.pending,
        "samples": state_report.answers,
        "compared": logged_report.compared + state_report.compared,
        "unequal": logged_report.unequal + state_report.unequal,
        "dropped": logged_report.dropped + state_report.dropped,
        "by_feature": unequal_by_feature,
        "examples": [
            {**vars(example), "explain": explain_command(example)}
            for example in (*logged_report.examples, *state_report.examples)[:_EXAMPLES_MAX]
        ],
    }


def print_reports(
    report_by_schema: "dict[str, ParityReport]",
    logged_report: "ParityReport",
    state_report: "ParityReport",
    unequal_by_feature: dict[str, int],
    sampling_obstacle: str,
) -> None:
    out = console()
    out.print(
        f"{logged_report.answers:,} answers, {logged_report.compared:,} values compared, "
        f"{logged_report.unequal:,} unequal."
    )
    if len(report_by_schema) > 1:
        rows = [
            (schema, report.answers, report.compared, report.unequal)
            for schema, report in report_by_schema.items()
        ]
        count_titles = ["answers", "compared", "unequal"]
        print_table("By schema", ["schema", *count_titles], rows, numeric_columns=count_titles)
    if logged_report.pending:
        out.print(f"{logged_report.pending:,} answers wait for the lake.")
    state_text = (
        f"not compared: {sampling_obstacle}"
        if sampling_obstacle
        else f"{state_report.compared:,} values compared, {state_report.unequal:,} unequal."
    )
    out.print(
        f"{state_report.answers:,} people of the lake as the state has them now, {state_text}"
    )
    if dropped_count := logged_report.dropped + state_report.dropped:
        out.print(
            f"{dropped_count:,} more differ, of entities that may have been dropped: there were "
            "more than entities_max."
        )
    if not unequal_by_feature:
        return
    print_table(
        "Unequal, by feature",
        ["feature", "values"],
        list(unequal_by_feature.items()),
        numeric_columns=["values"],
    )
    for example in (*logged_report.examples, *state_report.examples)[:_EXAMPLES_MAX]:
        out.print(f"\n{example.feature}: read {example.logged}, the lake says {example.recomputed}")
        out.print(f"  {explain_command(example)}")


def explain_command(difference: "Difference") -> str:
    """Return the command that explains a value."""
    from tailorbird.events import to_iso

    is_anonymous = difference.person.startswith("anon:")
    entity = (
        f"anonymous:{difference.person[5:]}" if is_anonymous else f"user:{difference.person or '-'}"
    )
    item = f" --item {shlex.quote(difference.item)}" if difference.item else ""
    position_options = "".join(
        f" --known {p}" for p in difference.log_positions or (difference.log_position,)
    )
    return (
        f"{this_command()} features show {shlex.quote(entity)}{item} --why "
        f"{difference.feature} --at "
        f"{to_iso(difference.t)}{position_options}"
    )
