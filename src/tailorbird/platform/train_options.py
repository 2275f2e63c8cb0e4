"""Options of a training, resolved with the settings of the project and its tuned settings."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from tailorbird.candidates.own import own_sources
from tailorbird.config import Project
from tailorbird.config.experiments import require_arm
from tailorbird.errors import UsageError, suggest_name
from tailorbird.events import SECOND, parse_duration
from tailorbird.features import FeatureSet
from tailorbird.lake import Lake
from tailorbird.pages.notebook import notebook_repr
from tailorbird.ranking import Slot
from tailorbird.ranking.own_models import own_estimator_classes
from tailorbird.training.settings import TrainSettings

RowSource = Literal["auto", "answers", "clicks"]
PositionHandling = Literal["column", "weights", "none"]
Retrieval = Literal["", "auto", "tables", "sequence"]


DEFAULT_REQUESTS = 25_000  # See `training.settings` for time and memory.


@notebook_repr
@dataclass(frozen=True)
class TrainOptions:
    """Options of a slot's training; each has the name of the command's option.

    Attributes:
        window: length of the training period, such as `14d`; "" takes `train.window`.
        quick: use fewer rows and trees.
        budget: time limit, such as `2m`, that requests and trees are chosen to fit into.
        requests: maximum number of requests to learn from; 0 takes all.
        rows: learn from logged answers, or from clicks with the candidates of that time.
        arm: learn from the answers of one EXPERIMENT:ARM alone; such a model is never promoted.
        architecture: `gbdt`, `logistic`, `mlp`, `dcn`, `shared`, `mmoe`, `auto` or an estimator of
            models.py; "" takes the tuned one, or `gbdt` and the estimators of models.py beside it.
        retrieval: source of candidates; "" takes `train.retrieval`.
        incremental: continue from the weights of the last net, or from the champion's trees.
        parameters: neural networks: overrides of the architecture's defaults.
        processes: neural networks: number of processes that share each batch.
        position: how the position of a logged row enters the model.
        leave_out: columns to exclude from the model.
        untuned: ignore tuned settings.
        seed: seed of all random draws.
    """

    window: str = ""
    quick: bool = False
    budget: str = ""
    requests: int = DEFAULT_REQUESTS
    rows: RowSource = "auto"
    arm: str = ""
    architecture: str = ""
    retrieval: Retrieval = ""
    incremental: bool = False
    parameters: Mapping[str, Any] | None = None
    processes: int = 1
    position: PositionHandling = "column"
    leave_out: Sequence[str] = ()
    untuned: bool = False
    seed: int = 7

    def settings(self, project: Project, slot: Slot) -> TrainSettings:
        """Resolve the options with the project's settings and the tuned settings.

        Raises:
            UsageError: options contradict each other, or a column does not exist.
        """
        from tailorbird.training.budget import measure_speed, plan_budget

        settings = replace(
            self.model_settings(project, slot),
            requests=self.requests,
            retrieval=self.retrieval
            or ("tables" if self.quick else project.settings.train.retrieval),
            incremental=self.incremental,
            processes=self.processes,
            position=self.position,
            mlflow=os.environ.get("MLFLOW_TRACKING_URI", ""),
        )
        if self.budget:
            lake = Lake(project.paths.lake)
            event_count = lake.count("events") if lake.exists("events") else 0
            budget_s = parse_span(self.budget, "--budget") / SECOND
            settings = plan_budget(budget_s, measure_speed(), event_count).apply(settings)
        check_settings(settings, bool(self.parameters))
        if not self.arm:
            return settings
        if self.rows == "clicks" or self.retrieval not in ("", "tables"):
            raise UsageError(
                "an arm has answers of its own, and neither clicks nor vectors",
                where="--arm",
                fix="leave out --rows and --retrieval",
            )
        require_arm(project, slot.name, self.arm)
        return replace(settings, arm=self.arm, rows="answers", retrieval="tables")

    def model_settings(self, project: Project, slot: Slot) -> TrainSettings:
        """Resolve the options that a training and a backtest share."""
        from tailorbird.training.tuning.tuned import TUNED_FILE, apply_tuned

        architecture = self.architecture or "gbdt"
        settings = replace(
            base_settings(
                project,
                window=self.window,
                rows=self.rows,
                leave_out=self.leave_out,
                quick=self.quick,
            ),
            architecture=architecture,
            challengers=tuple(own_estimator_classes()) if self.architecture in ("", "auto") else (),
            parameters=validate_parameters(self.parameters or {}, architecture),
            seed=self.seed,
        )
        if self.untuned:
            return settings
        return apply_tuned(
            settings,
            slot.name,
            project.root / TUNED_FILE,
            architecture_requested=bool(self.architecture),
        )

    def slot_only_options(self) -> list[str]:
        """Return the given options that a slot's model has and a churn model has not."""
        defaults = TrainOptions()
        shared_options = ("quick", "leave_out", "seed")
        return [
            name
            for name in self.__dataclass_fields__
            if name not in shared_options and getattr(self, name) != getattr(defaults, name)
        ]

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> "TrainOptions":
        """Return options by their names; raises UsageError if one does not exist."""
        option_names = list(cls.__dataclass_fields__)
        for name in options:
            if name not in option_names:
                fix = suggest_name(name, option_names, f"use one of {', '.join(option_names)}")
                raise UsageError(f"there is no option {name!r}", where="train", fix=fix)
        return cls(**options)


def base_settings(
    project: Project, *, window: str, rows: RowSource, leave_out: Sequence[str], quick: bool
) -> TrainSettings:
    """Return the settings that training, tuning and backtests share."""
    return TrainSettings(
        window_us=parse_window(window, project),
        lateness_us=project.plan.lateness_us,
        quick=quick,
        rows=rows,
        leave_out=validate_columns(leave_out, project.features),
        meaning=project.meaning,
    )


def parse_window(text: str, project: Project, *, option: str = "--window") -> int:
    """Return the window of an option, or the project's default, in microseconds."""
    return (
        parse_span(text, option)
        if text
        else parse_span(project.settings.train.window, "train.window")
    )


def parse_span(text: str, option: str) -> int:
    """Parse the duration that an option gives to microseconds."""
    try:
        return parse_duration(text)
    except UsageError as error:
        raise UsageError(error.message, where=option) from None


def validate_columns(names: Sequence[str], features: FeatureSet) -> tuple[str, ...]:
    """Return the columns of `--leave-out`; raises UsageError if one does not exist."""
    from tailorbird.features.declare.declarations import (
        CANDIDATE_COLUMN,
        COMPUTED_NAMES,
        VECTOR_NAMES,
    )

    known_columns = (
        *features.numeric,
        *features.categorical,
        *COMPUTED_NAMES,
        *VECTOR_NAMES,
        *(similarity.name for similarity in features.similarities),
        *(transform.output for transform in features.transforms),
        *(f"{source.name}_{suffix}" for source in own_sources() for suffix in ("rank", "score")),
    )
    if unknown_columns := [
        name for name in names if name not in known_columns and not CANDIDATE_COLUMN.fullmatch(name)
    ]:
        fix = suggest_name(unknown_columns[0], known_columns, "tailorbird features list")
        raise UsageError(f"there is no column {unknown_columns[0]!r}", where="--leave-out", fix=fix)
    return tuple(names)


def validate_parameters(parameters: Mapping[str, Any], architecture: str) -> dict[str, Any]:
    """Return the parameters of an architecture; raises UsageError if it has no such parameter."""
    from tailorbird.models.deep.parameters import DEFAULTS, resolve_parameters
    from tailorbird.training.fit.estimator import build_estimator

    if architecture in own_estimator_classes() or architecture == "logistic":
        build_estimator(architecture, parameters, TrainSettings())
    else:
        resolve_parameters(architecture if architecture in DEFAULTS else "mmoe", dict(parameters))
    return dict(parameters)


def check_settings(settings: TrainSettings, has_parameters: bool) -> None:
    """Raise UsageError if options contradict each other."""
    reject_parameters_of_trees(settings, has_parameters)
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


def reject_parameters_of_trees(settings: TrainSettings, has_parameters: bool) -> None:
    """Raise UsageError if parameters of neural networks are given to trees."""
    if has_parameters and settings.architecture == "gbdt":
        raise UsageError(
            "these are parameters of nets, and trees were asked for",
            where="--parameters",
            fix="--architecture mmoe",
        )
