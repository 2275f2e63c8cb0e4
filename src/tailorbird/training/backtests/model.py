"""Fit to one split the model that `tailorbird train` would fit: trees, a net, or the better of
both.

Fits are those of tuning (`training.tuning.architectures`); the comparison of `auto` is training's
own (`training.fit.architecture`).
"""

from dataclasses import asdict, replace
from typing import Any

from tailorbird.models.deep.fitting import DEEP, Net
from tailorbird.models.deep.parameters import resolve_parameters
from tailorbird.ranking.own_models import default_settings, find_family
from tailorbird.training.fit.architecture import auto_net_architecture, ndcg_gain
from tailorbird.training.fit.net import check_convergence
from tailorbird.training.settings import AUTO, TrainSettings
from tailorbird.training.tuning.architectures import (
    CalibratedModel,
    FitRequest,
    fit_split,
    net_settings,
)
from tailorbird.training.tuning.splits import Split

TREES = "gbdt"


def build_fit_request(train: TrainSettings, seed: int) -> FitRequest:
    """Return the fit that training would do: trees by `gbdt`, a net by its `parameters`."""
    return FitRequest(dict(train.parameters), seed, train, train.gbdt.threads)


def fit_model(split: Split, request: FitRequest) -> CalibratedModel:
    """Fit the model of the architecture that the settings name.

    Raises:
        DivergenceError: a weight of a net is not finite.
    """
    name = request.train.architecture
    challengers = list(request.train.challengers) if name in (TREES, AUTO) else []
    if name == AUTO and split.layout is not None:  # None where torch is not installed
        challengers.insert(0, auto_net_architecture(split.objective))
    if not challengers:
        return _fit_architecture(TREES if name == AUTO else name, split, request)
    winner = trees = _fit_architecture(TREES, split, request)
    validation, best_gain = split.validation, 0.0
    gain_of_rows = validation.gain(split.objective)
    for challenger in challengers:
        model = _fit_architecture(challenger, split, request)
        validation_values = model.value(split.served), trees.value(split.served)
        gain = ndcg_gain(*validation_values, gain_of_rows, validation.offsets, validation.person)
        if gain.has_bounds and gain.low > 0 and gain.value > best_gain:
            winner, best_gain = model, gain.value
    return winner


def _fit_architecture(name: str, split: Split, request: FitRequest) -> CalibratedModel:
    uses_requested_settings = name == request.train.architecture or name in DEEP
    fitted = fit_split(
        name,
        split,
        request if uses_requested_settings and name != TREES else replace(request, settings={}),
    )
    if isinstance(fitted.model, Net):
        check_convergence(fitted.model.deep)
    return fitted


def resolved_settings(name: str, request: FitRequest) -> dict[str, Any]:
    """Return all settings of a fit of an architecture, as JSON."""
    if name == TREES:
        return asdict(request.train.gbdt)
    if name in DEEP:
        return asdict(resolve_parameters(name, net_settings(request)))
    defaults = {"penalty": 1.0} if name == "logistic" else default_settings(find_family(name))
    return {**defaults, **(request.settings if name == request.train.architecture else {})}
