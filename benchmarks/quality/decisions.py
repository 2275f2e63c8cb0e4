"""Every decision of the loop beside the truth, over shops that are drawn from seeds.

    python -m benchmarks.quality.decisions --shops 8 --seed 1

Each shop is played by the product's own calls, those of `tailorbird demo`, at a smaller size: a
history, a first model, two experiments, an incident, the fall and its cause, a new model in shadow
and canary, a broken model. The simulator knows what is true of each. Seeds below 1000 are for
development.

| decision | right | wrong | missed |
|---|---|---|---|
| gate, first model | – | a model that is truly worse passes | one that is truly better is refused |
| experiment, stopped | it names the better arm | it names the worse one | – |
| experiment, interval | it covers the true uplift | it does not | – |
| fall | a true one is found, or none where none is | a false alarm | a large true one is not found |
| cause of the fall | the injected one | another one | – |
| drift, by the incident's size | an episode has the injected cause | all have others | there is none |
| data window | starts within a day of the incident | starts elsewhere | – |
| gate, retrained | as the first | as the first | as the first |
| canary | promotes what is better | promotes what is worse | ends what is better |
| roll-back | the broken model is rolled back | – | it stays |
"""

import argparse
import json
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.quality.running import share_with_interval
from tailorbird.cli.demo.rollout import ModelRollout
from tailorbird.cli.demo.scale import Scale
from tailorbird.cli.demo.traffic import PairedLists, Traffic
from tailorbird.cli.demo.trials import ConcurrentExperiments
from tailorbird.cli.demo.world import make_project, write_history
from tailorbird.config import Project, open_project
from tailorbird.errors import NotReadyError
from tailorbird.events import DAY, HOUR, MINUTE, Context, SimulatedClock, to_iso_minute
from tailorbird.experiments.counts import COLUMNS as EVENT_COLUMNS
from tailorbird.lake import Lake
from tailorbird.monitoring import RetrainCriteria, RetrainVerdict, decide_retrain
from tailorbird.monitoring.drift.causes import DATA_FAULTS, TASTE
from tailorbird.platform.drift import find_drift
from tailorbird.platform.rollout import ACTOR as TRAINER
from tailorbird.platform.runtime.roles import InProcessRoles
from tailorbird.platform.runtime.trainer import record_fall, train_once
from tailorbird.serving.messages import RecommendQuery
from tailorbird.simulator import Incident, Site, draw_incidents, draw_start
from tailorbird.simulator.wire import EventFactory
from tailorbird.stream.importer import import_files

SLOT = "home"
MODEL = "model"
CONTROL = "popular"
# Fewer people and days than the demo has, so that a shop takes two minutes of a core.
SCALE = Scale(
    users=900,
    items=300,
    history_days=12,
    trial_days=3,
    fall_days_max=3,
    tick_us=20 * MINUTE,
    truth_every=20,
)
TRUTH_USERS = 400  # people whose lists two versions make, to compare them by the truth
RIGHT, WRONG, MISSED = "right", "wrong", "missed"

# From here on a model is worse or better: the margins of the targets for the gate.
WORSE = -0.02
BETTER = 0.05
# A true relative fall below the first is none; above the second it has to be found.
FALL_NONE = 0.02
FALL_LARGE = 0.15

CAUSE_BY_KIND = {
    "taste": TASTE,
    "lost-field": "tracker lost a field",
    "crawlers": "bots",
    "device": "new app version or device",
    "catalogue": "catalogue swap",
    "promotion": "promotion",
    "holiday": "seasonality",
    "outage": "outage upstream",
    "slow-store": "slow store",
    "stale-source": "stale source",
    "model-change": "model change",
}
PLAYED_KINDS = (*CAUSE_BY_KIND, "none")
# They reach both arms alike, so they explain no fall against a control; tastes drift by themselves.
SHARED_KINDS = ("promotion", "holiday", "outage", "none")


@dataclass(frozen=True)
class Decision:
    """A decision, what was said and what is true."""

    name: str
    verdict: str
    statement: str
    truth: str
    blocks_training: bool = False


class ShopRun:
    """One shop, from its history to a roll-back."""

    def __init__(self, folder: Path, seed: int, kind: str, scale: Scale = SCALE) -> None:
        self.decisions: list[Decision] = []
        self._folder, self._scale = folder, scale
        start = draw_start(seed)
        self._live_from = start + scale.history_days * DAY
        self._shifted_at = self._live_from + scale.trial_days * DAY
        incidents = draw_incidents(
            [kind], seed=seed, first=self._shifted_at, last=self._shifted_at + DAY
        )
        self.incident: Incident = incidents[0]
        self._site = Site(
            seed,
            users=scale.users,
            items=scale.items,
            start=start,
            days=scale.history_days + 60,
            incidents=incidents,
        )
        self._seed = seed
        self._clock = SimulatedClock(self._live_from)
        self._expected_cause = CAUSE_BY_KIND.get(kind, TASTE)

    def play(self) -> None:
        """Play all stages; each appends its decisions."""
        make_project(self._folder / "loop")
        project = open_project(self._folder / "loop")
        history, history_file = write_history(
            self._site, self._scale, self._folder / "site", lambda *_: None
        )
        project.paths.stream.mkdir(parents=True)
        import_files(
            project.paths.stream, "tailorbird", history_file, plan=project.plan, clock=self._clock
        )
        with InProcessRoles(project, self._clock) as roles:
            roles.drain()
        first = train_once(project, self._clock, SLOT, quick=True)
        traffic = Traffic(
            project, self._site, history.population, self._clock, self._scale, self._seed
        )
        try:
            rollout = ModelRollout(project, self._clock, traffic, lambda *_: None)
            is_accepted = bool(rollout.registry.info(first.version).metrics.get("accepted"))
            baseline = rollout.registry.versions()[0].version
            self._judge_gate("gate, first model", traffic, baseline, first.version, is_accepted)
            if not is_accepted:
                # Nobody would go on with a baseline; the later decisions are to be judged too.
                rollout.registry.promote(first.version, by="benchmark", why="to play on")
                traffic.server.refresh()
            lift_before = self._try_experiments(project, traffic)
            decision, true_fall = self._watch(project, traffic, lift_before)
            self._judge_drift(project)
            if decision.should_retrain:
                self._explain_and_retrain(project, traffic, rollout, decision, true_fall)
            self._judge_roll_back(rollout)
        finally:
            traffic.close()

    def _add(self, name: str, verdict: str, statement: str, truth: str, **more: bool) -> None:
        self.decisions.append(Decision(name, verdict, statement, truth, **more))

    def _judge_gate(
        self, name: str, traffic: Traffic, champion: str, version: str, is_accepted: bool
    ) -> float:
        true_uplift = self._compare_versions(traffic, champion, version)
        if is_accepted:
            verdict = WRONG if true_uplift < WORSE else RIGHT
        else:
            verdict = MISSED if true_uplift >= BETTER else RIGHT
        statement = "accepted" if is_accepted else "refused"
        self._add(name, verdict, statement, f"{true_uplift:+.1%} over the champion")
        return true_uplift

    def _compare_versions(self, traffic: Traffic, champion: str, version: str) -> float:
        """Return the true uplift of a version over another for people who come about now."""
        paired_lists = traffic.pair_versions(champion, version)
        users, now = self._site.users, self._clock.now()
        day = (now - self._site.start) / DAY
        rate = np.where(
            (users.joined_day <= day) & ~traffic.live_traffic.population.has_left,
            users.visits_a_day,
            0.0,
        )
        rng = np.random.default_rng([self._seed, 11])
        visitors = rng.choice(users.count, TRUTH_USERS, p=rate / rate.sum())
        event_factory = EventFactory(users, self._site.items)
        for visitor in visitors.tolist():
            identity = event_factory.identity_fields(
                visitor, bool(traffic.live_traffic.population.logged_in[visitor])
            )
            query = RecommendQuery(
                slot=SLOT,
                session_id=f"truth-{visitor}",
                context=Context(**event_factory.contexts[visitor]),
                **identity,
            )
            paired_lists.visitors.append(visitor)
            paired_lists.request_times.append(now)
            for arm, pipeline in paired_lists.pipeline_by_arm.items():
                item_ids = [item.item_id for item in pipeline.answer(query).items]
                paired_lists.lists_by_arm.setdefault(arm, []).append(item_ids)
        return paired_lists.true_uplift(self._site, champion, version)

    def _try_experiments(self, project: Project, traffic: Traffic) -> float:
        """Run the experiments until the incident; return the true lift of the model."""
        paired_lists = traffic.pair_arms()
        experiments = ConcurrentExperiments(project, self._clock, quiet=True)
        experiments.start()
        while self._clock.now() < self._shifted_at:
            until = min(self._clock.now() + experiments.interval_us, self._shifted_at)
            traffic.run(until, paired_lists)
            experiments.analyse()
        for name, figures in experiments.figures(paired_lists, self._site).items():
            uplift, true_uplift = figures["uplift"], figures["true_uplift"]
            truth = f"{true_uplift:+.1%}"
            if uplift is None:
                self._add(f"interval, none of {name}", RIGHT, "too little to say", truth)
                continue
            statement = f"{uplift:+.1%} [{figures['low']:+.1%}, {figures['high']:+.1%}]"
            is_covered = figures["low"] <= true_uplift <= figures["high"]
            kind = "stopped" if figures["stopped"] else "running"
            verdict = RIGHT if is_covered else WRONG
            self._add(f"interval, {kind} {name}", verdict, statement, truth)
            if figures["stopped"]:
                verdict = RIGHT if uplift * true_uplift > 0 else WRONG
                self._add(f"stop of {name}", verdict, statement, truth)
        return paired_lists.true_uplift(self._site, CONTROL, MODEL)

    def _watch(
        self, project: Project, traffic: Traffic, lift_before: float
    ) -> tuple[RetrainVerdict, float]:
        """Run traffic until a fall is found or the watch ends; return it and the true fall."""
        criteria = RetrainCriteria(slot=SLOT, arm=MODEL, control=CONTROL)
        until = self._shifted_at + self._scale.fall_days_max * DAY
        paired_lists = traffic.pair_arms()
        while True:
            traffic.run(min(self._clock.now() + 6 * HOUR, until), self._since(paired_lists))
            decision = decide_retrain(
                Lake(project.paths.lake).events(EVENT_COLUMNS, ts_from=self._live_from),
                criteria,
                reference_from=self._live_from,
                reference_to=self._shifted_at,
                until=self._clock.now(),
            )
            if decision.should_retrain or self._clock.now() >= until:
                break
        lift_after = paired_lists.true_uplift(self._site, CONTROL, MODEL)
        true_fall = 1 - (1 + lift_after) / (1 + lift_before)
        is_fault = CAUSE_BY_KIND.get(self.incident.KIND, "") in DATA_FAULTS
        if decision.should_retrain:
            verdict = RIGHT if true_fall >= FALL_NONE or is_fault else WRONG
            hours = (self._clock.now() - self.incident.start) / HOUR
            statement = f"found {hours:.0f} h after the incident"
        else:
            verdict = MISSED if true_fall >= FALL_LARGE else RIGHT
            statement = f"none in {self._scale.fall_days_max} days"
        self._add("fall", verdict, statement, f"true fall {true_fall:+.1%}")
        return decision, true_fall

    def _since(self, paired_lists: PairedLists) -> PairedLists | None:
        """Return the lists to compare from the incident on."""
        return paired_lists if self._clock.now() + 6 * HOUR >= self.incident.start else None

    def _judge_drift(self, project: Project) -> None:
        try:
            episodes = find_drift(project, self._clock).episodes
        except NotReadyError as error:
            self._add("drift", MISSED, error.message, self.incident.KIND)
            return
        # What came with the live model, before the incident, is no answer to it.
        recent_causes = [
            episode.cause
            for episode in episodes
            if episode.until >= to_iso_minute(self.incident.start - DAY)[:13]
        ]
        statement = ", ".join(recent_causes) or "no episode"
        if self.incident.KIND == "none":
            verdict = WRONG if recent_causes else RIGHT
        elif not recent_causes:
            verdict = MISSED
        else:
            verdict = RIGHT if self._expected_cause in recent_causes else WRONG
        size_limits = self.incident.SIZES
        is_large = self.incident.size**2 >= size_limits[0] * size_limits[1]
        name = "drift, large incident" if is_large else "drift, small incident"
        self._add(name, verdict, statement, self.incident.describe())

    def _explain_and_retrain(
        self,
        project: Project,
        traffic: Traffic,
        rollout: ModelRollout,
        decision: RetrainVerdict,
        true_fall: float,
    ) -> None:
        cause = record_fall(project, self._clock, decision, reference_from=self._live_from)
        assert cause is not None
        assert decision.since is not None
        right_causes = {self._expected_cause}
        if self.incident.KIND in SHARED_KINDS:
            right_causes |= {TASTE, "unknown"}
        self._add(
            "cause of the fall",
            RIGHT if cause.name in right_causes else WRONG,
            f"{cause.name}: {cause.evidence}",
            f"{self.incident.describe()}; true fall {true_fall:+.1%}",
            blocks_training=cause.name in DATA_FAULTS and cause.name not in right_causes,
        )
        hours_off = (decision.since - self.incident.start) / HOUR
        verdict = RIGHT if abs(hours_off) <= 24 else WRONG
        self._add(
            "data window", verdict, f"from {hours_off:+.0f} h of the start on", self.incident.KIND
        )
        # As the demo: a day more than half of its days, since a shop has two minutes.
        traffic.run(max(self._clock.now(), decision.since + 3 * DAY))
        outcome = train_once(
            project, self._clock, SLOT, since=decision.since, quick=True, promote=False, by=TRAINER
        )
        is_accepted = bool(rollout.registry.info(outcome.version).metrics.get("accepted"))
        true_uplift = self._judge_gate(
            "gate, retrained", traffic, outcome.champion, outcome.version, is_accepted
        )
        if not is_accepted:
            return
        is_promoted = rollout.roll_out(outcome.version)
        canary = rollout.compare(outcome.version, outcome.champion, self._site)
        true_uplift = canary.get("true", true_uplift)
        if is_promoted:
            verdict = WRONG if true_uplift < WORSE else RIGHT
        else:
            verdict = MISSED if true_uplift >= BETTER else RIGHT
        last_entry = [e for e in rollout.registry.audit() if e.version == outcome.version][-1]
        self._add(
            "canary" if canary else "promotion without canary",
            verdict,
            f"{last_entry.action}: {last_entry.why}",
            f"{true_uplift:+.1%} over the champion",
        )

    def _judge_roll_back(self, rollout: ModelRollout) -> None:
        broken = rollout.break_and_roll_back()
        self._add(
            "roll-back",
            RIGHT if broken["rolled_back"] else MISSED,
            f"after {broken['after_min']} min" if broken["rolled_back"] else "it stays",
            "its scores are no numbers",
        )


def play_shop(seed: int, kinds: Sequence[str], scale: Scale = SCALE) -> dict[str, Any]:
    """Play a shop; return its incident and decisions, and the traceback if it had one."""
    kind = str(np.random.default_rng([seed, 10]).choice(kinds))
    started_at = time.process_time()
    error = ""
    with tempfile.TemporaryDirectory(prefix="tailorbird-decisions-") as folder:
        run = ShopRun(Path(folder), seed, kind, scale)
        try:
            run.play()
        except Exception:  # It is a result: it is listed, and ends the benchmark with status 1.
            error = traceback.format_exc()
    return {
        "seed": seed,
        "incident": run.incident.to_dict(),
        "decisions": [asdict(decision) for decision in run.decisions],
        "error": error,
        "processor_s": round(time.process_time() - started_at, 1),
    }


def play_shops(
    seeds: Sequence[int], kinds: Sequence[str], keep: Path | None, scale: Scale = SCALE
) -> list[dict[str, Any]]:
    """Play shops, except those that `keep` has; tell progress on stderr."""
    shops: list[dict[str, Any]] = []
    started_at, played_count = time.monotonic(), 0
    for number, seed in enumerate(seeds):
        path = None if keep is None else keep / f"{seed}-{'-'.join(kinds)}.json"
        if path is not None and path.exists():
            shops.append(json.loads(path.read_text()))
            continue
        shops.append(play_shop(seed, kinds, scale))
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(shops[-1]))
        played_count += 1
        left_s = (time.monotonic() - started_at) / played_count * (len(seeds) - number - 1)
        print(
            f"shop {number + 1} of {len(seeds)}, seed {seed}: {shops[-1]['incident']['kind']}, "
            f"{shops[-1]['processor_s']:.0f} s; {left_s / 60:.0f} min left",
            file=sys.stderr,
        )
    return shops


def summarise(shops: Sequence[dict[str, Any]], kinds: Sequence[str]) -> dict[str, Any]:
    """Count right, wrong and missed of each decision, with Wilson's interval of what is right."""
    verdicts_by_name: dict[str, Counter[str]] = {}
    failures = []
    for shop in shops:
        command = (
            f"python -m benchmarks.quality.decisions --shops 1 --seed {shop['seed']} "
            f"--kinds {' '.join(kinds)}"
        )
        if shop["error"]:
            failures.append({"command": command, "name": "run", "statement": shop["error"]})
        for decision in shop["decisions"]:
            verdicts_by_name.setdefault(decision["name"], Counter())[decision["verdict"]] += 1
            if decision["verdict"] != RIGHT:
                failures.append({"command": command, "seed": shop["seed"], **decision})
    rows = [
        {
            "decision": name,
            **{verdict: verdicts[verdict] for verdict in (RIGHT, WRONG, MISSED)},
            "share_right": share_with_interval(verdicts[RIGHT], verdicts.total()),
        }
        for name, verdicts in verdicts_by_name.items()
    ]
    return {
        "shops": len(shops),
        "seeds": [shop["seed"] for shop in shops],
        "tracebacks": sum(bool(shop["error"]) for shop in shops),
        "blocked_training": sum(
            decision["blocks_training"] for shop in shops for decision in shop["decisions"]
        ),
        "rows": rows,
        "failures": failures,
    }


def print_summary(summary: dict[str, Any]) -> None:
    print(f"{summary['shops']} shops, {summary['tracebacks']} with a traceback\n")
    print("| decision | right | wrong | missed | share right (95 %) |")
    print("|---|---|---|---|---|")
    for row in summary["rows"]:
        share = row["share_right"]
        print(
            f"| {row['decision']} | {row[RIGHT]} | {row[WRONG]} | {row[MISSED]} | "
            f"{share['value']:.0%} ({share['low']:.0%} to {share['high']:.0%}) |"
        )
    print(f"\nwrong causes that block training: {summary['blocked_training']}\n")
    for failure in summary["failures"]:
        print(f"{failure['name']} {failure.get('verdict', '')}: {failure['statement']}")
        print(f"  true: {failure.get('truth', '')}\n  {failure['command']}")


def main() -> int:
    """Play the shops and print the table."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.quality.decisions",
        description="Set every decision of the loop beside the truth of simulated shops.",
    )
    parser.add_argument("--shops", type=int, default=4, help="number of shops (default 4)")
    parser.add_argument(
        "--seed", type=int, default=1, help="of the first shop; below 1000 for development"
    )
    parser.add_argument(
        "--kinds", nargs="+", choices=PLAYED_KINDS, default=list(PLAYED_KINDS), metavar="KIND",
        help=f"kinds of incidents to draw from: {', '.join(PLAYED_KINDS)}",
    )  # fmt: skip
    parser.add_argument("--keep", type=Path, help="folder of finished shops, to go on from")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    seeds = range(options.seed, options.seed + options.shops)
    summary = summarise(play_shops(seeds, options.kinds, options.keep), options.kinds)
    if options.json:
        print(json.dumps(summary, indent=1))
    else:
        print_summary(summary)
    return 1 if summary["tracebacks"] else 0


if __name__ == "__main__":
    sys.exit(main())
