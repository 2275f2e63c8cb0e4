"""Training step by step, for notebooks: rows, models of any kind, and one evaluation of all.

    data = Dataset.load(shop, slot="home", window="28d").split_by_time()
    model = tb.models.GBDT(leaves=31).fit(data.train, data.valid)
    report = evaluate({"mine": model, **tb.models.baselines()}, data.test)

Rows, splits, candidates, encoding and metrics are those of `training.pipeline`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from tailorbird.errors import UsageError
from tailorbird.events import Clock, parse_duration
from tailorbird.lake import Lake
from tailorbird.models.baseline import BaselineModel
from tailorbird.models.estimator import EncodedRows, Model
from tailorbird.models.registration import ESTIMATOR_NAME
from tailorbird.pages.notebook import notebook_html
from tailorbird.ranking.baseline import default_baselines
from tailorbird.ranking.policy.targets import is_amount_head
from tailorbird.ranking.slot import Slot
from tailorbird.training.comparison import Comparison, metric_key
from tailorbird.training.dataset.dataset import Dataset as Requests
from tailorbird.training.dataset.matrix import FeatureChunk
from tailorbird.training.dataset.replay import select_live_columns
from tailorbird.training.dataset.request_choice import RowSource
from tailorbird.training.dataset.rows import TrainingData, load_training_data
from tailorbird.training.dataset.split import Split
from tailorbird.training.evaluation import metrics as metric_functions
from tailorbird.training.evaluation.evaluate import Scorer, evaluate_scorers
from tailorbird.training.fit.estimator import encode_parts
from tailorbird.training.fit.export import export_model
from tailorbird.training.fit.fit import FittedModel, calibrate, sample_row_indexes
from tailorbird.training.fit.heads import FitInputs
from tailorbird.training.fit.inputs import PreparedInputs, SplitDatasets, prepare_inputs
from tailorbird.training.fit.net_columns import build_layout
from tailorbird.training.own import OwnModel
from tailorbird.training.settings import TrainSettings
from tailorbird.training.split_datasets import (
    CandidatePlan,
    build_retrieval,
    build_split_datasets,
    split_requests,
)
from tailorbird.training.stage_times import StageTimer

Floats = npt.NDArray[np.float64]


class ProjectLike(Protocol):
    """A project, as `tailorbird.Project`."""

    def prepare_training(self, as_of: str = "") -> tuple[Any, Clock]: ...


@dataclass(frozen=True, repr=False)
class Dataset:
    """The requests of a slot in a window, with what was chosen at each.

    Attributes:
        declarations: the project's declarations.
        training_data: requests and events, as training reads them.
    """

    declarations: Any
    slot: Slot
    settings: TrainSettings
    as_of: int
    training_data: TrainingData

    @classmethod
    def load(
        cls,
        project: ProjectLike,
        *,
        slot: str = "",
        window: str = "",
        quick: bool = False,
        rows: RowSource = "auto",
        as_of: str = "",
        seed: int = 7,
    ) -> "Dataset":
        """Read the requests from the lake.

        Args:
            slot: name of the slot; "" takes `train.slot`.
            window: how far back, such as `28d`; "" takes `train.window`.
            quick: use fewer requests.
            rows: logged answers, or clicks with the candidates of that time.
            as_of: read as of this time; by default as `Project.train`.
            seed: of all random draws.

        Raises:
            NotReadyError: there is too little data to learn from.
        """
        declarations, clock = project.prepare_training(as_of)
        settings = TrainSettings(
            window_us=parse_duration(window or declarations.settings.train.window),
            lateness_us=declarations.plan.lateness_us,
            quick=quick,
            rows=rows,
            meaning=declarations.meaning,
            seed=seed,
        ).with_quick_applied()
        slot_settings = declarations.slot(slot)
        now = clock.now()
        lake = Lake(declarations.paths.lake).pin_versions()
        training_data = load_training_data(
            lake,
            declarations.features,
            slot_settings,
            settings.row_settings(now, list(slot_settings.objective)),
        )
        return cls(declarations, slot_settings, settings, now, training_data)

    def split_by_time(self) -> "SplitData":
        """Split into training, validation and test part by time, and encode the rows.

        Raises:
            UsageError: a part would be empty.
        """
        training_data = self.training_data
        settings = self.settings
        features = self.declarations.features
        split = split_requests(training_data.dataset, training_data, settings)
        timer = StageTimer(lambda stage, done, total: None)
        retrieval = build_retrieval(
            training_data=training_data,
            features=features,
            slot=self.slot,
            split=split,
            settings=settings,
            timer=timer,
        )
        candidate_plan = CandidatePlan(
            select_live_columns(features, self.slot),
            default_baselines(self.slot.sources),
            retrieval,
            self.slot,
        )
        datasets, dropped_count = build_split_datasets(
            training_data=training_data,
            features=features,
            data=training_data.dataset,
            split=split,
            candidate_plan=candidate_plan,
            settings=settings,
            timer=timer,
        )
        prepared_inputs = prepare_inputs(
            events=training_data.events,
            features=features,
            datasets=datasets,
            index_series=retrieval.index_series,
            objective=self.slot.objective,
            settings=settings,
            with_positions=training_data.is_logged and self.slot.denominator == "answer",
            label_window_us=training_data.label_window_us,
            progress=lambda stage, done, total: None,
        )
        return SplitData(
            dataset=self,
            split=split,
            candidate_plan=candidate_plan,
            datasets=datasets,
            prepared_inputs=prepared_inputs,
            dropped_count=dropped_count,
        )

    def __len__(self) -> int:
        return self.training_data.dataset.request_count

    def __repr__(self) -> str:
        note = self.training_data.source_note
        return f"Dataset(slot {self.slot.name}: {len(self):,} requests, {note})"

    def _repr_html_(self) -> str:
        return notebook_html([f"slot {self.slot.name}: {len(self):,} requests"])


@dataclass(frozen=True, repr=False)
class SplitData:
    """A dataset in three parts, in order of time.

    Attributes:
        split: the borders.
        candidate_plan: retrieval, baselines and live columns, the same in all parts.
        prepared_inputs: encoded rows of the training and the validation part.
        dropped_count: training requests that were left out to limit time and memory.
    """

    dataset: Dataset
    split: Split
    candidate_plan: CandidatePlan
    datasets: SplitDatasets
    prepared_inputs: PreparedInputs
    dropped_count: int = 0

    @cached_property
    def _encoded(self) -> tuple[EncodedRows, EncodedRows]:
        return encode_parts(self.inputs, None)

    @property
    def inputs(self) -> FitInputs:
        """Encoded rows of the heads that are chances; amounts are learned by `train` alone."""
        inputs = self.prepared_inputs.fit_inputs
        return replace(
            inputs, heads=tuple(head for head in inputs.heads if not is_amount_head(head))
        )

    @property
    def train(self) -> EncodedRows:
        """The rows to fit to."""
        return self._encoded[0]

    @property
    def valid(self) -> EncodedRows:
        """The rows for early stopping and calibration."""
        return self._encoded[1]

    @property
    def test(self) -> "TestRequests":
        """The requests to evaluate on."""
        return TestRequests(self)

    def export_and_calibrate(self, model: Model) -> FittedModel:
        """Return a fitted model as a bundle needs it: exported, and calibrated on `valid`."""
        settings = self.dataset.settings
        parity_rows = sample_row_indexes(len(self.inputs.validation_served_matrix), settings.seed)
        prepared_inputs = replace(self.prepared_inputs, fit_inputs=self.inputs)
        return calibrate(
            prepared_inputs, export_model(model, self.inputs, settings, parity_rows), parity_rows
        )

    def __repr__(self) -> str:
        sizes = f"train {len(self.train):,} rows, valid {len(self.valid):,} rows"
        heads = ", ".join(self.inputs.heads)
        columns = len(build_layout(self.inputs.encoder).columns)
        return f"SplitData({sizes}, test {len(self.test):,} requests; {columns} columns; {heads})"

    def _repr_html_(self) -> str:
        rows = (
            ("train", f"{len(self.train):,} rows"),
            ("valid", f"{len(self.valid):,} rows"),
            ("test", f"{len(self.test):,} requests"),
        )
        return notebook_html(columns=("part", "size"), rows=rows)


@dataclass(frozen=True, repr=False)
class TestRequests:
    """The requests of the test part; candidates are read when something is evaluated on them."""

    __test__ = False  # no test of pytest
    split_data: SplitData

    @property
    def requests(self) -> Requests:
        return self.split_data.datasets.test

    def __len__(self) -> int:
        return self.requests.request_count

    def __repr__(self) -> str:
        return f"TestRequests({len(self):,} requests)"

    def _repr_html_(self) -> str:
        return notebook_html([f"{len(self):,} test requests"])


@dataclass
class _ProbabilityCollector:
    """Collects a model's probabilities and labels, for metrics of single rows."""

    scores: list[Floats] = field(default_factory=list)
    labels: list[npt.NDArray] = field(default_factory=list)

    def auc(self) -> float:
        score = np.concatenate(self.scores)
        label = np.concatenate(self.labels)
        is_labelled = np.isfinite(label.astype(np.float64))
        return metric_functions.auc(score[is_labelled], label[is_labelled] > 0)


def evaluate(
    models: Mapping[str, Any], test: TestRequests, *, metrics: Sequence[str] = ("ndcg@10",)
) -> Comparison:
    """Evaluate models and baselines on the same requests, as they would be served.

    Args:
        models: name → a fitted model, or one of `tb.models.baselines()`. The first model is the one
            that the others are compared with.
        metrics: figures to show, such as `ndcg@10`, `recall@10`, `auc`; `auc` is of the rows' first
            head, and of models alone.

    Raises:
        UsageError: there is no model, or no such metric.
    """
    split_data = test.split_data
    fitted_models = {
        name: split_data.export_and_calibrate(as_model(name, model, split_data.train.heads))
        for name, model in models.items()
        if not isinstance(model, BaselineModel)
    }
    if not fitted_models:
        raise UsageError("there is no model to evaluate", where="evaluate", fix="add one")
    baselines = [model.name for model in models.values() if isinstance(model, BaselineModel)]
    dataset = split_data.dataset
    candidate_plan = split_data.candidate_plan
    first_head = split_data.train.heads[0]
    collector_by_model = {name: _ProbabilityCollector() for name in fitted_models}
    scorers = {
        name: partial(
            _score_and_collect,
            collector_by_model[name],
            first_head,
            _make_scorer(model, split_data),
        )
        for name, model in fitted_models.items()
    }
    evaluation = evaluate_scorers(
        training_data=dataset.training_data,
        features=dataset.declarations.features,
        test_data=split_data.datasets.test,
        replay=candidate_plan.build_replay(
            dataset.training_data,
            dataset.declarations.features,
            candidate_plan.live_columns,
            baselines=baselines,
        ),
        source_limits=candidate_plan.source_limits,
        scorers=scorers,
        objective=dataset.slot.objective,
        as_of=split_data.split.validation_until,
        seed=dataset.settings.seed,
    )
    aucs = {name: collector.auc() for name, collector in collector_by_model.items()}
    metric_names = {"auc", *(name for figure in evaluation.intervals.values() for name in figure)}
    for name in metrics:
        if metric_key(name) not in metric_names:
            fix = f"use some of {', '.join(sorted(metric_names))}"
            raise UsageError(f"there is no metric {name!r}", where="metrics", fix=fix)
    return Comparison(
        dataset.slot.name, evaluation, tuple(metrics), aucs, dict(models), test, fitted_models
    )


def _make_scorer(model: FittedModel, split_data: SplitData) -> Scorer:
    return partial(
        model.score,
        index_series=split_data.candidate_plan.retrieval.index_series,
        objective=split_data.dataset.slot.objective,
        live_columns=split_data.candidate_plan.live_columns,
    )


def _score_and_collect(
    collector: _ProbabilityCollector, head: str, scorer: Scorer, chunk: FeatureChunk
) -> tuple[Mapping[str, Floats], Floats]:
    probabilities_by_head, value = scorer(chunk)
    collector.scores.append(probabilities_by_head[head])
    collector.labels.append(chunk.data.labels[head])
    return probabilities_by_head, value


def as_model(name: str, model: Any, heads: tuple[str, ...]) -> Model:
    """Return a model of a built-in estimator as it is, and one's own with its output checked.

    Raises:
        UsageError: it has no method `score`.
    """
    if isinstance(model, OwnModel) or hasattr(model, "architecture"):
        return model
    if not callable(getattr(model, "score", None)):
        raise UsageError(
            f"{type(model).__name__} has no method score", where=f"model {name!r}", fix="add it"
        )
    registered_name = getattr(type(model), ESTIMATOR_NAME, name)
    return OwnModel(registered_name, heads, model, f"model {name!r}, class {type(model).__name__}")
