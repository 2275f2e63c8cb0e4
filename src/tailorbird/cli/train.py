"""`tailorbird train`."""

import getpass
import os
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

from tailorbird.cli.output import (
    Json,
    console,
    print_json,
    print_table,
    progress_bars,
    this_command,
)

if TYPE_CHECKING:
    from tailorbird.config import Project
    from tailorbird.features import FeatureSet
    from tailorbird.training.judge import Evaluation
    from tailorbird.training.settings import TrainReport, TrainSettings

Rows = Literal[
    "auto", "answers", "clicks"
]  # as training.rows has it, which takes half a second to load
Position = Literal["column", "weights", "none"]
Retrieval = Literal["", "auto", "tables", "sequence"]  # as training.retrieval has it
REQUESTS = 25_000  # as training.settings has it
Architecture = Literal[
    "gbdt", "mlp", "dcn", "shared", "mmoe", "auto"
]  # as training.architecture has it


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
    from tailorbird.cli.moment import clock_as_of
    from tailorbird.config import open_project
    from tailorbird.config.schemas import for_training
    from tailorbird.events import SECOND, SystemClock
    from tailorbird.lake import Lake
    from tailorbird.ranking import Churn
    from tailorbird.training.baseline import ensure_champion
    from tailorbird.training.budget import budget_of, speed_now
    from tailorbird.training.train import train as run_train
    from tailorbird.training.tune.tuned import FILE, with_tuned

    settled = for_training(open_project(), SystemClock())
    project = settled.project
    if settled.said:
        console(stderr=True).print(settled.said)
    declared = project.slot_or_churn(name)
    if isinstance(declared, Churn):
        from tailorbird.cli.churn import train_named

        _of_slots_alone(
            name,
            window=window,
            requests=requests != REQUESTS,
            budget=budget,
            rows=rows != "auto",
            architecture=architecture,
            retrieval=retrieval,
            incremental=incremental,
            parameters=parameters,
            processes=processes != 1,
            position=position != "column",
            untuned=untuned,
        )
        without = left_out(leave_out, project.features)
        return train_named(
            project,
            name,
            quick=quick,
            promote=promote,
            as_of=as_of,
            leave_out=without,
            seed=seed,
            json=json,
        )
    settings = replace(
        settings_for(project, window=window, rows=rows, leave_out=leave_out, quick=quick),
        requests=requests,
        architecture=architecture or "gbdt",
        retrieval=retrieval or ("tables" if quick else project.settings.train.retrieval),
        incremental=incremental,
        parameters=parameters_of(parameters, architecture or "gbdt"),
        processes=processes,
        position=position,
        seed=seed,
        mlflow=os.environ.get("MLFLOW_TRACKING_URI", ""),
    )
    if not untuned:
        settings = with_tuned(
            settings, declared.name, project.root / FILE, asked=architecture is not None
        )
    if budget:
        lake = Lake(project.paths.lake)
        events = lake.count("events") if lake.exists("events") else 0
        settings = budget_of(span_of(budget, "--budget") / SECOND, speed_now(), events).applied(
            settings
        )
    _check(settings, parameters)
    paths, clock, by = project.paths, clock_as_of(as_of, project), getpass.getuser()
    ensure_champion(
        project.features,
        lake=paths.lake,
        registry=paths.registry,
        clock=clock,
        by=by,
        owner=project.settings.project.owner,
        meaning=project.meaning,
    )
    with progress_bars(quiet=json) as progress:
        report = run_train(
            project.features,
            declared,
            lake=paths.lake,
            registry=paths.registry,
            reports=paths.reports,
            clock=clock,
            settings=settings,
            heads=[head for other in project.slots.values() for head in other.objective],
            by=by,
            owner=project.settings.project.owner,
            promote=promote,
            work=paths.data / "training",
            progress=progress,
        )
    if json:
        print_json(report.plain())
        return
    _print(report)


def _of_slots_alone(name: str, **given: object) -> None:
    """That nothing was asked of a churn model that only slots' models have."""
    from tailorbird.errors import UsageError

    if asked := [f"--{option}" for option, said in given.items() if said]:
        fix = (
            f"leave out {', '.join(asked)}; how {name} is learned stands in churn.py, such as "
            "its window"
        )
        raise UsageError(
            f"{name} is a churn model, and {', '.join(asked)} {'are' if asked[1:] else 'is'} "
            "of a slot's",
            where=asked[0],
            fix=fix,
        )


def _check(settings: "TrainSettings", parameters: str) -> None:
    """That what is asked for goes together."""
    from tailorbird.errors import UsageError

    check_parameters(settings, parameters)
    if settings.incremental and settings.architecture == "gbdt":
        raise UsageError(
            "trees are grown anew each time: no weights to go on from",
            where="--incremental",
            fix="--architecture mmoe",
        )
    if settings.requests < 0:
        raise UsageError(f"expected 0 or more, got {settings.requests}", where="--requests")
    if settings.processes < 1:
        raise UsageError(f"expected at least 1, got {settings.processes}", where="--processes")
    if settings.processes > 1 and settings.architecture == "gbdt":
        raise UsageError(
            "trees are grown by the threads of one process",
            where="--processes",
            fix="--architecture mmoe",
        )


def check_parameters(settings: "TrainSettings", parameters: str) -> None:
    """That `--parameters` are given to a net alone."""
    from tailorbird.errors import UsageError

    if parameters and settings.architecture == "gbdt":
        raise UsageError(
            "these are parameters of nets, and trees were asked for",
            where="--parameters",
            fix="--architecture mmoe",
        )


def _print(report: "TrainReport") -> None:
    """What came of a training, and what to do next."""
    print_results(
        report.evaluation.plain()["results"],
        "On the last part of the time, which nothing learned from",
    )
    print_long_tail(report.evaluation)
    out = console()
    out.print(
        f"\n{report.version} {'goes live' if report.promoted else 'is kept, not promoted'}: "
        f"{report.decision.reason}"
    )
    if report.instead:
        out.print(f"{report.instead} serves until then: the best baseline that was judged")
    if not report.promoted:
        out.print(
            f"  To let it answer nevertheless:  {this_command()} models promote "
            f'{report.version} --why "a first try"'
        )
    for note in (*report.decision.reasons[1:], *report.notes):
        out.print(f"  {note}")
    out.print(f"Report: {report.report}")


def settings_for(
    project: "Project", *, window: str, rows: Rows, leave_out: str, quick: bool
) -> "TrainSettings":
    """What training, tuning and validation alike are told by their options and by the project."""
    from tailorbird.training.settings import TrainSettings

    return TrainSettings(
        window_us=window_of(window, project),
        lateness_us=project.plan.lateness_us,
        quick=quick,
        rows=rows,
        leave_out=left_out(leave_out, project.features),
        meaning=project.meaning,
    )


def window_of(text: str, project: "Project") -> int:
    """Microseconds of `--window`, or of the project's own where that is not given."""
    return (
        span_of(text, "--window")
        if text
        else span_of(project.settings.train.window, "train.window")
    )


def span_of(text: str, option: str) -> int:
    """Microseconds of a duration that an option gives."""
    from tailorbird.errors import UsageError
    from tailorbird.events import duration

    try:
        return duration(text)
    except UsageError as error:
        raise UsageError(error.message, where=option) from None


def left_out(text: str, features: "FeatureSet") -> tuple[str, ...]:
    """The columns of `--leave-out`, each of which must exist."""
    from tailorbird.errors import UsageError, nearest
    from tailorbird.features.declare import COMPUTED_NAMES, OF_CANDIDATES, VECTOR_NAMES

    names = tuple(name.strip() for name in text.split(",") if name.strip())
    known = (
        *features.numeric,
        *features.categorical,
        *COMPUTED_NAMES,
        *VECTOR_NAMES,
        *(one.name for one in features.similarities),
        *(one.output for one in features.transforms),
    )
    if unknown := [
        name for name in names if name not in known and not OF_CANDIDATES.fullmatch(name)
    ]:
        fix = nearest(unknown[0], known, "tailorbird features list")
        raise UsageError(f"there is no column {unknown[0]!r}", where="--leave-out", fix=fix)
    return names


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


def parameters_of(text: str, architecture: str) -> dict[str, object]:
    """What `--parameters` gives, before anything is read."""
    import msgspec

    from tailorbird.errors import UsageError
    from tailorbird.models.deep.parameters import DEFAULTS, settled

    try:
        found = msgspec.json.decode(text or "{}", type=dict[str, object])
    except msgspec.DecodeError as error:
        fix = """write a JSON object, such as '{"epochs": 5}'"""
        raise UsageError(f"{text!r} is none: {error}", where="--parameters", fix=fix) from error
    settled(architecture if architecture in DEFAULTS else "mmoe", found)
    return found


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
