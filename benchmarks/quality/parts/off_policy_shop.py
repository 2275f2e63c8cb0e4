"""A shop on the simulated site: it trains bundles, logs answers, and tries the bundles later.

Everything is done by the product: import, training, serving with the slot's exploration, and an
experiment whose arms are versions. The demo's traffic drives it on a simulated clock.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from tailorbird.cli.demo.scale import Scale as Pace
from tailorbird.cli.demo.traffic import Traffic
from tailorbird.config import Project, open_project
from tailorbird.events import DAY, MINUTE, SimulatedClock, parse_duration, to_iso
from tailorbird.experiments.trial import TrialReport
from tailorbird.platform.experiments.commands import report_experiment, start_experiment
from tailorbird.platform.experiments.estimate import estimate_policy
from tailorbird.platform.runtime.roles import InProcessRoles
from tailorbird.platform.train_options import TrainOptions
from tailorbird.platform.training import train
from tailorbird.registry import Registry
from tailorbird.simulator import Population, Site
from tailorbird.stream.importer import import_files
from tailorbird.training.evaluation.estimate import LoggedResponses, load_responses
from tailorbird.training.evaluation.policies import Policy
from tailorbird.training.settings import TrainSettings

SEED = 21
SLOT, CHAMPION, TRIAL, BY = "home", "champion", "bundles", "benchmark"
SIZE, POOL = 6, 40
SLOTS = f'''"""Slots whose clicks are worth the same, and one that draws a tenth of its slates."""

from tailorbird.ranking import Explore, Slot

home = Slot(
    "{SLOT}",
    size={SIZE},
    sources={{"item_knn": 20, "popular": 20, "new_items": 6}},  # all fit into the pool
    objective={{"click": 1.0}},
    rules=["item.stock > 0"],
    hide_seen=(),
    explore=Explore(
        method="plackett_luce", first=1, share=0.1, temperature=0.3, pool={POOL}
    ),
)
search = Slot("search", size=12, sources={{"search": 100}}, objective={{"click": 1.0}}, hide_seen=())
'''
PERSONAL_COLUMNS = (
    *("user_clicks_7d", "user_spend_28d", "user_price_28d", "user_since_click", "session_clicks"),
    *("user_last_category", "user_category_clicks_1h", "user_category_clicks_28d"),
    *("user_category_ctr_28d", "country_category_ctr_28d", "age_category_ctr_28d", "user_lift"),
    *("country_lift", "age_lift", "expected_ctr", "price_to_habit", "category_share", "recent_age"),
    *("item_knn_rank", "item_knn_score"),
)
CHAMPION_OPTIONS = TrainOptions(quick=True, retrieval="tables")
OPTIONS_BY_BUNDLE: Mapping[str, TrainOptions] = {
    "default": TrainOptions(retrieval="tables"),
    "not_personal": TrainOptions(quick=True, retrieval="tables", leave_out=PERSONAL_COLUMNS),
    "little_data": TrainOptions(quick=True, retrieval="tables", requests=200),
}
EXPERIMENT = '''"""The later trial of the bundles."""

from tailorbird.experiments import Experiment
from tailorbird.experiments.metrics import Metric

trial = Experiment(
    "{name}",
    slot="{slot}",
    arms={arms},
    versions={versions},
    control="{control}",
    metric=Metric("clicks per item returned", "ratio", event="click", per="answer"),
    hypothesis="Each bundle earns what its estimate said.",
    owner="benchmark",
    stopping="fixed",
    duration="{days}d",
)
'''


@dataclass(frozen=True)
class Scale:
    """Sizes: people and items of the site, and days of history, of the log and of the trial."""

    users: int
    items: int
    history_days: int
    log_days: int
    trial_days: int


class Shop:
    """The project with its site, on a simulated clock."""

    def __init__(self, folder: Path, scale: Scale) -> None:
        self.scale = scale
        days = scale.history_days + scale.log_days + scale.trial_days
        self.site = Site(SEED, users=scale.users, items=scale.items, days=days + 2)
        self.clock = SimulatedClock(self.site.start + scale.history_days * DAY)
        self.root = folder / "shop"
        self.root.mkdir(parents=True)
        for name in ("tailorbird.toml", "features.py"):
            text = (files("tailorbird.platform") / "templates" / name).read_text()
            (self.root / name).write_text(text)
        (self.root / "slots.py").write_text(SLOTS)
        self.population = self._import_history(folder / "history.jsonl")
        self.version_by_bundle = self._train()
        self._traffic: Traffic | None = None
        self.log_end = 0

    @property
    def project(self) -> Project:
        """The project as declared now."""
        return open_project(self.root)

    @property
    def known_at(self) -> int:
        """When the outcomes of all logged answers are known."""
        slot = self.project.slots[SLOT]
        return self.log_end + parse_duration(slot.attribution) + self.project.plan.lateness_us

    def _import_history(self, path: Path) -> Population:
        history = self.site.history(self.scale.history_days)
        history.write(path)
        project = self.project
        project.paths.stream.mkdir(parents=True)
        import_files(project.paths.stream, "tailorbird", path, plan=project.plan, clock=self.clock)
        with InProcessRoles(project, self.clock) as roles:
            roles.drain()
        return history.population

    def _train(self) -> dict[str, str]:
        """Train the champion and the bundles on the history; return name → version."""
        versions, at = {}, to_iso(self.clock.now())
        for name, options in {CHAMPION: CHAMPION_OPTIONS, **OPTIONS_BY_BUNDLE}.items():
            report = train(self.project, SLOT, options, promote=False, as_of=at, by=BY)
            versions[name] = report.version
        registry = Registry(self.project.paths.registry, clock=self.clock)
        registry.promote(versions[CHAMPION], by=BY, why="it logs")
        return versions

    def __enter__(self) -> "Shop":
        pace = Pace(tick_us=10 * MINUTE)
        self._traffic = Traffic(
            project=self.project,
            site=self.site,
            population=self.population,
            clock=self.clock,
            scale=pace,
            seed=SEED,
        )
        return self

    def __exit__(self, *_: object) -> None:
        assert self._traffic is not None
        self._traffic.close()

    def serve(self, days: int) -> None:
        """Serve live traffic for some days."""
        assert self._traffic is not None
        self._traffic.run(self.clock.now() + days * DAY)

    def log_answers(self) -> None:
        """Serve the champion, which logs."""
        self.serve(self.scale.log_days)
        self.log_end = self.clock.now()

    def run_trial(self) -> TrialReport:
        """Serve each version to its share of the people, and report on the experiment."""
        assert self._traffic is not None
        share = 1 / len(self.version_by_bundle)
        text = EXPERIMENT.format(
            name=TRIAL,
            slot=SLOT,
            arms=dict.fromkeys(self.version_by_bundle, share),
            version_by_bundle=self.version_by_bundle,
            control=CHAMPION,
            days=self.scale.trial_days,
        )
        (self.root / "experiments.py").write_text(text)
        start_experiment(self.project, TRIAL, by=BY, why="compare", clock=self.clock)
        self._traffic.server.refresh()
        self.serve(self.scale.trial_days)
        self._traffic.settle()
        report = report_experiment(self.project, TRIAL, as_of=to_iso(self.clock.now()))
        assert isinstance(report, TrialReport)
        return report

    def estimate(self, name: str) -> dict[str, Any]:
        """Return what `experiment estimate --bundle` tells of a bundle against the champion."""
        report = estimate_policy(
            self.project,
            self.version_by_bundle[name],
            CHAMPION,
            slot=SLOT,
            as_of=to_iso(self.known_at),
        )
        return report.to_dict()

    def load_responses(self) -> LoggedResponses:
        """Load all logged answers for the champion and the bundles."""
        project = self.project
        return load_responses(
            project.features,
            project.slots[SLOT],
            [Policy(project.slots[SLOT], version) for version in self.version_by_bundle.values()],
            lake=project.paths.lake,
            registry=project.paths.registry,
            clock=SimulatedClock(self.known_at),
            settings=TrainSettings(lateness_us=project.plan.lateness_us, test_requests=0),
            outcome="click",
        )
