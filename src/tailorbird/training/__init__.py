"""Training: rows, fits, evaluation, gate, tuning and backtests.

data = tb.training.Dataset.load(shop, slot="home").split_by_time()
report = tb.training.evaluate({"mine": model, **tb.models.baselines()}, data.test)
tb.training.train(shop, task="churn")
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tailorbird.training.api import Dataset, SplitData, TestRequests
    from tailorbird.training.comparison import Comparison

_PUBLIC = {
    "Dataset": "tailorbird.training.api",
    "SplitData": "tailorbird.training.api",
    "TestRequests": "tailorbird.training.api",
    "evaluate": "tailorbird.training.api",
    "backtest": "tailorbird.training.calls",
    "train": "tailorbird.training.calls",
    "Comparison": "tailorbird.training.comparison",
}
__all__ = ["Comparison", "Dataset", "SplitData", "TestRequests", "backtest", "evaluate", "train"]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'tailorbird.training' has no attribute {name!r}")
    return getattr(import_module(_PUBLIC[name]), name)
