"""`tailorbird experiment estimate`."""

from tailorbird.cli.output import Json, console, print_json, print_note, print_table


def estimate(
    *,
    bundle: str = "",
    formula: str = "",
    settings_of: str = "",
    arm: str = "",
    against: str = "",
    slot: str = "",
    since: str = "",
    outcome: str = "click",
    as_of: str = "",
    json: Json = False,
) -> None:
    """Estimate what a policy would earn per answer, from the log, before it sees traffic.

    A policy is a bundle, a formula, another slot's settings (its rules, sources and so on), or an
    arm. Replays logged answers and weighs them by how likely each policy would have shown the same.
    The value is a one-step reward over logged contexts. Changes nothing. Without enough exploration
    in the log there is no estimate, and the command says why.

    Example:  tailorbird -C shop experiment estimate --bundle v0007

    Example:  tailorbird -C shop experiment estimate --bundle v0007 --against v0005 --slot home

    Example:  tailorbird -C shop experiment estimate --formula "click + 8*purchase"

    Example:  tailorbird -C shop experiment estimate --arm home-model:new

    Parameters
    ----------
    bundle:
        version of the registry, or champion, previous or challenger; by default champion
    formula:
        value of an item, instead of the slot's
    settings_of:
        slot of slots.py whose formula, rules, sources and other settings apply
    arm:
        EXPERIMENT:ARM, declared or started
    against:
        version or EXPERIMENT:ARM to compare with; by default champion, or the arm's control
    slot:
        name of the slot; by default that of the arm, or train.slot
    since:
        length of the most recent period to replay, such as 14d; by default train.window
    outcome:
        event type that counts as reward
    as_of:
        estimate as of this time, such as 2026-11-25, or `latest`: the end of the history in the
        lake
    """
    from tailorbird.config import open_project
    from tailorbird.platform.experiments.estimate import estimate_policy

    report = estimate_policy(
        open_project(),
        bundle,
        against,
        formula=formula,
        settings_of=settings_of,
        arm=arm,
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
    for name, policy_value in ((report.new, evaluation.new), (report.old, evaluation.old)):
        console().print(f"{name}: {policy_value.support}")
    rows = [
        (name, str(evaluation.new[name]), str(evaluation.old[name]), str(difference))
        for name, difference in evaluation.difference.items()
        if not difference.is_refused
    ]
    if rows:
        columns = ["", report.new, report.old, "difference"]
        table_rows = [
            (name, *(cell.removeprefix(f"{name} ") for cell in row)) for name, *row in rows
        ]
        print_table("", columns, table_rows, numeric_columns=columns[1:])
    console().print(f"logged answers earned {evaluation.new.logged:.4f} each")
    console().print(
        f"{report.rebuilt_share:.1%} of the logged items are among the replayed candidates"
    )
    for note in report.notes:
        console().print(note)
