"""Bulk traffic of the demo: simulated visitors through the real pipeline, door, router and worker,
on a simulated clock.

    every tick:  what browsers sent reaches the door ─► router ─► worker;  then the visitors of the tick are answered

Nothing is answered from the simulator's knowledge; the truth is only asked afterwards, about lists
that both arms would have shown to the same visitor.
"""

from dataclasses import dataclass, field, replace

from tailorbird.cli.demo.scale import Scale
from tailorbird.cli.output import Report
from tailorbird.config import Project
from tailorbird.events import HOUR, Context, SimulatedClock
from tailorbird.experiments import Experiment
from tailorbird.platform.inprocess import InProcessServer
from tailorbird.platform.roles import Roles
from tailorbird.ranking import Slot
from tailorbird.serving.door import EventCollector
from tailorbird.serving.messages import Answer, RecommendQuery, SearchQuery
from tailorbird.serving.pipeline import Pipeline
from tailorbird.simulator import LiveTraffic, Outbox, Population, Request, Site

PRODUCER = "live"


@dataclass
class Judged:
    """Requests that were also answered, unlogged, under both arms, for the simulator's truth to
    judge.
    """

    users: list[int] = field(default_factory=list)
    at: list[int] = field(default_factory=list)
    model: list[list[str]] = field(default_factory=list)
    popular: list[list[str]] = field(default_factory=list)

    def true_uplift(self, site: Site) -> float:
        """Expected clicks per item seen of the model's lists over the popular ones, relative,
        without any noise of clicks.
        """
        return site.truth.uplift(self.users, self.model, self.popular, self.at)


class Traffic:
    """Live traffic on one project; `run(until)` moves the clock."""

    def __init__(
        self,
        project: Project,
        site: Site,
        population: Population,
        clock: SimulatedClock,
        scale: Scale,
        seed: int,
    ) -> None:
        self._project, self._site, self._clock, self._scale = project, site, clock, scale
        self.roles = Roles(project, clock)
        self._door = EventCollector(
            project.paths.stream, PRODUCER, project.plan, clock, pseudonyms=project.pseudonyms()
        )
        self.parts = InProcessServer(project, clock, collector=self._door, seed=seed)
        self.live: LiveTraffic = site.live(clock.now(), population, prefix="l")
        self._outbox = Outbox()
        self._arms = {policy: self._arm(policy, seed) for policy in ("model", "popular")}
        self.requests = 0
        self.answers = 0  # answers that the door took, known when everything has settled

    def _arm(self, policy: str, seed: int) -> Pipeline:
        """A pipeline that gives everybody one arm's list and logs nothing."""
        slots = {name: _with_policy(slot, policy) for name, slot in self._project.slots.items()}
        return self.parts.pipeline_for(slots, seed + 1)

    def run(
        self,
        until: int,
        judged: Judged | None = None,
        progress: Report = lambda stage, done, total: None,
        label: str = "live",
    ) -> None:
        """Let the site live until the simulated time `until`."""
        start, clock = self._clock.now(), self._clock
        next_lake = start + 6 * HOUR
        while clock.now() < until:
            edge = min(clock.now() + self._scale.tick_us, until)
            self._deliver(clock.now())
            self.parts.refresh()
            for request in self.live.requests(edge):
                clock.advance_to(max(clock.now(), request.at))
                self._answer(request, judged)
            clock.advance_to(edge)
            self._outbox.add(self.live.background(edge))
            if edge >= next_lake:
                self.roles.lake.step()
                next_lake += 6 * HOUR
            progress(label, (edge - start) // HOUR, (until - start) // HOUR)
        self._deliver(clock.now())
        self.roles.drain()

    def _deliver(self, now: int) -> None:
        due = self._outbox.due(now)
        if due:
            self._door.submit(b"\n".join(arrival.body for arrival in due), "ndjson")
        while self.roles.step():
            pass

    def _answer(self, request: Request, judged: Judged | None) -> None:
        self.requests += 1
        if (
            judged is not None
            and request.query is None
            and request.visitor >= 0
            and self.requests % self._scale.truth_every == 0
        ):
            judged.users.append(request.visitor)
            judged.at.append(request.at)
            judged.model.append(_ids(self._arms["model"].answer(_query(request))))
            judged.popular.append(_ids(self._arms["popular"].answer(_query(request))))
        answer = ask(self.parts.pipeline, request)
        self._outbox.add(self.live.respond(request, _ids(answer), answer.request_id))

    def settle(self) -> None:
        """Hand over everything that is still on its way, however late, and drain."""
        while len(self._outbox):
            self._clock.advance_to(self._clock.now() + HOUR)
            self._deliver(self._clock.now())
        self.roles.drain()
        self.answers = self._door.figures().answers

    def close(self) -> None:
        self._door.close()
        self.parts.close()
        self.roles.close()


def ask(pipeline: Pipeline, request: Request) -> Answer:
    """A simulated visitor's request, answered."""
    if request.query is None:
        return pipeline.answer(_query(request))
    query = _query(request)
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


def _query(request: Request) -> RecommendQuery:
    return RecommendQuery(
        slot="home",
        user_id=request.user_id,
        anonymous_id=request.anonymous_id,
        session_id=request.session_id,
        context=Context(**request.context),
    )


def _ids(answer: Answer) -> list[str]:
    return [item.item_id for item in answer.items]


def _with_policy(slot: Slot, policy: str) -> Slot:
    if slot.experiment is None:
        return slot
    return replace(slot, experiment=Experiment(f"{slot.experiment.name}-truth", arms={policy: 1.0}))
