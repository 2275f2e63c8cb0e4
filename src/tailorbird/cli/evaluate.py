"""`tailorbird evaluate`."""

from tailorbird.cli.output import Json, console, print_json, print_note, progress_bars
from tailorbird.cli.train import Rows


def evaluate(
    *versions: str,
    slot: str = "",
    window: str = "",
    quick: bool = False,
    rows: Rows = "auto",
    as_of: str = "",
    json: Json = False,
) -> None:
    """Judge the champion, or the versions named, beside all baselines on the newest part of what
    the lake holds. Changes nothing.

    Every figure has its 95 % interval over people. For each version it says up to when that one has
    learned: where this reaches into the part that it is judged on, its figures flatter it.

    Example:  tailorbird -C shop evaluate

    Example:  tailorbird -C shop evaluate v0001 v0002 --slot home --window 14d

    Parameters
    ----------
    versions:
        versions of the registry, or champion, previous, challenger; the champion unless told
            otherwise
    slot:
        train.slot unless told otherwise
    window:
        of how much of the past the newest part is taken, train.window unless told otherwise
    quick:
        judge fewer requests
    rows:
        judge on logged answers, or on clicks and the like; auto: answers, where enough have a known
            outcome
    as_of:
        judge as if it were this time, such as 2026-11-25, or `latest`: where the history in the
            lake ended, or now while events come
    """
    from tailorbird.cli.train import print_cold_start, print_long_tail, print_results
    from tailorbird.config import open_project
    from tailorbird.platform.training import evaluate as run_evaluate

    with progress_bars(quiet=json) as progress:
        evaluated = run_evaluate(
            open_project(applied=True),
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
        print_json(evaluated.plain())
        return
    evaluation = evaluated.evaluation
    title = (
        f"Slot {evaluated.slot}: {evaluation.requests:,} requests, {evaluation.people:,} people, "
        f"{evaluation.rows:,} rows of the newest part"
    )
    print_results(evaluation.to_dict()["results"], title)
    print_cold_start(evaluation)
    print_long_tail(evaluation)
    out = console()
    if evaluated.note:
        out.print(evaluated.note)
    for name, amount in evaluation.amounts.items():
        out.print(f"{name}: {amount.summary}")
    out.print(evaluation.about["source"])
    for version, moment in evaluated.learned_until.items():
        out.print(f"{version} learned from what came before {moment}")
