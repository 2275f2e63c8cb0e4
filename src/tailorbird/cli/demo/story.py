"""The demo, stage by stage, from the history of a shop to a retrained model.

Each stage calls the same functions as the commands. Nothing is staged: a failure is printed as
such.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from tailorbird.cli.demo.figures import Figures, describe_canary, event_figures, say
from tailorbird.cli.demo.http import measure
from tailorbird.cli.demo.rollout import ModelRollout
from tailorbird.cli.demo.scale import Scale
from tailorbird.cli.demo.traffic import PairedLists, Traffic
from tailorbird.cli.demo.trials import CONCURRENT_EXPERIMENTS, MODEL, Trials
from tailorbird.cli.demo.world import (
    Shop,
    copy_project,
    make_folder,
    make_project,
    make_site,
    write_history,
)
from tailorbird.cli.output import ReportProgress
from tailorbird.config import Project, open_project
from tailorbird.errors import NotReadyError
from tailorbird.events import DAY, HOUR, SimulatedClock, SystemClock, to_iso
from tailorbird.experiments.counts import COLUMNS
from tailorbird.experiments.report import experiment_report
from tailorbird.features.offline.profile_join import JoinedEvents
from tailorbird.features.parity.recompute import parity
from tailorbird.lake import Lake
from tailorbird.monitoring import Decision, RetrainCriteria, decide_retrain, figures_by_period
from tailorbird.platform.monitoring import read_status
from tailorbird.platform.rollout import ACTOR as TRAINER
from tailorbird.platform.runtime.roles import Roles
from tailorbird.platform.runtime.trainer import TrainOutcome, record_fall, train_once
from tailorbird.simulator import History, Site
from tailorbird.stream.importer import import_files

SLOT = "home"
# The description of each stage. Times are those of the full size on two idle cores.
STAGES = {
    "site": "A shop is generated: {items:,} items, {users:,} people, {history_days} days of "
    "history. A few seconds.",
    "import": "Its log is imported: each event is validated, counted in features, and loaded into "
    "the "
    "lake. 15 seconds.",
    "train": "A first model is trained on clicks and compared with baselines. 25 seconds.",
    "serve": "The shop opens: server, router, feature worker, candidates and lake, one "
    "process each. 6 seconds.",
    "trial": "{trial_days} days of traffic in two experiments at once, each with a planned length "
    "and a stopping rule. About a minute.",
    "shift": "All tastes change overnight. Monitoring checks the clicks until it detects "
    "the fall, and names its likely cause. About a minute.",
    "retrain": "A new model is trained on the days since. If it wins, it goes through shadow and "
    "canary; another day follows. Three minutes.",
    "broken": "A broken model is promoted past the gate, on purpose, and rolled back. The last day "
    "is summed up. A few seconds.",
    "settle": "Late events are counted.",
    "http": "{http_requests:,} requests to the open shop measure latency, and how soon a click "
    "changes "
    "a response. Half a minute.",
    "verify": "Events are compared with what was sent, and logged features with the lake. "
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
        progress: ReportProgress,
    ) -> None:
        self.folder, self.scale, self.seed, self.port, self.quiet = folder, scale, seed, port, quiet
        self.progress = progress
        self.figures = Figures()
        self.shop: Shop | None = None
        self._started_at = time.monotonic()

    def run(self) -> Figures:
        """Run all stages and return the figures; the shop keeps running."""
        with self._stage("site"):
            make_folder(self.folder)
            make_project(self.folder / "loop")
            project = open_project(self.folder / "loop")
            now = SystemClock().now()
            clock = SimulatedClock(now // DAY * DAY)
            site = make_site(self.scale, self.seed, now)
            history, path = write_history(site, self.scale, self.folder / "site", self.progress)
        with self._stage("import"):
            event_decisions = self._import(project, path, clock)
        with self._stage("train"):
            outcome = train_once(project, clock, SLOT, quick=True, progress=self.progress)
            self._print_training(outcome)
            self.figures.offline = outcome.offline
        with self._stage("serve"):
            copy_project(project.root, self.folder / "shop")
            self.shop = Shop(self.folder / "shop", self.port)
            url = self.shop.wait()
            self.figures.first_page_s = round(time.monotonic() - self._started_at, 1)
            say(_open_message(url, self.figures.first_page_s), quiet=self.quiet)
        traffic = Traffic(project, site, history.population, clock, self.scale, self.seed)
        try:
            self._run_live_traffic(project, site, clock, traffic)
        finally:
            traffic.close()
        with self._stage("http"):
            self._http(url, site)
        with self._stage("verify"):
            self._verify(project, event_decisions, history, traffic)
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
            event_decisions = roles.accepted, roles.duplicates, roles.quarantined
        say(
            f"  {report.rows:,} rows in: {event_decisions[0]:,} events, {event_decisions[1]:,} repeats, "
            f"{event_decisions[2]:,} malformed in quarantine",
            quiet=self.quiet,
        )
        return event_decisions

    def _run_live_traffic(
        self, project: Project, site: Site, clock: SimulatedClock, traffic: Traffic
    ) -> None:
        live_from, paired_lists = clock.now(), traffic.pair_arms()
        with self._stage("trial"):
            trials = Trials(project, clock, quiet=self.quiet)
            trials.start()
            trial_end = live_from + self.scale.trial_days * DAY
            while clock.now() < trial_end:
                until = min(clock.now() + trials.interval_us, trial_end)
                traffic.run(until, paired_lists, self.progress, "trial: two experiments")
                trials.analyse()
            shifted_at = clock.now()
            self.figures.experiments = trials.figures(paired_lists, site)
            self._report(project, site, paired_lists, live_from, shifted_at)
        with self._stage("shift"):
            models = ModelRollout(project, clock, traffic, self.progress)
            site.shift(shifted_at, self.scale.shift_strength)
            decision = self._await_fall(project, clock, traffic, live_from, shifted_at)
            self._explain_fall(project, clock, decision, live_from)
            self._print_lines(models)
        with self._stage("retrain"):
            self._retrain(project, site, clock, traffic, models, decision, shifted_at)
        with self._stage("broken"):
            self.figures.broken = models.break_and_roll_back()
            self._print_lines(models)
            self._print_last_day(project, clock)
        with self._stage("settle"):
            traffic.settle()

    def _print_last_day(self, project: Project, clock: SimulatedClock) -> None:
        self.figures.status = list(read_status(project, clock).lines)
        until = to_iso(clock.now())[:16]
        say(f"  $ tailorbird -C {project.root} monitor status --as-of {until}", quiet=self.quiet)
        for line in self.figures.status:
            say(f"  {line}", quiet=self.quiet)

    def _report(
        self, project: Project, site: Site, paired_lists: PairedLists, ts_from: int, ts_to: int
    ) -> None:
        experiment = project.experiments[CONCURRENT_EXPERIMENTS[0]]
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
            "true_uplift": paired_lists.true_uplift(site, "popular", MODEL),
            "judged_requests": len(paired_lists.at),
            "verdict": report.verdict,
        }

    def _await_fall(
        self,
        project: Project,
        clock: SimulatedClock,
        traffic: Traffic,
        live_from: int,
        shifted_at: int,
    ) -> Decision:
        """Advance the clock and check the live metrics until they require a new model."""
        criteria = RetrainCriteria(slot=SLOT, arm=MODEL, control="popular")
        lake = Lake(project.paths.lake)
        until = shifted_at + self.scale.fall_days_max * DAY
        while True:
            traffic.run(
                min(clock.now() + 6 * HOUR, until), None, self.progress, "tastes have shifted"
            )
            events = lake.events(COLUMNS, ts_from=live_from)
            decision = decide_retrain(
                events,
                criteria,
                reference_from=live_from,
                reference_to=shifted_at,
                until=clock.now(),
            )
            if decision.retrain or clock.now() >= until:
                say(f"  monitoring: {decision.reason}", quiet=self.quiet)
                return decision

    def _explain_fall(
        self, project: Project, clock: SimulatedClock, decision: Decision, live_from: int
    ) -> None:
        """Log the fall with its likely cause, as the trainer does."""
        cause = record_fall(project, clock, decision, reference_from=live_from)
        if cause is None:
            return
        since = to_iso(decision.since or 0)
        self.figures.drift = {"since": since, "reason": decision.reason, **asdict(cause)}
        say(
            f"  likely cause: {cause.name}, see docs/operate/{cause.page}; the audit log has it:",
            quiet=self.quiet,
        )

    def _retrain(
        self,
        project: Project,
        site: Site,
        clock: SimulatedClock,
        traffic: Traffic,
        models: ModelRollout,
        decision: Decision,
        shifted_at: int,
    ) -> None:
        figures = self.figures.retrained
        if not decision.retrain:
            figures.update(trigger="", reason=decision.reason)
            return
        assert decision.since is not None
        outcome, attempt_count, accepted = None, 0, False
        while attempt_count < self.scale.attempts and not accepted:
            train_at = decision.since + int((self.scale.learn_days + attempt_count) * DAY)
            if clock.now() < train_at:
                traffic.run(train_at, None, self.progress, "tastes have shifted")
            outcome = train_once(
                project,
                clock,
                SLOT,
                since=decision.since,
                quick=True,
                promote=False,
                by=TRAINER,
                progress=self.progress,
            )
            accepted = bool(models.registry.info(outcome.version).metrics.get("accepted"))
            self._print_training(outcome, accepted)
            attempt_count += 1
        assert outcome is not None
        trained_at = clock.now()
        is_promoted = accepted and models.roll_out(outcome.version)
        self._print_lines(models)
        canary = models.compare(outcome.version, outcome.champion, site)
        if canary:
            say(f"  {describe_canary(canary)}", quiet=self.quiet)
        decided_at, paired_lists = clock.now(), traffic.pair_arms()
        traffic.run(decided_at + DAY, paired_lists, self.progress, "with the new model")
        figures.update(
            trigger=decision.reason,
            old=outcome.champion,
            new=outcome.version,
            promoted=is_promoted,
            attempts=attempt_count,
            gate=outcome.reason,
            canary=canary,
            figure="lift of model over popular",
            figure_before=decision.figure_before,
            figure_fallen=self._lift(project, shifted_at, trained_at),
            figure_after=self._lift(project, decided_at, clock.now()),
            true_after=paired_lists.true_uplift(site, "popular", MODEL),
            detected_after_h=round(((decision.decided_at or trained_at) - shifted_at) / HOUR, 1),
        )

    def _lift(self, project: Project, ts_from: int, ts_to: int) -> float:
        events = Lake(project.paths.lake).events(COLUMNS, ts_from=ts_from, ts_to=ts_to)
        figures = figures_by_period(events, SLOT, baseline="popular", period=1_000 * DAY)
        return next((figure.lift for figure in figures if figure.arm == MODEL), float("nan"))

    def _http(self, url: str, site: Site) -> None:
        assert self.shop is not None
        if not self.shop.is_alive():
            raise NotReadyError(
                "the shop's processes ended",
                where=str(self.folder / "shop" / "data" / "run" / "up.log"),
            )
        users = [f"u{number:06d}" for number in range(min(1_000, site.users.count))]
        http_figures = measure(url, users, self.scale.http_requests, progress=self.progress)
        self.figures.latency_ms = http_figures.summary(http_figures.latency_ms)
        self.figures.freshness_ms = http_figures.summary(http_figures.freshness_ms)
        self.figures.http = {
            "requests": len(http_figures.latency_ms),
            "failed": http_figures.failed,
            "unchanged": http_figures.unchanged,
        }

    def _verify(
        self,
        project: Project,
        event_decisions: tuple[int, int, int],
        history: History,
        traffic: Traffic,
    ) -> None:
        """Compare event counts with the injected ones, and logged features with the lake."""
        roles = traffic.roles
        totals = [
            a + b
            for a, b in zip(
                event_decisions, (roles.accepted, roles.duplicates, roles.quarantined), strict=True
            )
        ]
        self.figures.events = event_figures(
            totals[0],
            totals[1],
            totals[2],
            [history.injected, traffic.live.injected],
            traffic.response_count,
        )
        lake = Lake(project.paths.lake)
        responses = lake.table("answers")
        stride = max(1, responses.num_rows // self.scale.parity_responses)
        sample = responses.take(list(range(0, responses.num_rows, stride)))
        report = parity(project.features, JoinedEvents(lake, project.features).table(), sample)
        self.figures.parity = {
            "answers": report.answers,
            "compared": report.compared,
            "unequal": report.unequal,
            "by_feature": {name: count for name, count in report.by_feature.items() if count},
        }

    def _print_lines(self, models: ModelRollout) -> None:
        for line in models.new_audit_lines():
            say(f"  {line}", quiet=self.quiet)

    def _print_training(self, outcome: TrainOutcome, accepted: bool = False) -> None:
        verdict = "passes the gate" if accepted else "is kept, not promoted"
        verdict = "goes live" if outcome.promoted else verdict
        say(
            f"  {outcome.version} {verdict}: {outcome.reason}\n  report: {outcome.report}",
            quiet=self.quiet,
        )

    @contextmanager
    def _stage(self, name: str) -> Iterator[None]:
        start = time.monotonic()
        description = STAGES[name].format(**asdict(self.scale))
        say(
            f"{len(self.figures.stages_s) + 1} of {len(STAGES)}  {description}",
            quiet=self.quiet,
            style="bold",
        )
        yield
        self.figures.stages_s[name] = round(time.monotonic() - start, 1)


def _open_message(url: str, seconds: float) -> str:
    return (
        f"\n  The shop is open after {seconds:.0f} s: {url}/shop\n"
        "  Click on something: the list changes, and the panel beside it says which features "
        "moved and why.\n"
        f"  {url}/ shows what its roles are doing. Here the rest of the loop goes on, for "
        "some six minutes.\n"
    )
