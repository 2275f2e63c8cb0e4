"""Charts of report pages, as inline SVG."""

import io
from collections.abc import Mapping

import matplotlib
import numpy as np
from markupsafe import Markup

matplotlib.use("Agg")
from matplotlib.figure import Figure

from tailorbird.training.evaluation.calibration import CalibrationBins

HIGHLIGHT_COLOUR = "#1b6e5f"
MUTED_COLOUR = "#9aa5ab"
SHOWN_COLUMNS_MAX = 20


def clean_axes(figure: Figure) -> Figure:
    """Remove frame lines and shrink the tick labels of a figure."""
    for axes in figure.axes:
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=8)
    return figure


def to_svg(figure: Figure) -> Markup:
    """Render a figure as inline SVG; the same figure gives the same text."""
    buffer = io.StringIO()
    with matplotlib.rc_context(
        {"svg.hashsalt": "tailorbird", "svg.fonttype": "none", "font.size": 9}
    ):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    return Markup(f"<figure>{text[text.index('<svg') :]}</figure>")


def reliability_chart(bins: CalibrationBins, axis_max: float, x_label: str, y_label: str) -> Figure:
    """Draw observed rates with intervals over predictions, and the diagonal up to `axis_max`."""
    figure = Figure(figsize=(4.2, 3.6), layout="constrained")
    axes = figure.subplots()
    is_filled = bins.counts > 0
    axes.plot([0, axis_max], [0, axis_max], color=MUTED_COLOUR, linewidth=1)
    half_widths = interval_half_width(bins)[is_filled]
    axes.errorbar(
        bins.predicted[is_filled],
        bins.observed[is_filled],
        half_widths,
        fmt="o",
        color=HIGHLIGHT_COLOUR,
        markersize=4,
        linewidth=1,
    )
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.set_title("Reliability, bins of equal mass", fontsize=10)
    return clean_axes(figure)


def interval_half_width(bins: CalibrationBins) -> np.ndarray:
    """Return half the 95 % interval of the observed rates, shape (bins,)."""
    return 1.96 * np.sqrt(bins.observed * (1 - bins.observed) / np.maximum(bins.counts, 1))


def importance_chart(shares: Mapping[str, float], title: str) -> Figure:
    """Draw the columns with the largest shares, which come first in `shares`."""
    largest_shares = list(shares.items())[:SHOWN_COLUMNS_MAX]
    figure = Figure(figsize=(5.2, 0.22 * len(largest_shares) + 0.8), layout="constrained")
    axes = figure.subplots()
    axes.barh(
        [name for name, _ in reversed(largest_shares)],
        [share for _, share in reversed(largest_shares)],
        color=HIGHLIGHT_COLOUR,
    )
    axes.tick_params(axis="y", labelsize=8)
    axes.set_title(title, fontsize=10)
    return clean_axes(figure)
