"""Models: estimators that fit, score, and export to what serving loads.

    model = tb.models.GBDT(leaves=31).fit(data.train, data.valid)

`Estimator` is the protocol of all of them. A project's `models.py` adds its own by `register`.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tailorbird.models.architectures import GBDT, Logistic, NeuralNet
    from tailorbird.models.baseline import BaselineModel, baselines
    from tailorbird.models.estimator import EncodedRows, Estimator, Model
    from tailorbird.models.registration import register
    from tailorbird.models.space import Choices, Range

_MODULES = {
    "tailorbird.models.architectures": ("GBDT", "Logistic", "NeuralNet"),
    "tailorbird.models.baseline": ("BaselineModel", "baselines"),
    "tailorbird.models.estimator": ("EncodedRows", "Estimator", "Model"),
    "tailorbird.models.registration": ("register",),
    "tailorbird.models.space": ("Choices", "Range"),
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}
__all__ = [
    "GBDT",
    "BaselineModel",
    "Choices",
    "EncodedRows",
    "Estimator",
    "Logistic",
    "Model",
    "NeuralNet",
    "Range",
    "baselines",
    "register",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'tailorbird.models' has no attribute {name!r}")
    return getattr(import_module(_MODULE_OF[name]), name)
