"""Fit to one split the model that `tailorbird train` would fit: trees, a net, or the better of
both.

Fits are those of tuning (`training.tuning.architectures`); the comparison of `auto` is training's
own (`training.fit.architecture`).
"""

from dataclasses import asdict, replace
from typing import Any

from tailorbird.models.architectures import Net
from tailorbird.models.deep.parameters import resolve_parameters
from tailorbird.training.fit.architecture import auto_net_architecture, check_convergence, ndcg_gain
from tailorbird.training.settings import AUTO, TrainSettings
from tailorbird.training.tuning.architectures import (
    ARCHITECTURES,
    CalibratedModel,
    FitRequest,
    net_settings,
)
from tailorbird.training.tuning.rows import Split

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
    if name != AUTO:
        return _fit_architecture(name, split, request)
    trees = _fit_architecture(TREES, split, request)
    if split.layout is None:  # torch is not installed
        return trees
    net, watch = (
        _fit_architecture(auto_net_architecture(split.objective), split, request),
        split.validation,
    )
    gain = ndcg_gain(
        net.value(split.served),
        trees.value(split.served),
        watch.gain(split.objective),
        watch.offsets,
        watch.person,
    )
    return net if gain.has_bounds and gain.low > 0 else trees


def _fit_architecture(name: str, split: Split, request: FitRequest) -> CalibratedModel:
    fitted = ARCHITECTURES[name].fit_heads(
        split, replace(request, settings={}) if name == TREES else request
    )
    if isinstance(fitted.model, Net):
        check_convergence(fitted.model.deep)
    return fitted


def resolved_settings(name: str, request: FitRequest) -> dict[str, Any]:
    """Return all settings of a fit of an architecture, as JSON."""
    return (
        asdict(request.train.gbdt)
        if name == TREES
        else asdict(resolve_parameters(name, net_settings(request)))
    )
