"""The comparison of candidate lists in `tailorbird features verify`."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from tailorbird.cli.output import console, print_table

if TYPE_CHECKING:
    from tailorbird.candidates.parity import ListReport

_EXAMPLES_MAX = 5


def lists_to_dict(report: "ListReport") -> dict[str, Any]:
    """Return the report as a dict for JSON."""
    return asdict(report)


def print_lists(report: "ListReport") -> None:
    """Print the report."""
    out = console()
    unequal_count = sum(report.unequal.values())
    out.print(
        f"{report.lists:,} lists of candidates in {report.responses:,} answers compared, "
        f"{unequal_count:,} unequal."
    )
    if report.unequal:
        print_table(
            "Unequal, by source",
            ["source", "lists"],
            list(report.unequal.items()),
            numeric_columns=["lists"],
        )
    for example in report.examples[:_EXAMPLES_MAX]:
        out.print(f"  {example.source} of request {example.request_id}, tables at {example.p:,}")
