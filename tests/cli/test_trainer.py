"""The trainer role on a small lake and a registry: when it looks, from when on, and how often it
tries again.
"""

from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
from deltalake import write_deltalake

from tailorbird.config.contract_file import EventContract
from tailorbird.config.paths import Paths
from tailorbird.config.settings import Settings
from tailorbird.config.training_settings import TrainSection
from tailorbird.errors import NotReadyError
from tailorbird.events import DAY, HOUR, MINUTE, SimulatedClock, to_iso
from tailorbird.events.contract.schema import ROUTED
from tailorbird.experiments import Experiment
from tailorbird.experiments.counts import COLUMNS
from tailorbird.lake import Lake
from tailorbird.lake.tables import TABLES
from tailorbird.platform.drift import find_drift
from tailorbird.platform.monitoring import FiguresTask, read_status
from tailorbird.platform.notify import collect_messages
from tailorbird.platform.runtime import trainer
from tailorbird.platform.runtime.overdue import read_overdue
from tailorbird.ranking import Slot
from tailorbird.registry import Manifest, Registry, seal

LIVE = 1_790_553_600_000_000  # midnight: the first answer of the champion
ITEMS = list("abcdefgh")
SLOT = Slot("home", experiment=Experiment("test", arms={"popular": 0.5, "model": 0.5}))
GOOD, FALLEN = {"popular": 0.06, "model": 0.12}, {"popular": 0.06, "model": 0.03}


def add(registry, folder, by, slot="home", created_at=0):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.bin").write_bytes(b"weights")
    seal(
        folder, Manifest(created_at=created_at, schema_hash="s", metrics={"about": {"slot": slot}})
    )
    return registry.add(folder, by=by, why="test")


def traffic(rates_by_day, model, start=LIVE, people=100, seed=0):
    """Each person gets an answer every six hours, sees all of it and clicks at its arm's rate."""
    rng = np.random.default_rng(seed)
    rows = []
    for day, rates in enumerate(rates_by_day):
        for hour in range(0, 24, 6):
            for arm, rate in rates.items():
                for person in range(people):
                    ts = start + day * DAY + hour * HOUR + person * 1_000_000
                    request = f"{start}-{day}-{hour}-{arm}-{person}"
                    base = {
                        "person": f"{arm}{person}",
                        "agent": "person",
                        "slot": "home",
                        "experiment": "test",
                        "arm": arm,
                    }
                    base |= {"request_id": request, "model": model}
                    rows += [base | {"type": "answer", "ts": ts, "items": ITEMS}]
                    rows += [base | {"type": "impression", "ts": ts + 1, "items": ITEMS}]
                    for place in np.flatnonzero(rng.random(len(ITEMS)) < rate).tolist():
                        rows.append(
                            base
                            | {
                                "type": "click",
                                "ts": ts + 2,
                                "item_id": ITEMS[place],
                                "position": place + 1,
                            }
                        )
    return rows


def write(lake, rows):
    columns = {
        field.name: pa.array([row.get(field.name) for row in rows], field.type) for field in ROUTED
    }
    days = pa.array([row["ts"] // DAY for row in rows], pa.int32()).cast(pa.date32())
    table = pa.table(columns).append_column("day", days)
    write_deltalake(
        lake / "events", table, partition_by=[TABLES["events"].partition_column], mode="append"
    )


class Shop:
    """A project with a champion that was promoted at a given time, and a training that only notes
    that it was called.
    """

    def __init__(self, folder, monkeypatch, promoted_at=LIVE - HOUR, every="1d"):
        self.folder, self.trained = folder, []
        settings = Settings(train=TrainSection(slot="home", every=every))
        self.project = SimpleNamespace(
            paths=Paths(folder),
            settings=settings,
            slots={"home": SLOT, "search": Slot("search")},
            features=SimpleNamespace(numeric=[], categorical=[], schema_hash=""),
            churn={},
            event_contract=EventContract(),
        )
        registry = Registry(folder / "registry", clock=SimulatedClock(promoted_at))
        self.champion = add(registry, folder / "new", "train")
        registry.promote(self.champion, by="train", why="test")
        monkeypatch.setattr(trainer, "train_once", self._train)

    def _train(self, project, clock, slot, *, since=None, promote=False, by, incremental):
        version = add(
            Registry(project.paths.registry, clock=clock),
            self.folder / "new",
            by,
            slot,
            clock.now(),
        )
        self.trained.append(clock.now())
        self.since = since
        return trainer.TrainOutcome(version, self.champion, False, "refused by the gate", None, {})

    def write(self, rows):
        write(self.project.paths.lake, rows)

    def check(self, now):
        return trainer.retrain_on_fall(self.project, SimulatedClock(now), SLOT)

    def renew(self, now):
        return trainer.retrain_on_schedule(self.project, SimulatedClock(now), SLOT)

    def check_repeatedly(self, begin, end, every=HOUR):
        for now in range(begin, end, every):
            self.check(now)


@pytest.fixture
def shop(tmp_path, monkeypatch):
    return Shop(tmp_path, monkeypatch)


def test_a_fallen_model_is_retrained_on_newer_data(shop):
    shop.write(traffic([GOOD] * 3 + [FALLEN] * 3, shop.champion))
    outcome = shop.check(LIVE + 6 * DAY)
    assert outcome is not None
    assert abs(shop.since - (LIVE + 3 * DAY)) <= 12 * HOUR
    shop.check(LIVE + 6 * DAY + HOUR)
    audit = Registry(shop.project.paths.registry, clock=SimulatedClock(LIVE)).audit()
    (fall,) = [entry for entry in audit if entry.action == "fall"]
    assert (fall.version, fall.by) == (shop.champion, "trainer")
    assert "more than chance allows. Likely cause: change of taste, " in fall.why


def test_a_fall_is_an_episode_and_a_message_until_another_model_takes_over(shop, tmp_path):
    shop.write(traffic([GOOD] * 3 + [FALLEN] * 3, shop.champion))
    shop.check(LIVE + 6 * DAY)
    clock = SimulatedClock(LIVE + 6 * DAY + HOUR)
    (message,) = collect_messages(shop.project, clock)
    assert (message.kind, message.cause) == ("drift", "change of taste")
    assert "lift of model over popular" in message.body
    assert "docs/operate/taste.md" in message.body
    (row,) = find_drift(shop.project, clock).episodes
    assert (row.cause, row.until) == (message.cause, "")
    assert to_iso(LIVE + 3 * DAY)[:10] in row.since
    registry = Registry(shop.project.paths.registry, clock=clock)
    registry.promote(add(registry, tmp_path / "new", "trainer"), by="trainer", why="test")
    assert collect_messages(shop.project, clock) == []
    (row,) = find_drift(shop.project, clock).episodes
    assert row.until == to_iso(clock.now())[:16] + "Z"


def test_a_model_that_keeps_its_lift_is_left_alone(shop):
    shop.write(traffic([GOOD] * 6, shop.champion))
    assert shop.check(LIVE + 6 * DAY) is None
    assert shop.trained == []


def test_the_reference_covers_live_traffic_where_the_promotion_was_simulated_long_ago(
    tmp_path, monkeypatch
):
    shop = Shop(tmp_path, monkeypatch, promoted_at=LIVE - 300 * DAY)
    history = traffic([FALLEN], "another-model", start=LIVE - 300 * DAY, people=10)
    shop.write(history + traffic([GOOD] * 3 + [FALLEN] * 3, shop.champion))
    assert shop.check(LIVE + 6 * DAY) is not None


def test_without_an_answer_of_the_champion_there_is_nothing_to_judge(shop):
    shop.write(traffic([GOOD] * 3 + [FALLEN] * 3, "another-model", people=30))
    assert shop.check(LIVE + 6 * DAY) is None


def test_the_last_promotion_in_the_log_counts_regardless_of_its_time(tmp_path, monkeypatch):
    shop = Shop(tmp_path, monkeypatch, promoted_at=LIVE + 100 * DAY)
    registry = Registry(shop.project.paths.registry, clock=SimulatedClock(LIVE - DAY))
    shop.champion = add(registry, tmp_path / "new", "train")
    registry.promote(shop.champion, by="train", why="as of an earlier day")
    shop.write(traffic([GOOD] * 3 + [FALLEN] * 3, shop.champion))
    assert shop.check(LIVE + 6 * DAY) is not None


def test_a_refused_training_is_not_repeated_at_each_check(shop):
    shop.write(traffic([GOOD] * 3 + [FALLEN] * 3, shop.champion))
    begin = LIVE + 6 * DAY
    shop.check_repeatedly(begin, begin + DAY, every=4 * HOUR)
    assert shop.trained == [begin]
    shop.check(begin + DAY)
    assert shop.trained == [begin, begin + DAY]


def test_a_quarter_more_traffic_is_reason_enough_to_try_again(shop):
    shop.write(traffic([GOOD] * 3 + [FALLEN] * 3, shop.champion))
    begin = LIVE + 6 * DAY
    shop.check(begin)
    crowd = [
        row
        for row in traffic([FALLEN], shop.champion, start=begin, people=400, seed=1)
        if row["ts"] < begin + 6 * HOUR
    ]
    shop.write(crowd)
    shop.check(begin + 3 * HOUR)
    assert shop.trained == [begin, begin + 3 * HOUR]


def test_manual_trainings_do_not_delay_the_role(shop, tmp_path):
    shop.write(traffic([GOOD] * 3 + [FALLEN] * 3, shop.champion))
    registry = Registry(shop.project.paths.registry, clock=SimulatedClock(LIVE + 6 * DAY - HOUR))
    add(registry, tmp_path / "new", "train")
    add(registry, tmp_path / "new", "trainer", slot="search")
    assert shop.check(LIVE + 6 * DAY) is not None


def test_only_the_columns_that_are_needed_are_read(shop, monkeypatch):
    requested_columns = []
    events = Lake.events
    monkeypatch.setattr(
        Lake,
        "events",
        lambda self, columns=None, **span: (
            requested_columns.append(columns) or events(self, columns, **span)
        ),
    )
    shop.write(traffic([GOOD] * 3, shop.champion, people=20))
    shop.check(LIVE + 3 * DAY)
    assert len(requested_columns) == 2
    assert all(
        columns is not None and set(columns) <= {*COLUMNS, "model"} for columns in requested_columns
    )


@pytest.fixture
def scheduled(tmp_path, monkeypatch):
    """A model that was trained when the traffic began, and two days of traffic."""
    shop = Shop(tmp_path, monkeypatch)
    add(
        Registry(tmp_path / "registry", clock=SimulatedClock(LIVE)),
        tmp_path / "new",
        "train",
        created_at=LIVE,
    )
    shop.write(traffic([GOOD] * 2, shop.champion, people=5))
    return shop


def test_a_model_is_retrained_on_schedule_regardless_of_metrics(scheduled):
    assert scheduled.renew(LIVE + DAY - HOUR) is None
    outcome = scheduled.renew(LIVE + DAY)
    assert outcome is not None
    assert scheduled.since is None, "on the whole window"
    assert scheduled.renew(LIVE + DAY + HOUR) is None, (
        "the one that was just trained is the newest, though the gate refused it"
    )
    assert scheduled.trained == [LIVE + DAY]


def test_a_cron_expression_says_when_to_retrain(tmp_path, monkeypatch):
    pytest.importorskip("cronsim", reason="no cronsim here")
    shop = Shop(tmp_path, monkeypatch, every="30 3 * * *")
    registry = Registry(tmp_path / "registry", clock=SimulatedClock(LIVE))
    add(registry, tmp_path / "new", "train", created_at=LIVE + 4 * HOUR)
    shop.write(traffic([GOOD] * 2, shop.champion, people=5))
    assert shop.renew(LIVE + DAY + 3 * HOUR) is None, "04:00 to 03:00"
    assert shop.renew(LIVE + DAY + 4 * HOUR) is not None
    assert shop.renew(LIVE + DAY + 5 * HOUR) is None, "once a day"


def test_without_new_events_there_is_nothing_to_train_on(scheduled):
    scheduled.renew(LIVE + 3 * DAY)
    assert scheduled.trained == [LIVE + 3 * DAY]
    assert scheduled.renew(LIVE + 9 * DAY) is None, "traffic ended two days in"


def test_a_training_that_cannot_run_is_told_once_and_everywhere(scheduled, monkeypatch, caplog):
    project, train_once = scheduled.project, trainer.train_once

    def fail(*args, **kwargs):
        count = next(counts)
        raise NotReadyError(f"what came of the {count} choices is not known yet", fix="wait")

    counts = iter(range(100, 200))
    monkeypatch.setattr(trainer, "train_once", fail)
    for hours in (0, 1):
        with pytest.raises(NotReadyError):
            scheduled.renew(LIVE + DAY + hours * HOUR)
    (warning,) = [each for each in caplog.records if each.levelname == "WARNING"]
    since = "training of home: due since 2026-09-29T00:00Z, could not: what came of the 10"
    assert warning.getMessage().startswith(since)
    clock = SimulatedClock(LIVE + DAY + HOUR)
    assert [line for line in read_status(project, clock).lines if f"to do: {since}1" in line]
    (message,) = collect_messages(project, clock)
    assert (message.title, message.repeats) == ("shop: the training of home could not run", True)
    assert FiguresTask(project, clock).overdue_slots() == ["home"]
    monkeypatch.setattr(trainer, "train_once", train_once)
    scheduled.renew(LIVE + DAY + 2 * HOUR)
    assert FiguresTask(project, clock).overdue_slots() == []


def test_a_schedule_without_a_first_model_is_told(tmp_path, monkeypatch):
    shop = Shop(tmp_path, monkeypatch)
    shop.write(traffic([GOOD] * 2, shop.champion, people=5))
    clock = SimulatedClock(LIVE + DAY)
    assert trainer.retrain_on_schedule(shop.project, clock, Slot("search")) is None
    (entry,) = read_overdue(shop.project, clock)
    assert "none was trained yet" in entry.why
    assert entry.fix == "tailorbird train search"


def test_nothing_is_trained_before_the_first_training_or_without_a_schedule(tmp_path, monkeypatch):
    """The first training is a user's; what other slots' models are like does not matter."""
    never = Shop(tmp_path / "never", monkeypatch, every="")
    never.write(traffic([GOOD] * 2, never.champion, people=5))
    assert never.renew(LIVE + 99 * DAY) is None
    first = Shop(tmp_path / "first", monkeypatch)
    registry = Registry(first.project.paths.registry, clock=SimulatedClock(LIVE))
    assert (
        trainer.retrain_on_schedule(first.project, SimulatedClock(LIVE + 9 * DAY), Slot("search"))
        is None
    )
    first.write(traffic([GOOD] * 2, first.champion, people=5))
    add(registry, tmp_path / "new", "train", slot="search", created_at=LIVE + 99 * DAY)
    assert first.renew(LIVE + DAY) is not None, "the newest of this slot was trained long before"


def test_the_role_retrains_train_slot_and_a_fall_has_priority(scheduled, monkeypatch):
    renewed, fallen = [], {"search"}
    monkeypatch.setattr(trainer, "with_applied_features", lambda project: project)
    monkeypatch.setattr(trainer, "advance_rollout_safely", lambda project, clock: None)
    monkeypatch.setattr(
        trainer,
        "retrain_on_fall",
        lambda project, clock, slot: object() if slot.name in fallen else None,
    )
    monkeypatch.setattr(
        trainer, "retrain_on_schedule", lambda project, clock, slot: renewed.append(slot.name)
    )
    stop_answers = iter([False, True])
    stop = SimpleNamespace(wait=lambda seconds: next(stop_answers))
    trainer.run_trainer(scheduled.project, SimulatedClock(LIVE), stop)
    assert renewed == ["home"], "train.slot, once at each look"
    fallen.add("home")
    stop_answers = iter([False, True])
    trainer.run_trainer(scheduled.project, SimulatedClock(LIVE), stop)
    assert renewed == ["home"], "it was trained for its fall just now"


def test_the_role_checks_soon_after_its_start_and_when_a_training_is_due(scheduled, monkeypatch):
    """A training of `train.every` does not wait for the end of `train.check_every`, an hour."""
    monkeypatch.setattr(trainer, "with_applied_features", lambda project: project)
    monkeypatch.setattr(trainer, "advance_rollout_safely", lambda project, clock: None)
    waits, stop_answers = [], iter([False, True])

    def wait(seconds):
        waits.append(seconds)
        return next(stop_answers)

    clock = SimulatedClock(LIVE + DAY - 10 * MINUTE)
    trainer.run_trainer(scheduled.project, clock, SimpleNamespace(wait=wait))
    assert waits == [60, 600]
    assert not scheduled.trained
