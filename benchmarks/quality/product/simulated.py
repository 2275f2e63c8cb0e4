"""Measure what the default path serves on the simulated site, where every list's truth is known.

A project as `tailorbird init` makes it imports and trains on the site's own log; the days after it
are replayed, and the lists that are served are judged by their true expected reward. What a learner
could gain that knows all but the person, `benchmarks.quality.learnable` tells.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from benchmarks.quality import learnable
from benchmarks.quality.product import project
from benchmarks.quality.product.baselines import find_rows, list_own_items, list_popular_items
from benchmarks.quality.product.figures import OURS, Floats, Resampling, with_interval
from benchmarks.quality.product.log import Ints, Log, Questions
from benchmarks.quality.product.replay import Stream, replay
from benchmarks.quality.product.report import training_report
from benchmarks.quality.product.run import (
    Arrays,
    load_or_compute_arrays,
    replay_report,
    served_arrays,
)
from benchmarks.quality.product.sets import Cut
from benchmarks.quality.true_reward import (
    DAYS,
    ITEMS,
    REWARD,
    SEED,
    SMALL_DAYS,
    USERS,
    oracle_scores,
    true_rewards,
)
from tailorbird.events import DAY, Event, Receipt, RoutePlan, check_body
from tailorbird.simulator import Site

POPULAR, ORACLE, LEARNER = "clicked_7d", "oracle", "learner"
PROTOCOL = [
    "`tailorbird init`, `import` and `train --as-of latest` as they are; the log that `init` would "
    "have simulated is that of the benchmark's own site, under the site's house policy.",
    "The days after it are replayed, without the site's own answers. Before requests of the first "
    "page the served pipeline is asked for 20 items; the first 12 are judged, by their true "
    "expected reward: 1 for a click, 5 for a purchase. Nobody reacts to what is served.",
    "`share_of_oracle`: of the gain over `clicked_7d` of who knows all. `share_of_learner`: of who "
    "knows all but the person, and infers that from a log as long as ours, though not the same.",
]
REWARD_WEIGHTS = {"click": REWARD.click, "purchase": REWARD.purchase}


@dataclass(frozen=True)
class World:
    """The simulated site and the simulated period.

    Attributes:
        days: of the log that is trained on.
        live: days that are replayed.
        questions: drawn of the requests of the replayed days.
    """

    users: int
    items: int
    days: int
    live: int
    questions: int

    @cached_property
    def site(self) -> Site:
        """Return the site, which depends on its seed alone."""
        return Site(SEED, users=self.users, items=self.items, days=self.days + self.live + 1)

    @property
    def cut(self) -> Cut:
        """Return the time from which events are replayed."""
        at = self.site.start + self.days * DAY
        return Cut(self.site.start, at, at + self.live * DAY)


@dataclass(frozen=True)
class Prepared:
    """A project with the imported history of a world, and what is replayed to it.

    Attributes:
        folder: keeps each step once it is done.
        history: the imported lines.
        project_facts: what `project.make_project` returns.
    """

    folder: Path
    log: Log
    stream: Stream
    history: list[bytes]
    questions: Questions
    project_facts: dict[str, Any]

    def root(self, seed: int, *, quick: bool = False) -> Path:
        """Return the folder of the project that is trained with a seed."""
        return self.folder / f"seed-{_training_name(seed, quick)}" / project.PROJECT_NAME


def _training_name(seed: int, quick: bool) -> str:
    """Return the name under which a training is kept."""
    return f"{seed}-quick" if quick else str(seed)


FULL = World(USERS, ITEMS, DAYS, 3, 2_000)
SMALL = World(USERS // 3, ITEMS, SMALL_DAYS, 1, 200)


def run_simulated(
    keep: Path, seeds: tuple[int, ...], *, small: bool, quick: bool
) -> dict[str, Any]:
    """Import, train and replay with each seed, and compare the true rewards."""
    world, folder = SMALL if small else FULL, keep / folder_name(small=small)
    prepared = prepare(folder, world)
    log, questions = prepared.log, prepared.questions
    trained, served = {}, {}
    for seed in seeds:
        trained[seed] = train_once(prepared, seed, quick=quick)
        served[seed] = load_or_compute_arrays(
            folder / f"served-{_training_name(seed, quick)}.npz",
            partial(serve, prepared.root(seed, quick=quick), prepared.stream, log, questions, seed),
        )
    rewards = load_or_compute_arrays(
        folder / "rewards.npz", lambda: compute_rewards(world, log, questions)
    )
    comparison = compare(world, log, questions, served, rewards)
    return {
        "benchmark": "product",
        "set": "simulated",
        "title": f"The simulated site: {world.users:,} people, {world.items} items",
        "small": small,
        "quick": quick,
        "protocol": PROTOCOL,
        **comparison,
        "knowing": learnable.KNOWLEDGE_BY_METHOD,
        "cuts": {
            "test": _describe_run(
                world=world,
                log=log,
                questions=questions,
                project_facts=prepared.project_facts,
                trained=trained,
                served=served,
            )
        },
    }


def folder_name(*, small: bool) -> str:
    """Return the name of the folder that keeps the steps."""
    return "simulated-small" if small else "simulated"


def prepare(folder: Path, world: World) -> Prepared:
    """Simulate a world and import its history, unless `folder` has it; draw the questions."""
    folder.mkdir(parents=True, exist_ok=True)
    log, stream, history = read_history(world)
    questions = draw_requests(log, stream, world.questions)

    def write(path: Path) -> None:
        path.write_bytes(b"".join(line + b"\n" for line in history))

    project_facts = project.load_or_make(
        folder / "imported.json", lambda: project.make_project(folder / "imported", None, write)
    )
    return Prepared(
        folder=folder,
        log=log,
        stream=stream,
        history=history,
        questions=questions,
        project_facts=project_facts,
    )


def train_once(prepared: Prepared, seed: int, *, quick: bool) -> dict[str, Any]:
    """Train with a seed, unless that is kept already; return the command's report."""
    return project.load_or_make(
        prepared.folder / f"trained-{_training_name(seed, quick)}.json",
        lambda: train(prepared.project_facts, prepared.root(seed, quick=quick), seed, quick),
    )


def _describe_run(
    world: World,
    log: Log,
    questions: Questions,
    project_facts: Mapping[str, Any],
    trained: Mapping[int, Mapping[str, Any]],
    served: Mapping[int, Arrays],
) -> dict[str, Any]:
    """Return the facts of import, training and replay."""
    return {
        "days": world.days,
        "live_days": world.live,
        "test_rows": len(log) - log.test_from,
        "questions": len(questions),
        "people": len(np.unique(log.person[questions.asker])),
        "training": {str(seed): training_report(each) for seed, each in trained.items()},
        "replay": {str(seed): replay_report(each) for seed, each in served.items()},
        "seconds": {name: step["seconds"] for name, step in project_facts["steps"].items()},
    }


def read_history(world: World) -> tuple[Log, Stream, list[bytes]]:
    """Return clicks of both parts and events of the replayed one, and the lines to be imported.

    The site's own answers are in the history as events that only a server writes: they are in the
    stream to say who asked what, without a line.
    """
    at = world.cut.at
    history: list[bytes] = []
    stream = Stream([], [])
    rows: list[tuple[int, int, int, bool]] = []
    decoder = msgspec.json.Decoder(Event)
    for arrival in world.site.history(world.days + world.live):
        if arrival.received_at < at:
            history.append(arrival.body)
        try:
            event = decoder.decode(arrival.body)
        except msgspec.DecodeError:  # dirt, which the contract refuses
            continue
        is_click = event.type == "click" and event.item_id is not None
        if arrival.received_at >= at:
            fields = {k: v for k, v in json.loads(arrival.body).items() if k != "received_at"}
            line = json.dumps(fields).encode()
            receipt = Receipt(arrival.received_at, encoding="ndjson")
            if event.type != "answer" and not check_body(line, receipt, RoutePlan())[0]:
                continue  # dirt too
            stream.lines.append(None if event.type == "answer" else line)
            stream.events.append(event)
        elif not is_click:
            continue
        item = int((event.item_id or "i-1")[1:]) if is_click else -1
        rows.append((arrival.received_at, _visitor(event), item, is_click))
    ts, person, item, valid = (np.array(column) for column in zip(*rows, strict=True))
    people = np.array([f"{code}" for code in range(world.site.users.count)])
    items = np.array([f"i{code:05d}" for code in range(world.site.items.count)])
    first = int(np.searchsorted(ts, at))
    log = Log(ts, person, np.full(len(ts), -1), item, valid, people, items, first, world.cut)
    return log, stream, history


def _visitor(event: Event) -> int:
    """Return the site's number of an event's user, -1 for its crawler and for profiles."""
    name = event.user_id or event.anonymous_id or ""
    return int(name[1:]) if name[1:].isdigit() else -1


def draw_requests(log: Log, stream: Stream, max_questions: int) -> Questions:
    """Return requests of the first page, drawn evenly."""
    request_rows = [
        log.test_from + row
        for row, event in enumerate(stream.events)
        if event is not None and event.answer is not None and event.answer.slot == "home"
    ]
    at = np.array([row for row in request_rows if log.person[row] >= 0])
    at = np.sort(np.random.default_rng(0).choice(at, min(max_questions, len(at)), replace=False))
    return Questions.before(log, at, np.arange(len(at) + 1), np.zeros(len(at), np.int64))


def train(project_facts: dict[str, Any], root: Path, seed: int, quick: bool) -> dict[str, Any]:
    """Train in a copy of the imported project, as of the end of the log."""
    project.copy_project(Path(project_facts["root"]), root)
    extra = ["--as-of", "latest", *(["--quick"] if quick else [])]
    return project.train(project_facts, root, seed, extra)


def serve(root: Path, stream: Stream, log: Log, questions: Questions, seed: int) -> Arrays:
    """Replay in a copy of the trained project."""
    live = root.parent / "live"
    project.copy_project(root, live)
    return served_arrays(replay(live, stream, log, questions, seed), stream.refused)


def compute_rewards(world: World, log: Log, questions: Questions) -> dict[str, Floats]:
    """Return the true reward of each question's list by baselines, oracle and learners."""
    rows, queries = find_rows(log, questions, hide=False)
    baseline_rewards = {
        name: true_reward(world, log, questions, candidate_lists)
        for name, candidate_lists in {
            **list_popular_items(rows, queries),
            **list_own_items(rows, queries),
        }.items()
    }
    user, day = log.person[questions.asker], _days(world, questions)
    candidate_lists = [world.site.items.list_available(float(t)) for t in day]
    offsets = np.concatenate(([0], np.cumsum([len(each) for each in candidate_lists]))).astype(
        np.int64
    )
    item = np.concatenate(candidate_lists)
    scores = oracle_scores(world.site, user, item, day, offsets)
    scores = {ORACLE: scores[ORACLE]} | score_learners(world, user, day, candidate_lists)
    rewards = {
        name: true_rewards(
            site=world.site, user=user, item=item, day=day, offsets=offsets, score=each
        )
        for name, each in scores.items()
    }
    return baseline_rewards | rewards


def score_learners(world: World, user: Ints, day: Floats, lists: list[Ints]) -> dict[str, Floats]:
    """Return scores that know all but the person, without and with a log as long as ours."""
    views, searches, _, _ = learnable.simulate_days(world.site, world.days + world.live)
    taste_by_learner = {
        "kind": learnable.unknown_taste(world.site, user),
        LEARNER: learnable.infer_taste(world.site, views, searches, user, day),
    }
    weights = (REWARD.click, REWARD.purchase)
    return {
        name: np.concatenate(
            [
                learnable.expected_reward(
                    world.site, taste, row, user[row], day[row], items, weights
                )
                for row, items in enumerate(lists)
            ]
        )
        for name, taste in taste_by_learner.items()
    }


def _days(world: World, questions: Questions) -> Floats:
    return (questions.now - world.site.start) / DAY


def true_reward(world: World, log: Log, questions: Questions, lists: Ints) -> Floats:
    """Return the true expected reward of each list's first items."""
    shown = [log.items[row[row >= 0]].tolist() for row in np.asarray(lists)[:, : REWARD.size]]
    users = log.person[questions.asker].tolist()
    return world.site.truth.expected(users, shown, questions.now.tolist()).reward(REWARD_WEIGHTS)


def compare(
    world: World,
    log: Log,
    questions: Questions,
    served: Mapping[int, Arrays],
    reference_rewards: Arrays,
) -> dict[str, Any]:
    """Return true rewards, and shares of what oracle and learner gain over `clicked_7d`."""
    rewards_by_seed = [
        true_reward(world, log, questions, each["lists"]) for each in served.values()
    ]
    is_in_arm = np.mean([each["arms"] == "model" for each in served.values()], axis=0) > 0.5
    rewards = {OURS: np.mean(rewards_by_seed, axis=0), **reference_rewards}
    resampling = Resampling.of(log.people[log.person[questions.asker]])
    results = {
        name: _reward_and_shares(resampling, each, rewards) for name, each in rewards.items()
    }
    if is_in_arm.any():  # arms are by person, so that their people are others
        part = Resampling.of(log.people[log.person[questions.asker[is_in_arm]]])
        rewards_in_arm = {name: each[is_in_arm] for name, each in rewards.items()}
        results[f"{OURS}_in_arm_model"] = _reward_and_shares(
            part, rewards_in_arm[OURS], rewards_in_arm
        )
    gains = {
        name: with_interval("reward", *resampling.mean(rewards[OURS] - each))
        for name, each in reference_rewards.items()
    }
    return {"results": results, "gains": gains}


def _reward_and_shares(
    resampling: Resampling, rewards_of_entry: Floats, rewards: Mapping[str, Floats]
) -> dict[str, float]:
    figures = with_interval("reward", *resampling.mean(rewards_of_entry))
    for best in (ORACLE, LEARNER):
        gain, possible_gain = rewards_of_entry - rewards[POPULAR], rewards[best] - rewards[POPULAR]
        figures |= with_interval(f"share_of_{best}", *resampling.ratio(gain, possible_gain))
    return figures
