"""Tables and charts for notebooks."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from tailorbird.errors import UsageError
from tailorbird.pages.notebook import notebook_html

if TYPE_CHECKING:
    import pandas
    import polars
    from matplotlib.figure import Figure

MAX_PRINTED_ROWS = 20


@dataclass(frozen=True, repr=False)
class Frame:
    """An Arrow table with a readable repr.

    pandas, Polars and DuckDB read it directly through the Arrow C stream interface.
    """

    arrow: pa.Table

    @classmethod
    def from_rows(cls, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> "Frame":
        """Create a table from rows."""
        all_rows = list(rows)
        return cls(
            pa.table({name: [row[index] for row in all_rows] for index, name in enumerate(columns)})
        )

    def __len__(self) -> int:
        return self.arrow.num_rows

    @property
    def columns(self) -> list[str]:
        """Names of the columns."""
        return self.arrow.column_names

    def __getitem__(self, name: str) -> pa.ChunkedArray:
        return self.arrow[name]

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        return self.arrow.__arrow_c_stream__(requested_schema)

    def to_pandas(self) -> "pandas.DataFrame":
        """Return a pandas DataFrame; raises UsageError if pandas is not installed."""
        try:
            return self.arrow.to_pandas()
        except ModuleNotFoundError as error:
            raise UsageError("pandas is not installed", fix="pip install pandas") from error

    def to_polars(self) -> "polars.DataFrame":
        """Return a Polars DataFrame; raises UsageError if Polars is not installed."""
        try:
            import polars
        except ModuleNotFoundError as error:
            raise UsageError("Polars is not installed", fix="pip install polars") from error
        frame = polars.from_arrow(self.arrow)
        assert isinstance(frame, polars.DataFrame)
        return frame

    def to_pylist(self) -> list[dict[str, Any]]:
        """Return the rows as dicts."""
        return self.arrow.to_pylist()

    def __repr__(self) -> str:
        text_rows = [self.columns, *self._format_cells()]
        widths = [max(len(row[index]) for row in text_rows) for index in range(len(self.columns))]
        lines = [
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
            for row in text_rows
        ]
        if len(self) > MAX_PRINTED_ROWS:
            lines.append(f"… {len(self):,} rows")
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        return self.to_html()

    def to_html(self, *lines: str) -> str:
        """Return the first rows as HTML, below paragraphs."""
        footer = f"{len(self):,} rows" if len(self) > MAX_PRINTED_ROWS else ""
        return notebook_html(lines, self.columns, self._format_cells(), footer)

    def _format_cells(self) -> list[list[str]]:
        return [
            [_format_cell(value) for value in row.values()]
            for row in self.arrow.slice(0, MAX_PRINTED_ROWS).to_pylist()
        ]


def figures_frame(results: Mapping[str, Mapping[str, float | None]]) -> Frame:
    """Return the figures of models and baselines, one row each, the best first.

    `_low` and `_high` are the ends of 95 % intervals over people.
    """
    ranked_results = sorted(results.items(), key=lambda pair: -(pair[1].get("ndcg_10") or 0.0))
    metric_names = list(dict.fromkeys(name for _, figures in ranked_results for name in figures))
    return Frame.from_rows(
        ["model", *metric_names],
        [
            (model, *(figures.get(name) for name in metric_names))
            for model, figures in ranked_results
        ],
    )


def plot_figures(
    results: Mapping[str, Mapping[str, float | None]], metric: str = "ndcg_10"
) -> "Figure":
    """Plot one metric of models and baselines with its 95 % intervals.

    Raises:
        UsageError: none of them has the metric.
    """
    from matplotlib.figure import Figure

    value_and_interval_by_model = {
        model: (value, figures.get(f"{metric}_low"), figures.get(f"{metric}_high"))
        for model, figures in results.items()
        if (value := figures.get(metric)) is not None
    }
    if not value_and_interval_by_model:
        raise UsageError(f"no model has the metric {metric!r}", where="plot")
    ranked_values = sorted(value_and_interval_by_model.items(), key=lambda pair: pair[1][0])
    figure = Figure(figsize=(7, 0.4 * len(ranked_values) + 1), layout="constrained")
    axes = figure.subplots()
    for row, (_, (value, low, high)) in enumerate(ranked_values):
        axes.plot(value, row, "o", color="tab:blue")
        if low is not None and high is not None:
            axes.plot([low, high], [row, row], color="tab:blue")
    axes.set_yticks(range(len(ranked_values)), [model for model, _ in ranked_values])
    axes.set_xlabel(f"{metric}, 95 % interval over people")
    return figure


def _format_cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.4f}" if abs(value) < 100 else f"{value:,.1f}"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return str(value)
