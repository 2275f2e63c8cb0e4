"""From a bundle and features to an ordered answer with known propensities: pure functions, used by serving and by evaluation.

`ranking.bundle` (ONNX Runtime) and `ranking.encoders` are imported by their own names, so that declaring slots needs neither.
"""

from tailorbird.ranking.churn import Churn, Contact
from tailorbird.ranking.slot import Explore, Slot

__all__ = ["Churn", "Contact", "Explore", "Slot"]
