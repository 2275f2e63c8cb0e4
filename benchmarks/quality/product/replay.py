"""Replay the test part through collector, router and workers, and ask the served pipeline between.

    rows before a question ─► collector ─► router ─► worker ─► new items and bundles ─► the question

All roles run in this process on a simulated clock. A question is asked one microsecond before its
event; what was delivered by then is every row before it in the log. Answers are not logged.
"""

import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.progress import track

from benchmarks.quality.product.log import Ints, Log, Questions
from tailorbird.config import Project, open_project
from tailorbird.events import HOUR, MINUTE, Context, Event, Receipt, SimulatedClock, check_body
from tailorbird.events.adapters import FORMATS, AdapterOptions, digest_files, find_files
from tailorbird.platform.inprocess import InProcessServer
from tailorbird.platform.runtime.roles import InProcessRoles
from tailorbird.serving.collector.collector import EventCollector
from tailorbird.serving.messages import RecommendQuery

SIZE = 20
CANDIDATES_MAX = 500
LAKE_EVERY = 6 * HOUR
BATCH_US = 15 * MINUTE  # events come in at most so late
BODY_ROWS = 10_000
UNKNOWN = 1 << 40  # an item that no row of the log names

StageTimer = Callable[[str], AbstractContextManager[None]]


@dataclass(frozen=True)
class Stream:
    """The events of the test part: one line and one event a row, None where it is refused."""

    lines: list[bytes | None]
    events: list[Event | None]

    @property
    def refused(self) -> int:
        return sum(line is None for line in self.lines)


@dataclass
class ServedLists:
    """Served lists and their counts.

    Attributes:
        lists: codes of the listed items, shape (questions, SIZE), -1 behind the end of a list.
        candidate_recall: share of each question's truth that is among its candidates.
        candidates: how many candidates each question had.
        arms: the arm of the experiment that answered, "" without one.
        counts: degraded parts and models of responses → how many responses.
        seconds: stage → wall time.
    """

    lists: Ints
    candidate_recall: npt.NDArray[np.float64]
    candidates: Ints
    arms: list[str] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        self.seconds[stage] += time.perf_counter() - started


def read_stream(project: Project, mapping: Path, folder: Path, now: int) -> Stream:
    """Turn the test part's files into events, by the adapter and mapping of the import.

    `now` is a time at which all of them have happened.
    """
    format_adapter = FORMATS["mapping"]
    adapter, patterns = format_adapter.read, format_adapter.patterns
    text = mapping.read_text()
    options = AdapterOptions(mapping=text, mapping_name=str(mapping), root=str(folder))
    stream = Stream([], [])
    receipt = Receipt(now, encoding="ndjson")
    for batch in adapter(digest_files(find_files(folder, patterns), lambda _: None), options):
        accepted, _ = check_body(b"\n".join(batch.lines), receipt, project.plan)
        events = {each.row: each.event for each in accepted}
        for row, line in enumerate(batch.lines):
            stream.events.append(events.get(row))
            stream.lines.append(line if row in events else None)
    return stream


def replay(root: Path, stream: Stream, log: Log, questions: Questions, seed: int) -> ServedLists:
    """Deliver the test part to a trained project and ask every question; changes the project."""
    shape = (len(questions), SIZE)
    served = ServedLists(
        np.full(shape, -1, np.int64), np.zeros(shape[0]), np.zeros(shape[0], np.int64)
    )
    codes = {item: code for code, item in enumerate(log.items.tolist())}
    with Site(root, stream, log, served.timed, seed) as site:
        for number in track(range(shape[0]), "replay", console=Console(stderr=True)):
            asker = int(questions.asker[number])
            site.advance(int(questions.at[number]), int(questions.now[number]))
            query = site.query(asker)
            with served.timed("candidates"):
                candidates = site.server.pipeline.candidates(query)[:CANDIDATES_MAX]
            with served.timed("answer"):
                answer = site.server.pipeline.answer(query)
            truth = questions.truth[questions.offsets[number] : questions.offsets[number + 1]]
            served.candidate_recall[number] = np.isin(log.items[truth], candidates).mean()
            served.candidates[number] = len(candidates)
            served.arms.append(answer.arm)
            listed = [codes.get(item.item_id, UNKNOWN) for item in answer.items]
            served.lists[number, : len(listed)] = listed
            served.counts.update([f"model {answer.model}", *answer.degraded])
    return served


class Site:
    """A project under live traffic, all roles in this process, on a simulated clock.

    Args:
        timed: measures a stage by its name.
        seed: of exploration and request ids.
    """

    def __init__(self, root: Path, stream: Stream, log: Log, timed: StageTimer, seed: int) -> None:
        self._stream, self._log, self._time_stage = stream, log, timed
        self._delivered_rows = log.test_from
        self._newest_ts = 0
        self._clock = SimulatedClock(log.cut.at)
        self._next_lake_ts = log.cut.at + LAKE_EVERY
        project = open_project(root)
        self._roles = InProcessRoles(project, self._clock)
        self._collector = EventCollector(
            project.paths.stream, "live", project.plan, self._clock, pseudonyms=project.pseudonyms()
        )
        self.server = InProcessServer(project, self._clock, collector=None, seed=seed)
        self._slot = project.settings.train.slot

    def advance(self, at: int, now: int) -> None:
        """Deliver every row before position `at`, then move the clock to `now`."""
        ts = self._log.ts
        while self._delivered_rows < at:
            batch_end = np.searchsorted(ts[:at], ts[self._delivered_rows] + BATCH_US, side="right")
            self._deliver(min(int(batch_end), self._delivered_rows + BODY_ROWS))
        self._move_to(
            max(now, self._newest_ts + 1)
        )  # days without a time of day have rows at one time
        with self._time_stage("route and apply"):
            self._roles.candidates.publish()  # as its role does each second
        with self._time_stage("look"):
            self.server.refresh()

    def query(self, asker: int) -> RecommendQuery:
        """Return the request of whoever the row at position `asker` is of."""
        event = self._stream.events[asker - self._log.test_from]
        assert event is not None
        return RecommendQuery(
            slot=self._slot,
            user_id=event.user_id,
            anonymous_id=event.anonymous_id,
            session_id=event.session_id,
            context=event.context or Context(),
            size=SIZE,
        )

    def _deliver(self, end: int) -> None:
        """Send the rows up to position `end`, and apply them."""
        first = self._log.test_from
        rows = self._stream.lines[self._delivered_rows - first : end - first]
        lines = [line for line in rows if line is not None]
        times = [
            event.ts
            for event in self._stream.events[self._delivered_rows - first : end - first]
            if event is not None
        ]
        self._newest_ts = max([self._newest_ts, *(ts for ts in times if isinstance(ts, int))])
        self._move_to(max(int(self._log.ts[end - 1]), self._newest_ts))
        self._delivered_rows = end
        if not lines:
            return
        with self._time_stage("collect"):
            decisions = self._collector.submit(b"\n".join(lines), "ndjson")
        if refusal := next((each for each in decisions if not each.accepted), None):
            raise SystemExit(f"the collector refused an event: {refusal.code}: {refusal.message}")
        with self._time_stage("route and apply"):
            routed_count = 0
            while routed_count < len(lines):
                routed_count += self._roles.step()

    def _move_to(self, ts: int) -> None:
        self._clock.advance_to(max(self._clock.now(), ts))
        if self._clock.now() >= self._next_lake_ts:
            self._next_lake_ts = self._clock.now() + LAKE_EVERY
            with self._time_stage("lake"):
                self._roles.lake.step()

    def __enter__(self) -> "Site":
        return self

    def __exit__(self, *_: object) -> None:
        self._collector.close()
        self.server.close()
        self._roles.close()
