"""Recommendations, search and churn prediction from a stream of events.

    import tailorbird as tb

    shop = tb.Project.create("shop", data=clicks)     # a frame, or the name of a file
    shop.import_table(clicks)
    shop.train(budget="2m")
    shop.recommend(user_id=42)

Everything that a command does is a call of `Project`. Names are loaded when they are first used, so
that `import tailorbird` takes a few milliseconds.
"""

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

from tailorbird.lazy_names import make_lazy_getattr

if TYPE_CHECKING:
    from tailorbird.backup import BackupReport, RestoreReport
    from tailorbird.client import AsyncClient, Client
    from tailorbird.errors import (
        BundleError,
        ConfigError,
        DamageError,
        DeclarationError,
        InputError,
        LockedError,
        NotReadyError,
        StorageError,
        TailorbirdError,
        UsageError,
    )
    from tailorbird.experiments import Experiment, Metric
    from tailorbird.platform.create import restore
    from tailorbird.platform.frames import Frame
    from tailorbird.platform.project import Project
    from tailorbird.platform.results import EvaluationResult, Slate, TrainResult
    from tailorbird.platform.train_options import TrainOptions
    from tailorbird.ranking import Boost, Churn, Explore, Pin, Quota, Slot
    from tailorbird.version import __version__

# Tailorbird sends no usage data. These libraries would, and read the variables only on import.
for _variable in ("ORT_DISABLE_TELEMETRY", "MLFLOW_DISABLE_TELEMETRY"):
    os.environ.setdefault(_variable, "1")

_NAMES_BY_MODULE = {
    "tailorbird.backup": ("BackupReport", "RestoreReport"),
    "tailorbird.client": ("AsyncClient", "Client"),
    "tailorbird.errors": (
        "BundleError",
        "ConfigError",
        "DamageError",
        "DeclarationError",
        "InputError",
        "LockedError",
        "NotReadyError",
        "StorageError",
        "TailorbirdError",
        "UsageError",
    ),
    "tailorbird.experiments": ("Experiment", "Metric"),
    "tailorbird.platform.create": ("restore",),
    "tailorbird.platform.frames": ("Frame",),
    "tailorbird.platform.project": ("Project",),
    "tailorbird.platform.results": ("EvaluationResult", "Slate", "TrainResult"),
    "tailorbird.platform.train_options": ("TrainOptions",),
    "tailorbird.ranking": ("Boost", "Churn", "Explore", "Pin", "Quota", "Slot"),
    "tailorbird.version": ("__version__",),
}
_load_name = make_lazy_getattr(__name__, _NAMES_BY_MODULE)

# Submodules that are loaded when they are first used, as `tb.metrics`.
_NAMESPACES = (
    "candidates",
    "experiments",
    "features",
    "metrics",
    "models",
    "simulator",
    "training",
    "tuning",
)

__all__ = [
    "AsyncClient",
    "BackupReport",
    "Boost",
    "BundleError",
    "Churn",
    "Client",
    "ConfigError",
    "DamageError",
    "DeclarationError",
    "EvaluationResult",
    "Experiment",
    "Explore",
    "Frame",
    "InputError",
    "LockedError",
    "Metric",
    "NotReadyError",
    "Pin",
    "Project",
    "Quota",
    "RestoreReport",
    "Slate",
    "Slot",
    "StorageError",
    "TailorbirdError",
    "TrainOptions",
    "TrainResult",
    "UsageError",
    "__version__",
    "candidates",
    "experiments",
    "features",
    "metrics",
    "models",
    "restore",
    "simulator",
    "training",
    "tuning",
]


def __getattr__(name: str) -> Any:
    if name in _NAMESPACES:
        return import_module(f"tailorbird.{name}")
    return _load_name(name)


def __dir__() -> list[str]:
    return sorted(__all__)
