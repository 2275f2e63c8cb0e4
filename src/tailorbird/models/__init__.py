"""Models: estimators that fit, score, and export to what serving loads.

    model = tb.models.GBDT(leaves=31).fit(data.train, data.valid)

`Estimator` is the protocol of all of them. A project's `models.py` adds its own by `register`.
"""

from typing import TYPE_CHECKING

from tailorbird.lazy_names import make_lazy_getattr

if TYPE_CHECKING:
    from tailorbird.models.architectures import GBDT, Logistic, NeuralNet
    from tailorbird.models.baseline import BaselineModel, baselines
    from tailorbird.models.estimator import EncodedRows, Estimator, Model
    from tailorbird.models.registration import register
    from tailorbird.models.space import Choices, Range

__getattr__ = make_lazy_getattr(
    __name__,
    {
        "tailorbird.models.architectures": ("GBDT", "Logistic", "NeuralNet"),
        "tailorbird.models.baseline": ("BaselineModel", "baselines"),
        "tailorbird.models.estimator": ("EncodedRows", "Estimator", "Model"),
        "tailorbird.models.registration": ("register",),
        "tailorbird.models.space": ("Choices", "Range"),
    },
)
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
