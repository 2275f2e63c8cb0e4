"""`tailorbird train`: train a model."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from tailorbird.cli.output import (
    Json,
    console,
    print_json,
    print_note,
    print_table,
    progress_bars,
    this_command,
)

if TYPE_CHECKING:
    from tailorbird.training.evaluation.figures import Evaluation
    from tailorbird.training.settings import TrainReport
    from tailorbird.training.tasks.churn.report import ChurnReport

# Repeated from `platform.training`, which takes half a second to import.
RowSource = Literal["auto", "answers", "clicks"]
PositionHandling = Literal["column", "weights", "none"]
Retrieval = Literal["", "auto", "tables", "sequence"]
DEFAULT_REQUESTS = 25_000
RANKING_METRICS = ("ndcg_10", "recall_10", "mrr", "auc", "candidate_recall", "coverage_10")
CHURN_METRICS = ("auc", "ap", "log_loss", "lift_10", "mae", "bias")


def train(
    name: str = "",
    *,
    window: str = "",
    quick: bool = False,
    budget: str = "",
    requests: int = DEFAULT_REQUESTS,
    promote: bool = True,
    rows: RowSource = "auto",
    arm: str = "",
    architecture: str = "",
    retrieval: Retrieval = "",
    incremental: bool = False,
    parameters: str = "",
    processes: int = 1,
    position: PositionHandling = "column",
    leave_out: str = "",
    untuned: bool = False,
    seed: int = 7,
    as_of: str = "",
    json: Json = False,
) -> None:
    """Train a ranking or churn model, and promote it if it passes the gate.

    A name that churn.py declares trains that churn model; any other name is a slot. All data is
    split by time. The model is promoted only if it beats the champion and the best baseline beyond
    noise; a newer one of the same recipe is promoted if it is not worse. Otherwise it is stored
    with the reason. A report is written in any case.

    An interrupted training of a neural network continues when the same command runs again within a
    day. Its metrics by epoch are in data/training/logs for TensorBoard, and in MLflow if that is
    installed and MLFLOW_TRACKING_URI is set.

    Example:  tailorbird -C shop train

    Example:  tailorbird -C shop train home --window 14d --quick

    Example:  tailorbird -C shop train --budget 2m

    Example:  tailorbird -C news train --as-of latest

    Example:  tailorbird -C shop train --leave-out device,user_spend_28d

    Example:  tailorbird -C shop train --architecture mmoe

    Example:  tailorbird -C shop train --architecture mmoe --incremental

    Example:  tailorbird -C shop train --retrieval sequence

    Example:  tailorbird -C shop train home --arm home-model:new

    Example:  tailorbird -C shop train --architecture dcn --parameters '{"negative_share": 0.2}'

    Example:  tailorbird -C shop train --architecture mmoe --processes 4

    Example:  tailorbird -C shop train churn

    Parameters
    ----------
    name:
        a slot of slots.py, by default train.slot, or a churn model of churn.py
    window:
        for slots: length of the past to learn from; by default train.window
    quick:
        use fewer rows and trees, for a first model within seconds
    budget:
        for slots: time limit, such as 2m; as many requests and trees as fit into it on this machine
        are chosen in advance and stored in the manifest; below 8m no vectors are learned; by
        default what two idle cores do in ten minutes
    requests:
        for slots: maximum number of requests to learn from, drawn evenly over the window; 0 takes
        all; the default took 5 to 25 minutes and at most 6.1 GB on two shared cores
    promote:
        promote the model if it passes the gate
    rows:
        for slots: learn from logged answers, or from clicks with the candidates that the slot's
        sources gave before them; auto takes answers if enough of them have a known outcome
    arm:
        for slots: learn from the answers of one arm alone, as EXPERIMENT:ARM, so that arms do not
        learn from each other; the model is stored and not promoted
    architecture:
        for slots: boosted trees (gbdt), logistic regression (logistic), an estimator of models.py,
        or a neural network, which needs the extra `deep`: mlp and dcn have a network per head,
        shared and mmoe one for all; auto takes a network only if it orders the validation part
        better than trees; by default the one in tuned.toml, or gbdt and the estimators of models.py
        beside it
    retrieval:
        for slots: candidates from tables alone, or a third of them from vectors of people and items
        (`sequence`, needs the extra `deep`); auto takes vectors if as many candidates then contain
        more of people's next actions in the validation part; by default train.retrieval, and tables
        with --quick
    incremental:
        continue from the weights of the last net, or add trees to the champion's, over newer events
        and as many older ones; in a net new ids get an embedding row, and removed ids lose theirs
    parameters:
        for neural networks: overrides of the architecture's defaults, as a JSON object; an unknown
        name prints the known ones
    processes:
        for neural networks: number of processes that share each batch, each on its own GPU if there
        are any; the result is bit-identical to one process with as many `shards` and `threads`
    position:
        for slots: use the position of a row as a column, if rows are complete lists; or weight
        clicks, learned from lists that were drawn at random; or ignore it; see
        docs/how-to/imbalance.md
    leave_out:
        columns to exclude from the model, separated by commas, as `features rank` proposes them
    untuned:
        for slots: ignore the settings that `tailorbird tune` chose
    seed:
        random seed; a different seed shows how much of the figures is chance
    as_of:
        train as of this time, such as 2026-11-25, or `latest`: the end of the history in the lake
        with its labels, or now while events arrive, since labels of the last `events.lateness` may
        still change
    """
    from tailorbird.config import open_project
    from tailorbird.platform.train_options import TrainOptions
    from tailorbird.platform.training import train as run_train
    from tailorbird.training.settings import TrainReport

    options = TrainOptions(
        window=window,
        quick=quick,
        budget=budget,
        requests=requests,
        rows=rows,
        arm=arm,
        architecture=architecture,
        retrieval=retrieval,
        incremental=incremental,
        parameters=parse_parameters(parameters),
        processes=processes,
        position=position,
        leave_out=split_names(leave_out),
        untuned=untuned,
        seed=seed,
    )
    with progress_bars(quiet=json) as progress:
        report = run_train(
            open_project(),
            name,
            options,
            promote=promote,
            as_of=as_of,
            progress=progress,
            notify=print_note,
        )
    if json:
        print_json(report.to_dict())
    elif isinstance(report, TrainReport):
        _print_train_report(report)
    else:
        print_churn(report, name)


def _print_train_report(report: "TrainReport") -> None:
    """Print the result of a training, and the next step."""
    print_results(
        report.evaluation.to_dict()["results"],
        "On the last part of the time, which nothing learned from",
    )
    print_long_tail(report.evaluation)
    out = console()
    _print_outcome(report)
    if report.fallback_version:
        out.print(f"{report.fallback_version} serves until then: the best baseline that was judged")
    if arm := report.about.get("arm"):
        name = arm.rpartition(":")[2]
        out.print(
            f'  To serve it in an arm of an experiment:  versions={{"{name}": "{report.version}"}}'
        )
    elif not report.promoted:
        _print_promote_command(report)
    _print_notes(report)
    out.print(f"Report: {report.page_path}")


def print_churn(report: "ChurnReport", name: str) -> None:
    """Print the result of training a churn model, and the next step."""
    figures = report.to_dict()
    out = console()
    cut = report.last.cut
    print_results(
        figures["results"],
        f"At {figures['origins'][-1]['origin'][:10]}: {len(cut.churned):,} people, "
        f"{cut.churned.mean():.1%} gone",
        CHURN_METRICS,
    )
    _print_outcome(report)
    if not report.promoted:
        _print_promote_command(report, f" --churn {name}")
    _print_notes(report)
    best_k = report.curve.best_k
    if best_k:
        value_text = (
            f"expected {report.curve.expected_value[best_k - 1]:,.0f}, by who left "
            f"{report.curve.realised_value[best_k - 1]:,.0f}"
        )
        out.print(f"Contact the first {best_k:,} of {len(cut.churned):,}: {value_text}")
    out.print(f"Report: {report.page_path}")


def _print_outcome(report: "TrainReport | ChurnReport") -> None:
    console().print(
        f"\n{report.version} {'goes live' if report.promoted else 'is kept, not promoted'}: "
        f"{report.decision.reason}"
    )


def _print_promote_command(report: "TrainReport | ChurnReport", churn_option: str = "") -> None:
    console().print(
        f"  To let it answer nevertheless:  {this_command()} models promote "
        f'{report.version}{churn_option} --why "a first try"'
    )


def _print_notes(report: "TrainReport | ChurnReport") -> None:
    for note in (*report.decision.reasons[1:], *report.notes):
        console().print(f"  {note}")


def split_names(text: str) -> tuple[str, ...]:
    """Return the names of a comma-separated option."""
    return tuple(name.strip() for name in text.split(",") if name.strip())


def print_long_tail(evaluation: "Evaluation") -> None:
    """Print how well items other than the most popular ones are ordered.

    A model can win by showing the same popular items to everyone.
    """
    baseline = evaluation.best_baseline
    request_count, interval_by_model = evaluation.slices.get("long-tail items", (0, {}))
    if not request_count:
        console().print("Long-tail items: nobody chose one in the test part")
        return
    baseline_text = f", {baseline} {interval_by_model[baseline]}" if baseline else ""
    console().print(
        f"Long-tail items, {request_count:,} requests: {evaluation.model_name} "
        f"{interval_by_model[evaluation.model_name]}{baseline_text}"
    )


def print_cold_start(evaluation: "Evaluation") -> None:
    """Print NDCG@10 by the number of earlier events of the person, and of the chosen item."""
    baseline = evaluation.best_baseline
    for entity, steps in evaluation.cold_start_curves.items():
        rows = [
            (
                step.step_label,
                f"{step.request_count:,}",
                str(step.intervals[evaluation.model_name]),
                str(step.intervals[baseline]) if baseline else "",
            )
            for step in steps
        ]
        columns = ["events before", "requests", evaluation.model_name, baseline or "–"]
        print_table(
            f"Cold start, by events of {entity}", columns, rows, numeric_columns=columns[1:]
        )


def parse_parameters(text: str) -> dict[str, object] | None:
    """Return the object of `--parameters`; None if it is not given."""
    import msgspec

    from tailorbird.errors import UsageError

    if not text:
        return None
    try:
        return msgspec.json.decode(text, type=dict[str, object])
    except msgspec.DecodeError as error:
        fix = """write a JSON object, such as '{"epochs": 5}'"""
        raise UsageError(f"{text!r} is none: {error}", where="--parameters", fix=fix) from error


def print_results(
    results: dict[str, dict[str, float | None]],
    title: str,
    metric_names: Sequence[str] = RANKING_METRICS,
) -> None:
    """Print the figures of a model and its baselines, best first, with 95 % intervals."""
    available_metrics = [
        name for name in metric_names if any(name in figures for figures in results.values())
    ]

    def format_cell(figures: dict[str, float | None], name: str) -> str:
        value, low, high = (figures.get(f"{name}{suffix}") for suffix in ("", "_low", "_high"))
        if value is None:
            return ""
        return (
            f"{value:.4f}"
            if low is None or high is None
            else f"{value:.4f} ({low:.4f} – {high:.4f})"
        )

    def sort_key(figures: dict[str, float | None]) -> float:
        # None if it is not finite, as with a baseline that overflows; such a row comes last.
        if "log_loss" in metric_names:
            loss = figures.get("log_loss")
            return math.inf if loss is None else loss
        return -(figures.get("ndcg_10") or 0.0)

    ranked_results = sorted(results.items(), key=lambda named_figures: sort_key(named_figures[1]))
    rows = [
        (name, *(format_cell(figures, metric_name) for metric_name in available_metrics))
        for name, figures in ranked_results
    ]
    print_table(title, ["", *available_metrics], rows, numeric_columns=available_metrics)
