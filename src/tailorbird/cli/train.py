"""`tailorbird train`."""

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
    from tailorbird.training.judge import Evaluation
    from tailorbird.training.settings import TrainReport

# As platform.training has them, which takes half a second to load.
Rows = Literal["auto", "answers", "clicks"]
Position = Literal["column", "weights", "none"]
Retrieval = Literal["", "auto", "tables", "sequence"]
REQUESTS = 25_000
Architecture = Literal["gbdt", "mlp", "dcn", "shared", "mmoe", "auto"]


def train(
    name: str = "",
    *,
    window: str = "",
    quick: bool = False,
    budget: str = "",
    requests: int = REQUESTS,
    promote: bool = True,
    rows: Rows = "auto",
    architecture: Architecture | None = None,
    retrieval: Retrieval = "",
    incremental: bool = False,
    parameters: str = "",
    processes: int = 1,
    position: Position = "column",
    leave_out: str = "",
    untuned: bool = False,
    seed: int = 7,
    as_of: str = "",
    json: Json = False,
) -> None:
    """Train a model for a slot, or of churn, on what the lake holds, judge it beside baselines, and
    promote it if it passes the gate.

    A name that churn.py declares trains that churn model; any other is a slot's. A net that is
    killed goes on where it was when the same command is given again within a day; its figures by
    epoch are in data/training/logs, for TensorBoard, and in MLflow where that is installed and
    MLFLOW_TRACKING_URI is set. Everything is split by time. A model goes live only if it beats the
    incumbent and the best baseline outside the noise; a fresher one of the same recipe, if it is
    not worse. Else it is kept, with the reason. Writes a report.

    Example:  tailorbird -C shop train

    Example:  tailorbird -C shop train home --window 14d --quick

    Example:  tailorbird -C shop train --budget 2m

    Example:  tailorbird -C news train --as-of latest

    Example:  tailorbird -C shop train --leave-out device,user_spend_28d

    Example:  tailorbird -C shop train --architecture mmoe

    Example:  tailorbird -C shop train --architecture mmoe --incremental

    Example:  tailorbird -C shop train --retrieval sequence

    Example:  tailorbird -C shop train --architecture dcn --parameters '{"negative_share": 0.2, "patience": 1}'

    Example:  tailorbird -C shop train --architecture mmoe --processes 4

    Example:  tailorbird -C shop train churn

    Parameters
    ----------
    name:
        a slot of slots.py, train.slot unless told otherwise, or a churn model of churn.py
    window:
        of a slot: how much of the past to learn from, train.window unless told otherwise
    quick:
        fewer rows and trees: a first model within seconds
    budget:
        of a slot: a time, such as 2m: as many requests and trees as fit into it on this machine,
        decided beforehand and kept in the manifest. Below 8m no vectors are learned. Without one,
        what ten minutes of two quiet cores allow
    requests:
        of a slot: how many requests to learn from at most, drawn evenly over the window; 0 takes
        all. As many as ten minutes of two cores and 8 GB of memory allow, unless told otherwise
    promote:
        let it go live if it passes the gate
    rows:
        of a slot: learn from logged answers, or from clicks and what the slot's sources gave before
        them; auto: answers, where enough have a known outcome
    architecture:
        of a slot: boosted trees (gbdt); nets, which need the extra `deep` (mlp and dcn have a net
        for each head, shared and mmoe one for all); or auto: a net only where the validation part
        shows that it orders better than trees. Unless told otherwise what tuned.toml names, or gbdt
    retrieval:
        of a slot: candidates from tables alone; a third of them from vectors of people and items
        too (`sequence`), which need the extra `deep`; or auto: vectors where the validation part
        shows that as many candidates then hold more of what people did next. Unless told otherwise
        train.retrieval, and tables with --quick
    incremental:
        of a net: go on from the weights of the last training, over what came since and as much
        before it; ids that are new get a row of their embedding, and those that are gone lose
        theirs
    parameters:
        of a net: what differs from the architecture's own, as a JSON object; names are told where
            one is wrong
    processes:
        of a net: how many processes of this machine share each batch, each on a GPU of its own
        where there are any; the result is, to the bit, that of one process with as many `shards`
        and `threads`
    position:
        of a slot: the place of a row as a column, where rows are all that was shown; by weights of
        clicks learned from lists that were drawn at random; or not at all; see
        docs/how-to/imbalance.md
    leave_out:
        columns that the model must not see, with commas between them, as `features rank` proposes
            them
    untuned:
        of a slot: leave out of account what `tailorbird tune` chose
    seed:
        of all draws: with another one, and nothing else changed, the figures say what is chance
    as_of:
        train as if it were this time, such as 2026-11-25, or `latest`: where the history in the
        lake ended, with the labels up to there, or now while events come, as labels of the last
        `events.lateness` may then still change
    """
    from tailorbird.config import open_project
    from tailorbird.platform.training import TrainOptions
    from tailorbird.platform.training import train as run_train
    from tailorbird.training.settings import TrainReport

    options = TrainOptions(
        window=window,
        quick=quick,
        budget=budget,
        requests=requests,
        rows=rows,
        architecture=architecture or "",
        retrieval=retrieval,
        incremental=incremental,
        parameters=parameters_of(parameters),
        processes=processes,
        position=position,
        leave_out=names_of(leave_out),
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
        _print(report)
    else:
        from tailorbird.cli.churn import print_training

        print_training(report, name)


def _print(report: "TrainReport") -> None:
    """What came of a training, and what to do next."""
    print_results(
        report.evaluation.to_dict()["results"],
        "On the last part of the time, which nothing learned from",
    )
    print_long_tail(report.evaluation)
    out = console()
    out.print(
        f"\n{report.version} {'goes live' if report.promoted else 'is kept, not promoted'}: "
        f"{report.decision.reason}"
    )
    if report.fallback_version:
        out.print(f"{report.fallback_version} serves until then: the best baseline that was judged")
    if not report.promoted:
        out.print(
            f"  To let it answer nevertheless:  {this_command()} models promote "
            f'{report.version} --why "a first try"'
        )
    for note in (*report.decision.reasons[1:], *report.notes):
        out.print(f"  {note}")
    out.print(f"Report: {report.report}")


def names_of(text: str) -> tuple[str, ...]:
    """Return the names of an option that has commas between them."""
    return tuple(name.strip() for name in text.split(",") if name.strip())


def print_long_tail(evaluation: "Evaluation") -> None:
    """How well the items are ordered that are not the most popular ones: a model may win by showing
    everybody the same.
    """
    best = evaluation.best_baseline
    count, figures = evaluation.slices.get("long-tail items", (0, {}))
    if not count:
        console().print("Long-tail items: nobody chose one in the test part")
        return
    beside = f", {best} {figures[best]}" if best else ""
    console().print(
        f"Long-tail items, {count:,} requests: {evaluation.model} "
        f"{figures[evaluation.model]}{beside}"
    )


def print_cold_start(evaluation: "Evaluation") -> None:
    """NDCG@10 by how much was known of the person, and of the item that was chosen."""
    best = evaluation.best_baseline
    for of, steps in evaluation.cold.items():
        rows = [
            (
                step.events,
                f"{step.requests:,}",
                str(step.figures[evaluation.model]),
                str(step.figures[best]) if best else "",
            )
            for step in steps
        ]
        columns = ["events before", "requests", evaluation.model, best or "–"]
        print_table(f"Cold start, by events of {of}", columns, rows, right=columns[1:])


def parameters_of(text: str) -> dict[str, object] | None:
    """Return what `--parameters` gives; None where it is not given."""
    import msgspec

    from tailorbird.errors import UsageError

    if not text:
        return None
    try:
        return msgspec.json.decode(text, type=dict[str, object])
    except msgspec.DecodeError as error:
        fix = """write a JSON object, such as '{"epochs": 5}'"""
        raise UsageError(f"{text!r} is none: {error}", where="--parameters", fix=fix) from error


def print_results(results: dict[str, dict[str, float | None]], title: str) -> None:
    """Figures of a model and its baselines, best first, with their 95 % intervals."""
    columns = ["ndcg_10", "recall_10", "mrr", "auc", "candidate_recall", "coverage_10"]
    known = [name for name in columns if any(name in figures for figures in results.values())]

    def cell(figures: dict[str, float | None], name: str) -> str:
        value, low, high = (
            figures.get(name),
            figures.get(f"{name}_low"),
            figures.get(f"{name}_high"),
        )
        if value is None:
            return ""
        return (
            f"{value:.4f}"
            if low is None or high is None
            else f"{value:.4f} ({low:.4f} – {high:.4f})"
        )

    ranked = sorted(results.items(), key=lambda pair: -(pair[1].get("ndcg_10") or 0.0))
    rows = [(name, *(cell(figures, column) for column in known)) for name, figures in ranked]
    print_table(title, ["", *known], rows, right=known)
