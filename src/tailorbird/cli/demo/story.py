"""The demo, stage by stage, from the history of a shop to a retrained model.

Each stage calls the same functions as the commands. Nothing is staged: a failure is printed as
such.
"""

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from tailorbird.cli.demo.figures import (
    Figures,
    compare_event_counts,
    describe_baseline,
    describe_canary,
    describe_cause,
    describe_refusal,
    describe_retraining,
    interval_figures,
    say,
)
from tailorbird.cli.demo.http import measure
from tailorbird.cli.demo.rollout import ModelRollout
from tailorbird.cli.demo.scale import Scale
from tailorbird.cli.demo.traffic import PairedLists, Traffic
from tailorbird.cli.demo.trials import CONCURRENT_EXPERIMENTS, MODEL, ConcurrentExperiments
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
from tailorbird.experiments.counts import COLUMNS as EVENT_COLUMNS
from tailorbird.experiments.report import experiment_report
from tailorbird.features.offline.profile_join import JoinedEvents
from tailorbird.features.parity.recompute import compute_parity
from tailorbird.lake import Lake
from tailorbird.monitoring import RetrainCriteria, RetrainVerdict, decide_retrain, figures_by_period
from tailorbird.monitoring.drift.causes import TASTE
from tailorbird.platform.monitoring import read_status
from tailorbird.platform.rollout import ACTOR as TRAINER
from tailorbird.platform.runtime.roles import InProcessRoles
from tailorbird.platform.runtime.trainer import TrainOutcome, record_fall, train_once
from tailorbird.registry import Registry
from tailorbird.simulator import History, Site
from tailorbird.stream.importer import import_files

SLOT = "home"
FIRST_MODEL_WAITS = 2  # times that a refused first model is trained again, with more days
# The description of each stage. Times are those of the full size on two idle cores.
STAGE_DESCRIPTIONS = {
    "site": "A shop is generated: {items:,} items, {users:,} people, {history_days} days of "
    "history. A few seconds.",
    "import": "Its log is imported: each event is validated, counted in features, and loaded into "
    "the lake. 15 seconds.",
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
    "changes a response. Half a minute.",
    "verify": "Events are compared with what was sent, and logged features with the lake. "
    "Half a minute.",
}


class EventCounts(NamedTuple):
    """Events by the router's decision."""

    accepted: int
    duplicates: int
    quarantined: int


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
        self.folder = folder
        self.scale = scale
        self.seed = seed
        self.port = port
        self.quiet = quiet
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
            site = make_site(self.scale, self.seed, now)
            clock = SimulatedClock(site.start + self.scale.history_days * DAY)
            history, history_file = write_history(
                site, self.scale, self.folder / "site", self.progress
            )
        with self._stage("import"):
            imported_counts = self._import(project, history_file, clock)
        with self._stage("train"):
            outcome = train_once(project, clock, SLOT, quick=True, progress=self.progress)
            self._print_training(outcome)
            self.figures.offline = outcome.results_by_model
        with self._stage("serve"):
            copy_project(project.root, self.folder / "shop")
            self.shop = Shop(self.folder / "shop", self.port)
            url = self.shop.wait()
            self.figures.first_page_s = round(time.monotonic() - self._started_at, 1)
            say(_open_message(url, self.figures.first_page_s), quiet=self.quiet)
        traffic = Traffic(project, site, history.population, clock, self.scale, self.seed)
        try:
            self._run_live_traffic(project, site, clock, traffic, outcome)
        finally:
            traffic.close()
        with self._stage("http"):
            self._measure_http(url, site)
        with self._stage("verify"):
            self._verify(project, imported_counts, history, traffic)
        return self.figures

    def _import(self, project: Project, history_file: Path, clock: SimulatedClock) -> EventCounts:
        project.paths.stream.mkdir(parents=True)
        report = import_files(
            project.paths.stream,
            "tailorbird",
            history_file,
            plan=project.plan,
            clock=clock,
            report_progress=self.progress,
            pseudonyms=project.pseudonyms(),
        )
        with InProcessRoles(project, clock) as roles:
            roles.drain(self.progress, label="route, count, load")
            counts = EventCounts(roles.accepted, roles.duplicates, roles.quarantined)
        say(
            f"  {report.rows:,} rows in: {counts.accepted:,} events, "
            f"{counts.duplicates:,} repeats, {counts.quarantined:,} malformed in quarantine",
            quiet=self.quiet,
        )
        return counts

    def _run_live_traffic(
        self,
        project: Project,
        site: Site,
        clock: SimulatedClock,
        traffic: Traffic,
        first_outcome: TrainOutcome,
    ) -> None:
        with self._stage("trial"):
            self._await_first_model(project, site, clock, traffic, first_outcome)
            live_from = clock.now()
            paired_lists = traffic.pair_arms()
            concurrent_experiments = ConcurrentExperiments(project, clock, quiet=self.quiet)
            concurrent_experiments.start()
            trial_end = live_from + self.scale.trial_days * DAY
            while clock.now() < trial_end:
                until = min(clock.now() + concurrent_experiments.interval_us, trial_end)
                traffic.run(until, paired_lists, self.progress, "trial: two experiments")
                concurrent_experiments.analyse()
            shifted_at = clock.now()
            self.figures.experiments = concurrent_experiments.figures(paired_lists, site)
            self._report_trial(project, site, paired_lists, live_from, shifted_at)
        with self._stage("shift"):
            model_rollout = ModelRollout(project, clock, traffic, self.progress)
            site.shift_tastes(shifted_at, self.scale.shift_strength)
            decision = self._await_fall(project, clock, traffic, live_from, shifted_at)
            self._explain_fall(project, clock, decision, live_from)
            self._print_audit_lines(model_rollout)
        with self._stage("retrain"):
            self._retrain(project, site, clock, traffic, model_rollout, decision, shifted_at)
        with self._stage("broken"):
            self.figures.broken = model_rollout.break_and_roll_back()
            self._print_audit_lines(model_rollout)
            self._print_last_day(project, clock)
        with self._stage("settle"):
            traffic.settle()

    def _await_first_model(
        self,
        project: Project,
        site: Site,
        clock: SimulatedClock,
        traffic: Traffic,
        outcome: TrainOutcome,
    ) -> None:
        """After a refused first model, gather more days and train again, as a team would.

        Each refused model is compared with what answers in its place, by the truth.
        """
        registry = Registry(project.paths.registry, clock=clock)
        refusals: list[dict[str, Any]] = []
        while not outcome.is_promoted and len(refusals) < FIRST_MODEL_WAITS:
            champion = registry.info(registry.aliases().champion)
            paired_lists = traffic.pair_versions(champion.version, outcome.version)
            until = clock.now() + self.scale.wait_days * DAY
            traffic.run(until, paired_lists, self.progress, "no model yet: more days of data")
            refusals.append(
                {
                    "version": outcome.version,
                    "reason": outcome.reason,
                    "over": champion.baseline,
                    "true_uplift": paired_lists.true_uplift(
                        site, champion.version, outcome.version
                    ),
                }
            )
            say(f"  {describe_refusal(refusals[-1])}", quiet=self.quiet)
            outcome = train_once(project, clock, SLOT, quick=True, progress=self.progress)
            self._print_training(outcome)
            self.figures.offline = outcome.results_by_model
        baseline = registry.info(registry.aliases().champion).baseline
        self.figures.first_model = {
            "version": outcome.version,
            "promoted": outcome.is_promoted,
            "reason": outcome.reason,
            "baseline": baseline,
            "refusals": refusals,
        }
        if baseline:
            say(f"  {describe_baseline(baseline)}", quiet=self.quiet)

    def _print_last_day(self, project: Project, clock: SimulatedClock) -> None:
        self.figures.status = list(read_status(project, clock).lines)
        until = to_iso(clock.now())[:16]
        say(f"  $ tailorbird -C {project.root} monitor status --as-of {until}", quiet=self.quiet)
        for line in self.figures.status:
            say(f"  {line}", quiet=self.quiet)

    def _report_trial(
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
            "judged_requests": len(paired_lists.request_times),
            "verdict": report.verdict,
        }

    def _await_fall(
        self,
        project: Project,
        clock: SimulatedClock,
        traffic: Traffic,
        live_from: int,
        shifted_at: int,
    ) -> RetrainVerdict:
        """Advance the clock and check the live metrics until they require a new model."""
        criteria = RetrainCriteria(slot=SLOT, arm=MODEL, control="popular")
        lake = Lake(project.paths.lake)
        until = shifted_at + self.scale.fall_days_max * DAY
        while True:
            traffic.run(
                min(clock.now() + 6 * HOUR, until), None, self.progress, "tastes have shifted"
            )
            events = lake.events(EVENT_COLUMNS, ts_from=live_from)
            decision = decide_retrain(
                events,
                criteria,
                reference_from=live_from,
                reference_to=shifted_at,
                until=clock.now(),
            )
            if decision.should_retrain or clock.now() >= until:
                say(f"  monitoring: {decision.reason}", quiet=self.quiet)
                return decision

    def _explain_fall(
        self, project: Project, clock: SimulatedClock, decision: RetrainVerdict, live_from: int
    ) -> None:
        """Log the fall with its likely cause, as the trainer does."""
        cause = record_fall(project, clock, decision, reference_from=live_from)
        if cause is None:
            return
        since = to_iso(decision.since or 0)
        self.figures.drift = {
            "since": since,
            "reason": decision.reason,
            **asdict(cause),
            "injected": TASTE,
            "is_injected": cause.name == TASTE,
        }
        say(
            f"  likely cause: {describe_cause(self.figures.drift)}, "
            f"see docs/operate/{cause.runbook_page}; the audit log has it:",
            quiet=self.quiet,
        )

    def _retrain(
        self,
        project: Project,
        site: Site,
        clock: SimulatedClock,
        traffic: Traffic,
        model_rollout: ModelRollout,
        decision: RetrainVerdict,
        shifted_at: int,
    ) -> None:
        figures = self.figures.retrained
        if not decision.should_retrain:
            figures.update(trigger="", reason=decision.reason)
            say(f"  {describe_retraining(figures)}", quiet=self.quiet)
            return
        assert decision.since is not None
        outcome = None
        attempt_count = 0
        is_accepted = False
        while attempt_count < self.scale.attempts and not is_accepted:
            training_time = decision.since + int((self.scale.learn_days + attempt_count) * DAY)
            if clock.now() < training_time:
                traffic.run(training_time, None, self.progress, "tastes have shifted")
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
            is_accepted = bool(model_rollout.registry.info(outcome.version).metrics.get("accepted"))
            self._print_training(outcome, is_accepted)
            attempt_count += 1
        assert outcome is not None
        is_promoted = is_accepted and model_rollout.roll_out(outcome.version)
        self._print_audit_lines(model_rollout)
        canary = model_rollout.compare(outcome.version, site)
        aliases = model_rollout.registry.aliases()
        champion_before = aliases.previous if is_promoted else aliases.champion
        if canary:
            say(f"  {describe_canary(canary)}", quiet=self.quiet)
        rollout_ended_at = clock.now()
        paired_lists = traffic.pair_arms()
        traffic.run(rollout_ended_at + DAY, paired_lists, self.progress, "a day after the roll-out")
        figures.update(
            trigger=decision.reason,
            old=champion_before,
            new=outcome.version,
            promoted=is_promoted,
            attempts=attempt_count,
            gate=outcome.reason,
            canary=canary,
            figure="lift of model over popular",
            figure_before=interval_figures(decision.value_before, *decision.bounds_before),
            # Of the window that the reason names, so that one window has one figure.
            figure_fallen=interval_figures(decision.value_after, *decision.bounds_after),
            figure_after=self._measure_lift(project, rollout_ended_at, clock.now()),
            true_after=paired_lists.true_uplift(site, "popular", MODEL),
            detected_after_h=round(
                ((decision.decided_at or decision.since) - shifted_at) / HOUR, 1
            ),
        )
        say(f"  {describe_retraining(figures)}", quiet=self.quiet)

    def _measure_lift(self, project: Project, ts_from: int, ts_to: int) -> dict[str, float | None]:
        events = Lake(project.paths.lake).events(EVENT_COLUMNS, ts_from=ts_from, ts_to=ts_to)
        # A period of that length begins in 1970, and holds all of the window.
        figures = figures_by_period(events, SLOT, baseline="popular", period_us=ts_to)
        return next(
            (
                interval_figures(figure.lift, figure.lift_low, figure.lift_high)
                for figure in figures
                if figure.arm == MODEL
            ),
            interval_figures(math.nan, math.nan, math.nan),
        )

    def _measure_http(self, url: str, site: Site) -> None:
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
            "failed": http_figures.failed_count,
            "unchanged": http_figures.unchanged_count,
        }

    def _verify(
        self, project: Project, imported_counts: EventCounts, history: History, traffic: Traffic
    ) -> None:
        """Compare event counts with the injected ones, and logged features with the lake."""
        roles = traffic.roles
        self.figures.events = compare_event_counts(
            imported_counts.accepted + roles.accepted,
            imported_counts.duplicates + roles.duplicates,
            imported_counts.quarantined + roles.quarantined,
            [history.injected, traffic.live_traffic.injected],
            traffic.response_count,
        )
        lake = Lake(project.paths.lake)
        responses = lake.table("answers")
        stride = max(1, responses.num_rows // self.scale.parity_responses)
        sample = responses.take(list(range(0, responses.num_rows, stride)))
        report = compute_parity(
            project.features, JoinedEvents(lake, project.features).table(), sample
        )
        self.figures.parity = {
            "answers": report.answers,
            "compared": report.compared,
            "unequal": report.unequal,
            "by_feature": {name: count for name, count in report.by_feature.items() if count},
        }

    def _print_audit_lines(self, model_rollout: ModelRollout) -> None:
        for line in model_rollout.new_audit_lines():
            say(f"  {line}", quiet=self.quiet)

    def _print_training(self, outcome: TrainOutcome, is_accepted: bool = False) -> None:
        verdict = "passes the gate" if is_accepted else "is kept, not promoted"
        verdict = "goes live" if outcome.is_promoted else verdict
        say(
            f"  {outcome.version} {verdict}: {outcome.reason}\n  report: {outcome.report_path}",
            quiet=self.quiet,
        )

    @contextmanager
    def _stage(self, name: str) -> Iterator[None]:
        start = time.monotonic()
        description = STAGE_DESCRIPTIONS[name].format(**asdict(self.scale))
        say(
            f"{len(self.figures.stages_s) + 1} of {len(STAGE_DESCRIPTIONS)}  {description}",
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
