"""`tailorbird experiment list|plan|start|ramp|stop|decide`."""

import math
from pathlib import Path
from typing import TYPE_CHECKING

from tailorbird.cli.output import By, Json, Why, console, print_json, print_table

if TYPE_CHECKING:
    from tailorbird.experiments.plan import Plan


def list_(*, json: Json = False) -> None:
    """List experiments: permanent splits of slots.py, and those of experiments.py by state.

    Example:  tailorbird -C shop experiment list
    """
    from tailorbird.config import open_project
    from tailorbird.platform.experiments.commands import LIST_COLUMNS, list_experiments

    rows = list_experiments(open_project())
    if json:
        print_json({"experiments": [dict(zip(LIST_COLUMNS, row, strict=True)) for row in rows]})
        return
    print_table("", [*LIST_COLUMNS], [(*row[:3], f"{row[3]:g}", *row[4:]) for row in rows])


def plan(
    name: str,
    *,
    since: str = "",
    drawn_shares: bool = False,
    svg: Path | None = None,
    json: Json = False,
) -> None:
    """Plan an experiment from the lake: units, days and detectable effect by stopping rule.

    Example:  tailorbird -C shop experiment plan home-model

    Example:  tailorbird -C shop experiment plan home-model --since 28d --svg plan.svg

    Example:  tailorbird -C shop experiment plan home-model --drawn-shares

    Parameters
    ----------
    name:
        an experiment of experiments.py
    since:
        length of the most recent period to learn from; by default the planned duration
    drawn_shares:
        also replay logged answers, and print which interval an estimate from the log alone
        would have if the slot drew a share of its slates
    svg:
        also draw the detectable effect by days into this file
    """
    from tailorbird.config import open_project
    from tailorbird.experiments.drawing import plan_svg
    from tailorbird.platform.experiments.commands import plan_declared

    result = plan_declared(open_project(), name, since=since, drawn_shares=drawn_shares)
    if svg is not None:
        svg.write_text(plan_svg(result))
    if json:
        print_json(result.to_dict())
        return
    console().print(f"{result.verdict}\n", style="bold")
    rows = [
        (
            rule.rule,
            "yes" if rule.is_adjusted else "no",
            f"{rule.sample_ratio:.3f}",
            f"{rule.expected_share:.0%}",
            f"{rule.units:,.0f}",
            "over a year" if math.isnan(rule.days) else f"{rule.days:.0f}",
            f"{rule.detectable:+.1%}",
        )
        for rule in result.rules
    ]
    columns = ["rule", "CUPED", "sample / fixed", "used", "units", "days", "detectable"]
    print_table("", columns, rows, numeric_columns=columns[2:])
    console().print(
        f"{result.metric}: mean {result.mean:.4g}; CUPED leaves {result.variance_ratio:.0%} of the "
        f"variance. Learnt from {result.observed_days} days of slot {result.slot}; what lies "
        "beyond is extrapolated."
    )
    if result.drawn_shares:
        _print_drawn_shares(result)


def _print_drawn_shares(result: "Plan") -> None:
    """Print what the log alone could tell of each arm, by the share of drawn slates."""
    rows = [
        (
            row.arm,
            f"{row.share:.0%}",
            f"±{row.half_width:.1%}" if row.is_enough else "refused",
            f"{row.effective:,.0f}",
            f"{row.unsupported:.1%}",
            f"{row.cost:.2%}",
        )
        for row in result.drawn_shares
    ]
    columns = ["arm", "drawn slates", "95 % interval", "effective sample", "not in the log", "cost"]
    title = f"Estimates from the log alone, after {result.duration_days:g} days"
    print_table(title, columns, rows, numeric_columns=columns[1:])
    console().print(
        "Half the width of the interval of the difference, in shares of what the log earned, by "
        "ips "
        "for an arm as good as the control; dr is usually narrower. "
        'Explore(method="plackett_luce", first=1, share=…, temperature=0.3) draws slates. The cost '
        "is the share of its outcome that the model expects to lose."
    )


def start(name: str, *, why: Why, ramp: float = 1.0, by: By = "") -> None:
    """Freeze a declaration of experiments.py, and run it.

    Servers follow within a second. A later edit of experiments.py changes nothing.

    Example:  tailorbird -C shop experiment start home-model --why "new ranker" --ramp 0.1

    Parameters
    ----------
    name:
        an experiment of experiments.py
    ramp:
        share of its units that takes part at first
    """
    from tailorbird.config import open_project
    from tailorbird.platform.experiments.commands import start_experiment

    started_experiment = start_experiment(open_project(), name, ramp=ramp, by=by, why=why)
    for arm, version in started_experiment.versions.items():
        console().print(f"{version} serves the arm {arm}.")
    console().print(
        f"{name} runs in slot {started_experiment.slot} with {ramp:.0%} of its units (declaration "
        f"{started_experiment.digest[:12]}). Results:  tailorbird experiment report {name}"
    )


def ramp(name: str, share: float, *, why: Why, by: By = "") -> None:
    """Let another share of an experiment's units take part. Units keep their arm.

    Example:  tailorbird -C shop experiment ramp home-model 0.5 --why "no complaints"

    Parameters
    ----------
    name:
        a running experiment
    share:
        share of its units, up to 1
    """
    from tailorbird.config import open_project
    from tailorbird.platform.experiments.commands import change_experiment

    change_experiment(open_project(), "ramp", name, share, by=by, why=why)
    console().print(f"{name}: {share:.0%} of its units take part.")


def stop(name: str, *, why: Why, by: By = "") -> None:
    """End an experiment. The slot's own policy serves everybody again.

    Example:  tailorbird -C shop experiment stop home-model --why "boundary crossed"

    Parameters
    ----------
    name:
        a running experiment
    """
    from tailorbird.config import open_project
    from tailorbird.platform.experiments.commands import change_experiment

    stopped_experiment = change_experiment(open_project(), "stop", name, by=by, why=why)
    console().print(
        f"{name} is stopped; slot {stopped_experiment.slot} answers by its own policy. Then:  "
        "tailorbird "
        f"experiment decide {name} ARM --why …"
    )


def decide(name: str, arm: str, *, why: Why, by: By = "") -> None:
    """Record which arm of a stopped experiment was chosen, and why.

    Example:  tailorbird -C shop experiment decide home-model model --why "+4 % clicks"

    Parameters
    ----------
    name:
        a stopped experiment
    arm:
        the chosen arm
    """
    from tailorbird.config import open_project
    from tailorbird.platform.experiments.commands import change_experiment

    decided_experiment = change_experiment(open_project(), "decide", name, arm, by=by, why=why)
    version = decided_experiment.versions.get(arm)
    next_step = (
        f"Now:  tailorbird models promote {version} --because {name}"
        if version
        else f"Now make slot {decided_experiment.slot} of slots.py answer like it."
    )
    console().print(f"{name}: {arm}. {next_step}")
