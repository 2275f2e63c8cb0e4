"""`tailorbird evaluate`."""

from tailorbird.cli.output import Json, console, print_json, print_note, progress_bars
from tailorbird.cli.training.train import RowSource


def evaluate(
    *versions: str,
    slot: str = "",
    window: str = "",
    quick: bool = False,
    rows: RowSource = "auto",
    as_of: str = "",
    json: Json = False,
) -> None:
    """Compare the champion, or named versions, with all baselines on the newest data.

    Changes nothing. Every figure has a 95 % interval over people. For each version the command
    prints the end of its training data. If that reaches into the evaluated part, its figures are
    too optimistic.

    Example:  tailorbird -C shop evaluate

    Example:  tailorbird -C shop evaluate v0001 v0002 --slot home --window 14d

    Parameters
    ----------
    versions:
        versions of the registry, or champion, previous or challenger; by default the champion
    slot:
        name of the slot; by default train.slot
    window:
        length of the past whose newest part is evaluated; by default train.window
    quick:
        evaluate on fewer requests
    rows:
        evaluate on logged answers, or on clicks and other events; auto takes answers if enough of
        them have a known outcome
    as_of:
        evaluate as of this time, such as 2026-11-25, or `latest`: the end of the history in the
        lake, or now while events arrive
    """
    from tailorbird.cli.training.train import print_cold_start, print_long_tail, print_results
    from tailorbird.config import open_project
    from tailorbird.platform.training import evaluate as run_evaluate

    with progress_bars(quiet=json) as progress:
        outcome = run_evaluate(
            open_project(use_applied=True),
            versions,
            slot=slot,
            window=window,
            quick=quick,
            rows=rows,
            as_of=as_of,
            progress=progress,
            notify=print_note,
        )
    if json:
        print_json(outcome.to_dict())
        return
    evaluation = outcome.evaluation
    title = (
        f"Slot {outcome.slot}: {evaluation.request_count:,} requests, "
        f"{evaluation.user_count:,} people, "
        f"{evaluation.row_count:,} rows of the newest part"
    )
    print_results(evaluation.to_dict()["results"], title)
    print_cold_start(evaluation)
    print_long_tail(evaluation)
    out = console()
    if outcome.note:
        out.print(outcome.note)
    for name, metrics in evaluation.amount_metrics.items():
        out.print(f"{name}: {metrics.summary}")
    out.print(evaluation.data_summary["source"])
    for version, training_end in outcome.training_end_by_version.items():
        out.print(f"{version} learned from what came before {training_end}")
