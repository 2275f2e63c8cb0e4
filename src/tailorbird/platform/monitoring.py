"""Live figures and the state of a site, for notebooks and `tailorbird monitor`."""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tailorbird.config import Project, open_project
from tailorbird.errors import NotReadyError, TailorbirdError, UsageError
from tailorbird.events import DAY, HOUR, MINUTE, Clock, parse_duration, to_iso, to_iso_minute
from tailorbird.monitoring.figures import Figures, summarize
from tailorbird.monitoring.figures.report import (
    DELAY_COLUMNS,
    METRIC_NAMES,
    check_dimension,
    figures_to_json,
    slot_delays,
)
from tailorbird.monitoring.figures.store import HISTORY_DAYS
from tailorbird.monitoring.status import Status
from tailorbird.pages.notebook import text_html
from tailorbird.platform.clocks import clock_as_of
from tailorbird.platform.diagnostics.status import catalogue_size, read_status
from tailorbird.platform.drift import DEFAULT_SINCE, figure_store, find_drift, read_open_episodes
from tailorbird.platform.frames import Frame
from tailorbird.platform.models import churn_figures
from tailorbird.platform.results import HISTORY, DriftResult
from tailorbird.registry import Registry

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Plot

    from tailorbird.platform.notify import ReceiverState
    from tailorbird.platform.runtime.falls import SlotDecision

DEFAULT_METRICS = (
    "requests",
    "latency_ms_p95",
    "error_rate",
    "degraded_rate",
    "ctr",
    "ctr_expected",
    "auc",
    "auc_expected",
    "conversion",
    "conversion_estimated_share",
    "revenue",
    "dwell_s",
    "coverage",
    "novelty",
    "calibration",
)
INTERVAL_ENDS = ("low", "high")  # of the interval of a figure
DELAY_DAYS = 28  # of conversions whose delays are learned
FIGURES_INTERVAL_S = 60.0  # between computations of the figures
log = logging.getLogger(__name__)


@dataclass(frozen=True, repr=False)
class FiguresResult:
    """Live figures by window and group.

    Attributes:
        since, until: the time that they cover, microseconds.
        dimension: what the groups are of; "" for all together.
        rows: the figures.
    """

    since: int
    until: int
    dimension: str
    rows: list[Figures]

    def to_frame(self) -> Frame:
        """Return all figures as a table."""
        column_names = ["start", self.dimension or "group", *METRIC_NAMES]
        table_rows = [
            [to_iso(row.start)[:16], *list(values_by_name.values())[1:]]
            for row, values_by_name in self._rows_with_values()
        ]
        return Frame.from_rows(column_names, table_rows)

    def to_dict(self) -> dict[str, Any]:
        """Return what `tailorbird monitor figures --json` prints."""
        return {
            "since": to_iso(self.since),
            "until": to_iso(self.until),
            "by": self.dimension,
            "figures": [
                values_by_name | {"start": to_iso(row.start)}
                for row, values_by_name in self._rows_with_values()
            ],
        }

    def plot(self, metric: str = "ctr") -> "Plot":
        """Draw one figure over time, a line for each group, with its 95 % interval."""
        from matplotlib.figure import Figure

        if metric not in METRIC_NAMES:
            raise UsageError(
                f"there is no figure {metric!r}", where="plot", fix=f"use {', '.join(METRIC_NAMES)}"
            )
        plot = Figure(figsize=(8, 4), layout="constrained")
        axes = plot.subplots()
        for group in sorted({row.group for row in self.rows}):
            group_rows = [row for row in self.rows if row.group == group]
            hours = [(row.start - self.since) / 3.6e9 for row in group_rows]
            (line,) = axes.plot(
                hours, [getattr(row, metric) for row in group_rows], marker="o", label=group
            )
            if f"{metric}_low" in METRIC_NAMES:
                low, high = (
                    [getattr(row, f"{metric}_{end}") for row in group_rows] for end in INTERVAL_ENDS
                )
                axes.fill_between(hours, low, high, alpha=0.2, color=line.get_color())
        axes.set_xlabel(f"hours since {to_iso_minute(self.since)}")
        axes.set_ylabel(metric)
        axes.legend()
        return plot

    def _rows_with_values(self) -> list[tuple[Figures, dict[str, Any]]]:
        return list(zip(self.rows, figures_to_json(self.rows), strict=True))

    @property
    def _summary_frame(self) -> Frame:
        value_rows = [[getattr(row, name) for name in DEFAULT_METRICS] for row in self.rows]
        label_rows = [[to_iso(row.start)[:16], row.group] for row in self.rows]
        return Frame.from_rows(
            ["start", self.dimension or "group", *DEFAULT_METRICS],
            [[*left, *right] for left, right in zip(label_rows, value_rows, strict=True)],
        )

    def __repr__(self) -> str:
        return repr(self._summary_frame)

    def _repr_html_(self) -> str:
        return self._summary_frame.to_html()


class MonitoringView:
    """What a site serves and earns, and what was decided about its models."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def figures(
        self, slot: str = "", *, by: str = "", since: str = "1d", window: str = "", as_of: str = ""
    ) -> FiguresResult:
        """Return live figures by window and group.

        Args:
            slot: only this slot.
            by: `slot`, `version`, `arm`, `device` or `visitor` (new or returning).
            since: length of the most recent period.
            window: length of a window, from `1m` to `1d`; "" is one window over all.
            as_of: end of the period, ISO 8601; by default now, or the end of an imported log.

        Raises:
            NotReadyError: there are no responses in that time.
        """
        project = open_project(self._root)
        now = clock_as_of(as_of, project, allow_lateness=False).now()
        return read_figures(project, now, slot, by=by, since=since, window=window)

    def churn(
        self, name: str, *, since: str = "180d", as_of: str = ""
    ) -> churn_figures.ChurnFigures:
        """Return how right a churn model was, by week.

        Raises:
            NotReadyError: no outcome is known yet, or none of that time.
        """
        project = open_project(self._root)
        clock = clock_as_of(as_of, project, allow_lateness=False)
        since_us = clock.now() - parse_duration(since)
        return churn_figures.read_churn_figures(project, clock, name, since_us)

    def drift(
        self, *, since: str = DEFAULT_SINCE, against: str = HISTORY, as_of: str = ""
    ) -> DriftResult:
        """Return episodes in which features, scores, sources, fields or traffic moved.

        Args:
            since: length of the most recent period, which is compared with what was before.
            against: `history`, or `training`: what the champion learned from.
            as_of: end of the period, ISO 8601.

        Raises:
            NotReadyError: there are fewer than seven days to compare with.
        """
        project = open_project(self._root)
        clock = clock_as_of(as_of, project, allow_lateness=False)
        return find_drift(project, clock, since=since, against=against, is_live=not as_of)

    def decide(self, slot: str = "", *, as_of: str = "") -> list["SlotDecision"]:
        """Return what the trainer would do about a fall in each slot, or one; changes nothing.

        Args:
            as_of: the time of the decision, ISO 8601.
        """
        from tailorbird.platform.runtime.falls import read_decisions

        project = open_project(self._root)
        return read_decisions(project, clock_as_of(as_of, project, allow_lateness=False), slot)

    def approve(self, *, reason: str, by: str = "", churn: str = "") -> str:
        """Take the step that waits for a person, see `rollout.approval`; return its version.

        Args:
            churn: only a step of this churn model.
        """
        import getpass

        from tailorbird.platform.rollout import approve

        project = open_project(self._root)
        author = by or getpass.getuser()
        return approve(project, project.clock(), by=author, why=reason, churn=churn)[1]

    def notify(self, *, test: bool = False) -> list["ReceiverState"]:
        """Return the receivers of `notify.urls` and which fail; with `test` each gets a message.

        Raises:
            NotReadyError: there are none.
        """
        from tailorbird.platform.notify import read_receivers, send_test_messages

        project = open_project(self._root)
        return send_test_messages(project, project.clock()) if test else read_receivers(project)

    def silence(self, cause: str, duration: str) -> dict[str, str]:
        """Send no messages about a cause for a while; return what is silenced, and until when.

        Args:
            cause: a cause of drift, a kind of message such as `rollback`, or `all`.
            duration: such as `2h`; "" ends the silence.
        """
        from tailorbird.platform.notify import silence_cause

        project = open_project(self._root)
        return silence_cause(project, project.clock(), cause, duration)

    def status(self, *, as_of: str = "") -> Status:
        """Return the last 24 hours in ten lines."""
        project = open_project(self._root)
        return read_status(project, clock_as_of(as_of, project, allow_lateness=False))

    def __repr__(self) -> str:
        return repr(self.status())

    def _repr_html_(self) -> str:
        return text_html(self)


def read_figures(
    project: Project, now: int, slot: str = "", *, by: str = "", since: str = "1d", window: str = ""
) -> FiguresResult:
    """Return figures of a project up to `now`; see `MonitoringView.figures`."""
    import pyarrow.compute as pc

    check_dimension(by)
    window_us = parse_duration(window) if window else 0
    if window and (not MINUTE <= window_us <= DAY or window_us % MINUTE):
        message = f"expected a window of whole minutes from 1m to 1d, got {window}"
        raise UsageError(message, where="window", fix="such as 1h")
    start_us = now - parse_duration(since)
    store = figure_store(project)
    store.refresh(start_us, now)
    # A cell has the counts of one minute, slot, version, arm and so on.
    cells = store.read(start_us, now)
    delay_cells = store.read(now - DELAY_DAYS * DAY, now, DELAY_COLUMNS)
    if slot:
        if slot not in project.slots and slot not in pc.unique(cells["slot"]).to_pylist():
            slot_names = ", ".join(project.slots)
            raise UsageError(
                f"there is no slot {slot!r}", where="slot", fix=f"use one of {slot_names}"
            )
        cells = cells.filter(pc.equal(cells["slot"], slot))
    if not cells.num_rows:
        raise NotReadyError(
            f"no response in the {since} before {to_iso_minute(now)}",
            where=slot or str(project.paths.lake),
            fix="name a longer time by since, or another end by as_of",
        )
    rows = summarize(
        cells,
        start_us,
        now,
        by=by,
        window_us=window_us,
        catalogue_size=catalogue_size(project),
        delays=slot_delays(delay_cells if delay_cells.num_rows else cells),
    )
    return FiguresResult(start_us, now, by, rows)


class FiguresTask:
    """Keeps the stored figures up to date, and those of the last hour for metrics."""

    def __init__(self, project: Project, clock: Clock) -> None:
        self._project = project
        self._clock = clock
        self._store = figure_store(project)
        self._last_hour_figures: list[tuple[str, Figures]] = []
        self._last_drift_hour = 0

    def last_hour_figures(self) -> list[tuple[str, Figures]]:
        """Return slot and figures of each version, of the last hour."""
        return self._last_hour_figures

    def open_drift_causes(self) -> list[str]:
        """Return the likely cause of each open episode of drift."""
        return [row.cause for row in read_open_episodes(self._project, self._clock)]

    def recent_actions(self) -> list[str]:
        """Return what the trainer did with models in the last 24 hours."""
        from tailorbird.platform.rollout import AUTHORS

        registry = Registry(self._project.paths.registry, clock=self._clock)
        now = self._clock.now()
        churn_entries = churn_figures.churn_decisions(self._project, self._clock)
        return [
            entry.action
            for entry in (*registry.audit(), *churn_entries)
            if entry.at > now - DAY and entry.by in AUTHORS
        ]

    def waiting_actions(self) -> list[str]:
        """Return each step that waits for a person."""
        from tailorbird.platform.rollout import churn_waiting_steps, waiting_steps

        registry = Registry(self._project.paths.registry, clock=self._clock)
        churn_steps = churn_waiting_steps(self._project, self._clock)
        return [step.action for step in (*waiting_steps(registry.audit()), *churn_steps)]

    def overdue_slots(self) -> list[str]:
        """Return the slots whose training is due and did not succeed."""
        from tailorbird.platform.runtime.overdue import read_overdue

        return [entry.slot for entry in read_overdue(self._project, self._clock)]

    def tick(self) -> None:
        """Compute what is due. A lake without data, or one that is being rebuilt, is logged."""
        import pyarrow.compute as pc

        now = self._clock.now()
        try:
            is_new_hour = now // HOUR != self._last_drift_hour
            self._store.refresh(now - HISTORY_DAYS * DAY, now, include_late=is_new_hour)
            cells = self._store.read(now - HOUR, now)
            delay_cells = self._store.read(now - DELAY_DAYS * DAY, now, DELAY_COLUMNS)
            delays = slot_delays(delay_cells)
            item_count = catalogue_size(self._project)
        except TailorbirdError as error:
            log.info("figures: %s", error)
            return
        self._store.remove_before(now - HISTORY_DAYS * DAY)
        self._look_for_drift(now)
        self._last_hour_figures = [
            (slot, row)
            for slot in pc.unique(cells["slot"]).to_pylist()
            for row in summarize(
                cells.filter(pc.equal(cells["slot"], slot)),
                now - HOUR,
                now,
                by="version",
                catalogue_size=item_count,
                delays=delays,
            )
        ]

    def _look_for_drift(self, now: int) -> None:
        """Look for drift once an hour."""
        if now // HOUR == self._last_drift_hour:
            return
        self._last_drift_hour = now // HOUR
        try:
            for row in find_drift(self._project, self._clock).episodes:
                if not row.until:
                    log.warning("drift since %s: %s, %s", row.since, row.cause, row.evidence)
        except TailorbirdError as error:
            log.info("drift: %s", error)
