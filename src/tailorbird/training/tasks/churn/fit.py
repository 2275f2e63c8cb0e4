"""Fit the churn models of one origin: up to six of churn, and up to three of purchase counts.

    trees, logistic                P(gone), from origins whose whole window is known
    hazard_trees, hazard_logistic  P(active in the next period), from every known period
    rfm, bg_nbd                    P(gone) from recency, frequency, age and amount alone,
                                   if `churn.py` names their columns
    purchases                      expected purchases in a window: a Poisson rate with the
                                   known time as its exposure
    pareto_nbd                     expected purchases from recency, frequency and age

A hazard model multiplies over a window the probabilities of no activity: Π (1 − h(k)), with h read
at the k-th period as if nothing had happened since the origin. It also learns from the known part
of origins whose window is censored.

Training rows lose half their weight for each window that their origin lies back, except those of
`purchases`, which all weigh the same. `blend` is the mean of the models' log-odds. Expected
purchases come from the trees; if the columns are named, they come from the mean of trees and BG/NBD
(`trees_bg_nbd`), or from BG/NBD or Pareto/NBD alone. `training.tasks.churn.rolling_origin` decides which
is used.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from tailorbird.errors import NotReadyError
from tailorbird.events import DAY
from tailorbird.models.btyd import ColumnBgNbd, bg_nbd_to_onnx, fit_bg_nbd
from tailorbird.models.export import gbdt_to_onnx
from tailorbird.models.gbdt import Sample, fit_gbdt
from tailorbird.models.logistic import FittedLogistic, fit_logistic, logistic_to_onnx
from tailorbird.ranking.churn.bg_nbd import BgNbdColumns
from tailorbird.ranking.churn.bundle import average_log_odds, to_log_survival
from tailorbird.ranking.churn.pareto_nbd import ParetoNbdColumns
from tailorbird.ranking.encode.encoder import Encoder
from tailorbird.ranking.encode.encoder_fit import fit_encoder
from tailorbird.training.tasks.churn.labels import Activity, Floats, Window
from tailorbird.training.tasks.churn.pareto import fit_pareto_nbd
from tailorbird.training.tasks.churn.rows import FeatureTable, Matrix
from tailorbird.training.tasks.churn.training_rows import (
    FitSettings,
    PersonMomentGrid,
    TrainingRows,
    select_count_rows,
    select_period_rows,
    select_window_rows,
)

DIRECT_MODELS = ("trees", "logistic", "rfm", "bg_nbd")
HAZARD_MODELS = ("hazard_trees", "hazard_logistic")
BLEND = "blend"
PURCHASES = "purchases"
COUNT_MODELS = (
    "trees_bg_nbd",
    "bg_nbd",
    "pareto_nbd",
)  # models of expected purchases if the columns are named, the default first
POSITIVES_MIN = 30  # people of each class that a model needs
VALIDATION_MODULUS = 5  # one in five people is held out for early stopping


class ColumnModel(Protocol):
    """A fitted model with one output."""

    def score(self, matrix: Matrix) -> Floats: ...
    def importance(self) -> dict[str, float]: ...


@dataclass(frozen=True)
class FittedModels:
    """The models fitted at an origin.

    Attributes:
        models: by name; includes `purchases` if there was enough data.
        rows: model → number of training rows.
        pareto_nbd: parameters as stored in a bundle, if the columns are named.
    """

    encoder: Encoder
    models: Mapping[str, ColumnModel]
    rows: Mapping[str, int]
    pareto_nbd: ParetoNbdColumns | None = None

    @property
    def candidates(self) -> tuple[str, ...]:
        """Names of the models of P(gone), with the blend if there are several."""
        single_models = tuple(
            name for name in (*DIRECT_MODELS, *HAZARD_MODELS) if name in self.models
        )
        return (*single_models, BLEND) if len(single_models) > 1 else single_models

    def churn_probabilities(
        self, features_at_origin: FeatureTable, periods: Sequence[FeatureTable]
    ) -> dict[str, Floats]:
        """Return P(gone) of each person by candidate, uncalibrated.

        Args:
            features_at_origin: of each person.
            periods: features at the start of each period of the window, as if nothing had
                happened since the origin.
        """
        probabilities: dict[str, Floats] = {}
        if any(name in self.models for name in DIRECT_MODELS):
            matrix = self.matrix(features_at_origin)
            probabilities |= {
                name: 1 - self.models[name].score(matrix)
                for name in DIRECT_MODELS
                if name in self.models
            }
        if hazard_models := [name for name in HAZARD_MODELS if name in self.models]:
            log_survivals = {name: np.zeros(len(features_at_origin)) for name in hazard_models}
            for table in periods:
                matrix = self.matrix(table)
                for name in hazard_models:
                    log_survivals[name] += to_log_survival(self.models[name].score(matrix))
            probabilities |= {
                name: np.exp(log_survival_sum) for name, log_survival_sum in log_survivals.items()
            }
        if len(probabilities) > 1:
            probabilities[BLEND] = average_log_odds(list(probabilities.values()))
        return probabilities

    @property
    def count_models(self) -> tuple[str, ...]:
        """Names of the models of expected purchases, the default first; may be empty."""
        if PURCHASES not in self.models:
            return ()
        return ("trees",) if self.bg_nbd is None or self.pareto_nbd is None else COUNT_MODELS

    def expected_purchases(
        self, features_at_origin: FeatureTable, window: Window
    ) -> dict[str, Floats]:
        """Return each person's expected purchases within the window by model, uncalibrated."""
        if not self.count_models:
            return {}
        matrix = self.matrix(features_at_origin)
        window_days = (window.gap / DAY, (window.gap + window.length) / DAY)
        trees = self.models[PURCHASES].score(matrix)
        if self.bg_nbd is None or self.pareto_nbd is None:
            return {"trees": trees}
        bg_nbd = self.bg_nbd.purchases(matrix, *window_days)
        return dict(
            zip(
                COUNT_MODELS,
                ((trees + bg_nbd) / 2, bg_nbd, self.pareto_nbd.purchases(matrix, *window_days)),
                strict=True,
            )
        )

    @property
    def bg_nbd(self) -> BgNbdColumns | None:
        """BG/NBD parameters as stored in a bundle."""
        column_model = self.models.get("bg_nbd")
        if not isinstance(column_model, ColumnBgNbd):
            return None
        model = column_model.model
        return BgNbdColumns(
            model.r,
            model.alpha,
            model.a,
            model.b,
            column_model.recency_index,
            column_model.frequency_index,
            column_model.age_index,
        )

    def matrix(self, table: FeatureTable) -> Matrix:
        """Return the encoded features, one row per person."""
        return self.encoder.encode_people(table.numeric, table.categorical)

    def export(self, name: str) -> bytes:
        """Return a model as ONNX."""
        model = self.models[name]
        if isinstance(model, ColumnBgNbd):
            return bg_nbd_to_onnx(model)
        if isinstance(model, FittedLogistic):
            return logistic_to_onnx(model)
        return gbdt_to_onnx(model)  # type: ignore[arg-type]


def fit_models_at(
    grid: PersonMomentGrid,
    activity: Activity,
    window: Window,
    settings: FitSettings,
    rfm_columns: Sequence[str] = (),
) -> FittedModels:
    """Fit the models with what is known at the window's origin.

    Args:
        activity: as of the origin; reading later activity raises an error.
        rfm_columns: names of the recency, frequency and age columns, and optionally of amount.

    Raises:
        NotReadyError: no model has enough of both outcomes.
    """
    assert activity.known_until <= window.origin
    encoder = _fit_encoder(grid, window.origin)
    model_by_name: dict[str, ColumnModel] = {}
    row_counts: dict[str, int] = {}
    for model_names, sample in (
        (DIRECT_MODELS, select_window_rows(grid, activity, window, settings)),
        (HAZARD_MODELS, select_period_rows(grid, activity, window, settings)),
    ):
        if (
            min(np.count_nonzero(sample.label > 0), np.count_nonzero(sample.label <= 0))
            < POSITIVES_MIN
        ):
            continue
        matrix = encoder.encode_people(sample.table.numeric, sample.table.categorical)
        model_by_name[model_names[0]] = _fit_trees(encoder, matrix, sample, activity, settings)
        model_by_name[model_names[1]] = _fit_logistic(
            encoder, matrix, sample, settings, encoder.categorical_names
        )
        if model_names is DIRECT_MODELS and rfm_columns:
            model_by_name["rfm"] = _fit_logistic(
                encoder,
                matrix,
                sample,
                settings,
                [name for name in encoder.names if name not in rfm_columns],
            )
        row_counts |= {name: len(sample.label) for name in model_names if name in model_by_name}
    if not model_by_name:
        raise NotReadyError(
            f"fewer than {POSITIVES_MIN} people came back, or stayed away, in what is known",
            fix="a longer history, or a shorter window",
        )
    if rfm_columns:
        model_by_name["bg_nbd"] = _fit_bg_nbd(grid, encoder, activity, window, rfm_columns)
        row_counts["bg_nbd"] = len(activity.active_people(window.origin))
    count_sample = select_count_rows(grid, activity, window, settings)
    if np.count_nonzero(count_sample.label) >= POSITIVES_MIN:
        matrix = encoder.encode_people(count_sample.table.numeric, count_sample.table.categorical)
        model_by_name[PURCHASES] = _fit_trees(
            encoder, matrix, count_sample, activity, settings, objective="poisson"
        )
        row_counts[PURCHASES] = len(count_sample.label)
    return FittedModels(
        encoder,
        model_by_name,
        row_counts,
        _fit_pareto_nbd(encoder, activity, window, rfm_columns) if rfm_columns else None,
    )


def leakage_check_rows(
    fitted: FittedModels,
    grid: PersonMomentGrid,
    activity: Activity,
    window: Window,
    settings: FitSettings,
) -> tuple[Matrix, Floats]:
    """Return the features and labels of the whole-window models, or of the hazard models.

    Hazard rows are used if no whole window is known yet.
    """
    window_sample = select_window_rows(grid, activity, window, settings)
    sample = (
        window_sample
        if len(window_sample.label)
        else select_period_rows(grid, activity, window, settings)
    )
    return fitted.matrix(sample.table), sample.label


def _fit_encoder(grid: PersonMomentGrid, until: int) -> Encoder:
    return fit_encoder(grid.table.columns, grid.table.categorical[grid.moment < until], computed=())


def _fit_trees(
    encoder: Encoder,
    matrix: Matrix,
    sample: TrainingRows,
    activity: Activity,
    settings: FitSettings,
    *,
    objective: str = "binary",
) -> ColumnModel:
    """Fit trees with early stopping on held-out people.

    Rows of one person resemble each other, so the hold-out is by person. It is a function of the id
    alone, and does not change when people are added.
    """
    is_validation = activity.people.keys[sample.person] % VALIDATION_MODULUS == 0
    gbdt = replace(settings.gbdt, objective=objective, seed=settings.seed)
    samples = []
    for row_mask in (~is_validation, is_validation):
        samples.append(
            Sample(
                np.ascontiguousarray(matrix[row_mask]),
                sample.label[row_mask],
                weight=sample.weight[row_mask],
            )
        )
    return fit_gbdt(
        samples[0], samples[1], encoder.names, gbdt, categorical=encoder.categorical_names
    )


def _fit_logistic(
    encoder: Encoder,
    matrix: Matrix,
    sample: TrainingRows,
    settings: FitSettings,
    ignored_columns: Sequence[str],
) -> FittedLogistic:
    return fit_logistic(
        matrix,
        sample.label,
        encoder.names,
        weight=sample.weight,
        ignored_columns=ignored_columns,
        penalty=settings.penalty,
    )


def _fit_bg_nbd(
    grid: PersonMomentGrid,
    encoder: Encoder,
    activity: Activity,
    window: Window,
    rfm_columns: Sequence[str],
) -> ColumnBgNbd:
    """Fit BG/NBD to all customers and bind it to the columns."""
    customers = activity.purchase_history(activity.active_people(window.origin), window.origin)
    model = fit_bg_nbd(customers)
    window_days = (window.gap + window.length) / DAY
    columns = [encoder.names.index(name) for name in rfm_columns[:3]]
    lowest_probability = float(
        np.quantile(model.probability_returning(customers, window_days), 0.01)
    )
    return ColumnBgNbd(
        model, encoder.names, columns[0], columns[1], columns[2], window_days, lowest_probability
    )


def _fit_pareto_nbd(
    encoder: Encoder, activity: Activity, window: Window, rfm_columns: Sequence[str]
) -> ParetoNbdColumns:
    """Fit Pareto/NBD to all customers and bind it to the columns."""
    model = fit_pareto_nbd(
        activity.purchase_history(activity.active_people(window.origin), window.origin)
    )
    recency, frequency, age = (encoder.names.index(name) for name in rfm_columns[:3])
    return ParetoNbdColumns(model.r, model.alpha, model.s, model.beta, recency, frequency, age)
