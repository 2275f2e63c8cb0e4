"""Fit to one split the model that `tailorbird train` would fit: trees, a net, or the better of
both.

Fits are those of tuning (`training.tuning.architectures`); the comparison of `auto` is training's
own (`training.fit.architecture`).
"""

from dataclasses import asdict, replace
from typing import Any

from tailorbird.models.deep.fitting import NETS, NetModel
from tailorbird.models.deep.parameters import resolve_parameters
from tailorbird.ranking.own_models import default_settings, find_estimator_class
from tailorbird.training.fit.architecture import auto_net_architecture, ndcg_gain
from tailorbird.training.fit.net import check_convergence
from tailorbird.training.settings import AUTO, TrainSettings
from tailorbird.training.tuning.architectures import (
    CalibratedModel,
    FitRequest,
    fit_split,
    merge_net_settings,
)
from tailorbird.training.tuning.splits import Split

TREES = "gbdt"


def build_fit_request(train_settings: TrainSettings, seed: int) -> FitRequest:
    """Return the fit that training would do: trees by `gbdt`, a net by its `parameters`."""
    return FitRequest(
        dict(train_settings.parameters), seed, train_settings, train_settings.gbdt.threads
    )


def fit_model(split: Split, request: FitRequest) -> CalibratedModel:
    """Fit the model of the architecture that the settings name.

    Raises:
        DivergenceError: a weight of a net is not finite.
    """
    architecture = request.train_settings.architecture
    challenger_names = (
        list(request.train_settings.challengers) if architecture in (TREES, AUTO) else []
    )
    if architecture == AUTO and split.layout is not None:  # None where torch is not installed
        challenger_names.insert(0, auto_net_architecture(split.objective))
    if not challenger_names:
        return _fit_architecture(TREES if architecture == AUTO else architecture, split, request)
    best_model = tree_model = _fit_architecture(TREES, split, request)
    validation = split.validation
    best_gain = 0.0
    row_gains = validation.row_gains(split.objective)
    for challenger_name in challenger_names:
        challenger = _fit_architecture(challenger_name, split, request)
        validation_scores = (
            challenger.predict_values(split.served_matrix),
            tree_model.predict_values(split.served_matrix),
        )
        gain = ndcg_gain(*validation_scores, row_gains, validation.offsets, validation.person)
        if gain.has_bounds and gain.low > 0 and gain.value > best_gain:
            best_model = challenger
            best_gain = gain.value
    return best_model


def _fit_architecture(architecture: str, split: Split, request: FitRequest) -> CalibratedModel:
    uses_requested_settings = (
        architecture == request.train_settings.architecture or architecture in NETS
    )
    model = fit_split(
        architecture,
        split,
        request
        if uses_requested_settings and architecture != TREES
        else replace(request, settings={}),
    )
    if isinstance(model.model, NetModel):
        check_convergence(model.model.deep)
    return model


def resolve_settings(architecture: str, request: FitRequest) -> dict[str, Any]:
    """Return all settings of a fit of an architecture, as JSON."""
    if architecture == TREES:
        return asdict(request.train_settings.gbdt)
    if architecture in NETS:
        return asdict(resolve_parameters(architecture, merge_net_settings(request)))
    defaults = (
        {"penalty": 1.0}
        if architecture == "logistic"
        else default_settings(find_estimator_class(architecture))
    )
    return {
        **defaults,
        **(request.settings if architecture == request.train_settings.architecture else {}),
    }
