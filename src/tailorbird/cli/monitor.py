"""`tailorbird monitor`: live figures, drift, and what was decided about models."""

import getpass
import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from tailorbird.cli.output import By, Json, Why, console, print_json, print_table
from tailorbird.errors import NotReadyError, UsageError

_SHIFT_ROWS_MAX = 5  # printed signals, those that moved furthest from the training

if TYPE_CHECKING:
    from tailorbird.monitoring.figures import Figures


def figures(
    *,
    slot: str = "",
    by: str = "",
    since: str = "",
    window: str = "",
    as_of: str = "",
    plot: Path | None = None,
    metric: str = "ctr",
    churn: str = "",
    json: Json = False,
) -> None:
    """Print requests, latency, errors, CTR, conversion, revenue, coverage and more.

    The figures are of what people were served, without crawlers. They are computed from the lake,
    and stored by the hour in data/monitoring. Conversion counts purchases that are still to come,
    by the delays of earlier ones; `estimated` is the part of it that is an estimate. Rates have
    95 % intervals. `ctr expected` and `auc expected` are what the model's click probabilities
    promise, known before the clicks are. They hold if only the people and items changed.

    Example:  tailorbird -C shop monitor figures --slot home --by version --since 7d

    Example:  tailorbird -C shop monitor figures --window 1h --plot ctr.png

    Example:  tailorbird -C shop monitor figures --churn churn

    Parameters
    ----------
    slot:
        only this slot
    by:
        slot, version, arm, device or visitor (new or returning)
    since:
        length of the most recent period; by default 1d, with --churn 180d
    window:
        length of a window, from 1m to 1d; by default one window over all
    as_of:
        end of the period, ISO 8601; by default now, or the end of an imported log
    plot:
        also draw one figure over time into this file
    metric:
        the figure to draw
    churn:
        how right this churn model of churn.py was, by week
    """
    if churn:
        _refuse_options_beside_churn(slot=slot, by=by, window=window, plot=plot)
        _print_churn(churn, since or "180d", as_of, is_json=json)
        return
    from tailorbird.config import open_project
    from tailorbird.platform.clocks import clock_as_of
    from tailorbird.platform.monitoring import DEFAULT_METRICS, read_figures

    project = open_project()
    now = clock_as_of(as_of, project, allow_lateness=False).now()
    result = read_figures(project, now, slot, by=by, since=since or "1d", window=window)
    if plot is not None:
        result.plot(metric).savefig(plot)
    if json:
        print_json(result.to_dict())
        return
    from tailorbird.events import to_iso

    heading_by_metric = {"latency_ms_p95": "p95 ms", "conversion_estimated_share": "estimated"}
    titles = [
        heading_by_metric.get(
            name, name.removesuffix("_rate").replace("_s", " s").replace("_e", " e")
        )
        for name in DEFAULT_METRICS
    ]
    rows = [
        (
            to_iso(row.start)[:16],
            row.group,
            *(_format_figure(row, name) for name in DEFAULT_METRICS),
        )
        for row in result.rows
    ]
    print_table("", ["start (UTC)", by or "group", *titles], rows, numeric_columns=titles)
    if plot is not None:
        console().print(f"Plot: {plot}")


def _refuse_options_beside_churn(**options: object) -> None:
    if given_options := ", ".join(f"--{name}" for name, value in options.items() if value):
        raise UsageError(
            f"{given_options} cannot stand beside --churn",
            where="monitor figures --churn",
            fix="leave them out; --since, --as-of and --json work",
        )


def _print_churn(name: str, since: str, as_of: str, *, is_json: bool) -> None:
    from tailorbird.config import open_project
    from tailorbird.events import parse_duration
    from tailorbird.platform.clocks import clock_as_of
    from tailorbird.platform.models.churn_figures import read_churn_figures

    project = open_project()
    clock = clock_as_of(as_of, project, allow_lateness=False)
    figures = read_churn_figures(project, clock, name, clock.now() - parse_duration(since))
    if is_json:
        print_json(figures.to_dict())
        return
    frame = figures.to_frame()
    rows = [
        tuple(f"{value:.3f}" if isinstance(value, float) else value for value in row.values())
        for row in frame.to_pylist()
    ]
    print_table("", frame.columns, rows)


def status(*, as_of: str = "", json: Json = False) -> None:
    """Print the last 24 hours in ten lines: traffic, figures, models, alarms and decisions.

    Example:  tailorbird -C shop monitor status

    Parameters
    ----------
    as_of:
        end of the 24 hours, ISO 8601; by default now, or the end of an imported log
    """
    from tailorbird.config import open_project
    from tailorbird.platform.clocks import clock_as_of
    from tailorbird.platform.monitoring import read_status

    project = open_project()
    result = read_status(project, clock_as_of(as_of, project, allow_lateness=False))
    if json:
        print_json(result.to_dict())
    else:
        for line in result.lines:
            console().print(line)


def drift(
    *, since: str = "7d", against: str = "history", as_of: str = "", json: Json = False
) -> None:
    """Print episodes in which clicks, features, scores, fields or traffic moved, with the cause.

    The most recent period is compared hour by hour, and day by day, with what was before.
    `monitoring.false_alarms` says how many episodes a month chance alone may cause. A fall of the
    champion's clicks against a control is listed until another model takes over.

    Example:  tailorbird -C shop monitor drift

    Example:  tailorbird -C shop monitor drift --against training

    Parameters
    ----------
    since:
        length of the most recent period
    against:
        history, or training: what the champion learned from
    as_of:
        end of the period, ISO 8601; by default now, or the end of an imported log
    """
    from tailorbird.config import open_project
    from tailorbird.platform.clocks import clock_as_of
    from tailorbird.platform.drift import find_drift

    project = open_project()
    clock = clock_as_of(as_of, project, allow_lateness=False)
    result = find_drift(project, clock, since=since, against=against, is_live=not as_of)
    if json:
        print_json(result.to_dict())
        return
    rows = [
        (row.since, row.until or "goes on", row.cause, row.evidence, row.runbook)
        for row in result.episodes
    ]
    print_table(result.header, ["since", "until", "likely cause", "evidence", "runbook"], rows)
    if result.shift_by_signal:
        shift_rows = [
            (
                name,
                shift.current_distance,
                None if math.isnan(shift.training_distance) else shift.training_distance,
                shift.is_skew,
            )
            for name, shift in list(result.shift_by_signal.items())[:_SHIFT_ROWS_MAX]
        ]
        headings = ["signal", "distance now", "in the time of the training", "skew"]
        print_table(
            "Furthest from the training", headings, shift_rows, numeric_columns=headings[1:3]
        )


def decide(slot: str = "", *, as_of: str = "", json: Json = False) -> None:
    """Print what the trainer would do about the champion now: recalibrate, retrain or hold.

    It changes nothing. The trainer decides once clicks, conversion, revenue or calibration fell by
    more than chance allows. If only the level of the scores is off, it fits their calibration anew.

    Example:  tailorbird -C shop monitor decide

    Parameters
    ----------
    slot:
        only this slot
    as_of:
        time of the decision, ISO 8601; by default now, or the end of an imported log
    """
    import msgspec

    from tailorbird.config import open_project
    from tailorbird.platform.clocks import clock_as_of
    from tailorbird.platform.runtime.falls import read_decisions

    project = open_project()
    decisions = read_decisions(project, clock_as_of(as_of, project, allow_lateness=False), slot)
    if json:
        print_json({"decisions": msgspec.to_builtins(decisions)})
        return
    rows = [(decision.slot, decision.action, decision.reason) for decision in decisions]
    print_table("", ["slot", "decision", "reason"], rows)


def approve(*, why: Why = "", by: By = "", churn: str = "") -> None:
    """Take the step of a model that waits for a person, see `rollout.approval`.

    The ranker comes before churn models.

    Example:  tailorbird -C shop monitor approve --why "the figures look right"

    Parameters
    ----------
    churn:
        a step of this churn model
    """
    from tailorbird.config import open_project

    if not why:
        raise UsageError("expected a reason for the audit log", where="--why", fix='--why "…"')
    from tailorbird.platform.rollout import approve as approve_step

    project = open_project()
    author = by or getpass.getuser()
    action, version = approve_step(project, project.clock(), by=author, why=why, churn=churn)
    console().print(f"{action} {version}: done")


def notify(*, test: bool = False, json: Json = False) -> None:
    """Print who gets messages about drift and decisions, and who does not accept them.

    The receivers are in `notify.urls`. The trainer sends one message for each episode and decision.

    Example:  tailorbird -C shop monitor notify --test

    Parameters
    ----------
    test:
        send a test message to each receiver; the command fails if one does not accept it
    """
    import msgspec

    from tailorbird.config import open_project
    from tailorbird.platform.notify import read_receivers, send_test_messages

    project = open_project()
    receivers = send_test_messages(project, project.clock()) if test else read_receivers(project)
    if json:
        print_json({"receivers": msgspec.to_builtins(receivers)})
    else:
        success_text = "accepted the test message" if test else "-"
        rows = [
            (receiver.receiver, receiver.failing_since, receiver.error or success_text)
            for receiver in receivers
        ]
        print_table("", ["receiver", "fails since", "why"], rows)
    failing_receivers = [receiver.receiver for receiver in receivers if receiver.error]
    if test and failing_receivers:
        raise NotReadyError(
            f"{', '.join(failing_receivers)} did not accept the test message",
            where="notify.urls",
            fix="correct the URL, or start what it names",
        )


def silence(
    cause: str,
    *,
    length: Annotated[str, Parameter(name="--for")] = "",
    end: bool = False,
    json: Json = False,
) -> None:
    """Send no messages about a cause for a while; the status lists what is silenced.

    An episode that still goes on afterwards is sent then.

    Example:  tailorbird -C shop monitor silence "catalogue swap" --for 2h

    Example:  tailorbird -C shop monitor silence all --end

    Parameters
    ----------
    cause:
        a cause that `monitor drift` prints, a kind (drift, rollback, refused, approval, page), or all
    length:
        how long, such as 2h
    end:
        end the silence now
    """
    from tailorbird.config import open_project
    from tailorbird.platform.notify import silence_cause

    if bool(length) == end:
        raise UsageError("expected how long, or --end", where="monitor silence", fix="--for 2h")
    project = open_project()
    silences = silence_cause(project, project.clock(), cause, length)
    if json:
        print_json({"silenced": silences})
        return
    for name, until in silences.items():
        console().print(f"{name} is silenced until {until}")
    if not silences:
        console().print("nothing is silenced")


def _format_figure(row: "Figures", name: str) -> object:
    value = getattr(row, name)
    if isinstance(value, float) and math.isnan(value):
        return None
    if name in ("error_rate", "degraded_rate", "coverage") or "share" in name:
        return f"{value:.2%}"
    if not hasattr(row, f"{name}_low"):
        return value if isinstance(value, int) else f"{value:,.2f}"
    low = getattr(row, f"{name}_low")
    high = getattr(row, f"{name}_high")
    if name.startswith("auc"):
        return f"{value:.2f} ({low:.2f} to {high:.2f})"
    return f"{value:.2%} ({low:.2%} to {high:.2%})"
