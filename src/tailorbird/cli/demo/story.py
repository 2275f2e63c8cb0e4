"""The demo, stage by stage: history → import → train → serve → trial → report → tastes shift →
figures fall → retrain → recover.

Each stage does what the commands do, with the same functions. Nothing is staged: what does not come
out is printed so.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from tailorbird.cli.demo.figures import Figures, event_figures, say
from tailorbird.cli.demo.http import measure
from tailorbird.cli.demo.scale import Scale
from tailorbird.cli.demo.traffic import Judged, Traffic
from tailorbird.cli.demo.world import (
    Shop,
    copy_project,
    make_folder,
    make_project,
    make_site,
    write_history,
)
from tailorbird.cli.output import Report
from tailorbird.config import Project, open_project
from tailorbird.errors import NotReadyError
from tailorbird.events import DAY, HOUR, SimulatedClock, SystemClock
from tailorbird.experiments import Experiment
from tailorbird.experiments.counts import COLUMNS
from tailorbird.experiments.report import experiment_report
from tailorbird.features.attached import JoinedEvents
from tailorbird.features.recompute import parity
from tailorbird.lake import Lake
from tailorbird.monitoring import Decision, Trigger, decide_retrain, figures_by_period
from tailorbird.platform.roles import Roles
from tailorbird.platform.trainer import TrainOutcome, train_once
from tailorbird.simulator import History, Site
from tailorbird.stream.importer import import_files

SLOT = "home"
# What each stage does, at the sizes of a `Scale`, and about how long the full one takes on two
# quiet cores.
STAGES = {
    "site": "A shop is made up: {items:,} items, {users:,} people, {history_days} days of what "
    "they did. A few seconds.",
    "import": "Its log is imported: each event is checked, counted in features, and put into the "
    "lake. 15 seconds.",
    "train": "A first model is trained on what people clicked, and judged beside baselines. 25 "
    "seconds.",
    "serve": "The shop opens: server, router, feature worker, candidates and lake, each a "
    "process. 6 seconds.",
    "trial": "{trial_days} days of visitors come, half of them without the model: an experiment. "
    "About a minute.",
    "shift": "Everybody's taste changes overnight. Monitoring looks at the clicks until it "
    "notices. About a minute.",
    "retrain": "A new model is trained on the days since, and goes live if it wins; "
    "{recovery_days} days follow. Three minutes.",
    "settle": "What is still under way is counted.",
    "http": "{http_requests:,} requests to the open shop are timed, and how soon a click changes "
    "an answer. Half a minute.",
    "verify": "Every event is held against what was sent, and logged features against the lake. "
    "Half a minute.",
}


class Story:
    """One run of the demo in `folder`."""

    def __init__(
        self,
        folder: Path,
        scale: Scale,
        *,
        seed: int,
        port: int | None,
        quiet: bool,
        progress: Report,
    ) -> None:
        self.folder, self.scale, self.seed, self.port, self.quiet = folder, scale, seed, port, quiet
        self.progress = progress
        self.figures = Figures()
        self.shop: Shop | None = None
        self._begun = time.monotonic()

    def run(self) -> Figures:
        """The whole loop; the shop is left running."""
        with self._stage("site"):
            make_folder(self.folder)
            make_project(self.folder / "loop")
            project = open_project(self.folder / "loop")
            now = SystemClock().now()
            clock = SimulatedClock(now // DAY * DAY)
            site = make_site(self.scale, self.seed, now)
            history, path = write_history(site, self.scale, self.folder / "site", self.progress)
        with self._stage("import"):
            decided = self._import(project, path, clock)
        with self._stage("train"):
            first = train_once(project, clock, SLOT, quick=True, progress=self.progress)
            self._tell_training(first)
            self.figures.offline = first.offline
        with self._stage("serve"):
            copy_project(project.root, self.folder / "shop")
            self.shop = Shop(self.folder / "shop", self.port)
            url = self.shop.wait()
            self.figures.first_page_s = round(time.monotonic() - self._begun, 1)
            say(_opened(url, self.figures.first_page_s), quiet=self.quiet)
        traffic = Traffic(project, site, history.population, clock, self.scale, self.seed)
        try:
            self._live(project, site, clock, traffic)
        finally:
            traffic.close()
        with self._stage("http"):
            self._http(url, site)
        with self._stage("verify"):
            self._verify(project, decided, history, traffic)
        return self.figures

    def _import(self, project: Project, path: Path, clock: SimulatedClock) -> tuple[int, int, int]:
        project.paths.stream.mkdir(parents=True)
        report = import_files(
            project.paths.stream,
            "tailorbird",
            path,
            plan=project.plan,
            clock=clock,
            progress=self.progress,
            pseudonyms=project.pseudonyms(),
        )
        with Roles(project, clock) as roles:
            roles.drain(self.progress, label="route, count, load")
            decided = roles.accepted, roles.duplicates, roles.quarantined
        say(
            f"  {report.rows:,} rows in: {decided[0]:,} events, {decided[1]:,} repeats, "
            f"{decided[2]:,} malformed in quarantine",
            quiet=self.quiet,
        )
        return decided

    def _live(self, project: Project, site: Site, clock: SimulatedClock, traffic: Traffic) -> None:
        opened, judged = clock.now(), Judged()
        with self._stage("trial"):
            traffic.run(
                opened + self.scale.trial_days * DAY,
                judged,
                self.progress,
                "trial: model and popular",
            )
            shifted = clock.now()
            self._report(project, site, judged, opened, shifted)
        with self._stage("shift"):
            site.shift(shifted, self.scale.shift_strength)
            decision = self._watch(project, clock, traffic, opened, shifted)
        with self._stage("retrain"):
            self._retrain(project, clock, traffic, decision, shifted)
        with self._stage("settle"):
            traffic.settle()

    def _report(
        self, project: Project, site: Site, judged: Judged, ts_from: int, ts_to: int
    ) -> None:
        experiment = _experiment(project)
        report = experiment_report(
            Lake(project.paths.lake), experiment, SLOT, ts_from=ts_from, ts_to=ts_to
        )
        arms = {
            arm.arm: {
                "users": arm.users,
                "impressions": arm.impressions,
                "clicks": arm.clicks,
                "ctr": arm.ctr,
            }
            for arm in report.arms
        }
        self.figures.online = {
            "arms": arms,
            "uplift": report.uplift,
            "low": report.low,
            "high": report.high,
            "srm_p": report.srm_p,
            "true_uplift": judged.true_uplift(site),
            "judged_requests": len(judged.at),
            "verdict": report.verdict,
        }
        say(f"  {report.verdict}", quiet=self.quiet)

    def _watch(
        self, project: Project, clock: SimulatedClock, traffic: Traffic, opened: int, shifted: int
    ) -> Decision:
        """Let time pass, and look at the live figures every six hours, until they call for a new
        model.
        """
        trigger = self._trigger(project)
        lake = Lake(project.paths.lake)
        until = shifted + self.scale.fall_days_max * DAY
        while True:
            traffic.run(
                min(clock.now() + 6 * HOUR, until), None, self.progress, "tastes have shifted"
            )
            events = lake.events(COLUMNS, ts_from=opened)
            decision = decide_retrain(
                events, trigger, reference_from=opened, reference_to=shifted, until=clock.now()
            )
            if decision.retrain or clock.now() >= until:
                say(f"  monitoring: {decision.reason}", quiet=self.quiet)
                return decision

    def _trigger(self, project: Project) -> Trigger:
        experiment = _experiment(project)
        return Trigger(slot=SLOT, arm="model", control="popular", experiment=experiment.name)

    def _retrain(
        self,
        project: Project,
        clock: SimulatedClock,
        traffic: Traffic,
        decision: Decision,
        shifted: int,
    ) -> None:
        figures = self.figures.retrained
        if not decision.retrain:
            figures.update(trigger="", reason=decision.reason)
            return
        assert decision.since is not None
        outcome, attempts = None, 0
        while attempts < self.scale.attempts and (outcome is None or not outcome.promoted):
            enough = decision.since + int((self.scale.learn_days + attempts) * DAY)
            if clock.now() < enough:
                traffic.run(enough, None, self.progress, "tastes have shifted")
            outcome = train_once(
                project,
                clock,
                SLOT,
                since=decision.since,
                quick=True,
                by="demo",
                progress=self.progress,
            )
            self._tell_training(outcome)
            attempts += 1
        assert outcome is not None
        traffic.parts.refresh()
        renewed = clock.now()
        traffic.run(
            renewed + self.scale.recovery_days * DAY, None, self.progress, "with the new model"
        )
        lift_fallen = self._lift(project, shifted, renewed)
        figures.update(
            trigger=decision.reason,
            old=outcome.incumbent,
            new=outcome.version,
            promoted=outcome.promoted,
            attempts=attempts,
            gate=outcome.reason,
            figure="lift of model over popular",
            figure_before=decision.figure_before,
            figure_fallen=lift_fallen,
            figure_after=self._lift(project, renewed, clock.now()),
            detected_after_h=round(((decision.decided_at or renewed) - shifted) / HOUR, 1),
        )

    def _lift(self, project: Project, ts_from: int, ts_to: int) -> float:
        events = Lake(project.paths.lake).events(COLUMNS, ts_from=ts_from, ts_to=ts_to)
        experiment = _experiment(project)
        found = figures_by_period(
            events, SLOT, baseline="popular", period=1_000 * DAY, experiment=experiment.name
        )
        return next((figure.lift for figure in found if figure.arm == "model"), float("nan"))

    def _http(self, url: str, site: Site) -> None:
        assert self.shop is not None
        if not self.shop.alive():
            raise NotReadyError(
                "the shop's processes ended",
                where=str(self.folder / "shop" / "data" / "run" / "up.log"),
            )
        users = [f"u{number:06d}" for number in range(min(1_000, site.users.count))]
        measured = measure(url, users, self.scale.http_requests, progress=self.progress)
        self.figures.latency_ms = measured.summary(measured.latency_ms)
        self.figures.freshness_ms = measured.summary(measured.freshness_ms)
        self.figures.http = {
            "requests": len(measured.latency_ms),
            "failed": measured.failed,
            "unchanged": measured.unchanged,
        }

    def _verify(
        self, project: Project, decided: tuple[int, int, int], history: History, traffic: Traffic
    ) -> None:
        """Hold what was found against what was injected, and logged features against the lake, by a
        reader of its own.
        """
        roles = traffic.roles
        totals = [
            a + b
            for a, b in zip(
                decided, (roles.accepted, roles.duplicates, roles.quarantined), strict=True
            )
        ]
        self.figures.events = event_figures(
            totals[0],
            totals[1],
            totals[2],
            [history.injected, traffic.live.injected],
            traffic.answers,
        )
        lake = Lake(project.paths.lake)
        answers = lake.table("answers")
        step = max(1, answers.num_rows // self.scale.parity_answers)
        sample = answers.take(list(range(0, answers.num_rows, step)))
        report = parity(project.features, JoinedEvents(lake, project.features).table(), sample)
        self.figures.parity = {
            "answers": report.answers,
            "compared": report.compared,
            "unequal": report.unequal,
            "by_feature": {name: count for name, count in report.by_feature.items() if count},
        }

    def _tell_training(self, outcome: TrainOutcome) -> None:
        what = "goes live" if outcome.promoted else "is kept, not promoted"
        say(
            f"  {outcome.version} {what}: {outcome.reason}\n  report: {outcome.report}",
            quiet=self.quiet,
        )

    @contextmanager
    def _stage(self, name: str) -> Iterator[None]:
        start = time.monotonic()
        told = STAGES[name].format(**asdict(self.scale))
        say(
            f"{len(self.figures.stages_s) + 1} of {len(STAGES)}  {told}",
            quiet=self.quiet,
            style="bold",
        )
        yield
        self.figures.stages_s[name] = round(time.monotonic() - start, 1)


def _opened(url: str, seconds: float) -> str:
    return (
        f"\n  The shop is open after {seconds:.0f} s: {url}/shop\n"
        "  Click on something: the list changes, and the panel beside it says which features "
        "moved and why.\n"
        f"  {url}/ shows what its roles are doing. Here the rest of the loop goes on, for "
        "some six minutes.\n"
    )


def _experiment(project: Project) -> Experiment:
    experiment = project.slots[SLOT].experiment
    assert experiment is not None, "the demo turns on the one that slots.py shows"
    return experiment
