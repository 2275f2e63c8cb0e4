"""The part of `docs/results.md` about monitoring, from the JSON of `monitoring`."""

import math
from collections.abc import Callable, Mapping
from typing import Any

BEGIN, END = "<!-- monitoring: begin -->", "<!-- monitoring: end -->"
Figures = Mapping[str, Any]
Beside = Callable[[Figures], str]


def _peers(**paths: str) -> Beside:
    """Return what shows the figures of peers, by name and path in the results."""

    def show(results: Figures) -> str:
        return ", ".join(
            f"{name.replace('_', ' ')} {_show(results, path)}" for name, path in paths.items()
        )

    return show


def _by_traffic(results: Figures) -> str:
    shares = results["quiet"]["shared_faults"]["by_traffic"].items()
    shown = ", ".join(f"{name} {each['value']:.0%}" for name, each in shares)
    return f"by requests/s: {shown}; a small holdout cannot excuse the champion"


NONE = _peers()
ROWS: tuple[tuple[str, str, str, Beside], ...] = (
    (
        "false alarm episodes a month, one stated, 100 features; peers: days with an alarm",
        "false_alarms.tailorbird",
        ".5 to 1.1",
        _peers(
            KS_with_Bonferroni="false_alarms.ks_bonferroni",
            PSI="false_alarms.psi_day",
            Evidently="false_alarms.evidently_day",
            NannyML="false_alarms.nannyml_day",
        ),
    ),
    ("good champion rolled back within a quiet month, share", "quiet.quiet", "at most .01", NONE),
    (
        "the same, two faults a month that hit the holdout too",
        "quiet.shared_faults",
        "reported",
        _by_traffic,
    ),
    (
        "equally fast canary ended for its latency within six hours with bursts, share",
        "canary_latency.false_ends",
        "at most .01",
        _peers(percentiles_without_chance="canary_latency.false_ends_by_percentiles_alone"),
    ),
    (
        "canary twice as slow ended within six hours, share",
        "canary_latency.twice_as_slow.ended",
        "reported",
        NONE,
    ),
    (
        "minutes until a canary twice as slow is ended",
        "canary_latency.twice_as_slow.minutes",
        "reported",
        NONE,
    ),
    *(
        (f"roll-back at 100 requests/s, {fault}, seconds", f"rollback.{path}", target, NONE)
        for fault, path, target in (
            ("errors", "errors", "below 60"),
            ("NaN", "not_finite", "below 60"),
            ("empty lists", "empty", "below 60"),
            ("CTR halved", "ctr_halved", "below 60"),
            ("CTR −20 %", "ctr_minus_20", "reported"),
            ("CTR −10 %", "ctr_minus_10", "reported"),
        )
    ),
    (
        "conversion after one day, bias",
        "delayed.bias",
        "±.02",
        _peers(observed_so_far="delayed.bias_naive"),
    ),
    ("the same, coverage of the interval", "delayed.coverage", ".93 to .97", NONE),
    (
        "AUC without labels under covariate shift, error",
        "label_free.error",
        "at most NannyML's",
        _peers(NannyML_CBPE="label_free.error_nannyml", AUC_before="label_free.error_before_shift"),
    ),
    ("the same less NannyML's error, site by site", "label_free.difference", "at most 0", NONE),
    ("AUC without labels, coverage of the interval", "label_free.coverage", "reported", NONE),
    (
        "sketches of 100 features, µs a response, in the trainer; the worker has none",
        "cost_us.sketches",
        "60",
        NONE,
    ),
    ("figures, µs a response, in the trainer", "cost_us.figures", "reported", NONE),
)


def render(text: str, report: Figures) -> str:
    """Return the page with its part about monitoring replaced."""
    before, after = text.split(BEGIN)[0], text.split(END)[1]
    return f"{before}{BEGIN}\n\n{table(report)}\n\n{END}{after}"


def table(report: Figures) -> str:
    """Return the parts that were measured as Markdown."""
    results = report["results"]
    lines = [
        "| claim | target | Tailorbird | 95 % interval or 10–90 % | n | beside |",
        "|---|---|---|---|---|---|",
    ]
    for text, path, target, beside in ROWS:
        figure = _find(results, path)
        if figure is None:
            continue
        value, low, high = (figure.get(name) for name in ("value", "low", "high"))
        interval = f"{low:.3g} to {high:.3g}" if low is not None and high is not None else ""
        if missed := figure.get("missed"):
            interval += f", {missed} not within two hours"
        shown = "not detected" if value is None else f"{value:.3g}"
        lines.append(
            f"| {text} | {target} | {shown} | {interval} | {figure['n']} | {beside(results)} |"
        )
    if "delay" in results:
        lines += ["", *_delay_table(results["delay"])]
    if results.get("globo"):
        lines += ["", *_replay_table(results["globo"])]
    return "\n".join([*lines, "", _measured(report["about"])])


def _find(results: Figures, path: str) -> Figures | None:
    figure: Any = results
    for part in path.split("."):
        figure = figure.get(part) if figure is not None else None
    return figure


def _show(results: Figures, path: str) -> str:
    figure = _find(results, path)
    if figure is None:
        return "not measured"
    return f"{figure['value']:.3g}" if figure["value"] is not None else f"({figure['cause']})"


def _delay_table(delay: Figures) -> list[str]:
    """Return hours to detection by drift and method, all at the same rate of false alarms."""
    methods = list(next(iter(delay.values())))
    lines = [
        "Hours to detection, median (share missed), all at Tailorbird's false-alarm rate.",
        "",
        f"| drift | {' | '.join(each.replace('_', ', ') for each in methods)} |",
        f"|---|{'---|' * len(methods)}",
    ]
    for kind, figures in delay.items():
        cells = []
        for method in methods:
            hours = figures[method]["hours"]["value"]
            missed = figures[method]["missed"]["value"]
            text = "not detected" if hours is None else f"{hours:.3g}"
            cells.append(text + (f" ({missed:.0%})" if missed else ""))
        lines.append(f"| {kind.replace('_', ' ')} | {' | '.join(cells)} |")
    return [*lines, "", _worst_delay(delay)]


def _worst_delay(delay: Figures) -> str:
    """Return the drifts that a peer detects sooner, with the ratio of the medians.

    None should be above 1, and none may be above 1.5.
    """
    slower = []
    for kind, figures in delay.items():
        hours = {name: each["hours"]["value"] or math.inf for name, each in figures.items()}
        ours = hours.pop("tailorbird")
        if ours > (best := min(hours.values())):
            ratio = "never" if math.isinf(ours) else f"{ours / best:.2f} times"
            slower.append(f"{kind.replace('_', ' ')} ({ratio} the best)")
    return f"Slower than the best peer: {', '.join(slower) or 'none'}."


def _replay_table(replay: Figures) -> list[str]:
    """Return the episodes of the replayed log."""
    gap = replay["longest_gap"]
    lines = [
        f"Globo's clicks replayed ({replay['hours']} hours). Its only outage begins "
        f"{gap['since'][:16]}Z and takes {gap['minutes']:.0f} minutes.",
        "",
        "| since | until | likely cause | evidence |",
        "|---|---|---|---|",
    ]
    for each in (*replay["first_week"], *replay["later"]):
        lines.append(
            f"| {each['since']} | {each['until']} | {each['cause']} | {each['evidence']} |"
        )
    return lines


def _measured(about: Figures) -> str:
    """Return at which revision, and at which share of the full number of runs."""
    groups: dict[tuple[str, float], list[str]] = {}
    for name, part in about["parts"].items():
        groups.setdefault((part["revision"], part["share"]), []).append(name.replace("_", " "))
    texts = [
        f"`{revision}`, share {share:g}" + (f" ({', '.join(names)})" if len(groups) > 1 else "")
        for (revision, share), names in groups.items()
    ]
    return f"Measured at revision {'; '.join(texts)}. Seeds begin at {about['first_seed']:,}."
