"""`tailorbird rules report`: the cost of rules."""

from tailorbird.cli.output import Json, console, print_json, print_table, progress_bars


def report(slot: str = "", *, requests: int = 200, json: Json = False) -> None:
    """Report what each rule, boost, pin, promotion, cap, quota and list of a slot costs in value.

    The command answers the newest logged requests of the slot again, with the champion and the
    present features: once with all rules, and once without each of them. It logs nothing, and also
    writes a page into data/reports.

    Example:  tailorbird -C shop rules report home

    Example:  tailorbird -C shop rules report home --requests 1000 --json

    Parameters
    ----------
    slot:
        name of the slot; by default train.slot
    requests:
        number of logged requests to answer again, the newest first
    """
    from tailorbird.config import open_project
    from tailorbird.platform.models.rule_costs import COLUMN_TITLES, format_cost_row, rule_costs

    project = open_project(use_applied=True)
    with progress_bars(quiet=json) as progress:
        result = rule_costs(project, slot, requests=requests, progress=progress)
    if json:
        print_json(result.to_dict())
        return
    print_table(
        f"Slot {result.slot}, {result.request_count:,} requests answered again",
        COLUMN_TITLES,
        [format_cost_row(cost) for cost in result.costs],
        numeric_columns=COLUMN_TITLES[1:],
    )
    out = console()
    out.print(
        "The cost of a rule is the expected value of an answer without it minus that with "
        "it, with the present features of people."
    )
    out.print(f"Page: {result.page_path}")
