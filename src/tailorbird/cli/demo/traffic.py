"""Bulk traffic of the demo: simulated visitors through the real pipeline on a simulated clock.

    every tick:  events that browsers sent → collector → router → worker;
                 then the visitors of the tick get their responses

The simulator's knowledge never enters a response. Its truth is only used afterwards, to compare the
lists that the arms would have shown to the same visitor.
"""

from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from tailorbird.cli.demo.scale import Scale
from tailorbird.cli.output import ReportProgress
from tailorbird.config import Project
from tailorbird.events import HOUR, Context, SimulatedClock
from tailorbird.experiments import Experiment
from tailorbird.platform.inprocess import InProcessServer
from tailorbird.platform.runtime.roles import InProcessRoles
from tailorbird.ranking import Slot
from tailorbird.registry import Registry
from tailorbird.serving.collector.collector import EventCollector
from tailorbird.serving.messages import RecommendQuery, RecommendResponse, SearchQuery
from tailorbird.serving.pipeline.pipeline import Pipeline
from tailorbird.simulator import LiveTraffic, Outbox, Population, Request, Site
from tailorbird.simulator.incidents import ModelChange, SlowStore, StaleSource

PRODUCER = "live"
ARMS = ("model", "popular", "recent")


@dataclass
class PairedLists:
    """Requests that each pipeline answered too, without logging, to compare by the truth."""

    pipeline_by_arm: Mapping[str, Pipeline]
    visitors: list[int] = field(default_factory=list)
    request_times: list[int] = field(default_factory=list)
    lists_by_arm: dict[str, list[list[str]]] = field(default_factory=dict)

    def true_uplift(
        self, site: Site, control: str, treatment: str, *, until: int | None = None
    ) -> float:
        """Return the relative uplift in expected clicks of an arm, without sampling noise.

        Args:
            until: take only the requests before, as an experiment does that stopped then.
        """
        count = len(self.request_times)
        if until is not None:
            count = bisect_left(self.request_times, until)
        if not count:
            return float("nan")
        lists = self.lists_by_arm
        return site.truth.uplift(
            self.visitors[:count],
            lists[treatment][:count],
            lists[control][:count],
            self.request_times[:count],
        )


class Traffic:
    """Live traffic on one project; `run(until)` advances the clock."""

    def __init__(
        self,
        project: Project,
        site: Site,
        population: Population,
        clock: SimulatedClock,
        scale: Scale,
        seed: int,
    ) -> None:
        self._project = project
        self._site = site
        self._clock = clock
        self._scale = scale
        self.roles = InProcessRoles(project, clock)
        self._collector = EventCollector(
            project.paths.stream, PRODUCER, project.plan, clock, pseudonyms=project.pseudonyms()
        )
        self._registry = Registry(project.paths.registry, clock=clock)
        self._applied_changes: set[int] = set()  # starts of model changes that were made
        self.server = InProcessServer(
            project,
            clock,
            collector=self._collector,
            seed=seed,
            are_reads_late=self._are_reads_late,
        )
        self.live_traffic: LiveTraffic = site.live(clock.now(), population, prefix="l")
        self._outbox = Outbox()
        self._seed = seed
        self.request_count = 0
        # Responses that the collector logged, known once all events are delivered.
        self.response_count = 0

    def pair_arms(self) -> PairedLists:
        """Return a comparison, still empty, of what each arm would show to everybody."""
        project = self._project
        pipeline_by_arm = {}
        for arm in ARMS:
            slots = {name: _with_policy(slot, arm) for name, slot in project.slots.items()}
            pipeline_by_arm[arm] = self.server.pipeline_for(slots, self._seed + 1)
        return PairedLists(pipeline_by_arm)

    def pair_versions(self, champion: str, challenger: str) -> PairedLists:
        """Return a comparison, still empty, of two versions, each as the model of the slot."""
        slots = {name: _with_policy(slot, "model") for name, slot in self._project.slots.items()}
        return PairedLists(
            {
                version: self.server.pipeline_for(slots, self._seed + 1, version=version)
                for version in (champion, challenger)
            }
        )

    def run(
        self,
        until: int,
        paired_lists: PairedLists | None = None,
        progress: ReportProgress = lambda stage, done, total: None,
        label: str = "live",
    ) -> None:
        """Generate traffic until the simulated time `until`."""
        start = self._clock.now()
        clock = self._clock
        next_lake_step_at = start + 6 * HOUR
        while clock.now() < until:
            tick_end = min(clock.now() + self._scale.tick_us, until)
            self._apply_serving_incidents(clock.now())
            self._deliver(clock.now())
            self.server.refresh()
            for request in self.live_traffic.requests(tick_end):
                clock.advance_to(max(clock.now(), request.at))
                self._answer(request, paired_lists)
            clock.advance_to(tick_end)
            self._outbox.add(self.live_traffic.background(tick_end))
            if tick_end >= next_lake_step_at:
                self.roles.lake.step()
                next_lake_step_at += 6 * HOUR
            progress(label, (tick_end - start) // HOUR, (until - start) // HOUR)
        self._deliver(clock.now())
        self.roles.drain()

    def _apply_serving_incidents(self, now: int) -> None:
        """Let what lies in serving happen: tables that stand still, a model that somebody changes.

        Late reads are asked for at each request.
        """
        incidents = self._site.incidents
        self.roles.has_publishing_paused = bool(incidents.active(now, StaleSource.KIND))
        for incident in incidents.active(now, ModelChange.KIND):
            if incident.start not in self._applied_changes:
                self._applied_changes.add(incident.start)
                oldest_version = self._registry.versions()[0].version
                self._registry.promote(oldest_version, by="somebody", why="by hand, untested")

    def _are_reads_late(self) -> bool:
        now = self._clock.now()
        return any(
            incident.meets_request(now)
            for incident in self._site.incidents.active(now, SlowStore.KIND)
        )

    def _deliver(self, now: int) -> None:
        due_arrivals = self._outbox.pop_due(now)
        if due_arrivals:
            self._collector.submit(b"\n".join(arrival.body for arrival in due_arrivals), "ndjson")
        while self.roles.step():
            pass

    def _answer(self, request: Request, paired_lists: PairedLists | None) -> None:
        self.request_count += 1
        if (
            paired_lists is not None
            and request.query is None
            and request.visitor >= 0
            and self.request_count % self._scale.truth_every == 0
        ):
            paired_lists.visitors.append(request.visitor)
            paired_lists.request_times.append(request.at)
            for arm, pipeline in paired_lists.pipeline_by_arm.items():
                paired_lists.lists_by_arm.setdefault(arm, []).append(
                    _item_ids(pipeline.answer(_recommend_query(request)))
                )
        response = answer_request(self.server.pipeline, request)
        self._outbox.add(self.live_traffic.react(request, _item_ids(response), response.request_id))

    def settle(self) -> None:
        """Deliver all pending events, however late, and drain."""
        while len(self._outbox):
            self._clock.advance_to(self._clock.now() + HOUR)
            self._deliver(self._clock.now())
        self.roles.drain()
        self.response_count = self._collector.figures().responses

    def close(self) -> None:
        self._collector.close()
        self.server.close()
        self.roles.close()


def answer_request(pipeline: Pipeline, request: Request) -> RecommendResponse:
    """Answer a request of a simulated visitor."""
    if request.query is None:
        return pipeline.answer(_recommend_query(request))
    query = _recommend_query(request)
    return pipeline.search(
        SearchQuery(
            query=request.query,
            slot="search",
            user_id=query.user_id,
            anonymous_id=query.anonymous_id,
            session_id=query.session_id,
            context=query.context,
        )
    )


def _recommend_query(request: Request) -> RecommendQuery:
    return RecommendQuery(
        slot="home",
        user_id=request.user_id,
        anonymous_id=request.anonymous_id,
        session_id=request.session_id,
        context=Context(**request.context),
    )


def _item_ids(response: RecommendResponse) -> list[str]:
    return [item.item_id for item in response.items]


def _with_policy(slot: Slot, policy: str) -> Slot:
    return replace(slot, experiment=Experiment("truth", arms={policy: 1.0}))
