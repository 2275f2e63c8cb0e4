"""The demo's experiments: two at a time with planned lengths, stopped by their rules."""

import math
from typing import Any

from tailorbird.cli.demo.figures import say
from tailorbird.cli.demo.traffic import PairedLists
from tailorbird.config import Project
from tailorbird.events import DAY, SimulatedClock, parse_duration, to_iso
from tailorbird.experiments.page import format_uplift, write_report
from tailorbird.experiments.trial import TrialReport
from tailorbird.platform.experiments.commands import (
    change_experiment,
    report_experiment,
    start_experiment,
)
from tailorbird.registry import read_experiments
from tailorbird.simulator import Site

CONCURRENT_EXPERIMENTS = ("home-model", "home-newest")
HOLDBACK_EXPERIMENT = "home-holdback"
MODEL = "model"
EXPERIMENTS_PY = '''"""The experiments of the demo."""

from tailorbird.experiments import Experiment

home_model = Experiment(
    "home-model",
    slot="home",
    arms={"popular": 0.5, "model": 0.5},
    share=0.7,
    hypothesis="The model brings more clicks than popular items.",
    owner="demo",
    effect=0.15,
    duration="14d",
    interval="12h",
)
home_newest = Experiment(
    "home-newest",
    slot="home",
    arms={"model": 0.5, "recent": 0.5},
    share=0.3,
    hypothesis="The newest items bring more clicks than the model.",
    owner="demo",
    effect=0.15,
    duration="14d",
    interval="12h",
    spending="pocock",
)
# The people of home-model, in the same arms: monitoring compares with those without the model.
home_holdback = Experiment(
    "home-holdback",
    slot="home",
    arms={"popular": 0.5, "model": 0.5},
    share=0.7,
    salt="home-model",
    hypothesis="The model keeps its lead.",
    owner="demo",
    effect=0.15,
    duration="60d",
)
'''


class ConcurrentExperiments:
    """Starts the experiments, reads them at each planned analysis, and stops those that crossed."""

    def __init__(self, project: Project, clock: SimulatedClock, *, quiet: bool) -> None:
        self._project = project
        self._clock = clock
        self._quiet = quiet
        self.interval_us = parse_duration(project.experiments[CONCURRENT_EXPERIMENTS[0]].interval)
        self._report_by_experiment: dict[str, TrialReport] = {}

    def start(self) -> None:
        """Start both experiments."""
        for name in CONCURRENT_EXPERIMENTS:
            self._start(name)

    def analyse(self) -> None:
        """Report on each running experiment, and stop it if its boundary is crossed."""
        for name in self._running_names():
            report = report_experiment(self._project, name, as_of=to_iso(self._clock.now()))
            assert isinstance(report, TrialReport)
            self._report_by_experiment[name] = report
            if is_crossed(report):
                self._stop(name, report)

    def figures(self, paired_lists: PairedLists, site: Site) -> dict[str, Any]:
        """Return the state, effect and truth of each experiment, and print them."""
        running_names = self._running_names()
        figures_by_experiment = {}
        for name, report in self._report_by_experiment.items():
            # An experiment covers its own days only, and tells nothing of those after its stop.
            true_uplift = paired_lists.true_uplift(site, *arms_of(report), until=report.until)
            primary_effect = report.primary[0]
            figures_by_experiment[name] = {
                "stopped": name not in running_names,
                "days": (report.until - report.started_at) / DAY,
                "planned_days": (report.planned_end - report.started_at) / DAY,
                "verdict": report.verdict,
                "uplift": primary_effect.uplift if math.isfinite(primary_effect.uplift) else None,
                "low": primary_effect.low if math.isfinite(primary_effect.low) else None,
                "high": primary_effect.high if math.isfinite(primary_effect.high) else None,
                "true_uplift": true_uplift,
                "stages": report.to_dict()["stages"],
            }
            figures = figures_by_experiment[name]
            days = f"{figures['days']:.1f} of {figures['planned_days']:.0f} days"
            state = "runs on" if name in running_names else "stopped"
            path = self._project.root.parent / f"{name}.html"
            page_path = write_report(path, self._project.settings.project.name, report)
            say(
                f"  {name} ({state} after {days}): {report.verdict} Truth: {true_uplift:+.1%}. "
                "Report: "
                f"{page_path}",
                quiet=self._quiet,
            )
        return figures_by_experiment

    def _running_names(self) -> list[str]:
        running_experiments = read_experiments(self._project.paths.registry).running()
        return [
            experiment.name
            for experiment in running_experiments
            if experiment.name in CONCURRENT_EXPERIMENTS
        ]

    def _start(self, name: str) -> None:
        why = self._project.experiments[name].hypothesis
        start_experiment(self._project, name, by="demo", why=why, clock=self._clock)

    def _stop(self, name: str, report: TrialReport) -> None:
        options: dict[str, Any] = {"by": "demo", "why": report.verdict, "clock": self._clock}
        control, treatment = arms_of(report)
        winner = treatment if report.primary[0].uplift > 0 else control
        change_experiment(self._project, "stop", name, **options)
        change_experiment(self._project, "decide", name, winner, **options)
        say(f"  {name}: {report.verdict}", quiet=self._quiet)
        for number, stage in enumerate(report.stages[treatment], 1):
            stop_note = "  crossed: it is stopped" if abs(stage.z) >= stage.bound else ""
            say(
                f"    analysis {number}: {format_uplift(stage.uplift)}, z {stage.z:+.2f}, "
                f"boundary {stage.bound:.2f}{stop_note}",
                quiet=self._quiet,
            )
        if name == CONCURRENT_EXPERIMENTS[0]:
            self._start(HOLDBACK_EXPERIMENT)


def is_crossed(report: TrialReport) -> bool:
    """Return whether the data pass their checks and an analysis crossed its boundary."""
    _, treatment = arms_of(report)
    is_sound = all(check.passed for check in report.checks)
    return is_sound and report.find_crossing(treatment) is not None


def arms_of(report: TrialReport) -> tuple[str, str]:
    """Return the control and the treatment of a report with two arms."""
    return report.primary[0].control, report.primary[0].arm
