"""`tailorbird experiment estimate`."""

from tailorbird.cli.output import Json, console, print_json, print_note, print_table


def estimate(
    *,
    bundle: str,
    against: str = "champion",
    slot: str = "",
    since: str = "",
    outcome: str = "click",
    as_of: str = "",
    json: Json = False,
) -> None:
    """Estimate what a bundle would earn per answer, from the log, before it sees traffic.

    Replays logged answers and weighs them by how likely each bundle would have shown the same. The
    value is a one-step reward over logged contexts. Changes nothing. Without enough exploration in
    the log there is no estimate, and the command says why.

    Example:  tailorbird -C shop experiment estimate --bundle v0007

    Example:  tailorbird -C shop experiment estimate --bundle v0007 --against v0005 --slot home

    Parameters
    ----------
    bundle:
        version of the registry, or champion, previous or challenger
    against:
        version to compare with
    slot:
        name of the slot; by default train.slot
    since:
        length of the most recent period to replay, such as 14d; by default train.window
    outcome:
        event type that counts as reward
    as_of:
        estimate as of this time, such as 2026-11-25, or `latest`: the end of the history in the
        lake
    """
    from tailorbird.config import open_project
    from tailorbird.platform.experiments.commands import estimate_policy

    report = estimate_policy(
        open_project(),
        bundle,
        against,
        slot=slot,
        since=since,
        outcome=outcome,
        as_of=as_of,
        notify=print_note,
    )
    if json:
        print_json(report.to_dict())
        return
    console().print(report.summary, style="bold")
    evaluation = report.evaluation
    for name, value in ((report.new, evaluation.new), (report.old, evaluation.old)):
        console().print(f"{name}: {value.support}")
    rows = [
        (name, str(evaluation.new[name]), str(evaluation.old[name]), str(difference))
        for name, difference in evaluation.difference.items()
        if not difference.is_refused
    ]
    if rows:
        columns = ["", report.new, report.old, "difference"]
        cells = [(name, *(cell.removeprefix(f"{name} ") for cell in row)) for name, *row in rows]
        print_table("", columns, cells, right=columns[1:])
    console().print(f"logged answers earned {evaluation.new.logged:.4f} each")
    console().print(f"{report.rebuilt:.1%} of the logged items are among the replayed candidates")
    for note in report.notes:
        console().print(note)
