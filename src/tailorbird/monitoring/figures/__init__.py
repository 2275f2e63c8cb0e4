"""Live figures: what a site served and earned, by minute and by who and what it was.

cells     one hour of the lake as additive cells, by minute, slot, version, arm, device, visitor
delays    the distribution of the delay of conversions, and the correction for it
store     data/monitoring/figures: one Parquet file an hour, replaced at once
report    figures of any window and grouping, computed from cells
"""

from tailorbird.monitoring.figures.report import DIMENSIONS, Figures, summarize
from tailorbird.monitoring.figures.store import FigureStore

__all__ = ["DIMENSIONS", "FigureStore", "Figures", "summarize"]
