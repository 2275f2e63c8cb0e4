"""`tailorbird models verify`: check served scores against their bundles."""

from typing import TYPE_CHECKING

from tailorbird.cli.output import Json, console, print_json, print_note, print_table, progress_bars

if TYPE_CHECKING:
    from tailorbird.training.evaluation.rescore import ScoreReport

_EXAMPLES_MAX = 5


def verify(version: str = "", *, answers: int = 2_000, json: Json = False) -> None:
    """Recompute served scores from the logged features, and compare them with the logged scores.

    On the machine that answered, all bits of a score should be equal. A difference below 1e-6 of
    its size is reported but is no error, since another machine adds in another order. Scores that
    depend on items that changed within seconds of an answer are skipped. The command ends with
    status 1 if any other score differs, or if a version that answered cannot be loaded any more.

    `tailorbird features verify` checks the logged features against the lake.

    Example:  tailorbird -C shop models verify

    Example:  tailorbird -C shop models verify champion --answers 20000

    Parameters
    ----------
    version:
        a version, or champion, previous or canary; by default all stored versions that answered
    answers:
        number of logged answers to recompute, spread evenly over all of a version
    """
    from tailorbird.cli.models.commands import open_registry
    from tailorbird.platform.models.verify import verify as verify_scores

    project, registry = open_registry()
    with progress_bars(quiet=json) as progress:
        result = verify_scores(
            project, registry, version, answers=answers, progress=progress, notify=print_note
        )
    if json:
        print_json(result.to_dict())
    else:
        _print_reports(result.report_by_version, are_all_loaded=not result.damaged_versions)
    raise SystemExit(0 if result.is_sound else 1)


def _print_reports(report_by_version: "dict[str, ScoreReport]", *, are_all_loaded: bool) -> None:
    out = console()
    titles = [
        "version",
        "answers",
        "scores",
        "unequal",
        "of other bits",
        "of items that moved",
        "answers passed over",
    ]
    count_rows = [
        (
            name,
            *(
                f"{count:,}"
                for count in (
                    report.answers,
                    report.scores,
                    report.unequal,
                    report.other_bits,
                    report.moved,
                    report.skipped,
                )
            ),
        )
        for name, report in report_by_version.items()
    ]
    print_table("", titles, count_rows)
    for name, report in report_by_version.items():
        for example in report.examples[:_EXAMPLES_MAX]:
            out.print(
                f"{name}, answer {example.request_id}, item {example.item}: logged "
                f"{example.logged!r}, "
                f"now {example.recomputed!r}"
            )
    if not any(report.unequal for report in report_by_version.values()):
        if are_all_loaded:
            out.print("Every score that was compared is what the bundle says.", style="green")
        return
    out.print(
        "Compare the server's version and machine with this one's; a bundle's files are "
        "checked by  tailorbird models show"
    )
