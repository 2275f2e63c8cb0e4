"""Training: rows, fits, evaluation, gate, tuning and backtests.

data = tb.training.Dataset.load(shop, slot="home").split_by_time()
report = tb.training.evaluate({"mine": model, **tb.models.baselines()}, data.test)
tb.training.train(shop, task="churn")
"""

from typing import TYPE_CHECKING

from tailorbird.lazy_names import make_lazy_getattr

if TYPE_CHECKING:
    from tailorbird.training.api import Dataset, SplitData, TestRequests
    from tailorbird.training.comparison import Comparison

__getattr__ = make_lazy_getattr(
    __name__,
    {
        "tailorbird.training.api": ("Dataset", "SplitData", "TestRequests", "evaluate"),
        "tailorbird.training.calls": ("backtest", "train"),
        "tailorbird.training.comparison": ("Comparison",),
    },
)
__all__ = ["Comparison", "Dataset", "SplitData", "TestRequests", "backtest", "evaluate", "train"]
